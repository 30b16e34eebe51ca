// Owns: how large an image may be. Must not know formats.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include <meft/base/error.hpp>
#include <meft/data/image.hpp>

namespace meft::data {

/// What is decoded at most: the sides and pixels are checked before memory is taken for them.
struct DecodeLimits {
  int side = 65500;
  std::int64_t pixels = max_image_pixels;
  std::size_t bytes = std::size_t{256} << 20;  // of the file
};

namespace detail {

inline void check_size(std::uint32_t height, std::uint32_t width, const DecodeLimits& limits, const std::string& name) {
  const auto side = static_cast<std::uint32_t>(std::max(limits.side, 1));
  if (height == 0 || width == 0 || height > side || width > side ||
      static_cast<std::int64_t>(std::uint64_t{height} * width) > std::min(limits.pixels, max_image_pixels))
    fail(name + ": is " + std::to_string(width) + " x " + std::to_string(height) + " pixels, expected sides up to " +
         std::to_string(side) + " and at most " + std::to_string(limits.pixels) + " pixels");
}

}  // namespace detail

}  // namespace meft::data
