// Owns: the ranges of streams as a run's files have them: JSON, the fraction bits of each feature by stack.
// Must not know: what else is in the files.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <meft/io/json.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/reversible/range.hpp>

namespace meft::checkpoints {

/// A list a stack, empty where every feature has the stack's own number; null where every list would be.
template <Real T, Backend B>
nlohmann::json ranges_to_json(const StreamRanges<T, B>& ranges) {
  nlohmann::json out;
  for (const auto* range : ranges)
    if (!range->bits().empty()) out = nlohmann::json::array();
  if (!out.is_null())
    for (const auto* range : ranges) out.push_back(range->bits());
  return out;
}

/// Sets the ranges that `json` has, as above. Throws, having changed none, for what is no such thing, naming `path`.
template <Real T, Backend B>
void set_ranges(const StreamRanges<T, B>& ranges, const nlohmann::json& json, const std::string& path,
                Where where = Where::current()) {
  const JsonField root(json, path + ": fraction bits");
  if (json.is_null()) {
    for (auto* range : ranges) range->set({});
    return;
  }
  require(root.array().size() == ranges.size(), {path + ": fraction bits: lists and stacks differ in number", where},
          root.array().size(), ranges.size());
  std::vector<std::vector<int>> all;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    auto& bits = all.emplace_back();
    const JsonField list = root.at(i);
    for (std::size_t j = 0; j < list.array().size(); ++j)
      bits.push_back(static_cast<int>(list.at(j).integer(1, ranges[i]->most())));
  }
  for (std::size_t i = 0; i < ranges.size(); ++i) ranges[i]->set(std::move(all[i]), where);
}

/// Adds them to the metadata of what a run trained, and sets them from there.
template <Real T, Backend B>
void add_ranges(io::Metadata& metadata, const StreamRanges<T, B>& ranges) {
  if (const auto json = ranges_to_json(ranges); !json.is_null()) metadata["fraction_bits"] = json.dump();
}
template <Real T, Backend B>
void load_ranges(const io::Safetensors& file, const StreamRanges<T, B>& ranges, Where where = Where::current()) {
  const auto at = file.metadata().find("fraction_bits");
  const bool there = at != file.metadata().end();
  set_ranges(ranges, there ? parse_json(at->second, file.path() + ": fraction_bits", where) : nlohmann::json(),
             file.path(), where);
}

}  // namespace meft::checkpoints
