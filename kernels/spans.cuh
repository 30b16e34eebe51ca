// Owns: what the host works out of a call's sequences, which may be others when recorded work is run again.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/attention.hpp>
#include <recorder.cuh>
#include <table.cuh>

namespace meft::cuda {

/// Whether other sequences may come, as many and with as many rows in all.
inline bool open(const Spans& spans) { return spans.again && recorder(); }

/// found(list) of the sequences; recorded work is run again on such alone as give the same.
template <class Found>
auto settled(const Spans& spans, const Found& found) {
  if (!open(spans)) return found(spans.list);
  return Cuda::settled([again = spans.again, found] { return found(again()); });
}

/// A table that fill(list, to) writes. `name` tells it from others of the same sequences.
template <class Fill>
Buffer table(const Spans& spans, std::string name, std::size_t bytes, const Fill& fill) {
  if (!open(spans)) {
    std::vector<std::byte> content(bytes);
    fill(spans.list, content.data());
    return table(content.data(), bytes);
  }
  const auto add = [&](const auto& x) {
    name.append(reinterpret_cast<const char*>(x.data()), x.size() * sizeof(*x.data()));
  };
  add(spans.whose);
  add(spans.list);
  return recorder()->tables.find(name, bytes, [again = spans.again, fill](void* to) { fill(again(), to); });
}

}  // namespace meft::cuda
