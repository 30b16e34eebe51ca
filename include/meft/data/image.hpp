// Owns: 8-bit RGB images and what is done to their pixels: resizing, cropping, flipping.
// Resizing rounds as Pillow up to 12 does: weights of 22 fractional bits, along rows first, 8 bits between the passes
// (Pillow 13 goes along columns first where the height shrinks much, which differs by a few levels).
// Must not know files, processors or labels.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/random.hpp>

namespace meft::data {

/// No image has more pixels than this: larger ones are an Error before memory is taken.
inline constexpr std::int64_t max_image_pixels = std::int64_t{1} << 26;

/// The random sites of images; `step` is the epoch and the element is made of the example's number.
enum ImageSite : std::uint32_t { crop_site = 0xDA7A0011, flip_site = 0xDA7A0012 };

/// An image of 8-bit red, green and blue: height x width x 3, row by row.
class Image {
 public:
  Image() = default;
  /// A black image. Errors: a side below 1, more than max_image_pixels.
  Image(int height, int width, Where where = Where::current()) : height_(height), width_(width) {
    const bool fits = height > 0 && width > 0 && std::int64_t{height} * width <= max_image_pixels;
    if (!fits)
      fail({"image: expected sides of at least 1 and at most " + std::to_string(max_image_pixels) + " pixels, found " +
                std::to_string(height) + " x " + std::to_string(width),
            where});
    pixels_.resize(row_bytes() * static_cast<std::size_t>(height));
  }

  /// An image of these pixels. Errors: as above, or their number is not height x width x 3.
  Image(int height, int width, std::vector<std::uint8_t> pixels, Where where = Where::current())
      : height_(height), width_(width), pixels_(std::move(pixels)) {
    const bool fits = height > 0 && width > 0 && std::int64_t{height} * width <= max_image_pixels &&
                      pixels_.size() == row_bytes() * static_cast<std::size_t>(height);
    if (!fits) fail({"image: the pixels are not those of the sides", where}, height, width, pixels_.size());
  }

  int height() const { return height_; }
  int width() const { return width_; }
  bool empty() const { return pixels_.empty(); }
  std::size_t row_bytes() const { return static_cast<std::size_t>(width_) * 3; }

  std::uint8_t* row(int y) { return pixels_.data() + static_cast<std::size_t>(y) * row_bytes(); }
  const std::uint8_t* row(int y) const { return pixels_.data() + static_cast<std::size_t>(y) * row_bytes(); }
  std::span<std::uint8_t> pixels() { return pixels_; }
  std::span<const std::uint8_t> pixels() const { return pixels_; }

  bool operator==(const Image&) const = default;

 private:
  int height_ = 0, width_ = 0;
  std::vector<std::uint8_t> pixels_;
};

/// How pixels are interpolated, by Pillow's numbers. All but `nearest` average over what a smaller image leaves out.
enum class Resample { nearest = 0, lanczos = 1, bilinear = 2, bicubic = 3 };

/// A part of an image, in pixels.
struct Box {
  int top = 0, left = 0, height = 0, width = 0;
  bool operator==(const Box&) const = default;
};

namespace detail {

inline void need_pixels(const Image& image, const char* what, Where where) {
  if (image.empty()) fail({std::string(what) + ": the image is empty", where});
}

/// How far a filter reaches, and its value at x.
struct Filter {
  double reach;
  double (*at)(double x);
};

inline double sinc(double x) {
  if (x == 0) return 1;
  x *= 3.14159265358979323846;
  return std::sin(x) / x;
}

inline Filter filter_of(Resample how) {
  if (how == Resample::bilinear) return {1, [](double x) { return std::max(1 - std::abs(x), 0.0); }};
  if (how == Resample::bicubic)
    return {2, [](double x) {
              constexpr double a = -0.5;
              x = std::abs(x);
              if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
              return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
            }};
  return {3, [](double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0.0; }};
}

inline constexpr int weight_bits = 22;

/// For every output position the first input position, how many, and their weights in units of 2^-22.
struct Taps {
  struct Range {
    int first, count;
    std::size_t weights;  // where they begin
  };
  std::vector<Range> ranges;
  std::vector<std::int32_t> weights;

