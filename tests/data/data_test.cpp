// Reading tables and tasks from small files written here, every error by its text, and the order of batches.
// With MEFT_SHARED set (a folder that holds data/cola, data/sst2, ...) the real tasks are read too.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include <meft/data/batches.hpp>
#include <meft/data/lines.hpp>
#include <meft/data/table.hpp>
#include <meft/data/task.hpp>
#include <meft/memory/resident.hpp>

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
  CHECK(lf.place(1).number == 3);
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
        "t.tsv:2: byte 4 of the line, 0xE9, is not UTF-8 (a Latin-1 file needs option encoding latin1): "
        "`caf\\xE9\\t\\xFC`");
  for (const char* bad :
       {"\xC0\x80", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5", "\xE2\x82", "\x80"})
    CHECK(contains(parse_error(bad), "is not UTF-8"));
  for (const char* good : {"\xC2\x80", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    CHECK(parse_error(good) == "no error");
  CHECK(parse_error("\xFF\xFE"
                    "a") == "t.tsv: starts with a UTF-16 byte order mark; expected UTF-8: convert it first");
  const std::string columnar = "t.tsv: is no text: Parquet and Arrow are not read, convert them to JSON lines";
  CHECK(parse_error("PAR1\x15\x04") == columnar);
  CHECK(parse_error(std::string("ARROW1\0\0\xFF", 9)) == columnar);
  for (const char* packed : {"\x1F\x8B\x08", "PK\3\4", "\x28\xB5\x2F\xFD"})
    CHECK(parse_error(packed) == "t.tsv: is no text: unpack it first");
  CHECK(parse_error("PAR1\tpos\n") == "no error");
  CHECK(contains(parse_error("\xEF\xBB\xBF"
                             "a",
                             {.encoding = data::Encoding::latin1}),
                 "UTF-8 byte order mark"));
  for (const char* name : {"latin1", "latin-1", "iso-8859-1"}) CHECK(data::encoding(name) == data::Encoding::latin1);
  for (const char* name : {"utf8", "utf-8"}) CHECK(data::encoding(name) == data::Encoding::utf8);
  CHECK(message_of([] { data::encoding("ebcdic"); }) ==
        "encoding: expected utf-8, latin1 or windows-1252, found `ebcdic`");
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
  folder.put("rte/dev.tsv", "index\tlabel\tsentence1\tsentence2\tlabel\n0\t1\tA\tB\t0\n");
  CHECK(message_of([&] { data::load("rte", folder.text()); }, &folder) ==
        "rte/dev.tsv:1: two columns are named `label`");
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
  raw.put("sts-dev.csv", "g\tf\t2012\t1\t0\tE\tF\ng\tf\t2012\t1\t5\tG\tH\n");
  CHECK(data::load("stsb", raw.text()).dev[0].label == 0);
  for (const auto& [score, expected] : {std::pair("5.5", "expected a score from 0 to 5, found `5.5`"),
                                        {"-1", "expected a score from 0 to 5, found `-1`"},
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
  CHECK(contains(message_of([&] { data::load_inputs("qqp", test); }, &folder), "QQP/test.tsv:2002: the line is blank"));
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
  CHECK(contains(undecided.left_out[0].text(), "dev_mismatched.tsv: 1 row without a label (as `-`) left out (line 2)"));
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
  CHECK(message_of([&] { data::lines(none.text()); }) ==
        none.text() + ": no training text: expected `train.txt`; found nothing");
  const std::string huge(std::size_t{3} << 20, 'x');
  CHECK(data::lines(folder.put("huge.txt", huge + "\nshort\n")).train.size() == 1);

  const Folder dev;
  dev.put("dev.txt", "first\nsecond\n");
  CHECK(contains(message_of([&] { data::lines(dev.text()); }), "no training text"));
  CHECK(data::lines(dev.text(), {.scored = true}).dev == std::vector<std::string>{"first", "second"});

  const std::string table = "text\tlabel\nthe film\tpos\nthe plot\tneg\n";
  CHECK(data::input_lines(folder.put("some.tsv", table)) == std::vector<std::string>{"the film", "the plot"});
  CHECK(contains(error(folder.put("bare.tsv", "the film\nthe plot\n")), "bare.tsv: expected a column `text`"));
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
                 "train.tsv:4: unknown label `mid`: expected `pos`, `neg` or its number from 0: "));

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
        folder.text() +
            ": no training file of task tsv: expected `train.tsv`, .csv, .jsonl or .json; found not used: `f.tsv`");
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
        "rated.tsv: label `0.5` is a fraction: use option regression or option threshold");

  CHECK(message_of([&] { data::load("mnist", file); }) ==
        "unknown task `mnist`: expected cola, sst2, mrpc, rte, stsb, qqp, mnli, qnli or tsv");
  CHECK(message_of([&] { data::load("sst2", file, {.text = "text"}); }) ==
        "task sst2 knows its columns and labels: option text is for task tsv only");
  CHECK(error({.text = "2", .label = "1", .threshold = 1, .label_names = {"a", "b", "c"}},
              folder.put("numbers.tsv", "1\tA\n-1\tB\n")) ==
        "task tsv: with a threshold there are two label names, found: 3");
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
  options.threshold = 1.0;  // which itself is enough
  std::size_t nearer = 0;
  for (int i = 0; i < 1000; ++i) nearer += std::abs(i % 41 - 20) < 5;
  CHECK(data::load("tsv", file, options).dropped == nearer);
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

TEST_CASE("task: texts to be written; test is scored where each row has one") {
  const Folder folder;
  folder.put("train.tsv", "text\tanswer\na\tx\nb\ty\n");
  folder.put("dev.tsv", "text\tanswer\nc\tz\n");
  const data::LoadOptions options{.text = "text", .pair = "answer", .written = true};
  for (const char* last : {"w", ""}) {
    folder.put("test.tsv", "text\tanswer\nd\tv\ne\t"s + last + "\n");
    const auto data = data::load("tsv", folder.text(), options);
    CHECK(data.test_labelled == (*last != 0));
    CHECK(data.train[1].pair == "y");
    CHECK(data.task.main_metric == "log_likelihood");
    CHECK(data.task.labels == 0);
  }
  folder.put("test.tsv", "text\nd\n");
  CHECK_FALSE(data::load("tsv", folder.text(), options).test_labelled);

  // Rows with nothing to be written.
  folder.put("train.tsv", "text\tanswer\na\tx\nb\t\nc\t  \nd\ty\n");
  const auto empty = data::load("tsv", folder.text(), options);
  CHECK(empty.train.size() == 2);
  REQUIRE(empty.left_out.size() == 1);
  CHECK(contains(empty.left_out[0].text(), "train.tsv: 2 rows without a text to be written left out (lines 3, 4)"));
  CHECK(data::load_inputs("tsv", folder.text() + "/train.tsv", options).size() == 4);
  const Folder json;
  const std::string told = "{\"text\": \"a\", \"answer\": \"x\"}\n", untold = "{\"text\": \"b\", \"answer\": null}\n";
  json.put("train.jsonl", told + untold + told);
  json.put("dev.jsonl", told);
  json.put("test.jsonl", told + untold);
  const auto hidden = data::load("tsv", json.text(), options);
  CHECK(hidden.train.size() == 2);
  CHECK(hidden.test.size() == 2);
  CHECK(hidden.test_unlabelled == 1);
  CHECK_FALSE(hidden.test_labelled);
  CHECK(data::load_inputs("tsv", json.text() + "/test.jsonl", options).size() == 2);
}

TEST_CASE("task: a header over texts to be written is not learned") {
  const Folder folder;
  folder.put("train.csv", "question,answer\nWho is it?,A cat.\nWhere is it?,At home.\nWhen?,Now.\n");
  folder.put("dev.csv", "question,answer\nWho?,A dog.\n");
  data::LoadOptions options{.text = "1", .pair = "2", .written = true};
  CHECK(contains(message_of([&] { data::load("tsv", folder.text(), options); }, &folder),
                 "train.csv:1: is this line a text or the names of the columns? Say with option header (yes or no)"));
  options.header = data::Header::absent;
  CHECK(data::load("tsv", folder.text(), options).train.size() == 4);
  options.header = data::Header::present;
  CHECK(data::load("tsv", folder.text(), options).train.size() == 3);
  options.header = data::Header::automatic;
  folder.put("train.csv", "Who is it?,A cat.\nWhere is it?,At home.\n");
  CHECK(data::load("tsv", folder.text(), options).train.size() == 2);
}

TEST_CASE("what is no regular file is refused, not waited for") {
  const Folder folder;
  const data::LoadOptions by_name{.text = "text", .label = "label"};
  const auto refused = [&](const std::string& name, auto&& read, bool directory = true) {
    test::refuses_odd_files(folder / name, read, directory);
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

TEST_CASE("labels: what says none is left out and counted, never a class") {
  const data::LoadOptions by_name{.text = "text", .label = "label"};
  const auto load = [&](const std::string& rows, const data::LoadOptions& options, const std::string& dev = "") {
    const Folder folder;
    folder.put("train.tsv", "text\tlabel\n" + rows);
    if (!dev.empty()) folder.put("dev.tsv", "text\tlabel\n" + dev);
    return data::load("tsv", folder.text(), options);
  };
  const auto names = [&](const std::string& rows) {
    return load(rows, by_name, "x\t" + rows.substr(2, rows.find('\n') - 2)).task.label_names;
  };
  using Names = std::vector<std::string>;
  using Counts = std::vector<std::size_t>;

  // Empty, blanks alone, a dash, NaN.
  const auto named =
      load("a\tpos\nb\tneg\nc\t\nd\t  \ne\t-\nf\tnan\ng\tNaN\nh\tpos\n", by_name, "x\tneg\ny\t-\nz\tpos\n");
  CHECK(named.task.label_names == Names{"neg", "pos"});
  CHECK(named.train.size() == 3);
  CHECK(data::class_counts(named.train, 2) == Counts{1, 2});
  REQUIRE(named.left_out.size() == 2);
  CHECK(
      contains(named.left_out[0].text(), "train.tsv: 5 rows without a label (as `-`) left out (lines 4, 5, 6, 7, 8)"));
  CHECK(contains(named.left_out[1].text(), "left out (line 3)"));
  CHECK(named.dev.size() == 2);
  CHECK(named.train[2].place.number == 9);

  // -1 beside numbers from 0, beside names; as a number of its own kind it is a class.
  const auto numbered = load("a\t0\nb\t1\nc\t2\nd\t-1\ne\t1\nf\t-1\n", by_name, "x\t2\ny\t-1\n");
  CHECK(numbered.task.label_names == Names{"0", "1", "2"});
  CHECK(numbered.train.size() == 4);
  CHECK(contains(numbered.left_out[0].text(), "left out (lines 5, 7)"));
  CHECK(numbered.dev.size() == 1);
  CHECK(names("a\t1\nb\t2\nc\t-1\nd\t2\n") == Names{"1", "2"});
  CHECK(names("a\tyes\nb\tno\nc\t-1\nd\tno\n") == Names{"no", "yes"});
  CHECK(names("a\t0.0\nb\t2.0\nc\t-1.0\nd\t1.0\ne\t\n") == Names{"0", "1", "2"});
  CHECK(names("a\t1\nb\t-1\nc\t1\nd\t-1\n") == Names{"-1", "1"});
  CHECK(names("a\t0\nb\t-1\nc\t1\nd\t-2\ne\t2\n") == Names{"-2", "-1", "0", "1", "2"});
  CHECK(contains(message_of([&] { names("a\t0\nb\t1\nc\t-1\nd\t0\n"); }), "train.tsv:4: is label `-1` a class beside"));
  auto told = by_name;
  told.label_names = {"-1", "0", "1"};
  CHECK(load("a\t0\nb\t1\nc\t-1\nd\t0\n", told, "x\t0\n").train[2].label == 0);
  told.label_names = {"0", "1"};
  CHECK(load("a\t0\nb\t1\nc\t-1\nd\t0\n", told, "x\t0\n").train.size() == 3);
  told.label_names = {"down", "up"};  // numbers count the names
  CHECK(load("a\t0\nb\t1\nc\t-1\nd\tdown\n", told, "x\t1\n").train[2].label == 0);
  told.label_names = {"1", "2", "3"};  // but where these are numbers
  CHECK(load("a\t3\nb\t1.0\n", told, "x\t2\n").train[0].label == 2);
  CHECK(contains(message_of([&] { load("a\t1\nb\t0\n", told, "x\t2\n"); }),
                 "train.tsv:3: unknown label `0`: expected `1`, `2`, `3`: "));

  // A number is a class by its value alone: a code with zeros in front, or one that a double does not hold, is a name.
  CHECK(names("a\t007\nb\t0013\nc\t007\nd\t0013\n") == Names{"0013", "007"});
  CHECK(names("a\t10\nb\t9\nc\t0\nd\t-0.0\n") == Names{"0", "9", "10"});
  const Names large = {"12345678901234567", "12345678901234568", "5"};
  CHECK(names("a\t" + large[0] + "\nb\t" + large[1] + "\nc\t5\n") == large);
  const auto coded = load("a\t" + large[0] + "\nb\t" + large[1] + "\nc\t5\n", by_name, "x\t" + large[1] + "\n");
  CHECK(coded.dev[0].label == 1);
  CHECK(
      contains(message_of([&] { load("a\t007\nb\t010\n", by_name, "x\t7\n"); }), "unknown label `7`: expected `007`"));
  CHECK(contains(
      message_of([&] { load("a\t" + large[0] + "\nb\t" + large[2] + "\n", by_name, "x\t" + large[1] + "\n"); }),
      "unknown label `" + large[1]));

  // What is only scored needs nothing to train on.
  const Folder dev;
  dev.put("dev.tsv", "text\tlabel\na\tpos\nb\tneg\nc\tpos\n");
  dev.put("test.tsv", "text\tlabel\na\tneg\n");
  auto scored = by_name;
  CHECK(contains(message_of([&] { data::load("tsv", dev.text(), scored); }), "no training file of task tsv"));
  scored.scored = true;
  const auto alone = data::load("tsv", dev.text(), scored);
  CHECK(alone.train.empty());
  CHECK(alone.dev.size() == 3);
  CHECK(alone.dev[1].label == 0);
  CHECK_FALSE(alone.held_out);
  CHECK(alone.test_labelled);
  CHECK(alone.files.dev == Names{"dev.tsv"});

  // Where `-` leaves one class, that is said.
  CHECK(contains(message_of([&] { load("a\t+\nb\t-\nc\t+\n", by_name, "x\t+\n"); }),
                 "found `+`; `-` says that there is none (option label-names makes it a class)"));
  auto signs = by_name;
  signs.label_names = {"-", "+"};
  CHECK(load("a\t+\nb\t-\nc\t+\n", signs, "x\t-\n").dev[0].label == 0);

  // White space around a name is no part of it; numbers are equal by value.
  const auto spaced = load("a\tpos \nb\tneg\nc\t pos\nd\tneg\xC2\xA0\ne\tpos\n", by_name, "x\tneg \n");
  CHECK(spaced.task.label_names == Names{"neg", "pos"});
  CHECK(data::class_counts(spaced.train, 2) == Counts{2, 3});
  CHECK(spaced.dev[0].label == 0);
  CHECK(load("a\t0.0\nb\t1.0\nc\t\n", by_name, "x\t1\n").dev[0].label == 1);
  CHECK(load(" a\t0\nb \t1\n", by_name, "x\t1\n").train[0].text == " a");  // a text is as it stands

  // Of a regression -1 is a value, and what says that there is none leaves its row out.
  auto value = by_name;
  value.regression = true;
  CHECK(load("a\t-1\nb\t2\n", value, "x\t-1\n").train[0].label == -1);
  const auto valued = load("a\t-1\nb\t\nc\tNaN\nd\t3\n", value, "x\t-1\n");
  CHECK((valued.train.size() == 2 && valued.train[1].label == 3));
  CHECK(contains(valued.left_out.at(0).text(), "train.tsv: 2 rows without a label (as `NaN`) left out (lines 3, 4)"));
  CHECK(contains(message_of([&] { load("a\t\nb\t\nc\t-\n", by_name, "x\t\n"); }), "found no rows with a label"));
  CHECK(contains(message_of([&] { load("a\tx\nb\ty\n", by_name, "x\t-\n"); }), "dev.tsv: no row has a label"));
}

TEST_CASE("labels: -1 in a test file is a value, or a class of that name, else no label") {
  const auto read = [](const std::string& train, const std::string& test, const data::LoadOptions& options) {
    const Folder folder;
    folder.put("train.tsv", "text\tlabel\n" + train);
    folder.put("dev.tsv", "text\tlabel\n" + train);
    folder.put("test.tsv", "text\tlabel\n" + test);
    return data::load("tsv", folder.text(), options);
  };
  const std::string two = "a\t1\nb\t-1\n", three = "a\t1\nb\t-1\nc\t0\n", values = "a\t2.5\nb\t-1\n";
  data::LoadOptions plain{.text = "text", .label = "label"}, named = plain, parted = plain, valued = plain;
  named.label_names = {"-1", "0", "1"};
  parted.threshold = 0.5;
  valued.regression = true;
  for (const auto& [rows, options] :
       {std::pair(two, plain), std::pair(three, named), std::pair(values, parted), std::pair(values, valued)}) {
    const auto data = read(rows, rows, options);
    CHECK(data.test_labelled);
    CHECK(data.test_unlabelled == 0);
    CHECK(data.test[1].label == data.train[1].label);
    CHECK(data.train[1].label == (options.regression ? -1.0f : 0.0f));
    // As the Hub hides labels.
    const auto hidden = read(rows, "a\t-1\nb\t-1\n", options);
    CHECK_FALSE(hidden.test_labelled);
    CHECK(hidden.test_unlabelled == 2);
  }
  CHECK(read("a\t0\nb\t1\nc\t2\n", "a\t0\nb\t-1\n", plain).test_unlabelled == 1);
  const Folder stsb, cola;
  for (const char* split : {"train.tsv", "dev.tsv", "test.tsv"}) {
    const bool test = split == std::string("test.tsv");
    stsb.put(split, "sentence1\tsentence2\tscore\na\tb\t1.5\na\tb\t"s + (test ? "-1" : "2") + "\n");
    cola.put(split, "sentence\tlabel\na\t1\nb\t"s + (test ? "-1" : "0") + "\n");
  }
  for (const auto& [name, folder] : {std::pair("stsb", &stsb), {"cola", &cola}}) {
    const auto data = data::load(name, folder->text());
    CHECK(std::isnan(data.test[1].label));
    CHECK(data.test_unlabelled == 1);
    CHECK_FALSE(data.test_labelled);
  }
}

TEST_CASE("labels: an object or array of JSON is none") {
  const Folder folder;
  const data::LoadOptions options{.text = "text", .label = "label"};
  const auto error = [&] { return message_of([&] { data::load("tsv", folder.text(), options); }, &folder); };
  const std::string rows = "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": \"y\"}\n";
  for (const char* bad : {"[\"x\"]", "{\"x\": 1}"}) {
    const std::string row = "{\"text\": \"c\", \"label\": "s + bad + "}\n",
                      said = ":3: expected one label, found an object or array: ";
    folder.put("test.jsonl", rows);
    folder.put("train.jsonl", rows + row);
    CHECK(contains(error(), "train.jsonl" + said));
    folder.put("dataset_info.json", R"({"features": {"label": {"names": ["x", "y"]}}})");
    CHECK(contains(error(), "train.jsonl" + said));
    std::filesystem::remove(folder.path / "dataset_info.json");
    folder.put("train.jsonl", rows + rows);
    folder.put("test.jsonl", rows + row);
    CHECK(contains(error(), "test.jsonl" + said));
  }
}

TEST_CASE("labels: what is told of many is cut short") {
  const data::LoadOptions options{.text = "text", .label = "label"};
  const auto load = [&](const std::string& rows) {
    const Folder folder;
    folder.put("train.tsv", "text\tlabel\n" + rows);
    folder.put("dev.tsv", "text\tlabel\na\t0\n");
    return data::load("tsv", folder.text(), options);
  };
  const auto some = [](int names, int rows) {
    std::string out;
    for (int i = 0; i < rows; ++i) out += "a\t" + std::to_string(i % names) + "\n";
    return out;
  };
  std::string none;
  for (int i = 0; i < 8; ++i) none += "a\t\n";
  CHECK(contains(load(some(2, 4) + none).left_out.at(0).text(),
                 "8 rows without a label left out (lines 6, 7, 8, 9, 10, 11, 12, 13)"));
  CHECK(contains(load(some(2, 4) + none + "a\t-\n").left_out.at(0).text(),
                 "9 rows without a label (as `-`) left out (lines 6, 7, 8, 9, 10, 11, 12, 13, ...)"));
  data::SplitFiles files;
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) files.train.push_back(name);
  CHECK(files.text() == "train `a`, `b`, `c`, `d`, `e`, `f`");
  files.train.insert(files.train.end(), {"g", "h"});
  CHECK(files.text() == "train `a`, `b`, `c`, `d`, `e`, `f` (2 more)");

  // Up to twenty labels are classes however rare they are, more where each occurs twice on average.
  CHECK(load(some(20, 20)).task.labels == 20);
  CHECK(load(some(21, 42)).task.labels == 21);
  CHECK(contains(message_of([&] { load(some(21, 41)); }), "expected classes, found 21 different labels in 41 rows"));
  const Folder folder;
  for (const int names : {10, 11}) {
    folder.put("train.tsv", "text\tlabel\n" + some(names, names));
    folder.put("dev.tsv", "text\tlabel\na\t99\n");
    CHECK(contains(message_of([&] { data::load("tsv", folder.text(), options); }),
                   names == 10 ? "`8`, `9`: `a" : "`8`, `9`, ... (11 labels): `a"));
  }
  // A JSON row may have many keys, a file not any number of them.
  std::string keys = "{\"k0\": 0";
  for (int i = 1; i < 1000; ++i) keys += ", \"k" + std::to_string(i) + "\": 0";
  CHECK(data::Table::parse(keys + "}\n", "t.jsonl").columns(0) == 1000);
  CHECK(contains(message_of([&] { data::Table::parse(keys + ", \"k\": 0}\n", "t.jsonl"); }),
                 "t.jsonl: has rows with more than 1000 keys"));
}

TEST_CASE("tables: rows of JSON have their own keys alone") {
  const auto table =
      data::Table::parse("{\"a\": 1}\n{\"b\": \"x\"}\n{\"b\": [3], \"a\": null, \"c\": 0.5}\n", "t.jsonl");
  CHECK(table.header() == std::vector<std::string>{"a", "b", "c"});
  CHECK(table.columns(0) == 3);
  const auto row = [&](std::size_t r) {
    std::string out;
    for (std::size_t c = 0; c < 3; ++c)
      out += std::string(table(r, c)) + (table.null(r, c) ? "null" : "") + (table.nested(r, c) ? "!" : "") + ";";
    return out;
  };
  CHECK(row(0) == "1;null;null;");
  CHECK(row(1) == "null;x;null;");
  CHECK(row(2) == "null;[3]!;0.5;");
  // A megabyte of rows with a key of their own each takes megabytes, not a cell for every key in every row.
  std::string many;
  for (int i = 0; i < 60000; ++i) many += "{\"k" + std::to_string(i % 1000) + "\": 0}\n";
  const auto before = Resident::now().own;
  const auto wide = data::Table::parse(many, "t.jsonl");
  CHECK(wide.columns(0) == 1000);
  CHECK(wide(59999, 999) == "0");
  CHECK(wide.null(59999, 998));
  CHECK(Resident::now().own - before < std::size_t{800} << 20);  // 1,440 MB of cells; sanitizers keep what was freed
}

TEST_CASE("labels: mutants of a number") {
  for (const char* none : {"+-1", "++1", "+", "-", "1 2", "0x1", "", " ", "inf", "1e999"})
    CHECK_MESSAGE(!data::detail::number(none), none);
  CHECK(data::detail::number(" +1 ") == 1.0);
  CHECK(data::detail::number("-1") == -1.0);
  CHECK(data::detail::number("+.5") == 0.5);
}

TEST_CASE("labels: numbers named by the Hub's files") {
  using Names = std::vector<std::string>;
  const data::LoadOptions options{.text = "text", .label = "label"};
  const std::string rows = R"({"text": "a", "label": 0})"
                           "\n"
                           R"({"text": "b", "label": 1})"
                           "\n"
                           R"({"text": "c", "label": -1})"
                           "\n";
  const auto names = [&](const Folder& folder) { return data::load("tsv", folder.text(), options).task.label_names; };
  const Folder info;
  info.put("train.jsonl", rows);
  info.put("validation.jsonl", rows);
  CHECK(contains(message_of([&] { names(info); }), "is label `-1` a class beside `0` and `1`"));
  info.put(
      "dataset_info.json",
      R"({"features": {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}})");
  CHECK(names(info) == Names{"neg", "pos"});
  const auto data = data::load("tsv", info.text(), options);
  CHECK(data.train.size() == 2);
  CHECK(data.train[1].label == 1);
  CHECK(data.left_out.size() == 2);
  CHECK(data.files.text() == "train `train.jsonl`; dev `validation.jsonl`; not used: `dataset_info.json`");
  const Folder infos;
  infos.put("data/train-00000-of-00001.jsonl", rows);
  infos.put("dataset_infos.json", R"({"default": {"features": {"label": {"names": ["no", "yes"]}}}})");
  infos.put("data/test-00000-of-00001.jsonl", rows);
  CHECK(names(infos) == Names{"no", "yes"});
  const std::string yes = R"({"features": {"label": {"names": ["no", "yes"]}}})",
                    other = R"({"features": {"label": {"names": ["down", "up"]}}})";
  infos.put("dataset_infos.json", "{\"a\": " + yes + ", \"b\": " + yes + "}");
  CHECK(names(infos) == Names{"no", "yes"});
  infos.put("dataset_infos.json", "{\"a\": " + yes + ", \"b\": " + other + "}");  // whose are they?
  CHECK(contains(message_of([&] { names(infos); }), "is label `-1` a class beside `0` and `1`"));
  const Folder plain;  // a card has them at its head alone
  plain.put("train.jsonl", rows);
  for (const char* around : {"", "---\na: b\n---\n"}) {
    plain.put("README.md", around + "- name: label\n  names:\n  '0': bad\n  '1': good\n"s);
    CHECK(contains(message_of([&] { names(plain); }), "is label `-1` a class beside `0` and `1`"));
  }
  const Folder card;
  card.put("train.jsonl", rows + R"({"text": "d", "label": 2})"
                                 "\n");
  card.put("README.md",
           "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      "
           "class_label:\n"
           "        names:\n          '0': bad\n          '1': so-so\n          '2': good\n  splits:\n  - name: "
           "train\n---\n# Words\n");
  CHECK(names(card) == Names{"bad", "so-so", "good"});
  card.put("README.md",
           "---\nfeatures:\n- name: label\n  class_label:\n    names:\n      '0': bad\n      '1': good\n---\n");
  CHECK(names(card) == Names{"0", "1", "2"});  // two names for three numbers are not theirs
  card.put("dataset_info.json", R"({"features": {"label": {"names": ["1", "2", "3"]}}})");
  CHECK(names(card) == Names{"0", "1", "2"});  // 1 is the second, called 2, and is called so by none
  info.put("dataset_info.json", R"({"features": {"label": {"names": ["0", "1"]}}})");
  CHECK(names(info) == Names{"0", "1"});
}

TEST_CASE("rows: a header that is not the run's, blank texts first and last") {
  const Folder folder;
  const data::LoadOptions named{.text = "sentence", .label = "label"};
  const auto inputs = [&](const std::string& bytes, const data::LoadOptions& options = {},
                          const std::string& task = "sst2", const std::string& name = "p.tsv") {
    std::string out;
    for (const auto& row : data::load_inputs(task, folder.put(name, bytes), options))
      out += std::to_string(row.place.number) + ":" + row.text + (row.pair.empty() ? "" : "|" + row.pair) + ";";
    return out;
  };
  auto yes = named, no = named;
  yes.header = data::Header::present;
  no.header = data::Header::absent;
  const std::string asks =
      "p.tsv:1: is this line a text or the name of a column? The run's column is `sentence`: say with "
      "option header (yes or no) whether line 1 is a header: ";
  for (const char* title : {"review", "comment_text", "Review Text", "text of review", "text ", "Tweet"}) {
    const std::string bytes = title + "\nthe film is good\na bad book\n"s;
    CHECK(message_of([&] { inputs(bytes, named, "tsv"); }, &folder) == asks + "`" + title + "`");
    CHECK(contains(message_of([&] { inputs(bytes); }), "is this line a text or the name of a column?"));
    CHECK(inputs(bytes, yes, "tsv") == "2:the film is good;3:a bad book;");
    CHECK(inputs(bytes, no, "tsv") == "1:"s + title + ";2:the film is good;3:a bad book;");
  }
  // What the run's files had does not say that texts alone have it.
  auto run = data::LoadOptions{.text = "1", .label = "2", .header = data::Header::present};
  run.header_of_rows = true;
  CHECK(inputs("the film is good.\na bad book\n", run, "tsv") == "1:the film is good.;2:a bad book;");
  CHECK(inputs("review\tlabel\nthe film\tx\n", run, "tsv") == "2:the film;");
  CHECK(message_of([&] { inputs("review\nthe film is good\na bad book\n", run, "tsv"); }, &folder) ==
        "p.tsv:1: is this line a text or the name of a column? The run's column is 1: say with option header (yes or "
        "no) whether line 1 is a header: `review`");
  run.text = "sentence";
  CHECK(inputs("the film is good.\na bad book\n", run, "tsv") == "1:the film is good.;2:a bad book;");
  CHECK(inputs("sentence\na bad book\n", run, "tsv") == "2:a bad book;");
  CHECK(inputs("Sentence\nthe film\n", named, "tsv") == "2:the film;");  // the same name in another case
  CHECK(inputs(" sentence\nthe film\n", named, "tsv") == "2:the film;");
  CHECK(inputs("the film is good\na bad book\n", named, "tsv") == "1:the film is good;2:a bad book;");
  CHECK(inputs("Good!\nbad\n", named, "tsv") == "1:Good!;2:bad;");
  CHECK(inputs("good\nbad\ngood\n", named, "tsv") == "1:good;2:bad;3:good;");  // twice: no header
  CHECK(inputs(std::string(61, 'x') + "\nbad\n", named, "tsv") == "1:" + std::string(61, 'x') + ";2:bad;");
  CHECK(inputs("good\n", named, "tsv") == "1:good;");
  CHECK(inputs("review\nbad\n", {.text = "1", .label = "2"}, "tsv") == "1:review;2:bad;");  // trained without a header
  CHECK(contains(message_of([&] { inputs("premise\thypothesis\nA b c\tD\n", {}, "rte"); }), "is this line a text"));
  CHECK(inputs("\nthe film\n\nbad\n\n", named, "tsv") == "1:;2:the film;3:;4:bad;5:;");
  CHECK(inputs("sentence\n\nbad\n\n", named, "tsv") == "2:;3:bad;4:;");
  CHECK(inputs("sentence\r\n\r\nbad\r\n\r\n", named, "tsv") == "2:;3:bad;4:;");
  CHECK(inputs("\n\n", named, "tsv") == "1:;2:;");
  CHECK(inputs("id\tsentence\n1\t\n2\tb\n\n\n", named, "tsv") == "2:;3:b;");  // blank lines of several columns are none
  CHECK(contains(message_of([&] { inputs("id\tsentence\n\n2\tb\n", named, "tsv"); }), "p.tsv:2: the line is blank"));
  CHECK(inputs("sentence\n\"a, \"\"b\"\"\nc\"\n\"\"\n\nd\n", named, "tsv", "p.csv") == "2:a, \"b\"\nc;4:;5:;6:d;");
  CHECK(inputs("{\"sentence\": \"a\", \"id\": 1}\n{\"id\": 2, \"sentence\": \"\"}\n", named, "tsv", "p.jsonl") ==
        "1:a;2:;");
  CHECK(inputs("[{\"sentence\": \"a\"}, {\"sentence\": \"b\"}]", named, "tsv", "p.json") == "0:a;1:b;");
  CHECK(message_of([&] { inputs("{\"sentence\": \"a\"}\n{\"id\": 2}\n", named, "tsv", "p.jsonl"); }, &folder) ==
        "p.jsonl:2: expected a text in column `sentence`, found none: `{\"id\": 2}`");
  CHECK(message_of([&] { inputs("{\"review\": \"a\"}\n", named, "tsv", "p.jsonl"); }, &folder) ==
        "p.jsonl:1: option text: no column `sentence`: found the keys `review`");
}

TEST_CASE("splits: by the names that data sets have, and what is not used is told") {
  const std::string rows = "text\tlabel\na\tx\nb\ty\nc\tx\n",
                    commas = "text,label\n\"a, b\",x\nc,y\n\"say \"\"hi\"\"\",x\n";
  const data::LoadOptions options{.text = "text", .label = "label"};
  const auto told = [&](const std::vector<std::pair<std::string, std::string>>& files) {
    const Folder folder;
    for (const auto& [name, bytes] : files) folder.put(name, bytes);
    const auto data = data::load("tsv", folder.text(), options);
    CHECK(data.held_out == data.files.dev.empty());
    CHECK(data.test.empty() == data.files.test.empty());
    return data.files.text();
  };
  for (const char* dev :
       {"dev", "valid", "validation", "val", "eval", "Validation", "my_dev", "validation-00000-of-00001"})
    CHECK(told({{"train.tsv", rows}, {dev + ".tsv"s, rows}}) == "train `train.tsv`; dev `"s + dev + ".tsv`");
  CHECK(told({{"train.csv", commas}, {"test.csv", commas}, {"notes.md", ""}, {"old/x.tsv", ""}}) ==
        "train `train.csv`; test `test.csv`; not used: `notes.md`, `old/`");
  CHECK(
      told({{"train.tsv", rows}, {"train.csv", "x"}, {"dev.tsv", rows}, {"valid.tsv", "x"}, {"test_notes.txt", "x"}}) ==
      "train `train.tsv`; dev `dev.tsv`; not used: `test_notes.txt`, `train.csv`, `valid.tsv`");
  CHECK(told({{"train/a.csv", commas}, {"train/b.csv", commas}, {"valid/a.csv", commas}}) ==
        "train `train/`; dev `valid/`");
  CHECK(told({{"train.tsv", rows}, {"contest.tsv", "x"}, {"trainer.tsv", "x"}}) ==
        "train `train.tsv`; not used: `contest.tsv`, `trainer.tsv`");
  const auto part = [](const char* name) {
    const std::size_t word = data::detail::split_word(name);
    return word == data::detail::split_words.size() ? -1 : static_cast<int>(data::detail::split_words[word].second);
  };
  CHECK(part("ARC-Easy-Train") == 0);
  CHECK(part("training_set") == 0);
  CHECK(part("dev2") == 1);
  CHECK(part("my.VALID.part") == 1);
  CHECK(part("dev_test") == 2);  // the last word counts
  CHECK(part("latest") == -1);
  CHECK(part("devices") == -1);
  CHECK(part("") == -1);
  const Folder shards;
  shards.put("data/train-00001-of-00002.csv", commas);
  shards.put("data/train-00000-of-00002.csv", "label,text\ny,first\n");
  shards.put("data/test-00000-of-00001.csv", "text,label\nd,x\n");
  const auto sharded = data::load("tsv", shards.text(), options);
  CHECK(sharded.train.size() + sharded.dev.size() == 4);
  CHECK(sharded.test_labelled);
  CHECK(sharded.held_out);
  shards.put("data/train-00001-of-00003.csv", commas);
  CHECK(contains(message_of([&] { data::load("tsv", shards.text(), options); }),
                 "train: has 1 of 3 files: `train-00001-of-00003.csv`"));
  const Folder hidden;
  hidden.put("train.tsv", rows);
  hidden.put("test.tsv", "text\tlabel\na\tx\nb\t-1\n");
  CHECK_FALSE(data::load("tsv", hidden.text(), options).test_labelled);
  const Folder parquet;
  parquet.put("data/train-00000-of-00001.parquet", "PAR1");
  CHECK(contains(
      message_of([&] { data::load("tsv", parquet.text(), options); }, &parquet),
      "found `data/train-00000-of-00001.parquet`: Parquet and Arrow are not read, convert them to JSON lines"));
  for (const std::string end : {".gz", ".zip", ".zst", ".bz2", ".xz", ".tar"}) {
    const Folder packed;
    packed.put("train.csv" + end, "x");
    CHECK(contains(message_of([&] { data::load("tsv", packed.text(), options); }),
                   "found `train.csv" + end + "`: unpack it first"));
  }
  // The same for lines.
  const Folder wiki;
  wiki.put("wiki.train.tokens", "a b\nc\nd\n");
  wiki.put("wiki.valid.tokens", "e\n");
  wiki.put("wiki.test.tokens", "f\n");
  const auto lines = data::lines(wiki.text());
  CHECK(lines.train.size() == 3);
  CHECK(lines.dev == std::vector<std::string>{"e"});
  CHECK(lines.test == std::vector<std::string>{"f"});
  const Folder json;
  json.put("train.jsonl", "{\"text\": \"a\\nb\"}\n{\"text\": \" \"}\n{\"text\": \"c\"}\n");
  json.put("validation.csv", "text,id\n\"d, e\",1\n");
  CHECK(data::lines(json.text()).train == std::vector<std::string>{"a", "b", "c"});
  CHECK(data::lines(json.text()).dev == std::vector<std::string>{"d, e"});
  for (const auto& odd :
       {std::pair("{\"text\": [1]}", "an object or array: `{\"text\": [1]}`"), {"{\"id\": 1}", "none: `{\"id\": 1}`"}})
    CHECK(message_of([&] { data::lines(json.put("odd.jsonl", "{\"text\": \"a\"}\n"s + odd.first + "\n")); }, &json) ==
          "odd.jsonl:2: expected a text in column `text`, found "s + odd.second);
  CHECK(data::input_lines(json.put("in.txt", "\na\n\n")) == std::vector<std::string>{"", "a", ""});
  CHECK(data::input_lines(json.text() + "/train.jsonl") == std::vector<std::string>{"a\nb", " ", "c"});
  const Folder only_test;
  only_test.put("train.txt", "a\nb\nc\n");
  only_test.put("test.txt", "d\n");
  CHECK(data::lines(only_test.text()).held_out);
  CHECK(data::lines(only_test.text()).test.size() == 1);
}

TEST_CASE("formats: commas with quotes, JSON lines") {
  const auto csv = [](const std::string& bytes, const data::TableOptions& options = {.header = true}) {
    return data::Table::parse(bytes, "t.csv", options);
  };
  const auto table =
      csv("id, text ,label\r\n1,\"a, b\",x\r\n2,\"two\r\nlines\",\"\"\r\n3,in \"side\",\"say \"\"hi\"\"\"\r\n");
  CHECK(table.header() == std::vector<std::string>{"id", "text", "label"});
  REQUIRE(table.rows() == 3);
  CHECK(table(0, 1) == "a, b");
  CHECK(table(1, 1) == "two\r\nlines");
  CHECK(table(1, 2) == "");
  CHECK(table(2, 1) == "in \"side\"");
  CHECK(table(2, 2) == "say \"hi\"");
  CHECK(table.place(1).number == 3);
  CHECK(table.place(2).number == 5);
  CHECK(csv("a,b,c\n1,x \"y,z\" w\n")(0, 1) == "x \"y");  // only a quote that opens a column holds commas
  CHECK(csv("a\tb, c\n1\t\"x\n")(0, 1) == "\"x");         // tabs in line 1: as sts-*.csv
  CHECK(data::Table::parse("a\t\"b\tc\"\nd\te\tf\n", "t.tsv")(0, 1) == "\"b");  // a tab within quotes separates
  const auto error = [&](const std::string& bytes) { return message_of([&] { csv(bytes); }); };
  CHECK(error("a,b\n1,\"x\ny\n") == "t.csv:2: a quote is not closed before the file's end: `\"x\\ny`");
  CHECK(error("a,b\n1,\"x\"y\n") ==
        "t.csv:2: a quote closes within a column (quotes inside of one are doubled): `\"x\"y`");
  CHECK(error("a,b\n1\n") == "t.csv:2: expected 2 columns (separated by commas), found 1: `1`");
  CHECK(error("a,b\n\"1\n\xE9\",2\n") ==
        "t.csv:3: byte 1 of the line, 0xE9, is not UTF-8 (a Latin-1 file needs option encoding latin1): `\\xE9\",2`");
  CHECK(error("") == "t.csv: is empty: expected rows of comma-separated columns");

  // Semicolons, as spreadsheets have them where the comma is the decimal point.
  const auto other = csv("text;label\n\"a; b\";0,5\nc, d;1\n");
  CHECK(other.header() == std::vector<std::string>{"text", "label"});
  CHECK(other(0, 0) == "a; b");
  CHECK(other(0, 1) == "0,5");
  CHECK(other(1, 0) == "c, d");
  CHECK(error("a;b\n1\n") == "t.csv:2: expected 2 columns (separated by semicolons), found 1: `1`");
  CHECK(csv("good; bad\nfine\n", {}).columns(0) == 1);  // a text
  CHECK(csv("a,b;c\n1,2\n").header()[1] == "b;c");

  const auto json = [](const std::string& bytes) { return data::Table::parse(bytes, "t.jsonl"); };
  const auto rows =
      json("{\"text\": \"a\\tb\", \"label\": 1}\r\n{\"label\": 0.5, \"more\": null, \"text\": \"\"}\r\n\r\n");
  REQUIRE(rows.rows() == 2);
  CHECK(rows(0, rows.find({"text"})) == "a\tb");
  CHECK(rows(1, rows.find({"label"})) == "0.5");
  CHECK(rows.null(0, rows.find({"more"})));
  CHECK(rows.null(1, rows.find({"more"})));
  CHECK_FALSE(rows.null(1, rows.find({"text"})));
  CHECK(json("[{\"a\": true},\n{\"a\": [1]}]")(0, 0) == "true");
  CHECK(json("[{\"a\": true},\n{\"a\": [1]}]").nested(1, 0));
  CHECK(message_of([&] { json("{\"a\": 1}\n[2]\n"); }) == "t.jsonl:2: the row is an array of 1, expected an object");
  CHECK(contains(message_of([&] { json("{\n\"a\": 1}\n"); }), "t.jsonl:1: expected one JSON object a line"));
  CHECK(contains(message_of([&] { json("{\"a\": 1}\n{\"a\": }\n"); }), "t.jsonl:2: not JSON: "));
  CHECK(contains(message_of([&] { json("[]"); }), "t.jsonl: is empty"));
}

TEST_CASE("lines: CR alone, mixtures, Windows-1252, control characters") {
  const auto rows = [](const std::string& bytes) {
    const auto table = data::Table::parse(bytes, "t.tsv", {.columns = 1, .at_least = true});
    std::string out;
    for (std::size_t row = 0; row < table.rows(); ++row) out += std::string(table(row, 0)) + ";";
    return out;
  };
  CHECK(rows("text\tlabel\ra\tx\rb\ty\r") == "text;a;b;");
  CHECK(rows("text\tlabel\ra\tx\rb\ty") == "text;a;b;");
  CHECK(rows("text\ra\rb\r\nc\r") == "text;a;b;c;");  // more lone CRs than LFs: each ends a line
  CHECK(rows("a\r\r\nb\n") == "a\r;b;");              // of several CRs one belongs to the line's end
  CHECK(rows("a\nb\n\r\r\n") == "a;b;\r;");
  CHECK(rows("a\nb\r\n") == "a;b;");
  CHECK(rows("a\rb\nc\nd\n") == "a\rb;c;d;");  // else a CR is a character
  CHECK(rows("a\rb\nc") == "a\rb;c;");         // also where there are as many
  CHECK(message_of([] { data::Table::parse("a\tb\nc\td\re\tf\ng\th\n", "t.tsv"); }) ==
        "t.tsv:2: expected 2 columns (separated by tabs), found 3 (some lines end in CR alone?): `c\\td\\re\\tf`");
  const Folder folder;
  const data::LoadOptions options{.text = "text", .label = "label"};
  CHECK(data::load("tsv", folder.put("mac.tsv", "text\tlabel\ra\tx\rb\ty\rc\tx\r"), options).task.label_names.size() ==
        2);
  CHECK(data::lines(folder.put("mac.txt", "one\rtwo\r\rthree\r")).train.size() == 2);
  CHECK(message_of([&] { data::load("tsv", folder.put("odd.tsv", "text\x1b[2J\trest\xC2\x9B\n1\t2\n"), options); },
                   &folder) ==
        "odd.tsv:1: option text: no column `text`: found the header `text\\x1B[2J`, `rest\\xC2\\x9B`");

  const std::string quotes =
      "it\x92s \x93"
      "fine\x94 \x80\x81\xE9";
  for (const auto encoding : {data::Encoding::latin1, data::Encoding::windows1252})
    CHECK(data::Table::parse(quotes, "t.tsv", {.encoding = encoding})(0, 0) == "it’s “fine” €\xC2\x81é");
  CHECK(contains(parse_error(quotes), "0x92, is not UTF-8 (a Windows-1252 file needs option encoding windows-1252)"));
  CHECK(contains(parse_error("caf\xE9"), "0xE9, is not UTF-8 (a Latin-1 file needs option encoding latin1)"));
  CHECK(data::encoding("windows-1252") == data::Encoding::windows1252);
  CHECK(data::encoding("cp1252") == data::Encoding::windows1252);
  for (std::size_t i = 0; i < 32; ++i)  // no byte is lost
    CHECK(data::detail::decode(std::string(1, static_cast<char>(0x80 + i)), "t", data::Encoding::latin1).size() >= 2);
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
  CHECK(contains(message_of([&] { data::step_batches(lengths, 1, 0, 0, 0); }), "takes at least 1 batch, found 0"));
  CHECK(contains(message_of([&] { data::batches(lengths, 1, 0, std::uint64_t{1} << 32, true); }),
                 "epoch must be below 2^32"));
}

TEST_CASE("batches: buckets of fifty batches of a random order, each by length, their batches in random order") {
  std::vector<std::uint32_t> lengths;
  for (std::uint32_t i = 0; i < 257; ++i) lengths.push_back(below(Key{7, 1, 0}, i, 1000));
  auto order = data::permutation(257, Key{5, data::order_site, 3});
  for (const auto& [first, last] : {std::pair(0, 100), {100, 200}, {200, 257}})
    std::stable_sort(order.begin() + first, order.begin() + last,
                     [&](std::uint32_t a, std::uint32_t b) { return lengths[a] < lengths[b]; });
  const auto places = data::permutation(128, Key{5, data::batch_site, 3});
  const auto found = data::batches(lengths, 2, 5, 3, true);
  REQUIRE(found.size() == 129);
  for (std::size_t i = 0; i < 128; ++i)
    CHECK(found[i] == std::vector<std::uint32_t>{order[2 * places[i]], order[2 * places[i] + 1]});
  CHECK(found[128] == std::vector<std::uint32_t>{order[256]});
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
