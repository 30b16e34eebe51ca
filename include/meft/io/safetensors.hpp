// Owns: the safetensors format, read by mapping and written atomically. A file is an 8-byte little-endian header
// length, a JSON header (name -> dtype, shape, data_offsets), and the tensors' bytes without gaps.
// https://github.com/huggingface/safetensors#format. Must not know: models and tensor types.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <set>
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
#include <meft/io/tensors.hpp>

namespace meft::io {

using Metadata = std::map<std::string, std::string>;

/// A tensor to write; the bytes are the caller's.
struct NamedTensor {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

namespace detail {

inline constexpr std::size_t max_header_bytes = 100'000'000;  // the limit of the reference implementation

/// One file, mapped and checked.
struct Shard {
  MappedFile file;
  Tensors::Entries entries;
  Metadata metadata;
};

inline Entry read_entry(const std::string& name, const nlohmann::json& info, std::span<const std::byte> data,
                        const std::string& path, Where where) {
  const std::string what = "safetensors: " + path + ": tensor " + show_name(name);
  const auto field = [&](const char* key, bool good_type(const nlohmann::json&), const char* expected) -> const auto& {
    const bool good = info.is_object() && info.contains(key) && good_type(info[key]);
    require(good, {what + ": expected " + key + " to be " + expected, where});
    return info[key];
  };
  const auto is_sizes = [](const nlohmann::json& list) {
    constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    return list.is_array() && std::all_of(list.begin(), list.end(), [](const nlohmann::json& item) {
             return item.is_number_unsigned() && item.get<std::uint64_t>() <= most;
           });
  };
  const auto is_string = [](const nlohmann::json& value) { return value.is_string(); };
  Entry entry;
  entry.name = name;
  entry.file = path;
  entry.dtype = field("dtype", is_string, "a string").get<std::string>();
  entry.shape = field("shape", is_sizes, "a list of integers from 0 to 2^63 - 1").get<std::vector<std::int64_t>>();
  const auto offsets = field("data_offsets", is_sizes, "a list of two offsets").get<std::vector<std::size_t>>();
  require(offsets.size() == 2, {what + ": expected data_offsets to be a list of two offsets", where});
  const std::size_t begin = offsets[0], end = offsets[1], bytes = checked_bytes(entry.dtype, entry.shape, what, where);
  const std::string place = "data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "]";
  require(begin <= end, {what + ": " + place + " end before they begin", where});
  require(end <= data.size(),
          {what + ": " + place + " exceed the " + std::to_string(data.size()) + " bytes of data in the file", where});
  require(end - begin == bytes,
          {what + ": " + entry.dtype + " of shape " + shape_text(entry.shape) + " takes " + std::to_string(bytes) +
               " bytes, " + place + " hold " + std::to_string(end - begin),
           where});
  entry.bytes = data.subspan(begin, bytes);
  return entry;
}

/// The tensors must cover the data exactly: no overlap, no hole, nothing left over.
inline void check_layout(const Shard& shard, std::span<const std::byte> data, const std::string& what, Where where) {
  std::vector<const Entry*> order;
  for (const auto& [name, entry] : shard.entries) order.push_back(&entry);
  const auto begin = [&](const Entry* entry) { return static_cast<std::size_t>(entry->bytes.data() - data.data()); };
  const auto key = [&](const Entry* entry) { return std::pair(begin(entry), entry->bytes.size()); };
  std::sort(order.begin(), order.end(), [&](const Entry* a, const Entry* b) { return key(a) < key(b); });
  std::size_t end = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::size_t start = begin(order[i]);
    if (start < end) {
      fail({what + ": tensors " + show_name(order[i - 1]->name) + " and " + show_name(order[i]->name) + " overlap",
            where});
    }
    if (start > end) {
      fail({what + ": a hole of " + std::to_string(start - end) + " bytes before tensor " + show_name(order[i]->name),
            where});
    }
    end = start + order[i]->bytes.size();
  }
  require(end == data.size(),
          {what + ": " + std::to_string(data.size() - end) + " bytes follow the last tensor", where});
}

inline Shard read_shard(const std::string& path, Where where) {
  Shard shard{MappedFile(path, where), {}, {}};
  const std::string what = "safetensors: " + path;
  const auto bytes = shard.file.bytes();
  refuse_foreign(path, bytes, where);
  if (bytes.size() > 4 && std::memcmp(bytes.data(), "PK\3\4", 4) == 0)
    fail({what + ": is a zip file, as PyTorch's checkpoints are: call it pytorch_model.bin", where});
  const auto size = std::to_string(bytes.size());
  require(bytes.size() >= 8, {what + ": " + size + " bytes are too few, the header length alone takes 8", where});
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  require(length <= max_header_bytes, {what + ": header length " + std::to_string(length) + " exceeds the limit of " +
                                           std::to_string(max_header_bytes) + " bytes: not a safetensors file?",
                                       where});
  require(length <= bytes.size() - 8,
          {what + ": truncated: header length " + std::to_string(length) + " in a file of " + size + " bytes", where});
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<std::size_t>(length));
  require(header.starts_with('{'), {what + ": the header does not begin with '{': not a safetensors file?", where});
  const auto data = bytes.subspan(8 + header.size());
  const auto tree = parse_unique_json(header, what + ": header", where);
  for (const auto& [name, info] : tree.items()) {
    if (name != "__metadata__") {
      shard.entries.emplace(name, read_entry(name, info, data, path, where));
      continue;
    }
    require(info.is_object(), {what + ": expected __metadata__ to be an object", where});
    for (const auto& [key, value] : info.items()) {
      require(value.is_string(), {what + ": __metadata__: " + show_name(key) + ": expected a string", where});
      shard.metadata.emplace(key, value.get<std::string>());
    }
  }
  check_layout(shard, data, what, where);
  return shard;
}

}  // namespace detail

