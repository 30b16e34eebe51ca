// Owns: PyTorch checkpoints, the zip files that torch.save writes since 1.6: `NAME/data.pkl`, a pickle of the state
// dict, and `NAME/data/KEY`, the bytes of each storage. Read by mapping; nothing in them is executed.
// Must not know: models and tensor types.
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/io/entry.hpp>
#include <meft/io/file.hpp>
#include <meft/io/index.hpp>
#include <meft/io/json.hpp>
#include <meft/io/pickle.hpp>
#include <meft/io/zip.hpp>

namespace meft::io {

namespace detail {

constexpr std::size_t max_pickle_bytes = std::size_t{64} << 20;
constexpr std::size_t max_index_bytes = 100'000'000;

/// One file, mapped and checked.
struct TorchFile {
  Zip zip;
  std::map<std::string, Entry, std::less<>> entries;
};

/// The tensors of one zip file.
class TorchReader {
 public:
  TorchReader(const Zip& zip, Where where)
      : zip_(zip), where_(where), what_("pytorch: " + zip.path()), folder_(find_folder()) {}

  std::map<std::string, Entry, std::less<>> entries() {
    const std::string pickle_name = folder_ + "/data.pkl", order_name = folder_ + "/byteorder";
    const auto pickle_bytes = zip_.find(pickle_name)->bytes;
    require(pickle_bytes.size() <= max_pickle_bytes, {what_ + ": data.pkl has " + std::to_string(pickle_bytes.size()) +
                                                          " bytes, at most " + std::to_string(max_pickle_bytes),
                                                      where_});
    zip_.check(pickle_name, where_);
    if (const auto* order = zip_.find(order_name)) {
      zip_.check(order_name, where_);
      const std::string_view text(reinterpret_cast<const char*>(order->bytes.data()), order->bytes.size());
      require(text == "little", {what_ + ": byteorder is " + show_name(text) + ", expected 'little'", where_});
    }
    const Pickle pickle(pickle_bytes, what_ + ": data.pkl", where_);
    pickle_ = &pickle;
    const PickleValue* dict = &pickle.root();
    const auto is_dict = [](const PickleValue* value) { return value && value->kind == PickleValue::Kind::dict; };
    require(is_dict(dict), {what_ + ": holds " + show(*dict) + ", expected a state dict", where_});
    if (const auto* inner = pickle.find(*dict, "state_dict"); is_dict(inner)) dict = inner;
    std::map<std::string, Entry, std::less<>> out;
    for (std::size_t i = 0; i < dict->items.size(); i += 2) {
      const auto &key = pickle.at(dict->items[i]), &value = pickle.at(dict->items[i + 1]);
      require(key.kind == PickleValue::Kind::text,
              {what_ + ": the state dict has the key " + show(key) + ", expected a text", where_});
      const std::string which = what_ + ": tensor " + show_name(key.text);
      if (value.kind != PickleValue::Kind::tensor)
        fail({which + ": is " + show(value) + ", expected a tensor" +
                  (is_dict(&value) ? "; of nested dicts only `state_dict` is looked into" : ""),
              where_});
      out.emplace(std::string(key.text), entry(std::string(key.text), value, which));
    }
    return out;
  }

 private:
  /// The folder that the zip file has at its top.
  std::string find_folder() const {
    std::optional<std::string> out;
    for (const auto& [name, entry] : zip_.entries()) {
      const auto slash = name.find('/');
      if (slash == name.npos || name.substr(slash) != "/data.pkl") continue;
      require(!out, {what_ + ": two entries are called data.pkl", where_});
      out = name.substr(0, slash);
    }
    require(out.has_value(), {what_ + ": no entry NAME/data.pkl: not a file that torch.save wrote", where_});
    return *out;
  }

  std::vector<std::int64_t> sizes(std::uint32_t place) const {
    std::vector<std::int64_t> out;
    for (const auto item : pickle_->at(place).items) out.push_back(pickle_->at(item).integer);
    return out;
  }

  Entry entry(std::string name, const PickleValue& tensor, const std::string& which) {
    const auto& storage = pickle_->at(tensor.items[0]);
    const auto offset = pickle_->at(tensor.items[1]).integer;
    Entry out{std::move(name),
              std::string(find_global(pickle_->at(storage.items[0]).text)->dtype),
              sizes(tensor.items[2]),
              {},
              zip_.path()};
    const auto strides = sizes(tensor.items[3]);
    const std::size_t unit = dtype_bytes(out.dtype), bytes = checked_bytes(out.dtype, out.shape, which, where_);
    require(is_row_major(out.shape, strides, which),
            {which + ": strides " + shape_text(strides) + " of shape " + shape_text(out.shape) +
                 " are not row-major (a transposed or overlapping view); save it after .contiguous()",
             where_});
    const auto all = storage_bytes(storage, out.dtype, which);
    const std::size_t held = all.size() / unit, count = bytes / unit;
    const bool fits =
        offset >= 0 && static_cast<std::uint64_t>(offset) <= held && count <= held - static_cast<std::size_t>(offset);
    require(fits, {which + ": " + std::to_string(count) + " elements from " + std::to_string(offset) +
                       " on, but the storage has " + std::to_string(held),
                   where_});
    out.bytes = all.subspan(static_cast<std::size_t>(offset) * unit, bytes);
    return out;
  }

