// Blocks of tokens, next-token labels, and masking: its shares, its determinism, what it never touches.
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include <meft/task/language.hpp>
#include <meft/text/wordpiece.hpp>

#include "folder.hpp"

using namespace meft;
using task::Tokens;
using test::contains;
using test::message_of;

namespace {

constexpr std::int32_t none = task::ignored_label;

/// `count` ids from 5 to 999.
Tokens sequence(std::size_t count, std::uint64_t seed = 1) {
  Tokens out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(5 + static_cast<std::int32_t>(below(Key{seed, 1, 0}, i, 995)));
  return out;
}

const task::MaskOptions options{.mask = 4, .vocabulary = 1000, .special = {0, 1, 2, 3}};

struct Letters {
  Tokens tokens(std::string_view text) const { return Tokens(text.begin(), text.end()); }
};

}  // namespace

TEST_CASE("language: lines are cut into blocks") {
  const std::vector<Tokens> lines = {{10, 11, 12, 13, 14}, {}, {20, 21}, {30}};
  CHECK(task::blocks(lines, {.max_length = 2}) == std::vector<Tokens>{{10, 11}, {12, 13}, {20, 21}});
  CHECK(task::blocks(lines, {.max_length = 4, .before = {1}}) ==
        std::vector<Tokens>{{1, 10, 11, 12}, {1, 13, 14}, {1, 20, 21}, {1, 30}});
  CHECK(task::blocks(lines, {.max_length = 4, .before = {1}, .after = {2}}) ==
        std::vector<Tokens>{{1, 10, 11, 2}, {1, 12, 13, 2}, {1, 14, 2}, {1, 20, 21, 2}, {1, 30, 2}});
  CHECK(task::blocks(lines, {.max_length = 4, .pack = true, .between = {0}}) ==
        std::vector<Tokens>{{10, 11, 12, 13}, {14, 0, 0, 20}, {21, 0, 30, 0}});
  CHECK(task::blocks(lines, {.max_length = 4, .before = {1}, .pack = true}) ==
        std::vector<Tokens>{{1, 10, 11, 12}, {1, 13, 14, 20}, {1, 21, 30}});
  CHECK(task::blocks(std::vector<Tokens>{}, {}).empty());
  CHECK(message_of([&] { task::blocks(lines, {.max_length = 2, .before = {1}, .after = {2}}); }) ==
        "blocks: expected a max_length of at least 3 tokens, found 2");
  CHECK(message_of([&] { task::blocks(lines, {.max_length = 1}); }) ==
        "blocks: expected a max_length of at least 2 tokens, found 1");
}

TEST_CASE("language: blocks of text, by tokens or by encode without its ends") {
  const std::vector<std::string> lines = {"abc", "d"};
  CHECK(task::blocks(Letters{}, lines, {.max_length = 3, .before = {2}}) ==
        std::vector<Tokens>{{2, 'a', 'b'}, {2, 'c'}, {2, 'd'}});
  const test::Folder folder;
  folder.put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwho\nis\nit\n");
  const text::WordPiece tokenizer(folder.text());
  CHECK(task::plain_tokens(tokenizer, "Who is it") == Tokens{5, 6, 7});
  CHECK(task::plain_tokens(tokenizer, "").empty());
  const std::vector<std::string> text = {"who is it"};
  CHECK(task::blocks(tokenizer, text, {.max_length = 4, .before = {tokenizer.cls()}, .after = {tokenizer.sep()}}) ==
        std::vector<Tokens>{{2, 5, 6, 3}, {2, 7, 3}});
}

TEST_CASE("language: the next token is the label") {
  CHECK(task::causal_labels(Tokens{7, 8, 9}) == Tokens{8, 9, none});
  CHECK(task::causal_labels(Tokens{7}) == Tokens{none});
  CHECK(task::causal_labels(Tokens{}).empty());
}

TEST_CASE("language: shares of masked tokens") {
  const std::size_t count = 200000;
  const Tokens ids = sequence(count);
  const auto out = task::mask_tokens(ids, 3, Key{7, task::mask_site, 2}, options);
  double chosen = 0, masked = 0, random = 0, kept = 0, mean = 0;
  for (std::size_t t = 0; t < count; ++t) {
    if (out.labels[t] == none) {
      REQUIRE(out.ids[t] == ids[t]);
      continue;
    }
    REQUIRE(out.labels[t] == ids[t]);
    REQUIRE(out.ids[t] >= 4);
    REQUIRE(out.ids[t] < 1000);
    ++chosen;
    if (out.ids[t] == 4) ++masked;
    else if (out.ids[t] == ids[t]) ++kept;  // and a random draw of the same, 1 of 9950
    else ++random, mean += out.ids[t];
  }
  const auto near = [](double found, double n, double share) {  // five standard deviations
    return std::abs(found - n * share) < 5 * std::sqrt(n * share * (1 - share));
  };
  CHECK(near(chosen, count, 0.15));
  CHECK(near(masked, chosen, 0.8));
  CHECK(near(random, chosen, 0.1));
  CHECK(near(kept, chosen, 0.1));
  CHECK(mean / random == doctest::Approx(502).epsilon(0.05));  // uniform from 5 to 999: sd 287/√3000 = 5
}

