// Owns: a module's parameters from a checkpoint's tensors, each checked by name and shape. Must not know: families.
#pragma once

#include <set>
#include <string>
#include <vector>

#include <meft/checkpoints/names.hpp>
#include <meft/nn/module.hpp>

namespace meft::checkpoints {

namespace detail {

inline Shape shape_of(const io::Entry& entry) {
  Shape out;
  for (const std::int64_t d : entry.shape) out.push(d);
  return out;
}
/// The same shape, or the kernel [out, channels, patch, patch] of a convolution that is a matrix [out, in] here.
inline bool fits(const io::Entry& entry, const Shape& shape) {
  if (entry.shape.size() > Shape::max_rank) return false;
  const Shape found = shape_of(entry);
  if (found == shape) return true;
  return found.rank() == 4 && shape.rank() == 2 && found[0] == shape[0] && found.size() == shape.size() &&
         entry.name.ends_with("projection.weight");
}

inline void check_shape(const io::Entry& entry, const Shape& shape, Where where) {
  if (!fits(entry, shape))
    fail({"load: " + entry.file + ": tensor " + entry.name + " has the wrong shape", where}, "expected " + shape.text(),
         "found " + io::detail::shape_text(entry.shape));
}
template <Real T, Backend B>
void fill(Parameter<T, B>& parameter, const io::Entry& entry, Where where) {
  check_shape(entry, parameter.shape(), where);
  parameter.value().fill([&](auto to) { io::copy_finite_to(entry, to, where); });
}

inline std::set<std::string> set_of(const std::vector<std::string>& names) { return {names.begin(), names.end()}; }

}  // namespace detail

/// Reads every parameter of `module` from the file of `names`. Throws naming the tensor when one is missing, has
/// another shape, or a value that is NaN or infinite. Gives the names that were read. `within` is the module's own
/// name; parameters named in `skipped` are left alone.
template <class Module>
std::set<std::string> load_parameters(Module& module, const CheckpointNames& names, const std::string& within = "",
                                      const std::set<std::string>& skipped = {}, Where where = Where::current()) {
  std::set<std::string> read;
  nn::for_each_parameter(
      module,
      [&](const std::string& name, auto& parameter) {
        if (skipped.contains(name)) return;
        const auto* entry = names.find(name);
        if (!entry) fail({"load: " + names.file().path() + ": tensor " + name + " is missing", where});
        detail::fill(parameter, *entry, where);
        names.check_equal(name, where);
        read.merge(detail::set_of(names.all(name)));
      },
      within);
  return read;
}

}  // namespace meft::checkpoints
