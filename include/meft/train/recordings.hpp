// Owns: the recordings of a learner's steps on a device, by the shapes of the batch and by what follows from its
// lengths. Must not know: which batch comes when, and the optimizer.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <meft/autodiff/tape.hpp>
#include <meft/memory/pool.hpp>
#include <meft/nn/batch.hpp>

namespace meft::train {

/// The loss of a batch, recorded by the current tape.
template <Real T, Backend B>
using Loss = std::function<Var<T, B>(const nn::Batch<B>&)>;

namespace detail {

/// The gradients of a batch's loss times its weight.
template <Real T, Backend B>
void backward(Tape& tape, const Var<T, B>& loss, const nn::Batch<B>& batch) {
  if (batch.weight.defined()) tape.backward(loss, nn::cast<T>(batch.weight).reshape(loss.shape()));
  else tape.backward(loss);
}

}  // namespace detail

/// The second of two batches of the same shapes that no recording fits is recorded: loss, and gradients added to the
/// parameters, which have gradients already. B::Recording says what cannot be recorded. Batches that were filled up
/// (nn/filled.hpp) have the same shapes where they have as many sequences and tokens; others where each sequence has as
/// many, and so have all once a model's work turns out to be tied to them.
template <Real T, Backend B>
class Recordings {
 public:
  /// What a recording depends on besides the values of its inputs.
  struct Shapes {
    Offsets offsets, answers, wrong;
    std::array<Shape, nn::Batch<B>::inputs> inputs;
    bool training;
    std::uint64_t seed;
    Index filling;
    bool open;  // to other lengths of the sequences

    Shapes(const nn::Batch<B>& of, bool tied)
        : offsets(of.offsets),
          answers(of.answers),
          wrong(of.wrong),
          training(of.run.training),
          seed(of.run.seed),
          filling(of.filling),
          open(of.filling > 0 && !tied) {
      std::size_t i = 0;
      of.for_each_input([&](const auto& x) { inputs[i++] = x.defined() ? x.shape() : Shape{0}; });
    }
    bool operator==(const Shapes& other) const {
      const bool rows = open && other.open ? offsets.sequences() == other.offsets.sequences() &&
                                                 offsets.tokens() == other.offsets.tokens()
                                           : offsets == other.offsets;
      return rows && answers == other.answers && wrong == other.wrong && inputs == other.inputs &&
             training == other.training && seed == other.seed && filling == other.filling;
    }
  };

  struct Entry {
    Shapes shapes;
    nn::Batch<B> batch{};  // what the recording reads
    typename B::Recording recording{};
    double loss = 0;  // of its last run
    std::size_t activation_bytes = 0;
  };

  /// At most `most` are made, which is below 64.
  Recordings(Loss<T, B> loss, std::size_t most) : loss_(std::move(loss)), most_(std::min(most, most_shapes - 1)) {}

  /// The recording of these shapes, holding the batch's values; null where there is none.
  Entry* of(const nn::Batch<B>& batch) {
    if (!most_) return nullptr;
    const Shapes shapes(batch, tied_);
    Entry* seen = nullptr;
    for (const auto& entry : entries_) {
      if (!(entry->shapes == shapes)) continue;
      if (!entry->recording) seen = entry.get();
      else if (fill(*entry, batch)) return entry.get();
    }
    if (!seen) {
      if (entries_.size() == most_shapes) entries_.erase(oldest_unrecorded());
      entries_.push_back(std::make_unique<Entry>(Entry{shapes}));
      return nullptr;
    }
    if (made_ == most_) return nullptr;
    record(*seen, batch);
    if (!seen->recording) {
      most_ = made_ = 0;  // this learner reads its batch on the host
      return nullptr;
    }
    ++made_;
    return seen->recording.fits() ? seen : nullptr;
  }

 private:
  static constexpr std::size_t most_shapes = 64;  // remembered

  /// Whether a recording takes the batch, whose values it then holds.
  static bool fill(Entry& entry, const nn::Batch<B>& batch) {
    if (entry.shapes.open) entry.batch.offsets.assign(batch.offsets);
    if (!entry.recording.settled()) return false;
    refill(entry.batch, batch);
    return entry.recording.fits();
  }

  /// There is one: more shapes are remembered than recorded.
  auto oldest_unrecorded() {
    return std::find_if(entries_.begin(), entries_.end(), [](const auto& e) { return !e->recording; });
  }

  static void refill(nn::Batch<B>& to, const nn::Batch<B>& from) {
    std::array<const void*, nn::Batch<B>::inputs> values{};
    std::size_t i = 0;
    from.for_each_input([&](const auto& x) { values[i++] = x.defined() ? x.data() : nullptr; });
    i = 0;
    to.for_each_input([&](auto& x) {
      if (const void* value = values[i++]) B::copy(x.data(), value, x.bytes());
    });
  }

  void record(Entry& entry, const nn::Batch<B>& batch) {
    entry.batch = batch;
    if (entry.shapes.open) entry.batch.offsets = batch.offsets.open();
    std::vector<typename B::Recording::Input> inputs;
    {
      const ShelfScope shelf(Shelf::recordings);
      entry.batch.for_each_input([&](auto& x) {
        if (!x.defined()) return;
        x = x.clone();
        inputs.push_back({x.data(), x.bytes()});
      });
    }
    const Measure measure(B::pool());
    entry.recording = typename B::Recording(std::move(inputs), [&] {
      Tape tape;
      const auto loss = loss_(entry.batch);
      B::read(loss.value().data(), sizeof(T),
              [to = &entry.loss](const void* data) { *to = static_cast<double>(*static_cast<const T*>(data)); });
      detail::backward(tape, loss, entry.batch);
    });
    entry.activation_bytes = measure.activation();
    if (!entry.shapes.open || !entry.batch.offsets.tied()) return;
    tied_ = true;
    entry.shapes = Shapes(batch, tied_);
  }

  Loss<T, B> loss_;
  std::size_t most_, made_ = 0;
  bool tied_ = false;  // what is done with a batch follows from the length of each sequence
  std::vector<std::unique_ptr<Entry>> entries_;
};

}  // namespace meft::train
