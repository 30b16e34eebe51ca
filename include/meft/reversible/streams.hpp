// Owns: the two streams of a pass through a reversible stack, in words: encoded, read, sheared and unsheared.
#pragma once

#include <array>
#include <type_traits>
#include <utility>

#include <meft/backend/kernels/shear.hpp>
#include <meft/base/compose.hpp>
#include <meft/reversible/layer.hpp>
#include <meft/reversible/range.hpp>
#include <meft/reversible/reports.hpp>
#include <meft/reversible/slices.hpp>

namespace meft::detail {

/// [rows, width] each, in fixed point (int32, int64), or in T itself for the rounded policy.
template <Real T, Backend B, Scalar Word>
class StreamPair {
 public:
  static constexpr bool fixed = !std::is_same_v<Word, T>;

  StreamPair(const StackOptions& options, StreamRange<T, B>& range)
      : fraction_bits_(options.fraction_bits), range_(range.watched() ? &range : nullptr), units_(range.units()) {}

  /// Whether features have numbers of fraction bits of their own.
  bool by_feature() const { return units_.differ(); }
  Index rows() const { return rows_; }
  Index width() const { return width_; }

  /// Starts them as x; each reports to the ledger's slot of its number.
  void start(const std::array<Tensor<T, B>, 2>& x, const ShearLedger<B>& ledger) {
    rows_ = x[0].dim(0);
    width_ = x[0].dim(1);
    const UseScope use(Use::streams);
    for (std::size_t i = 0; i < 2; ++i) {
      now_[i] = Tensor<Word, B>({rows_, width_});
      if constexpr (fixed) {
        const auto from = units_.entered(x[i]);
        to_fixed(B{}, rows_ * width_, from.data(), now_[i].data(), fraction_bits_, ledger.at(i));
      } else B::copy(now_[i].data(), x[i].data(), x[i].bytes());
    }
  }

  void swap() { std::swap(now_[0], now_[1]); }
  /// Keeps what they are, and makes them that again; where nothing was kept they are gone.
  void keep() {
    const UseScope use(Use::streams);
    kept_ = {now_[0].clone(), now_[1].clone()};
  }
  void go_back() { now_ = std::exchange(kept_, {}); }

  /// Shows them to whoever looks for their range.
  void show() const {
    if constexpr (!fixed)
      for (const auto& x : now_)
        if (range_) range_->see(x);
  }

  /// x = X·2⁻ˢ of one stream, or of some of its rows.
  Tensor<T, B> value(int stream) const { return read(stream, {0, rows_}); }
  Tensor<T, B> read(int stream, const Chunk& rows, [[maybe_unused]] Hand hand = Hand::in_full) const {
    const auto from = words(stream, rows);
    Tensor<T, B> to(from.shape());
    if constexpr (fixed) {
      T* const full = to.data();
      if constexpr (Tensor<T, B>::rounds)
        from_fixed(B{}, from.size(), from.data(), full, fraction_bits_,
                   to.fill_rounded(units_.differ() ? Hand::in_full : hand));
      else from_fixed(B{}, from.size(), from.data(), full, fraction_bits_);
      units_.leave(to);
    } else B::copy(to.data(), from.data(), from.bytes());
    return to;
  }

  /// x ← λ·x + f for some rows; gives the digits that undo it.
  Tensor<std::uint32_t, B> shear(const Step<T, B>& step, const Chunk& rows, const Tensor<T, B>& given,
                                 [[maybe_unused]] ShearSlot* report) {
    auto x = words(step.dst, rows);
    const auto f = added(step, rows, given);
    if constexpr (fixed) {
      const UseScope use(Use::digits);
      Tensor<std::uint32_t, B> digits({digit_words<Word>(B{}, x.size(), step.lambda)});
      meft::shear(B{}, x.size(), x.data(), f.data(), step.lambda, fraction_bits_, digits.data(), report);
      return digits;
    } else {
      shear_rounded(B{}, x.size(), x.data(), f.data(), step.lambda);
      return {};
    }
  }
  /// x ← (x − f)/λ. Uses the digits up.
  void unshear(const Step<T, B>& step, const Chunk& rows, const Tensor<T, B>& given,
               [[maybe_unused]] Tensor<std::uint32_t, B> digits, [[maybe_unused]] ShearSlot* report) {
    auto x = words(step.dst, rows);
    const auto f = added(step, rows, given);
    if constexpr (fixed)
      meft::unshear(B{}, x.size(), x.data(), f.data(), step.lambda, fraction_bits_, digits.data(), report);
    else unshear_rounded(B{}, x.size(), x.data(), f.data(), step.lambda);
  }

 private:
  Tensor<Word, B> words(int stream, const Chunk& rows) const {
    return now_[static_cast<std::size_t>(stream)].rows(rows.first, rows.last);
  }
  /// What a step adds to λ·x[dst], in the units of fixed point: f, or f − λ·x[src] where it is balanced.
  Tensor<T, B> added(const Step<T, B>& step, const Chunk& rows, const Tensor<T, B>& f) const {
    if (!step.balanced) return fixed ? units_.entered(f) : f;
    auto out = read(step.src, rows);
    map(B{}, Mix<T>{static_cast<T>(-step.lambda.value()), T(1)}, out.size(), out.data(), std::as_const(out).data(),
        f.data());
    if (fixed) units_.enter(out);
    return out;
  }

  int fraction_bits_;
  StreamRange<T, B>* range_;  // that is being looked for
  StreamUnits<T, B> units_;
  Index rows_ = 0, width_ = 0;
  std::array<Tensor<Word, B>, 2> now_, kept_;
};

}  // namespace meft::detail
