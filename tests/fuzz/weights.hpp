// Owns: the harnesses of checkpoints: safetensors; PyTorch's files, and its pickles without the file around them.
#pragma once

#include "fuzz.hpp"

#include <cstring>
#include <meft/io/weights.hpp>
#include <vector>

namespace meft::fuzz {

/// Reads every tensor as each of the types T.
template <class... T>
void read_all(const auto& file) {
  for (const auto& name : file.names()) {
    const io::Entry& entry = file.find(name);
    const std::size_t unit = io::dtype_bytes(entry.dtype), count = unit ? entry.bytes.size() / unit : 0;
    const auto read = [&]<class X>(X) {
      std::vector<X> values(count);
      io::copy_to<X>(entry, values);
    };
    (may_refuse([&] { read(T{}); }), ...);
  }
}

inline void safetensors(std::string_view bytes) {
  may_refuse([&] {
    const io::Safetensors file(put("m.safetensors", bytes));
    read_all<float, std::int32_t, bf16>(file);
    file.forget();
  });
}

/// A first byte that is odd: the rest is a pickle.
inline void pytorch(std::string_view bytes) {
  if (bytes.empty()) return;
  const std::string_view rest = bytes.substr(1);
  may_refuse([&] {
    if (bytes[0] & 1) {
      std::vector<std::byte> own(rest.size());
      if (!rest.empty()) std::memcpy(own.data(), rest.data(), rest.size());
      const io::Pickle pickle(std::span<const std::byte>(own), "p");
      (void)pickle.find(pickle.root(), "state_dict");
      return;
    }
    const io::Pytorch file(put("m.bin", rest));
    read_all<float, std::int64_t>(file);
    file.verify();
  });
}

}  // namespace meft::fuzz