TEST_CASE("language: a pure function of key, row and position") {
  const Tokens ids = sequence(400);
  const Key key{7, task::mask_site, 2};
  const auto out = task::mask_tokens(ids, 3, key, options);
  const auto again = task::mask_tokens(ids, 3, key, options);
  CHECK(out.ids == again.ids);
  CHECK(out.labels == again.labels);
  CHECK(task::mask_tokens(ids, 4, key, options).labels != out.labels);
  CHECK(task::mask_tokens(ids, 3, Key{8, task::mask_site, 2}, options).labels != out.labels);
  CHECK(task::mask_tokens(ids, 3, Key{7, task::mask_site, 3}, options).labels != out.labels);
  // The beginning of a sequence is masked as in the whole.
  const auto start = task::mask_tokens(std::span(ids).first(200), 3, key, options);
  CHECK(std::equal(start.ids.begin(), start.ids.end(), out.ids.begin()));

  // Computed apart from this code, from Philox's definition; a change would break the resumption of runs.
  const auto bits =
      task::mask_tokens(Tokens{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, 1, {42, task::mask_site, 0},
                        {.mask = 4, .vocabulary = 20, .special = {0, 1}, .chosen = 0.7, .masked = 0.4, .random = 0.4});
  std::string shown;
  for (std::size_t t = 0; t < bits.ids.size(); ++t)
    shown += std::to_string(bits.ids[t]) + (bits.labels[t] == none ? " " : "* ");
  CHECK(shown == "10* 11 12* 13 4* 15 10* 17 18* 19 ");
}

TEST_CASE("language: special tokens are never chosen or drawn") {
  Tokens ids;
  for (int i = 0; i < 4000; ++i) ids.push_back(i % 8);
  // Ordinary are 3, 5 and 7; all of them are chosen, and all become another token.
  const auto out = task::mask_tokens(
      ids, 0, Key{1, task::mask_site, 0},
      {.mask = 4, .vocabulary = 8, .special = {6, 0, 2, 1, 0}, .chosen = 1, .masked = 0, .random = 1});
  int drawn[8] = {};
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const bool ordinary = ids[t] == 3 || ids[t] == 5 || ids[t] == 7;
    REQUIRE((out.labels[t] != none) == ordinary);
    if (ordinary) ++drawn[out.ids[t]];
    else REQUIRE(out.ids[t] == ids[t]);
  }
  CHECK(drawn[3] + drawn[5] + drawn[7] == 1500);
  for (const int id : {3, 5, 7}) CHECK(std::abs(drawn[id] - 500) < 100);

  // A short sequence has a token to predict, unless all are special or that is not wanted.
  auto few = options;
  few.chosen = 1e-6;
  for (std::uint32_t row = 0; row < 50; ++row) {
    const auto one = task::mask_tokens(Tokens{2, 50, 60, 70, 3}, row, Key{1, task::mask_site, 0}, few);
    CHECK(std::count(one.labels.begin(), one.labels.end(), none) == 4);
    CHECK(one.labels.front() == none);
    CHECK(one.labels.back() == none);
  }
  CHECK(task::mask_tokens(Tokens{2, 3}, 0, Key{}, few).labels == Tokens{none, none});
  CHECK(task::mask_tokens(Tokens{}, 0, Key{}, few).ids.empty());
  few.at_least_one = false;
  CHECK(task::mask_tokens(Tokens{2, 50, 3}, 0, Key{}, few).labels == Tokens{none, none, none});
}

TEST_CASE("language: errors of masking") {
  const auto error = [](const task::MaskOptions& wrong, const Tokens& ids = {5}) {
    return message_of([&] { task::mask_tokens(ids, 0, Key{}, wrong); });
  };
  CHECK(error(options) == "no error");
  CHECK(error({}) == "mask_tokens: the mask's id is not in the vocabulary: -1, 0");
  CHECK(error({.mask = 9, .vocabulary = 9}) == "mask_tokens: the mask's id is not in the vocabulary: 9, 9");
  CHECK(contains(error({.mask = 1, .vocabulary = 9, .chosen = 1.5}), "expected shares from 0 to 1"));
  CHECK(contains(error({.mask = 1, .vocabulary = 9, .masked = 0.9, .random = 0.2}), "at most 1 together"));
  CHECK(contains(error({.mask = 1, .vocabulary = 9, .masked = std::nan("")}), "expected shares from 0 to 1"));
  CHECK(contains(error({.mask = 1, .vocabulary = 9, .special = {9}}), "a special token is not in the vocabulary"));
  CHECK(contains(error({.mask = 1, .vocabulary = 2, .special = {0}}), "every token of the vocabulary is special"));
  CHECK(error(options, {5, 1000}) == "mask_tokens: an id is not in the vocabulary: 1000, 1000");
  CHECK(contains(error(options, {-1}), "an id is not in the vocabulary: -1"));
}
