// Owns: a tensor in an open file of weights, and the copy of its elements into another type.
// Must not know: file formats, models and tensor types.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/target.hpp>
#include <meft/weights/formats.hpp>

namespace meft::io {

static_assert(std::endian::native == std::endian::little,
              "files of weights are little-endian, and so must be the machine");

/// A tensor of an open file (Safetensors, Pytorch, Gguf), which owns the bytes: row-major, little-endian, perhaps
/// unaligned; of a type by elements, or of a weights::Format whose blocks lie along the rows.
struct Entry {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::string file;
  std::int64_t paired = 0;  // as many heads, in each of which rows i and i + half lie beside each other; 0: as they are
  float less = 0;           // what is taken off each number
};

/// Bytes of one element, e.g. 2 for "BF16"; 0 for a dtype that is unknown here (those below a byte included).
inline std::size_t dtype_bytes(std::string_view dtype) {
  constexpr std::pair<std::string_view, std::size_t> known[] = {
      {"BOOL", 1},        {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"F8_E4M3FNUZ", 1},
      {"F8_E5M2FNUZ", 1}, {"U16", 2}, {"I16", 2}, {"F16", 2},     {"BF16", 2},    {"U32", 4},     {"I32", 4},
      {"F32", 4},         {"U64", 8}, {"I64", 8}, {"F64", 8},     {"C64", 8}};
  for (const auto& [name, bytes] : known) {
    if (name == dtype) return bytes;
  }
  return 0;
}

namespace detail {

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

// By traits: g++ 12 takes Real<int> for true here in some large units.
template <class T>
inline constexpr bool is_real = std::is_floating_point_v<T> || std::is_same_v<T, bf16> || std::is_same_v<T, half>;

/// The elements from number `first` on.
template <class From, Scalar T>
void convert(const Entry& entry, std::size_t first, std::span<T> out, const std::string& what, Where where) {
  const std::byte* from = entry.bytes.data() + first * sizeof(From);
  for (std::size_t i = 0; i < out.size(); ++i, from += sizeof(From)) {
    From value;
    std::memcpy(&value, from, sizeof value);
    if constexpr (std::is_floating_point_v<T>) {
      out[i] = static_cast<T>(value);
    } else if constexpr (is_real<T>) {
      out[i] = T(static_cast<float>(value));
    } else if (std::in_range<T>(value)) {
      out[i] = static_cast<T>(value);
    } else {
      fail({what + ": element " + std::to_string(first + i) + " is " + std::to_string(value) +
                ", out of the range of " + dtype_name<T>(),
            where});
    }
  }
}

/// The bytes of a tensor in blocks; throws where its rows are not whole ones, or its size is beyond 63 bits.
inline std::size_t checked_bytes(const weights::Format& format, const std::vector<std::int64_t>& shape,
                                 const std::string& what, Where where) {
  const std::size_t count = checked_bytes("U8", shape, what, where);
  require(!shape.empty() && static_cast<std::size_t>(shape.back()) % format.numbers == 0,
          {what + ": " + std::string(format.dtype) + " has blocks of " + std::to_string(format.numbers) +
               ", rows of shape " + shape_text(shape) + " are no multiple",
           where});
  return count / format.numbers * format.bytes;  // a block has at most two bytes a number
}

/// Throws unless the tensor's bytes fit its shape and it has `count` elements; gives what to call it in errors.
inline std::string check_count(const Entry& entry, std::size_t count, Where where) {
  std::string what = entry.file + ": tensor " + show_name(entry.name);
  const auto* format = weights::block_format(entry.dtype);
  const std::size_t bytes =
      format ? checked_bytes(*format, entry.shape, what, where) : checked_bytes(entry.dtype, entry.shape, what, where);
  require(bytes == entry.bytes.size(), {what + ": the bytes do not fit the shape", where});
  const std::size_t found = format ? bytes / format->bytes * format->numbers : bytes / dtype_bytes(entry.dtype);
  require(found == count, {what + ": shape " + shape_text(entry.shape) + " has " + std::to_string(found) +
                               " elements, expected " + std::to_string(count),
                           where});
  return what;
}

/// The elements of blocks from number `first` on.
template <class T>
void decode_blocks(const Entry& entry, const weights::Format& format, std::size_t first, std::span<T> out) {
  float block[weights::most_block];
  for (std::size_t done = 0; done < out.size();) {
    const std::size_t at = (first + done) % format.numbers, count = std::min(format.numbers - at, out.size() - done);
    format.decode(entry.bytes.data() + (first + done) / format.numbers * format.bytes, block);
    for (std::size_t i = 0; i < count; ++i) {
      if constexpr (std::is_floating_point_v<T>) out[done + i] = static_cast<T>(block[at + i]);
      else out[done + i] = T(block[at + i]);
    }
    done += count;
  }
}

/// Fills `out` with the elements from number `first` on, as they lie in the file.
template <Scalar T>
void copy_stored(const Entry& entry, std::size_t first, std::span<T> out, const std::string& what, Where where) {
  const std::string_view dtype = entry.dtype;
  if constexpr (is_real<T>)
    if (const auto* format = weights::block_format(dtype)) return decode_blocks(entry, *format, first, out);
  if (dtype == dtype_name<T>()) {
    std::memcpy(out.data(), entry.bytes.data() + first * sizeof(T), out.size_bytes());
    return;
  }
  const auto as = [&]<class From>(std::string_view name) {
    if (dtype == name) convert<From>(entry, first, out, what, where);
    return dtype == name;
  };
  bool done = false;
  if constexpr (is_real<T>) {
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

/// The same, with the rows of paired heads in their order.
template <Scalar T>
void copy_ordered(const Entry& entry, std::size_t first, std::span<T> out, const std::string& what, Where where) {
  if (!entry.paired) return copy_stored(entry, first, out, what, where);
  const auto rows = static_cast<std::size_t>(entry.shape[0]), head = rows / static_cast<std::size_t>(entry.paired);
  std::size_t width = 1;
  for (std::size_t i = 1; i < entry.shape.size(); ++i) width *= static_cast<std::size_t>(entry.shape[i]);
  for (std::size_t done = 0; done < out.size();) {
    const std::size_t row = (first + done) / width, at = (first + done) % width, in = row % head, half = head / 2;
    const std::size_t from = row - in + (in < half ? 2 * in : 2 * (in - half) + 1);
    const std::size_t count = std::min(width - at, out.size() - done);
    copy_stored(entry, from * width + at, out.subspan(done, count), what, where);
    done += count;
  }
}

/// The same, less what is taken off.
template <Scalar T>
void copy_elements(const Entry& entry, std::size_t first, std::span<T> out, const std::string& what, Where where) {
  copy_ordered(entry, first, out, what, where);
  if constexpr (is_real<T>)
    if (entry.less != 0)
      for (T& x : out) {
        if constexpr (std::is_floating_point_v<T>) x -= static_cast<T>(entry.less);
        else x = T(static_cast<float>(x) - entry.less);
      }
}

/// Whether no value is NaN or infinite: their exponents have all bits set, so one more carries into the sign's place.
template <Real T>
bool all_finite(std::span<const T> values) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr int mantissa = std::numeric_limits<T>::digits - 1;
  constexpr Bits sign = Bits{1} << (8 * sizeof(T) - 1), one = Bits{1} << mantissa;
  Bits found = 0;
  vectorised([&]() MEFT_INLINE {
    constexpr std::size_t lanes = 128 / sizeof(T);  // a number that compilers make vectors of
    Bits each[lanes] = {};
    const T* at = values.data();
    const T* const end = at + values.size();
    for (; static_cast<std::size_t>(end - at) >= lanes; at += lanes)
      for (std::size_t i = 0; i < lanes; ++i) each[i] |= (std::bit_cast<Bits>(at[i]) & ~sign) + one;
    for (const Bits bits : each) found |= bits;
    for (; at != end; ++at) found |= (std::bit_cast<Bits>(*at) & ~sign) + one;
  });
  return (found & sign) == 0;
}

}  // namespace detail

/// Copies a tensor, converting F16, BF16, F32, F64 and blocks to float, double, bf16 or half (to the nearest, ties to
/// even; double goes to a 16-bit type by way of float), and integers and BOOL to an integer type that must hold every
/// value. Throws Error naming the tensor and its file for any other pair of types, or when `out` has another number of
/// elements.
template <Scalar T>
void copy_to(const Entry& entry, std::span<T> out, Where where = Where::current()) {
  const std::string what = detail::check_count(entry, out.size(), where);
  if (!out.empty()) detail::copy_elements(entry, 0, out, what, where);
}

namespace detail {

/// Elements from `from` on.
template <Real T>
void copy_finite(const Entry& entry, std::size_t from, std::span<T> out, const std::string& what, Where where) {
  constexpr std::size_t block = 4096;  // looked at while it is in the nearest cache
  for (std::size_t first = 0; first < out.size(); first += block) {
    const auto part = out.subspan(first, std::min(block, out.size() - first));
    copy_elements(entry, from + first, part, what, where);
    if (all_finite(std::span<const T>(part))) continue;
    const auto wrong = std::find_if(part.begin(), part.end(), [](T value) { return !std::isfinite(value); });
    fail({what + ": element " + std::to_string(from + first + static_cast<std::size_t>(wrong - part.begin())) + " is " +
              (std::isnan(*wrong) ? "NaN" : "infinite") + ": the checkpoint's weights are broken",
          where});
  }
}

}  // namespace detail

/// The same for weights: throws as well when one is NaN or infinite, in the file or as a T, naming the first.
template <Real T>
void copy_finite_to(const Entry& entry, std::span<T> out, Where where = Where::current()) {
  detail::copy_finite(entry, 0, out, detail::check_count(entry, out.size(), where), where);
}

/// Elements of a weight from row `row` of its first axis on, whole rows.
template <Real T>
void copy_rows_to(const Entry& entry, std::size_t row, std::span<T> out, Where where = Where::current()) {
  std::size_t width = 1, rows = entry.shape.empty() ? 0 : static_cast<std::size_t>(entry.shape[0]);
  for (std::size_t axis = 1; axis < entry.shape.size(); ++axis) width *= static_cast<std::size_t>(entry.shape[axis]);
  require(width > 0 && out.size() % width == 0 && row + out.size() / width <= rows,
          {"load: " + entry.file + ": tensor " + entry.name + " has no such rows", where}, row, out.size());
  detail::copy_finite(entry, row * width, out, "load: " + entry.file + ": tensor " + entry.name, where);
}

}  // namespace meft::io
