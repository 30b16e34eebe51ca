// Owns: how a camera was held: the orientation in EXIF or XMP, and turning an image by it as Pillow's
// ImageOps.exif_transpose does. Must not know files of images.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <meft/data/image.hpp>

namespace meft::data::detail {

using Bytes = std::span<const std::uint8_t>;

inline bool begins(Bytes bytes, std::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

/// An unsigned number of `size` bytes at `at`; 0 where it is not all there.
inline std::uint32_t number_at(Bytes bytes, std::size_t at, std::size_t size, bool big) {
  if (at > bytes.size() || bytes.size() - at < size) return 0;
  std::uint32_t out = 0;
  for (std::size_t i = 0; i < size; ++i) out = out << 8 | bytes[big ? at + i : at + size - 1 - i];
  return out;
}

/// The orientation, 1 to 8, that EXIF data gives; 0 where it gives none. "Exif\0\0" may stand before it.
inline int exif_orientation(Bytes exif) {
  using namespace std::string_view_literals;
  while (begins(exif, "Exif\0\0"sv)) exif = exif.subspan(6);
  const bool big = begins(exif, "MM");
  if (!big && !begins(exif, "II")) return 0;
  constexpr std::uint32_t orientation = 0x0112, byte = 1, two_bytes = 3, four_bytes = 4;
  const std::size_t first = number_at(exif, 4, 4, big), count = number_at(exif, first, 2, big);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t entry = first + 2 + 12 * i;
    if (number_at(exif, entry, 2, big) != orientation) continue;
    const std::uint32_t type = number_at(exif, entry + 2, 2, big);
    const std::size_t size = type == byte ? 1 : type == two_bytes ? 2 : type == four_bytes ? 4 : 0;
    const std::uint32_t value = number_at(exif, entry + 8, size, big);
    return size > 0 && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 0;
}

/// The bytes of a profile that ImageMagick wrote as text into a PNG: an empty line, its kind, its size, then
/// hexadecimal digits; none where these are something else.
inline std::vector<std::uint8_t> raw_profile(std::string_view text) {
  for (int line = 0; line < 3; ++line) text.remove_prefix(std::min(text.size(), text.find('\n') + 1));
  std::vector<std::uint8_t> out;
  std::string digits;
  for (const char c : text)
    if (c != '\n') digits += c;
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    std::uint8_t byte = 0;
    const char* const end = digits.data() + std::min(i + 2, digits.size());
    if (std::from_chars(digits.data() + i, end, byte, 16).ptr != digits.data() + i + 2) return {};
    out.push_back(byte);
  }
  return out;
}

/// The orientation in an XMP packet; 0 where it has none.
inline int xmp_orientation(Bytes xmp) {
  const std::string_view text(reinterpret_cast<const char*>(xmp.data()), xmp.size());
  constexpr std::string_view name = "tiff:Orientation";
  for (std::size_t at = text.find(name); at != text.npos; at = text.find(name, at + 1)) {
    std::string_view rest = text.substr(at + name.size());
    if (rest.starts_with("=\"")) rest.remove_prefix(2);
    else if (rest.starts_with('>')) rest.remove_prefix(1);
    else continue;
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] >= '1' && rest[0] <= '8' ? rest[0] - '0' : 1;
  }
  return 0;
}

/// What is seen when the image is held as `orientation` says: 2, 4 mirrored; 3 upside down; 5 to 8 on its side.
inline Image upright(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool sideways = orientation >= 5;
  const int height = sideways ? image.width() : image.height(), width = sideways ? image.height() : image.width();
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image out(height, width);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const int row = sideways ? x : y, column = sideways ? y : x;
      const std::uint8_t* from = image.row(from_below ? image.height() - 1 - row : row) +
                                 3 * (from_right ? image.width() - 1 - column : column);
      std::memcpy(out.row(y) + 3 * x, from, 3);
    }
  return out;
}

}  // namespace meft::data::detail
