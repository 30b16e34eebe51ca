// Owns: which file of a checkpoint folder holds the weights, and one way to look into it whatever its format.
// Must not know: the formats themselves, models.
#pragma once

#include <sys/stat.h>

#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/io/pytorch.hpp>
#include <meft/io/safetensors.hpp>

namespace meft::io {

/// The tensors of a checkpoint: a folder with the first that is there of model.safetensors,
/// model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json; or one such file, PyTorch's when its
/// name ends in .bin, .pt, .pth or .bin.index.json. Throws as Safetensors and Pytorch do, and for a folder without any.
class Weights {
 public:
  explicit Weights(const std::string& path, Where where = Where::current()) : file_(open(path, where)) {}

  /// The file that was opened: for a folder, the one found in it.
  const std::string& path() const {
    return std::visit([](const auto& file) -> const std::string& { return file.path(); }, file_);
  }
  std::size_t size() const {
    return std::visit([](const auto& file) { return file.size(); }, file_);
  }
  bool contains(std::string_view name) const {
    return std::visit([&](const auto& file) { return file.contains(name); }, file_);
  }
  /// All names, sorted.
  std::vector<std::string> names() const {
    return std::visit([](const auto& file) { return file.names(); }, file_);
  }
  /// Throws Error when there is no such tensor. The entry lives as long as this object.
  const Entry& find(std::string_view name, Where where = Where::current()) const {
    return std::visit([&](const auto& file) -> const Entry& { return file.find(name, where); }, file_);
  }
  /// Gives the memory of what was read so far back; a tensor comes from its file again when it is looked at.
  void forget() const {
    std::visit([](const auto& file) { file.forget(); }, file_);
  }

 private:
  using File = std::variant<Safetensors, Pytorch>;

  static File open(const std::string& path, Where where) {
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
      for (const char* name : {"/model.safetensors", "/model.safetensors.index.json"})
        if (is_there(path + name)) return File(std::in_place_type<Safetensors>, path + name, where);
      for (const char* name : {"/pytorch_model.bin", "/pytorch_model.bin.index.json"})
        if (is_there(path + name)) return File(std::in_place_type<Pytorch>, path + name, where);
      fail({"weights: " + path + ": expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or " +
                "pytorch_model.bin.index.json, found none of them",
            where});
    }
    for (const char* ending : {".bin", ".pt", ".pth", ".bin.index.json"})
      if (path.ends_with(ending)) return File(std::in_place_type<Pytorch>, path, where);
    return File(std::in_place_type<Safetensors>, path, where);
  }

  File file_;
};

}  // namespace meft::io
