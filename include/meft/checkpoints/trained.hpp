// Owns: the tensors that a run trained, and which elements of weights these are, in a file. Must not know: models, how
// training goes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <meft/checkpoints/checksum.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/nn/linear.hpp>

namespace meft::checkpoints {

namespace detail {

/// Tensors to be written, on the host.
class NamedTensors {
 public:
  template <Scalar T, Backend B>
  void add(const std::string& name, const Tensor<T, B>& x) {
    auto host = std::make_shared<const Tensor<T>>(x.host());
    list_.push_back({name,
                     std::string(dtype_name<T>()),
                     {x.shape().begin(), x.shape().end()},
                     std::as_bytes(std::span(host->data(), static_cast<std::size_t>(host->size())))});
    kept_.push_back(std::move(host));
  }
  /// Of another file, which stays open.
  void add(io::NamedTensor tensor) { list_.push_back(std::move(tensor)); }
  /// With a checksum among the metadata.
  void write(const std::string& path, io::Metadata metadata, Where where) {
    std::vector<const io::NamedTensor*> all;
    for (const auto& tensor : list_) all.push_back(&tensor);
    metadata["checksum"] = checksum(all, metadata);
    io::write_safetensors(path, std::move(list_), metadata, where);
  }
  /// As other programs write them.
  void write_plain(const std::string& path, Where where) {
    io::write_safetensors(path, std::move(list_), {{"format", "pt"}}, where);
  }

 private:
  std::vector<std::shared_ptr<const void>> kept_;
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

/// Throws when the file has other elements chosen than these.
template <Backend B>
void check_indices(const io::Safetensors& file, const nn::Indices<B>& indices, Where where) {
  for (const auto& one : indices)
    std::visit(
        [&]<class T>(const Tensor<T, B>& x) {
          std::vector<T> found(static_cast<std::size_t>(x.size()));
          io::copy_to(entry_of(file, one.first, x.shape(), where), std::span(found), where);
          if (found != x.values()) fail({"load: " + file.path() + ": other elements were chosen", where}, one.first);
        },
        one.second);
}
template <Backend B>
void add_indices(NamedTensors& to, const nn::Indices<B>& indices) {
  for (const auto& one : indices) std::visit([&](const auto& x) { to.add(one.first, x); }, one.second);
}

}  // namespace detail

/// Writes tensors by name, and which elements of weights are among them, whole or not at all.
template <Real T, Backend B>
void save_trained(const std::string& path, const nn::Named<T, B>& trained, const io::Metadata& metadata,
                  const nn::Indices<B>& indices = {}, Where where = Where::current()) {
  detail::NamedTensors tensors;
  for (const auto& [name, p] : trained) tensors.add(name, p.value());
  detail::add_indices(tensors, indices);
  tensors.write(path, metadata, where);
}

/// Throws when the file is damaged or has not exactly these tensors.
template <Real T, Backend B>
void check_trained(const io::Safetensors& file, const nn::Named<T, B>& trained, const nn::Indices<B>& indices = {},
                   Where where = Where::current()) {
  require_checksum(file, where);
  std::set<std::string> left;
  for (const auto& name : file.names()) left.insert(name);
  for (const auto& [name, p] : trained) {
    (void)detail::entry_of(file, name, p.shape(), where);
    left.erase(name);
  }
  detail::check_indices(file, indices, where);
  for (const auto& one : indices) left.erase(one.first);
  if (!left.empty())
    fail({"load: " + file.path() + ": a tensor that this method does not train", where}, *left.begin());
}

/// Reads them back. Throws, having changed nothing, when `check_trained` does.
template <Real T, Backend B>
void load_trained(const io::Safetensors& file, nn::Named<T, B> trained, const nn::Indices<B>& indices = {},
                  Where where = Where::current()) {
  check_trained(file, trained, indices, where);
  for (auto& one : trained)
    one.second.value().fill([&](auto to) { io::copy_to(file.find(one.first, where), to, where); });
}

/// Whether below `module` are weights of which elements may be chosen.
template <Real T, Backend B, class Module>
bool may_choose(Module& module) {
  bool out = false;
  nn::walk(module, [&](const std::string&, nn::Linear<T, B>& layer) {
    out = out || std::holds_alternative<nn::Sparse<T, B>>(layer.update);
  });
  return out;
}

/// Has the elements train that a file says were chosen of each packed weight below `module`, in place of those that do,
/// and those that trained before be what it says: what such a file holds can then be loaded. Throws for indices that
/// are not ascending or outside their weight.
template <Real T, Backend B, class Module>
void choose_as_in(const io::Safetensors& file, Module& module, Where where = Where::current()) {
  const auto names = file.names();
  const std::set<std::string> there(names.begin(), names.end());
  nn::walk(module, [&](const std::string& name, nn::Linear<T, B>& layer) {
    auto* sparse = std::get_if<nn::Sparse<T, B>>(&layer.update);
    if (!sparse) return;
    const std::string values = name + ".sparse.values", indices = name + ".sparse.indices",
                      held = name + ".sparse.held_indices", held_values = name + ".sparse.held_values";
    const auto elements = [&](const std::string& what) {
      const auto& entry = file.find(what, where);
      std::vector<std::int32_t> out(entry.shape.size() == 1 ? static_cast<std::size_t>(entry.shape[0]) : 0);
      io::copy_to(entry, std::span(out), where);
      const auto& v = sparse->basis();
      const Index size = v.defined() ? v.elements() : layer.in() * layer.out();
      std::int64_t last = -1;
      for (const std::int64_t at : out)
        if (at <= std::exchange(last, at) || at >= size)
          fail({"load: " + file.path() + ": " + what + ": expected ascending indices below " + std::to_string(size) +
                    ", found",
                where},
               at);
      return out;
    };
    sparse->restore(layer.packed);
    if (there.contains(held)) {
      const auto at = elements(held);
      std::vector<T> to(at.size());
      io::copy_finite_to(detail::entry_of(file, held_values, {static_cast<Index>(at.size())}, where), std::span(to),
                         where);
      sparse->hold(layer.packed, at, to);
    }
    if (sparse->turned && sparse->turned->first) {
      const auto vectors = [&](const std::string& what, Index n) {
        const UseScope use(Use::parameter);
        const std::string basis = name + ".sparse.basis_" + what;
        const auto& shape = file.find(basis, where).shape;
        const Index count = shape.size() == 2 ? std::clamp<Index>(shape[1], 1, n) : n;
        Tensor<T, B> out({n, count});
        const auto& entry = detail::entry_of(file, basis, out.shape(), where);
        out.fill([&](auto to) { io::copy_finite_to(entry, to, where); });
        return out;
      };
      if (there.contains(name + ".sparse.basis_out"))
        *sparse->turned->basis = {vectors("out", layer.out()), vectors("in", layer.in())};
      else *sparse->turned->basis = {};
    }
    if (!there.contains(values)) return sparse->choose({}, {});
    if (sparse->turned && !sparse->basis().defined())
      fail({"load: " + file.path() + ": " + values + ": the basis of these is not there", where});
    const auto w = layer.packed.unpack().values();
    if (!there.contains(indices)) {
      if (const auto& v = sparse->basis(); v.defined() && v.elements() < layer.in() * layer.out())
        fail({"load: " + file.path() + ": " + indices + " is missing: the basis has not all vectors", where});
      return sparse->choose_all(w);
    }
    sparse->choose(elements(indices), w);
  });
}

}  // namespace meft::checkpoints
