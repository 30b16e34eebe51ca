// Owns: a checkpoint's config, whether it is a Hugging Face folder or a GGUF file. Must not know: models.
#pragma once

#include <string>

#include <meft/io/config.hpp>
#include <meft/io/gguf_model.hpp>

namespace meft::checkpoints {

/// The config.json of a folder, or what a GGUF file says in its place.
inline io::Config read_config(const std::string& path, Where where = Where::current()) {
  if (io::is_gguf(path)) return io::Config(path, io::GgufModel(path, where).config(where), where);
  return io::Config(io::model_folder(path, where), where);
}

}  // namespace meft::checkpoints
