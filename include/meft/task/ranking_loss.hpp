// Owns: the losses of answers that are ranked by how likely their words are. Liu et al., "Few-Shot Parameter-Efficient
// Fine-Tuning is Better and Cheaper than In-Context Learning" (T-Few), arXiv 2205.05638, section 3.2. Must not know
// models, tokens.
#pragma once

#include <limits>
#include <string_view>
#include <vector>

#include <meft/ops/activation.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/loss.hpp>
#include <meft/ops/pooling.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/shape.hpp>

namespace meft::task {

/// With β(a) = mean ln p of the words of answer a and y the right one of a question, means over questions of
/// likelihood −β(y); ranking −ln softmax(β)[y] over its answers; tfew, their sum and the unlikelihood of the wrong
/// answers' words, −Σ ln(1 − p)/their number. With one word an answer, ranking is cross entropy over these words. words
/// is the mean of −ln p over the words of all right answers, as of texts that are to be written.
enum class Losses { likelihood, ranking, tfew, words };

/// "likelihood" | "ranking" | "tfew"; `words` has no name. Throws with the name otherwise.
inline Losses losses_from(std::string_view name, Where where = Where::current()) {
  if (name == "likelihood") return Losses::likelihood;
  if (name == "ranking") return Losses::ranking;
  require(name == "tfew", {"losses: expected likelihood, ranking or tfew, found", where}, name);
  return Losses::tfew;
}

/// `log_p` [words] of all answers: the right one of each question, then the wrong ones, question by question.
/// `answers`: the words of each; `wrong`: how many wrong ones each question has, none too. A scalar.
template <Real T, Backend B>
Var<T, B> ranking_loss(Losses losses, const Var<T, B>& log_p, const Offsets& answers, const Offsets& wrong) {
  const Index questions = wrong.sequences(), count = answers.sequences();
  require(questions > 0 && count == questions + wrong.tokens() && log_p.size() == answers.tokens(),
          "ranking_loss: answers, questions and words differ", questions, count, log_p.size());
  if (losses == Losses::words) return mean(slice(log_p, 0, 0, answers.end(questions - 1))) * T(-1);
  const auto beta = mean_rows(reshape(log_p, {-1, 1}), answers);
  Var<T, B> loss;
  const auto add = [&](const Var<T, B>& term) { loss = loss.defined() ? loss + term : term; };
  if (losses != Losses::ranking) add(mean(slice(beta, 0, 0, questions)) * T(-1));
  if (losses == Losses::likelihood) return loss;

  const Index most = 1 + wrong.longest();
  std::vector<std::int32_t> options;
  for (Index q = 0; q < questions; ++q) {
    options.push_back(static_cast<std::int32_t>(q));
    for (Index i = 1; i < most; ++i)
      options.push_back(static_cast<std::int32_t>(i <= wrong.length(q) ? questions + wrong.begin(q) + i - 1 : count));
  }
  const Var<T, B> never = Tensor<T, B>::full({1, 1}, T(-1e30));
  const auto scores = gather(concat({beta, never}, 0), Tensor<std::int32_t, B>::from({std::ssize(options)}, options));
  add(cross_entropy(reshape(scores, {questions, -1}), Tensor<std::int32_t, B>::zeros({questions})));
  if (losses == Losses::ranking || wrong.tokens() == 0) return loss;

  std::vector<std::int32_t> words;  // of the wrong answers of each question that has any
  for (Index q = 0; q < questions; ++q)
    if (wrong.length(q) > 0)
      words.push_back(static_cast<std::int32_t>(answers.end(questions + wrong.end(q) - 1) -
                                                answers.begin(questions + wrong.begin(q))));
  // ln(1 − p), where p may round to 1.
  const auto p = exp(slice(log_p, 0, answers.begin(questions), log_p.size()));
  const auto unlikely = log((T(1) - p) + std::numeric_limits<T>::epsilon() / 2);
  const auto means = mean_rows(reshape(unlikely, {-1, 1}), Offsets::of_lengths(words));
  add(sum(means) * (T(-1) / static_cast<T>(questions)));
  return loss;
}

}  // namespace meft::task
