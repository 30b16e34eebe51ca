// Owns: one pass of a batch through a reversible stack, slice by slice: forward, undo and backward of a slice.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <meft/base/compose.hpp>
#include <meft/ops/checkpoint.hpp>
#include <meft/reversible/layer.hpp>
#include <meft/reversible/reports.hpp>
#include <meft/reversible/slices.hpp>
#include <meft/reversible/streams.hpp>

namespace meft::detail {

/// With streams in `Word`s, as StreamPair has them.
template <Real T, Backend B, Scalar Word>
class StackRun {
 public:
  static constexpr bool fixed = StreamPair<T, B, Word>::fixed;
  using Layers = std::vector<ReversibleLayer<T, B>>;

  StackRun(std::shared_ptr<const Layers> layers, const StackOptions& options, StreamRange<T, B>& range,
           const Context<T, B>& context, bool record)
      : layers_(std::move(layers)),
        options_(options),
        streams_(options, range),
        context_(context),
        record_(record),
        first_stored_(unstored(options, layers_->size())),
        ledger_(options.word_bits, options.fraction_bits, streams_.by_feature()),
        slices_(cut<B>(context.offsets, slice_tokens<B>(options))) {
    for (auto& side : context_.sides)
      side.value = side.value.value();  // constants: the node adds their gradients itself
  }

  void forward(const std::array<Tensor<T, B>, 2>& x) {
    number_shears();
    streams_.start(x, ledger_);
    streams_.show();
    for (std::size_t l = 0; l < layers_->size(); ++l) {
      if (record_ && l > 0 && l == first_stored_) streams_.keep();
      for_slices<B>(count(), [&](Index s) { forward_slice(l, s); });
      swap_after(l);
      streams_.show();
    }
    read_.clear();
    if constexpr (fixed) ledger_.end_forward();
  }

  /// Differentiates the stored layers, undoes and differentiates those below. `gradient` holds the gradients of the
  /// final streams and then those of the inputs; those are complete only when `input` is true. Parameter gradients go
  /// to `outer` in slice order. `made`: when the forward pass was over.
  void backward(std::array<Tensor<T, B>, 2>& gradient, std::vector<Tensor<T, B>>& side_gradient, bool input,
                Tape& outer, std::uint64_t made) {
    const bool undoes = fixed && first_stored_ > 0;
    if (undoes) ledger_.begin();
    if (first_stored_ < layers_->size()) streams_.go_back();
    for (std::size_t l = layers_->size(); l-- > 0;) {
      unswap(l, gradient);
      Turnstile turnstile;
      for_slices<B>(count(), [&](Index s) {
        try {
          Tape collected;
          collected.collect();
          collected.pause();
          backward_slice(l, s, gradient, side_gradient, input || l > 0, collected);
          // The ops of a stored layer's tapes look themselves.
          const auto since = l < first_stored_ ? made : ~std::uint64_t{0};
          turnstile.pass(s, [&] { pass_on<T, B>(collected, outer, "reversible stack", since); });
        } catch (...) {
          turnstile.fail();
          throw;
        }
      });
      kept_[l].clear();
    }
    if (undoes) ledger_.end_undo(first_stored_);
  }

  const StreamPair<T, B, Word>& streams() const { return streams_; }
  /// Of a pass that was not recorded: whether a function read something that needs a gradient.
  bool refers() const { return refers_; }

 private:
  /// A function that ran on a tape of its own: what it read and what it gave.
  struct Taped {
    std::unique_ptr<Tape> tape;
    Var<T, B> x, y;
    std::vector<Side<T, B>> sides;
  };
  /// What the backward pass of one slice of one layer needs: digits for each chunk of a shear, or, where the layer is
  /// stored, the tapes of its functions.
  struct Kept {
    std::size_t slot = 0;  // of the next shear's report
    std::vector<Tensor<std::uint32_t, B>> digits;
    std::vector<Taped> taped;

    Taped pop() {
      Taped last = std::move(taped.back());
      taped.pop_back();
      return last;
    }
  };

