// Owns: JSON files read with a size limit, and the refusal of keys given twice.
// Must not know: what the JSON means.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/io/file.hpp>

namespace meft::io {

/// `'name'` for a message: control characters become `?`, and a long name is cut.
inline std::string show_name(std::string_view name) {
  constexpr std::size_t longest = 120;
  std::string out = "'" + std::string(name.substr(0, longest)) + (name.size() > longest ? "...'" : "'");
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return out;
}

namespace detail {

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

}  // namespace detail

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

/// The tree of a JSON file. Throws Error, naming the file, when it cannot be read, is larger than `max_bytes`, is not
/// JSON, nests deeper than 64 levels or has a duplicate key.
inline nlohmann::json read_json(const std::string& path, std::size_t max_bytes = std::size_t{64} << 20,
                                Where where = Where::current()) {
  return parse_unique_json(read_text(path, max_bytes, where), path, where);
}

}  // namespace meft::io
