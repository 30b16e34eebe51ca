// Questions with options: every layout of their files and every error by its text, the prompts, and the tokens and
// scores of options with a tokenizer of bytes. With MEFT_SHARED set (a folder that holds data/openbookqa, ...) the real
// files are read too.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include <meft/autodiff/gradcheck.hpp>
#include <meft/data/choice.hpp>
#include <meft/task/choice.hpp>
#include <meft/task/encoded.hpp>
#include <meft/task/metric.hpp>
#include <meft/task/ranked.hpp>
#include <meft/task/ranking_loss.hpp>
#include <meft/task/written.hpp>
#include <meft/text/wordpiece.hpp>

#include "folder.hpp"

using namespace meft;
using namespace std::string_literals;
using test::contains;
using test::Folder;
using test::message_of;

namespace {

using Names = std::vector<std::string>;

/// A row of a lone file with one more, so that a tenth can be held out; the row goes to where the seed puts it.
data::Choice one_of(const std::string& task, const std::string& row) {
  const Folder folder;
  folder.put("train.jsonl", row + "\n");
  folder.put("dev.jsonl", row + "\n");
  return data::choices(task, folder.text()).train.at(0);
}

std::string error_of(const std::string& task, const std::string& bytes, const std::string& file = "train.jsonl") {
  const Folder folder;
  folder.put(file, bytes);
  folder.put("dev.jsonl", "{}");
  return message_of([&] { data::choices(task, folder.text()); }, &folder);
}

/// A row of openbookqa with these choices and this end.
std::string row_with(const std::string& choices, const std::string& end = R"("answerKey": "A")") {
  return R"({"question": {"stem": "S", "choices": )" + choices + "}, " + end + "}";
}

const std::string two = R"([{"text": "x", "label": "A"}, {"text": "y", "label": "B"}])";

/// Every byte is a token, 10 more than its value.
struct Bytes {
  task::Tokens tokens(std::string_view text) const {
    task::Tokens out;
    for (const char c : text) out.push_back(10 + static_cast<unsigned char>(c));
    return out;
  }
  std::int32_t bos() const { return 2; }
};

/// Drops spaces, so that some texts have no tokens.
struct Letters : Bytes {
  task::Tokens tokens(std::string_view text) const {
    auto out = Bytes::tokens(text);
    std::erase(out, 10 + ' ');
    return out;
  }
};

/// Puts a space before each text, as Llama 2's Prepend does, and shows spaces as `_`.
struct Prefixed : Bytes {
  task::Tokens tokens(std::string_view text) const {
    std::string out = "_" + std::string(text);
    std::replace(out.begin(), out.end(), ' ', '_');
    return Bytes::tokens(out);
  }
};

/// `ab` is one token: what stands before a text may take its first character.
struct Joined : Bytes {
  task::Tokens tokens(std::string_view text) const {
    auto out = Bytes::tokens(text);
    for (std::size_t i = 0; i + 1 < out.size(); ++i)
      if (out[i] == 10 + 'a' && out[i + 1] == 10 + 'b')
        out[i] = 10 + '#', out.erase(out.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    return out;
  }
};

std::string text_of(const task::Tokens& ids) {
  std::string out;
  for (const std::int32_t id : ids) out += id == 2 ? '^' : id == task::ignored_label ? '.' : static_cast<char>(id - 10);
  return out;
}

/// The same with a mask and an end.
std::string shown(const task::Tokens& ids) {
  std::string out;
  for (const auto id : ids) out += id == 3 ? '_' : id == 4 ? '$' : id == 2 ? '^' : static_cast<char>(id - 10);
  return out;
}
Names all_shown(const std::vector<task::Tokens>& all) {
  Names out;
  for (const auto& ids : all) out.push_back(shown(ids));
  return out;
}

}  // namespace

TEST_CASE("choice: the layouts of openbookqa and arc") {
  const Names options = {"dry palms", "wet \"palms\""};
  for (const std::string row :
       {R"({"id": "7", "question": {"stem": "Which?", "choices": [{"text": "dry palms", "label": "A"},
            {"text": "wet \"palms\"", "label": "B"}]}, "answerKey": "B"})",
        R"({"id": "7", "question_stem": "Which?", "choices": {"text": ["dry palms", "wet \"palms\""],
            "label": ["A", "B"]}, "answerKey": " B "})",
        R"({"question": "Which?", "choices": {"text": ["dry palms", "wet \"palms\""], "label": ["1", "2"]},
            "answerKey": "2"})",
        R"({"question": "Which?", "choices": [{"text": "dry palms", "label": "1"}, {"text": "wet \"palms\"",
            "label": "2"}], "answerKey": "B"})",
        R"({"question": "Which?", "choices": ["dry palms", "wet \"palms\""], "answerKey": "2"})",
        R"({"question": "Which?", "choices": ["dry palms", "wet \"palms\""], "answer": 1, "answerKey": null})"}) {
    std::string line = row;
    std::erase(line, '\n');
    CAPTURE(line);
    const auto book = one_of("openbookqa", line);
    CHECK(book.context == "Which?");
    CHECK(book.options == options);
    CHECK(book.answer == 1);
    const auto arc = one_of("arc_easy", line);
    CHECK(arc.context == "Question: Which?\nAnswer:");
    CHECK(arc.options == options);
    CHECK(arc.answer == 1);
  }
  CHECK(one_of("arc_challenge", R"({"question": "Q", "choices": ["a", "b", "c", "d", "e"], "answer": 4})").answer == 4);
  CHECK(one_of("arc_challenge", R"({"question": "Q", "choices": ["a", "b", "c"], "answerKey": "C"})").answer == 2);
}

