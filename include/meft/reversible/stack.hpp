// Owns: the reversible stack, one node on the tape however deep it is. It holds its streams, their gradients, the side
// digits and one slice of one layer a worker; nothing else grows with depth.
#pragma once

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include <meft/base/compose.hpp>
#include <meft/reversible/run.hpp>

namespace meft {

namespace detail {

/// y from the final streams, and the gradients of both from dy.
template <Real T, Backend B, Scalar Word>
struct StackOutput {
  using Pair = StreamPair<T, B, Word>;

  static Tensor<T, B> read(const Pair& streams, const Readout& readout, int carrier, const Tensor<T, B>& mix) {
    using Kind = Readout::Kind;
    if (readout.kind == Kind::carrier) return streams.value(carrier);
    auto a = streams.value(0), b = streams.value(1);
    if (readout.kind == Kind::concat) {
      Tensor<T, B> out({streams.rows(), 2 * streams.width()});
      copy_rows(B{}, streams.rows(), streams.width(), a.data(), streams.width(), out.data(), 2 * streams.width());
      copy_rows(B{}, streams.rows(), streams.width(), b.data(), streams.width(), out.data() + streams.width(),
                2 * streams.width());
      return out;
    }
    if (readout.kind == Kind::learned) {
      const auto by = learned(carrier, mix);
      return map(Add{}, scaled(std::move(a), by[0]), scaled(std::move(b), by[1]));
    }
    const auto [first, second] = weights(readout, carrier);
    map(B{}, Mix<T>{first, second}, a.size(), a.data(), std::as_const(a).data(), b.data());
    return a;
  }

  static std::array<Tensor<T, B>, 2> spread(const Pair& streams, const Readout& readout, int carrier,
                                            const Tensor<T, B>& mix, Tensor<T, B> dy) {
    using Kind = Readout::Kind;
    if (readout.kind == Kind::learned) {
      const auto by = learned(carrier, mix);
      return {scaled(dy, by[0]), scaled(std::move(dy), by[1])};  // in this order
    }
    std::array<Tensor<T, B>, 2> out{Tensor<T, B>({streams.rows(), streams.width()}),
                                    Tensor<T, B>({streams.rows(), streams.width()})};
    if (readout.kind == Kind::concat) {
      for (std::size_t i = 0; i < 2; ++i)
        copy_rows(B{}, streams.rows(), streams.width(),
                  std::as_const(dy).data() + static_cast<Index>(i) * streams.width(), 2 * streams.width(),
                  out[i].data(), streams.width());
      return out;
    }
    const auto [first, second] = weights(readout, carrier);
    const T by[2] = {first, second};
    for (std::size_t i = 0; i < 2; ++i)
      map(B{}, WithLeft<Mul, T>{{}, by[i]}, dy.size(), out[i].data(), std::as_const(dy).data());
    return out;
  }

  /// dα = Σ dy ⊙ (carrier − other), for the learned mix y = α·carrier + (1 − α)·other.
  static Tensor<T, B> mix_gradient(const Pair& streams, int carrier, const Tensor<T, B>& dy) {
    auto a = streams.value(carrier);
    const auto b = streams.value(1 - carrier);
    map(B{}, DifferenceTimes{}, a.size(), a.data(), std::as_const(a).data(), b.data(), dy.data());
    return sum_axis(a.reshape({a.size()}), 0).reshape({1});
  }

 private:
  /// α of the carrier and 1 − α of the other, in the streams' order, where they are: the host need not wait for them.
  static std::array<Tensor<T, B>, 2> learned(int carrier, const Tensor<T, B>& alpha) {
    std::array<Tensor<T, B>, 2> out;
    out[static_cast<std::size_t>(carrier)] = alpha;
    out[static_cast<std::size_t>(1 - carrier)] = map(WithLeft<Sub, T>{{}, T(1)}, alpha);
    return out;
  }
  /// The weights of the carrier and of the other, in the streams' order.
  static std::pair<T, T> of(int carrier, double own, double other) {
    const auto a = static_cast<T>(own), b = static_cast<T>(other);
    return carrier == 0 ? std::pair{a, b} : std::pair{b, a};
  }
  static std::pair<T, T> weights(const Readout& readout, int carrier) {
    switch (readout.kind) {
      case Readout::Kind::average: return {T(0.5), T(0.5)};
      case Readout::Kind::mix: return {static_cast<T>(readout.first), static_cast<T>(readout.second)};
      case Readout::Kind::scaled: return of(carrier, readout.first, readout.second);
      default: return of(carrier, 1, 0);
    }
  }
};

template <Real T, Backend B, Scalar Word>
struct StackNode final : Slot<T, B> {
  using Slot<T, B>::Slot;

