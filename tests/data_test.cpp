// Reading tables and tasks from small files written here, every error by its text, and the order of batches.
// With MEFT_SHARED set (a folder that holds data/cola, data/sst2, ...) the real tasks are read too.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include <meft/data/batches.hpp>
#include <meft/data/lines.hpp>
#include <meft/data/table.hpp>
#include <meft/data/task.hpp>

#include "folder.hpp"

using namespace meft;
using namespace std::string_literals;
using test::contains;
using test::Folder;
using test::message_of;

namespace {

std::string parse_error(const std::string& bytes, const data::TableOptions& options = {}) {
  return message_of([&] { data::Table::parse(bytes, "t.tsv", options); });
}

}  // namespace

TEST_CASE("table: rows, header, line ends") {
  const auto lf = data::Table::parse("a\tb\n1\t\"x\n2\t\n", "t.tsv", {.header = true});
  CHECK(lf.header() == std::vector<std::string>{"a", "b"});
  REQUIRE(lf.rows() == 2);
  CHECK(lf(0, 1) == "\"x");  // a quote is a character
  CHECK(lf(1, 1) == "");
  CHECK(lf.line(1) == 3);
  CHECK(lf.find({"c", "b"}) == 1);
  CHECK(lf.find({"c"}) == data::Table::none);
  CHECK(lf.text(1) == "2\t");

  const auto crlf = data::Table::parse(
      "\xEF\xBB\xBF"
      "a\tb\r\n1\tc\r d\r\n\r\n\n",
      "t.tsv");  // byte order mark, blanks at the end
  REQUIRE(crlf.rows() == 2);
  CHECK(crlf(0, 0) == "a");
  CHECK(crlf(1, 1) == "c\r d");
  const auto open_end = data::Table::parse("a\tb\r\n1\tc", "t.tsv");
  REQUIRE(open_end.rows() == 2);
  CHECK(open_end(1, 1) == "c");

  auto moved = data::Table::parse("x", "t.tsv");
  const auto copy = moved;
  const auto other = std::move(moved);
  CHECK(copy(0, 0) == "x");
  CHECK(other(0, 0) == "x");
}