TEST_CASE("choice: a space before an option is the tokens' business; sciq and piqa") {
  const auto piqa = one_of("piqa", R"({"goal": "dresser", "sol1": "replace ", "sol2": "finish", "label": 1})");
  CHECK(piqa.context == "Question: dresser\nAnswer:");
  CHECK(piqa.options == Names{"replace ", "finish"});
  CHECK(piqa.answer == 1);
  const auto sciq =
      one_of("sciq", R"({"question": "Who?", "distractor3": "c", "distractor1": "a", "distractor2": "b", )"
                     R"("correct_answer": "d", "support": " \n Facts. "})");
  CHECK(sciq.context == "Facts. \nQuestion: Who?\nAnswer:");
  CHECK(sciq.options == Names{"a", "b", "c", "d"});
  CHECK(sciq.answer == 3);
  const auto bare = one_of("sciq", R"({"question": "Q", "distractor3": "c", "distractor1": "a", "distractor2": "b",)"
                                   R"("correct_answer": "d", "support": ""})");
  CHECK(bare.context == "\nQuestion: Q\nAnswer:");
}

TEST_CASE("choice: files") {
  const Folder above;
  const std::string a = R"({"question": "Q", "choices": ["a", "b", "c"], "answer": 0})";
  above.put("ARC-Easy/ARC-Easy-Train.jsonl", a + "\r\n" + a + "\r\n\r\n");
  above.put("ARC-Easy/ARC-Easy-Dev.jsonl", "\xEF\xBB\xBF" + a);
  above.put("ARC-Easy/ARC-Easy-Test.jsonl", R"({"question": "T", "choices": ["a", "b"], "answerKey": ""})");
  const auto arc = data::choices("arc_easy", above.text());
  CHECK(arc.name == "arc_easy");
  CHECK(arc.train.size() == 2);
  CHECK(arc.dev.size() == 1);
  REQUIRE(arc.test.size() == 1);
  CHECK(arc.test[0].answer == -1);
  CHECK_FALSE(arc.held_out);

  const Folder array;
  array.put("train.json", "[" + a + ",\n" + a + "]\n");
  array.put("valid.json", "[\n" + a + "]");
  CHECK(data::choices("arc_challenge", array.text()).train.size() == 2);
  CHECK(data::choices("arc_challenge", array.text()).dev.size() == 1);
  array.put("train.json", "[" + a + ",\n{}]\n");
  CHECK(message_of([&] { data::choices("arc_challenge", array.text()); }, &array) ==
        "train.json: element 1: the row has no member \"question\"");

  // PIQA's labels beside the rows; only one labelled file; a tenth of it is held out.
  const Folder piqa;
  std::string rows, labels;
  for (int i = 0; i < 41; ++i) {
    rows += R"({"goal": ")" + std::to_string(i) + R"(", "sol1": "a", "sol2": "b"})" + "\n";
    labels += i % 3 == 0 ? "1\n" : "0\n";
  }
  piqa.put("valid.jsonl", rows);
  piqa.put("valid-labels.lst", labels);
  piqa.put("tests.jsonl", rows);
  const auto split = data::choices("piqa", piqa.text());
  CHECK(split.held_out);
  CHECK(split.dev.size() == 5);
  CHECK(split.train.size() == 36);
  CHECK(split.test.size() == 41);
  std::vector<int> seen(41);
  for (const auto* part : {&split.train, &split.dev})
    for (const auto& choice : *part) {
      const int i = std::stoi(choice.context.substr(10));
      ++seen.at(static_cast<std::size_t>(i));
      CHECK(choice.answer == (i % 3 == 0));
    }
  CHECK(seen == std::vector<int>(41, 1));
  const auto contexts = [](const data::ChoiceDataset& data) {
    std::string out;
    for (const auto& choice : data.dev) out += choice.context;
    return out;
  };
  CHECK(contexts(split) == contexts(data::choices("piqa", piqa.text() + "/valid.jsonl")));
  CHECK(contexts(split) != contexts(data::choices("piqa", piqa.text(), {.split_seed = 1})));
  CHECK(split.test[0].answer == -1);
  piqa.put("valid-labels.lst", labels + "1\n");
  CHECK(message_of([&] { data::choices("piqa", piqa.text()); }, &piqa) ==
        "valid-labels.lst: has 42 labels, valid.jsonl has 41 rows");
  piqa.put("valid-labels.lst", "2\n" + labels.substr(2));
  CHECK(message_of([&] { data::choices("piqa", piqa.text()); }, &piqa) ==
        "valid-labels.lst:1: expected label 0 or 1: `2`");
  piqa.put("valid.jsonl", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 0})");
  piqa.put("valid-labels.lst", "1\n");
  CHECK(message_of([&] { data::choices("piqa", piqa.text()); }, &piqa) ==
        "valid-labels.lst:1: the row itself has another label: `1`");
  piqa.put("valid-labels.lst", "0\n");
  CHECK(message_of([&] { data::choices("piqa", piqa.text()); }, &piqa) ==
        "valid.jsonl: needs at least 2 rows to hold out a tenth, found: 1");

  const Folder none;
  CHECK(contains(message_of([&] { data::choices("sciq", none.text()); }),
                 ": no training file of task sciq: expected `train.jsonl` or .json; found nothing"));
  CHECK(contains(message_of([&] { data::choices("sciq", none.text() + "/gone"); }),
                 "gone: cannot be opened: No such file"));
  CHECK(message_of([&] { data::choices("race", none.text()); }) ==
        "unknown task `race`: expected openbookqa, piqa, arc_easy, arc_challenge, sciq");
  CHECK(data::choice_tasks().size() == 5);
  try {
    data::choices("race", none.text());
  } catch (const Error& error) {
    CHECK(contains(error.what(), "(choice_test.cpp:"));
  }
}

