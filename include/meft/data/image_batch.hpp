// Owns: batches of images as a model takes them: decoded, shaped, perhaps varied, and normalised.
// Must not know the order of an epoch, or threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/image.hpp>
#include <meft/data/image_files.hpp>
#include <meft/data/preprocess.hpp>

namespace meft::data {

/// Images [examples, 3, height, width], row-major, and their classes. Ordinary memory: batches are made beside
/// training.
struct ImageBatch {
  std::vector<std::uint32_t> examples;  // numbers in the split
  std::vector<float> pixels;
  std::vector<std::int32_t> labels;
  int height = 0, width = 0;
};

/// The batch of `examples` (numbers in `split`, a split of `data`). With `augment` every image is varied by its number
/// and the epoch: the same number, seed and epoch give the same bits in any batch. Ends early, with what it has, when
/// `stop` becomes true. Errors: an example that is not in the split, a processor without a fixed size, images that
/// cannot be decoded (naming the file).
inline ImageBatch image_batch(const ImageDataset& data, std::span<const ImageExample> split,
                              std::span<const std::uint32_t> examples, const ImageProcessor& processor,
                              const std::optional<Augment>& augment = {}, const std::atomic<bool>* stop = nullptr,
                              Where where = Where::current()) {
  const Box out = processor.output(where);
  const PixelMap values = processor.pixel_map();
  const std::size_t size = std::size_t{3} * static_cast<std::size_t>(out.height) * static_cast<std::size_t>(out.width);
  ImageBatch batch{{examples.begin(), examples.end()}, {}, {}, out.height, out.width};
  require(examples.size() <= std::numeric_limits<std::size_t>::max() / sizeof(float) / size,
          {"image batch: too many examples", where}, examples.size());
  batch.pixels.resize(examples.size() * size);
  batch.labels.reserve(examples.size());
  for (std::size_t i = 0; i < examples.size(); ++i) {
    if (stop && *stop) break;
    require(examples[i] < split.size(), {"image batch: the split has no such example", where}, examples[i],
            split.size());
    const ImageExample& example = split[examples[i]];
    const Image image = data.image(example, where);
    const Image shaped = augment ? processor.vary(image, *augment, examples[i], where) : processor.shape(image, where);
    values.write(shaped, std::span(batch.pixels).subspan(i * size, size), where);
    batch.labels.push_back(static_cast<std::int32_t>(example.label));
  }
  return batch;
}

}  // namespace meft::data
