// Owns: the classification head on pooled hidden states.
#pragma once

#include <optional>
#include <string_view>

#include <meft/nn/batch.hpp>
#include <meft/nn/linear.hpp>
#include <meft/nn/norm.hpp>
#include <meft/ops/pooling.hpp>
#include <meft/ops/shape.hpp>

namespace meft::nn {

/// Which rows of a sequence become its vector: the first, the mean of all, the last, or (as DINOv2) the first beside
/// the mean of the others.
enum class Pooling { first, mean, last, first_and_mean };

/// "first" | "mean" | "last" | "first_and_mean". Throws with the name otherwise.
inline Pooling pooling_from(std::string_view name, Where where = Where::current()) {
  if (name == "first") return Pooling::first;
  if (name == "last") return Pooling::last;
  if (name == "first_and_mean") return Pooling::first_and_mean;
  require(name == "mean", {"pooling: expected first, mean, last or first_and_mean, found", where}, name);
  return Pooling::mean;
}

/// How a family classifies: names in its checkpoints, and where it drops.
struct HeadSpec {
  Pooling pooling = Pooling::first;
  Index pad = -1;               // the last token is one that is not this; -1: any
  bool dense = true;            // a layer in front
  bool bias = true;             // of the last layer
  bool dropout_before = false;  // of the row too, before the dense layer
  double dropout = 0;
  const char *dense_name = "pooler.dense", *output_name = "classifier";
  // Of the layer in front:
  Activation activation = Activation::tanh;
  bool dense_bias = true;
  std::optional<double> norm{};  // behind it: its epsilon
  NormKind norm_kind = NormKind::layer;
  const char* norm_name = "";
};

/// pooled = norm(activation(dense(row))), or the row itself; logits = output(dropout(pooled)). [sequences, labels].
template <Real T, Backend B = Cpu>
struct Classifier {
  std::optional<Linear<T, B>> dense{};
  Linear<T, B> output;
  Pooling pooling = Pooling::first;
  float dropout = 0;
  std::uint32_t site = 0;
  bool dropout_before = false;
  const char *dense_name = "pooler.dense", *output_name = "classifier";
  Activation activation = Activation::tanh;
  std::optional<Norm<T, B>> norm{};
  const char* norm_name = "";

  /// A head without dense layer, weights N(0, 0.02²).
  static Classifier make(Index width, Index labels, Key key = {}) {
    return {{}, Linear<T, B>::normal(width, labels, key)};
  }

  Var<T, B> pool(const Hidden<T, B>& h) const {
    auto row = rows(h);
    if (dropout_before) row = drop(row, h, 1);
    if (dense) row = dense->activated(row, activation);
    return norm ? (*norm)(row) : row;
  }
  Var<T, B> operator()(const Hidden<T, B>& h) const { return output(drop(pool(h), h, 0)); }

  static void parts(auto& self, auto&& visit) {
    visit(self.dense_name, self.dense);
    visit(self.norm_name, self.norm);
    visit(self.output_name, self.output);
  }

 private:
  Var<T, B> rows(const Hidden<T, B>& h) const {
    switch (pooling) {
      case Pooling::first: return first_rows(h.value, h.context.offsets);
      case Pooling::last: return last_rows(h.value, h.context.offsets);
      case Pooling::mean: return mean_rows(h.value, h.context.offsets);
      default: return concat({first_rows(h.value, h.context.offsets), mean_rows(h.value, h.context.offsets, 1)}, 1);
    }
  }
  Var<T, B> drop(const Var<T, B>& x, const Hidden<T, B>& h, std::uint32_t offset) const {
    if (!h.context.run.training || dropout == 0) return x;
    return meft::dropout(x, dropout, h.context.run.key(site + offset));
  }
};

}  // namespace meft::nn
