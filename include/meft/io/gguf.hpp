// Owns: the GGUF format: metadata by key and tensors by name, read by mapping. Nothing in the file is trusted: no
// number in it is believed before the bytes that it speaks of are there.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Must not know: what keys and names mean, but for the
// data's alignment.
#pragma once

#include <algorithm>
#include <bit>
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
#include <meft/io/tensors.hpp>

namespace meft::io {

/// A value of the metadata: views of the file.
struct GgufValue {
  enum class Type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, array, u64, i64, f64 };
  Type type{};  // of the elements, where there are several
  bool is_array = false;
  std::uint64_t count = 1;
  std::span<const std::byte> bytes{};  // packed; a text is its length in eight bytes and the bytes

  /// Bytes of a value of that type; 0 for texts and arrays.
  static std::size_t size_of(Type type) {
    constexpr std::size_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return sizes[static_cast<std::size_t>(type)];
  }
  static const char* name_of(Type type) {
    constexpr const char* names[] = {"an uint8",  "an int8",   "an uint16", "an int16", "an uint32",
                                     "an int32",  "a float32", "a boolean", "a text",   "an array",
                                     "an uint64", "an int64",  "a float64"};
    return names[static_cast<std::size_t>(type)];
  }
};

namespace detail {

/// Reads values in order, never past the end.
class GgufCursor {
 public:
  GgufCursor(std::span<const std::byte> bytes, std::string what, Where where)
      : bytes_(bytes), what_(std::move(what)), where_(where) {}

  std::size_t at() const { return at_; }
  std::size_t left() const { return bytes_.size() - at_; }