  /// How many of so many layers are computed again in the backward pass: all below those that are stored.
  static std::size_t unstored(const StackOptions& options, std::size_t layers) {
    if (options.streams == Streams::stored) return 0;
    return layers - std::min(layers, static_cast<std::size_t>(options.stored_layers));
  }

  Index count() const { return static_cast<Index>(slices_.size()); }

  template <class X>
  X slice_rows(const X& whole, Index s) const {
    const Chunk rows = rows_of(s);
    return whole.rows(rows.first, rows.last);
  }

  Context<T, B> slice_context(Index s) const {
    const auto& [first, last] = slices_[static_cast<std::size_t>(s)];
    return context_.part(first, last);
  }

  /// The rows of a slice of the batch, or some of them.
  Chunk rows_of(Index s) const {
    const auto& [first, last] = slices_[static_cast<std::size_t>(s)];
    return {context_.offsets.begin(first), context_.offsets.end(last - 1)};
  }
  Chunk rows_of(Index s, const Chunk& c) const {
    const Index begin = rows_of(s).first;
    return {begin + c.first, begin + c.last};
  }

  /// What a step's f reads.
  Tensor<T, B> read(const Step<T, B>& step, Index s) const { return streams_.read(step.src, rows_of(s), step.reads); }
  /// The same of a stored layer: one tensor for all who read a stream until it changes.
  Tensor<T, B> read_once(const Step<T, B>& step, Index s) {
    auto& last = read_[static_cast<std::size_t>(s)][static_cast<std::size_t>(step.src)];
    if (!last.defined()) last = read(step, s);
    return last;
  }

  static std::string place(std::size_t layer, std::size_t step) { return StreamError::Place{layer, step}.text(); }
  /// Numbers the shears in the order of a forward pass through one slice after the other.
  void number_shears() {
    for (std::size_t i = 0; i < 2; ++i) ledger_.add({i, 0, true});
    kept_.resize(layers_->size());
    read_.resize(slices_.size());
    for (std::size_t l = 0; l < layers_->size(); ++l)
      for (const auto& [first, last] : slices_) {
        const Index rows = context_.offsets.end(last - 1) - context_.offsets.begin(first);
        auto& kept = kept_[l].emplace_back();
        for (std::size_t k = 0; k < (*layers_)[l].size(); ++k) {
          const auto& step = (*layers_)[l][k];
          if (step.swaps()) continue;
          for (std::size_t n = step.then ? chunks(rows).size() : 1; n-- > 0;) {
            const std::size_t number = ledger_.add({l, k});
            if (!kept.slot) kept.slot = number;
          }
        }
      }
    if (fixed) ledger_.begin();
  }

  /// f(x), or x itself.
  Var<T, B> call(const Function<T, B>& f, const Var<T, B>& x, const Context<T, B>& context, std::size_t l,
                 std::size_t k) const {
    if (!f) return x;
    auto y = f(x, context);
    if (!(y.shape() == x.shape())) fail("reversible stack: f changed the shape", place(l, k), x, y);
    return y;
  }

  /// The same on a tape of its own, with x and sides watched where their gradients are wanted.
  template <class Wanted>
  Taped record(const Function<T, B>& f, Tensor<T, B> x, bool wanted, Context<T, B> context, const Wanted& side_wanted,
               std::size_t l, std::size_t k) const {
    Taped out{std::make_unique<Tape>(), {}, {}, {}};
    out.tape->collect();
    out.x = wanted ? out.tape->watch(std::move(x)) : Var<T, B>(std::move(x));
    for (std::size_t i = 0; i < context.sides.size(); ++i)
      if (side_wanted(i)) context.sides[i].value = out.tape->watch(context.sides[i].value.value());
    out.y = call(f, out.x, context, l, k);
    out.tape->pause();
    out.sides = std::move(context.sides);
    return out;
  }

  static bool every_side(std::size_t) { return true; }
  static bool no_side(std::size_t) { return false; }

  /// The rows of a slice, cut for `then`.
  std::vector<Chunk> chunks(Index rows) const { return detail::chunks(rows, slice_tokens<B>(options_)); }

