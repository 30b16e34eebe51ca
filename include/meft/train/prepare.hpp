// Owns: what is done with training examples before a run: streams get their ranges, a method chooses, and how far the
// model that it made is from the plain one is measured.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <meft/checkpoints/trained.hpp>
#include <meft/method/any.hpp>
#include <meft/task/pass.hpp>
#include <meft/train/options.hpp>

namespace meft::train {

/// What `method` chooses by examples of `data`, `batch` at a time, is chosen; most methods choose nothing. `learner`
/// and `data` are as Job::of takes them. False when stopped: stop(done, of) true ends it. Where a value leaves a
/// stream's range, that gets wider and all begins anew. A run that is resumed has what was chosen in its state (see
/// checkpoints::choose_as_in), unless that is a log alone: then it is done again.
template <class L, class Data>
bool prepare(L& learner, const AnyMethod& method, const Data& data, std::size_t batch, std::uint64_t seed,
             const task::Asked& stop) {
  using T = typename L::T;
  using B = typename L::B;
  Preview<T, B> preview{data.lengths().size(), batch, seed, {}, stop};
  std::vector<std::uint32_t> last;  // that were looked at
  preview.loss = [&](std::span<const std::uint32_t> rows) {
    last = {rows.begin(), rows.end()};
    const auto one = learner.batch(data, rows, Run{seed, 0, false});
    return one.counted == 0 ? Var<T, B>() : learner.loss(one);
  };
  for (;;) try {
      return meft::prepare(learner.model, learner.body, method, preview);
    } catch (const StreamError& error) {
      const auto again = [&, rows = last] { (void)preview.loss(rows); };
      if (widen_after(error, learner.body.ranges(), again).features == 0) throw;
    }
}

/// How what a method chose by examples of `data` is chosen anew in a run of these options: for their `renewal`. Learner
/// and data outlive the run.
template <class L, class Data>
Renewal renewal(L& learner, const AnyMethod& method, const Data& data, std::size_t batch, std::uint64_t seed,
                std::function<bool()> stop) {
  using T = typename L::T;
  using B = typename L::B;
  const auto stopped = [stop = std::move(stop)](std::size_t, std::size_t) { return stop && stop(); };
  return {
      method_renews(method),
      [&learner, method, &data, batch, seed, stopped] { return prepare(learner, method, data, batch, seed, stopped); },
      [&learner](const io::Safetensors& file) { checkpoints::choose_as_in<T, B>(file, learner); }};
}

/// Gives the features of streams whose values are large a wider range, by a pass over a few batches from all of `data`.
template <class L, class Data>
Widened calibrate(const L& learner, const Data& data, std::size_t batch, std::uint64_t seed) {
  const auto ranges = learner.body.ranges();
  if (ranges.empty()) return {};
  const std::size_t size = data.lengths().size(), each = std::min<std::size_t>(batch, 8),
                    seen = std::min(size, 4 * each);
  return widen(ranges, false, [&] {
    for (std::size_t first = 0; first < seen; first += each) {
      std::vector<std::uint32_t> rows;
      for (std::size_t i = first; i < std::min(seen, first + each); ++i)
        rows.push_back(static_cast<std::uint32_t>(i * size / seen));
      (void)learner.model.run(learner.batch(data, rows, Run{seed, 0, false}), learner.body);
    }
  });
}

/// How far a model starts from the plain one.
struct StartDistance {
  bool divergence = false;  // in which measure: KL(plain, wrapped) in nats a token, else the cosine of pooled vectors
  double value = 0;
};

namespace detail {

/// The layers as they were before a method added to them, one after the other. Updates of weights add nothing at first.
template <Real T, Backend B>
Body<T, B> plain_of(const Body<T, B>& body) {
  const auto plain = [](const Chain<T, B>& chain) {
    Chain<T, B> out{.layers = chain.layers, .plain = chain.layers.size()};
    for (auto& layer : out.layers) {
      layer.attention_adapter = layer.mlp_adapter = layer.reversible_adapter = {};
      layer.attention.prefix = {};
      if (layer.cross) layer.cross->prefix = {};
    }
    return out;
  };
  return {plain(body.chain), plain(body.decoder)};
}

/// Σ over rows of KL(softmax(p) ‖ softmax(q)).
template <class T>
double divergence(const std::vector<T>& p, const std::vector<T>& q, std::size_t classes) {
  double sum = 0;
  const auto lse = [&](const T* x) {
    const double most = static_cast<double>(*std::max_element(x, x + classes));
    double total = 0;
    for (std::size_t i = 0; i < classes; ++i) total += std::exp(static_cast<double>(x[i]) - most);
    return most + std::log(total);
  };
  for (std::size_t at = 0; at < p.size(); at += classes) {
    const double zp = lse(&p[at]), zq = lse(&q[at]);
    for (std::size_t i = at; i < at + classes; ++i) {
      const double lp = static_cast<double>(p[i]) - zp;
      sum += std::exp(lp) * (lp - (static_cast<double>(q[i]) - zq));
    }
  }
  return sum;
}

/// Σ over rows of the cosine.
template <class T>
double cosine(const std::vector<T>& a, const std::vector<T>& b, std::size_t width) {
  double sum = 0;
  for (std::size_t at = 0; at < a.size(); at += width) {
    double ab = 0, aa = 0, bb = 0;
    for (std::size_t i = at; i < at + width; ++i) {
      const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
      ab += x * y, aa += x * x, bb += y * y;
    }
    sum += ab / std::sqrt(aa * bb);
  }
  return sum;
}

}  // namespace detail

/// KL(p ‖ q) of what two heads predict of rows of hidden states, in nats a row. Logits exist some rows at a time.
template <class Head, Real T, Backend B>
double divergence(const Head& p, const Tensor<T, B>& of_p, const Head& q, const Tensor<T, B>& of_q) {
  double sum = 0;
  const Index rows = of_p.dim(0), step = 64;
  for (Index first = 0; first < rows; first += step) {
    const Index last = std::min(rows, first + step);
    const auto wide = p.logits(of_p.rows(first, last)).value();
    sum += detail::divergence(wide.values(), q.logits(of_q.rows(first, last)).value().values(),
                              static_cast<std::size_t>(wide.dim(1)));
  }
  return sum / static_cast<double>(rows);
}

/// Of a reversible body, on the first examples of `data`; nothing of others.
template <class L, class Data>
std::optional<StartDistance> start_distance(const L& learner, const Data& data, std::size_t batch) {
  if (learner.body.chain.stack.depth() == 0) return {};
  const NoTape none;
  const auto lengths = data.lengths();
  std::vector<std::uint32_t> rows;
  std::size_t tokens_of_rows = 0;
  for (std::size_t i = 0; i < std::min({batch, lengths.size(), std::size_t{8}}); ++i) {
    tokens_of_rows += lengths[i];
    if (i > 0 && tokens_of_rows > 1024) break;  // it should cost no more than a step
    rows.push_back(static_cast<std::uint32_t>(i));
  }
  const auto one = learner.batch(data, rows, Run{});
  const auto plain = learner.model.run(one, detail::plain_of(learner.body)),
             wrapped = learner.model.run(one, learner.body);
  if constexpr (requires { learner.head.pool(plain); }) {
    auto head = learner.head;
    head.dense.reset(), head.norm.reset();
    const auto a = head.pool(plain), b = head.pool(wrapped);
    return StartDistance{
        false, detail::cosine(a.value().values(), b.value().values(), static_cast<std::size_t>(a.shape()[1])) /
                   static_cast<double>(a.shape()[0])};
  } else {
    return StartDistance{true, divergence(learner.head, plain.value.value(), learner.head, wrapped.value.value())};
  }
}

}  // namespace meft::train
