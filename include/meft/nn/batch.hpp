// Owns: a ragged batch of token sequences, and hidden states on their way through a model.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include <meft/reversible/context.hpp>

namespace meft::nn {

/// Sequences packed end to end, without padding; or images.
template <Backend B = Cpu>
struct Batch {
  Tensor<std::int32_t, B> ids, types;  // [tokens]
  Offsets offsets;
  Run run{};
  Tensor<std::int32_t, B> labels{};  // [sequences] classes, [tokens] words of a language model, [questions] answers, or
  Tensor<float, B> targets{};        // [sequences] values of a regression
  Tensor<float, B> pixels{};         // [images, channels, height, width]
  /// For questions with options, one sequence each: the numbers of a question's sequences, as many as the question with
  /// the most options has; one past the last stands for none. [questions · most].
  Tensor<std::int32_t, B> options{};
  /// What the gradient of its loss is multiplied by, a scalar; none: by 1.
  Tensor<float, B> weight{};
  /// For ranked answers, whose words are `labels`: the right one of each question, then the others, question by
  /// question. rows [words]: of the hidden states from which each word is predicted. An encoder's batch has the answers
  /// as its last sequences where a decoder is to give them.
  Tensor<std::int32_t, B> rows{};
  Offsets answers{}, wrong{};  // the words of each answer; the wrong answers of each question
  Index counted = -1;          // what its loss is the mean over: sequences, tokens, questions, words; -1: not told
  Index filling = 0;           // how many of the sequences, the last, are there for the device alone (nn/filled.hpp)

  /// f(tensor) for each, defined or not.
  template <class F>
  void for_each_input(const F& f) {
    f(ids), f(types), f(labels), f(targets), f(pixels), f(options), f(weight), f(rows);
  }
  template <class F>
  void for_each_input(const F& f) const {
    f(ids), f(types), f(labels), f(targets), f(pixels), f(options), f(weight), f(rows);
  }
  static constexpr std::size_t inputs = 8;

  /// Packs sequences of ids, and of types of the same lengths; without these every type is 0.
  static Batch pack(const std::vector<std::vector<std::int32_t>>& ids,
                    const std::vector<std::vector<std::int32_t>>& types = {}, Where where = Where::current()) {
    const bool typed = !types.empty();
    require(!typed || ids.size() == types.size(), {"batch: the numbers of id and type sequences differ", where},
            ids.size(), types.size());
    std::vector<std::int32_t> all, all_types, lengths;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (typed)
        require(ids[i].size() == types[i].size(), {"batch: a sequence has other numbers of ids and types", where},
                ids[i].size(), types[i].size());
      all.insert(all.end(), ids[i].begin(), ids[i].end());
      if (typed) all_types.insert(all_types.end(), types[i].begin(), types[i].end());
      lengths.push_back(static_cast<std::int32_t>(ids[i].size()));
    }
    all_types.resize(all.size());
    const Index n = static_cast<Index>(all.size());
    return {Tensor<std::int32_t, B>::from({n}, all),
            Tensor<std::int32_t, B>::from({n}, all_types),
            Offsets::of_lengths(lengths),
            {},
            {},
            {},
            {}};
  }
};

/// The elements of a batch in a model's type.
template <Real T, Backend B>
Tensor<T, B> cast(const Tensor<float, B>& x) {
  if constexpr (std::is_same_v<T, float>) return x;
  else {
    const auto values = x.values();
    return Tensor<T, B>::from(x.shape(), std::vector<T>(values.begin(), values.end()));
  }
}

/// Hidden states [tokens, width] with the batch's context.
template <Real T, Backend B = Cpu>
struct Hidden {
  Var<T, B> value;
  Context<T, B> context;
};

}  // namespace meft::nn
