// Owns: which file of a checkpoint folder holds the weights, and one way to look into it whatever its format.
// Must not know: the formats themselves, models.
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/io/gguf_model.hpp>
#include <meft/io/pytorch.hpp>
#include <meft/io/safetensors.hpp>

namespace meft::io {

/// The tensors of a checkpoint: a folder with the first that is there of model.safetensors,
/// model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json; or one such file, PyTorch's when its
/// name ends in .bin, .pt, .pth or .bin.index.json; or a .gguf file. Throws as Safetensors, Pytorch and GgufModel do,
/// and for a folder without any.
class Weights {
 public:
  explicit Weights(const std::string& path, Where where = Where::current()) : file_(open(path, where)) {}

  /// See Tensors.
  const std::string& path() const { return file_->path(); }
  std::size_t size() const { return file_->size(); }
  bool contains(std::string_view name) const { return file_->contains(name); }
  std::vector<std::string> names() const { return file_->names(); }
  const Entry& find(std::string_view name, Where where = Where::current()) const { return file_->find(name, where); }
  void forget() const { file_->forget(); }

 private:
  /// What weights of other programs, or under other names, a folder has.
  static std::string others(const std::string& folder) {
    constexpr std::pair<std::string_view, const char*> known[] = {
        {"adapter_model.safetensors", " (PEFT's adapter alone: expected the model that it was trained on)"},
        {"adapter_model.bin", " (PEFT's adapter alone: expected the model that it was trained on)"},
        {".h5", " (TensorFlow's: `AutoModel.from_pretrained(…, from_tf=True).save_pretrained(…)` converts it)"},
        {".msgpack", " (Flax's: `AutoModel.from_pretrained(…, from_flax=True).save_pretrained(…)` converts it)"},
        {".gguf", " (llama.cpp's: give the path of the file itself)"},
        {".ggml", " (llama.cpp's: expected the checkpoint that it was made from)"},
        {".onnx", " (ONNX: expected the checkpoint that it was made from)"},
        {".ot", " (of rust-bert)"},
        {".ckpt.index", " (TensorFlow's first format)"},
        {".crdownload", " (a download that did not end)"},
        {".part", " (a download that did not end)"},
        {".partial", " (a download that did not end)"},
        {".incomplete", " (a download that did not end)"},
        {".download", " (a download that did not end)"},
        {".aria2", " (a download that did not end)"},
        {".tmp", " (a download that did not end)"},
        {".safetensors", " (under a name that is not looked for)"},
        {".bin", " (under a name that is not looked for)"},
        {".pth", " (under a name that is not looked for)"},
        {".pt", " (under a name that is not looked for)"},
        {".ckpt", " (under a name that is not looked for)"}};
    std::vector<std::string> found;
    std::error_code ignored;
    using Entries = std::filesystem::directory_iterator;
    for (Entries it(folder, ignored), end; !ignored && it != end; it.increment(ignored)) {
      const std::string name = it->path().filename().string();
      const auto at =
          std::find_if(std::begin(known), std::end(known), [&](const auto& k) { return name.ends_with(k.first); });
      if (at != std::end(known) && name != "training_args.bin") found.push_back(show_name(name) + at->second);
    }
    std::sort(found.begin(), found.end());
    std::string out;
    for (std::size_t i = 0; i < found.size() && i < 3; ++i) out += (i ? ", " : "") + found[i];
    if (found.size() > 3) out += " and " + std::to_string(found.size() - 3) + " more";
    return out.empty() ? "none of them" : out;
  }

  using File = std::unique_ptr<const Tensors>;

  static File open(const std::string& path, Where where) {
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
      for (const char* name : {"/model.safetensors", "/model.safetensors.index.json"})
        if (is_there(path + name)) return std::make_unique<Safetensors>(path + name, where);
      for (const char* name : {"/pytorch_model.bin", "/pytorch_model.bin.index.json"})
        if (is_there(path + name)) return std::make_unique<Pytorch>(path + name, where);
      fail({"weights: " + path + ": expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or " +
                "pytorch_model.bin.index.json, found " + others(path),
            where});
    }
    for (const char* ending : {".bin", ".pt", ".pth", ".bin.index.json"})
      if (path.ends_with(ending)) return std::make_unique<Pytorch>(path, where);
    if (is_gguf(path)) return std::make_unique<GgufModel>(path, where);
    return std::make_unique<Safetensors>(path, where);
  }

  File file_;
};

}  // namespace meft::io