  Taps(int in, int out, const Filter& filter) {
    const double scale = static_cast<double>(in) / out, stretch = std::max(scale, 1.0);
    const double reach = filter.reach * stretch, step = 1 / stretch;
    std::vector<double> exact;
    ranges.reserve(static_cast<std::size_t>(out));
    for (int i = 0; i < out; ++i) {
      const double center = (i + 0.5) * scale;
      const int first = std::max(static_cast<int>(center - reach + 0.5), 0);
      const int last = std::min(static_cast<int>(center + reach + 0.5), in);
      exact.clear();
      double sum = 0;
      for (int x = first; x < last; ++x) {
        exact.push_back(filter.at((x - center + 0.5) * step));
        sum += exact.back();
      }
      ranges.push_back({first, static_cast<int>(exact.size()), weights.size()});
      for (double weight : exact) {
        if (sum != 0) weight /= sum;
        weights.push_back(static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << weight_bits)));
      }
    }
  }
};

inline std::uint8_t round_weighted(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> weight_bits, 0, 255));
}

inline constexpr std::int32_t half_weight = 1 << (weight_bits - 1);

inline Image resize_width(const Image& image, int width, const Filter& filter, Where where) {
  const Taps taps(image.width(), width, filter);
  Image out(image.height(), width, where);
  for (int y = 0; y < image.height(); ++y) {
    std::uint8_t* to = out.row(y);
    for (const auto& [first, count, at] : taps.ranges) {
      std::int32_t r = half_weight, g = half_weight, b = half_weight;
      const std::uint8_t* from = image.row(y) + std::size_t{3} * static_cast<std::size_t>(first);
      const std::int32_t* weight = taps.weights.data() + at;
      for (int i = 0; i < count; ++i, from += 3) {
        r += weight[i] * from[0];
        g += weight[i] * from[1];
        b += weight[i] * from[2];
      }
      *to++ = round_weighted(r);
      *to++ = round_weighted(g);
      *to++ = round_weighted(b);
    }
  }
  return out;
}

inline Image resize_height(const Image& image, int height, const Filter& filter, Where where) {
  const Taps taps(image.height(), height, filter);
  Image out(height, image.width(), where);
  const std::size_t bytes = image.row_bytes();
  std::vector<std::int32_t> sum(bytes);
  for (int y = 0; y < height; ++y) {
    const auto& [first, count, at] = taps.ranges[static_cast<std::size_t>(y)];
    std::fill(sum.begin(), sum.end(), half_weight);
    for (int i = 0; i < count; ++i) {
      const std::uint8_t* from = image.row(first + i);
      const std::int32_t weight = taps.weights[at + static_cast<std::size_t>(i)];
      for (std::size_t x = 0; x < bytes; ++x) sum[x] += weight * from[x];
    }
    std::uint8_t* to = out.row(y);
    for (std::size_t x = 0; x < bytes; ++x) to[x] = round_weighted(sum[x]);
  }
  return out;
}

/// For every output position its input position. The steps add up, as Pillow's do.
inline std::vector<int> nearest_positions(int in, int out) {
  std::vector<int> positions(static_cast<std::size_t>(out));
  const double step = static_cast<double>(in) / out;
  double at = step * 0.5;
  for (int& position : positions) {
    position = std::min(static_cast<int>(at), in - 1);
    at += step;
  }
  return positions;
}

inline Image resize_nearest(const Image& image, int height, int width, Where where) {
  Image out(height, width, where);
  const auto rows = nearest_positions(image.height(), height), columns = nearest_positions(image.width(), width);
  for (int y = 0; y < height; ++y) {
    std::uint8_t* to = out.row(y);
    const std::uint8_t* from = image.row(rows[static_cast<std::size_t>(y)]);
    for (const int x : columns) to = std::copy_n(from + std::ptrdiff_t{3} * x, 3, to);
  }
  return out;
}

}  // namespace detail