  void forward_slice(std::size_t l, Index s) {
    const auto& layer = (*layers_)[l];
    auto& kept = kept_[l][static_cast<std::size_t>(s)];
    const bool tapes = record_ && l >= first_stored_, undone = record_ && l < first_stored_;
    const auto run = [&](const Function<T, B>& f, Tensor<T, B> x, const Context<T, B>& context, std::size_t k) {
      if (tapes) return record(f, std::move(x), true, context, every_side, l, k);
      std::optional<NoTape> untaped;
      if (record_) untaped.emplace();
      Taped out{{}, {}, call(f, std::move(x), context, l, k), {}};
      if (Tape::wanting(out.y)) refers_ = true;
      return out;
    };
    const auto keep = [&](Taped taped) {
      if (!tapes) return;
      taped.x.let_go();  // what their backward passes read, the tapes hold
      taped.y.let_go();
      kept.taped.push_back(std::move(taped));
    };
    for (std::size_t k = 0; k < layer.size(); ++k) {
      const auto& step = layer[k];
      if (step.swaps()) continue;
      const auto context = slice_context(s);
      auto first = run(step.f, tapes ? read_once(step, s) : read(step, s), context, k);
      const Index rows = first.y.shape()[0];
      if (!step.then) add(l, k, kept, s, {0, rows}, first.y.value(), undone);
      else
        for (const Chunk& c : chunks(rows)) {
          auto then = run(step.then, first.y.value().rows(c.first, c.last), context.chunk(c.first, c.last), k);
          add(l, k, kept, s, c, then.y.value(), undone);
          keep(std::move(then));
        }
      keep(std::move(first));
      read_[static_cast<std::size_t>(s)][static_cast<std::size_t>(step.dst)] = {};
    }
  }

  /// x ← λ·x + f for rows of a slice, with what undoes it kept.
  void add(std::size_t l, std::size_t k, Kept& kept, Index s, const Chunk& c, const Tensor<T, B>& f, bool keep) {
    auto digits = streams_.shear((*layers_)[l][k], rows_of(s, c), f, fixed ? ledger_.at(kept.slot++) : nullptr);
    if (fixed && keep) kept.digits.push_back(std::move(digits));
  }

  /// x ← (x − f)/λ.
  void undo(std::size_t l, std::size_t k, Kept& kept, Index s, const Chunk& c, const Tensor<T, B>& f) {
    if (fixed) {
      streams_.unshear((*layers_)[l][k], rows_of(s, c), f, std::move(kept.digits.back()), ledger_.at(--kept.slot));
      kept.digits.pop_back();
    } else streams_.unshear((*layers_)[l][k], rows_of(s, c), f, {}, nullptr);
  }

  /// Undoes and differentiates `then` chunk by chunk; gives the gradient of its input h, empty where none arrived.
  Tensor<T, B> backward_chunks(std::size_t l, std::size_t k, Kept& kept, Index s, bool stored, const Var<T, B>& h,
                               const Context<T, B>& context, const Tensor<T, B>& dy, Tape& collected, Lap& lap) {
    const auto& f = (*layers_)[l][k].then;
    Tensor<T, B> dh;
    const auto all = chunks(dy.dim(0));
    for (auto c = all.rbegin(); c != all.rend(); ++c) {
      const auto then = stored ? kept.pop()
                               : record(f, h.value().rows(c->first, c->last), h.recorded(),
                                        context.chunk(c->first, c->last), no_side, l, k);
      if (!stored) undo(l, k, kept, s, *c, then.y.value());
      lap.undone();
      if (!then.y.recorded()) continue;
      then.tape->backward(then.y, dy.rows(c->first, c->last));
      pass_on<T, B>(*then.tape, collected);
      if (then.x.recorded())
        if (const auto d = then.tape->gradient(then.x); d.defined()) {
          if (all.size() == 1) dh = d;
          else {
            if (!dh.defined()) dh = Tensor<T, B>::zeros(dy.shape());
            B::copy(dh.rows(c->first, c->last).data(), d.data(), d.bytes());
          }
        }
      lap.differentiated();
    }
    return dh;
  }