/// The tensors of a file, a Hugging Face folder (model.safetensors, else model.safetensors.index.json), or an
/// …index.json with its shards beside it. Nothing is copied; everything about the layout is checked before the
/// constructor returns, which throws Error naming the file, and the tensor where there is one. In a sharded model the
/// tensors are those of the index.
class Safetensors final : public Tensors {
 public:
  explicit Safetensors(std::string path, Where where = Where::current()) : Tensors("safetensors", std::move(path)) {
    look_into_folder("model.safetensors", where);
    if (path_.ends_with(".json")) open_index(where);
    else entries_ = opened(path_, where);
  }

  /// `__metadata__` of the header; in a sharded model that of the index, numbers as text, and of the shards.
  const Metadata& metadata() const { return metadata_; }

  void forget() const override {
    for (const auto& file : files_) file.forget();
  }
  void require_unchanged(Where where) const override {
    for (const auto& file : files_) file.require_unchanged(where);
  }

 private:
  void open_index(Where where) {
    const auto index = read_json(path_, detail::max_header_bytes, where);
    if (index.contains("metadata") && index["metadata"].is_object())
      for (const auto& [key, value] : index["metadata"].items())
        metadata_.emplace(key, value.is_string() ? value.get<std::string>() : value.dump());
    add_shards(
        index, [&](const std::string& path) { return opened(path, where); }, where);
  }
  Entries opened(const std::string& path, Where where) {
    auto shard = detail::read_shard(path, where);
    files_.push_back(std::move(shard.file));
    metadata_.merge(shard.metadata);
    return std::move(shard.entries);
  }

  std::vector<MappedFile> files_;
  Metadata metadata_;
};

/// Writes a safetensors file, whole or not at all (AtomicFile). The same tensors in any order give the same bytes: wide
/// dtypes first, then by name, the data at a multiple of 8. Throws Error for a duplicate or reserved name, a name that
/// is not UTF-8, an unknown dtype, or bytes that do not fit the shape.
inline void write_safetensors(const std::string& path, std::vector<NamedTensor> tensors, const Metadata& metadata = {},
                              Where where = Where::current()) {
  const std::string what = "safetensors: " + path;
  std::set<std::string_view> names;
  for (const auto& tensor : tensors) {
    const std::string which = what + ": tensor " + show_name(tensor.name);
    require(tensor.name != "__metadata__", {which + ": the name is reserved", where});
    require(names.insert(tensor.name).second, {which + ": is given twice", where});
    const std::size_t bytes = detail::checked_bytes(tensor.dtype, tensor.shape, which, where);
    require(bytes == tensor.bytes.size(),
            {which + ": " + tensor.dtype + " of shape " + detail::shape_text(tensor.shape) + " takes " +
                 std::to_string(bytes) + " bytes, found " + std::to_string(tensor.bytes.size()),
             where});
  }
  names.clear();  // its views move with the sort
  std::sort(tensors.begin(), tensors.end(), [](const NamedTensor& a, const NamedTensor& b) {
    const std::size_t wide_a = dtype_bytes(a.dtype), wide_b = dtype_bytes(b.dtype);
    return wide_a != wide_b ? wide_a > wide_b : a.name < b.name;
  });
  nlohmann::ordered_json tree = nlohmann::ordered_json::object();
  if (!metadata.empty()) tree["__metadata__"] = metadata;
  std::size_t end = 0;
  for (const auto& tensor : tensors) {
    const std::size_t begin = std::exchange(end, end + tensor.bytes.size());
    tree.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(
        tensor.name,
        nlohmann::ordered_json{{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}});
  }
  std::string header;
  try {
    header = tree.dump();
  } catch (const nlohmann::json::exception&) {
    fail({what + ": a name or the metadata is not UTF-8", where});
  }
  header.append((8 - header.size() % 8) % 8, ' ');
  require(header.size() <= detail::max_header_bytes, {what + ": the header exceeds 100 MB", where});
  const std::uint64_t length = header.size();
  write_atomically(
      path,
      [&](AtomicFile& file) {
        file.write(std::as_bytes(std::span(&length, 1)), where);
        file.write(header, where);
        for (const auto& tensor : tensors) file.write(tensor.bytes, where);
      },
      where);
}

}  // namespace meft::io
