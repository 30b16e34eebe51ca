// Owns: SPEFT. Liu, Thomas, Zhang, Cheng, Zhao, Gao, "Refining Salience-Aware Sparse Fine-Tuning Strategies for
// Language Models", arXiv 2412.13488: θ = θ0 + θ_s, θ_s zero outside of a mask of the k highest scores.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <meft/method/adapt.hpp>
#include <meft/method/probe.hpp>
#include <meft/ops/reduce.hpp>

namespace meft {

/// Chosen elements of the layers' matrices, which train in place. They are chosen before training, by what examples of
/// the task say of the weights as they are: `prepare`. Until then none trains. With `every` they are chosen anew each
/// time that so many steps were done, by the weights as they then are; what was learned stays in them.
struct Speft {
  /// The score of a weight w, with ḡ the mean of the batches' gradients and g that of one example.
  enum class Salience {
    gradient,   // |ḡ|
    snip,       // |ḡ·w|. Lee, Ajanthan, Torr, arXiv 1810.02340
    force,      // −ḡ·w. de Jorge et al., arXiv 2006.09081
    taylor,     // (ḡ·w)². Molchanov et al., arXiv 1906.10771
    magnitude,  // |w|
    fisher,     // the mean of g². Sung, Nair, Raffel, arXiv 2111.09839
    synflow,  // |w|·∂R/∂|w|, R the sum of what layers of absolute weights make of a row of ones. arXiv 2006.05467
    grasp     // −w·(H·ḡ), H·ḡ by central differences. Wang, Zhang, Grosse, arXiv 2002.07376
  };
  static constexpr std::string_view saliences = "gradient|snip|force|taylor|magnitude|fisher|synflow|grasp";

  double density = 0.0035;  // k: this share of the matrices' elements
  Salience salience = Salience::gradient;
  bool local = false;              // the share of each matrix, not of all together
  Index examples = 1024;           // that scores are computed from, drawn from the training set
  Index every = 0;                 // steps; 0: they are chosen once
  bool decays = false;             // the optimizer's decay takes them to what they were when they were chosen
  Index at_once = Index{1} << 27;  // elements whose gradients exist at a time; synflow and grasp need all
};

template <>
struct Described<Speft> {
  static constexpr std::string_view name = "speft", about = "chosen elements of the layers' matrices";
  static constexpr MethodFacts facts{.writes = true, .starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(Option{"density", "share of the matrices' elements that trains"}, Part{}, m.density);
    visit(Option{"salience", "score by which they are chosen"}, one_of<Speft::Salience>(Speft::saliences), m.salience);
    visit(Option{"scope", "where the highest are taken: of all matrices together, or of each"},
          one_of<bool>("global|local"), m.local);
    visit(Option{"score-examples", "training examples that scores are computed from"}, Whole{1, 1 << 30}, m.examples);
    visit(Option{.name = "mask-steps",
                 .help = "steps after which others are chosen, by the weights as they are; 0: never",
                 .stated = Stated::changed},
          Whole{0, 1 << 30}, m.every);
    visit(Option{.name = "value-decay",
                 .help = "whether --weight-decay takes values to what they were when they were chosen",
                 .stated = Stated::changed},
          one_of<bool>("no|yes"), m.decays);
  }
  static Index added(const Speft&, const StepSizes&) { return 0; }
  /// The inputs of all matrices, as where they train as a whole; the gradient of a whole one where many are chosen.
  template <Real T, Backend B>
  static Index activation(const Speft& m, const StepSizes& s) {
    const Index kept = s.layer() + 2 * s.width + s.ffn;
    return s.plain(kept, kept, s.gradients(1) + (detail::few_chosen(m.density) ? 0 : s.width * s.ffn));
  }
  static Index renews(const Speft& m) { return m.every; }
  static Kept kept(const Speft&, const StepSizes& s) { return {2 * s.width, s.ffn}; }
  static Recipe recipe(const Speft&) { return {.rate = 1e-3, .head_rate = 5e-4}; }  // measured: bench/RESULTS.md
};

namespace detail {

/// What is computed to score the elements of matrices. The model is as it was when it ends.
template <Real T, Backend B>
class Scoring {
 public:
  using Group = typename Probe<T, B>::Group;
  using Values = typename Probe<T, B>::Values;