TEST_CASE("choice: what is no regular file is refused, not waited for") {
  const Folder folder;
  const auto refused = [&](const std::string& name, const std::string& task) {
    test::refuses_odd_files(folder / name, [&] { data::choices(task, folder.text()); });
  };
  refused("train.jsonl", "openbookqa");
  const std::string row = R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 0})"
                          "\n";
  folder.put("train.jsonl", row);
  refused("dev.jsonl", "piqa");
  folder.put("dev.jsonl", row);
  refused("train-labels.lst", "piqa");
}

TEST_CASE("choice: hostile rows") {
  const auto book = [](const std::string& bytes) { return error_of("openbookqa", bytes); };
  const std::string good = row_with(two) + "\n";
  CHECK(book("") == "train.jsonl: is empty: expected rows of JSON");
  CHECK(book(" \n\n") == "train.jsonl: is empty: expected rows of JSON");
  CHECK(error_of("openbookqa", "[]", "train.json") == "train.json: is empty: expected rows of JSON");
  CHECK(contains(book(good + "{\"question\": "), "train.jsonl:2: not JSON: byte 13: found the end"));
  CHECK(contains(book(good + "nonsense"), "train.jsonl:2: not JSON: byte 1: found 'o'"));
  CHECK(book(good + "\n" + good) == "train.jsonl:2: the line is blank");
  CHECK(book("3") == "train.jsonl:1: the row is 3, expected an object");
  CHECK(book("{}") == "train.jsonl:1: the row has no member \"question\"");
  CHECK(book(R"({"question": {"choices": []}})") == "train.jsonl:1: question has no member \"stem\"");
  CHECK(book(R"({"question": 3})") == "train.jsonl:1: question is 3, expected a string");
  CHECK(book(R"({"question": "Q"})") == "train.jsonl:1: the row has no member \"choices\"");
  CHECK(book(R"({"question": "Q", "choices": "a"})") == "train.jsonl:1: choices is \"a\", expected an array");
  CHECK(book(row_with("[]")) == "train.jsonl:1: question.choices is an array of 0, expected 2 to 26 options");
  CHECK(book(row_with("[\"a\"]")) == "train.jsonl:1: question.choices is an array of 1, expected 2 to 26 options");
  std::string many = "[\"a\"";
  for (int i = 0; i < 26; ++i) many += ", \"a\"";
  CHECK(contains(book(row_with(many + "]")), "question.choices is an array of 27, expected 2 to 26 options"));
  CHECK(book(row_with(R"([{"text": "x", "label": "A"}, {"text": 4, "label": "B"}])")) ==
        "train.jsonl:1: question.choices[1].text is 4, expected a string");
  CHECK(book(row_with(R"([{"text": "x", "label": "A"}, {"text": " ", "label": "B"}])")) ==
        "train.jsonl:1: question.choices[1].text is \" \", expected a text that is not blank");
  CHECK(book(row_with(R"([{"text": "x", "label": "A"}, {"text": "y"}])")) ==
        "train.jsonl:1: question.choices[1] has no member \"label\"");
  CHECK(book(row_with(R"([{"text": "x", "label": "A"}, {"text": "y", "label": "A"}])")) ==
        "train.jsonl:1: question.choices[1].label is \"A\", expected another label");
  CHECK(book(R"({"question": "Q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"})") ==
        "train.jsonl:1: choices.label is an array of 1, expected as many labels as options, 2");
  CHECK(book(row_with(two, R"("id": 1)")) == "train.jsonl:1: the row has no member \"answerKey\"");
  CHECK(contains(book(row_with(two, R"("answerKey": null)")), "train.jsonl:1: answerKey is null, expected a label"));
  CHECK(book(row_with(two, R"("answerKey": "C")")) ==
        "train.jsonl:1: answerKey is \"C\", expected one of the labels `A`, `B`");
  CHECK(contains(book(row_with(two, R"("answerKey": "")")), "answerKey is \"\", expected one of the labels"));
  CHECK(contains(book(row_with(two, R"("answerKey": "0")")), "answerKey is \"0\", expected one of the labels"));
  CHECK(book(row_with(two, R"("answerKey": 1)")) == "train.jsonl:1: answerKey is 1, expected a string");
  CHECK(error_of("arc_easy", R"({"question": "Q", "choices": ["a", "b"], "answerKey": "3"})") ==
        "train.jsonl:1: answerKey is \"3\", expected the letter or number of one of 2 options");
  for (const char* answer : {"2", "-1", "1.0", "\"A\"", "18446744073709551615"})
    CHECK(contains(error_of("arc_easy", R"({"question": "Q", "choices": ["a", "b"], "answer": )"s + answer + "}"),
                   "train.jsonl:1: answer is "s + answer + ", expected an integer from 0 to 1"));
  CHECK(error_of("piqa", R"({"goal": "g", "sol1": "a", "label": 0})") ==
        "train.jsonl:1: the row has no member \"sol2\"");
  CHECK(error_of("piqa", R"({"goal": "g", "sol1": "a", "sol2": "b"})") ==
        "train.jsonl:1: the row has no member \"label\"");
  CHECK(error_of("piqa", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 2})") ==
        "train.jsonl:1: label is 2, expected an integer from 0 to 1");
  CHECK(error_of("sciq", R"({"question": "Q", "support": ""})") ==
        "train.jsonl:1: the row has no member \"distractor1\"");
  CHECK(error_of("sciq", R"({"question": "Q"})") == "train.jsonl:1: the row has no member \"support\"");

  CHECK(book(R"({"question": "Q", "question": "R"})") == "train.jsonl:1: the key 'question' is given twice");
  CHECK(contains(book("{\"question\": \"\xFF\"}"), "train.jsonl:1: byte 15 of the line, 0xFF, is not UTF-8"));
  CHECK(contains(book(R"({"question": "\ud800"})"), "train.jsonl:1: not JSON: "));
  CHECK(contains(book("{\"question\": \"\0\"}"s), "train.jsonl:1: byte 15 of the line is NUL"));
  CHECK(contains(book(std::string(100000, '{')), "JSON is nested too deeply"));
  CHECK(contains(error_of("openbookqa", std::string(100000, '['), "train.json"), "JSON is nested too deeply"));
  CHECK(contains(error_of("openbookqa", "[\"\xFF\"]", "train.json"), "train.json: not JSON: byte 2"));
  CHECK(book(R"({"question": ")" + std::string(std::size_t{1} << 20, 'x') + "\"}") ==
        "train.jsonl:1: expected a row of at most 1048576 bytes, found 1048592");
  CHECK(one_of("openbookqa", row_with(two).replace(23, 1, std::string(1000000, 'x'))).context.size() > 999990);
}