  void backward_slice(std::size_t l, Index s, std::array<Tensor<T, B>, 2>& gradient,
                      std::vector<Tensor<T, B>>& side_gradient, bool input, Tape& collected) {
    const auto& layer = (*layers_)[l];
    auto& kept = kept_[l][static_cast<std::size_t>(s)];
    const bool stored = !kept.taped.empty();
    const auto side_wanted = [&](std::size_t i) { return side_gradient[i].defined(); };
    Lap lap(options_.phases);
    for (std::size_t k = layer.size(); k-- > 0;) {
      const auto& step = layer[k];
      if (step.swaps()) continue;
      const bool into_source = input || k > 0;
      const auto context = slice_context(s);
      auto dy = slice_rows(gradient[static_cast<std::size_t>(step.dst)], s);
      auto into = slice_rows(gradient[static_cast<std::size_t>(step.src)], s);
      const auto first = stored ? kept.pop() : record(step.f, read(step, s), into_source, context, side_wanted, l, k);
      if constexpr (!B::on_host)
        if (into_source) first.tape->add_into(first.x, into);
      Tensor<T, B> dh = dy;  // of what f gave
      if (step.then) dh = backward_chunks(l, k, kept, s, stored, first.y, context, dy, collected, lap);
      else if (!stored) undo(l, k, kept, s, {0, dy.dim(0)}, first.y.value());
      lap.undone();
      if (first.y.recorded() && dh.defined()) {
        first.tape->backward(first.y, std::move(dh));
        if (into_source)
          if (const auto dx = first.tape->gradient(first.x); dx.defined() && !dx.same(into)) add_to(into, dx);
        for (std::size_t i = 0; i < side_gradient.size(); ++i)
          if (side_wanted(i))
            if (const auto d = first.tape->gradient(first.sides[i].value); d.defined())
              add_to(side_rows(side_gradient[i], i, s), d);
        pass_on<T, B>(*first.tape, collected);
      }
      if (into_source && !(step.lambda == Lambda{1, 1}))
        map(B{}, WithRight<Mul, T>{{}, static_cast<T>(step.lambda.value())}, dy.size(), dy.data(),
            std::as_const(dy).data());
      if (into_source && step.balanced)
        map(B{}, Sub{}, into.size(), into.data(), std::as_const(into).data(), std::as_const(dy).data());
      lap.differentiated();
    }
  }

  void add_to(Tensor<T, B> into, const Tensor<T, B>& x) const {
    map(B{}, Add{}, x.size(), into.data(), std::as_const(into).data(), x.data());
  }

  Tensor<T, B> side_rows(const Tensor<T, B>& whole, std::size_t i, Index s) const {
    const auto& [first, last] = slices_[static_cast<std::size_t>(s)];
    const auto& offsets = context_.sides[i].offsets;
    return whole.rows(offsets.begin(first), offsets.end(last - 1));
  }

  bool swaps(std::size_t l) const { return !(*layers_)[l].empty() && (*layers_)[l].back().swaps(); }
  void swap_after(std::size_t l) {
    if (!swaps(l)) return;
    streams_.swap();
    for (auto& [first, second] : read_) std::swap(first, second);
  }
  void unswap(std::size_t l, std::array<Tensor<T, B>, 2>& gradient) {
    if (!swaps(l)) return;
    if (l < first_stored_) streams_.swap();
    std::swap(gradient[0], gradient[1]);
  }

  std::shared_ptr<const Layers> layers_;
  StackOptions options_;
  StreamPair<T, B, Word> streams_;
  Context<T, B> context_;
  bool record_;
  std::atomic<bool> refers_{false};
  std::size_t first_stored_;  // layer
  ShearLedger<B> ledger_;
  std::vector<std::pair<Index, Index>> slices_;
  std::vector<std::array<Tensor<T, B>, 2>> read_;  // of each slice, in the forward pass: what stored layers read last
  std::vector<std::vector<Kept>> kept_;
};

}  // namespace meft::detail
