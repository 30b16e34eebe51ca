// Owns: the index of a checkpoint in several files: `weight_map` says which file holds which tensor.
// Must not know: what those files are.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>

namespace meft::io::detail {

/// File name -> the tensors that `weight_map` puts there. A file name has no folder: shards lie beside their index.
/// Throws Error for any other index.
inline std::map<std::string, std::vector<std::string>> read_weight_map(const nlohmann::json& index,
                                                                       const std::string& what, Where where) {
  const bool valid = index.is_object() && index.contains("weight_map") && index["weight_map"].is_object();
  require(valid, {what + ": expected an object with an object weight_map", where});
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [name, value] : index["weight_map"].items()) {
    require(value.is_string(), {what + ": weight_map: " + show_name(name) + ": expected a file name", where});
    const auto& shard = value.get_ref<const std::string&>();
    const bool plain = !shard.empty() && shard != "." && shard != ".." &&
                       shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    require(plain, {what + ": weight_map: " + show_name(name) + ": expected a file name without a folder, found " +
                        show_name(shard),
                    where});
    shards[shard].push_back(name);
  }
  return shards;
}

}  // namespace meft::io::detail
