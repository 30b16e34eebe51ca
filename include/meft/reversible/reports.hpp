// Owns: the reports of the shears of a pass. They stay where the shears run until the pass is over, so that nobody
// waits for a device in between.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <meft/backend/backend.hpp>
#include <meft/backend/report.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

/// A value of a stream outside its fixed-point range, or not finite: where it was, and what would have held it. Such a
/// stack takes a wider range (`widen`), a word of 64 bits, or rounded streams, which have none.
class StreamError : public NumberError {
 public:
  /// A step of a layer; or, at the start, what the stack was given.
  struct Place {
    std::size_t layer = 0, step = 0;
    bool input = false;

    std::string text() const {
      return input ? "the input of the stack"
                   : "reversible layer " + std::to_string(layer) + ", step " + std::to_string(step);
    }
  };

  /// `by_feature`: the stack has features of fewer bits, and `found` is in the unit in which they have as many.
  StreamError(Place at, double found, int bits_of_word, int bits_of_fraction, bool by_feature = false,
              Where where = Where::current())
      : NumberError("reversible stack: a stream left the fixed-point range: " + at.text() + ", value " +
                        std::to_string(found) + ", range +-" +
                        std::to_string(std::ldexp(1.0, bits_of_word - 1 - bits_of_fraction)) + " (" +
                        std::to_string(bits_of_fraction) + " fraction bits" +
                        (by_feature ? ", in a unit in which each feature has as many)" : ")"),
                    where),
        place(at),
        value(found),
        word_bits(bits_of_word),
        fraction_bits(bits_of_fraction) {}

  Place place;
  double value;
  int word_bits, fraction_bits;
};

}  // namespace meft

namespace meft::detail {

/// Slots of `count` shears, zero.
template <Backend B>
class ShearReports {
 public:
  ShearReports() = default;
  explicit ShearReports(std::size_t count) : count_(count), buffer_(B::pool(), bytes()) {
    B::zero(buffer_.data(), bytes());
  }

  ShearSlot* at(std::size_t i) const { return static_cast<ShearSlot*>(buffer_.data()) + i; }

  /// f(slots) when the shears are done.
  template <class F>
  void read(const F& f) const {
    B::read(buffer_.data(), bytes(), [f, count = count_](const void* data) {
      const auto* slots = static_cast<const ShearSlot*>(data);
      f(std::vector<ShearSlot>(slots, slots + count));
    });
  }

 private:
  std::size_t bytes() const { return count_ * sizeof(ShearSlot); }

  std::size_t count_ = 0;
  Buffer buffer_;
};

/// The shears of a stack in both passes: each has a number, a slot to report to, and a name for messages.
template <Backend B>
class ShearLedger {
 public:
  /// A shear of a layer's step; or, first of all, a stream that is encoded.
  using Place = StreamError::Place;

  ShearLedger(int word_bits, int fraction_bits, bool by_feature)
      : kept_(std::make_shared<Kept>(Kept{word_bits, fraction_bits, by_feature, {}, {}})) {}

  /// The number of the next shear.
  std::size_t add(Place place) {
    kept_->places.push_back(place);
    return kept_->places.size() - 1;
  }
  /// Makes the slots of a pass.
  void begin() { reports_ = ShearReports<B>(kept_->places.size()); }
  ShearSlot* at(std::size_t number) const { return reports_.at(number); }

  /// Ends a forward pass: throws, when that is known, for the first shear that left its range.
  void end_forward() {
    std::exchange(reports_, {}).read([kept = kept_](std::vector<ShearSlot> slots) {
      kept->seen = std::move(slots);
      for (std::size_t i = 0; i < kept->seen.size(); ++i)
        if (kept->seen[i].worst) kept->overflow(i);
    });
  }
  /// Ends a pass that undid the lowest so many layers: throws for the last shear that was not given back its input.
  void end_undo(std::size_t layers) {
    std::exchange(reports_, {}).read([kept = kept_, layers](const std::vector<ShearSlot>& slots) {
      for (std::size_t i = slots.size(); i-- > 0;)
        if (kept->undone(i, layers) && (slots[i].worst || slots[i].hash != kept->seen[i].hash))
          fail("reversible stack: undoing did not give back the input, so f is not deterministic", kept->name(i));
    });
  }

 private:
  struct Kept {
    int word_bits, fraction_bits;
    bool by_feature;
    std::vector<Place> places;
    std::vector<ShearSlot> seen;  // of the forward pass

    bool undone(std::size_t i, std::size_t layers) const { return !places[i].input && places[i].layer < layers; }
    std::string name(std::size_t i) const { return places[i].text(); }
    [[noreturn]] void overflow(std::size_t i) const {
      throw StreamError(places[i], report_of(seen[i], fraction_bits).value, word_bits, fraction_bits, by_feature);
    }
  };

  std::shared_ptr<Kept> kept_;
  ShearReports<B> reports_;  // of the pass that runs
};

}  // namespace meft::detail
