// Owns: texts that a language model writes for a text: rows of both as questions with one answer, greedy decoding, the
// scores of what was to be written. Must not know files, and which tokenizer it was.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/nn/batch.hpp>
#include <meft/ops/shape.hpp>
#include <meft/task/metric.hpp>
#include <meft/task/pass.hpp>
#include <meft/task/ranked.hpp>

namespace meft::task {

/// The most tokens of a text and of what is written for it, without special ones: a decoder that reads the text has
/// form.max_length for either, a causal model half of them. With form.max_written so many are for what is written, and
/// the rest of a causal model's for the text.
struct WrittenRoom {
  std::size_t text = 0, written = 0;

  explicit WrittenRoom(const RankedForm& form, Where where = Where::current()) {
    require(form.answered != Answered::at_mask, {"written texts: a masked model writes none", where});
    const std::size_t beside = form.before.size() + form.after.size(), ends = form.start.size() + form.end.size();
    require(form.max_length >= beside + ends + 2, {"written texts: no room in sequences of so many tokens", where},
            form.max_length);
    const bool apart = form.answered == Answered::by_decoder;
    const std::size_t room = form.max_length - ends - (apart ? 0 : beside), most = room - !apart;  // a text has a token
    if (form.max_written > most)
      fail({"written texts: expected option max-target-length of at most " + std::to_string(most) + ", found " +
                std::to_string(form.max_written),
            where});
    written = form.max_written ? form.max_written : apart ? room : room - room / 2;
    text = apart ? form.max_length - beside : room - written;
  }
};

/// Each example's pair is what is to be written for its text, behind which form.end stands, and before it form.start
/// where a decoder gives it. Both are cut at their ends. Without `told` nothing is told of what is to be written.
/// Errors: a text that is to be written and has no token; those of WrittenRoom.
template <class Tokenizer>
RankedQuestions encode_written(const Tokenizer& tokenizer, std::span<const data::Example> examples,
                               const RankedForm& form, bool told = true, Where where = Where::current()) {
  const WrittenRoom room(form, where);
  RankedQuestions out{.answered = form.answered, .skipped = detail::given(form)};
  for (const auto& example : examples) {
    Tokens prompt = plain_tokens(tokenizer, example.text, where), answer;
    if (told) answer = plain_tokens(tokenizer, example.pair, where);
    if (told && answer.empty())
      fail({example.place.text(out.size()) + ": expected a text to be written, found " +
                (example.pair.empty() ? "none" : data::detail::excerpt(example.pair) + ", which has no token"),
            where});
    out.cut += prompt.size() > room.text;
    if (answer.size() > room.written) out.cut_answers.push_back(static_cast<std::uint32_t>(out.size()));
    prompt.resize(std::min(prompt.size(), room.text));
    answer.resize(std::min(answer.size(), room.written));
    if (form.answered == Answered::by_decoder) answer.insert(answer.begin(), form.start.begin(), form.start.end());
    answer.insert(answer.end(), form.end.begin(), form.end.end());
    out.answers.push_back(std::move(answer));
    detail::add_prompt(out, form, {detail::PromptPiece{std::move(prompt)}});
    out.labels.push_back(told ? 0.0f : std::numeric_limits<float>::quiet_NaN());
  }
  return out;
}

/// What sequences of `encoded` with these numbers read, one behind the other; as it is where these are all in order.
template <Real T, Backend B>
nn::Hidden<T, B> read_again(nn::Hidden<T, B> encoded, std::span<const Index> numbers) {
  const Offsets read = encoded.context.offsets;
  std::vector<std::int32_t> rows, lengths;
  bool same = std::ssize(numbers) == read.sequences();
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    same = same && numbers[i] == static_cast<Index>(i);
    for (Index row = read.begin(numbers[i]); row < read.end(numbers[i]); ++row)
      rows.push_back(static_cast<std::int32_t>(row));
    lengths.push_back(static_cast<std::int32_t>(read.length(numbers[i])));
  }
  if (same) return encoded;
  encoded.value = gather(encoded.value, Tensor<std::int32_t, B>::from({std::ssize(rows)}, rows));
  encoded.context.offsets = Offsets::of_lengths(lengths);
  return encoded;
}

namespace detail {

/// The likeliest word of each row, the first of equals.
template <class Head, Real T, Backend B>
Tokens likeliest(const Head& head, const Var<T, B>& h) {
  Tokens out;
  constexpr Index step = 64;
  for (Index first = 0; first < h.shape()[0]; first += step) {
    const auto z = head.logits(h.value().rows(first, std::min(h.shape()[0], first + step))).value();
    const auto values = z.values();
    const auto words = static_cast<std::ptrdiff_t>(z.dim(1));
    for (auto row = values.begin(); row != values.end(); row += words)
      out.push_back(static_cast<std::int32_t>(std::max_element(row, row + words) - row));
  }
  return out;
}

/// Bytes of a token's keys and values in the layers that write, of their own tokens or of the side's.
template <class Model>
std::size_t bytes_kept(const Model& model, bool side) {
  Index features = 0;
  for (const auto& layer : model.decodes() ? model.decoder_layers : model.layers)
    if (!side) features += 2 * layer.attention.key.out();
    else if (layer.cross) features += 2 * layer.cross->key.out();
  return static_cast<std::size_t>(features) * sizeof(typename Model::value_type);
}

}  // namespace detail

