// Owns: naming a file that is there in place of weights, by its first bytes: what a download that went wrong or another
// program leaves. Must not know: the formats that are read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/io/file.hpp>

namespace meft::io::detail {

/// What a file with these bytes is, and what to do about it; empty for what may be weights.
inline std::string foreign_kind(std::string_view bytes) {
  if (bytes.empty()) return "is empty: the download did not end, or the disk was full";
  if (const auto pointer = lfs_pointer(bytes); !pointer.empty()) return pointer;
  // The length of a safetensors header may begin with any bytes, but a brace comes behind it.
  if (bytes.size() > 8 && bytes.substr(4).starts_with(std::string_view("\0\0\0\0{", 5))) return {};
  constexpr std::pair<std::string_view, const char*> begins[] = {
      {"GGUF", "is a GGUF file: give it a name that ends in .gguf, and its path as the model's"},
      {"\x89HDF",
       "is an HDF5 file, as TensorFlow's tf_model.h5: save it from `AutoModel.from_pretrained(…, from_tf=True)`"},
      {"\x1f\x8b", "is compressed with gzip: unpack it"},
      {"\x93NUMPY", "is a NumPy array"},
      {"7z\xbc\xaf", "is a 7-Zip archive: unpack it"}};
  for (const auto& [begin, kind] : begins)
    if (bytes.starts_with(begin)) return kind;
  if (bytes.size() > 262 && bytes.substr(257).starts_with("ustar"))
    return "is a tar archive: unpack it (PyTorch before 0.2 wrote such checkpoints, which are not supported)";
  std::string_view text = bytes;
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  if (text.starts_with("<")) return "is a web page or XML, not the file itself: download it from its `resolve` address";
  // Eight printable characters are no length of a header, and begin no archive or pickle.
  const auto start = bytes.substr(0, 8);
  const bool printable = start.size() == 8 && std::all_of(start.begin(), start.end(), [](char c) {
                           return (c >= ' ' && c < 0x7f) || c == '\t' || c == '\n' || c == '\r';
                         });
  if (printable) return "is a text that begins with " + show_name(bytes.substr(0, 40));
  return {};
}

inline void refuse_foreign(const std::string& path, std::span<const std::byte> bytes, Where where) {
  const auto kind = foreign_kind({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  require(kind.empty(), {"weights: " + path + ": " + kind, where});
}

}  // namespace meft::io::detail