  template <class Model>
  Scoring(Model& model, const Body<T, B>& body, const Speft& method, const Preview<T, B>& preview)
      : body_(body),
        method_(method),
        preview_(preview),
        probe_(model, preview, method.examples, "speft"),
        encoder_norm_(model.encoder_norm) {
    for_each_layer(model, [&](auto& layer) { layers_.push_back(layer); });
  }

  /// False when stopped, with nothing chosen.
  bool choose() {
    const auto whole = [&](std::uint64_t elements) {
      return static_cast<std::uint64_t>(std::llround(method_.density * static_cast<double>(elements)));
    };
    std::vector<Highest> highest;
    if (!method_.local) highest.emplace_back(whole(probe_.elements));
    for (auto& m : probe_.matrices)
      if (method_.local) highest.emplace_back(whole(m.size));
    const bool all = whole(probe_.elements) == probe_.elements;
    if (whole(probe_.elements) > 0 && !all && !score([&](std::size_t i, const std::vector<double>& scores) {
          auto& to = highest[method_.local ? i : 0];
          for (std::size_t j = 0; j < scores.size(); ++j) {
            if (!std::isfinite(scores[j]))
              throw NumberError("speft: a score is not finite: " + probe_.matrices[i].name, Where::current());
            to.add(scores[j], probe_.matrices[i].first + j);
          }
        }))
      return false;
    if (all) {
      probe_.choose_all();
      return true;
    }
    std::vector<std::uint64_t> numbers;
    for (auto& one : highest) {
      const auto more = one.numbers();
      numbers.insert(numbers.end(), more.begin(), more.end());
    }
    probe_.choose(probe_.by_matrix(numbers));
    return true;
  }

  /// take(matrix, scores) for each, in order. False when stopped.
  template <class Take>
  bool score(const Take& take) {
    using Salience = Speft::Salience;
    const auto s = method_.salience;
    if (s == Salience::synflow || s == Salience::grasp) {
      Group group(probe_, 0, probe_.matrices.size());
      Values x;
      if (s == Salience::synflow) x = flow(group);
      else if (!curvature(group, x)) return false;
      give(group, x, 1, take);
      return true;
    }
    const auto ends = probe_.groups(method_.at_once);
    passes_ = ends.size();
    std::size_t first = 0;
    for (const std::size_t end : ends) {
      Group group(probe_, std::exchange(first, end), end);
      Values x = group.weights;
      if (s != Salience::magnitude && !gradients(group, x)) return false;
      give(group, x, static_cast<double>(s == Salience::fisher ? probe_.rows.size() : probe_.batches()), take);
    }
    return true;
  }

 private:
  using Salience = Speft::Salience;

  template <class Take>
  void give(const Group& group, const Values& x, double count, const Take& take) const {
    for (std::size_t i = 0; i < x.size(); ++i) {
      std::vector<double> out(x[i].size());
      for (std::size_t j = 0; j < out.size(); ++j)
        out[j] = of(method_.salience, static_cast<double>(group.weights[i][j]), static_cast<double>(x[i][j]) / count);
      take(group.first + i, out);
    }
  }
  /// x: ḡ, the mean of g², or H·ḡ.
  static double of(Salience s, double w, double x) {
    switch (s) {
      case Salience::snip: return std::fabs(x * w);
      case Salience::force:
      case Salience::grasp: return -x * w;
      case Salience::taylor: return x * w * (x * w);
      case Salience::synflow: return std::fabs(x * w);
      case Salience::magnitude: return std::fabs(w);
      default: return std::fabs(x);
    }
  }

  /// The sums over the batches, or of the squares over the examples. False when stopped.
  bool gradients(Group& group, Values& sums) {
    const bool squares = method_.salience == Salience::fisher;
    if (squares)
      for (auto& one : sums) std::fill(one.begin(), one.end(), T(0));
    if (!probe_.backward(squares ? 1 : preview_.batch, passes_, [&] {
          if (!squares) return;
          const Values g = group.take();
          for (std::size_t i = 0; i < g.size(); ++i)
            for (std::size_t j = 0; j < g[i].size(); ++j) sums[i][j] += g[i][j] * g[i][j];
        }))
      return false;
    if (!squares) sums = group.take();
    return true;
  }

  /// What biases and norms were while they are absolute.
  struct Absolute {
    std::vector<std::pair<Parameter<T, B>, Tensor<T, B>>> were{};