  void backward(Tape& outer) override {
    auto dy = std::exchange(this->gradient, {});
    if (readout.kind == Readout::Kind::learned && mix_node >= 0)
      outer.add(mix_node, StackOutput<T, B, Word>::mix_gradient(run->streams(), carrier, dy));
    auto arrived = [&] {
      const UseScope use(Use::streams);
      return StackOutput<T, B, Word>::spread(run->streams(), readout, carrier, mix, std::move(dy));
    }();
    std::vector<Tensor<T, B>> side_gradient(sides.size());
    for (std::size_t i = 0; i < sides.size(); ++i)
      if (sides[i].first >= 0) side_gradient[i] = Tensor<T, B>::zeros(sides[i].second);
    run->backward(arrived, side_gradient, inputs[0] >= 0 || inputs[1] >= 0, outer, made);
    run.reset();
    for (std::size_t i = 0; i < sides.size(); ++i)
      if (sides[i].first >= 0) outer.add(sides[i].first, std::move(side_gradient[i]));
    for (std::size_t i = 0; i < 2; ++i)
      if (inputs[i] >= 0) outer.add(inputs[i], std::move(arrived[i]));
  }

  std::unique_ptr<StackRun<T, B, Word>> run;
  Readout readout;
  int carrier = 1;
  Tensor<T, B> mix;
  int mix_node = -1;
  std::array<int, 2> inputs{-1, -1};
  std::vector<std::pair<int, Shape>> sides;
  std::uint64_t made = 0;  // when the forward pass was over
};

}  // namespace detail

/// Layers applied in order to two streams. Gradients reach the inputs, the sides and every parameter that the layers'
/// functions use. Throws StreamError after the forward pass when a stream left its range, and an Error in or
/// after the backward pass when a function throws, turned out not to be deterministic, or uses a parameter that was
/// changed since; parameter gradients that had arrived by then stay (see Tape::backward).
template <Real T, Backend B = Cpu>
class ReversibleStack {
 public:
  using Layers = std::vector<ReversibleLayer<T, B>>;

  ReversibleStack() = default;
  /// Errors: a swap that is not a layer's last step, a shear that does not go from one stream to the other, a λ that
  /// Lambda::reduced refuses, options out of range, stored_layers without exact streams.
  explicit ReversibleStack(Layers layers, StackOptions options = {}, Where where = Where::current())
      : options_(std::move(options)) {
    for (auto& layer : layers)
      for (std::size_t k = 0; k < layer.size(); ++k) {
        auto& step = layer[k];
        if (step.swaps())
          require(k + 1 == layer.size(), {"reversible stack: a swap is the last step of its layer", where}, k);
        else
          require((step.dst == 0 || step.dst == 1) && step.src == 1 - step.dst,
                  {"reversible stack: a shear goes from one stream to the other", where}, step.dst, step.src);
        step.lambda = step.lambda.reduced(where);
      }
    require(options_.word_bits == 32 || options_.word_bits == 64, {"reversible stack: word_bits is 32 or 64", where},
            options_.word_bits);
    require(options_.fraction_bits > 0 && options_.fraction_bits < options_.word_bits - 1,
            {"reversible stack: fraction_bits is positive and below word_bits - 1", where}, options_.fraction_bits);
    require(options_.stored_layers == 0 || (options_.stored_layers > 0 && options_.streams == Streams::exact),
            {"reversible stack: stored_layers is not negative, and of exact streams", where}, options_.stored_layers,
            name_of(options_.streams));
    require(options_.carrier == 0 || options_.carrier == 1, {"reversible stack: carrier is 0 or 1", where},
            options_.carrier);
    require(slice_tokens<B>(options_) > 0, {"reversible stack: slice_tokens is positive", where},
            options_.slice_tokens);
    layers_ = std::make_shared<const Layers>(std::move(layers));
    range_ = std::make_shared<StreamRange<T, B>>(options_.word_bits, options_.fraction_bits);
    if (options_.readout.kind == Readout::Kind::learned) mix_ = Parameter<T, B>::ones({1});
  }

