// Owns: the list of formats, a type each. Apart from formats.hpp, which makes rows of them: kernels of a device go by
// the types.
#pragma once

#include <meft/weights/groups.hpp>
#include <meft/weights/nf4.hpp>
#include <meft/weights/plain.hpp>
#include <meft/weights/small.hpp>

namespace meft::weights {

template <class... F>
struct List {};

using Every = List<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, Nf4, F32, F16, Bf16>;

}  // namespace meft::weights