TEST_CASE("choice: tokens of a causal model") {
  const std::vector<data::Choice> choices = {{"Ask:", {"yes", "n\xC3\xB6"}, 1}, {"", {"a"}, 0}, {"So  ", {"b"}, -1}};
  const auto out = task::encode_causal(Bytes{}, choices, 64);
  REQUIRE(out.ids.size() == 4);
  CHECK(text_of(out.ids[0]) == "^Ask: yes");
  CHECK(text_of(out.labels[0]) == ".... yes.");  // the label of a position is the next token
  CHECK(text_of(out.ids[1]) == "^Ask: n\xC3\xB6");
  CHECK(text_of(out.ids[2]) == "^ a");
  CHECK(text_of(out.labels[2]) == " a.");
  CHECK(text_of(out.ids[3]) == "^So   b");
  CHECK(text_of(out.labels[3]) == "..   b.");
  CHECK(out.types[0] == task::Tokens(out.ids[0].size(), 0));
  CHECK(out.characters == std::vector<std::uint32_t>{3, 2, 1, 1});
  CHECK(out.first == std::vector<std::uint32_t>{0, 2, 3, 4});
  CHECK(out.counts() == std::vector<std::uint32_t>{2, 1, 1});
  CHECK(out.answers == std::vector<std::int32_t>{1, 0, -1});
  CHECK(out.lengths() == std::vector<std::uint32_t>{18, 3, 7});
  CHECK(out.rows(std::vector<std::uint32_t>{2, 0}) == std::vector<std::uint32_t>{3, 0, 1});
  CHECK(message_of([&] { out.answer_rows(); }) == "choices: a question without an answer: 2");
  const auto told = task::encode_causal(Bytes{}, std::span(choices).first(2), 64);
  CHECK(told.answer_rows() == std::vector<std::uint32_t>{1, 2});

  const auto bare = task::encode_causal(Bytes{}, choices, 64, false);
  CHECK(text_of(bare.ids[0]) == "Ask: yes");
  CHECK(text_of(bare.labels[0]) == "... yes.");
  CHECK(text_of(bare.ids[2]) == "^ a");  // something must stand before the first token

  // Too long: bos stays, the context loses its beginning, then the option its own.
  const auto cut = [&](std::size_t length, bool bos) {
    const auto one = task::encode_causal(Bytes{}, std::span(choices).first(1), length, bos);
    return text_of(one.ids[0]) + " " + text_of(one.labels[0]);
  };
  CHECK(cut(9, true) == "^Ask: yes .... yes.");
  CHECK(cut(7, true) == "^k: yes .. yes.");
  CHECK(cut(5, true) == "^ yes  yes.");
  CHECK(cut(3, true) == "^es es.");
  CHECK(cut(5, false) == ": yes  yes.");
  CHECK(cut(4, false) == " yes yes.");
  CHECK(cut(2, false) == "es s.");
  CHECK(task::encode_causal(Bytes{}, choices, 9).cut == 0);
  CHECK(task::encode_causal(Bytes{}, choices, 8).cut == 2);

  CHECK(message_of([&] { task::encode_causal(Bytes{}, choices, 1); }) ==
        "encode_causal: expected a max_length of at least 2, found: 1");
  const std::vector<data::Choice> blank = {{"A", {"x", " "}, 0}}, no_options = {{"A", {}, -1}},
                                  wrong = {{"A", {"x"}, 1}};
  CHECK(message_of([&] { task::encode_causal(Letters{}, blank, 9); }) == "row 0: no tokens in option ` `");
  CHECK(message_of([&] { task::encode_causal(Bytes{}, no_options, 9); }) == "choices: a question without options: 0");
  CHECK(message_of([&] { task::encode_causal(Bytes{}, wrong, 9); }) ==
        "choices: an answer is not among the options: 0, 1, 1");
}

