// Owns: turning JSON text into a tree, with a depth limit and errors that name the source, the byte and what was found;
// refusing keys given twice; and reading a field of the tree with an error that names the field.
// Must not know: files, and what the tree means.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>

namespace meft {

namespace detail {

/// A byte as an error message shows it: `'x'` or `0x1b`.
inline std::string show_byte(char c) {
  if (c >= 0x20 && c < 0x7f) return {'\'', c, '\''};
  constexpr std::string_view digits = "0123456789abcdef";
  auto value = static_cast<unsigned char>(c);
  return {'0', 'x', digits[value >> 4], digits[value & 15]};
}

/// Walks valid JSON and stops at the first key that its object already has.
class DuplicateKeys : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool start_object(std::size_t) override {
    seen_.emplace_back();
    return true;
  }
  bool key(std::string& name) override {
    const bool fresh = seen_.back().insert(name).second;
    if (!fresh) found = name;
    return fresh;
  }
  bool end_object() override {
    seen_.pop_back();
    return true;
  }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

  std::string found;

 private:
  std::vector<std::set<std::string>> seen_;
};

/// Throws Error at the first bracket that opens more than `limit` levels.
inline void check_json_depth(std::string_view text, std::string_view source, std::size_t limit, Where where) {
  std::size_t depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      else if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > limit) {
        throw Error(std::string(source) + ": JSON is nested too deeply: byte " + std::to_string(i) + ": found " +
                        show_byte(c) + " at depth " + std::to_string(depth) + ", expected at most " +
                        std::to_string(limit),
                    where);
      }
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
}

}  // namespace detail

/// The tree of `text`, one whole JSON value. `source` (a file name) stands first in every message. Bytes count from 0.
/// Throws Error for text that is not JSON, is not UTF-8, holds a number out of range, or nests deeper than 64 levels.
inline nlohmann::json parse_json(std::string_view text, std::string_view source, Where where = Where::current()) {
  detail::check_json_depth(text, source, 64, where);
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::parse_error& error) {
    const std::size_t at = error.byte == 0 ? 0 : std::min(error.byte - 1, text.size());
    std::string why = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    if (auto end = why.find("column "); end != std::string::npos && (end = why.find(": ", end)) != std::string::npos)
      why.erase(0, end + 2);
    for (char& c : why)
      if (c < 0x20 || c >= 0x7f) c = '?';  // it quotes what was read, broken UTF-8 too
    constexpr std::size_t longest = 240;
    if (why.size() > longest) why = why.substr(0, longest) + "...";
    throw Error(std::string(source) + ": not JSON: byte " + std::to_string(at) + ": found " +
                    (at < text.size() ? detail::show_byte(text[at]) : "the end") + " (" + why + ")",
                where);
  } catch (const nlohmann::json::exception& error) {
    std::string why = error.what();
    throw Error(std::string(source) + ": JSON: " + why.substr(std::min(why.size(), why.find("] ") + 2)), where);
  }
}

/// `'name'` for a message: control characters become `?`, and a long name is cut.
inline std::string show_name(std::string_view name) {
  constexpr std::size_t longest = 120;
  std::string out = "'";
  out += name.substr(0, longest);
  out += name.size() > longest ? "...'" : "'";
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return out;
}

/// parse_json that also refuses an object with the same key twice: readers disagree on which one counts.
inline nlohmann::json parse_unique_json(std::string_view text, std::string_view source,
                                        Where where = Where::current()) {
  auto tree = parse_json(text, source, where);
  detail::DuplicateKeys check;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &check)) {
    fail({std::string(source) + ": the key " + show_name(check.found) + " is given twice", where});
  }
  return tree;
}

/// A value of a JSON tree together with the path that names it in errors:
/// `config.json: model.type is "BPE", expected "WordPiece"`. Refers to the tree, which must outlive it.
/// Every reader throws Error, by `wrong`, where the value is of another kind or out of range.
class JsonField {
 public:
  /// `root` stands for the whole tree in messages.
  JsonField(const nlohmann::json& value, std::string_view source, std::string_view root = "the file")
      : value_(&value), source_(source), root_(root) {}

  const nlohmann::json& value() const { return *value_; }

  /// The member `key` of this object. Throws Error if this is no object or has no such member.
  JsonField at(std::string_view key) const {
    const auto& members = object();
    const auto found = members.find(key);
    if (found == members.end())
      throw Error(source_ + ": " + (path_.empty() ? root_ : path_) + " has no member \"" + std::string(key) + "\"");
    return inside(*found, path_.empty() ? std::string(key) : path_ + "." + std::string(key));
  }

  /// The member `key` of this object, or nothing where it is absent or null.
  std::optional<JsonField> find(std::string_view key) const {
    const auto& members = object();
    const auto found = members.find(key);
    if (found == members.end() || found->is_null()) return std::nullopt;
    return at(key);
  }

  /// The element `index` of this array.
  JsonField at(std::size_t index) const {
    const auto& elements = array();
    if (index >= elements.size()) wrong("more than " + std::to_string(index) + " elements");
    return inside(elements[index], path_ + "[" + std::to_string(index) + "]");
  }

  const nlohmann::json& object() const {
    if (!value_->is_object()) wrong("an object");
    return *value_;
  }
  const nlohmann::json& array() const {
    if (!value_->is_array()) wrong("an array");
    return *value_;
  }
  const std::string& string() const {
    if (!value_->is_string()) wrong("a string");
    return value_->get_ref<const std::string&>();
  }
  bool boolean() const {
    if (!value_->is_boolean()) wrong("true or false");
    return value_->get<bool>();
  }
  /// An integer in [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) const {
    const bool fits = !value_->is_number_unsigned() || value_->get<std::uint64_t>() <= INT64_MAX;
    if (!value_->is_number_integer() || !fits || value_->get<std::int64_t>() < low ||
        value_->get<std::int64_t>() > high)
      wrong("an integer from " + std::to_string(low) + " to " + std::to_string(high));
    return value_->get<std::int64_t>();
  }
  /// A number.
  double number() const {
    if (!value_->is_number()) wrong("a number");
    return value_->get<double>();
  }

  /// Throws Error: this field is what it is, `expected` was expected.
  [[noreturn]] void wrong(std::string_view expected) const {
    std::string found = value_->is_object()  ? "an object"
                        : value_->is_array() ? "an array of " + std::to_string(value_->size())
                                             : value_->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    if (found.size() > 80) found = found.substr(0, 80) + "...";
    throw Error(source_ + ": " + (path_.empty() ? root_ : path_) + " is " + found + ", expected " +
                std::string(expected));
  }

 private:
  JsonField inside(const nlohmann::json& value, std::string path) const {
    JsonField field(value, source_, root_);
    field.path_ = std::move(path);
    return field;
  }

  const nlohmann::json* value_;
  std::string source_, root_, path_;
};

}  // namespace meft
