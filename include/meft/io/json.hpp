// Owns: JSON files read with a size limit.
// Must not know: what the JSON means.
#pragma once

#include <cstddef>
#include <string>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/io/file.hpp>

namespace meft::io {

/// The tree of a JSON file. Throws Error, naming the file, when it cannot be read, is larger than `max_bytes`, is not
/// JSON, nests deeper than 64 levels or has a duplicate key.
inline nlohmann::json read_json(const std::string& path, std::size_t max_bytes = std::size_t{64} << 20,
                                Where where = Where::current()) {
  return parse_unique_json(read_text(path, max_bytes, where), path, where);
}

}  // namespace meft::io
