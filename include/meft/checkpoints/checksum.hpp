// Owns: the checksum of what a run keeps, in the file's own metadata: of the tensors' names, types, shapes and bytes,
// and of the metadata beside it. Must not know: what the tensors are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <meft/base/random.hpp>
#include <meft/io/safetensors.hpp>

namespace meft::checkpoints {

namespace detail {

inline std::uint64_t fold(std::uint64_t hash, std::span<const std::byte> bytes) {
  hash = mix(hash, bytes.size());
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data(), 8);
    hash = mix(hash, word);
  }
  for (const std::byte b : bytes) hash = mix(hash, static_cast<std::uint64_t>(b));
  return hash;
}
inline std::uint64_t fold(std::uint64_t hash, std::string_view text) {
  return fold(hash, std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace detail

/// Sixteen hexadecimal digits, the same for the tensors in any order. `checksum` of the metadata is left out.
template <class TensorOrEntry>
std::string checksum(const std::vector<const TensorOrEntry*>& tensors, const io::Metadata& metadata) {
  auto order = tensors;
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  std::uint64_t hash = 1;
  for (const auto* t : order) {
    hash = detail::fold(detail::fold(hash, t->name), t->dtype);
    hash = detail::fold(detail::fold(hash, std::as_bytes(std::span(t->shape))), t->bytes);
  }
  for (const auto& [key, value] : metadata)
    if (key != "checksum") hash = detail::fold(detail::fold(hash, key), value);
  std::string out(16, '0');
  for (std::size_t i = 16; i-- > 0; hash >>= 4) out[i] = "0123456789abcdef"[hash & 15];
  return out;
}

/// Throws when a file is not what its checksum was made of; one without is taken as it is.
inline void require_checksum(const io::Safetensors& file, Where where = Where::current()) {
  const auto kept = file.metadata().find("checksum");
  if (kept == file.metadata().end()) return;
  std::vector<const io::Entry*> entries;
  for (const auto& name : file.names()) entries.push_back(&file.find(name, where));
  if (const auto found = checksum(entries, file.metadata()); found != kept->second)
    fail({file.path() + ": the file is damaged: expected the checksum " + kept->second + ", found " + found, where});
}

}  // namespace meft::checkpoints
