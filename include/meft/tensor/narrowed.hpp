// Owns: a weight that changes, as products in bf16 read it: packed once after each change, not once a product.
#pragma once

#include <meft/base/mutex.hpp>
#include <meft/tensor/packed.hpp>

namespace meft {

/// The panels of a weight [out, in] whose values stay in T. Of a host. Modules that share the weight share it.
template <Real T, Backend B = Cpu>
class Narrowed {
 public:
  explicit Narrowed(const Tensor<T, B>& w) : packed_(w, Precision::bf16) { made_of(w); }
  Narrowed(const Narrowed&) = delete;
  Narrowed& operator=(const Narrowed&) = delete;

  /// The panels of w as it is now: made anew where it was written to since, or is another. On any thread, while none
  /// writes to w.
  const PackedWeight<T, B>& of(const Tensor<T, B>& w) {
    const Lock lock(mutex_);
    if (!w.same(from_) || w.written() >= made_) {
      if (w.shape() == packed_.shape()) packed_.write({}, w);
      else packed_ = PackedWeight<T, B>(w, Precision::bf16);
      made_of(w);
    }
    return packed_;
  }

 private:
  void made_of(const Tensor<T, B>& w) {
    w.keep_time();
    from_ = w, made_ = ++detail::clock();
  }

  Mutex mutex_;
  PackedWeight<T, B> packed_;
  Tensor<T, B> from_;  // held, so that no other weight comes to lie there
  std::uint64_t made_ = 0;
};

}  // namespace meft