  std::span<const std::byte> take(std::uint64_t count, const char* of) {
    if (count > left())
      fail({what_ + ": " + of + " at byte " + std::to_string(at_) + " takes " + std::to_string(count) + " bytes, " +
                std::to_string(left()) + " are left: truncated or damaged",
            where_});
    const auto out = bytes_.subspan(at_, static_cast<std::size_t>(count));
    at_ += static_cast<std::size_t>(count);
    return out;
  }
  template <class T>
  T read(const char* of) {
    T out;
    std::memcpy(&out, take(sizeof out, of).data(), sizeof out);
    return out;
  }
  std::string_view text(const char* of) {
    const auto bytes = take(read<std::uint64_t>(of), of);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  /// `count` things of at least `least` bytes each must fit what is left.
  void check_count(std::uint64_t count, std::size_t least, const char* of) const {
    if (count > left() / least)
      fail({what_ + ": " + std::to_string(count) + " " + of + " do not fit the " + std::to_string(left()) +
                " bytes that are left: truncated or damaged",
            where_});
  }

 private:
  std::span<const std::byte> bytes_;
  std::string what_;
  Where where_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// A GGUF file of version 2 or 3, little-endian. The constructor checks all of the layout, and throws Error naming the
/// file and the key or tensor at fault. Tensors have their shapes as Hugging Face writes them, rows first.
class Gguf final : public Tensors {
 public:
  explicit Gguf(std::string path, Where where = Where::current()) : Tensors("gguf", path), file_(path, where) {
    const std::string what = "gguf: " + path_;
    detail::GgufCursor cursor(file_.bytes(), what, where);
    require(file_.bytes().size() >= 4 && std::memcmp(file_.bytes().data(), "GGUF", 4) == 0,
            {what + ": does not begin with GGUF: not a GGUF file", where});
    cursor.take(4, "the magic");
    const auto version = cursor.read<std::uint32_t>("the version");
    if (version != 2 && version != 3)
      fail({what + ": version " + std::to_string(version) + ", expected 2 or 3" +
                ((version & 0xffff) == 0 ? " (the file is big-endian)" : ""),
            where});
    const auto tensors = cursor.read<std::uint64_t>("the number of tensors"),
               values = cursor.read<std::uint64_t>("the number of values");
    cursor.check_count(tensors, 8 + 4 + 8 + 4 + 8, "tensors");
    cursor.check_count(values, 8 + 4 + 1, "values");
    for (std::uint64_t i = 0; i < values; ++i) read_value(cursor, what, where);
    read_tensors(cursor, tensors, what, where);
  }
  /// Gives the memory of what was read so far back.
  void forget() const override { file_.forget(); }
  void require_unchanged(Where where) const override { file_.require_unchanged(where); }

  /// What stands before the tensors' bytes.
  std::span<const std::byte> header() const { return file_.bytes().first(header_); }

  // ---- metadata

  bool has(std::string_view key) const { return look(key) != nullptr; }
  /// All keys, sorted.
  std::vector<std::string> keys() const {
    std::vector<std::string> out;
    for (const auto& [key, value] : values_) out.emplace_back(key);
    return out;
  }
  /// What is there under a key; throws Error, naming it, where it is of another kind. Nothing where it is not there.
  std::optional<std::int64_t> integer(std::string_view key, Where where = Where::current()) const {
    const auto* value = scalar(key, where);
    if (!value) return {};
    std::optional<std::int64_t> out = integer_of(*value, 0);
    if (!out) wrong(key, *value, "an integer within 63 bits", where);
    return out;
  }
  std::optional<double> number(std::string_view key, Where where = Where::current()) const {
    const auto* value = scalar(key, where);
    if (!value) return {};
    if (const auto whole = integer_of(*value, 0)) return static_cast<double>(*whole);
    if (!is_real(value->type)) wrong(key, *value, "a number", where);
    return real_of(*value, 0);
  }
  std::optional<bool> flag(std::string_view key, Where where = Where::current()) const {
    const auto* value = scalar(key, where);
    if (!value) return {};
    if (value->type != Type::boolean || static_cast<std::uint8_t>(value->bytes[0]) > 1)
      wrong(key, *value, "a boolean", where);
    return value->bytes[0] != std::byte{0};
  }
  std::optional<std::string_view> text(std::string_view key, Where where = Where::current()) const {
    const auto* value = scalar(key, where);
    if (!value) return {};
    if (value->type != Type::text) wrong(key, *value, "a text", where);
    return text_of(value->bytes.subspan(8));
  }
  /// Calls visit(text) for each of an array of texts; false where there is no such key.
  template <class Visit>
  bool each_text(std::string_view key, const Visit& visit, Where where = Where::current()) const {
    const auto* value = array(key, where);
    if (!value) return false;
    if (value->type != Type::text && value->count) wrong(key, *value, "an array of texts", where);
    auto rest = value->bytes;
    for (std::uint64_t i = 0; i < value->count; ++i) {
      std::uint64_t length = 0;
      std::memcpy(&length, rest.data(), sizeof length);
      visit(text_of(rest.subspan(8, static_cast<std::size_t>(length))));
      rest = rest.subspan(8 + static_cast<std::size_t>(length));
    }
    return true;
  }
  /// The same of an array of numbers.
  template <class Visit>
  bool each_number(std::string_view key, const Visit& visit, Where where = Where::current()) const {
    const auto* value = array(key, where);
    if (!value) return false;
    for (std::uint64_t i = 0; i < value->count; ++i) {
      const auto whole = integer_of(*value, i);
      if (!whole && !is_real(value->type)) wrong(key, *value, "an array of numbers", where);
      visit(whole ? static_cast<double>(*whole) : real_of(*value, i));
    }
    return true;
  }
  /// An array of booleans; empty where there is another value, or none.
  std::vector<bool> flags(std::string_view key, Where where = Where::current()) const {
    const auto* value = look(key);
    std::vector<bool> out;
    if (!value || !value->is_array) return out;
    if (value->type != Type::boolean) wrong(key, *value, "an array of booleans", where);
    for (const std::byte one : value->bytes) {
      if (one > std::byte{1}) wrong(key, *value, "an array of booleans", where);
      out.push_back(one == std::byte{1});
    }
    return out;
  }
  /// How many an array has; nothing where there is no such key.
  std::optional<std::uint64_t> count(std::string_view key, Where where = Where::current()) const {
    const auto* value = array(key, where);
    return value ? std::optional(value->count) : std::nullopt;
  }

  /// Throws Error: what is there under `key` is not `expected`.
  [[noreturn]] void wrong(std::string_view key, std::string_view expected, Where where = Where::current()) const {
    const auto* value = look(key);
    if (!value) fail({"gguf: " + path() + ": the key " + show_name(key) + " is missing", where});
    wrong(key, *value, expected, where);
  }

 private:
  using Type = GgufValue::Type;
  static constexpr std::uint64_t longest_name = 65535, most_rank = 4, most_alignment = 1 << 20;

  static bool is_real(Type type) { return type == Type::f32 || type == Type::f64; }
  static std::string_view text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  template <class T>
  static T at(const GgufValue& value, std::uint64_t i) {
    T out;
    std::memcpy(&out, value.bytes.data() + i * sizeof out, sizeof out);
    return out;
  }
  static std::optional<std::int64_t> integer_of(const GgufValue& value, std::uint64_t i) {
    switch (value.type) {
      case Type::u8: return at<std::uint8_t>(value, i);
      case Type::i8: return at<std::int8_t>(value, i);
      case Type::u16: return at<std::uint16_t>(value, i);
      case Type::i16: return at<std::int16_t>(value, i);
      case Type::u32: return at<std::uint32_t>(value, i);
      case Type::i32: return at<std::int32_t>(value, i);
      case Type::i64: return at<std::int64_t>(value, i);
      case Type::u64:
        if (const auto found = at<std::uint64_t>(value, i); found <= INT64_MAX) return static_cast<std::int64_t>(found);
        return {};
      default: return {};
    }
  }
  static double real_of(const GgufValue& value, std::uint64_t i) {
    return value.type == Type::f32 ? static_cast<double>(at<float>(value, i)) : at<double>(value, i);
  }

  const GgufValue* look(std::string_view key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
  }
  const GgufValue* scalar(std::string_view key, Where where) const {
    const auto* value = look(key);
    if (value && value->is_array) wrong(key, *value, "one value", where);
    return value;
  }
  const GgufValue* array(std::string_view key, Where where) const {
    const auto* value = look(key);
    if (value && !value->is_array) wrong(key, *value, "an array", where);
    return value;
  }
  [[noreturn]] void wrong(std::string_view key, const GgufValue& value, std::string_view expected, Where where) const {
    std::string found = GgufValue::name_of(value.type);
    if (value.is_array) found = "an array of " + std::to_string(value.count) + ", each " + found;
    else if (const auto whole = integer_of(value, 0)) found = std::to_string(*whole);
    else if (is_real(value.type)) found = std::to_string(real_of(value, 0));
    else if (value.type == Type::text) found = show_name(text_of(value.bytes.subspan(8)));
    fail({"gguf: " + path() + ": " + show_name(key) + ": expected " + std::string(expected) + ", found " + found,
          where});
  }

  void read_value(detail::GgufCursor& cursor, const std::string& what, Where where) {
    const auto key = cursor.text("a key");
    require(key.size() <= longest_name && !key.empty(),
            {what + ": a key of " + std::to_string(key.size()) + " bytes, expected 1 to 65,535", where});
    const std::string which = what + ": " + show_name(key);
    const auto type_at = [&] {
      const auto number = cursor.read<std::uint32_t>("a type");
      require(number <= 12, {which + ": type " + std::to_string(number) + ", expected 0 to 12", where});
      return static_cast<Type>(number);
    };
    GgufValue value{.type = type_at()};
    value.is_array = value.type == Type::array;
    if (value.is_array) {
      value.type = type_at();
      require(value.type != Type::array, {which + ": arrays of arrays are not supported", where});
      value.count = cursor.read<std::uint64_t>("a count");
    }
    const std::size_t begin = cursor.at();
    const auto unit = GgufValue::size_of(value.type);
    cursor.check_count(value.count, unit ? unit : 8, "elements of an array");
    if (unit) cursor.take(value.count * unit, "a value");
    else
      for (std::uint64_t i = 0; i < value.count; ++i) cursor.text("a text");
    value.bytes = file_.bytes().subspan(begin, cursor.at() - begin);
    require(values_.emplace(key, value).second, {which + ": the key is given twice", where});
  }

  static std::string_view dtype_of(std::uint32_t type) {
    constexpr std::pair<std::uint32_t, std::string_view> known[] = {
        {0, "F32"},   {1, "F16"},   {2, "Q4_0"}, {3, "Q4_1"}, {6, "Q5_0"}, {7, "Q5_1"}, {8, "Q8_0"}, {12, "Q4_K"},
        {13, "Q5_K"}, {14, "Q6_K"}, {24, "I8"},  {25, "I16"}, {26, "I32"}, {27, "I64"}, {28, "F64"}, {30, "BF16"}};
    for (const auto& [number, name] : known)
      if (number == type) return name;
    return {};
  }

  void read_tensors(detail::GgufCursor& cursor, std::uint64_t tensors, const std::string& what, Where where) {
    const auto alignment = static_cast<std::uint64_t>(integer("general.alignment", where).value_or(32));
    require(
        std::has_single_bit(alignment) && alignment <= most_alignment,
        {what + ": general.alignment is " + std::to_string(alignment) + ", expected a power of two up to 2^20", where});
    struct Placed {
      Entry* entry;
      std::uint64_t offset, bytes;
    };
    std::vector<Placed> order;
    for (std::uint64_t i = 0; i < tensors; ++i) {
      const auto name = cursor.text("a tensor's name");
      require(name.size() <= longest_name && !name.empty(),
              {what + ": a tensor's name of " + std::to_string(name.size()) + " bytes, expected 1 to 65,535", where});
      const std::string which = what + ": tensor " + show_name(name);
      Entry entry;
      entry.name = name;
      entry.file = path();
      const auto rank = cursor.read<std::uint32_t>("a rank");
      require(rank >= 1 && rank <= most_rank,
              {which + ": " + std::to_string(rank) + " dimensions, expected 1 to 4", where});
      for (std::uint32_t d = 0; d < rank; ++d) {
        const auto size = cursor.read<std::uint64_t>("a dimension");
        require(size <= INT64_MAX, {which + ": dimension " + std::to_string(size) + " is too large", where});
        entry.shape.insert(entry.shape.begin(), static_cast<std::int64_t>(size));
      }
      const auto type = cursor.read<std::uint32_t>("a type");
      entry.dtype = dtype_of(type);
      if (entry.dtype.empty())
        fail({which + ": type " + std::to_string(type) +
                  " is not supported: expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K",
              where});
      const auto* format = weights::block_format(entry.dtype);
      const std::uint64_t bytes = format ? detail::checked_bytes(*format, entry.shape, which, where)
                                         : detail::checked_bytes(entry.dtype, entry.shape, which, where);
      const auto offset = cursor.read<std::uint64_t>("an offset");
      require(offset % alignment == 0, {which + ": offset " + std::to_string(offset) + " is no multiple of " +
                                            std::to_string(alignment) + ", the alignment",
                                        where});
      const auto [place, fresh] = entries_.emplace(std::string(name), std::move(entry));
      require(fresh, {which + ": is there twice", where});
      order.push_back({&place->second, offset, bytes});
    }
    header_ = cursor.at();
    const std::size_t start = (cursor.at() + alignment - 1) / alignment * alignment;
    const auto all = file_.bytes();
    const auto data = all.subspan(std::min(start, all.size()));
    for (const auto& [entry, offset, bytes] : order) {
      if (offset > data.size() || bytes > data.size() - offset)
        fail({what + ": tensor " + show_name(entry->name) + ": bytes " + std::to_string(offset) + " to " +
                  std::to_string(offset) + " + " + std::to_string(bytes) + " of the data, which has " +
                  std::to_string(data.size()) + ": truncated or damaged",
              where});
      entry->bytes = data.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(bytes));
    }
    std::sort(order.begin(), order.end(), [](const Placed& a, const Placed& b) {
      return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
    });
    for (std::size_t i = 1; i < order.size(); ++i)
      if (order[i].offset < order[i - 1].offset + order[i - 1].bytes)
        fail({what + ": tensors " + show_name(order[i - 1].entry->name) + " and " + show_name(order[i].entry->name) +
                  " overlap",
              where});
  }

  MappedFile file_;
  std::size_t header_ = 0;
  std::map<std::string_view, GgufValue> values_;
};

}  // namespace meft::io
