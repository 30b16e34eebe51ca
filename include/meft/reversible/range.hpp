// Owns: the range of a stack's streams: fraction bits a feature, and the values by which they are found.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <meft/autodiff/tape.hpp>
#include <meft/backend/kernels/map.hpp>
#include <meft/base/functor.hpp>
#include <meft/reversible/reports.hpp>

namespace meft {

/// Powers of two, a feature each, that take values into units in which every feature has the stack's fraction bits, and
/// back. They change no bit of a value, so that shears need not know.
template <Real T, Backend B = Cpu>
class StreamUnits {
 public:
  StreamUnits() = default;
  /// Of features that have so many fraction bits; the stack has `most`.
  StreamUnits(const std::vector<int>& bits, int most) {
    if (bits.empty()) return;
    std::vector<T> in, out;
    for (const int b : bits) in.push_back(std::ldexp(T(1), b - most)), out.push_back(std::ldexp(T(1), most - b));
    in_ = Tensor<T, B>::from({static_cast<Index>(bits.size())}, in);
    out_ = Tensor<T, B>::from({static_cast<Index>(bits.size())}, out);
  }

  bool differ() const { return in_.defined(); }
  /// x [rows, width] on its way into fixed point, and out of it, in place.
  void enter(Tensor<T, B>& x) const {
    if (differ()) multiply(x, in_, x);
  }
  void leave(Tensor<T, B>& x) const {
    if (differ()) multiply(x, out_, x);
  }
  Tensor<T, B> entered(const Tensor<T, B>& x) const {
    if (!differ()) return x;
    Tensor<T, B> out(x.shape());
    multiply(x, in_, out);
    return out;
  }

 private:
  static void multiply(const Tensor<T, B>& x, const Tensor<T, B>& by, Tensor<T, B>& to) {
    map_broadcast(B{}, Mul{}, x.shape(), to.data(), x.shape(), x.data(), by.shape(), by.data());
  }

  Tensor<T, B> in_, out_;
};

/// How many fraction bits each feature of both streams has: the stack's own number, or fewer where its values are
/// large.
template <Real T, Backend B = Cpu>
class StreamRange {
 public:
  StreamRange(int word_bits, int most) : word_bits_(word_bits), most_(most) {}

  /// [width]; empty: every feature has the stack's number.
  const std::vector<int>& bits() const { return bits_; }
  int most() const { return most_; }
  /// The number of the feature that has the fewest.
  int least() const { return bits_.empty() ? most_ : *std::min_element(bits_.begin(), bits_.end()); }

  /// Takes `bits` as `bits()` gives them. Errors: one below 1 or above the stack's number.
  void set(std::vector<int> bits, Where where = Where::current()) {
    for (const int b : bits)
      require(b >= 1 && b <= most_, {"stream range: fraction bits are not in [1, the stack's], found", where}, b,
              most_);
    if (std::all_of(bits.begin(), bits.end(), [&](int b) { return b == most_; })) bits.clear();
    bits_ = std::move(bits);
    units_ = {bits_, most_};
  }
  const StreamUnits<T, B>& units() const { return units_; }

  // While it is watched, a stack runs in floating point and shows what its streams hold.

  void watch() { seen_.emplace(); }
  bool watched() const { return seen_.has_value(); }
  void see(const Tensor<T, B>& x) {
    const auto values = x.host();
    const auto width = static_cast<std::size_t>(x.dim(1));
    seen_->resize(std::max(seen_->size(), width));
    const T* at = std::as_const(values).data();
    for (Index row = 0; row < x.dim(0); ++row)
      for (std::size_t j = 0; j < width; ++j, ++at) {
        const double a = std::fabs(static_cast<double>(*at));
        auto& most = (*seen_)[j];
        if (!(a <= most)) most = std::isnan(a) ? std::numeric_limits<double>::infinity() : a;
      }
  }
  /// Ends it and gives the largest magnitude of each feature.
  std::vector<double> seen() { return std::exchange(seen_, {}).value_or(std::vector<double>{}); }

  /// The bits with which `seen` fills at most half of the range; where that is every feature's as it is and `must`, one
  /// less for those that fill most of it. Empty where 1 bit is too many, as for a value that is not finite.
  std::vector<int> wider(const std::vector<double>& seen, bool must) const {
    auto out = bits_.empty() ? std::vector<int>(seen.size(), most_) : bits_;
    if (seen.size() != out.size()) return {};
    const auto filled = [&](std::size_t j) { return std::ldexp(seen[j], out[j] + 1 - word_bits_); };
    double most = 0;
    bool changed = false;
    for (std::size_t j = 0; j < out.size(); ++j) {
      if (!std::isfinite(seen[j])) return {};
      most = std::max(most, filled(j));
      for (; out[j] > 0 && filled(j) > 0.5; --out[j]) changed = true;
    }
    if (!changed && must && most > 0)
      for (std::size_t j = 0; j < out.size(); ++j)
        if (filled(j) == most) --out[j];
    if (std::any_of(out.begin(), out.end(), [](int b) { return b < 1; })) return {};
    return out;
  }

 private:
  int word_bits_, most_;
  std::vector<int> bits_;
  StreamUnits<T, B> units_;
  std::optional<std::vector<double>> seen_;
};

/// The ranges of a body's stacks.
template <Real T, Backend B>
using StreamRanges = std::vector<StreamRange<T, B>*>;

/// What a change of ranges came to.
struct Widened {
  std::size_t features = 0;  // that have fewer bits than before
  int least = 0;             // bits of the feature that has the fewest
};

/// Gives features a wider range by the values that streams have in forward(), a pass or several, under no tape. `must`:
/// a value left the range, so at least one gets it. None changed: nothing had to be, or nothing helps.
template <Real T, Backend B>
Widened widen(const StreamRanges<T, B>& ranges, bool must, const std::function<void()>& forward) {
  struct Watch {
    const StreamRanges<T, B>& ranges;
    ~Watch() {
      for (auto* range : ranges) (void)range->seen();
    }
  } const watch{ranges};
  for (auto* range : ranges) range->watch();
  {
    const NoTape none;
    forward();
  }
  std::vector<std::vector<double>> seen;
  for (auto* range : ranges) seen.push_back(range->seen());
  Widened out;
  const auto all = [&](bool at_least_one) {
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      const auto before = ranges[i]->bits();
      const auto bits = ranges[i]->wider(seen[i], at_least_one);
      for (std::size_t j = 0; j < bits.size(); ++j)
        out.features += before.empty() ? bits[j] < ranges[i]->most() : bits[j] < before[j];
      if (!bits.empty()) ranges[i]->set(bits);
    }
  };
  all(false);
  if (out.features == 0 && must) all(true);
  for (const auto* range : ranges) out.least = out.least ? std::min(out.least, range->least()) : range->least();
  return out;
}

/// The same after `error`. None changed: it has another cause.
template <Real T, Backend B>
Widened widen_after(const Error& error, const StreamRanges<T, B>& ranges, const std::function<void()>& forward) {
  const auto* left = dynamic_cast<const StreamError*>(&error);
  return left && std::isfinite(left->value) ? widen(ranges, true, forward) : Widened{};
}

/// f(), which records nothing, as often as a value leaves the range of a stream, each time with a wider one.
template <Real T, Backend B, class F>
auto in_range(const StreamRanges<T, B>& ranges, const F& f) {
  for (;;) try {
      return f();
    } catch (const StreamError& error) {
      if (widen_after(error, ranges, [&] { (void)f(); }).features == 0) throw;
    }
}

}  // namespace meft
