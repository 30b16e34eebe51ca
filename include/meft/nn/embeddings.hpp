// Owns: tokens to hidden states: word, position and type, each where the family has it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <meft/nn/batch.hpp>
#include <meft/nn/linear.hpp>
#include <meft/nn/norm.hpp>
#include <meft/nn/table_rows.hpp>
#include <meft/nn/virtual_tokens.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/embedding.hpp>
#include <meft/ops/rotary.hpp>

namespace meft::nn {

/// The names of the parts; those of a family without one are empty. A `word` without a name is another module's.
struct EmbeddingNames {
  const char *word = "", *position = "", *type = "", *norm = "", *project = "";
};

/// What a model's embeddings are made of: sizes, kinds of positions, a norm.
struct EmbeddingSpec {
  Index vocabulary = 0, positions = 0, types = 0;  // rows of the tables; 0: no such table
  Index first_position = 0;                        // the row of a sequence's first token
  double scale = 1;                                // of the word
  std::optional<double> norm{};                    // of the sum: its epsilon
  NormKind norm_kind = NormKind::layer;
  float dropout = 0;
};

/// For each token its place in its sequence, behind the `earlier` ones where there are such, plus `first`, as rows of a
/// table of `rows` positions.
template <Backend B>
Tensor<std::int32_t, B> places(const Offsets& offsets, const Offsets& earlier, Index first, Index rows,
                               const char* model) {
  const auto longest = [=] { return offsets.behind(earlier).longest(); };
  if (settled<B>([=] { return longest() + first > rows; }))
    fail(std::string(model) + ": a sequence is longer than max_position_embeddings", longest(), rows - first);
  return positions<B>(offsets, first, earlier);
}

/// dropout(LN(project(scale·word) + position + type)), [tokens, width]; virtual tokens stand as words, of type 0.
template <Real T, Backend B = Cpu>
struct TokenEmbeddings {
  EmbeddingNames names;
  EmbeddingSpec spec;
  const char* model = "";  // as errors call it
  std::uint32_t site = 0;
  Parameter<T, B> word{}, position{}, type{};
  std::optional<Norm<T, B>> norm{};
  std::optional<Linear<T, B>> project{};
  std::optional<VirtualTokens<T, B>> prompt{};  // in the words' width, not scaled
  std::shared_ptr<TableRows<T, B>> rows{};      // of the words, where not all are in memory
  PackedWeight<T, B> table{};                   // in place of the word, where it is frozen and kept in blocks

  /// Parameters are uninitialised. `word` is made, or one that is there already.
  static TokenEmbeddings empty(const EmbeddingNames& names, const EmbeddingSpec& spec, Index width, Index word_width,
                               const char* model, std::uint32_t site, const Parameter<T, B>& word = {}) {
    TokenEmbeddings out{names, spec, model, site, word};
    if (!out.word.defined()) out.word = Parameter<T, B>::empty({spec.vocabulary, word_width});
    if (spec.positions) out.position = Parameter<T, B>::empty({spec.positions, width});
    if (spec.types) out.type = Parameter<T, B>::empty({spec.types, width});
    if (spec.norm) out.norm = Norm<T, B>::empty(width, *spec.norm, spec.norm_kind);
    if (word_width != width) out.project = Linear<T, B>::empty(word_width, width, false);
    return out;
  }

  /// Of words behind `earlier` tokens, virtual ones among them, where there are such.
  Var<T, B> operator()(const Tensor<std::int32_t, B>& ids, const Tensor<std::int32_t, B>& types, const Offsets& offsets,
                       const Run& run, const Offsets& earlier = {}) const {
    Var<T, B> x = words(ids);
    if (spec.scale != 1) x = x * static_cast<T>(spec.scale);
    if (begins(earlier)) x = in_front(prompt->rows, x, offsets);
    if (project) x = (*project)(x);
    if (position.defined())
      x = x + embedding(position,
                        places<B>(entering(offsets, earlier), earlier, spec.first_position, spec.positions, model));
    if (type.defined()) x = x + typed(types, offsets, begins(earlier));
    if (norm) x = (*norm)(x);
    return run.training && spec.dropout > 0 ? meft::dropout(x, spec.dropout, run.key(site)) : x;
  }

  /// The rows of the word embeddings. [ids, word width]
  Var<T, B> words(const Tensor<std::int32_t, B>& ids) const {
    if (table.defined()) return embedding(table, ids);
    return rows ? embedding(word, rows->places(ids), ids) : embedding(word, ids);
  }

  Index word_width() const { return table.defined() ? table.shape()[1] : word.shape()[1]; }

  /// Whether virtual tokens come before the words.
  bool begins(const Offsets& earlier = {}) const { return prompt && earlier.tokens() == 0; }
  /// Of the sequences that come out, where `offsets` are those of the words.
  Offsets entering(const Offsets& offsets, const Offsets& earlier = {}) const {
    return begins(earlier) ? prompt->with(offsets) : offsets;
  }

  static void parts(auto& self, auto&& visit) {
    if (*self.names.word) visit(self.names.word, self.word), visit(self.names.word, self.table);
    if (*self.names.word && self.rows && self.rows->changes()) visit(self.rows->name(), self.rows->numbers());
    visit(self.names.position, self.position);
    visit(self.names.type, self.type);
    visit(self.names.norm, self.norm);
    visit(self.names.project, self.project);
  }

 private:
  Var<T, B> typed(const Tensor<std::int32_t, B>& types, const Offsets& offsets, bool begins) const {
    const auto of_words = embedding(type, types);
    if (!begins) return of_words;
    return in_front(embedding(type, Tensor<std::int32_t, B>::zeros({prompt->count()})), of_words, offsets);
  }
};

}  // namespace meft::nn
