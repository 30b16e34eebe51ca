// Owns: images to hidden states: patches, class token, positions. Dosovitskiy et al., arXiv 2010.11929.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <meft/nn/batch.hpp>
#include <meft/nn/linear.hpp>
#include <meft/nn/virtual_tokens.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/shape.hpp>

namespace meft::nn {

/// What an image model's embeddings are made of: sizes in pixels, channels, rows in front of the patches.
struct PatchSpec {
  Index image = 224, patch = 16, channels = 3;
  Index leading = 1;  // tokens in front of the patches: the class, and DeiT's distillation token
  float dropout = 0;

  Index grid() const { return image / patch; }
  /// Of an image.
  Index tokens(Index height, Index width) const { return leading + height / patch * (width / patch); }
};

namespace detail {

/// Bicubic interpolation of `from` values at the centres of `to` cells, as a matrix [to, from]. Keys 1981 with a = −3/4
/// and repeated edges, as PyTorch's interpolate without aligned corners.
inline std::vector<double> bicubic(Index from, Index to) {
  constexpr double a = -0.75;
  const auto weight = [](double x) {
    x = std::abs(x);
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0.0;
  };
  std::vector<double> out(static_cast<std::size_t>(to * from));
  for (Index i = 0; i < to; ++i) {
    const double at = (static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
    const auto base = static_cast<Index>(std::floor(at));
    for (Index j = base - 1; j <= base + 2; ++j)
      out[static_cast<std::size_t>(i * from + std::clamp<Index>(j, 0, from - 1))] +=
          weight(at - static_cast<double>(j));
  }
  return out;
}

}  // namespace detail

/// Images to tokens: class token, patches, positions.
template <Real T, Backend B = Cpu>
struct PatchEmbeddings {
  Parameter<T, B> class_token, distillation_token, position;
  Linear<T, B> projection;  // [width, channels · patch · patch]
  PatchSpec spec;
  std::uint32_t site = 0;
  std::optional<VirtualTokens<T, B>> prompt{};  // behind the positions: it has none
  Index smaller = 0;                            // patches along a side of the image that `shrunk` gives; 0: none

  /// Parameters are uninitialised.
  static PatchEmbeddings empty(const PatchSpec& spec, Index width, std::uint32_t site) {
    const auto token = [&] { return Parameter<T, B>::empty({1, 1, width}); };
    return {token(),
            spec.leading == 2 ? token() : Parameter<T, B>{},
            Parameter<T, B>::empty({1, spec.tokens(spec.image, spec.image), width}),
            Linear<T, B>::empty(spec.channels * spec.patch * spec.patch, width),
            spec,
            site};
  }

  /// pixels [images, channels, height, width] → [images · (leading + patches), hidden], with `prompt` its rows in front
  /// of each image's, and their offsets. Heights and widths beyond whole patches are cut off, as a convolution does;
  /// another grid than the checkpoint's has its positions interpolated. Errors: other channels, no whole patch.
  std::pair<Var<T, B>, Offsets> operator()(const Batch<B>& batch) const {
    const auto& pixels = batch.pixels;
    const Index patch = spec.patch;
    require(pixels.defined() && pixels.rank() == 4 && pixels.dim(1) * patch * patch == projection.in(),
            "vit: expected pixels [images, channels, height, width] with the model's channels", pixels,
            projection.in());
    const Index images = pixels.dim(0), rows = pixels.dim(2) / patch, columns = pixels.dim(3) / patch;
    require(images > 0 && rows > 0 && columns > 0, "vit: no whole patch in the pixels", pixels, patch);
    const Var<T, B> x = cast<T>(pixels);
    const auto whole = slice(slice(x, 2, 0, rows * patch), 3, 0, columns * patch);
    const auto cells = reshape(whole, {images, pixels.dim(1), rows, patch, columns, patch});
    const auto patches =
        projection(reshape(permute(cells, {0, 2, 4, 1, 3, 5}), {images * rows * columns, projection.in()}));

    const Index width = projection.out(), leading = spec.leading, each = leading + rows * columns;
    std::vector<Var<T, B>> tokens{reshape(class_token, {1, width})};
    if (leading == 2) tokens.push_back(reshape(distillation_token, {1, width}));
    tokens.push_back(patches);
    std::vector<std::int32_t> order, place;
    for (Index i = 0; i < images; ++i)
      for (Index j = 0; j < each; ++j) {
        order.push_back(static_cast<std::int32_t>(j < leading ? j : j + i * rows * columns));
        place.push_back(static_cast<std::int32_t>(j));
      }
    const Index n = images * each;
    auto y = gather(concat(tokens, 0), Tensor<std::int32_t, B>::from({n}, order)) +
             gather(positions(rows, columns, leading), Tensor<std::int32_t, B>::from({n}, place));
    if (batch.run.training && spec.dropout > 0) y = meft::dropout(y, spec.dropout, batch.run.key(site));
    const std::vector<std::int32_t> lengths(static_cast<std::size_t>(images), static_cast<std::int32_t>(each));
    auto offsets = Offsets::of_lengths(lengths);
    if (prompt) return {in_front(prompt->rows, y, offsets), prompt->with(offsets)};
    return {y, std::move(offsets)};
  }

