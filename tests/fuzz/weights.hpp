// Owns: the harnesses of checkpoints: safetensors; PyTorch's files, and its pickles without the file around them; GGUF,
// with its config and tokenizer.
#pragma once

#include "fuzz.hpp"

#include <cstring>
#include <meft/checkpoints/config.hpp>
#include <meft/checkpoints/family.hpp>
#include <meft/checkpoints/tokenizer.hpp>
#include <meft/io/blocks.hpp>
#include <meft/io/weights.hpp>
#include <vector>

#include "tokenizer.hpp"

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

inline void gguf(std::string_view bytes) {
  const auto path = put("m.gguf", bytes);
  may_refuse([&] {
    const io::Gguf file(path);
    std::size_t seen = 0;
    for (const auto& key : file.keys()) {
      may_refuse([&] { (void)file.integer(key), (void)file.flag(key); });
      may_refuse([&] { (void)file.number(key), (void)file.text(key); });
      may_refuse([&] { file.each_text(key, [&](std::string_view text) { seen += text.size(); }); });
      may_refuse([&] { file.each_number(key, [&](double x) { seen += x > 0; }); });
    }
    may_refuse([&] {
      const io::GgufModel model(path);
      for (const auto& name : model.names()) {
        const io::Entry& entry = model.find(name);
        std::size_t count = 1;
        for (const auto size : entry.shape) count *= static_cast<std::size_t>(size);
        std::vector<float> values(count);
        may_refuse([&] { io::copy_finite_to<float>(entry, values); });
        std::vector<bf16> halves(count);
        may_refuse([&] { io::copy_to<bf16>(entry, halves); });
        const Index rows = entry.shape.empty() ? 0 : entry.shape[0];
        if (count == 0) continue;
        if (const auto blocks = io::stored_blocks(entry, rows, static_cast<Index>(count) / rows, nullptr)) {
          may_refuse([&] { io::check_finite(blocks, entry, Where::current()); });
          blocks.decode(0, blocks.out, values.data());
        }
      }
      (void)checkpoints::read_spec(checkpoints::read_config(path));
    });
    may_refuse([&] { exercise(checkpoints::read_tokenizer(path), usual_text); });
  });
}

}  // namespace meft::fuzz
