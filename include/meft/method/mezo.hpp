// Owns: MeZO: training by forward passes alone. Malladi et al., "Fine-tuning language models with just forward passes",
// arXiv 2305.17333. How a step goes is optim/spsa.hpp.
#pragma once

#include <algorithm>
#include <concepts>

#include <meft/method/adapt.hpp>
#include <meft/method/full.hpp>
#include <meft/method/low_rank.hpp>
#include <meft/method/prefix.hpp>

namespace meft {

/// What `Inside` trains, by losses with noise on it, without a backward pass or dropout. With several samples of the
/// noise a step, their losses are computed at once on a host, one on a worker.
template <class Inside>
struct Mezo {
  Inside inside = [] {
    Inside out;
    if constexpr (std::same_as<Inside, PrefixTuning>) out.start = TokenStart::words;
    return out;
  }();
  double epsilon = std::same_as<Inside, PrefixTuning> ? 0.1 : 1e-3;
  std::int64_t samples = 1;
  bool log_alone = false;  // a run's state is the log of its steps, which do again what they did
};

template <class Inside>
struct Described<Mezo<Inside>> {
  static constexpr bool whole = std::same_as<Inside, Full>, prefix = std::same_as<Inside, PrefixTuning>;
  static constexpr std::string_view name = whole ? "mezo" : prefix ? "mezo-prefix" : "mezo-lora";
  static constexpr std::string_view about = whole    ? "everything, by forward passes alone"
                                            : prefix ? "prefix-tuning, by forward passes alone"
                                                     : "low-rank updates, by forward passes alone";
  static constexpr MethodFacts facts = [] {
    MethodFacts out = Described<Inside>::facts;
    out.recomputes = out.narrows = false;
    return out;
  }();
  static void options(auto& m, auto&& visit) {
    Described<Inside>::options(m.inside, visit);
    visit(Option{"mezo-epsilon", "share of standard noise on what trains"}, Positive{}, m.epsilon);
    visit(Option{.name = "forward-samples", .help = "draws of the noise a step", .stated = Stated::changed},
          Whole{1, 4096}, m.samples);
    visit(Option{.name = "mezo-state",
                 .help = "what a resumed run starts from: the weights, or the steps alone, which it does again",
                 .stated = Stated::changed},
          one_of<bool>("weights|log"), m.log_alone);
  }
  static Index added(const Mezo<Inside>& m, const StepSizes& s) { return Described<Inside>::added(m.inside, s); }
  /// A layer's input and output, and what a slice of each worker holds. Under noise: query, key, value, what they give
  /// and its projection; or the block's input, the hidden layer and the output; and rows of the weight. With frozen
  /// weights the block's input, and the hidden layer before and behind the activation; or what attention to a prefix
  /// and to the rest is joined from; or what is alive while a layer is updated.
  template <Real T, Backend B>
  static Index activation(const Mezo<Inside>& m, const StepSizes& s) {
    if (s.held) return 0;
    const auto rows = [](Index out, Index in) { return std::min(out, Linear::rows_at_once<B>(in)) * in; };
    const Index n = s.longest_slice(), gate = s.gated ? s.width : 0;
    const Index attention = n * (5 * s.width + gate + s.heads) + rows(s.width, s.width);
    const Index inner = whole && !s.gated ? s.ffn + s.width : s.gated ? 3 * s.ffn : 2 * s.ffn;
    const Index feed = n * (inner + s.width + (whole ? 0 : gate));
    const Index joined = n * (6 * s.queries() + 2 * s.keys() + 4 * s.heads + gate);
    Index updated = 0;
    if constexpr (requires { Described<Inside>::passing(m.inside, s); })
      updated = n * Described<Inside>::passing(m.inside, s);
    const Index slice = whole    ? std::max(attention, feed + rows(s.width, s.ffn))
                        : prefix ? std::max(joined, feed)
                                 : std::max(feed, updated);
    if (m.samples == 1) return std::max(s.tokens * 2 * s.width + s.workers * slice, s.at_head(0));
    return (B::on_host ? std::min<Index>(s.threads, 2 * m.samples) : 1) *
           std::max(s.tokens * 2 * s.width + slice, s.at_head(0));
  }
  /// Images start from no words.
  static void suit(Mezo<Inside>& m, const FamilyFacts& family) {
    if constexpr (prefix) suit_start(m.inside.start, family);
  }
  static Recipe recipe(const Mezo<Inside>& m) {
    return {.rate = whole    ? 1e-6
                    : prefix ? 1e-3
                             : 5e-5,
            .warmup = 0,
            .decay = 0,
            .clip = 0,
            .schedule = Schedule::constant,
            .epsilon = m.epsilon,
            .samples = m.samples,
            .log_alone = m.log_alone};
  }
};

template <class Model, class Inside>
auto adapt(Model& model, const Mezo<Inside>& method, const AdaptOptions& options = {}, Where where = Where::current()) {
  detail::require_options(method, where);
  require(!options.recompute, {"mezo: forward passes keep no activations that could be recomputed", where});
  auto inside = options;
  if constexpr (Described<Inside>::facts.narrows) inside.precision = {};  // weights are read with noise on them
  return adapt(model, method.inside, inside);
}

template <class Model, Real T, Backend B, class Inside>
bool prepare(Model& model, const Body<T, B>& body, const Mezo<Inside>& method, const Preview<T, B>& preview) {
  if constexpr (requires { prepare(model, body, method.inside, preview); })
    return prepare(model, body, method.inside, preview);
  else return true;
}

}  // namespace meft