  /// Of the images as `smaller` · patch wide and high ones, each pixel the mean of those that it covers: their patches
  /// [images · smaller², channels · patch · patch].
  Side<T, B> shrunk(const Batch<B>& batch) const {
    const Var<T, B> x = cast<T>(batch.pixels);
    const Index images = x.dim(0), channels = x.dim(1), side = smaller * spec.patch;
    const auto means = [&](Index from) {  // [from, side]
      std::vector<T> out(static_cast<std::size_t>(from * side));
      const double by = static_cast<double>(from) / static_cast<double>(side);
      for (Index i = 0; i < side; ++i) {
        const double first = static_cast<double>(i) * by, last = static_cast<double>(i + 1) * by;
        for (auto j = static_cast<Index>(first); j < from && static_cast<double>(j) < last; ++j)
          out[static_cast<std::size_t>(j * side + i)] = static_cast<T>(
              (std::min(last, static_cast<double>(j + 1)) - std::max(first, static_cast<double>(j))) / by);
      }
      return Tensor<T, B>::from({from, side}, out);
    };
    const auto narrow = matmul(reshape(x, {images * channels * x.dim(2), x.dim(3)}), means(x.dim(3)));
    const auto turned = permute(reshape(narrow, {images * channels, x.dim(2), side}), {0, 2, 1});
    const auto small = matmul(reshape(turned, {images * channels * side, x.dim(2)}), means(x.dim(2)));
    const auto cells = reshape(small, {images, channels, smaller, spec.patch, smaller, spec.patch});
    const std::vector<std::int32_t> lengths(static_cast<std::size_t>(images),
                                            static_cast<std::int32_t>(smaller * smaller));
    return {reshape(permute(cells, {0, 4, 2, 1, 5, 3}), {images * smaller * smaller, projection.in()}),
            Offsets::of_lengths(lengths)};
  }

  static void parts(auto& self, auto&& visit) {
    visit("cls_token", self.class_token);
    visit("distillation_token", self.distillation_token);
    visit("position_embeddings", self.position);
    visit("patch_embeddings.projection", self.projection);
  }

 private:
  /// [leading + rows · columns, width]; interpolated where the grid is another than the checkpoint's.
  Var<T, B> positions(Index rows, Index columns, Index leading) const {
    const Index grid = spec.grid();
    const Var<T, B> all = reshape(position, {leading + grid * grid, projection.out()});
    if (rows == grid && columns == grid) return all;
    const auto down = detail::bicubic(grid, rows), across = detail::bicubic(grid, columns);
    std::vector<T> matrix;
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < columns; ++c)
        for (Index i = 0; i < grid; ++i)
          for (Index j = 0; j < grid; ++j)
            matrix.push_back(static_cast<T>(down[static_cast<std::size_t>(r * grid + i)] *
                                            across[static_cast<std::size_t>(c * grid + j)]));
    const auto weights = Tensor<T, B>::from({rows * columns, grid * grid}, matrix);
    return concat({slice(all, 0, 0, leading), matmul(weights, slice(all, 0, leading, leading + grid * grid))}, 0);
  }
};

}  // namespace meft::nn