/// What `learner` (model, body, head) writes for the questions' prompts, `each` at a time, or as many, at least one, as
/// have `room` bytes of keys and values: the likeliest word each time, until it is `end` or there are `most` words;
/// without `end` and the `start` that a decoder is given. Nothing when stopped.
template <class Learner>
std::optional<std::vector<Tokens>> write(const Learner& learner, const RankedQuestions& data, const Tokens& start,
                                         std::int32_t end, std::size_t most, std::size_t each, const Asked& stop,
                                         std::size_t room = std::size_t{256} << 20) {
  using B = typename Learner::B;
  using T = typename Learner::T;
  const NoTape none;
  const bool apart = data.answered == Answered::by_decoder;
  Tokens entering = start;  // what a decoder reads first
  if (apart) entering.insert(entering.begin(), static_cast<std::int32_t>(learner.model.spec.decoder_start));
  const std::size_t own = detail::bytes_kept(learner.model, false), side = detail::bytes_kept(learner.model, true);
  const auto kept = [&](std::size_t i) {
    const std::size_t read = data.prompts[i].size();
    return apart ? read * side + (entering.size() + most) * own : (read + most) * own;
  };
  std::vector<Tokens> out(data.size());
  for (std::size_t first = 0, last = 0; first < data.size(); first = last) {
    std::size_t bytes = 0;
    do bytes += kept(last++);
    while (last < std::min(data.size(), first + each) && bytes + kept(last) <= room);
    const auto at = [](const auto& list, std::size_t i) { return list.begin() + static_cast<std::ptrdiff_t>(i); };
    const std::vector<Tokens> prompts(at(data.prompts, first), at(data.prompts, last));
    std::optional<nn::Hidden<T, B>> encoded;
    if (apart) encoded = learner.model.encode(nn::Batch<B>::pack(prompts), learner.body);
    std::vector<Index> writing(last - first);
    std::iota(writing.begin(), writing.end(), Index{0});
    KvCache<T, B> cache(std::ssize(writing));
    std::vector<Tokens> next = apart ? std::vector<Tokens>(writing.size(), entering) : prompts;
    for (std::size_t length = 0; length < most && !writing.empty(); ++length) {
      if (stop(first, data.size())) return {};
      const auto batch = nn::Batch<B>::pack(next);
      const auto h = apart ? learner.model.decode(batch, read_again(*encoded, writing), learner.body, &cache)
                           : learner.model.run(batch, learner.body, &cache);
      std::vector<std::int32_t> ends;
      for (Index s = 0; s < h.context.offsets.sequences(); ++s)
        ends.push_back(static_cast<std::int32_t>(h.context.offsets.end(s)) - 1);
      const auto words =
          detail::likeliest(learner.head, gather(h.value, Tensor<std::int32_t, B>::from({std::ssize(ends)}, ends)));
      std::vector<Index> more, still;
      next.clear();
      for (std::size_t i = 0; i < writing.size(); ++i) {
        if (words[i] == end) continue;
        out[first + static_cast<std::size_t>(writing[i])].push_back(words[i]);
        next.push_back({words[i]});
        more.push_back(static_cast<Index>(i));
        still.push_back(writing[i]);
      }
      cache.only(more);
      writing = std::move(still);
    }
  }
  return out;
}

/// log_likelihood, the mean of a word that is to be written, perplexity, and exact_match, the share of texts that
/// greedy decoding would write to their end: those whose every word is the likeliest behind the ones before it, and of
/// which none was cut. Of a learner with batch(data, questions, run) and hidden(batch); nothing when stopped.
template <class Learner>
std::optional<std::vector<Score>> written_scores(const Learner& learner, const RankedQuestions& data, std::size_t each,
                                                 const Asked& stop) {
  using B = typename Learner::B;
  const NoTape none;
  double sum = 0;
  std::size_t words = 0, exact = 0;
  const auto tokens = data.lengths();
  std::vector<std::uint32_t> questions;
  for (std::size_t first = 0; first < data.size(); first += questions.size()) {
    if (stop(first, data.size())) return {};
    questions.resize(end_of_pass(learner.body, tokens, first, each) - first);
    std::iota(questions.begin(), questions.end(), static_cast<std::uint32_t>(first));
    const nn::Batch<B> batch = learner.batch(data, questions, {});
    const auto h = gather(learner.hidden(batch).value, batch.rows);
    const auto found = learner.head.log_likelihood(h, batch.labels).values();
    const auto likeliest = detail::likeliest(learner.head, h), wanted = batch.labels.values();
    for (const auto value : found) sum += static_cast<double>(value);
    words += found.size();
    for (Index a = 0; a < batch.answers.sequences(); ++a) {
      const auto begin = static_cast<std::ptrdiff_t>(batch.answers.begin(a)), length = batch.answers.length(a);
      exact += std::equal(wanted.begin() + begin, wanted.begin() + begin + length, likeliest.begin() + begin) &&
               !std::ranges::binary_search(data.cut_answers, questions[static_cast<std::size_t>(a)]);
    }
  }
  require(words > 0, "written texts: no word to write", data.size());
  const double mean = sum / static_cast<double>(words);
  return std::vector<Score>{{"log_likelihood", mean},
                            {"perplexity", perplexity(-sum, words)},
                            {"exact_match", static_cast<double>(exact) / static_cast<double>(data.size())}};
}

}  // namespace meft::task