/// The image in another size, as Pillow's `Image.resize((width, height), how)`.
/// Errors: an empty image, a side below 1, more than max_image_pixels (also of the image between the two passes).
inline Image resize(const Image& image, int height, int width, Resample how, Where where = Where::current()) {
  detail::need_pixels(image, "resize", where);
  if (height == image.height() && width == image.width()) return image;
  if (how == Resample::nearest) return detail::resize_nearest(image, height, width, where);
  Image(height, width, where);  // checks the size before any work
  const detail::Filter filter = detail::filter_of(how);
  if (width == image.width()) return detail::resize_height(image, height, filter, where);
  Image wide = detail::resize_width(image, width, filter, where);
  return height == image.height() ? wide : detail::resize_height(wide, height, filter, where);
}

/// {height, width} with the shorter side `edge`, the longer in proportion and rounded down.
/// Errors: a longer side of more than 2^31 - 1.
inline std::pair<int, int> shortest_edge_size(int height, int width, int edge, Where where = Where::current()) {
  require(height > 0 && width > 0 && edge > 0, {"shortest edge: sides must be at least 1", where}, height, width, edge);
  const std::int64_t shorter = std::min(height, width), longer = std::max(height, width);
  const std::int64_t size = edge * longer / shorter;
  require(size <= INT32_MAX, {"shortest edge: the longer side would be too long", where}, size);
  return height < width ? std::pair(edge, static_cast<int>(size)) : std::pair(static_cast<int>(size), edge);
}

/// A part of the image. Errors: a box that is empty or not inside.
inline Image crop(const Image& image, const Box& box, Where where = Where::current()) {
  const bool inside = box.top >= 0 && box.left >= 0 && box.height > 0 && box.width > 0 &&
                      box.height <= image.height() - box.top && box.width <= image.width() - box.left;
  require(inside, {"crop: the box is not inside of the image", where}, box.top, box.left, box.height, box.width);
  Image out(box.height, box.width, where);
  for (int y = 0; y < box.height; ++y)
    std::copy_n(image.row(box.top + y) + std::ptrdiff_t{3} * box.left, out.row_bytes(), out.row(y));
  return out;
}

/// The middle of the image; what lies outside of a smaller image is black (transformers' `center_crop`).
inline Image center_crop(const Image& image, int height, int width, Where where = Where::current()) {
  detail::need_pixels(image, "center crop", where);
  Image out(height, width, where);
  const auto offset = [](int has, int wants) { return (has - wants) >> 1; };  // rounds down, also below 0
  const int top = offset(image.height(), height), left = offset(image.width(), width);
  const int first = std::max(0, -left), last = std::min(width, image.width() - left);
  for (int y = std::max(0, -top); y < std::min(height, image.height() - top); ++y)
    std::copy_n(image.row(y + top) + std::ptrdiff_t{3} * (first + left), std::ptrdiff_t{3} * (last - first),
                out.row(y) + std::ptrdiff_t{3} * first);
  return out;
}

/// Left and right exchanged.
inline Image flip(const Image& image) {
  Image out = image;
  for (int y = 0; y < image.height(); ++y) {
    const std::uint8_t* from = image.row(y);
    std::uint8_t* to = out.row(y) + image.row_bytes();
    for (int x = 0; x < image.width(); ++x, from += 3) std::copy_n(from, 3, to -= 3);
  }
  return out;
}

/// What a random crop may be: its share of the area, and its width / height.
struct RandomCrop {
  double min_area = 0.08, max_area = 1, min_ratio = 3.0 / 4, max_ratio = 4.0 / 3;
};

