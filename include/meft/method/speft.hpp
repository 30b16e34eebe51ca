// Owns: SPEFT. Liu, Thomas, Zhang, Cheng, Zhao, Gao, "Refining Salience-Aware Sparse Fine-Tuning Strategies for
// Language Models", arXiv 2412.13488: θ = θ0 + θ_s, θ_s zero outside of a mask of the k highest scores.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/base/random.hpp>
#include <meft/method/adapt.hpp>
#include <meft/method/preview.hpp>
#include <meft/ops/reduce.hpp>

namespace meft {

/// Chosen elements of the layers' matrices, which train in place. They are chosen once, before training, by what
/// examples of the task say of the weights as they are: `prepare`. Until then none trains.
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
  static constexpr std::array<std::string_view, 8> saliences{"gradient",  "snip",   "force",   "taylor",
                                                             "magnitude", "fisher", "synflow", "grasp"};

  double density = 0.0035;  // k: this share of the matrices' elements
  Salience salience = Salience::gradient;
  bool local = false;              // the share of each matrix, not of all together
  Index examples = 1024;           // that scores are computed from, drawn from the training set
  Index at_once = Index{1} << 27;  // elements whose gradients exist at a time; synflow and grasp need all
};

template <>
struct Described<Speft> {
  static constexpr std::string_view name = "speft", about = "chosen elements of the layers' matrices";
  static constexpr MethodFacts facts{.starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(Option{"density", "share of the matrices' elements that trains"}, Part{}, m.density);
    visit(Option{"salience", "score by which they are chosen"},
          OneOf{"gradient|snip|force|taylor|magnitude|fisher|synflow|grasp",
                [](std::string_view s) {
                  const auto at = std::find(Speft::saliences.begin(), Speft::saliences.end(), s);
                  return static_cast<Speft::Salience>(at - Speft::saliences.begin());
                },
                [](Speft::Salience s) { return Speft::saliences[static_cast<std::size_t>(s)]; }},
          m.salience);
    visit(Option{"scope", "where the highest are taken: of all matrices together, or of each"},
          OneOf{"global|local", [](std::string_view s) { return s == "local"; },
                [](bool local) { return local ? "local" : "global"; }},
          m.local);
    visit(Option{"score-examples", "training examples that scores are computed from"}, Whole{1, 1 << 30}, m.examples);
  }
  static Index added(const Speft&, Index) { return 0; }
  /// The inputs of all matrices, as where they train as a whole; the gradient of a whole one where many are chosen.
  template <Real T, Backend B>
  static Index activation(const Speft& m, const StepSizes& s) {
    const Index kept = s.layer() + 2 * s.width + s.ffn;
    return s.plain(kept, kept, s.gradients(1) + (m.density > 0.01 ? s.width * s.ffn : 0));
  }
  static Kept kept(const Speft&, const StepSizes& s) { return {2 * s.width, s.ffn}; }
  static Recipe recipe(const Speft&) { return {.rate = 5e-5}; }
};

namespace detail {

/// The k highest of numbered scores; of equals the first.
class Highest {
 public:
  explicit Highest(std::size_t k) : k_(k) {}

  void add(double score, std::uint64_t number) {
    const One one{score, number};
    if (!k_ || (full_ && !before(one, last_))) return;
    kept_.push_back(one);
    if (kept_.size() >= k_ + std::max<std::size_t>(k_ / 4, 1 << 16)) cut();
  }
  /// Their numbers, ascending.
  std::vector<std::uint64_t> numbers() {
    cut();
    std::vector<std::uint64_t> out;
    for (const One& one : kept_) out.push_back(one.number);
    std::sort(out.begin(), out.end());
    return out;
  }

 private:
  struct One {
    double score;
    std::uint64_t number;
  };
  static bool before(const One& a, const One& b) {
    return a.score != b.score ? a.score > b.score : a.number < b.number;
  }
  void cut() {
    if (kept_.size() < k_ || !k_) return;
    const auto last = kept_.begin() + static_cast<std::ptrdiff_t>(k_ - 1);
    std::nth_element(kept_.begin(), last, kept_.end(), before);
    last_ = *last;
    full_ = true;
    kept_.resize(k_);
  }

  std::size_t k_;
  std::vector<One> kept_;
  One last_{};
  bool full_ = false;
};

/// The matrices that elements are chosen of, and what is computed to score them. The model is as it was when it ends.
template <Real T, Backend B>
class Scoring {
 public:
  struct Matrix {
    std::string name;
    nn::Linear<T, B> linear;  // a handle
    std::uint64_t first;      // the number of its first element among those of all
    std::size_t size;