  std::size_t depth() const { return layers_ ? layers_->size() : 0; }
  const StackOptions& options() const { return options_; }
  /// The range of its streams, which copies share; null where they have none.
  StreamRange<T, B>* range() const { return options_.streams == Streams::rounded ? nullptr : range_.get(); }
  /// α of the learned read-out, which starts at the carrier stream alone.
  Parameter<T, B>& mix() { return mix_; }

  /// Both streams start as x [tokens, width]; gives [tokens, width] ([tokens, 2·width] for concat).
  template <Operand X>
  Var<T, B> operator()(const X& x, const Context<T, B>& context, Where where = Where::current()) const {
    return run(as_var(x), as_var(x), context, where);
  }
  template <Operand X0, Operand X1>
  Var<T, B> operator()(const X0& x0, const X1& x1, const Context<T, B>& context, Where where = Where::current()) const {
    return run(as_var(x0), as_var(x1), context, where);
  }

 private:
  Var<T, B> run(const Var<T, B>& x0, const Var<T, B>& x1, const Context<T, B>& context, Where where) const {
    require(layers_ != nullptr, {"reversible stack: it has no layers", where});
    if (!x0.defined() || !x1.defined()) detail::refuse_empty("reversible stack", where);
    require(x0.shape() == x1.shape() && x0.shape().rank() == 2,
            {"reversible stack: the streams are not two equal matrices", where}, x0, x1);
    require(context.offsets.tokens() == x0.dim(0), {"reversible stack: the offsets do not cover the rows", where}, x0,
            context.offsets.tokens());
    require(range_->bits().empty() || std::ssize(range_->bits()) == x0.dim(1),
            {"reversible stack: its range is that of another width", where}, x0, range_->bits().size());
    for (const auto& side : context.sides) {
      if (!side.value.defined()) detail::refuse_empty("reversible stack, a side input", where);
      require(side.offsets.sequences() == context.offsets.sequences(),
              {"reversible stack: a side input has another number of sequences", where}, side.offsets.sequences(),
              context.offsets.sequences());
      require(side.value.shape().rank() == 2 && side.offsets.tokens() == side.value.dim(0),
              {"reversible stack: a side input's offsets do not cover its rows", where}, side.value,
              side.offsets.tokens());
    }
    try {
      if (options_.streams == Streams::rounded || range_->watched()) return run_in<T>(x0, x1, context, where);
      if (options_.word_bits == 32) return run_in<std::int32_t>(x0, x1, context, where);
      return run_in<std::int64_t>(x0, x1, context, where);
    } catch (Error& error) {
      error.at(where);
      throw;
    }
  }

  template <Scalar Word>
  Var<T, B> run_in(const Var<T, B>& x0, const Var<T, B>& x1, const Context<T, B>& context, Where where) const {
    using Output = detail::StackOutput<T, B, Word>;
    Tape* tape = Tape::current();
    const auto node_of = [&](const Var<T, B>& x) {
      return tape && tape->wants(x, "reversible stack", where) ? Tape::node(x) : -1;
    };
    auto node = std::make_unique<detail::StackNode<T, B, Word>>("reversible stack");
    node->inputs = {node_of(x0), node_of(x1)};
    for (const auto& side : context.sides) node->sides.push_back({node_of(side.value), side.value.shape()});
    node->readout = options_.readout;
    node->carrier = options_.carrier;
    if (options_.readout.kind == Readout::Kind::learned) {
      const auto mix = mix_.variable();
      node->mix = mix.value().clone();
      node->mix_node = node_of(mix);
    }
    node->run = std::make_unique<detail::StackRun<T, B, Word>>(layers_, options_, *range_, context, tape != nullptr);
    node->run->forward({x0.value(), x1.value()});
    auto y = Output::read(node->run->streams(), options_.readout, options_.carrier, node->mix);
    if (!tape) {
      bool more = node->run->refers();
      for (const auto& side : context.sides) more |= Tape::wanting(side.value);
      return Tape::unrecorded<T, B>("reversible stack", std::move(y), {&x0, &x1}, more);
    }
    node->made = ++detail::clock();
    return tape->attach<T, B>(std::move(y), std::move(node));
  }

  std::shared_ptr<const Layers> layers_;
  StackOptions options_;
  std::shared_ptr<StreamRange<T, B>> range_;
  Parameter<T, B> mix_;
};

}  // namespace meft