TEST_CASE("table: encodings") {
  const std::string latin = "caf\xE9\t\xFC\n";
  const auto table = data::Table::parse(latin, "t.tsv", {.encoding = data::Encoding::latin1});
  CHECK(table(0, 0) == "caf\xC3\xA9");
  CHECK(table(0, 1) == "\xC3\xBC");
  CHECK(parse_error("ok\t1\n" + latin) ==
        "t.tsv:2: byte 4 of the line, 0xE9, is not UTF-8 (a Latin-1 file needs encoding latin1): `caf\\xE9\\t\\xFC`");
  for (const char* bad :
       {"\xC0\x80", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5", "\xE2\x82", "\x80"})
    CHECK(contains(parse_error(bad), "is not UTF-8"));
  for (const char* good : {"\xC2\x80", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    CHECK(parse_error(good) == "no error");
  CHECK(parse_error("\xFF\xFE"
                    "a") == "t.tsv: starts with a UTF-16 byte order mark; expected UTF-8: convert it first");
  CHECK(contains(parse_error("\xEF\xBB\xBF"
                             "a",
                             {.encoding = data::Encoding::latin1}),
                 "UTF-8 byte order mark"));
  CHECK(data::encoding("latin-1") == data::Encoding::latin1);
  CHECK(data::encoding("utf-8") == data::Encoding::utf8);
  CHECK(message_of([] { data::encoding("ebcdic"); }) == "encoding: expected utf-8, latin1 or windows-1252, found `ebcdic`");
}

TEST_CASE("table: errors name file, line and columns") {
  CHECK(parse_error("") == "t.tsv: is empty: expected rows of tab-separated columns");
  CHECK(parse_error("\r\n\n") == "t.tsv: is empty: expected rows of tab-separated columns");
  CHECK(parse_error("\xEF\xBB\xBF") == "t.tsv: is empty: expected rows of tab-separated columns");
  CHECK(parse_error("a\tb\n1\n") == "t.tsv:2: expected 2 columns (separated by tabs), found 1: `1`");
  CHECK(parse_error("a\tb\nc\td\n1\t2\t3\n") ==
        "t.tsv:3: expected 2 columns (separated by tabs), found 3: `1\\t2\\t3`");
  CHECK(parse_error("a\tb\n1\n", {.header = true}) == "t.tsv:2: expected 2 columns (separated by tabs), found 1: `1`");
  CHECK(parse_error("a,b\n", {.columns = 2}) == "t.tsv:1: expected 2 columns (separated by tabs), found 1: `a,b`");
  CHECK(parse_error("a\tb\tc\n1\t2\n", {.columns = 2, .at_least = true}) == "no error");
  CHECK(parse_error("a\tb\tc\n1\n", {.columns = 2, .at_least = true}) ==
        "t.tsv:2: expected at least 2 columns (separated by tabs), found 1: `1`");
  CHECK(parse_error("a\tb\n\nc\td\n") == "t.tsv:2: the line is blank");
  CHECK(parse_error("a\tb\nc\0\td\n"s) == "t.tsv:2: byte 2 of the line is NUL (not a text file?): `c\\x00\\td`");
  CHECK(parse_error("a\tb\n" + std::string(100, 'x')) ==
        "t.tsv:2: expected 2 columns (separated by tabs), found 1: `" + std::string(60, 'x') + "...`");

  const Folder folder;
  CHECK(contains(message_of([&] { data::Table::read(folder.text() + "/gone.tsv"); }, &folder),
                 "gone.tsv: cannot be opened: No such file"));
  CHECK(contains(message_of([&] { data::Table::read(folder.text()); }), ": cannot be read: Is a directory"));
  try {
    data::Table::read(folder.text() + "/gone.tsv");
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(contains(error.what(), "(data_test.cpp:"));
  }
}

TEST_CASE("task: cola, as GLUE and as its authors ship it") {
  const Folder folder;
  folder.put("train.tsv", "gj04\t1\t\tThey ran.\ngj04\t0\t*\tThey runned \"it.\n");
  CHECK(data::load("cola", folder.text()).held_out);  // a tenth, where there is no dev.tsv
  folder.put("dev.tsv", "gj04\t1\t\tA.\n");
  folder.put("test.tsv", "index\tsentence\n0\tB.\n");
  const auto glue = data::load("cola", folder.text());
  CHECK(glue.task.main_metric == "matthews");
  REQUIRE(glue.train.size() == 2);
  CHECK(glue.train[1].text == "They runned \"it.");
  CHECK(glue.train[1].label == 0);
  CHECK(glue.train[0].label == 1);
  CHECK(glue.dev[0].text == "A.");
  REQUIRE(glue.test.size() == 1);
  CHECK(std::isnan(glue.test[0].label));
  CHECK_FALSE(glue.held_out);

  const Folder raw;
  raw.put("in_domain_train.tsv", "gj04\t1\t\tThey ran.\n");
  raw.put("in_domain_dev.tsv", "gj04\t1\t\tA.\n");
  CHECK(data::load("cola", raw.text()).dev.size() == 1);
  raw.put("out_of_domain_dev.tsv", "gj04\t0\t*\tB.\n");
  const auto both = data::load("cola", raw.text());
  REQUIRE(both.dev.size() == 2);
  CHECK(both.dev[1].text == "B.");

  raw.put("in_domain_train.tsv", "gj04\t1\t\tThey ran.\ngj04\t2\t\tThey.\n");
  CHECK(message_of([&] { data::load("cola", raw.text()); }, &raw) ==
        "in_domain_train.tsv:2: unknown label `2`: expected `unacceptable`, `acceptable` or its number from 0: "
        "`gj04\\t2\\t\\tThey.`");
  raw.put("in_domain_train.tsv", "gj04\t1\tThey ran.\n");
  CHECK(contains(message_of([&] { data::load("cola", raw.text()); }, &raw),
                 "in_domain_train.tsv:1: expected 4 columns (separated by tabs), found 3"));
}

TEST_CASE("task: sst2 and rte") {
  const Folder folder;  // the folder above the task's, as GLUE's archives unpack
  folder.put("SST-2/train.tsv", "sentence\tlabel\r\ngood \t1\r\nbad \t0");
  folder.put("SST-2/dev.tsv", "sentence\tlabel\nfine \t1\n");
  folder.put("SST-2/test.tsv", "index\tsentence\n0\tso so\n");
  const auto sst2 = data::load("sst2", folder.text());
  REQUIRE(sst2.train.size() == 2);
  CHECK(sst2.train[1].text == "bad ");
  CHECK(sst2.train[1].label == 0);
  CHECK(sst2.test[0].text == "so so");
  CHECK_FALSE(sst2.task.pair);

  folder.put("rte/train.tsv",
             "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tnot_entailment\n1\tC\tD\tentailment\n2\tE\tF\t1\n");
  folder.put("rte/dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n");
  folder.put("rte/test.tsv", "sentence1\tsentence2\tlabel\nA\tB\t-1\n");
  const auto rte = data::load("rte", folder.text());
  CHECK(rte.task.pair);
  CHECK(rte.train[0].pair == "B");
  CHECK(rte.train[0].label == 1);
  CHECK(rte.train[1].label == 0);
  CHECK(rte.train[2].label == 1);
  CHECK(std::isnan(rte.test[0].label));

  folder.put("rte/dev.tsv", "index\tsentence1\tsentence2\n0\tA\tB\n");
  CHECK(message_of([&] { data::load("rte", folder.text()); }, &folder) ==
        "rte/dev.tsv:1: no column named `label` in the header `index`, `sentence1`, `sentence2`");
  folder.put("rte/dev.tsv", "index\tsentence1\tsentence2\tlabel\n");
  CHECK(message_of([&] { data::load("rte", folder.text()); }, &folder) == "rte/dev.tsv: has a header but no rows");
  folder.put("rte/dev.tsv", "0\tA\tB\tentailment\n");
  CHECK(message_of([&] { data::load("rte", folder.text()); }, &folder) ==
        "rte/dev.tsv:1: expected a header with a column `sentence1`: `0\\tA\\tB\\tentailment`");
}

TEST_CASE("task: mrpc") {
  const std::string header = "\xEF\xBB\xBFQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n";
  const Folder folder;
  folder.put("train.tsv", header + "1\t10\t11\tA \"a\tB\r\n0\t12\t13\tC\tD\r\n");
  folder.put("dev.tsv", header + "1\t14\t15\tE\tF");
  folder.put("test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tG\tH\n");
  const auto glue = data::load("mrpc", folder.text());
  REQUIRE(glue.train.size() == 2);
  CHECK(glue.train[0].text == "A \"a");
  CHECK(glue.train[1].pair == "D");
  CHECK(glue.train[1].label == 0);
  CHECK(glue.test[0].text == "G");
  CHECK(glue.task.metrics == std::vector<std::string>{"accuracy", "f1"});
  CHECK(glue.task.main_metric == "f1");

  const Folder msr;
  std::string rows = header;
  for (int i = 0; i < 20; ++i)
    rows += "1\t" + std::to_string(i) + "\t" + std::to_string(100 + i) + "\tA" + std::to_string(i) + "\tB\r\n";
  msr.put("msr_paraphrase_train.txt", rows);
  msr.put("msr_paraphrase_test.txt", header + "0\t7\t8\tC\tD\r\n");
  const auto tenth = data::load("mrpc", msr.text());
  CHECK(tenth.held_out);
  CHECK(tenth.dev.size() == 2);
  CHECK(tenth.test[0].label == 0);
  msr.put("dev_ids.tsv", "3\t103\n5\t105\n19\t119\n");
  const auto by_ids = data::load("mrpc", msr.text());
  CHECK_FALSE(by_ids.held_out);
  CHECK(by_ids.train.size() == 17);
  REQUIRE(by_ids.dev.size() == 3);
  CHECK(by_ids.dev[1].text == "A5");
  msr.put("dev_ids.tsv", "3\t104\n5\t105\n");
  CHECK(message_of([&] { data::load("mrpc", msr.text()); }, &msr) ==
        "dev_ids.tsv: lists 2 pairs, msr_paraphrase_train.txt has 1 of them");
}

TEST_CASE("task: stsb") {
  const Folder folder;
  const std::string header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n";
  folder.put("train.tsv", header + "0\tg\tf\t2012\t1\tnone\tnone\tA\tB\t5.000\n");
  folder.put("dev.tsv", header + "0\tg\tf\t2012\t1\tnone\tnone\tC\tD\t0.25\n");
  const auto glue = data::load("stsb", folder.text());
  CHECK(glue.task.regression());
  CHECK(glue.train[0].text == "A");
  CHECK(glue.train[0].label == 5.0f);
  CHECK(glue.dev[0].pair == "D");
  CHECK(glue.dev[0].label == 0.25f);
  folder.put("dev.tsv", header + "0\tg\tf\t2012\t1\tnone\tnone\tC\tD\n");
  CHECK(contains(message_of([&] { data::load("stsb", folder.text()); }, &folder),
                 "dev.tsv:2: expected 10 columns (separated by tabs), found 9"));

  const Folder raw;
  raw.put("sts-train.csv", "g\tf\t2012\t1\t5.000\tA, \"a\tB\ng\tf\t2012\t2\t3\tC\tD\torigin\torigin\n");
  raw.put("sts-dev.csv", "g\tf\t2012\t1\t1.5\tE\tF\torigin\torigin\ng\tf\t2012\t1\t1.5\tG\tH\n");
  const auto read = data::load("stsb", raw.text());
  CHECK(read.train[0].text == "A, \"a");
  CHECK(read.train[1].pair == "D");
  CHECK(read.dev[0].label == 1.5f);
  CHECK(read.dev.size() == 2);
  for (const auto& [score, expected] : {std::pair("5.5", "expected a score from 0 to 5, found `5.5`"),
                                        {"-1", "expected a score from 0 to 5, found `-1`"},
                                        {"nan", "expected a number as label, found `nan`"},
                                        {"", "expected a number as label, found ``"},
                                        {"3x", "expected a number as label, found `3x`"},
                                        {"1e39", "expected a number as label, found `1e39`"},
                                        {"inf", "expected a number as label, found `inf`"}}) {
    raw.put("sts-dev.csv", "g\tf\t2012\t1\t"s + score + "\tE\tF\n");
    CHECK(contains(message_of([&] { data::load("stsb", raw.text()); }, &raw), "sts-dev.csv:1: "s + expected));
  }
  raw.put("sts-dev.csv", "g\tf\t2012\t1\t1\tE\n");
  CHECK(contains(message_of([&] { data::load("stsb", raw.text()); }, &raw),
                 "sts-dev.csv:1: expected at least 7 columns (separated by tabs), found 6"));
}

TEST_CASE("task: qqp, and its rows that a line break cuts") {
  const Folder folder;
  const std::string header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n";
  folder.put("QQP/train.tsv", header + "1\t2\t3\tHow \"so?\tWhy?\t1\n4\t5\t6\tWho?\tWhen?\t0\n");
  folder.put("QQP/dev.tsv", header + "7\t8\t9\tA?\tB?\t0\n");
  folder.put("QQP/test.tsv", "id\tquestion1\tquestion2\n0\tC?\tD?\n");
  const auto glue = data::load("qqp", folder.text());
  CHECK(glue.task.label_names == std::vector<std::string>{"not_duplicate", "duplicate"});
  CHECK(glue.task.metrics == std::vector<std::string>{"accuracy", "f1"});
  CHECK(glue.task.main_metric == "f1");
  REQUIRE(glue.train.size() == 2);
  CHECK(glue.train[0].text == "How \"so?");
  CHECK(glue.train[0].pair == "Why?");
  CHECK(glue.train[0].label == 1);
  CHECK(glue.dev[0].label == 0);
  CHECK(glue.test[0].pair == "D?");
  CHECK(std::isnan(glue.test[0].label));
  CHECK(glue.more_dev.empty());
  CHECK(glue.more_test.empty());

  // As in line 97931 of GLUE's train.tsv: a question with line breaks and a blank line.
  std::string rows = header;
  for (int i = 0; i < 3000; ++i) rows += std::to_string(i) + "\t2\t3\tA?\tB?\t" + std::to_string(i % 2) + "\n";
  const std::string cut = "9\t8\t7\tWas he?\n\n\"\tIs it?\t0\n";
  folder.put("QQP/train.tsv", rows + cut + "1\t2\t3\tlast\tone\t1\n");
  const auto dropped = data::load("qqp", folder.text() + "/QQP");
  CHECK(dropped.train.size() == 3001);
  CHECK(dropped.train.back().text == "last");
  CHECK(dropped.dropped == 3);
  folder.put("QQP/train.tsv", rows + cut + cut);
  CHECK(message_of([&] { data::load("qqp", folder.text()); }, &folder) ==
        "QQP/train.tsv:3002: expected 6 columns (separated by tabs), found 4: `9\\t8\\t7\\tWas he?`");
  folder.put("QQP/train.tsv", rows + "1\t2\t3\tA?\tB?\t2\n");
  CHECK(contains(message_of([&] { data::load("qqp", folder.text()); }, &folder),
                 "QQP/train.tsv:3002: unknown label `2`: expected `not_duplicate`, `duplicate` or its number from 0"));

  // Every row of a file without labels is predicted.
  folder.put("QQP/train.tsv", rows);
  std::string inputs = "id\tquestion1\tquestion2\n";
  for (int i = 0; i < 2000; ++i) inputs += "0\tA?\tB?\n";
  const std::string test = folder.put("QQP/test.tsv", inputs + "0\tA?\n");
  CHECK(contains(message_of([&] { data::load("qqp", folder.text()); }, &folder),
                 "QQP/test.tsv:2002: expected 3 columns"));
  CHECK(
      contains(message_of([&] { data::load_inputs("qqp", test); }, &folder), "QQP/test.tsv:2002: expected 3 columns"));
  folder.put("QQP/test.tsv", inputs + "\n0\tA?\tB?\n");
  CHECK(
      contains(message_of([&] { data::load_inputs("qqp", test); }, &folder), "QQP/test.tsv:2002: expected 3 columns"));
}

TEST_CASE("task: mnli, matched and mismatched") {
  const Folder folder;
  const std::string start =
      "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
      "sentence1_parse\tsentence2_parse\tsentence1\tsentence2";
  const auto row = [](const std::string& a, const std::string& b) {
    return "0\t1\t1e\tg\t(\t(\t(\t(\t" + a + "\t" + b;
  };
  folder.put("train.tsv", start + "\tlabel1\tgold_label\n" + row("A", "B") + "\tneutral\tcontradiction\n" +
                              row("C", "D") + "\tneutral\tentailment\n");
  const std::string dev = start + "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n",
                    five = "\tneutral\tneutral\tneutral\tneutral\tneutral\t";
  folder.put("dev_matched.tsv", dev + row("E", "F") + five + "neutral\n");
  const auto one = data::load("mnli", folder.text());
  CHECK(one.task.labels == 3);
  CHECK(one.task.main_metric == "accuracy");
  CHECK(one.train[0].label == 2);
  CHECK(one.train[1].label == 0);
  CHECK(one.train[1].pair == "D");
  CHECK(one.dev[0].label == 1);
  CHECK(one.more_dev.empty());

  folder.put("dev_mismatched.tsv", dev + row("G", "H") + five + "entailment\n" + row("I", "J") + five + "neutral\n");
  folder.put("test_matched.tsv", start + "\n" + row("K", "L") + "\n");
  folder.put("test_mismatched.tsv", start + "\n" + row("M", "N") + "\n");
  const auto both = data::load("mnli", folder.text());
  CHECK(both.dev.size() == 1);
  REQUIRE(both.more_dev.size() == 1);
  CHECK(both.more_dev[0].name == "mismatched");
  REQUIRE(both.more_dev[0].examples.size() == 2);
  CHECK(both.more_dev[0].examples[0].text == "G");
  CHECK(both.more_dev[0].examples[1].label == 1);
  CHECK(both.test[0].text == "K");
  REQUIRE(both.more_test.size() == 1);
  CHECK(both.more_test[0].examples[0].pair == "N");
  CHECK(std::isnan(both.more_test[0].examples[0].label));

  folder.put("dev_mismatched.tsv", dev + row("G", "H") + five + "-\n" + row("I", "J") + five + "neutral\n");
  const auto undecided = data::load("mnli", folder.text());
  CHECK(undecided.more_dev[0].examples.size() == 1);
  REQUIRE(undecided.left_out.size() == 1);
  CHECK(undecided.left_out[0].lines == std::vector<std::size_t>{2});
  CHECK(contains(undecided.left_out[0].text(), "dev_mismatched.tsv: 1 row without a label left out (line 2)"));
  folder.put("dev_mismatched.tsv", "sentence1\tsentence2\nA\tB\n");
  CHECK(message_of([&] { data::load("mnli", folder.text()); }, &folder) ==
        "dev_mismatched.tsv:1: no column named `gold_label` or `label` in the header `sentence1`, `sentence2`");

  const Folder hugging;  // columns as Hugging Face names them
  hugging.put("train.tsv", "premise\thypothesis\tlabel\nA\tB\t1\n");
  hugging.put("dev.tsv", "premise\thypothesis\tlabel\nC\tD\t2\n");
  CHECK(data::load("mnli", hugging.text()).train[0].label == 1);
  hugging.put("dev.tsv", "premise\thypothesis\tlabel\nC\tD\t3\n");
  CHECK(contains(message_of([&] { data::load("mnli", hugging.text()); }, &hugging), "dev.tsv:2: unknown label `3`"));
}

TEST_CASE("task: qnli") {
  const Folder folder;
  folder.put("train.tsv", "index\tquestion\tsentence\tlabel\n0\tA?\tB.\tnot_entailment\n1\tC?\tD.\tentailment\n");
  folder.put("dev.tsv", "label\tsentence1\tsentence2\nentailment\tE?\tF.\n");
  folder.put("test.tsv", "index\tquestion\tsentence\n0\tG?\tH.\n");
  const auto read = data::load("qnli", folder.text());
  CHECK(read.train[0].label == 1);
  CHECK(read.train[1].label == 0);
  CHECK(read.train[1].pair == "D.");
  CHECK(read.dev[0].text == "E?");
  CHECK(read.test[0].pair == "H.");
  CHECK(read.task.metrics == std::vector<std::string>{"accuracy"});
  folder.put("train.tsv", "index\tquestion\tsentence\tlabel\n0\tA?\tB.\n");
  CHECK(message_of([&] { data::load("qnli", folder.text()); }, &folder) ==
        "train.tsv:2: expected 4 columns (separated by tabs), found 3: `0\\tA?\\tB.`");
}

TEST_CASE("lines: a folder, one file, errors") {
  const Folder folder;
  folder.put("train.txt",
             "\xEF\xBB\xBF"
             "first\r\n\r\n  \n second \nthird");
  folder.put("valid.txt", "fourth\n");
  const auto both = data::lines(folder.text());
  CHECK(both.train == std::vector<std::string>{"first", " second ", "third"});
  CHECK(both.dev == std::vector<std::string>{"fourth"});
  CHECK_FALSE(both.held_out);
  folder.put("dev.txt", "fifth\n");  // goes before
  CHECK(data::lines(folder.text()).dev == std::vector<std::string>{"fifth"});

  std::string many;
  for (int i = 0; i < 95; ++i) many += "line " + std::to_string(i) + "\n\n";
  const std::string file = folder.put("many.txt", many);
  const auto tenth = data::lines(file);
  CHECK(tenth.held_out);
  CHECK(tenth.dev.size() == 10);
  CHECK(tenth.train.size() == 85);
  CHECK(data::lines(file).dev == tenth.dev);
  CHECK(data::lines(file, {.split_seed = 1}).dev != tenth.dev);
  const std::string latin = folder.put("latin.txt", "caf\xE9\nth\xE9\n");
  CHECK(data::lines(latin, {.encoding = data::Encoding::latin1}).train[0].size() >= 4);

  const auto error = [&](const std::string& path) { return message_of([&] { data::lines(path); }, &folder); };
  CHECK(contains(error(latin), "latin.txt:1: byte 4 of the line, 0xE9, is not UTF-8"));
  CHECK(error(folder.put("empty.txt", "")) == "empty.txt: is empty: expected lines of text");
  CHECK(error(folder.put("blank.txt", "\n \n")) == "blank.txt: has only blank lines: expected lines of text");
  CHECK(contains(error(folder.put("nul.txt", "a\nb\0c\n"s)), "nul.txt:2: byte 2 of the line is NUL"));
  CHECK(error(folder.put("one.txt", "alone\n")) == "one.txt: needs at least 2 rows to hold out a tenth, found: 1");
  CHECK(contains(error(folder.text() + "/gone.txt"), "gone.txt: cannot be opened: No such file"));
  const Folder none;
  CHECK(message_of([&] { data::lines(none.text()); }) == none.text() + ": no training text: expected `train.txt`; found nothing");
  const std::string huge(std::size_t{3} << 20, 'x');
  CHECK(data::lines(folder.put("huge.txt", huge + "\nshort\n")).train.size() == 1);
}

TEST_CASE("task: tsv by names and by numbers") {
  const Folder folder;
  folder.put("train.tsv", "id\tlabel\tfirst\tsecond\n1\tpos\tA\tB\n2\tneg\tC\tD\n3\tmid\tE\tF\n");
  folder.put("dev.tsv", "second\tfirst\tlabel\nH\tG\tneg\n");  // another order of columns
  folder.put("test.tsv", "first\tsecond\nI\tJ\n");
  const data::LoadOptions names{.text = "first", .pair = "second", .label = "label"};
  const auto read = data::load("tsv", folder.text(), names);
  CHECK(read.task.label_names == std::vector<std::string>{"mid", "neg", "pos"});
  CHECK(read.task.labels == 3);
  CHECK(read.task.pair);
  CHECK(read.train[0].label == 2);
  CHECK(read.dev[0].text == "G");
  CHECK(read.dev[0].pair == "H");
  CHECK(read.dev[0].label == 1);
  CHECK(read.test[0].pair == "J");
  CHECK(std::isnan(read.test[0].label));
  CHECK(read.task.metrics == std::vector<std::string>{"accuracy"});

  auto fixed = names;
  fixed.label_names = {"pos", "neg", "mid", "none"};
  CHECK(data::load("tsv", folder.text(), fixed).train[0].label == 0);
  fixed.label_names = {"pos", "neg"};
  CHECK(contains(message_of([&] { data::load("tsv", folder.text(), fixed); }, &folder),
                 "train.tsv:4: unknown label `mid`: expected `pos`, `neg`: "));

  const data::LoadOptions numbers{.text = "2", .label = "1"};
  const Folder bare;
  bare.put("train.tsv", "10\tA\n9\tB\n10\tC\n");
  bare.put("dev.tsv", "9\tD\n");
  const auto numbered = data::load("tsv", bare.text(), numbers);
  CHECK(numbered.task.label_names == std::vector<std::string>{"9", "10"});  // by value
  CHECK(numbered.train[0].label == 1);
  CHECK(numbered.train[0].text == "A");
  CHECK(numbered.task.metrics == std::vector<std::string>{"accuracy", "f1"});
  bare.put("dev.tsv", "8\tD\n");
  CHECK(contains(message_of([&] { data::load("tsv", bare.text(), numbers); }, &bare),
                 "dev.tsv:1: unknown label `8`: expected `9`, `10`: `8\\tD`"));

  bare.put("train.tsv", "x\tA\ny\tB\nx\tC\n");
  bare.put("dev.tsv", "y\tA\nx\tB\nx\tC\n");  // a lone label in dev's first row is no header
  CHECK(data::load("tsv", bare.text(), numbers).dev[0].label == 1);
  bare.put("train.tsv", "10\tA\n9\tB\n10\tC\n");
  bare.put("dev.tsv", "8\tD\n");

  auto regression = numbers;
  regression.regression = true;
  const auto values = data::load("tsv", bare.text(), regression);
  CHECK(values.task.regression());
  CHECK(values.train[0].label == 10.0f);
  CHECK(values.dev[0].label == 8.0f);

  // A header, though the columns are given by number.
  const Folder headed;
  headed.put("train.tsv", "label\ttext\nx\tA\ny\tB\nx\tC\n");
  headed.put("dev.tsv", "label\ttext\nx\tA\n");
  CHECK(contains(message_of([&] { data::load("tsv", headed.text(), numbers); }, &headed),
                 "train.tsv:1: looks like a header: "));
  auto present = numbers;
  present.header = data::Header::present;
  CHECK(data::load("tsv", headed.text(), present).task.label_names == std::vector<std::string>{"x", "y"});
  present.header = data::Header::absent;
  CHECK(data::load("tsv", headed.text(), present).task.label_names.size() == 3);
}

TEST_CASE("task: tsv errors") {
  const Folder folder;
  const std::string file = folder.put("f.tsv", "label\ttext\nx\tA\ny\tB\n");
  const auto error = [&](const data::LoadOptions& options, const std::string& path) {
    return message_of([&] { data::load("tsv", path, options); }, &folder);
  };
  CHECK(error({.label = "label"}, file) == "task tsv: option text is missing: a column's name or its number from 1");
  CHECK(error({.text = "text"}, file) == "task tsv: option label is missing: a column's name or its number from 1");
  CHECK(error({.text = "txt", .label = "label"}, file) ==
        "f.tsv:1: option text: no column `txt`: found the header `label`, `text`");
  CHECK(error({.text = "3", .label = "1"}, file) == "f.tsv:1: option text: no column `3`: found 2 columns, no header");
  CHECK(error({.text = "text", .pair = "other", .label = "label"}, file) ==
        "f.tsv:1: option text-pair: no column `other`: found the header `label`, `text`");
  CHECK(error({.text = "text", .label = "label", .regression = true}, file) ==
        "f.tsv:2: expected a number as label, found `x`: `x\\tA`");
  CHECK(contains(error({.text = "text", .label = "label", .regression = true, .threshold = 1}, file),
                 "exclude each other"));
  CHECK(contains(error({.text = "text", .label = "label", .threshold = -1}, file),
                 "threshold must be a number of at least 0"));
  CHECK(error({.text = "text", .label = "label"}, folder.text()) ==
        folder.text() + ": no training file of task tsv: expected `train.tsv`, .csv, .jsonl or .json; found not used: `f.tsv`");
  CHECK(contains(error({.text = "text", .label = "label"}, folder.text() + "/gone"),
                 "gone: cannot be opened: No such file"));
  CHECK(error({.text = "text", .label = "label"}, folder.put("one.tsv", "label\ttext\nx\tA\nx\tB\n")) ==
        "one.tsv: a classification needs two labels, found `x`");
  CHECK(error({.text = "2", .label = "1", .regression = true}, folder.put("single.tsv", "1\tA\n")) ==
        "single.tsv: needs at least 2 rows to hold out a tenth, found: 1");
  std::string many = "label\ttext\n";
  for (int i = 0; i < 30; ++i) many += std::to_string(i) + "\tA\n";
  CHECK(contains(error({.text = "text", .label = "label"}, folder.put("many.tsv", many)),
                 "many.tsv: expected classes, found 30 different labels in 30 rows"));
  CHECK(error({.text = "text", .label = "label"}, folder.put("rated.tsv", "label\ttext\n1\tA\n0.5\tB\n1\tC\n")) ==
        "rated.tsv: label `0.5` is a fraction: use option regression or threshold");

  CHECK(message_of([&] { data::load("mnist", file); }) ==
        "unknown task `mnist`: expected cola, sst2, mrpc, rte, stsb, qqp, mnli, qnli or tsv");
  CHECK(message_of([&] { data::load("sst2", file, {.text = "text"}); }) ==
        "task sst2 knows its columns and labels: option text is for task tsv only");
  CHECK(contains(message_of([&] { data::load("sst2", file, {.threshold = 0.5}); }),
                 "option threshold is for task tsv only"));
}

TEST_CASE("task: rated Latin-1 snippets become two classes; a tenth is held out") {
  std::string bytes;
  for (int i = 0; i < 1000; ++i) {
    const double rating = (i % 41 - 20) / 5.0;  // -4, -3.8, ... 4
    bytes += std::to_string(i + 1) + "\t" + std::to_string(rating) + "\tcaf\xE9 " + std::to_string(i) + "\r\n";
  }
  const Folder folder;
  const std::string file = folder.put("snippets.txt", bytes);
  data::LoadOptions options{.encoding = data::Encoding::latin1, .text = "3", .label = "2", .threshold = 0.5};
  const auto read = data::load("tsv", file, options);
  CHECK(read.held_out);
  CHECK(read.task.label_names == std::vector<std::string>{"negative", "positive"});
  std::size_t near_zero = 0;
  for (int i = 0; i < 1000; ++i) near_zero += std::abs(i % 41 - 20) < 3;
  CHECK(read.dropped == near_zero);
  const std::size_t kept = 1000 - near_zero;
  CHECK(read.dev.size() == (kept + 9) / 10);
  CHECK(read.train.size() == kept - read.dev.size());

  std::vector<int> all;
  for (const auto* part : {&read.train, &read.dev}) {
    int before = -1;
    for (const auto& example : *part) {
      REQUIRE(example.text.starts_with("caf\xC3\xA9 "));
      const int i = std::stoi(example.text.substr(6));
      CHECK(i > before);  // file order
      CHECK(example.label == (i % 41 > 20 ? 1.0f : 0.0f));
      all.push_back(before = i);
    }
  }
  std::sort(all.begin(), all.end());
  CHECK(all.size() == kept);
  CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());

  // The same tenth every time; another seed, another tenth.
  const auto again = data::load("tsv", file, options);
  const auto same = [](const auto& a, const auto& b) { return a.text == b.text; };
  CHECK(std::equal(read.dev.begin(), read.dev.end(), again.dev.begin(), again.dev.end(), same));
  options.split_seed = 1;
  const auto other = data::load("tsv", file, options);
  CHECK(other.dev.size() == read.dev.size());
  CHECK_FALSE(std::equal(read.dev.begin(), read.dev.end(), other.dev.begin(), other.dev.end(), same));

  options.threshold = 0.0;  // 0 has no sign
  std::size_t zeros = 0;
  for (int i = 0; i < 1000; ++i) zeros += i % 41 == 20;
  CHECK(data::load("tsv", file, options).dropped == zeros);
  options.threshold = 9.0;
  CHECK(contains(message_of([&] { data::load("tsv", file, options); }), "no row reaches the threshold"));
  options.encoding = data::Encoding::utf8;
  CHECK(contains(message_of([&] { data::load("tsv", file, options); }, &folder),
                 "snippets.txt:1: byte 16 of the line, 0xE9, is not UTF-8"));
}

TEST_CASE("task: texts to predict") {
  const Folder folder;
  const auto inputs = [&](const std::string& task, const std::string& bytes, const data::LoadOptions& options = {}) {
    const auto rows = data::load_inputs(task, folder.put("p.tsv", bytes), options);
    std::string out;
    for (const auto& row : rows) {
      CHECK(std::isnan(row.label));
      out += row.text + (row.pair.empty() ? "" : "|" + row.pair) + ";";
    }
    return out;
  };
  const data::LoadOptions bare{.header = data::Header::absent};
  CHECK(inputs("sst2", "good\nbad", bare) == "good;bad;");
  CHECK(inputs("sst2", "It is good.\nbad") == "It is good.;bad;");
  CHECK(inputs("sst2", "sentence\ngood\n") == "good;");
  CHECK(inputs("sst2", "index\tsentence\n0\tgood\n") == "good;");
  CHECK(inputs("sst2", "sentence\tlabel\ngood\t1\n") == "good;");
  CHECK(inputs("rte", "A\tB\nC\tD\n", bare) == "A|B;C|D;");
  CHECK(inputs("cola", "x\t1\t\tA\n") == "A;");
  CHECK(inputs("stsb", "g\tf\t2012\t1\t9.9\tA\tB\n") == "A|B;");
  const data::LoadOptions named{.text = "text", .label = "label"};
  CHECK(inputs("tsv", "text\nA\n", named) == "A;");
  auto headless = named;
  headless.header = data::Header::absent;
  CHECK(inputs("tsv", "A\nB\n", headless) == "A;B;");
  CHECK(inputs("tsv", "id\ttext\n1\tA\n", named) == "A;");
  CHECK(inputs("tsv", "label\ttext\nx\tA\n", named) == "A;");
  CHECK(inputs("tsv", "1\t0.1\tA\n", {.text = "3", .label = "2", .threshold = 0.5}) == "A;");  // nothing is dropped
  CHECK(inputs("tsv", "A\tB\n", {.text = "3", .pair = "4", .label = "2"}) == "A|B;");
  CHECK(inputs("tsv", "3\nB\n", {.text = "3", .label = "2"}) == "3;B;");
  CHECK(inputs("tsv", "words\nB\n", {.text = "3", .label = "2", .header = data::Header::present}) == "B;");
  CHECK(message_of([&] { inputs("sst2", "a\tb\tc\n"); }, &folder) ==
        "p.tsv:1: expected a header with a column `sentence`: `a\\tb\\tc`");
  CHECK(message_of([&] { inputs("rte", "A\tB\nC\n", bare); }, &folder) ==
        "p.tsv:2: expected 2 columns (separated by tabs), found 1: `C`");
  CHECK(message_of([&] { inputs("tsv", "id\ttxt\n1\tA\n", named); }, &folder) ==
        "p.tsv:1: option text: no column `text`: found the header `id`, `txt`");
}

TEST_CASE("what is no regular file is refused, not waited for") {
  const Folder folder;
  const data::LoadOptions by_name{.text = "text", .label = "label"};
  const auto refused = [&](const std::string& name, auto&& read, bool directory = true) {
    const std::string path = folder.text() + "/" + name;
    const auto look = [&](const std::string& reason) {
      const std::string message = message_of(read);
      CHECK_MESSAGE(contains(message, path + ": cannot be "), message);
      CHECK_MESSAGE(contains(message, reason), message);
    };
    test::each_odd_file(path, look, directory);
  };
  const std::string file = folder.text() + "/train.tsv", text = folder.text() + "/train.txt";
  refused("train.tsv", [&] { data::Table::read(file); });
  refused(
      "train.tsv", [&] { data::load("tsv", file, by_name); }, false);
  refused("train.tsv", [&] { data::load("tsv", folder.text(), by_name); });
  refused("train.tsv", [&] { data::load("sst2", folder.text()); });
  refused("train.tsv", [&] { data::load_inputs("sst2", file); });
  refused(
      "train.txt", [&] { data::lines(text); }, false);
  refused("train.txt", [&] { data::lines(folder.text()); });
  folder.put("train.tsv", "text\tlabel\na\tx\nb\ty\n");
  folder.put("train.txt", "a\nb\n");
  // A dev set that is there is never passed over in silence: not as a link to nothing, either.
  refused("dev.tsv", [&] { data::load("tsv", folder.text(), by_name); });
  refused("dev.txt", [&] { data::lines(folder.text()); });
  folder.put("dev.tsv", "text\tlabel\na\tx\nb\ty\n");
  refused("test.tsv", [&] { data::load("tsv", folder.text(), by_name); });
}

TEST_CASE("batches: every example once, close lengths, a pure function of seed and epoch") {
  std::vector<std::uint32_t> lengths;
  for (std::uint32_t i = 0; i < 5003; ++i) lengths.push_back(3 + below(Key{7, 1, 0}, i, 120));
  for (const std::size_t batch : {std::size_t{1}, std::size_t{16}, std::size_t{32}, std::size_t{6000}}) {
    const auto order = data::batches(lengths, batch, 3, 2, true);
    CHECK(order.size() == (lengths.size() + batch - 1) / batch);
    std::vector<int> seen(lengths.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      CHECK(order[i].size() == (i + 1 < order.size() ? batch : lengths.size() - batch * (order.size() - 1)));
      for (const auto example : order[i]) ++seen.at(example);
    }
    CHECK(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
    CHECK(order == data::batches(lengths, batch, 3, 2, true));
    CHECK(order != data::batches(lengths, batch, 3, 3, true));
    CHECK(order != data::batches(lengths, batch, 4, 2, true));
  }

  // 50 batches of a bucket share lengths 3 ... 122: within a batch they differ by a few, and neighbours are unrelated.
  const auto order = data::batches(lengths, 16, 0, 0, true);
  double spread = 0, step = 0;
  for (std::size_t i = 0; i + 1 < order.size(); ++i) {
    const auto [low, high] =
        std::minmax_element(order[i].begin(), order[i].end(), [&](auto a, auto b) { return lengths[a] < lengths[b]; });
    spread += lengths[*high] - lengths[*low];
    if (i > 0) step += std::abs(static_cast<double>(lengths[order[i][0]]) - lengths[order[i - 1][0]]);
  }
  const double count = static_cast<double>(order.size()) - 1;
  CHECK(spread / count < 6);
  CHECK(step / count > 20);  // a third of the range, 40, if unrelated

  const auto plain = data::batches(lengths, 16, 5, 6, false);
  CHECK(plain[0][0] == 0);
  CHECK(plain[1][3] == 19);
  CHECK(plain.back().size() == 5003 % 16);
  CHECK(data::batches({}, 16, 0, 0, true).empty());
  CHECK(contains(message_of([&] { data::batches(lengths, 0, 0, 0, true); }), "batch size must be at least 1"));
  CHECK(contains(message_of([&] { data::batches(lengths, 1, 0, std::uint64_t{1} << 32, true); }),
                 "epoch must be below 2^32"));
}

TEST_CASE("batches: these bits, on every machine") {
  // Printed once by data::batches; a change would break the resumption of runs.
  const std::vector<std::uint32_t> lengths = {5, 9, 3, 7, 7, 1, 8};
  CHECK(data::batches(lengths, 2, 42, 1, true) == std::vector<std::vector<std::uint32_t>>{{3, 6}, {5, 2}, {0, 4}, {1}});
}

TEST_CASE("task: the real files") {
  const char* shared = std::getenv("MEFT_SHARED");
  if (!shared) {
    MESSAGE("skipped: MEFT_SHARED is not set");
    return;
  }
  struct Expected {
    const char* name;
    std::size_t train, dev;
    double mean;  // of train's labels
  };
  for (const auto& expected : {Expected{"cola", 8551, 527, 0.704362},
                               {"sst2", 67349, 872, 0.557826},
                               {"mrpc", 3668, 408, 0.674482},
                               {"rte", 2490, 277, 0.498394},
                               {"stsb", 5749, 1500, 2.700999},
                               {"qqp", 8999, 1000, 0.361373},
                               {"mnli", 8999, 1000, 0.988554},
                               {"qnli", 8999, 1000, 0.497389}}) {
    const auto [name, train, dev, mean] = expected;
    const std::string task = name;
    CAPTURE(task);
    const auto read = data::load(task, std::string(shared) + "/data/" + task);
    CHECK(read.train.size() == train);
    CHECK(read.dev.size() == dev);
    double sum = 0;
    for (const auto& example : read.train) {
      REQUIRE_FALSE(example.text.empty());
      REQUIRE(example.pair.empty() != read.task.pair);
      sum += static_cast<double>(example.label);
    }
    CHECK(sum / static_cast<double>(train) == doctest::Approx(mean).epsilon(1e-5));
    CHECK(data::load(task, std::string(shared) + "/data").dev.size() == dev);
  }
}
