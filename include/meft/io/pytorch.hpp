// Owns: PyTorch checkpoints: the zip files that torch.save writes since 1.6 (`NAME/data.pkl`, a pickle of the state
// dict, and `NAME/data/KEY`, the bytes of each storage), and older ones. Read by mapping; nothing in them is executed.
// Must not know: models and tensor types.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/io/entry.hpp>
#include <meft/io/file.hpp>
#include <meft/io/foreign.hpp>
#include <meft/io/json.hpp>
#include <meft/io/pickle.hpp>
#include <meft/io/pytorch_legacy.hpp>
#include <meft/io/state_dict.hpp>
#include <meft/io/tensors.hpp>
#include <meft/io/zip.hpp>

namespace meft::io {

namespace detail {

inline constexpr std::size_t max_index_bytes = 100'000'000;

/// One file, mapped and checked: a zip, or plain.
struct TorchFile {
  std::optional<Zip> zip{};
  MappedFile plain{};
  MadeBytes made{};
  Tensors::Entries entries{};

  const MappedFile& file() const { return zip ? zip->file() : plain; }
};

/// The pickle and the storages of a zip file.
inline Tensors::Entries read_torch_zip(const Zip& zip, MadeBytes& made, Where where) {
  const std::string what = "pytorch: " + zip.path();
  std::optional<std::string> folder;  // that it has at its top
  for (const auto& [name, entry] : zip.entries()) {
    const auto slash = name.find('/');
    if (slash == name.npos || name.substr(slash) != "/data.pkl") continue;
    require(!folder, {what + ": two entries are called data.pkl", where});
    folder = name.substr(0, slash);
  }
  require(folder.has_value(), {what + ": no entry NAME/data.pkl: not a file that torch.save wrote", where});
  if (zip.find(*folder + "/constants.pkl"))
    fail({what + ": is a TorchScript program, which holds code: expected a state dict; save it with " +
              "`torch.save(torch.jit.load(path).state_dict(), path)`",
          where});
  const std::string pickle_name = *folder + "/data.pkl", order_name = *folder + "/byteorder";
  const auto pickle_bytes = zip.find(pickle_name)->bytes;
  check_pickle_size(pickle_bytes.size(), what + ": data.pkl", where);
  zip.check(pickle_name, where);
  if (const auto* order = zip.find(order_name)) {
    zip.check(order_name, where);
    const std::string_view text(reinterpret_cast<const char*>(order->bytes.data()), order->bytes.size());
    require(text == "little", {what + ": byteorder is " + show_name(text) + ", expected 'little'", where});
  }
  Storages storages;
  const std::string data = *folder + "/data/";
  for (const auto& [name, entry] : zip.entries())
    if (name.starts_with(data)) storages.emplace(name.substr(data.size()), entry.bytes);
  return StateDict(Pickle(pickle_bytes, what + ": data.pkl", where), storages, zip.path(), made, where).entries();
}

/// Whether a header's length and its first byte are in front.
inline bool is_safetensors(std::span<const std::byte> bytes) {
  std::uint64_t length = 0;
  if (bytes.size() < 10) return false;
  std::memcpy(&length, bytes.data(), 8);
  return length <= bytes.size() - 8 && bytes[8] == std::byte{'{'};
}

inline TorchFile read_torch(const std::string& path, Where where) {
  TorchFile out{.plain = MappedFile(path, where)};
  refuse_foreign(path, out.plain.bytes(), where);
  if (is_legacy_torch(out.plain.bytes())) {
    out.entries = read_legacy_torch(out.plain, out.made, where);
    return out;
  }
  if (is_safetensors(out.plain.bytes()))
    fail({"pytorch: " + path + ": is a safetensors file: call it model.safetensors", where});
  const auto begin = out.plain.bytes().first(std::min<std::size_t>(out.plain.bytes().size(), 2));
  if (begin.size() == 2 && begin[0] == std::byte{0x80} && begin[1] <= std::byte{5})
    fail({"pytorch: " + path + ": is a bare pickle, not a file that torch.save wrote", where});
  out.zip.emplace(std::move(out.plain), where);
  out.entries = read_torch_zip(*out.zip, out.made, where);
  return out;
}

}  // namespace detail

/// The tensors of a file of torch.save, a Hugging Face folder (pytorch_model.bin, else pytorch_model.bin.index.json),
/// or an …index.json with its shards beside it. A file holds a state dict, plain or under `state_dict` (or `model` and
/// the like), of tensors of F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL, which may share a storage. Nothing is
/// copied but those whose dimensions lie in another order, as of a transposed matrix. The constructor checks everything
/// but the CRCs of storages, for which the whole file would be read (see verify()), and throws Error naming the file,
/// and the tensor where there is one. In a sharded model the tensors are those of the index.
class Pytorch final : public Tensors {
 public:
  explicit Pytorch(std::string path, Where where = Where::current()) : Tensors("pytorch", std::move(path)) {
    look_into_folder("pytorch_model.bin", where);
    const auto opened = [&](const std::string& file) {
      files_.push_back(detail::read_torch(file, where));
      return std::move(files_.back().entries);
    };
    if (path_.ends_with(".json")) add_shards(read_json(path_, detail::max_index_bytes, where), opened, where);
    else entries_ = opened(path_);
  }

  void forget() const override {
    for (const auto& file : files_) file.file().forget();
  }
  void require_unchanged(Where where) const override {
    for (const auto& file : files_) file.file().require_unchanged(where);
  }

  /// Reads every entry of every file and throws Error at the first that does not have its CRC-32. Files of before 1.6
  /// have none.
  void verify(Where where = Where::current()) const {
    for (const auto& file : files_)
      if (file.zip)
        for (const auto& [name, entry] : file.zip->entries()) file.zip->check(name, where);
  }

 private:
  std::vector<detail::TorchFile> files_;
};

}  // namespace meft::io