TEST_CASE("choice: what goes on behind a text has no space before it that begins one") {
  CHECK(text_of(task::tokens_behind(Prefixed{}, "Ask:", " yes")) == "_yes");
  CHECK(text_of(task::tokens_behind(Prefixed{}, "", "yes")) == "_yes");
  CHECK(text_of(task::tokens_behind(Joined{}, "a", "c")) == "c");
  CHECK(text_of(task::tokens_behind(Joined{}, "a", "bc")) == "bc");  // not without its b
  const std::vector<data::Choice> choices = {{"Ask:", {"yes", "no"}, 1}, {"So ", {"b"}, -1}};
  const auto out = task::encode_causal(Prefixed{}, choices, 64);
  CHECK(text_of(out.ids[0]) == "^_Ask:_yes");
  CHECK(text_of(out.labels[0]) == "....._yes.");
  CHECK(text_of(out.ids[2]) == "^_So__b");
  task::RankedForm form{.answered = task::Answered::behind, .max_length = 40, .before = {2}};
  const auto options = task::rank_options(Prefixed{}, choices, form);
  CHECK(text_of(options.prompts[0]) == "^_Ask:");
  CHECK(text_of(options.answers[0]) == "_yes");
  CHECK(text_of(options.answers[2]) == "__b");
  const std::vector<data::Example> examples{{"a b", "c", 1}, {"a b", "", 0}};
  const std::vector<std::string> words{"no", "yes"};
  const auto ranked =
      task::rank_classes(Prefixed{}, examples, task::Template("{text}, {pair}? It was {label}.", true), words, form);
  CHECK(text_of(ranked.prompts[0]) == "^_a_b,_c?_It_was");
  CHECK(text_of(ranked.prompts[1]) == "^_a_b,_?_It_was");
  CHECK(text_of(ranked.answers[1]) == "_yes.");
  const auto after =
      task::rank_classes(Prefixed{}, examples, task::Template("{text}{pair} {label}", true), words, form);
  CHECK(text_of(after.prompts[0]) == "^_a_bc");
  CHECK(text_of(after.answers[0]) == "_no");
  form = {.answered = task::Answered::by_decoder, .max_length = 40, .after = {4}, .start = {2}, .end = {4}};
  CHECK(shown(task::rank_options(Prefixed{}, choices, form).answers[0]) == "^__yes$");  // a text of its own
}

TEST_CASE("choice: pairs for an encoder") {
  const Folder folder;
  folder.put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwho\nis\nit\nme\n");
  const text::WordPiece tokenizer(folder.text());
  const std::vector<data::Choice> choices = {{"Who is it", {"me", "it me"}, 0}, {"who", {"me", "it", "is"}, 2}};
  const auto out = task::encode_pairs(tokenizer, choices, 16);
  REQUIRE(out.ids.size() == 5);
  CHECK(out.ids[0] == task::Tokens{2, 5, 6, 7, 3, 8, 3});
  CHECK(out.types[0] == task::Tokens{0, 0, 0, 0, 0, 1, 1});
  CHECK(out.ids[4] == task::Tokens{2, 5, 3, 6, 3});
  CHECK(out.labels.empty());
  CHECK(out.counts() == std::vector<std::uint32_t>{2, 3});
  CHECK(out.characters == std::vector<std::uint32_t>{2, 5, 2, 2, 2});
  CHECK(out.cut == 0);
  CHECK(task::encode_pairs(tokenizer, choices, 5).ids[1].size() == 5);
  CHECK(task::encode_pairs(tokenizer, choices, 6).cut == 2);
  const std::vector<data::Example> examples = {{"who is it", "me", 0}, {"who", "", 1}, {"it", "it it it it", 1}};
  CHECK(task::encode(tokenizer, examples, true, 7).cut == 1);
  CHECK(task::encode(tokenizer, examples, true, 8).cut == 0);
  CHECK(task::encode(tokenizer, examples, false, 4).cut == 1);
  CHECK(contains(message_of([&] { task::encode_pairs(tokenizer, choices, 2); }), "at least 3 for a pair"));
}

TEST_CASE("encoded: tokens that pad go from the texts' ends, but the first of a text") {
  task::Encoded some{
      .ids = {{4, 0, 5}, {4, 0, 0}, {0, 0}, {7}}, .types = {{0, 1, 1}, {0, 1, 1}, {0, 0}, {0}}, .labels = {}};
  auto all = some;
  all.drop_behind(-1);
  CHECK(all.ids == some.ids);
  some.drop_behind(0);
  CHECK(some.ids == std::vector<task::Tokens>{{4, 0, 5}, {4}, {0}, {7}});
  CHECK(some.types == std::vector<task::Tokens>{{0, 1, 1}, {0}, {0}, {0}});
}

