// Owns: what all handles of a parameter share. Must not know how ops are recorded.
#pragma once

#include <cstdint>

#include <meft/base/mutex.hpp>
#include <meft/base/random.hpp>
#include <meft/tensor/math.hpp>

namespace meft::detail {

/// What a parameter's handles share.
template <class T, class B>
struct Stored {
  Tensor<T, B> value, gradient;
  bool trainable = true;
  bool probed = false;                // see Parameter::set_probed
  double rate = 1;                    // see Parameter::set_rate_factor
  Tensor<T, B> anchor{};              // see Parameter::anchor
  Tensor<std::int32_t, B> numbers{};  // of a larger table's rows, where the value has some of them
  Key noise{};                        // with scale ≠ 0 the value is read as value + scale·z: see Parameter::perturb
  double scale = 0;
  Mutex adding{};

  /// gradient += g, counted as gradient memory, from any thread; nothing where it was frozen since. Throws where it has
  /// not the value's shape.
  [[gnu::cold, gnu::noinline]] void add(const Tensor<T, B>& g) {
    if (!trainable) return;
    const Lock lock(adding);
    require(g.shape() == value.shape() && (!gradient.defined() || g.shape() == gradient.shape()),
            "backward: a gradient has another shape than its parameter", g, value, gradient);
    const UseScope use(Use::gradient);
    if (!gradient.defined()) gradient = g.clone();
    else map(B{}, Add{}, g.size(), gradient.data(), std::as_const(gradient).data(), g.data());
  }
};

}  // namespace meft::detail
