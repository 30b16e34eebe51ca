// Owns: the classification head on pooled hidden states.
#pragma once

#include <optional>
#include <string_view>

#include <meft/nn/batch.hpp>
#include <meft/nn/linear.hpp>
#include <meft/ops/activation.hpp>
#include <meft/ops/pooling.hpp>

namespace meft::nn {

/// Which rows of a sequence become its vector.
enum class Pooling { first, mean };

inline Pooling pooling_from(std::string_view name, Where where = Where::current()) {
  if (name == "first") return Pooling::first;
  require(name == "mean", {"pooling: expected first or mean, found", where}, name);
  return Pooling::mean;
}

/// pooled = tanh(dense(row)); logits = classifier(dropout(pooled)), as BertForSequenceClassification. [sequences,
/// labels].
template <Real T, Backend B = Cpu>
struct Classifier {
  std::optional<Linear<T, B>> dense{};  // the pooler's; without it the row itself is classified
  Linear<T, B> output;
  Pooling pooling = Pooling::first;
  float dropout = 0;
  std::uint32_t site = 0;

  /// A head without pooler, weights N(0, 0.02²).
  static Classifier make(Index width, Index labels, Key key = {}) {
    return {{}, Linear<T, B>::normal(width, labels, key)};
  }

  Var<T, B> pool(const Hidden<T, B>& h) const {
    auto row =
        pooling == Pooling::first ? first_rows(h.value, h.context.offsets) : mean_rows(h.value, h.context.offsets);
    return dense ? tanh((*dense)(row)) : row;
  }
  Var<T, B> operator()(const Hidden<T, B>& h) const {
    auto pooled = pool(h);
    if (h.context.run.training && dropout > 0) pooled = meft::dropout(pooled, dropout, h.context.run.key(site));
    return output(pooled);
  }

  static void parts(auto& self, auto&& visit) {
    visit("pooler.dense", self.dense);
    visit("classifier", self.output);
  }
};

}  // namespace meft::nn
