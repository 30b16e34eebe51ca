// Owns: the held-out tenth of a list of rows, and which of a folder's files is taken. Must not know what a row is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/file.hpp>
#include <meft/data/batches.hpp>

namespace meft::data::detail {

using Names = std::vector<std::string>;

/// Moves a tenth of `train`, rounded up, to `dev`: the first rows of a permutation under `seed`; both keep file order.
/// Errors: fewer than 2 rows.
template <class Row>
void hold_out(std::vector<Row>& train, std::vector<Row>& dev, const std::string& path, std::uint64_t seed) {
  const std::size_t count = train.size();
  if (count < 2) fail(path + ": needs at least 2 rows to hold out a tenth, found", count);
  if (count >= std::numeric_limits<std::uint32_t>::max()) fail(path + ": too many rows", count);
  std::vector<char> held(count);
  const auto order = permutation(static_cast<std::uint32_t>(count), Key{seed, split_site, 0});
  for (std::size_t i = 0; i < (count + 9) / 10; ++i) held[order[i]] = 1;
  std::vector<Row> rest;
  for (std::size_t i = 0; i < count; ++i) (held[i] ? dev : rest).push_back(std::move(train[i]));
  train = std::move(rest);
}

/// The first of `names` that is in `folder`, or nothing.
inline std::string first_file(const std::filesystem::path& folder, const Names& names) {
  for (const std::string& name : names)
    if (std::string path = (folder / name).string(); is_there(path)) return path;
  return {};
}

/// `a` or `b`: each name in backquotes, `between` between them.
inline std::string quoted(const Names& names, std::string_view between) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "`" : std::string(between) + "`") + name + "`";
  return out;
}

}  // namespace meft::data::detail