  /// Strides of dimensions of one element, and of tensors without elements, mean nothing.
  bool is_row_major(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides,
                    const std::string& which) const {
    require(
        shape.size() == strides.size(),
        {which + ": shape " + shape_text(shape) + " and strides " + shape_text(strides) + " differ in length", where_});
    for (const auto stride : strides)
      require(stride >= 0, {which + ": negative stride in " + shape_text(strides), where_});
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return true;
    std::int64_t expected = 1;
    for (std::size_t i = shape.size(); i-- > 0; expected *= shape[i])
      if (shape[i] != 1 && strides[i] != expected) return false;
    return true;
  }

  /// All of a storage; tensors that share one must agree on what it is.
  std::span<const std::byte> storage_bytes(const PickleValue& storage, const std::string& dtype,
                                           const std::string& which) {
    const std::string key(pickle_->at(storage.items[1]).text);
    const auto count = pickle_->at(storage.items[3]).integer;
    const auto& first = storages_.emplace(key, std::pair(dtype, count)).first->second;
    require(first == std::pair(dtype, count),
            {which + ": storage " + show_name(key) + " is " + std::to_string(count) + " of " + dtype + " here, " +
                 std::to_string(first.second) + " of " + first.first + " before",
             where_});
    const auto* entry = zip_.find(folder_ + "/data/" + key);
    require(entry, {which + ": there is no entry for storage " + show_name(key), where_});
    require(entry->bytes.size() % dtype_bytes(dtype) == 0 &&
                entry->bytes.size() / dtype_bytes(dtype) == static_cast<std::uint64_t>(count),
            {which + ": storage " + show_name(key) + " has " + std::to_string(entry->bytes.size()) +
                 " bytes, expected " + std::to_string(count) + " elements of " + dtype,
             where_});
    return entry->bytes;
  }

  const Zip& zip_;
  Where where_;
  std::string what_, folder_;
  const Pickle* pickle_ = nullptr;
  std::map<std::string, std::pair<std::string, std::int64_t>> storages_;
};

inline TorchFile read_torch(const std::string& path, Where where) {
  MappedFile file(path, where);
  // A pickled magic number begins the files of torch.save before 1.6, or with _use_new_zipfile_serialization=False.
  constexpr unsigned char legacy[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50};
  if (file.bytes().size() >= sizeof legacy && std::memcmp(file.bytes().data(), legacy, sizeof legacy) == 0)
    fail({"pytorch: " + path + ": is in the format of PyTorch before 1.6, which is not supported; convert it with " +
              "`torch.save(torch.load(path, weights_only=True), path)`",
          where});
  TorchFile out{Zip(std::move(file), where), {}};
  out.entries = TorchReader(out.zip, where).entries();
  return out;
}

}  // namespace detail

/// The tensors of a file of torch.save, a Hugging Face folder (pytorch_model.bin, else pytorch_model.bin.index.json),
/// or an …index.json with its shards beside it. A file holds a state dict, plain or under `state_dict`, of row-major
/// tensors of F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL; tensors may share a storage. Nothing is copied. The
/// constructor checks everything but the CRCs of storages, for which the whole file would be read (see verify()), and
/// throws Error naming the file, and the tensor where there is one. In a sharded model the tensors are those of the
/// index.
class Pytorch {
 public:
  explicit Pytorch(std::string path, Where where = Where::current()) : path_(std::move(path)) {
    struct stat info {};
    if (::stat(path_.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
      const std::string whole = path_ + "/pytorch_model.bin", index = whole + ".index.json";
      if (!is_there(whole) && !is_there(index))
        fail({"pytorch: " + path_ + ": neither pytorch_model.bin nor pytorch_model.bin.index.json is there", where});
      path_ = is_there(whole) ? whole : index;
    }
    if (path_.ends_with(".json")) {
      open_index(where);
    } else {
      auto file = detail::read_torch(path_, where);
      files_.push_back(std::move(file.zip));
      entries_ = std::move(file.entries);
    }
  }

  /// The file that was opened: for a folder, the one found in it.
  const std::string& path() const { return path_; }
  std::size_t size() const { return entries_.size(); }
  bool contains(std::string_view name) const { return entries_.find(name) != entries_.end(); }

  /// All names, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& [name, entry] : entries_) out.push_back(name);
    return out;
  }

  /// Throws Error when there is no such tensor, or a file has changed since it was opened. The entry lives as long as
  /// this object.
  const Entry& find(std::string_view name, Where where = Where::current()) const {
    const auto at = entries_.find(name);
    if (at == entries_.end())
      fail({"pytorch: " + path_ + ": no tensor " + show_name(name) + " among " + std::to_string(size()), where});
    for (const auto& zip : files_) zip.file().require_unchanged(where);
    return at->second;
  }

  /// Gives the memory of what was read so far back; a tensor comes from its file again when it is looked at.
  void forget() const {
    for (const auto& zip : files_) zip.file().forget();
  }

  /// Reads every entry of every file and throws Error at the first that does not have its CRC-32.
  void verify(Where where = Where::current()) const {
    for (const auto& zip : files_)
      for (const auto& [name, entry] : zip.entries()) zip.check(name, where);
  }

 private:
  void open_index(Where where) {
    const std::string what = "pytorch: " + path_;
    const auto index = read_json(path_, detail::max_index_bytes, where);
    for (const auto& [file, names] : detail::read_weight_map(index, what, where)) {
      auto shard = detail::read_torch(detail::folder_of(path_) + "/" + file, where);
      for (const auto& name : names) {
        const auto at = shard.entries.find(name);
        if (at == shard.entries.end())
          fail({what + ": weight_map puts tensor " + show_name(name) + " in " + shard.zip.path() + ", which lacks it",
                where});
        entries_.insert(shard.entries.extract(at));
      }
      files_.push_back(std::move(shard.zip));
    }
  }

  std::string path_;
  std::vector<Zip> files_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace meft::io
