// Owns: the safetensors format, read by mapping and written atomically. A file is an 8-byte little-endian header
// length, a JSON header (name -> dtype, shape, data_offsets), and the tensors' bytes without gaps.
// https://github.com/huggingface/safetensors#format. Must not know: models and tensor types.
#pragma once

#include <algorithm>
#include <bit>
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
#include <meft/base/scalar.hpp>
#include <meft/io/file.hpp>
#include <meft/io/json.hpp>

namespace meft::io {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian, and so must be the machine");

using Metadata = std::map<std::string, std::string>;

/// A tensor of an open Safetensors, which owns the bytes: they are row-major, little-endian, and perhaps unaligned.
struct Entry {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::string file;
};

/// A tensor to write; the bytes are the caller's.
struct NamedTensor {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Bytes of one element, e.g. 2 for "BF16"; 0 for a dtype that is unknown here (those below a byte included).
inline std::size_t dtype_bytes(std::string_view dtype) {
  constexpr std::pair<std::string_view, std::size_t> known[] = {
      {"BOOL", 1}, {"U8", 1},   {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"U16", 2}, {"I16", 2},
      {"F16", 2},  {"BF16", 2}, {"U32", 4}, {"I32", 4},     {"F32", 4},     {"U64", 8},     {"I64", 8}, {"F64", 8}};
  for (const auto& [name, bytes] : known) {
    if (name == dtype) return bytes;
  }
  return 0;
}

namespace detail {

constexpr std::size_t max_header_bytes = 100'000'000;  // the limit of the reference implementation

inline std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

/// Bytes of a tensor; throws `what: …` for an unknown dtype, a negative dimension, or a size beyond 63 bits. Zero
/// dimensions count as one in the overflow check, so that strides fit as well.
inline std::size_t checked_bytes(std::string_view dtype, const std::vector<std::int64_t>& shape,
                                 const std::string& what, Where where) {
  const std::size_t unit = dtype_bytes(dtype);
  require(unit > 0, {what + ": unknown dtype " + show_name(dtype), where});
  std::int64_t bytes = static_cast<std::int64_t>(unit);
  bool empty = false;
  for (const std::int64_t dim : shape) {
    require(dim >= 0, {what + ": negative dimension in shape " + shape_text(shape), where});
    empty |= dim == 0;
    const bool overflow = __builtin_mul_overflow(bytes, std::max<std::int64_t>(dim, 1), &bytes);
    require(!overflow, {what + ": shape " + shape_text(shape) + " is too large", where});
  }
  return empty ? 0 : static_cast<std::size_t>(bytes);
}

/// One file, mapped and checked.
struct Shard {
  MappedFile file;
  std::map<std::string, Entry, std::less<>> entries;
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
class Safetensors {
 public:
  explicit Safetensors(std::string path, Where where = Where::current()) : path_(std::move(path)) {
    struct stat info {};
    const auto exists = [&](const std::string& file) { return ::stat(file.c_str(), &info) == 0; };
    if (exists(path_) && S_ISDIR(info.st_mode)) {
      const std::string whole = path_ + "/model.safetensors", index = whole + ".index.json";
      if (!exists(whole) && !exists(index)) {
        fail(
            {"safetensors: " + path_ + ": neither model.safetensors nor model.safetensors.index.json is there", where});
      }
      path_ = exists(whole) ? whole : index;
    }
    if (path_.ends_with(".json")) {
      open_index(where);
    } else {
      auto shard = detail::read_shard(path_, where);
      files_.push_back(std::move(shard.file));
      entries_ = std::move(shard.entries);
      metadata_ = std::move(shard.metadata);
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

  /// Throws Error when there is no such tensor. The entry lives as long as this object.
  const Entry& find(std::string_view name, Where where = Where::current()) const {
    const auto at = entries_.find(name);
    if (at == entries_.end()) {
      fail({"safetensors: " + path_ + ": no tensor " + show_name(name) + " among " + std::to_string(size()), where});
    }
    return at->second;
  }

  /// `__metadata__` of the header; in a sharded model that of the index, numbers as text, and of the shards.
  const Metadata& metadata() const { return metadata_; }

  /// Gives the memory of what was read so far back; a tensor comes from its file again when it is looked at.
  void forget() const {
    for (const auto& file : files_) file.forget();
  }

 private:
  void open_index(Where where) {
    const std::string what = "safetensors: " + path_;
    const auto index = read_json(path_, detail::max_header_bytes, where);
    const bool valid = index.is_object() && index.contains("weight_map") && index["weight_map"].is_object();
    require(valid, {what + ": expected an object with an object weight_map", where});
    if (index.contains("metadata") && index["metadata"].is_object()) {
      for (const auto& [key, value] : index["metadata"].items()) {
        metadata_.emplace(key, value.is_string() ? value.get<std::string>() : value.dump());
      }
    }
    std::map<std::string, std::vector<std::string>> shards;
    for (const auto& [name, value] : index["weight_map"].items()) {
      require(value.is_string(), {what + ": weight_map: " + show_name(name) + ": expected a file name", where});
      const auto& shard = value.get_ref<const std::string&>();
      const bool plain = !shard.empty() && shard != "." && shard != ".." &&
                         shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
      require(plain, {what + ": weight_map: " + show_name(name) + ": expected a file name without a folder, found " +
                          show_name(shard),
                      where});
      shards[shard].push_back(name);
    }
    for (const auto& [file, names] : shards) {
      auto shard = detail::read_shard(detail::folder_of(path_) + "/" + file, where);
      for (const auto& name : names) {
        const auto at = shard.entries.find(name);
        if (at == shard.entries.end()) {
          fail({what + ": weight_map puts tensor " + show_name(name) + " in " + shard.file.path() + ", which lacks it",
                where});
        }
        entries_.insert(shard.entries.extract(at));
      }
      metadata_.merge(shard.metadata);
      files_.push_back(std::move(shard.file));
    }
  }

  std::string path_;
  std::vector<MappedFile> files_;
  std::map<std::string, Entry, std::less<>> entries_;
  Metadata metadata_;
};

namespace detail {

template <class T>
constexpr bool is_real = Real<T> || std::same_as<T, bf16> || std::same_as<T, half>;

template <class From, Scalar T>
void convert(const Entry& entry, std::span<T> out, const std::string& what, Where where) {
  const std::byte* from = entry.bytes.data();
  for (std::size_t i = 0; i < out.size(); ++i, from += sizeof(From)) {
    From value;
    std::memcpy(&value, from, sizeof value);
    if constexpr (Real<T>) {
      out[i] = static_cast<T>(value);
    } else if constexpr (is_real<T>) {
      out[i] = T(static_cast<float>(value));
    } else if (std::in_range<T>(value)) {
      out[i] = static_cast<T>(value);
    } else {
      fail({what + ": element " + std::to_string(i) + " is " + std::to_string(value) + ", out of the range of " +
                dtype_name<T>(),
            where});
    }
  }
}

}  // namespace detail

/// Copies a tensor, converting F16, BF16, F32, F64 to float, double, bf16 or half (to the nearest, ties to even; double
/// goes to a 16-bit type by way of float), and integers and BOOL to an integer type that must hold every value. Throws
/// Error naming the tensor and its file for any other pair of types, or when `out` has another number of elements.
template <Scalar T>
void copy_to(const Entry& entry, std::span<T> out, Where where = Where::current()) {
  const std::string what = "safetensors: " + entry.file + ": tensor " + show_name(entry.name);
  const std::size_t bytes = detail::checked_bytes(entry.dtype, entry.shape, what, where);
  require(bytes == entry.bytes.size(), {what + ": the bytes do not fit the shape", where});
  const std::size_t count = bytes / dtype_bytes(entry.dtype);
  require(count == out.size(), {what + ": shape " + detail::shape_text(entry.shape) + " has " + std::to_string(count) +
                                    " elements, expected " + std::to_string(out.size()),
                                where});
  if (count == 0) return;
  const std::string_view dtype = entry.dtype;
  if (dtype == dtype_name<T>()) {
    std::memcpy(out.data(), entry.bytes.data(), bytes);
    return;
  }
  const auto as = [&]<class From>(std::string_view name) {
    if (dtype == name) detail::convert<From>(entry, out, what, where);
    return dtype == name;
  };
  bool done = false;
  if constexpr (detail::is_real<T>) {
    done = as.template operator()<float>("F32") || as.template operator()<double>("F64") ||
           as.template operator()<half>("F16") || as.template operator()<bf16>("BF16");
  } else {
    done = as.template operator()<std::int64_t>("I64") || as.template operator()<std::int32_t>("I32") ||
           as.template operator()<std::int16_t>("I16") || as.template operator()<std::int8_t>("I8") ||
           as.template operator()<std::uint64_t>("U64") || as.template operator()<std::uint32_t>("U32") ||
           as.template operator()<std::uint16_t>("U16") || as.template operator()<std::uint8_t>("U8") ||
           as.template operator()<std::uint8_t>("BOOL");
  }
  require(done, {what + ": holds " + entry.dtype + ", cannot be read as " + dtype_name<T>(), where});
}

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