TEST_CASE("choice: scores of options from the log-likelihoods of tokens") {
  const std::vector<data::Choice> choices = {{"Q:", {"ab", "abcdefg"}, 1}};
  const auto out = task::encode_causal(Bytes{}, choices, 64);
  // [bos] Q : and a space, then the option; positions 2 … count. Three tokens of -1 against eight of -1/2.
  std::vector<float> tokens;
  for (const auto& labels : out.labels)
    for (const std::int32_t label : labels)
      tokens.push_back(label == task::ignored_label ? -1000.0f : labels.size() < 8 ? -1.0f : -0.5f);
  const auto scores = task::option_scores(tokens, out.labels);
  CHECK(scores == std::vector<double>{-3, -4});
  const auto counts = out.counts();
  CHECK(task::choice_accuracy({scores, counts}, out.answers) == 0.0);
  CHECK(task::choice_accuracy_norm({scores, counts}, out.characters, out.answers) == 1.0);  // -3/2 < -4/7

  CHECK(message_of([&] { task::option_scores(std::span(tokens).first(9), out.labels); }) ==
        "option_scores: fewer log-likelihoods than positions: 9");
  tokens.push_back(0);
  CHECK(contains(message_of([&] { task::option_scores(tokens, out.labels); }), "more log-likelihoods than positions"));
  const std::vector<task::Tokens> nothing = {{task::ignored_label}};
  CHECK(message_of([&] { task::option_scores(std::vector<float>{0}, nothing); }) ==
        "option_scores: a sequence in which nothing counts: 0");
}

TEST_CASE("choice: the real files") {
  const char* shared = std::getenv("MEFT_SHARED");
  if (!shared) {
    MESSAGE("skipped: MEFT_SHARED is not set");
    return;
  }
  // Rows; the sums of answers and of numbers of options, train and dev together.
  struct Expected {
    const char* name;
    std::size_t train, dev;
    std::int64_t answers;
    std::size_t options;
  };
  for (const auto& expected : {Expected{"openbookqa", 4957, 500, 7167 + 736, 19828 + 2000},
                               {"arc_easy", 2251, 570, 3357 + 790, 9002 + 2281},
                               {"arc_challenge", 1119, 299, 1757 + 482, 4476 + 1194},
                               {"piqa", 1654, 184, 928, 2 * 1838},
                               {"sciq", 900, 100, 3000, 4000}}) {
    const auto [name, train_rows, dev_rows, answers, options] = expected;
    const std::string task = name;
    CAPTURE(task);
    const auto read = data::choices(task, std::string(shared) + "/data/" + task);
    CHECK(read.train.size() == train_rows);
    CHECK(read.dev.size() == dev_rows);
    CHECK(read.held_out == (task == "piqa" || task == "sciq"));
    std::int64_t sum = 0;
    std::size_t count = 0;
    for (const auto* part : {&read.train, &read.dev})
      for (const auto& choice : *part) {
        sum += choice.answer;
        count += choice.options.size();
        REQUIRE(choice.context.ends_with("\nAnswer:") == (task != "openbookqa"));
      }
    CHECK(sum == answers);
    CHECK(count == options);
    CHECK(data::choices(task, std::string(shared) + "/data").dev.size() == dev_rows);
    const auto encoded = task::encode_causal(Bytes{}, read.dev, 512);
    CHECK(encoded.questions() == dev_rows);
  }
  const auto easy = data::choices("arc_easy", std::string(shared) + "/data/arc_easy");
  CHECK(easy.dev[0].context == "Question: Which technology was developed most recently?\nAnswer:");
  CHECK(easy.dev[0].options[0] == "cellular telephone");
  CHECK(easy.dev[0].answer == 0);
  const auto book = data::choices("openbookqa", std::string(shared) + "/data/openbookqa");
  CHECK(book.train[0].context == "The sun is responsible for");
  CHECK(book.train[0].options[3] == "plants sprouting, blooming and wilting");
  CHECK(book.train[0].answer == 3);
}

