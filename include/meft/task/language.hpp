// Owns: what a language model learns from: blocks of tokens, the next token as label, masked tokens as labels.
// Masking: Devlin et al., "BERT", NAACL 2019, section 3.1. Must not know files, models, and which tokenizer it was.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/backend/kernels/loss.hpp>
#include <meft/base/error.hpp>
#include <meft/base/random.hpp>

namespace meft::task {

using Tokens = std::vector<std::int32_t>;
using meft::ignored_label;

/// The site of masking for `mask_tokens`.
inline constexpr std::uint32_t mask_site = 0xDA7A0010;

/// The ids of `text` without special tokens: `tokens(text)` of a tokenizer that has it, else what `encode` (such as
/// text::WordPiece's) puts between its first and its last token.
template <class Tokenizer>
Tokens plain_tokens(const Tokenizer& tokenizer, std::string_view text, Where where = Where::current()) {
  if constexpr (requires { tokenizer.tokens(text); }) {
    return tokenizer.tokens(text);
  } else {
    Tokens ids = tokenizer.encode(text, std::numeric_limits<std::size_t>::max(), where).ids;
    require(ids.size() >= 2, {"tokens: expected a special token before and one after a text, found", where},
            ids.size());
    ids.pop_back();
    ids.erase(ids.begin());
    return ids;
  }
}

/// The ids of `text` where it goes on behind `before`, whose own are `known`: those of both as one text, but for those
/// of `before`, as the Language Model Evaluation Harness takes them. A tokenizer may put a space before what begins a
/// text. Where `before` has other tokens when `text` follows, and where it is empty, the ids of `text` alone.
template <class Tokenizer>
Tokens tokens_behind(const Tokenizer& tokenizer, std::string_view before, const Tokens& known, std::string_view text,
                     Where where = Where::current()) {
  if (before.empty()) return plain_tokens(tokenizer, text, where);
  const Tokens both = plain_tokens(tokenizer, std::string(before) += text, where);
  if (both.size() < known.size() || !std::equal(known.begin(), known.end(), both.begin()))
    return plain_tokens(tokenizer, text, where);
  return {both.begin() + std::ssize(known), both.end()};
}
template <class Tokenizer>
Tokens tokens_behind(const Tokenizer& tokenizer, std::string_view before, std::string_view text,
                     Where where = Where::current()) {
  return tokens_behind(tokenizer, before, before.empty() ? Tokens() : plain_tokens(tokenizer, before, where), text,
                       where);
}

/// How lines become blocks. `max_length` counts the special tokens too.
struct BlockOptions {
  std::size_t max_length = 128;
  Tokens before{}, after{};  // of each block: {bos} and nothing for a causal model, {cls} and {sep} for a masked one
  bool pack = false;         // lines are joined, and every block but the last is full
  Tokens between{};          // when packed: after each line
};

/// Cuts lines of tokens into blocks of at most `max_length` tokens: each line into as many as it needs, or, packed, the
/// lines joined end to end. Nothing is lost, but blocks of fewer than two tokens, from which nothing can be learned.
/// Errors: a `max_length` that leaves no room.
inline std::vector<Tokens> blocks(std::span<const Tokens> lines, const BlockOptions& options,
                                  Where where = Where::current()) {
  const std::size_t special = options.before.size() + options.after.size();
  if (options.max_length <= special || options.max_length < 2)
    fail({"blocks: expected a max_length of at least " + std::to_string(std::max<std::size_t>(special + 1, 2)) +
              " tokens, found " + std::to_string(options.max_length),
          where});
  const std::size_t room = options.max_length - special;
  std::vector<Tokens> out;
  const auto emit = [&](std::span<const std::int32_t> tokens) {
    if (tokens.empty() || tokens.size() + special < 2) return;
    Tokens block = options.before;
    block.insert(block.end(), tokens.begin(), tokens.end());
    block.insert(block.end(), options.after.begin(), options.after.end());
    out.push_back(std::move(block));
  };
  const auto cut = [&](std::span<const std::int32_t> tokens) {
    for (; tokens.size() >= room; tokens = tokens.subspan(room)) emit(tokens.first(room));
    return tokens;
  };
  if (!options.pack) {
    for (const Tokens& line : lines) emit(cut(line));
    return out;
  }
  Tokens waiting;
  for (const Tokens& line : lines) {
    waiting.insert(waiting.end(), line.begin(), line.end());
    waiting.insert(waiting.end(), options.between.begin(), options.between.end());
    const std::size_t rest = cut(waiting).size();
    waiting.erase(waiting.begin(), waiting.end() - static_cast<std::ptrdiff_t>(rest));
  }
  emit(waiting);
  return out;
}

/// The blocks of lines of text.
template <class Tokenizer>
std::vector<Tokens> blocks(const Tokenizer& tokenizer, std::span<const std::string> lines, const BlockOptions& options,
                           Where where = Where::current()) {
  std::vector<Tokens> tokens;
  tokens.reserve(lines.size());
  for (const std::string& line : lines) tokens.push_back(plain_tokens(tokenizer, line, where));
  return blocks(std::span<const Tokens>(tokens), options, where);
}

/// The next token of each position of one sequence; `ignored_label` at the last.
inline Tokens causal_labels(std::span<const std::int32_t> ids) {
  if (ids.empty()) return {};
  Tokens labels(ids.begin() + 1, ids.end());
  labels.push_back(ignored_label);
  return labels;
}

/// What is masked and how.
struct MaskOptions {
  std::int32_t mask = -1;       // the id of [MASK]
  std::int32_t vocabulary = 0;  // ids are below it
  Tokens special{};             // never masked and never drawn, like the mask itself
  double chosen = 0.15;         // share of tokens that are to be predicted; of these
  double masked = 0.8;          // become the mask, and
  double random = 0.1;          // another token, any of the ordinary ones; the rest stays
  bool at_least_one = true;     // a sequence in which no token was chosen has one nevertheless
};

/// A sequence to predict from: `labels` has the right token where one is to be predicted, else `ignored_label`.
struct Masked {
  Tokens ids, labels;
};

/// Masks one sequence. A pure function of key, `row` (the sequence's number) and position: the same in whichever batch.
/// A run takes Key{seed, mask_site, epoch}. Errors: an option or an id out of range.
inline Masked mask_tokens(std::span<const std::int32_t> ids, std::uint32_t row, Key key, const MaskOptions& options,
                          Where where = Where::current()) {
  require(options.vocabulary > 0 && options.mask >= 0 && options.mask < options.vocabulary,
          {"mask_tokens: the mask's id is not in the vocabulary", where}, options.mask, options.vocabulary);
  const auto share = [](double x) { return x >= 0 && x <= 1; };
  require(share(options.chosen) && share(options.masked) && share(options.random) &&
              options.masked + options.random <= 1 + 1e-9,
          {"mask_tokens: expected shares from 0 to 1, masked and random at most 1 together, found", where},
          options.chosen, options.masked, options.random);
  Tokens special = options.special;
  special.push_back(options.mask);
  std::sort(special.begin(), special.end());
  special.erase(std::unique(special.begin(), special.end()), special.end());
  require(special.front() >= 0 && special.back() < options.vocabulary,
          {"mask_tokens: a special token is not in the vocabulary", where}, special.front(), special.back(),
          options.vocabulary);
  const auto ordinary = static_cast<std::uint64_t>(options.vocabulary) - special.size();
  require(ordinary > 0, {"mask_tokens: every token of the vocabulary is special", where}, options.vocabulary);
  require(ids.size() <= std::numeric_limits<std::uint32_t>::max(), {"mask_tokens: the sequence is too long", where},
          ids.size());

  Masked out{Tokens(ids.begin(), ids.end()), Tokens(ids.size(), ignored_label)};
  const auto below_share = [](std::uint32_t bits, double limit) { return bits * 0x1p-32 < limit; };
  const auto block = [&](std::size_t t) { return philox(key, (std::uint64_t{row} << 32) | t); };
  const auto choose = [&](std::size_t t) {
    const auto bits = block(t);
    out.labels[t] = ids[t];
    if (below_share(bits[1], options.masked)) {
      out.ids[t] = options.mask;
    } else if (below_share(bits[1], options.masked + options.random)) {
      auto id = static_cast<std::int32_t>((bits[2] * ordinary) >> 32);
      for (const std::int32_t s : special) id += s <= id;  // the id-th token that is not special
      out.ids[t] = id;
    }
  };
  std::size_t likeliest = ids.size();
  std::uint32_t lowest = 0;
  bool any = false;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    require(ids[t] >= 0 && ids[t] < options.vocabulary, {"mask_tokens: an id is not in the vocabulary", where}, ids[t],
            options.vocabulary);
    if (std::binary_search(special.begin(), special.end(), ids[t])) continue;
    const std::uint32_t bits = block(t)[0];
    if (likeliest == ids.size() || bits < lowest) likeliest = t, lowest = bits;
    if (!below_share(bits, options.chosen)) continue;
    choose(t);
    any = true;
  }
  if (!any && options.at_least_one && options.chosen > 0 && likeliest < ids.size()) choose(likeliest);
  return out;
}

}  // namespace meft::task
