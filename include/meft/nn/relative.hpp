// Owns: position by distance: a table of biases by bucket and head, which the layers of a list share.
// Raffel et al., arXiv 1910.10683, section 2.1; the buckets are those of Hugging Face's T5 and MPNet.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <meft/nn/module.hpp>
#include <meft/ops/embedding.hpp>
#include <meft/ops/shape.hpp>

namespace meft::nn {

/// Which distances share a bias: half of the buckets have a distance each, the others widen with it, up to `farthest`.
struct RelativeSpec {
  Index buckets = 32, farthest = 128;
  bool both_ways = true;  // keys behind the query have half of the buckets; else the last one at hand
};

/// The bucket of a key that stands `distance` places behind the query.
inline std::int32_t relative_bucket(const RelativeSpec& spec, Index distance) {
  const Index count = spec.both_ways ? spec.buckets / 2 : spec.buckets, near = count / 2;
  const Index first = spec.both_ways && distance > 0 ? count : 0;
  const Index n = spec.both_ways ? std::abs(distance) : std::max<Index>(-distance, 0);
  if (n < near) return static_cast<std::int32_t>(first + n);
  // In float, as there: at 16, 32 and 64 of 8 the quotient is a whole number.
  const float turns = std::log(static_cast<float>(n) / static_cast<float>(near)) /
                      static_cast<float>(std::log(static_cast<double>(spec.farthest) / static_cast<double>(near))) *
                      static_cast<float>(count - near);
  return static_cast<std::int32_t>(first + std::min(near + static_cast<Index>(turns), count - 1));
}

/// The biases of attention's scores by head and distance, [heads, 2·farthest + 1]. Copies have the same table.
template <Real T, Backend B = Cpu>
struct RelativeBias {
  Parameter<T, B> weight;             // [buckets, heads]
  Tensor<std::int32_t, B> buckets{};  // of the distances

  static RelativeBias empty(const RelativeSpec& spec, Index heads) {
    std::vector<std::int32_t> list;
    for (Index d = -spec.farthest; d <= spec.farthest; ++d) list.push_back(relative_bucket(spec, d));
    const UseScope use(Use::parameter);
    return {Parameter<T, B>::empty({spec.buckets, heads}),
            Tensor<std::int32_t, B>::from({static_cast<Index>(list.size())}, list)};
  }

  Var<T, B> operator()() const { return transpose(embedding(weight, buckets)); }

  static void parts(auto& self, auto&& visit) { visit("weight", self.weight); }
};

}  // namespace meft::nn