    Absolute() = default;
    ~Absolute() {
      for (auto& [p, value] : were) p.value() = value;
    }
    Absolute(const Absolute&) = delete;
    Absolute& operator=(const Absolute&) = delete;
    void operator()(const std::string&, Parameter<T, B>& p) {
      if (!p.defined() || p.trainable()) return;
      were.push_back({p, p.value()});
      auto values = p.value().values();
      for (T& x : values) x = std::fabs(x);
      p.value() = Tensor<T, B>::from(p.shape(), values);
    }
  };

  /// ∂R/∂|w|, with biases and norms absolute too, of the layers one after the other: R is beyond the range of streams.
  Values flow(Group& group) {
    Absolute absolute;
    const auto take = [&](const std::string& name, Parameter<T, B>& p) { absolute(name, p); };
    nn::walk(layers_, take);
    if (encoder_norm_) nn::walk(*encoder_norm_, take);
    group.set(group.weights, [](T w, T) { return std::fabs(w); });
    const auto ones = [&](const Chain<T, B>& chain, std::vector<Side<T, B>> sides) {
      const auto x = Tensor<T, B>::full({1, chain.layers.front().width()}, T(1));
      const Chain<T, B> plain{.layers = chain.layers, .plain = chain.layers.size()};
      return plain({x, {Offsets({0, 1}), {}, 0, std::move(sides)}}).value;
    };
    {
      Tape tape;
      auto h = ones(body_.chain, {});
      if (encoder_norm_) h = (*encoder_norm_)(h);
      if (!body_.decoder.layers.empty()) h = ones(body_.decoder, {{h, Offsets({0, 1})}});
      tape.backward(sum(h));
    }
    return group.take();
  }

  /// H·ḡ, from gradients at w ± ε·ḡ with ε·|ḡ| = |w|/1000. False when stopped.
  bool curvature(Group& group, Values& out) {
    passes_ = 3;
    Values g, up, down;
    if (!gradients(group, g)) return false;
    double ww = 0, gg = 0;
    for (std::size_t i = 0; i < g.size(); ++i)
      for (std::size_t j = 0; j < g[i].size(); ++j) {
        ww += static_cast<double>(group.weights[i][j]) * static_cast<double>(group.weights[i][j]);
        gg += static_cast<double>(g[i][j]) * static_cast<double>(g[i][j]);
      }
    if (gg == 0) return out = std::move(g), true;
    const T epsilon = static_cast<T>(1e-3 * std::sqrt(ww / gg));
    const auto at = [&](T by, Values& to) {
      group.set(g, [by](T w, T x) { return w + by * x; });
      return gradients(group, to);
    };
    if (!at(epsilon, up) || !at(-epsilon, down)) return false;
    for (std::size_t i = 0; i < up.size(); ++i)
      for (std::size_t j = 0; j < up[i].size(); ++j) up[i][j] -= down[i][j];
    out = std::move(up);
    return true;
  }

  const Body<T, B>& body_;
  const Speft& method_;
  const Preview<T, B>& preview_;
  Probe<T, B> probe_;
  std::vector<nn::TransformerLayer<T, B>> layers_;
  std::optional<nn::Norm<T, B>> encoder_norm_;  // a handle
  std::size_t passes_ = 1;
};

}  // namespace detail

/// In every matrix of the layers.
template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const Speft& method, const AdaptOptions&) {
  for (auto* layer : layers)
    nn::walk(*layer, [&](const std::string&, nn::Linear<T, B>& linear) {
      nn::Sparse<T, B> sparse;
      sparse.chosen->decays = method.decays;
      linear.update = sparse;
    });
}

/// Chooses what trains, in place of what did, which stays as it is. False when stopped. Errors: NumberError for a score
/// that is not finite.
template <class Model, Real T, Backend B>
bool prepare(Model& model, const Body<T, B>& body, const Speft& method, const Preview<T, B>& preview) {
  detail::require_options(method);
  detail::for_each_layer(model, [](auto& layer) {
    nn::walk(layer, [](const std::string& name, nn::Linear<T, B>& linear) {
      auto* sparse = std::get_if<nn::Sparse<T, B>>(&linear.update);
      if (!sparse) return;
      require(!sparse->turned, "speft: another method's elements may be chosen of " + name);
      sparse->hold(linear.packed);
    });
  });
  return detail::Scoring<T, B>(model, body, method, preview).choose();
}

}  // namespace meft