TEST_CASE("ranked: a template and a word a class: at a mask, behind the text, as a decoder's target") {
  const std::vector<data::Example> examples{{"abc", "xy", 1}, {"abcdefgh", "uvw", 0}, {"", "", 1}};
  const std::vector<std::string> words{"n", "yes"}, letters{"n", "y"};
  const auto pattern = [](const char* text, bool pairs = true) { return task::Template(text, pairs); };
  const auto texts = all_shown;
  task::RankedForm form{.answered = task::Answered::behind, .max_length = 20, .before = {2}};
  const auto behind = task::rank_classes(Bytes{}, examples, pattern("{text}? {label}, {pair}"), words, form);
  CHECK(texts(behind.prompts) == Names{"^abc?", "^abcdefgh?", "^?"});
  CHECK(texts(behind.answers) == Names{" n, xy", " yes, xy", " n, uvw", " yes, uvw", " n, ", " yes, "});
  CHECK(behind.first == std::vector<std::uint32_t>{0, 2, 4, 6});
  CHECK(behind.labels == std::vector<float>{1, 0, 1});
  CHECK(behind.cut == 0);
  CHECK(behind.sequences(0) == std::vector<std::int32_t>{11, 13});
  CHECK(behind.lengths() == std::vector<std::uint32_t>{24, 36, 14});

  // The longest text loses tokens first, the template none.
  form.max_length = 14;
  const auto cut = task::rank_classes(Bytes{}, examples, pattern("{text}? {label}, {pair}"), words, form);
  CHECK(cut.cut == 1);
  CHECK(texts(cut.prompts)[1] == "^abc?");
  CHECK(texts(cut.answers)[3] == " yes, uvw");
  form.max_length = 6;
  CHECK(message_of([&] { task::rank_classes(Bytes{}, examples, pattern("{text}? {label}, {pair}"), words, form); }) ==
        "template: no room for it in sequences of 6 tokens");

  form = {
      .answered = task::Answered::by_decoder, .max_length = 20, .before = {2}, .after = {4}, .start = {2}, .end = {4}};
  const auto decoded = task::rank_classes(Bytes{}, examples, pattern("{text} or {pair}? {label}"), words, form);
  CHECK(texts(decoded.prompts)[0] == "^abc or xy?$");
  CHECK(texts(decoded.answers)[1] == "^ yes$");
  CHECK(decoded.skipped == 1);
  CHECK(decoded.sequences(0) == std::vector<std::int32_t>{12, 4, 6});

  form = {.answered = task::Answered::at_mask, .max_length = 20, .before = {2}, .after = {4}, .mask = 3};
  const auto masked = task::rank_classes(Bytes{}, examples, pattern("{label}: {text} or {pair}"), letters, form);
  CHECK(texts(masked.prompts)[0] == "^_: abc or xy$");
  CHECK(masked.masks == std::vector<std::int32_t>{1, 1, 1});
  CHECK(texts(masked.answers)[1] == "y");
  CHECK(masked.sequences(0) == std::vector<std::int32_t>{14});
  CHECK(message_of([&] { task::rank_classes(Bytes{}, examples, pattern("{label} {text}{pair}"), words, form); }) ==
        "label words: expected one token for `yes`, found 3");
  CHECK(contains(message_of([&] {
                   task::rank_classes(Bytes{}, examples, pattern("{label} {text}{pair}"), Names{"n", "n"}, form);
                 }),
                 "another token than the other classes'"));

  struct Wrong {
    const char* text;
    bool pairs;
    const char* says;
  };
  for (const Wrong& wrong : std::vector<Wrong>{{"{text} {word}", false, "{text}, {pair} or {label} in braces"},
                                               {"{text", false, "in braces"},
                                               {"{text}", false, "{label} once"},
                                               {"{label} {text} {label}", false, "{label} once"},
                                               {"{label}", false, "expected {text}"},
                                               {"{text} {label}", true, "expected {pair}"},
                                               {"{text} {pair} {label}", false, "no {pair}"}})
    CHECK_MESSAGE(contains(message_of([&] { task::Template(wrong.text, wrong.pairs); }), wrong.says), wrong.text);
  for (const char* name : {"cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte"}) {
    const auto known = task::asking(name);
    REQUIRE(known);
    const bool pairs = known->masked.find("{pair}") != std::string_view::npos;
    CHECK_NOTHROW(task::Template(known->masked, pairs));
    CHECK_NOTHROW(task::Template(known->causal, pairs));
    CHECK(known->words.size() == (name == "mnli"s ? 3 : 2));
  }
  CHECK_FALSE(task::asking("stsb"));

  const std::vector<data::Choice> questions{{"long context ", {"a", "bcd"}, 1}, {"q", {"x", "y", "z"}}};
  form = {.answered = task::Answered::behind, .max_length = 10, .before = {2}};
  const auto options = task::rank_options(Bytes{}, questions, form);
  CHECK(texts(options.prompts) == Names{"^text", "^q"});
  CHECK(texts(options.answers) == Names{"  a", "  bcd", " x", " y", " z"});
  CHECK(options.cut == 1);
  CHECK((options.labels[0] == 1 && std::isnan(options.labels[1])));
  form.answered = task::Answered::at_mask;
  CHECK(contains(message_of([&] { task::rank_options(Bytes{}, questions, form); }), "a mask stands for one word"));
}

TEST_CASE("ranked: T-Few's losses by hand: answers of unequal length, none wrong, a word of probability one") {
  // Question 0: right 2 words, wrong 1 and 3; question 1: right 1 word, none wrong.
  const std::vector<double> p{0.5, 0.25, 0.125, 0.75, 0.5, 0.25, 0.5};
  std::vector<double> lp;
  for (const double x : p) lp.push_back(std::log(x));
  const auto answers = Offsets::of_lengths(std::vector<std::int32_t>{2, 1, 1, 3}),
             wrong = Offsets::of_lengths(std::vector<std::int32_t>{2, 0});
  const double right = (lp[0] + lp[1]) / 2, one = lp[3], three = (lp[4] + lp[5] + lp[6]) / 3;
  const double likelihood = -(right + lp[2]) / 2,
               ranking = -(right - std::log(std::exp(right) + std::exp(one) + std::exp(three))) / 2,
               unlikelihood =
                   -(std::log(1 - 0.75) + std::log(1 - 0.5) + std::log(1 - 0.25) + std::log(1 - 0.5)) / 4 / 2;
  const Tensor<double> x = Tensor<double>::from({7}, lp);
  const auto loss = [&](task::Losses which) {
    return task::ranking_loss(which, Var<double>(x), answers, wrong).value().item();
  };
  CHECK(loss(task::Losses::likelihood) == doctest::Approx(likelihood).epsilon(1e-14));
  CHECK(loss(task::Losses::ranking) == doctest::Approx(ranking).epsilon(1e-14));
  CHECK(loss(task::Losses::tfew) == doctest::Approx(likelihood + ranking + unlikelihood).epsilon(1e-14));
  for (const auto which : {task::Losses::likelihood, task::Losses::ranking, task::Losses::tfew})
    CHECK(gradcheck([&](const auto& in) { return task::ranking_loss(which, in[0], answers, wrong); }, {x}) < 1e-7);
  // None wrong at all; a wrong word that is certain costs much and no more.
  const auto sure = Tensor<float>::from({2}, {-1.0f, 0.0f});
  const auto pair = Offsets::of_lengths(std::vector<std::int32_t>{1, 1});
  CHECK(task::ranking_loss(task::Losses::tfew, Var<float>(sure), pair,
                           Offsets::of_lengths(std::vector<std::int32_t>{0, 0}))
            .value()
            .item() == doctest::Approx(0.5));
  Tape tape;
  const auto watched = tape.watch(sure.clone());
  const auto worst =
      task::ranking_loss(task::Losses::tfew, watched, pair, Offsets::of_lengths(std::vector<std::int32_t>{1}));
  CHECK(worst.value().item() == doctest::Approx(1 + 1.3132617 + 24 * std::log(2.0)));
  tape.backward(worst);
  CHECK(std::isfinite(tape.gradient(watched).values()[1]));
  CHECK(contains(message_of([&] { task::ranking_loss(task::Losses::tfew, Var<double>(x), answers, pair.part(0, 1)); }),
                 "answers, questions and words differ"));
  CHECK(contains(message_of([] { task::losses_from("hinge"); }), "expected likelihood, ranking or tfew"));
}

