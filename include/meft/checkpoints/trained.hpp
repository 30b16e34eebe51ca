// Owns: the tensors that a run trained, in a file. Must not know: models, how training goes.
#pragma once

#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/checkpoints/checksum.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/nn/module.hpp>

namespace meft::checkpoints {

namespace detail {

/// Tensors to be written, on the host.
template <Real T>
class NamedTensors {
 public:
  template <Backend B>
  void add(const std::string& name, const Tensor<T, B>& x) {
    kept_.push_back(x.host());
    const auto& host = kept_.back();
    list_.push_back({name,
                     std::string(dtype_name<T>()),
                     {x.shape().begin(), x.shape().end()},
                     std::as_bytes(std::span(host.data(), static_cast<std::size_t>(host.size())))});
  }
  /// With a checksum among the metadata.
  void write(const std::string& path, io::Metadata metadata, Where where) {
    std::vector<const io::NamedTensor*> all;
    for (const auto& tensor : list_) all.push_back(&tensor);
    metadata["checksum"] = checksum(all, metadata);
    io::write_safetensors(path, std::move(list_), metadata, where);
  }

 private:
  std::vector<Tensor<T>> kept_;
  std::vector<io::NamedTensor> list_;
};

/// Tensor `name` of a file; throws naming both when it is missing or of another shape.
inline const io::Entry& entry_of(const io::Safetensors& file, const std::string& name, const Shape& shape,
                                 Where where) {
  const auto& entry = file.find(name, where);
  if (entry.shape != std::vector<std::int64_t>(shape.begin(), shape.end()))
    fail({"load: " + file.path() + ": tensor " + name + " has the wrong shape", where}, "expected " + shape.text(),
         "found " + io::detail::shape_text(entry.shape));
  return entry;
}

}  // namespace detail

/// Writes tensors by name, whole or not at all.
template <Real T, Backend B>
void save_trained(const std::string& path, const nn::Named<T, B>& trained, const io::Metadata& metadata,
                  Where where = Where::current()) {
  detail::NamedTensors<T> tensors;
  for (const auto& [name, p] : trained) tensors.add(name, p.value());
  tensors.write(path, metadata, where);
}

/// Throws when the file is damaged or has not exactly these tensors.
template <Real T, Backend B>
void check_trained(const io::Safetensors& file, const nn::Named<T, B>& trained, Where where = Where::current()) {
  require_checksum(file, where);
  std::set<std::string> left;
  for (const auto& name : file.names()) left.insert(name);
  for (const auto& [name, p] : trained) {
    (void)detail::entry_of(file, name, p.shape(), where);
    left.erase(name);
  }
  if (!left.empty())
    fail({"load: " + file.path() + ": a tensor that this method does not train", where}, *left.begin());
}

/// Reads them back. Throws, having changed nothing, when `check_trained` does.
template <Real T, Backend B>
void load_trained(const io::Safetensors& file, nn::Named<T, B> trained, Where where = Where::current()) {
  check_trained(file, trained, where);
  for (auto& one : trained)
    one.second.value().fill([&](auto to) { io::copy_to(file.find(one.first, where), to, where); });
}

}  // namespace meft::checkpoints
