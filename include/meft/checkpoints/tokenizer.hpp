// Owns: a checkpoint's tokenizer, whether it is a Hugging Face folder or a GGUF file.
#pragma once

#include <filesystem>
#include <string>

#include <meft/checkpoints/gguf_tokenizer.hpp>
#include <meft/io/gguf_model.hpp>
#include <meft/text/tokenizer.hpp>

namespace meft::checkpoints {

/// The tokenizer of a folder's files, or of a GGUF file's own tables.
inline text::Tokenizer read_tokenizer(const std::string& path, Where where = Where::current()) {
  if (!io::is_gguf(path)) return text::Tokenizer(std::filesystem::path(path));
  const io::Gguf file(path, where);
  return text::Tokenizer(text::TokenizerFiles(path, gguf_tokenizer(file, where), gguf_tokenizer_config(file, where)));
}

}  // namespace meft::checkpoints
