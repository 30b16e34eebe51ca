// Owns: what methods share that choose elements of weights by examples: the gradients of whole matrices, a group at a
// time, and the highest of many scores.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <meft/base/random.hpp>
#include <meft/method/adapt.hpp>
#include <meft/method/preview.hpp>

namespace meft::detail {

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

/// The matrices of a model that elements may be chosen of, and gradients of the whole of them.
template <Real T, Backend B>
struct Probe {
  struct Matrix {
    std::string name;
    nn::Linear<T, B> linear;  // a handle
    std::uint64_t first;      // the number of its first element among those of all
    std::size_t size;

    nn::Sparse<T, B>& sparse() { return std::get<nn::Sparse<T, B>>(linear.update); }
    std::vector<T> weights() const { return linear.packed.unpack().values(); }
  };
  using Values = std::vector<std::vector<T>>;  // of each matrix of a group

  /// Matrices [first, last), all of whose elements train while it lives.
  struct Group {
    Probe& of;
    std::size_t first, last;
    Values weights{};

    Group(Probe& probe, std::size_t begin, std::size_t end) : of(probe), first(begin), last(end) {
      try {
        for (std::size_t i = first; i < last; ++i) {
          weights.push_back(of.matrices[i].weights());
          of.matrices[i].sparse().probe_all(weights.back());
        }
      } catch (...) {
        for (std::size_t i = first; i < first + weights.size(); ++i) of.matrices[i].sparse().choose({}, {});
        throw;
      }
    }
    ~Group() {
      for (std::size_t i = first; i < last; ++i) {
        auto& m = of.matrices[i];
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
        of.matrices[first + i].sparse().values.value() = Tensor<T, B>::from({static_cast<Index>(to.size())}, to);
      }
    }
    /// The gradients that arrived, zero where none did; they leave the parameters.
    Values take() {
      Values out;
      for (std::size_t i = first; i < last; ++i) {
        auto gradient = std::exchange(of.matrices[i].sparse().values.gradient(), {});
        out.push_back(gradient.defined() ? gradient.values() : std::vector<T>(of.matrices[i].size));
      }
      return out;
    }
  };

  const Preview<T, B>& preview;
  std::string method;  // what errors call it
  std::vector<Matrix> matrices{};
  std::uint64_t elements = 0;
  std::vector<std::uint32_t> rows{};  // examples, in the order in which they are seen
  std::size_t done = 0;

  /// Of at most so many examples.
  template <class Model>
  Probe(Model& model, const Preview<T, B>& shown, Index examples, const char* called) : preview(shown), method(called) {
    require(shown.batch > 0, method + ": batches of a preview have examples, found", shown.batch);
    for_each_layer(model, [&](auto& layer) {
      nn::walk(layer, [&](const std::string& name, nn::Linear<T, B>& linear) {
        if (!std::holds_alternative<nn::Sparse<T, B>>(linear.update)) return;
        const Index size = linear.in() * linear.out();
        require(linear.packed.precision() <= Precision::bf16,
                method + ": expected weights in f32 or bf16, of which elements may change, found",
                name_of(linear.packed.precision()));
        require(size <= std::numeric_limits<std::int32_t>::max(), method + ": a matrix of more than 2^31 elements",
                size);
        matrices.push_back({name, linear, elements, static_cast<std::size_t>(size)});
        elements += matrices.back().size;
      });
    });
    std::vector<std::uint32_t> all(preview.examples);
    std::iota(all.begin(), all.end(), 0u);
    const auto count = std::min(all.size(), static_cast<std::size_t>(examples));
    for (std::size_t i = 0; i < count; ++i)  // a random order's first
      std::swap(all[i], all[i + below({preview.seed, site, 0}, i, static_cast<std::uint32_t>(all.size() - i))]);
    all.resize(count);
    rows = std::move(all);
  }

  std::size_t batches() const { return (rows.size() - 1) / preview.batch + 1; }
  /// Where groups of matrices end, of no more elements together than `most` where there are several in one.
  std::vector<std::size_t> groups(Index most) const {
    std::vector<std::size_t> ends;
    Index held = 0;
    for (std::size_t i = 0; i < matrices.size(); ++i) {
      const auto size = static_cast<Index>(matrices[i].size);
      if (i && held + size > most) ends.push_back(i), held = 0;
      held += size;
    }
    ends.push_back(matrices.size());
    return ends;
  }
  /// A backward pass for every `each` of the examples, then(). False when stopped, which is asked as one of `passes`.
  /// Throws where there is no example.
  template <class Then>
  bool backward(std::size_t each, std::size_t passes, const Then& then) {
    require(!rows.empty(), method + ": no examples to compute scores from");
    for (std::size_t first = 0; first < rows.size(); first += each) {
      if (preview.stop && preview.stop(done, passes * rows.size())) return false;
      const std::size_t count = std::min(each, rows.size() - first);
      done += count;
      Tape tape;
      if (const auto loss = preview.loss(std::span(rows).subspan(first, count)); loss.defined()) tape.backward(loss);
      then();
    }
    return true;
  }
  /// Of each matrix the elements that `numbers`, ascending, name.
  std::vector<std::vector<std::int32_t>> by_matrix(const std::vector<std::uint64_t>& numbers) const {
    std::vector<std::vector<std::int32_t>> out;
    auto at = numbers.begin();
    for (const auto& m : matrices) {
      auto& own = out.emplace_back();
      for (; at != numbers.end() && *at < m.first + m.size; ++at)
        own.push_back(static_cast<std::int32_t>(*at - m.first));
    }
    return out;
  }
  /// Has elements of each matrix train, or all.
  void choose(const std::vector<std::vector<std::int32_t>>& elements) {
    for (std::size_t i = 0; i < matrices.size(); ++i) matrices[i].sparse().choose(elements[i], matrices[i].weights());
  }
  void choose_all() {
    for (auto& m : matrices) m.sparse().choose_all(m.weights());
  }

 private:
  static constexpr std::uint32_t site = 0x50000000u;
};

}  // namespace meft::detail
