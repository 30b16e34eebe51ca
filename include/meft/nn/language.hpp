// Owns: the language-model head: hidden states to words, by the transposed embedding table or one of its own.
#pragma once

#include <optional>

#include <meft/nn/batch.hpp>
#include <meft/nn/linear.hpp>
#include <meft/nn/norm.hpp>
#include <meft/ops/language.hpp>

namespace meft::nn {

/// The names of the head's own parts in a family's checkpoints.
struct LanguageNames {
  const char *dense = "", *norm = "";
  const char* bias = "";  // named without being there: a constant that some checkpoints have
  const char* word = "";  // of a table that is not the embedding's
};

/// How a family predicts words.
struct LanguageSpec {
  bool transform = false;                    // BERT's
  Activation activation = Activation::gelu;  // of the transform
  double epsilon = 1e-12;                    // of its norm
  LanguageNames names{};
  NormKind norm_kind = NormKind::layer;
  bool bias = true, dense_bias = true;  // of the table's rows, and of the dense layer: where there is a transform
  double scale = 1;                     // of what is multiplied with the table
};

/// logits = f(h)·wordᵀ + bias, f = LN(activation(dense(h))) in BERT's family, a multiple in T5 and the identity
/// elsewhere. The table is the embedding's own, or the head's where it is `untied`. The logits of a batch never exist
/// whole.
template <Real T, Backend B = Cpu>
struct LanguageHead {
  Parameter<T, B> word;    // [vocabulary, width]; unless untied shared with the embedding, which owns and names it
  Parameter<T, B> bias{};  // [vocabulary], or none
  std::optional<Linear<T, B>> dense{};
  std::optional<Norm<T, B>> norm{};
  Activation activation = Activation::gelu;
  LanguageNames names{};
  bool untied = false;
  double scale = 1;
  PackedWeight<T, B> table{};  // in place of the word, where it is frozen and kept in blocks

  /// Over the table `word`, or `table` where that is there; other parameters are uninitialised.
  static LanguageHead empty(const LanguageSpec& spec, const Parameter<T, B>& word,
                            const PackedWeight<T, B>& table = {}) {
    LanguageHead out{
        .word = word, .activation = spec.activation, .names = spec.names, .scale = spec.scale, .table = table};
    if (!spec.transform) return out;
    const Index width = out.shape()[1];
    if (spec.bias) out.bias = Parameter<T, B>::empty({out.shape()[0]});
    out.dense = Linear<T, B>::empty(width, width, spec.dense_bias);
    out.norm = Norm<T, B>::empty(width, spec.epsilon, spec.norm_kind);
    return out;
  }

  /// Of the table. [vocabulary, width]
  const Shape& shape() const { return table.defined() ? table.shape() : word.shape(); }

  /// What is multiplied with the table. [tokens, width].
  Var<T, B> transform(const Var<T, B>& h) const {
    if (dense) return (*norm)(dense->activated(h, activation));
    return scale == 1 ? h : h * static_cast<T>(scale);
  }

  /// Mean cross entropy over the tokens whose label is not −100. labels [tokens].
  Var<T, B> loss(const Var<T, B>& h, const Tensor<std::int32_t, B>& labels) const {
    return with_table([&](const auto& w) { return linear_cross_entropy(transform(h), w, bias, labels); });
  }
  /// ln p(label) of each token, 0 where it is −100. [tokens].
  Tensor<T, B> log_likelihood(const Var<T, B>& h, const Tensor<std::int32_t, B>& labels) const {
    return with_table([&](const auto& w) {
      return label_log_likelihood(transform(h).value(), w, bias.defined() ? bias.variable().value() : Tensor<T, B>{},
                                  labels);
    });
  }
  /// The same of each row, with gradients. h [n, width], words [n] → [n].
  Var<T, B> log_likelihoods(const Var<T, B>& h, const Tensor<std::int32_t, B>& words) const {
    return with_table([&](const auto& w) { return token_log_likelihood(transform(h), w, bias, words); });
  }
  /// All logits [tokens, vocabulary]: for a few tokens.
  Var<T, B> logits(const Var<T, B>& h) const {
    return with_table([&](const auto& w) { return linear(transform(h), w, bias); });
  }

  static void parts(auto& self, auto&& visit) {
    visit(self.names.dense, self.dense);
    visit(self.names.norm, self.norm);
    visit(self.names.bias, self.bias);
    if (self.untied) visit(self.names.word, self.word), visit(self.names.word, self.table);
  }

 private:
  template <class F>
  auto with_table(const F& f) const {
    return table.defined() ? f(table) : f(word);
  }
};

}  // namespace meft::nn
