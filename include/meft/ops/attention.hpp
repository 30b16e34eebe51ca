// Owns: scaled dot-product attention on ragged batches: self, causal and cross. Scores never exist whole.
#pragma once

#include <cmath>
#include <vector>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/attention.hpp>
#include <meft/tensor/ragged.hpp>

namespace meft {

/// out = softmax(scale · q·kᵀ)·v for each sequence and head (Dao et al., arXiv 2205.14135); with P the probabilities,
/// dv = Pᵀ·do, ds = P ⊙ (do·vᵀ − Σ do ⊙ out), dq = scale · ds·k, dk = scale · dsᵀ·q.
/// Grouped queries (Ainslie et al., arXiv 2305.13245): heads h·g … h·g + g − 1 read head h of k and v, whose gradients
/// are summed over them in ascending order. A bias b [heads, 2·reach + 1] of relative position, where it is not empty,
/// is added to the scores: s = scale · q·kᵀ + b[h, j − p], p the query's place, db[h, d] = Σ ds/scale at the distance
/// d.
struct Attention {
  static constexpr const char* name = "attention";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> q, k, v, out, lse, bias;
  };

  Offsets queries, keys;  // of the same number of sequences
  Index heads = 1;
  Index key_heads = 0;  // of k and v, a divisor of heads; 0: as many
  bool causal = false;  // a query sees keys up to its own place, counted from the sequences' ends
  double scale = 0;     // 0: 1/√(head width)
  float dropout = 0;    // of the probabilities, replayed from the key
  Key key{};
  Index first_row = 0;                   // number of the first query row in the whole batch, for the replay
  Precision precision = Precision::f32;  // bf16: on CUDA in bf16, by cuDNN or to 128 wide by our own; the CPU: in T
  Index window = 0;  // where causal: a query sees the last so many keys; else those less far away on both sides; 0: all
  Hand hand = Hand::in_full;       // rounded: the result's reader reads it so
  Hand gradients = Hand::in_full;  // of q, k and v

  template <Real T, Backend B>
  auto forward(Saved<T, B>& saved, Needs<4> need, const Tensor<T, B>& q, const Tensor<T, B>& k, const Tensor<T, B>& v,
               const Tensor<T, B>& bias) const {
    require(q.rank() == 2 && k.shape() == v.shape() && k.rank() == 2, "attention: q, k and v are not alike", q, k, v);
    require(heads > 0 && q.dim(1) > 0 && q.dim(1) % heads == 0,
            "attention: the width is not a multiple of the number of heads", q, heads);
    require(key_heads >= 0 && (key_heads == 0 || heads % key_heads == 0),
            "attention: the number of heads is not a multiple of that of the keys'", heads, key_heads);
    require(k.dim(1) == spec<T, B>(q.dim(1)).key_row(), "attention: q, k and v are not alike", q, k, v);
    require(queries.tokens() == q.dim(0), "attention: the query offsets do not cover the rows", q, queries.tokens());
    require(keys.tokens() == k.dim(0), "attention: the key offsets do not cover the rows", k, keys.tokens());
    require(queries.sequences() == keys.sequences(), "attention: queries and keys have different numbers of sequences",
            queries.sequences(), keys.sequences());
    const bool fits = settled<B>([of = keys] { return of.longest() < (1 << 24); });
    require(fits, "attention: a sequence longer than 2^24 keys", k);
    require(dropout >= 0 && dropout < 1, "attention: a dropout outside [0, 1)", dropout);
    require(std::isfinite(scale), "attention: expected a finite scale, found", scale);
    require(window >= 0, "attention: a window less than 0", window);
    require(!bias.defined() || (bias.rank() == 2 && bias.dim(0) == heads && bias.dim(1) % 2),
            "attention: the bias is not [heads, an odd number of distances]", bias, heads);
    auto described = spec(q.dim(1), bias);
    const auto [full_q, full_k, full_v] = read(described, q, k, v);
    const bool round = rounds<T, B>(described, hand);
    // The backward pass reads it in full.
    auto out = Tensor<T, B>::handed(q.shape(), round && !need.any() ? Hand::rounded : Hand::in_full);
    Tensor<T, B> lse({q.dim(0), heads});
    T* const full = out.fill_full();
    if (round) described.rounded.out = out.fill_rounded(Hand::both);
    attention(B{}, described, spans(), full_q, full_k, full_v, full, lse.data());
    if (need.any()) saved = {q, k, v, out, lse, bias};
    return out;
  }

