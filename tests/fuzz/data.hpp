// Owns: the harness of everything with rows: tables, tasks, questions, lines, and images as records.
// The first byte chooses the reader and the ending of the file, the rest is the file.
#pragma once

#include "fuzz.hpp"

#include <array>
#include <meft/data/choice.hpp>
#include <meft/data/image_files.hpp>
#include <meft/data/lines.hpp>
#include <meft/data/task.hpp>

namespace meft::fuzz {

inline void data_set(std::string_view bytes) {
  static constexpr std::array glue = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"};
  static constexpr std::array choice = {"openbookqa", "piqa", "arc_easy", "sciq"};
  static constexpr std::array<data::LoadOptions (*)(), 4> tsv = {
      [] { return data::LoadOptions{.text = "1", .label = "2"}; },
      [] { return data::LoadOptions{.text = "text", .pair = "3", .label = "label"}; },
      [] { return data::LoadOptions{.text = "1", .label = "2", .regression = true}; },
      [] {
        return data::LoadOptions{.encoding = data::Encoding::latin1, .text = "3", .label = "2", .threshold = 0.5};
      }};
  static constexpr std::array endings = {".tsv", ".csv", ".jsonl", ".json", ".txt"};
  if (bytes.empty()) return;
  const std::string_view rest = bytes.substr(1);
  unsigned kind = static_cast<unsigned char>(bytes[0]);
  const unsigned variant = kind / 24;  // 0 to 10
  kind %= 24;
  const std::string file = std::string("t") + endings[variant % endings.size()];
  const auto is_one_of = [&](std::size_t count) {  // else `kind` goes on to the next
    if (kind < count) return true;
    kind -= static_cast<unsigned>(count);
    return false;
  };
  const auto images = [&](const char* name) {
    const auto set = data::load_images(put(name, rest));
    for (const auto* examples : {&set.train, &set.dev})
      for (const auto& example : *examples) (void)set.image(example);
  };
  may_refuse([&] {
    if (is_one_of(glue.size())) {
      const auto path = put(file, rest);
      may_refuse([&] { data::load(glue[kind], path); });
      data::load_inputs(glue[kind], path);
    } else if (is_one_of(choice.size())) {
      const auto path = put("c.jsonl", rest);
      may_refuse([&] { data::choices(choice[kind], path); });
      data::choice_inputs(choice[kind], path);
    } else if (is_one_of(tsv.size())) {
      const auto path = put(file, rest);
      may_refuse([&] { data::load("tsv", path, tsv[kind]()); });
      data::load_inputs("tsv", path, tsv[kind]());
    } else if (is_one_of(1)) {
      const auto path = put(file, rest);
      may_refuse([&] { data::lines(path); });
      data::input_lines(path, variant & 1 ? data::Encoding::windows1252 : data::Encoding::utf8);
    } else if (is_one_of(1)) {
      images("m.csv");
    } else if (is_one_of(1)) {
      images("m.bin");
    } else {
      const auto table = data::Table::parse(std::string(rest), file,
                                            {.header = (variant & 1) != 0,
                                             .columns = kind,
                                             .at_least = (variant & 2) != 0,
                                             .blank_rows = (variant & 4) != 0,
                                             .lone_blanks = (variant & 8) != 0});
      for (std::size_t row = 0; row < table.rows(); ++row) {
        (void)table.text(row);
        for (std::size_t column = 0; column < table.columns(row); ++column) (void)table(row, column);
      }
    }
  });
}

}  // namespace meft::fuzz
