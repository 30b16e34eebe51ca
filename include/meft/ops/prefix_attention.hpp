// Owns: attention of every sequence to its own keys and to a prefix that all of them share.
#pragma once

#include <array>
#include <utility>

#include <meft/ops/arithmetic.hpp>
#include <meft/ops/attention.hpp>

namespace meft {

/// Attention in which each query sees m more keys and values, the same for all: Li and Liang, arXiv 2101.00190. With
/// out_i, l_i the results and log-sum-exps over own keys and prefix apart, out = out_1 + σ(l_2 − l_1)·(out_2 − out_1),
/// l = log(exp l_1 + exp l_2). Backward is Attention's on either part with out and l of both; dq is their sum. A bias
/// is Attention's and of own keys alone.
struct PrefixAttention {
  static constexpr const char* name = "prefix_attention";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend B>
  struct Saved {
    Attention::Saved<T, B> own;  // out and lse are those of both parts
    Tensor<T, B> k, v;           // the prefix's
  };

  Attention own;

  template <Real T, Backend B>
  Tensor<T, B> forward(Saved<T, B>& saved, Needs<6> need, const Tensor<T, B>& q, const Tensor<T, B>& k,
                       const Tensor<T, B>& v, const Tensor<T, B>& prefix_k, const Tensor<T, B>& prefix_v,
                       const Tensor<T, B>& bias) const {
    require(prefix_k.rank() == 2 && prefix_k.dim(0) > 0, "prefix_attention: the prefix has no rows", prefix_k);
    const Index without = settled<B>([q = own.queries, k = own.keys, causal = own.causal, window = own.window] {
      const auto sees = [&](Index queries, Index keys) {  // each query a key
        return causal ? keys >= queries : keys > 0 && (window == 0 || queries - keys < window);
      };
      Index i = 0;
      while (i < q.sequences() && (q.length(i) == 0 || sees(q.length(i), k.length(i)))) ++i;
      return i < q.sequences() ? i : Index{-1};
    });
    if (without >= 0)
      fail("prefix_attention: a query without a key of its own: of a sequence of queries and keys",
           own.queries.length(without), own.keys.length(without));
    Attention::Saved<T, B> both, prefix;
    (void)own.forward(both, all(need[5]), q, k, v, bias);
    (void)before(q, prefix_k).forward(prefix, all(false), q, prefix_k, prefix_v, Tensor<T, B>());
    const Shape sums = both.lse.shape(), rows{sums.size(), q.dim(1) / own.heads}, column{sums.size(), 1};
    const auto by = map(Sub{}, prefix.lse, both.lse);
    // log(exp a + exp b) = a + relu(b − a) − log σ|b − a|
    both.lse = map(Sub{}, map(Add{}, both.lse, map(Relu{}, by)), map(Log{}, map(Sigmoid{}, map(Abs{}, by))));
    const auto apart = map(Sub{}, prefix.out, both.out).reshape(rows);
    const auto moved = detail::map_pair(name, Mul{}, apart, map(Sigmoid{}, by).reshape(column));
    both.out = map(Add{}, both.out, moved.reshape(q.shape()));
    auto out = both.out;
    if (need.any()) saved = {std::move(both), prefix_k, prefix_v};
    return out;
  }

  template <Real T, Backend B>
  std::array<Tensor<T, B>, 6> backward(const Saved<T, B>& s, Needs<6> need, const Tensor<T, B>& dout) const {
    auto of_own = own.backward(s.own, all(need[5]), dout);
    const Attention::Saved<T, B> prefix{s.own.q, s.k, s.v, s.own.out, s.own.lse, {}};
    auto of_prefix = before(s.own.q, s.k).backward(prefix, all(false), dout);
    accumulate(of_own[0], std::move(of_prefix[0]));
    return {std::move(of_own[0]),    std::move(of_own[1]),    std::move(of_own[2]),
            std::move(of_prefix[1]), std::move(of_prefix[2]), std::move(of_own[3])};
  }

 private:
  static constexpr Needs<4> all(bool bias) { return {{true, true, true, bias}}; }
  static constexpr std::uint32_t other_site = 0x10000000u;  // of the prefix's dropout

  /// All queries as one sequence over the prefix.
  Attention before(const auto& q, const auto& prefix) const {
    const auto one = [](Index n) { return Offsets({0, static_cast<std::int32_t>(n)}); };
    Attention out = own;
    out.queries = one(q.dim(0));
    out.keys = one(prefix.dim(0));
    out.causal = false;
    out.window = 0;
    out.key.site += other_site;
    return out;
  }
};

/// q, k, v and bias as attention takes them; prefix_k and prefix_v [m, key_heads · width] → like q.
template <Operand Q, Operand K, Operand V, Operand PK, Operand PV, Operand X>
VarOf<Q> prefix_attention(const Q& q, const K& k, const V& v, const PK& prefix_k, const PV& prefix_v, const X& bias,
                          Attention spec, Where where = Where::current()) {
  return apply(where, PrefixAttention{std::move(spec)}, q, k, v, prefix_k, prefix_v, bias);
}
template <Operand Q, Operand K, Operand V, Operand PK, Operand PV>
VarOf<Q> prefix_attention(const Q& q, const K& k, const V& v, const PK& prefix_k, const PV& prefix_v, Attention spec,
                          Where where = Where::current()) {
  return prefix_attention(q, k, v, prefix_k, prefix_v, VarOf<Q>(), std::move(spec), where);
}

}  // namespace meft