TEST_CASE("ranked: options as a decoder's targets, which take no room of the context's") {
  std::vector<data::Choice> questions{{"long context ", {"a", "bcd"}, 1}};
  task::RankedForm form{
      .answered = task::Answered::by_decoder, .max_length = 10, .before = {2}, .after = {4}, .start = {2}, .end = {4}};
  const auto options = task::rank_options(Bytes{}, questions, form);
  CHECK(all_shown(options.prompts) == Names{"^ context$"});
  CHECK(all_shown(options.answers) == Names{"^  a$", "^  bcd$"});
  CHECK((options.skipped == 1 && options.cut == 1));
  CHECK(options.sequences(0) == std::vector<std::int32_t>{10, 5, 7});
  form.max_length = 8;
  CHECK(all_shown(task::rank_options(Bytes{}, questions, form).prompts) == Names{"^ontext$"});
  form.max_length = 7;  // as long as an option
  questions[0].place = {std::make_shared<const std::string>("dev.jsonl"), 9};
  CHECK(message_of([&] { task::rank_options(Bytes{}, questions, form); }) ==
        "dev.jsonl:9: no room beside the longest option: expected option max-length of at least 8, found 7");
  questions[0].options[0] = " ";
  CHECK(message_of([&] { task::rank_options(Letters{}, questions, form); }) ==
        "dev.jsonl:9: expected options of at least one token, found ` `");
}

TEST_CASE("written: texts and what is written for them, each cut at its end to its share of a sequence") {
  std::vector<data::Example> examples{{"abcdefgh", "xyzuvw", 0}, {"ab", "x", 0}};
  task::RankedForm form{.answered = task::Answered::behind, .max_length = 12, .before = {2}, .end = {4}};
  const auto behind = task::encode_written(Bytes{}, examples, form);
  CHECK(all_shown(behind.prompts) == Names{"^abcde", "^ab"});
  CHECK(all_shown(behind.answers) == Names{"xyzuv$", "x$"});
  CHECK((behind.cut == 1 && behind.skipped == 0 && behind.labels == std::vector<float>{0, 0}));
  CHECK(behind.cut_answers == std::vector<std::uint32_t>{0});
  form.max_length = 13;  // what is odd goes to what is written
  CHECK((task::WrittenRoom(form).text == 5 && task::WrittenRoom(form).written == 6));
  form.max_written = 3;  // what it leaves is the text's
  const auto told = task::encode_written(Bytes{}, examples, form);
  CHECK(all_shown(told.prompts) == Names{"^abcdefgh", "^ab"});
  CHECK(all_shown(told.answers) == Names{"xyz$", "x$"});
  CHECK((told.cut == 0 && told.cut_answers == std::vector<std::uint32_t>{0}));
  form.max_written = 10;
  CHECK((task::WrittenRoom(form).text == 1 && task::WrittenRoom(form).written == 10));
  form.max_written = 11;
  CHECK(contains(message_of([&] { task::WrittenRoom room(form); }), "max-target-length of at most 10, found 11"));

  form = {
      .answered = task::Answered::by_decoder, .max_length = 8, .before = {2}, .after = {4}, .start = {2}, .end = {4}};
  const auto decoded = task::encode_written(Bytes{}, examples, form);
  CHECK(all_shown(decoded.prompts) == Names{"^abcdef$", "^ab$"});
  CHECK(all_shown(decoded.answers) == Names{"^xyzuvw$", "^x$"});
  CHECK((decoded.cut == 1 && decoded.skipped == 1));
  form.max_written = 2;
  CHECK(all_shown(task::encode_written(Bytes{}, examples, form).prompts) == all_shown(decoded.prompts));
  CHECK(all_shown(task::encode_written(Bytes{}, examples, form).answers) == Names{"^xy$", "^x$"});
  form.max_written = 7;
  CHECK(contains(message_of([&] { task::WrittenRoom room(form); }), "max-target-length of at most 6, found 7"));
  form.max_written = 0;
  const auto untold = task::encode_written(Bytes{}, examples, form, false);
  CHECK(all_shown(untold.answers) == Names{"^$", "^$"});
  CHECK(std::isnan(untold.labels[1]));
  examples[1] = {"ab", "", 0};
  examples[1].place = {std::make_shared<const std::string>("train.json"), 7, true};
  CHECK(message_of([&] { task::encode_written(Bytes{}, examples, form); }) ==
        "train.json: element 7: expected a text to be written, found none");
  form.max_length = 5;
  CHECK(contains(message_of([&] { task::WrittenRoom room(form); }), "no room in sequences of so many tokens: 5"));
  form.answered = task::Answered::at_mask;
  CHECK(contains(message_of([&] { task::WrittenRoom room(form); }), "a masked model writes none"));
}
