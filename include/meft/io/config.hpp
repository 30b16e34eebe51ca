// Owns: typed reading of a Hugging Face config.json. Errors name the file, the key, what was expected and what was
// found. Must not know: which keys a model has.
#pragma once

#include <sys/stat.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/io/json.hpp>

namespace meft::io {

/// Inclusive bounds of a value.
template <class T>
struct Range {
  T min = std::numeric_limits<T>::lowest(), max = std::numeric_limits<T>::max();
};

/// `path`, when it is a folder with a config.json. Otherwise throws saying what is there, and that a model's name is
/// not looked up anywhere.
inline std::string model_folder(const std::string& path, Where where = Where::current()) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::exists(path + "/config.json", ignored)) return path;
  const std::string expected = "expected a folder with config.json, the weights and the tokenizer's files";
  if (!fs::exists(path, ignored))
    fail({"model: " + show_name(path) + ": no such folder: " + expected +
              "; nothing is downloaded: a model of the hub must be there in a folder",
          where});
  if (!fs::is_directory(path, ignored)) fail({"model: " + path + ": is a file: " + expected, where});
  std::string within;  // as in the hub's cache: models--NAME/snapshots/REVISION
  for (const char* below : {"", "/snapshots"})
    for (fs::directory_iterator at(path + below, ignored), end; !ignored && at != end; at.increment(ignored))
      if (std::error_code none; within.empty() && fs::exists(at->path() / "config.json", none))
        within = at->path().string();
  fail({"model: " + path + ": there is no config.json: " + expected +
            (within.empty() ? "" : "; there is one in " + within),
        where});
}

