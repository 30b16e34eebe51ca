// Owns: tensors of a checkpoint as frozen weights: in the blocks of a format, made here or left where they lie in the
// file. Must not know: families.
#pragma once

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <meft/checkpoints/load.hpp>
#include <meft/io/blocks.hpp>
#include <meft/nn/linear.hpp>

namespace meft::checkpoints {

/// What became of a checkpoint's frozen matrices that a user may want to know.
struct KeptOtherwise {
  std::vector<std::string> in_bf16;    // to be kept as they are stored, which no product reads
  std::vector<std::string> as_stored;  // to be brought into a format, but stored in no more bits

  /// Both as notes.
  void tell(std::vector<std::string>& notes) const {
    const auto say = [&](const char* what, const std::vector<std::string>& names) {
      if (!names.empty())
        notes.push_back(what + names.front() +
                        (names.size() > 1 ? " and " + std::to_string(names.size() - 1) + " more" : ""));
    };
    say("kept in bf16, since no product reads them as they are stored: ", in_bf16);
    say("kept as they are stored, in no more bits: ", as_stored);
  }
};

/// The matrix [out, in] of an entry where it lies in its file, which owns the entry's bytes; an empty one where no
/// product can read it.
template <Real T, Backend B>
PackedWeight<T, B> stored_weight(const io::Entry& entry, Index out, Index in, const std::shared_ptr<const void>& file,
                                 Where where = Where::current()) {
  const auto blocks = io::stored_blocks(entry, out, in, file);
  if (!blocks) return {};
  io::check_finite(blocks, entry, where);
  return PackedWeight<T, B>(blocks);
}

namespace detail {

/// The same of a matrix that is to be kept in `precision`, where that says so, or to be brought into `format`, but is
/// stored in blocks of no more bits: it would only lose.
template <Real T, Backend B>
PackedWeight<T, B> left_stored(const io::Entry& entry, const Shape& shape, Precision precision,
                               const weights::Format* format, const std::shared_ptr<const void>& file,
                               KeptOtherwise& kept, Where where) {
  const auto* stored = weights::block_format(entry.dtype);
  if (precision != Precision::as_stored && !(format && stored && stored->bits <= format->bits)) return {};
  check_shape(entry, shape, where);
  auto out = stored_weight<T, B>(entry, shape[0], shape[1], file, where);
  const std::string name = entry.name + " (" + entry.dtype + ")";
  if (precision == Precision::as_stored) {
    if (!out.defined()) kept.in_bf16.push_back(name);
  } else if (out.defined()) kept.as_stored.push_back(name);
  return out;
}

/// Freezes each linear layer of `module` and keeps it in that precision as soon as it is read, so that its original
/// never takes memory beside the others'. Gives the names that were read.
template <Real T, Backend B, class Module>
std::set<std::string> load_frozen(Module& module, const std::shared_ptr<const io::Weights>& file,
                                  const CheckpointNames& names, Precision precision, KeptOtherwise& kept, Where where) {
  std::set<std::string> read;
  nn::walk(module, [&](const std::string& name, nn::Linear<T, B>& layer) {
    std::set<std::string> stored;
    const std::string weight = name + ".weight";
    if (const auto* entry = names.find(weight))
      layer.packed =
          left_stored<T, B>(*entry, layer.weight.shape(), precision, weights::made_in(precision), file, kept, where);
    if (layer.packed.defined()) {
      layer.weight.value() = {};
      names.check_equal(weight, where);
      stored = set_of(names.all(weight));
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
                                const Shape& shape, Precision precision, KeptOtherwise& kept, Where where) {
  if (precision != Precision::as_stored && !weights::made_in(precision)) return {};
  check_shape(entry, shape, where);
  const auto* format = weights::made_in(Precision::q8);
  auto out = left_stored<T, B>(entry, shape, precision, format, file, kept, where);
  if (!out.defined()) {
    Tensor<T> rows(shape);
    rows.fill([&](auto to) { io::copy_finite_to(entry, to, where); });
    if (precision == Precision::as_stored) {
      auto there = Tensor<T, B>(shape);
      there.fill([&](auto to) { std::copy_n(rows.data(), rows.size(), to.data()); });
      out = PackedWeight<T, B>(there, Precision::bf16);
    } else out = PackedWeight<T, B>(Blocks::of(*format, rows.data(), shape[0], shape[1], Cpu::pool()), Precision::q8);
  }
  file->forget();
  return out;
}

}  // namespace detail

}  // namespace meft::checkpoints
