// Owns: which of a folder's files and folders is which split, and the held-out tenth of a list of rows.
// Must not know what a row is.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/batches.hpp>
#include <meft/data/text_file.hpp>

namespace meft::data {

/// Which files a data set was read from: names within its folder, and what of the folder was not used.
struct SplitFiles {
  std::vector<std::string> train, dev, test, unused;

  /// `train train.tsv; dev valid.tsv; not used: notes.csv, old (2 more)`
  std::string text() const {
    const auto list = [](const std::vector<std::string>& names) {
      constexpr std::size_t most = 6;
      std::string out;
      for (std::size_t i = 0; i < names.size() && i < most; ++i) out += (i ? ", " : "") + detail::excerpt(names[i]);
      return out + (names.size() > most ? " (" + std::to_string(names.size() - most) + " more)" : "");
    };
    std::string out;
    for (const auto& [what, names] :
         {std::pair("train ", &train), {"dev ", &dev}, {"test ", &test}, {"not used: ", &unused}})
      if (!names->empty()) out += (out.empty() ? "" : "; ") + std::string(what) + list(*names);
    return out;
  }
};

/// Rows of a file that were left out since they have no label, or no text to be written.
struct LeftOut {
  std::string file, without;
  std::vector<Place> rows{};
  std::string cell{};  // what the first that has anything has in its place

  /// `train.tsv: 2 rows without a label left out (lines 10, 11)`, `…: 1 row without a label (as `-`) left out (line 3)`
  std::string text() const {
    constexpr std::size_t most = 8;
    const std::string s = rows.size() == 1 ? "" : "s";
    std::string out = file + ": " + std::to_string(rows.size()) + " row" + s + " without a " + without +
                      (cell.empty() ? "" : " (as " + detail::excerpt(cell) + ")") + " left out (" +
                      (rows.at(0).element ? "element" : "line") + s + " ";
    for (std::size_t i = 0; i < rows.size() && i < most; ++i) out += (i ? ", " : "") + std::to_string(rows[i].number);
    return out + (rows.size() > most ? ", ...)" : ")");
  }
};

namespace detail {

enum class Part { train, dev, test };

/// What splits are called, the preferred name of a part first. A file's or folder's name is one of these, or has one
/// between other words: train-00000-of-00002.jsonl, dev_matched.tsv, wiki.valid.tokens, ARC-Easy-Test.jsonl.
inline constexpr std::array<std::pair<std::string_view, Part>, 12> split_words = {{{"train", Part::train},
                                                                                   {"training", Part::train},
                                                                                   {"dev", Part::dev},
                                                                                   {"valid", Part::dev},
                                                                                   {"validation", Part::dev},
                                                                                   {"val", Part::dev},
                                                                                   {"eval", Part::dev},
                                                                                   {"evaluation", Part::dev},
                                                                                   {"development", Part::dev},
                                                                                   {"test", Part::test},
                                                                                   {"tests", Part::test},
                                                                                   {"testing", Part::test}}};

/// The last of split_words that is a word of `name` (in any case), or their number.
inline std::size_t split_word(std::string_view name) {
  const std::string text = lower(name);
  std::size_t found = split_words.size();
  for (std::size_t at = 0; at < text.size();) {
    const auto letter = [&](std::size_t i) { return i < text.size() && text[i] >= 'a' && text[i] <= 'z'; };
    std::size_t end = at;
    while (letter(end)) ++end;
    for (std::size_t i = 0; i < split_words.size(); ++i)
      if (std::string_view(text).substr(at, end - at) == split_words[i].first) found = i;
    at = end + 1;
  }
  return found;
}

/// The names in a folder, sorted; hidden ones left out.
inline Names names_in(const std::string& folder) {
  std::error_code error;
  Names names;
  std::filesystem::directory_iterator at(folder, error), end;
  for (; !error && at != end; at.increment(error))
    if (std::string name = at->path().filename().string(); !name.starts_with('.')) names.push_back(std::move(name));
  if (error) fail(folder + ": cannot be read: " + error.message());
  std::sort(names.begin(), names.end());
  return names;
}

inline bool is_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

/// The ending of a file's name with its dot, in lower case.
inline std::string ending(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  return dot == name.npos || dot == 0 ? "" : lower(name.substr(dot));
}

/// One split: its name without ending and number of part, and its files in order.
struct Found {
  std::string stem;
  std::size_t word, kind;  // of split_words; of the endings, the number of these for a folder
  Names files;             // paths
  Names names;             // what stands in the data set's folder
};

/// The splits that a folder has, the best of each part first, and the names of what is no split.
struct Splits {
  std::string folder;
  std::array<std::vector<Found>, 3> parts;
  Names others;

  const std::vector<Found>& of(Part part) const { return parts[static_cast<std::size_t>(part)]; }
  Names files(Part part) const { return of(part).empty() ? Names{} : of(part)[0].files; }

  /// Whether there is nothing to train on, nor, with `lone_dev`, to score on.
  bool lacks_training(bool lone_dev) const { return of(Part::train).empty() && !(lone_dev && !of(Part::dev).empty()); }

  /// Makes the splits that `odd` says no to others.
  template <class Odd>
  void leave_out(const Odd& odd) {
    for (auto& part : parts)
      std::erase_if(part, [&](const Found& found) {
        if (odd(found)) others.insert(others.end(), found.names.begin(), found.names.end());
        return odd(found);
      });
  }

