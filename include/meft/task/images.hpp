// Owns: a split of a data set of images as a trainer takes it: batches are decoded on threads of their own, ahead of
// their use. Must not know: models, and how training goes.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <meft/data/image_batch.hpp>
#include <meft/data/prefetch.hpp>
#include <meft/nn/batch.hpp>

namespace meft::task {

/// The data set and the processor must outlive it. With `augment` the images are varied anew in each epoch.
class ImageSet {
 public:
  std::vector<float> labels;  // class numbers

  ImageSet(const data::ImageDataset& data, std::span<const data::ImageExample> split,
           const data::ImageProcessor& processor, std::optional<data::Augment> augment = {},
           data::PrefetchOptions ahead = {.ahead = 1})
      : data_(data), split_(split), processor_(processor), augment_(std::move(augment)), ahead_(ahead) {
    for (const auto& example : split) labels.push_back(static_cast<float>(example.label));
  }

  std::size_t size() const { return split_.size(); }
  /// Pixels; every image has as many as the others.
  std::vector<std::uint32_t> lengths() const {
    const auto box = processor_.output();
    return std::vector<std::uint32_t>(size(), static_cast<std::uint32_t>(box.height * box.width));
  }

  /// Begins to make these batches of an epoch, which will be asked for in this order.
  void expect(std::span<const std::vector<std::uint32_t>> batches, std::uint32_t epoch) const {
    coming_.reset();
    if (augment_) augment_->epoch = epoch;
    coming_ = std::make_unique<data::Prefetch<data::ImageBatch>>(
        batches.size(),
        [&data = data_, split = split_, &processor = processor_, augment = augment_,
         list = std::vector<std::vector<std::uint32_t>>(batches.begin(), batches.end())](
            std::size_t i, const std::atomic<bool>& stop) {
          return data::image_batch(data, split, list[i], processor, augment, &stop);
        },
        ahead_);
  }

  /// The images numbered `rows`: the next expected batch, or made now.
  data::ImageBatch take(std::span<const std::uint32_t> rows, Where where = Where::current()) const {
    if (coming_) {
      if (auto next = coming_->next();
          next && std::equal(rows.begin(), rows.end(), next->examples.begin(), next->examples.end()))
        return std::move(*next);
      coming_.reset();
    }
    return data::image_batch(data_, split_, rows, processor_, augment_, nullptr, where);
  }

 private:
  const data::ImageDataset& data_;
  std::span<const data::ImageExample> split_;
  const data::ImageProcessor& processor_;
  mutable std::optional<data::Augment> augment_;
  data::PrefetchOptions ahead_;
  mutable std::unique_ptr<data::Prefetch<data::ImageBatch>> coming_;
};

/// The images numbered `rows` as one batch, with their classes where `labels` is their number, not -1.
template <Backend B = Cpu>
nn::Batch<B> batch_of(const ImageSet& images, std::span<const std::uint32_t> rows, int labels = -1, Run run = {},
                      Where where = Where::current()) {
  const auto made = images.take(rows, where);
  const Index n = static_cast<Index>(rows.size());
  nn::Batch<B> batch;
  batch.run = run;
  batch.pixels = Tensor<float, B>({n, 3, made.height, made.width});
  batch.pixels.fill([&](std::span<float> to) { made.write(to, where); });
  if (labels > 0) batch.labels = Tensor<std::int32_t, B>::from({n}, made.labels, where);
  return batch;
}

}  // namespace meft::task
