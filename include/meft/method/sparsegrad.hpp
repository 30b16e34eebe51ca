// Owns: SparseGrad. Chekalina et al., "SparseGrad: a selective method for efficient fine-tuning of MLP layers", arXiv
// 2410.07383: gradients of the feed-forward blocks are sparse in a basis of their own. Both sides of the basis are
// those of the HOSVD; the authors' code turns the input's the other way.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <meft/base/symmetric.hpp>
#include <meft/method/adapt.hpp>
#include <meft/method/probe.hpp>

namespace meft {

/// W = W_0 + V_o·S·V_iᵀ in the linear layers of the feed-forward blocks, S zero outside of a mask of the k elements
/// whose gradients were largest, summed over batches of examples. The columns of V_o and V_i are the left singular
/// vectors of those gradients, of all layers of a kind beside each other, and of their transposes, those that elements
/// of the mask have. Both are found before training, without a change of the weights (theirs train meanwhile):
/// `prepare`. Until then nothing trains.
struct SparseGrad {
  double density = 0.01;           // k: this share of the matrices' elements
  Index examples = 176;            // that basis and mask are computed from: 11 batches of 16
  Index at_once = Index{1} << 27;  // elements whose gradients exist at a time
};

template <>
struct Described<SparseGrad> {
  static constexpr std::string_view name = "sparsegrad", about = "chosen elements, in a basis, of feed-forward blocks";
  static constexpr MethodFacts facts{.writes = true, .starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(Option{"density", "share of the matrices' elements that trains"}, Part{}, m.density);
    visit(Option{"score-examples", "training examples that scores are computed from"}, Whole{1, 1 << 30}, m.examples);
  }
  static Index added(const SparseGrad&, const StepSizes&) { return 0; }
  /// In the lowest layer attention keeps nothing. Of the last matrix input and gradient are there.
  template <Real T, Backend B>
  static Index activation(const SparseGrad& m, const StepSizes& s) {
    const Index other = s.layer() + s.width + s.ffn, lowest = other - s.attention() - s.norm();
    return s.plain(lowest, other, s.tokens * (s.width + s.ffn) + turned(m, s, s.tokens));
  }
  static Kept kept(const SparseGrad& m, const StepSizes& s) {
    const Index rows = std::max<Index>(s.longest_slice(), 1);
    return {0, s.width + s.ffn, turned(m, s, rows) / rows};
  }
  /// Elements in a basis, of so many rows, were all its vectors used: two whole matrices, or both sides and where many
  /// elements are chosen one.
  static Index turned(const SparseGrad& m, const StepSizes& s, Index rows) {
    if (Basis<float>::by_matrix(rows, s.ffn, s.width, s.ffn, s.width)) return 2 * s.width * s.ffn;
    return rows * (s.width + s.ffn) + (detail::few_chosen(m.density) ? 0 : s.width * s.ffn);
  }
  static Recipe recipe(const SparseGrad&) { return {.rate = 5e-4, .head_rate = 5e-4}; }  // measured: bench/RESULTS.md
};

template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const SparseGrad&, const AdaptOptions&) {
  std::map<std::tuple<int, Index, Index>, std::shared_ptr<Basis<T, B>>> bases;
  for (auto* layer : layers) {
    const auto add = [&](nn::Linear<T, B>& linear, int kind) {
      auto& basis = bases[{kind, linear.out(), linear.in()}];
      const bool first = !basis;
      if (first) basis = std::make_shared<Basis<T, B>>();
      linear.update = nn::Sparse<T, B>{.turned = std::make_shared<nn::Turned<T, B>>(nn::Turned<T, B>{basis, first})};
    };
    if (layer->gate) add(*layer->gate, 0);
    add(layer->up, 1);
    add(layer->down, 2);
  }
}

namespace detail {

/// The eigenvectors of a [n, n], in columns.
template <Real T, Backend B>
Tensor<T, B> eigenvector_columns(const Tensor<T, B>& a) {
  const auto n = static_cast<std::size_t>(a.dim(0));
  const auto values = a.values();
  const auto rows = eigenvectors(n, {values.begin(), values.end()}).vectors;
  std::vector<T> columns(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) columns[j * n + i] = static_cast<T>(rows[i * n + j]);
  return Tensor<T, B>::from(a.shape(), columns);
}

/// Columns of v [n, n].
template <Real T, Backend B>
Tensor<T, B> columns_of(const Tensor<T, B>& v, const std::vector<std::int32_t>& columns) {
  const Index n = v.dim(0);
  const auto all = v.values();
  std::vector<T> out;
  for (Index i = 0; i < n; ++i)
    for (const auto j : columns) out.push_back(all[static_cast<std::size_t>(i * n + j)]);
  return Tensor<T, B>::from({n, std::ssize(columns)}, out);
}

}  // namespace detail

