// Owns: batches of images as a model takes them: decoded, shaped, perhaps varied; normalised when they are written.
// Must not know the order of an epoch, or threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/image.hpp>
#include <meft/data/image_files.hpp>
#include <meft/data/preprocess.hpp>

namespace meft::data {

/// Images of one size and their classes. Ordinary memory: batches are made beside training. What waits is a byte a
/// value, a quarter of what the model sees.
struct ImageBatch {
  std::vector<std::uint32_t> examples;  // numbers in the split
  std::vector<Image> images;
  std::vector<std::int32_t> labels;
  int height = 0, width = 0;
  PixelMap values;

  /// Elements of an image that the model sees.
  std::size_t size() const {
    return std::size_t{3} * static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  }
  /// Normalised, [examples, 3, height, width], row-major. Errors: `out` has another number of elements.
  void write(std::span<float> out, Where where = Where::current()) const {
    require(out.size() == images.size() * size(), {"image batch: the output does not fit", where}, out.size(),
            images.size() * size());
    for (std::size_t i = 0; i < images.size(); ++i) values.write(images[i], out.subspan(i * size(), size()), where);
  }
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
  ImageBatch batch{{examples.begin(), examples.end()}, {}, {}, out.height, out.width, processor.pixel_map()};
  for (std::size_t i = 0; i < examples.size(); ++i) {
    if (stop && *stop) break;
    require(examples[i] < split.size(), {"image batch: the split has no such example", where}, examples[i],
            split.size());
    const ImageExample& example = split[examples[i]];
    const Image image = data.image(example, where);
    try {
      batch.images.push_back(augment ? processor.vary(image, *augment, examples[i], where)
                                     : processor.shape(image, where));
    } catch (Error& error) {
      error.within(data.files[example.file], where);
      throw;
    }
    batch.labels.push_back(static_cast<std::int32_t>(example.label));
  }
  return batch;
}

}  // namespace meft::data
