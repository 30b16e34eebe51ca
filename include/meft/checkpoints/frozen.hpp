// Owns: tensors of a checkpoint as frozen weights: in the blocks of a format, made here or left where they lie in the
// file. Must not know: families.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include <meft/checkpoints/load.hpp>
#include <meft/io/blocks.hpp>
#include <meft/nn/linear.hpp>

namespace meft::checkpoints {

namespace detail {

/// Whether weights so kept lie in blocks.
inline bool keeps_blocks(Precision precision) {
  return precision == Precision::as_stored || weights::made_in(precision) != nullptr;
}

}  // namespace detail

/// The matrix [out, in] of an entry that is kept as it is stored, where a product can read it; else an empty one, and
/// `else_in_bf16` gets its name. `file` owns the entry's bytes.
template <Real T, Backend B>
PackedWeight<T, B> stored_weight(const io::Entry& entry, Index out, Index in, const std::shared_ptr<const void>& file,
                                 std::vector<std::string>& else_in_bf16, Where where = Where::current()) {
  const auto blocks = io::stored_blocks(entry, out, in, file);
  if (!blocks) {
    else_in_bf16.push_back(entry.name + " (" + entry.dtype + ")");
    return {};
  }
  io::check_finite(blocks, entry, where);
  return PackedWeight<T, B>(blocks);
}

namespace detail {

/// Freezes each linear layer of `module` and keeps it in that precision as soon as it is read, so that its original
/// never takes memory beside the others'. Gives the names that were read.
template <Real T, Backend B, class Module>
std::set<std::string> load_frozen(Module& module, const std::shared_ptr<const io::Weights>& file,
                                  const CheckpointNames& names, Precision precision,
                                  std::vector<std::string>& else_in_bf16, Where where) {
  std::set<std::string> read;
  nn::walk(module, [&](const std::string& name, nn::Linear<T, B>& layer) {
    std::set<std::string> stored;
    const std::string weight = name + ".weight";
    if (const auto* entry = names.find(weight); entry && precision == Precision::as_stored) {
      check_shape(*entry, layer.weight.shape(), where);
      layer.packed = stored_weight<T, B>(*entry, layer.out(), layer.in(), file, else_in_bf16, where);
      if (layer.packed.defined()) {
        layer.weight.value() = {};
        names.check_equal(weight, where);
        stored = set_of(names.all(weight));
      }
    }
    read.merge(load_parameters(layer, names, name, {}, where));
    read.merge(stored);
    freeze(layer);
    layer.precision = precision;
    layer.pack();
    file->forget();
  });
  return read;
}

/// A table of words that nothing trains, where frozen weights lie in blocks: as it is stored, or in q8, for a word's
/// row is not one of many that are added. Empty where it stays a parameter.
template <Real T, Backend B>
PackedWeight<T, B> frozen_table(const std::shared_ptr<const io::Weights>& file, const io::Entry& entry,
                                const Shape& shape, Precision precision, std::vector<std::string>& else_in_bf16,
                                Where where) {
  if (!B::on_host || !keeps_blocks(precision)) return {};
  check_shape(entry, shape, where);
  PackedWeight<T, B> out;
  if (precision == Precision::as_stored)
    out = stored_weight<T, B>(entry, shape[0], shape[1], file, else_in_bf16, where);
  else {
    Tensor<T> rows(shape);
    rows.fill([&](auto to) { io::copy_finite_to(entry, to, where); });
    out = PackedWeight<T, B>(Blocks::of(*weights::made_in(Precision::q8), rows.data(), shape[0], shape[1], Cpu::pool()),
                             Precision::q8);
  }
  file->forget();
  return out;
}

}  // namespace detail

}  // namespace meft::checkpoints