    nn::Sparse<T, B>& sparse() { return std::get<nn::Sparse<T, B>>(linear.update); }
    std::vector<T> weights() const { return linear.packed.unpack().values(); }
  };

  template <class Model>
  Scoring(Model& model, const Body<T, B>& body, const Speft& method, const Preview<T, B>& preview)
      : body_(body), method_(method), preview_(preview) {
    for_each_layer(model, [&](auto& layer) {
      nn::walk(layer, [&](const std::string& name, nn::Linear<T, B>& linear) {
        if (!std::holds_alternative<nn::Sparse<T, B>>(linear.update)) return;
        const Index size = linear.in() * linear.out();
        require(size <= std::numeric_limits<std::int32_t>::max(), "speft: a matrix of more than 2^31 elements", size);
        matrices_.push_back({name, linear, elements_, static_cast<std::size_t>(size)});
        elements_ += matrices_.back().size;
      });
      layers_.push_back(layer);
    });
    std::vector<std::uint32_t> all(preview.examples);
    std::iota(all.begin(), all.end(), 0u);
    const auto count = std::min(all.size(), static_cast<std::size_t>(method.examples));
    for (std::size_t i = 0; i < count; ++i)  // a random order's first
      std::swap(all[i], all[i + below({preview.seed, site, 0}, i, static_cast<std::uint32_t>(all.size() - i))]);
    all.resize(count);
    rows_ = std::move(all);
  }

  /// False when stopped, with nothing chosen.
  bool choose() {
    const auto whole = [&](std::uint64_t elements) {
      return static_cast<std::uint64_t>(std::llround(method_.density * static_cast<double>(elements)));
    };
    std::vector<Highest> highest;
    if (!method_.local) highest.emplace_back(whole(elements_));
    for (auto& m : matrices_)
      if (method_.local) highest.emplace_back(whole(m.size));
    const bool all = whole(elements_) == elements_;
    if (whole(elements_) > 0 && !all && !score([&](std::size_t i, const std::vector<double>& scores) {
          auto& to = highest[method_.local ? i : 0];
          for (std::size_t j = 0; j < scores.size(); ++j) {
            if (!std::isfinite(scores[j]))
              throw NumberError("speft: a score is not finite: " + matrices_[i].name, Where::current());
            to.add(scores[j], matrices_[i].first + j);
          }
        }))
      return false;
    std::vector<std::uint64_t> numbers;
    for (auto& one : highest) {
      const auto more = all ? std::vector<std::uint64_t>() : one.numbers();
      numbers.insert(numbers.end(), more.begin(), more.end());
    }
    auto at = numbers.begin();
    for (auto& m : matrices_) {
      std::vector<std::int32_t> chosen;
      for (; at != numbers.end() && *at < m.first + m.size; ++at)
        chosen.push_back(static_cast<std::int32_t>(*at - m.first));
      if (all) m.sparse().choose_all(m.weights());
      else m.sparse().choose(chosen, m.weights());
    }
    return true;
  }

  /// take(matrix, scores) for each, in order. False when stopped.
  template <class Take>
  bool score(const Take& take) {
    using Salience = Speft::Salience;
    const auto s = method_.salience;
    if (s == Salience::synflow || s == Salience::grasp) {
      Group group(*this, 0, matrices_.size());
      Values x;
      if (s == Salience::synflow) x = flow(group);
      else if (!curvature(group, x)) return false;
      give(group, x, 1, take);
      return true;
    }
    std::vector<std::size_t> ends;
    Index held = 0;
    for (std::size_t i = 0; i < matrices_.size(); ++i) {
      const auto size = static_cast<Index>(matrices_[i].size);
      if (i && held + size > method_.at_once) ends.push_back(i), held = 0;
      held += size;
    }
    ends.push_back(matrices_.size());
    passes_ = ends.size();
    std::size_t first = 0;
    for (const std::size_t end : ends) {
      Group group(*this, std::exchange(first, end), end);
      Values x = group.weights;
      if (s != Salience::magnitude && !gradients(group, x)) return false;
      give(group, x, static_cast<double>(s == Salience::fisher ? rows_.size() : batches()), take);
    }
    return true;
  }

 private:
  using Salience = Speft::Salience;
  using Values = std::vector<std::vector<T>>;  // of each matrix of a group
  static constexpr std::uint32_t site = 0x50000000u;

  /// Matrices [first, last), all of whose elements train while it lives.
  struct Group {
    Scoring& of;
    std::size_t first, last;
    Values weights{};

