// Owns: BMP files and the first image of GIF files, which need no library. As Pillow's convert("RGB"). Must not know
// other formats. BMP: Microsoft's BITMAPINFOHEADER and its older and longer forms; GIF: CompuServe, GIF89a.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/image.hpp>
#include <meft/data/image_limits.hpp>
#include <meft/data/image_orientation.hpp>

namespace meft::data::detail {

using Color = std::array<std::uint8_t, 3>;

/// A BMP's header, as far as it matters.
struct BmpHeader {
  std::size_t pixels = 0, palette = 0, colors = 0;  // where they begin; how many colours
  std::uint32_t bits = 0, compression = 0;
  std::int32_t height = 0, width = 0;
  bool upward = true;
  std::array<std::uint32_t, 3> masks{};

  /// Of a row as it is stored without run-length coding.
  std::size_t row_bytes() const { return (static_cast<std::size_t>(width) * bits + 31) / 32 * 4; }

  BmpHeader(Bytes bytes, const std::string& name) {
    const auto at = [&](std::size_t place, std::size_t size) { return number_at(bytes, place, size, false); };
    const std::size_t size = at(14, 4);
    if (size != 12 && (size < 40 || size > 124)) fail(name + ": BMP: an unknown kind of header");
    if (bytes.size() < 14 + size) fail(name + ": BMP: the file ends too early");
    const bool old = size == 12;
    width = static_cast<std::int32_t>(old ? at(18, 2) : at(18, 4));
    height = static_cast<std::int32_t>(old ? at(20, 2) : at(22, 4));
    bits = old ? at(24, 2) : at(28, 2);
    compression = old ? 0 : at(30, 4);
    colors = old ? 0 : at(46, 4);
    upward = height > 0;
    if (height < 0 && height > INT32_MIN) height = -height;
    pixels = at(10, 4);
    palette = 14 + size;
    if (bits <= 8 && colors == 0) colors = std::size_t{1} << bits;
    masks = bits == 16 ? std::array<std::uint32_t, 3>{0x7C00, 0x3E0, 0x1F}
                       : std::array<std::uint32_t, 3>{0xFF0000, 0xFF00, 0xFF};
    if (compression == 3 || compression == 6)
      for (std::size_t i = 0; i < 3; ++i) masks[i] = at(54 + 4 * i, 4);
    if (compression == 3 || compression == 6) compression = 0;
    const bool plain =
        compression == 0 && (bits == 1 || bits == 4 || bits == 8 || bits == 16 || bits == 24 || bits == 32);
    const bool runs = ((compression == 1 && bits == 8) || (compression == 2 && bits == 4)) && upward;
    if (!plain && !runs)
      fail(name + ": BMP: " + std::to_string(bits) + " bits with compression " + std::to_string(compression) +
           " are not supported");
  }
};

/// The numbers of colours of BMP's run-length coding, [height, width] from below.
inline std::vector<std::uint8_t> bmp_runs(Bytes bytes, const BmpHeader& head, const std::string& name) {
  const auto width = static_cast<std::size_t>(head.width), height = static_cast<std::size_t>(head.height);
  std::vector<std::uint8_t> out(width * height);
  std::size_t at = head.pixels, x = 0, y = 0;
  const auto next = [&] {
    if (at >= bytes.size()) fail(name + ": BMP: the file ends too early");
    return bytes[at++];
  };
  const auto put = [&](std::uint8_t value) {
    if (x < width && y < height) out[y * width + x] = value;
    ++x;
  };
  const bool halves = head.compression == 2;
  while (y < height) {
    const std::size_t count = next();
    const std::uint8_t value = next();
    if (count > 0) {
      for (std::size_t i = 0; i < count; ++i)
        put(!halves ? value : static_cast<std::uint8_t>(i % 2 == 0 ? value >> 4 : value & 15));
    } else if (value == 0) {
      x = 0, ++y;
    } else if (value == 1) {
      break;
    } else if (value == 2) {
      x += next();
      y += next();
    } else {
      std::uint8_t pair = 0;
      for (std::size_t i = 0; i < value; ++i) {
        if (!halves || i % 2 == 0) pair = next();
        put(!halves ? pair : static_cast<std::uint8_t>(i % 2 == 0 ? pair >> 4 : pair & 15));
      }
      if ((halves ? (value + 1u) / 2 : value) % 2 == 1) next();
    }
  }
  return out;
}

inline Image decode_bmp(Bytes bytes, const std::string& name, const DecodeLimits& limits) {
  const BmpHeader head(bytes, name);
  check_size(static_cast<std::uint32_t>(std::max(head.height, 0)), static_cast<std::uint32_t>(std::max(head.width, 0)),
             limits, name);
  const auto width = static_cast<std::size_t>(head.width), height = static_cast<std::size_t>(head.height);
  const std::size_t row_bytes = head.row_bytes();
  const bool runs = head.compression != 0;
  if (!runs && (head.pixels > bytes.size() || (bytes.size() - head.pixels) / row_bytes < height))
    fail(name + ": BMP: the file ends too early");
  if (runs && bytes.size() * 128 < width * height) fail(name + ": BMP: the file ends too early");
  std::vector<Color> palette(head.bits <= 8 ? 256 : 0);
  const std::size_t entry = head.palette == 26 ? 3 : 4;
  for (std::size_t i = 0; i < std::min(head.colors, palette.size()); ++i)
    for (std::size_t c = 0; c < 3; ++c)
      palette[i][c] = static_cast<std::uint8_t>(number_at(bytes, head.palette + entry * i + 2 - c, 1, false));
  const std::vector<std::uint8_t> indices = runs ? bmp_runs(bytes, head, name) : std::vector<std::uint8_t>();
  // A channel of 5 or 6 bits is scaled to 8 as Pillow does, rounding down.
  const auto channel = [&](std::uint32_t value, std::size_t c) {
    const std::uint32_t mask = head.masks[c];
    if (mask == 0) return std::uint8_t{0};
    const std::uint32_t low = mask & (~mask + 1), most = mask / low;
    return static_cast<std::uint8_t>(std::uint64_t{(value & mask) / low} * 255 / most);
  };
  Image image(head.height, head.width);
  for (std::size_t y = 0; y < height; ++y) {
    std::uint8_t* to = image.row(static_cast<int>(head.upward ? height - 1 - y : y));
    const std::uint8_t* from = runs ? nullptr : bytes.data() + head.pixels + y * row_bytes;
    for (std::size_t x = 0; x < width; ++x, to += 3) {
      if (head.bits <= 8) {
        const std::size_t in_byte = 8 / head.bits;
        const unsigned index = runs ? indices[y * width + x]
                                    : static_cast<unsigned>(from[x / in_byte]) >> (8 - head.bits * (x % in_byte + 1)) &
                                          ((1u << head.bits) - 1);
        std::copy(palette[index].begin(), palette[index].end(), to);
      } else if (head.bits == 24) {
        for (std::size_t c = 0; c < 3; ++c) to[c] = from[3 * x + 2 - c];
      } else {
        const std::size_t size = head.bits / 8;
        const std::uint32_t value = number_at({from + size * x, size}, 0, size, false);
        for (std::size_t c = 0; c < 3; ++c) to[c] = channel(value, c);
      }
    }
  }
  return image;
}

/// The codes of a GIF's image data undone: at most `most` numbers of colours. `at` stands behind its first byte.
inline std::vector<std::uint8_t> gif_codes(Bytes bytes, std::size_t at, unsigned first_bits, std::size_t most,
                                           const std::string& name) {
  struct Entry {
    std::uint16_t before;
    std::uint8_t value, first;
  };
  constexpr std::size_t all = 4096;
  const auto cut = [&] { fail(name + ": GIF: the file ends too early"); };
  if (first_bits < 1 || first_bits > 8) fail(name + ": GIF: codes of " + std::to_string(first_bits) + " bits");
  const unsigned clear = 1u << first_bits, stop = clear + 1;
  std::vector<Entry> table(all);
  std::vector<std::uint8_t> out, word;
  std::size_t used = stop + 1, block = 0, before = all;
  unsigned bits = first_bits + 1, held = 0, held_bits = 0;
  for (unsigned i = 0; i < clear; ++i) table[i] = {0, static_cast<std::uint8_t>(i), static_cast<std::uint8_t>(i)};
  while (out.size() < most) {
    while (held_bits < bits) {
      if (at >= bytes.size()) cut();
      if (block == 0) {
        block = bytes[at++];
        if (block == 0) cut();
        continue;
      }
      held |= static_cast<unsigned>(bytes[at++]) << held_bits;
      held_bits += 8;
      --block;
    }
    const std::size_t code = held & ((1u << bits) - 1);
    held >>= bits;
    held_bits -= bits;
    if (code == stop) break;
    if (code == clear) {
      used = stop + 1;
      bits = first_bits + 1;
      before = all;
      continue;
    }
    if (code > used || (code == used && before == all)) fail(name + ": GIF: a code that is not there");
    word.clear();
    for (std::size_t walk = code == used ? before : code;;) {
      word.push_back(table[walk].value);
      if (walk < clear) break;
      walk = table[walk].before;
    }
    const std::uint8_t first = word.back();
    std::reverse(word.begin(), word.end());
    if (code == used) word.push_back(first);
    if (before != all && used < all) {
      table[used++] = {static_cast<std::uint16_t>(before), first, first};
      if (used == (std::size_t{1} << bits) && bits < 12) ++bits;
    }
    before = code;
    out.insert(out.end(), word.begin(),
               word.begin() + static_cast<std::ptrdiff_t>(std::min(word.size(), most - out.size())));
  }
  if (out.size() < most) cut();
  return out;
}

inline Image decode_gif(Bytes bytes, const std::string& name, const DecodeLimits& limits) {
  const auto at = [&](std::size_t place, std::size_t size) { return number_at(bytes, place, size, false); };
  const auto need = [&](std::size_t end) {
    if (end > bytes.size()) fail(name + ": GIF: the file ends too early");
  };
  need(13);
  check_size(at(8, 2), at(6, 2), limits, name);
  const auto colors_of = [&](unsigned flags) { return (flags & 0x80) != 0 ? std::size_t{2} << (flags & 7) : 0; };
  std::size_t place = 13, palette = 13, colors = colors_of(at(10, 1)), see_through = 0;
  place += 3 * colors;
  // Extensions before the image; one of them names the colour that is not drawn.
  for (need(place + 1); bytes[place] != 0x2C; need(place + 1)) {
    if (bytes[place] != 0x21) fail(name + ": GIF: no image in it");
    need(place + 2);
    if (bytes[place + 1] == 0xF9 && (at(place + 3, 1) & 1) != 0) see_through = at(place + 6, 1);
    place += 2;
    for (need(place + 1); bytes[place] != 0; need(place + 1)) place += 1 + std::size_t{bytes[place]};
    ++place;
  }
  need(place + 11);
  const std::size_t left = at(place + 1, 2), top = at(place + 3, 2), width = at(place + 5, 2),
                    height = at(place + 7, 2);
  const unsigned flags = at(place + 9, 1);
  place += 10;
  if (const std::size_t own = colors_of(flags); own > 0) {
    palette = place;
    colors = own;
    place += 3 * own;
  }
  need(place + 1);
  const std::size_t all_width = std::max<std::size_t>(at(6, 2), left + width),
                    all_height = std::max<std::size_t>(at(8, 2), top + height);
  check_size(static_cast<std::uint32_t>(all_height), static_cast<std::uint32_t>(all_width), limits, name);
  const auto indices = gif_codes(bytes, place + 1, bytes[place], width * height, name);
  Image image(static_cast<int>(all_height), static_cast<int>(all_width));
  const auto color = [&](std::size_t index, std::uint8_t* to) {
    for (std::size_t c = 0; c < 3; ++c)
      to[c] = colors == 0      ? static_cast<std::uint8_t>(index)
              : index < colors ? static_cast<std::uint8_t>(at(palette + 3 * index + c, 1))
                               : std::uint8_t{0};
  };
  for (int y = 0; y < image.height(); ++y)
    for (int x = 0; x < image.width(); ++x) color(see_through, image.row(y) + 3 * x);
  // Interlaced rows come in four passes.
  std::vector<std::size_t> rows;
  if ((flags & 0x40) == 0)
    for (std::size_t y = 0; y < height; ++y) rows.push_back(y);
  else
    for (const auto& [first, step] : {std::pair<std::size_t, std::size_t>{0, 8}, {4, 8}, {2, 4}, {1, 2}})
      for (std::size_t y = first; y < height; y += step) rows.push_back(y);
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t x = 0; x < width; ++x)
      color(indices[i * width + x], image.row(static_cast<int>(top + rows[i])) + 3 * (left + x));
  return image;
}

}  // namespace meft::data::detail