/// A random part of an image (torchvision's RandomResizedCrop): the area uniform, the logarithm of the ratio uniform,
/// ten tries to fit it in, else the largest centred part with a ratio in bounds. The same for the same key and example.
/// Errors: an empty image, bounds that are not 0 < min <= max, an area above 1.
inline Box random_crop(int height, int width, const RandomCrop& options, Key key, std::uint64_t example,
                       Where where = Where::current()) {
  require(height > 0 && width > 0, {"random crop: the image is empty", where}, height, width);
  const bool sane = options.min_area > 0 && options.min_area <= options.max_area && options.max_area <= 1 &&
                    options.min_ratio > 0 && options.min_ratio <= options.max_ratio && options.max_ratio <= 1e6;
  require(sane, {"random crop: expected 0 < min <= max for area (at most 1) and ratio", where}, options.min_area,
          options.max_area, options.min_ratio, options.max_ratio);
  const double area = static_cast<double>(height) * width;
  const double low = std::log(options.min_ratio), high = std::log(options.max_ratio);
  for (std::uint64_t attempt = 0; attempt < 10; ++attempt) {
    const auto words = philox(key, example * 16 + attempt);
    const double part = area * (options.min_area + (options.max_area - options.min_area) * uniform(words[0]));
    const double ratio = std::exp(low + (high - low) * uniform(words[1]));
    const double w = std::nearbyint(std::sqrt(part * ratio)), h = std::nearbyint(std::sqrt(part / ratio));
    if (!(w >= 1 && w <= width && h >= 1 && h <= height)) continue;
    const Box box{0, 0, static_cast<int>(h), static_cast<int>(w)};
    const auto place = [](std::uint32_t word, int room) {
      return static_cast<int>((std::uint64_t{word} * (static_cast<std::uint64_t>(room) + 1)) >> 32);
    };
    return {place(words[2], height - box.height), place(words[3], width - box.width), box.height, box.width};
  }
  Box box{0, 0, height, width};
  const double ratio = static_cast<double>(width) / height;
  if (ratio < options.min_ratio) box.height = static_cast<int>(std::nearbyint(width / options.min_ratio));
  else if (ratio > options.max_ratio) box.width = static_cast<int>(std::nearbyint(height * options.max_ratio));
  box.height = std::clamp(box.height, 1, height);
  box.width = std::clamp(box.width, 1, width);
  box.top = (height - box.height) / 2;
  box.left = (width - box.width) / 2;
  return box;
}

/// Whether an example is flipped: a fair coin, the same for the same key and example.
inline bool random_flip(Key key, std::uint64_t example) { return (random_bits(key, example) >> 31) != 0; }

/// The random part of the image in a given size.
inline Image random_resized_crop(const Image& image, int height, int width, Resample how, const RandomCrop& options,
                                 Key key, std::uint64_t example, Where where = Where::current()) {
  const Box box = random_crop(image.height(), image.width(), options, key, example, where);
  return resize(crop(image, box, where), height, width, how, where);
}

/// What a pixel's value becomes: value * scale, then (x - mean) / std, each channel on its own, rounded to float after
/// each step as transformers' rescale and normalize do.
class PixelMap {
 public:
  PixelMap(double scale, const std::array<float, 3>& mean, const std::array<float, 3>& deviation) {
    for (std::size_t channel = 0; channel < 3; ++channel)
      for (std::size_t value = 0; value < 256; ++value) {
        const auto scaled = static_cast<float>(static_cast<double>(value) * scale);
        values_[channel][value] = (scaled - mean[channel]) / deviation[channel];
      }
  }

  /// Writes the image as red, green and blue planes: out[channel][y][x].
  /// Errors: `out` has not 3 x height x width elements.
  void write(const Image& image, std::span<float> out, Where where = Where::current()) const {
    require(out.size() == image.pixels().size(), {"normalise: the output does not fit the image", where}, out.size(),
            image.pixels().size());
    const std::size_t plane = out.size() / 3;
    const std::uint8_t* from = image.pixels().data();
    for (std::size_t i = 0; i < plane; ++i)
      for (std::size_t channel = 0; channel < 3; ++channel) out[channel * plane + i] = values_[channel][*from++];
  }

 private:
  std::array<std::array<float, 256>, 3> values_;
};

}  // namespace meft::data