    Group(Scoring& scoring, std::size_t begin, std::size_t end) : of(scoring), first(begin), last(end) {
      for (std::size_t i = first; i < last; ++i) {
        weights.push_back(of.matrices_[i].weights());
        of.matrices_[i].sparse().choose_all(weights.back());
      }
    }
    ~Group() {
      for (std::size_t i = first; i < last; ++i) {
        auto& m = of.matrices_[i];
        m.linear.packed.write({}, Tensor<T, B>::from({static_cast<Index>(m.size)}, weights[i - first]));
        m.sparse().choose({}, {});
      }
    }
    Group(const Group&) = delete;
    Group& operator=(const Group&) = delete;

    /// Their elements become f(w, x), x those of `other`.
    template <class F>
    void set(const Values& other, const F& f) {
      for (std::size_t i = 0; i < weights.size(); ++i) {
        std::vector<T> to(weights[i].size());
        for (std::size_t j = 0; j < to.size(); ++j) to[j] = f(weights[i][j], other[i][j]);
        of.matrices_[first + i].sparse().values.value() = Tensor<T, B>::from({static_cast<Index>(to.size())}, to);
      }
    }
    /// The gradients that arrived, zero where none did; they leave the parameters.
    Values take() {
      Values out;
      for (std::size_t i = first; i < last; ++i) {
        auto gradient = std::exchange(of.matrices_[i].sparse().values.gradient(), {});
        out.push_back(gradient.defined() ? gradient.values() : std::vector<T>(of.matrices_[i].size));
      }
      return out;
    }
  };

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

  std::size_t batches() const { return (rows_.size() - 1) / preview_.batch + 1; }

  /// The sums over the batches, or of the squares over the examples. False when stopped.
  bool gradients(Group& group, Values& sums) {
    const bool squares = method_.salience == Salience::fisher;
    const std::size_t each = squares ? 1 : preview_.batch, of = passes_ * rows_.size();
    if (squares)
      for (auto& one : sums) std::fill(one.begin(), one.end(), T(0));
    for (std::size_t first = 0; first < rows_.size(); first += each) {
      if (preview_.stop && preview_.stop(done_, of)) return false;
      const std::size_t count = std::min(each, rows_.size() - first);
      done_ += count;
      Tape tape;
      if (const auto loss = preview_.loss(std::span(rows_).subspan(first, count)); loss.defined()) tape.backward(loss);
      if (!squares) continue;
      const Values g = group.take();
      for (std::size_t i = 0; i < g.size(); ++i)
        for (std::size_t j = 0; j < g[i].size(); ++j) sums[i][j] += g[i][j] * g[i][j];
    }
    if (!squares) sums = group.take();
    return true;
  }

  /// ∂R/∂|w|, with biases and norms absolute too.
  Values flow(Group& group) {
    std::vector<std::pair<Parameter<T, B>, Tensor<T, B>>> others;
    nn::walk(layers_, [&](const std::string&, Parameter<T, B>& p) {
      if (!p.defined() || p.trainable()) return;
      others.push_back({p, p.value()});
      auto values = p.value().values();
      for (T& x : values) x = std::fabs(x);
      p.value() = Tensor<T, B>::from(p.shape(), values);
    });
    group.set(group.weights, [](T w, T) { return std::fabs(w); });
    const auto ones = [&](const Chain<T, B>& chain, std::vector<Side<T, B>> sides) {
      const auto x = Tensor<T, B>::full({1, chain.layers.front().width()}, T(1));
      return chain({x, {Offsets({0, 1}), {}, 0, std::move(sides)}}).value;
    };
    {
      Tape tape;
      auto h = ones(body_.chain, {});
      if (!body_.decoder.layers.empty()) h = ones(body_.decoder, {{h, Offsets({0, 1})}});
      tape.backward(sum(h));
    }
    for (auto& [p, value] : others) p.value() = value;
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
  std::vector<Matrix> matrices_;
  std::vector<nn::TransformerLayer<T, B>> layers_;
  std::uint64_t elements_ = 0;
  std::vector<std::uint32_t> rows_;  // examples, in the order in which they are seen
  std::size_t passes_ = 1, done_ = 0;
};

}  // namespace detail

/// In every matrix of the layers.
template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const Speft&, const AdaptOptions&) {
  for (auto* layer : layers)
    nn::walk(*layer, [](const std::string&, nn::Linear<T, B>& linear) { linear.update = nn::Sparse<T, B>{}; });
}

/// Chooses what trains. False when stopped. Errors: NumberError for a score that is not finite.
template <class Model, Real T, Backend B>
bool prepare(Model& model, const Body<T, B>& body, const Speft& method, const Preview<T, B>& preview) {
  return detail::Scoring<T, B>(model, body, method, preview).choose();
}

}  // namespace meft