  template <Real T, Backend B>
  auto backward(const Saved<T, B>& s, Needs<4> need, const Tensor<T, B>& dout) const {
    auto described = spec(s.q.dim(1), s.bias);
    const auto [q, k, v] = read(described, s.q, s.k, s.v);
    const T* const d = read(described, described.rounded.dout, dout);
    const Hand as = rounds<T, B>(described, gradients) ? gradients : Hand::in_full;
    auto dq = Tensor<T, B>::handed(s.q.shape(), as), dk = Tensor<T, B>::handed(s.k.shape(), as),
         dv = Tensor<T, B>::handed(s.v.shape(), as);
    Tensor<T, B> dbias;
    if (need[3]) dbias = Tensor<T, B>(s.bias.shape());
    T *const to_q = dq.fill_full(), *const to_k = dk.fill_full(), *const to_v = dv.fill_full();
    if (auto& r = described.rounded; as == Hand::rounded)
      r.dq = dq.fill_rounded(as), r.dk = dk.fill_rounded(as), r.dv = dv.fill_rounded(as);
    attention_backward(B{}, described, spans(), q, k, v, s.out.data(), s.lse.data(), d, to_q, to_k, to_v,
                       need[3] ? dbias.data() : static_cast<T*>(nullptr));
    return grads(
        need, [&] { return dq; }, [&] { return dk; }, [&] { return dv; }, [&] { return dbias; });
  }

  /// Whether q [.., width], k and v are read rounded to bf16, and in no other way.
  template <Real T, Backend B>
  bool takes_rounded(Index width) const {
    return rounds<T, B>(spec<T, B>(width), Hand::rounded);
  }

 private:
  /// Where x is read: rounded where it is there so alone and the kernels take that, else in full.
  template <Real T, Backend B>
  static const T* read(const AttentionSpec<T>& spec, [[maybe_unused]] const bf16*& rounded, const Tensor<T, B>& x) {
    if constexpr (Tensor<T, B>::rounds)
      if (x.narrow() && rounds<T, B>(spec, Hand::rounded)) {
        rounded = x.rounded();
        return nullptr;
      }
    return x.data();
  }
  template <Real T, Backend B>
  static std::array<const T*, 3> read(AttentionSpec<T>& spec, const Tensor<T, B>& q, const Tensor<T, B>& k,
                                      const Tensor<T, B>& v) {
    auto& r = spec.rounded;
    return {read(spec, r.q, q), read(spec, r.k, k), read(spec, r.v, v)};
  }
  template <Real T, Backend B>
  static bool rounds([[maybe_unused]] const AttentionSpec<T>& spec, Hand as) {
    if constexpr (Tensor<T, B>::rounds) return as == Hand::rounded && attention_rounds(B{}, spec);
    else return false;
  }
  template <Real T, Backend B>
  AttentionSpec<T> spec(Index row, const Tensor<T, B>& bias = {}) const {
    const Index width = row / heads;
    const double by = scale != 0 ? scale : 1.0 / std::sqrt(static_cast<double>(width));
    AttentionSpec<T> out{heads, width,     causal,    static_cast<T>(by), dropout,
                         key,   first_row, precision, key_heads,          window};
    if (bias.defined()) out.bias = bias.data(), out.reach = bias.dim(1) / 2;
    return out;
  }
  Spans spans() const {
    const auto list = reading_again([q = queries, k = keys] {
      std::vector<Span> out;
      for (Index i = 0; i < q.sequences(); ++i) out.push_back({q.begin(i), q.length(i), k.begin(i), k.length(i)});
      return out;
    });
    Spans out(list());
    if (queries.is_open() || keys.is_open()) out.again = list, out.whose = {queries.identity(), keys.identity()};
    return out;
  }
};

/// q [query tokens, heads · width], k and v [key tokens, key_heads · width], bias [heads, 2·reach + 1] or empty → like
/// q.
template <Operand Q, Operand K, Operand V, Operand X>
VarOf<Q> attention(const Q& q, const K& k, const V& v, const X& bias, Attention spec, Where where = Where::current()) {
  return apply(where, std::move(spec), q, k, v, bias);
}
template <Operand Q, Operand K, Operand V>
VarOf<Q> attention(const Q& q, const K& k, const V& v, Attention spec, Where where = Where::current()) {
  return attention(q, k, v, VarOf<Q>(), std::move(spec), where);
}

}  // namespace meft
