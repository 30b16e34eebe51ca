// Owns: running something on the Cuda backend under several orders of threads, blocks and streams. On a device, which
// orders them itself, it is just run again.
#pragma once

#include <cstdint>

#ifdef MEFT_EMULATED
#include <emulate/emulate.hpp>
#endif

namespace meft::test {

/// check(first, again) with what f() gave in the natural order and then in three others.
template <class F, class Check>
void for_each_schedule(const F& f, const Check& check) {
  const auto first = f();
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
#ifdef MEFT_EMULATED
    emulate::set_seed(seed);
#endif
    const auto again = f();
#ifdef MEFT_EMULATED
    emulate::set_seed(0);
#endif
    check(first, again);
  }
}

}  // namespace meft::test