/// Finds bases and mask, of the weights as they were before anything trained. False when stopped. Errors: NumberError
/// for gradients that are not finite.
template <class Model, Real T, Backend B>
bool prepare(Model& model, const Body<T, B>&, const SparseGrad& method, const Preview<T, B>& preview) {
  detail::require_options(method);
  detail::Probe<T, B> probe(model, preview, method.examples, "sparsegrad");
  for (auto& m : probe.matrices) {
    require(m.sparse().turned != nullptr, "sparsegrad: another method's elements may be chosen of " + m.name);
    m.sparse().restore(m.linear.packed);
  }
  const auto k = static_cast<std::uint64_t>(std::llround(method.density * static_cast<double>(probe.elements)));
  if (k == 0) return true;
  for (auto& m : probe.matrices) *m.sparse().turned->basis = {};
  const auto ends = probe.groups(method.at_once);
  const std::size_t passes = 2 * ends.size();
  // f(group, each gradient of one of its matrices [out, in], the matrix' place in it) after every batch; then
  // done(group).
  const auto over_groups = [&](const auto& f, const auto& done) {
    std::size_t first = 0;
    for (const std::size_t end : ends) {
      typename detail::Probe<T, B>::Group group(probe, std::exchange(first, end), end);
      if (!probe.backward(preview.batch, passes, [&] {
            const auto gradients = group.take();
            for (std::size_t i = 0; i < gradients.size(); ++i) {
              const auto& linear = probe.matrices[group.first + i].linear;
              f(Tensor<T, B>::from({linear.out(), linear.in()}, gradients[i]), group.first + i);
            }
          }))
        return false;
      done(group);
    }
    return true;
  };

  std::map<std::shared_ptr<Basis<T, B>>, Basis<T, B>> sums;  // ΣG·Gᵀ and ΣGᵀ·G
  const auto basis_of = [&](std::size_t i) { return probe.matrices[i].sparse().turned->basis; };
  const auto add = [&](const Tensor<T, B>& g, std::size_t i) {
    auto& of = sums[basis_of(i)];
    accumulate(of.out, gemm(g, t(g)));
    accumulate(of.in, gemm(t(g), g));
  };
  if (!over_groups(add, [](auto&) {})) return false;
  const UseScope use(Use::parameter);
  for (auto& [basis, of] : sums) of = {detail::eigenvector_columns(of.out), detail::eigenvector_columns(of.in)};

  detail::Highest highest(static_cast<std::size_t>(k));
  std::map<std::size_t, std::vector<double>> sizes;
  const auto measure = [&](const Tensor<T, B>& g, std::size_t i) {
    const auto& v = sums[basis_of(i)];
    const auto turned = gemm(gemm(t(v.out), g), v.in).values();
    auto& to = sizes[i];
    to.resize(turned.size());
    for (std::size_t j = 0; j < turned.size(); ++j) to[j] += std::fabs(static_cast<double>(turned[j]));
  };
  const auto take = [&](auto&) {
    for (const auto& [i, of] : std::exchange(sizes, {}))
      for (std::size_t j = 0; j < of.size(); ++j) highest.add(of[j], probe.matrices[i].first + j);
  };
  if (!over_groups(measure, take)) return false;
  if (k == probe.elements) {
    for (auto& [basis, of] : sums) *basis = of;
    probe.choose_all();
    return true;
  }
  // Of the vectors stay those that chosen elements have, and these are numbered among [r, c].
  auto chosen = probe.by_matrix(highest.numbers());
  const auto in = [&](std::size_t i) { return static_cast<std::int32_t>(probe.matrices[i].linear.in()); };
  std::map<std::shared_ptr<Basis<T, B>>, std::array<std::vector<std::int32_t>, 2>> used;  // rows and columns, ascending
  for (std::size_t i = 0; i < chosen.size(); ++i)
    for (const auto at : chosen[i]) {
      used[basis_of(i)][0].push_back(at / in(i));
      used[basis_of(i)][1].push_back(at % in(i));
    }
  for (auto& [basis, of] : sums) *basis = {};
  for (auto& [basis, of] : used) {
    for (auto& some : of) {
      std::sort(some.begin(), some.end());
      some.erase(std::unique(some.begin(), some.end()), some.end());
    }
    *basis = {detail::columns_of(sums[basis].out, of[0]), detail::columns_of(sums[basis].in, of[1])};
  }
  const auto place = [](const std::vector<std::int32_t>& of, std::int32_t one) {
    return static_cast<std::int32_t>(std::lower_bound(of.begin(), of.end(), one) - of.begin());
  };
  for (std::size_t i = 0; i < chosen.size(); ++i)
    for (auto& at : chosen[i]) {
      const auto& [rows, columns] = used[basis_of(i)];
      at = place(rows, at / in(i)) * static_cast<std::int32_t>(columns.size()) + place(columns, at % in(i));
    }
  probe.choose(chosen);
  return true;
}

}  // namespace meft
