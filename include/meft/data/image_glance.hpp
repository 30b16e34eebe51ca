// Owns: a quick look at a file of an image: whether its head and its end are those of a whole one. What looks odd may
// still be whole: decoding decides. Must not know how images are decoded.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <meft/base/file.hpp>
#include <meft/data/image_limits.hpp>
#include <meft/data/image_orientation.hpp>
#include <meft/data/image_simple.hpp>

namespace meft::data::detail {

/// Reads a few bytes here and there of a file.
class Glance {
 public:
  explicit Glance(const std::string& path) : input_(path), size_(input_.size()) {}

  std::uint64_t size() const { return size_; }
  /// Up to `count` bytes from `at`: fewer at the file's end.
  Bytes bytes(std::uint64_t at, std::size_t count) {
    buffer_.resize(count);
    if (at >= size_) return {};
    input_.seek(at);
    return {buffer_.data(), input_.read(buffer_.data(), count)};
  }

 private:
  InputFile input_;
  std::uint64_t size_;
  std::vector<std::uint8_t> buffer_;
};

/// A frame header is found, and the end is the marker EOI.
inline bool jpeg_looks_whole(Glance& file, const std::string& path, const DecodeLimits& limits) {
  constexpr int most_markers = 1000;
  std::uint64_t at = 2;
  for (int i = 0; i < most_markers; ++i) {
    const Bytes head = file.bytes(at, 9);
    if (head.size() < 9 || head[0] != 0xFF) return false;
    const std::uint8_t marker = head[1];
    const bool frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
    if (frame) {
      check_size(number_at(head, 5, 2, true), number_at(head, 7, 2, true), limits, path);
      const Bytes end = file.bytes(file.size() - 2, 2);
      return begins(end, "\xff\xd9");
    }
    const std::uint32_t length = number_at(head, 2, 2, true);
    if (marker < 0xC0 || marker == 0xD8 || marker == 0xD9 || marker == 0xDA || length < 2) return false;
    at += 2 + length;
  }
  return false;
}

/// The file's head and end are those of a whole JPEG, PNG, GIF, BMP or WebP. Errors: it cannot be read, is larger than
/// the limits.
inline bool looks_whole(const std::string& path, const DecodeLimits& limits) {
  using namespace std::string_view_literals;
  Glance file(path);
  if (file.size() > limits.bytes || file.size() < 26) return false;
  std::vector<std::uint8_t> copy;
  const Bytes first = file.bytes(0, 150);
  copy.assign(first.begin(), first.end());
  const Bytes head = copy;
  if (begins(head, "\xff\xd8"sv)) return jpeg_looks_whole(file, path, limits);
  if (begins(head, "\x89PNG\r\n\x1a\n\0\0\0\rIHDR"sv)) {
    check_size(number_at(head, 20, 4, true), number_at(head, 16, 4, true), limits, path);
    return begins(file.bytes(file.size() - 12, 12), "\0\0\0\0IEND\xae\x42\x60\x82"sv);
  }
  if (begins(head, "GIF8")) {
    check_size(number_at(head, 8, 2, false), number_at(head, 6, 2, false), limits, path);
    return begins(file.bytes(file.size() - 1, 1), "\x3b");
  }
  if (begins(head, "RIFF") && begins(head.subspan(8), "WEBP")) {
    const bool animated = begins(head.subspan(12), "VP8X") && (head[20] & 2) != 0;
    return !animated && number_at(head, 4, 4, false) + std::uint64_t{8} <= file.size();
  }
  if (begins(head, "BM")) {
    const BmpHeader bmp(head, path);
    check_size(static_cast<std::uint32_t>(std::max(bmp.height, 0)), static_cast<std::uint32_t>(std::max(bmp.width, 0)),
               limits, path);
    return bmp.compression == 0 && bmp.pixels + bmp.row_bytes() * static_cast<std::size_t>(bmp.height) <= file.size();
  }
  return false;
}

}  // namespace meft::data::detail