  /// The names of the splits that are used, which are the first ones, and of all that is not.
  SplitFiles told(bool dev = true) const {
    SplitFiles out;
    out.unused = others;
    for (std::size_t part = 0; part < parts.size(); ++part)
      for (std::size_t i = 0; i < parts[part].size(); ++i) {
        const bool used = i == 0 && (dev || part != static_cast<std::size_t>(Part::dev));
        auto& to = !used ? out.unused : part == 0 ? out.train : part == 1 ? out.dev : out.test;
        to.insert(to.end(), parts[part][i].names.begin(), parts[part][i].names.end());
      }
    std::sort(out.unused.begin(), out.unused.end());
    return out;
  }
};

/// `stem-00001-of-00004`: cuts the end off and gives the 4; 0 for other names.
inline std::size_t cut_shard(std::string& stem) {
  const std::size_t of = stem.rfind("-of-");
  if (of == stem.npos || of < 2) return 0;
  const auto digits = [&](std::size_t from, std::size_t to) {
    bool all = from < to && to - from < 9;
    for (std::size_t i = from; i < to && all; ++i) all = stem[i] >= '0' && stem[i] <= '9';
    return all;
  };
  const std::size_t dash = stem.rfind('-', of - 1);
  if (dash == stem.npos || !digits(dash + 1, of) || !digits(of + 4, stem.size())) return 0;
  const std::size_t count = std::stoul(stem.substr(of + 4));
  stem.resize(dash);
  return count;
}

/// The splits in `folder`: files with one of the `endings` (preferred ones first), and folders that hold such files;
/// without endings all folders.
/// Names in `apart` are neither splits nor told. Errors: a part of a split is missing.
inline Splits find_splits(const std::string& folder, const Names& endings, const Names& apart = {}) {
  Splits out{.folder = folder, .parts = {}, .others = {}};
  const auto kind_of = [&](const std::string& name) {
    return static_cast<std::size_t>(std::find(endings.begin(), endings.end(), ending(name)) - endings.begin());
  };
  std::vector<std::pair<Found, std::size_t>> all;  // and how many files it should have, or 0
  for (const std::string& name : names_in(folder)) {
    if (std::find(apart.begin(), apart.end(), name) != apart.end()) continue;
    const std::string path = (std::filesystem::path(folder) / name).string();
    const bool inner = is_folder(path) && kind_of(name) == endings.size();
    const std::size_t kind = inner ? endings.size() : kind_of(name);
    std::string stem = inner ? name : name.substr(0, name.rfind('.'));
    const std::size_t shards = inner ? 0 : cut_shard(stem), word = split_word(stem);
    Found found{stem, word, kind, {path}, {inner ? name + "/" : name}};
    if (inner && word < split_words.size() && lower(name) != split_words[word].first) found.files.clear();
    else if (inner && word < split_words.size() && !endings.empty()) {
      found.files.clear();
      for (const std::string& file : names_in(path))
        if (kind_of(file) < endings.size()) found.files.push_back(path + "/" + file);
    }
    if (word == split_words.size() || (!inner && kind == endings.size()) || found.files.empty()) {
      out.others.push_back(found.names[0]);
      continue;
    }
    const auto same = std::find_if(all.begin(), all.end(), [&](const auto& other) {
      return shards > 0 && other.second == shards && other.first.stem == stem && other.first.kind == kind;
    });
    if (same == all.end()) {
      all.emplace_back(std::move(found), shards);
      continue;
    }
    same->first.files.push_back(path);
    same->first.names.push_back(name);
  }
  for (auto& [found, shards] : all) {
    if (shards > 0 && found.files.size() != shards)
      fail(folder + "/" + found.stem + ": has " + std::to_string(found.files.size()) + " of " + std::to_string(shards) +
           " files: " + quoted(found.names, ", "));
    out.parts[static_cast<std::size_t>(split_words[found.word].second)].push_back(std::move(found));
  }
  for (auto& part : out.parts)
    std::stable_sort(part.begin(), part.end(), [](const Found& a, const Found& b) {
      const auto key = [](const Found& f) {
        return std::tuple(lower(f.stem) != split_words[f.word].first, f.word, f.kind);
      };
      return key(a) < key(b);
    });
  return out;
}

/// find_splits of the first of the `folders` that has a split to train on (or, with `lone_dev`, one to score on), else
/// of the first one.
inline Splits find_splits(const Names& folders, const Names& endings, const Names& apart = {}, bool lone_dev = false) {
  for (const std::string& folder : folders)
    if (is_folder(folder)) {
      auto found = find_splits(folder, endings, apart);
      if (!found.lacks_training(lone_dev)) return found;
    }
  return find_splits(folders.at(0), endings, apart);
}

/// Throws: nothing to train on was found. `expected` is an example of a file's name.
[[noreturn]] inline void no_training(const Splits& splits, const std::string& what, const std::string& expected) {
  std::string odd, packed;
  for (const std::string& name : splits.others) {
    const std::string end = ending(name);
    if (end == ".parquet" || end == ".arrow" || end == ".feather") odd = name;
    if (end == ".gz" || end == ".zip" || end == ".zst" || end == ".bz2" || end == ".xz" || end == ".tar") packed = name;
    if (name == "data/" && is_folder(splits.folder + "/data"))
      for (const std::string& inner : names_in(splits.folder + "/data"))
        if (ending(inner) == ".parquet" || ending(inner) == ".arrow") odd = "data/" + inner;
  }
  const std::string told = splits.told(false).text();
  fail(splits.folder + ": no training " + what + ": expected " + expected +
       (!odd.empty()      ? "; found " + excerpt(odd) + ": " + std::string(no_columnar)
        : !packed.empty() ? "; found " + excerpt(packed) + ": " + std::string(no_packed)
                          : "; found " + (told.empty() ? "nothing" : told)));
}

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

}  // namespace detail

}  // namespace meft::data