/// A config.json: `config.integer("hidden_size", {1, 65536})`, `config.text("hidden_act", "gelu")`.
/// Every reader takes a key and throws Error when the value has another type or lies outside the bounds. Without a
/// fallback the key must be there; with one, a missing key or `null` gives the fallback, which is not checked.
class Config {
 public:
  /// Reads `path`, or `path/config.json` when `path` is a folder.
  explicit Config(std::string path, Where where = Where::current()) : path_(std::move(path)) {
    struct stat info {};
    if (::stat(path_.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) path_ += "/config.json";
    tree_ = read_json(path_, std::size_t{16} << 20, where);
    require(tree_.is_object(), {path_ + ": expected a JSON object, found " + show(tree_), where});
  }

  /// Of a tree that is there already; `path` is what errors call it.
  Config(std::string path, nlohmann::json tree, Where where = Where::current())
      : path_(std::move(path)), tree_(std::move(tree)) {
    require(tree_.is_object(), {path_ + ": expected a JSON object, found " + show(tree_), where});
  }

  const std::string& path() const { return path_; }
  const nlohmann::json& tree() const { return tree_; }

  /// Whether the key is there and not `null`.
  bool has(std::string_view key) const { return look(key) != nullptr; }
  /// Whether the key is there and `null`.
  bool null(std::string_view key) const { return !has(key) && tree_.contains(std::string(key)); }
  bool empty() const { return tree_.empty(); }

  /// The object under a key; an empty one when the key is missing.
  Config object(std::string_view key, Where where = Where::current()) const {
    const auto* value = look(key);
    if (value && !value->is_object()) wrong(key, "an object", *value, where);
    return Config(path_ + ": " + std::string(key), value ? *value : nlohmann::json::object(), where);
  }

  std::int64_t integer(std::string_view key, Range<std::int64_t> range = {}, Where where = Where::current()) const {
    return as_integer(key, need(key, where), range, where);
  }
  /// The fallbacks are templates so that `{1}` means bounds.
  template <std::integral Int>
  std::int64_t integer(std::string_view key, Int fallback, Range<std::int64_t> range = {},
                       Where where = Where::current()) const {
    const auto* value = look(key);
    return value ? as_integer(key, *value, range, where) : static_cast<std::int64_t>(fallback);
  }

  /// The side of a square: an integer, or a list of two equal ones.
  std::int64_t side(std::string_view key, std::int64_t fallback, Range<std::int64_t> range = {},
                    Where where = Where::current()) const {
    const auto* value = look(key);
    if (!value || !value->is_array()) return integer(key, fallback, range, where);
    const bool two = value->size() == 2;
    if (two && value->front() == value->back()) return as_integer(key, value->front(), range, where);
    fail({path_ + ": " + show_name(key) + ": expected an integer, or two equal ones, found " +
              (two ? "[" + show(value->front()) + ", " + show(value->back()) + "]" : show(*value)),
          where});
  }

  /// A finite number; an integer counts as one.
  double number(std::string_view key, Range<double> range = {}, Where where = Where::current()) const {
    return as_number(key, need(key, where), range, where);
  }
  template <class Number>
  requires std::is_arithmetic_v<Number>
  double number(std::string_view key, Number fallback, Range<double> range = {}, Where where = Where::current()) const {
    const auto* value = look(key);
    return value ? as_number(key, *value, range, where) : static_cast<double>(fallback);
  }

  bool flag(std::string_view key, std::optional<bool> fallback = {}, Where where = Where::current()) const {
    const auto* value = look(key);
    if (!value && fallback) return *fallback;
    const auto& found = need(key, where);
    if (!found.is_boolean()) wrong(key, "true or false", found, where);
    return found.get<bool>();
  }

  std::string text(std::string_view key, std::optional<std::string> fallback = {},
                   Where where = Where::current()) const {
    const auto* value = look(key);
    if (!value && fallback) return *std::move(fallback);
    const auto& found = need(key, where);
    if (!found.is_string()) wrong(key, "a string", found, where);
    return found.get<std::string>();
  }

  /// A list of strings, e.g. `architectures`; empty when the key is missing.
  std::vector<std::string> texts(std::string_view key, Where where = Where::current()) const {
    const auto* list = look(key);
    if (!list) return {};
    if (!list->is_array()) wrong(key, "a list of strings", *list, where);
    std::vector<std::string> out;
    for (const auto& item : *list) {
      if (!item.is_string()) wrong(key, "a list of strings", item, where);
      out.push_back(item.get<std::string>());
    }
    return out;
  }

  /// The number of entries of a list or an object, e.g. of `id2label`; `fallback` when the key is missing.
  std::int64_t count(std::string_view key, std::int64_t fallback, Where where = Where::current()) const {
    const auto* value = look(key);
    if (!value) return fallback;
    if (!value->is_structured()) wrong(key, "a list or an object", *value, where);
    return static_cast<std::int64_t>(value->size());
  }

  /// Throws `file: key: expected …, found …`, for checks that the caller makes.
  [[noreturn]] void wrong(std::string_view key, std::string_view expected, Where where = Where::current()) const {
    const auto* value = look(key);
    wrong(key, expected, value ? *value : nlohmann::json(), where);
  }

 private:
  const nlohmann::json* look(std::string_view key) const {
    const auto at = tree_.find(std::string(key));
    return at == tree_.end() || at->is_null() ? nullptr : &*at;
  }

  const nlohmann::json& need(std::string_view key, Where where) const {
    const auto* value = look(key);
    if (value) return *value;
    const char* what = tree_.contains(std::string(key)) ? "is null" : "is missing";
    fail({path_ + ": the key " + show_name(key) + " " + what, where});
  }

  std::int64_t as_integer(std::string_view key, const nlohmann::json& value, Range<std::int64_t> range,
                          Where where) const {
    constexpr Range<std::int64_t> all;
    const bool huge = value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(all.max);
    if (value.is_number_integer() && !huge) {
      const auto number = value.get<std::int64_t>();
      if (number >= range.min && number <= range.max) return number;
    }
    std::string expected = "an integer";
    if (range.max != all.max) expected += " in [" + std::to_string(range.min) + ", " + std::to_string(range.max) + "]";
    else if (range.min != all.min) expected += " of at least " + std::to_string(range.min);
    wrong(key, expected, value, where);
  }

  double as_number(std::string_view key, const nlohmann::json& value, Range<double> range, Where where) const {
    if (value.is_number()) {
      const auto number = value.get<double>();
      if (number >= range.min && number <= range.max) return number;
    }
    constexpr Range<double> all;
    std::string expected = "a number";
    const auto text = [](double bound) { return nlohmann::json(bound).dump(); };
    if (range.max != all.max) expected += " in [" + text(range.min) + ", " + text(range.max) + "]";
    else if (range.min != all.min) expected += " of at least " + text(range.min);
    wrong(key, expected, value, where);
  }

  [[noreturn]] void wrong(std::string_view key, std::string_view expected, const nlohmann::json& found,
                          Where where) const {
    fail({path_ + ": " + show_name(key) + ": expected " + std::string(expected) + ", found " + show(found), where});
  }

  /// A value for a message: scalars as they stand, structures by name.
  static std::string show(const nlohmann::json& value) {
    if (value.is_array()) return "a list of " + std::to_string(value.size());
    if (value.is_object()) return "an object of " + std::to_string(value.size());
    if (value.is_string()) return show_name(value.get_ref<const std::string&>());
    return value.dump();
  }

  std::string path_;
  nlohmann::json tree_;
};

}  // namespace meft::io
