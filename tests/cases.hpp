// Owns: one line for each op: how to call it, on which shapes, and what it may keep. check_cases.hpp says what is
// checked of each. The list is in three parts, one for each program that checks them, to keep each quick to compile.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <meft/ops/activation.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/attention.hpp>
#include <meft/ops/bottleneck.hpp>
#include <meft/ops/checkpoint.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/embedding.hpp>
#include <meft/ops/gated.hpp>
#include <meft/ops/language.hpp>
#include <meft/ops/linear_activation.hpp>
#include <meft/ops/loss.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/norm.hpp>
#include <meft/ops/pooling.hpp>
#include <meft/ops/prefix_attention.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/relu_attention.hpp>
#include <meft/ops/residual.hpp>
#include <meft/ops/rotary.hpp>
#include <meft/ops/scaled_activation.hpp>
#include <meft/ops/shape.hpp>
#include <meft/ops/softmax.hpp>
#include <meft/ops/sparse_linear.hpp>

#include "tools.hpp"

namespace meft::test {

using Shapes = std::vector<Shape>;

/// A call of an op on inputs of given shapes, in float and in double, on one backend.
template <Backend B>
struct CaseOn {
  template <class F>
  CaseOn(std::string n, Shapes small, Shapes large, F f, std::vector<Index> keeps, double lo = -2, double hi = 2)
      : name(std::move(n)),
        shapes(std::move(small)),
        big(std::move(large)),
        single(f),
        twice(f),
        saved(std::move(keeps)),
        low(lo),
        high(hi) {}

  template <class T>
  Var<T, B> run(const std::vector<Var<T, B>>& x) const {
    if constexpr (sizeof(T) == 4) return single(x);
    else return twice(x);
  }

  std::string name;
  Shapes shapes, big;  // big: more than one chunk of a parallel loop
  std::function<Var<float, B>(const std::vector<Var<float, B>>&)> single;
  std::function<Var<double, B>(const std::vector<Var<double, B>>&)> twice;
  std::vector<Index>
      saved;         // elements (of four bytes) of each tensor kept for `shapes`, every input needing a gradient
  double low, high;  // range of the inputs' elements
};
using Case = CaseOn<Cpu>;

template <class X>
using ElementOf = typename std::decay_t<X>::value_type::value_type;

/// n numbers in [0, limit), many of them repeated.
inline std::vector<std::int32_t> number_list(Index n, Index limit) {
  std::vector<std::int32_t> out;
  for (Index i = 0; i < n; ++i) out.push_back(static_cast<std::int32_t>((i * i + 3 * i + 1) % limit));
  return out;
}
template <Backend B>
Tensor<std::int32_t, B> numbers(Index n, Index limit) {
  return Tensor<std::int32_t, B>::from(Shape{n}, number_list(n, limit));
}

/// n tokens in `parts` sequences of unequal lengths, none empty; n ≥ parts.
inline Offsets split(Index n, Index parts) {
  std::vector<std::int32_t> starts;
  for (Index i = 0; i <= parts; ++i) {
    const Index start = i + (n - parts) * i * i / (parts * parts);
    starts.push_back(static_cast<std::int32_t>(start));
  }
  return Offsets(starts);
}

inline Attention attention_spec(Index queries, Index keys, bool causal, float dropout = 0) {
  return {.queries = split(queries, 2),
          .keys = split(keys, 2),
          .heads = 2,
          .causal = causal,
          .dropout = dropout,
          .key = {7, 1, 2}};
}

inline Attention grouped_spec(Index queries, Index keys, bool causal, float dropout = 0) {
  auto out = attention_spec(queries, keys, causal, dropout);
  out.heads = 6;
  out.key_heads = 2;
  return out;
}

// A line: name, shapes, big shapes, call, elements of each tensor kept, range of the inputs. The lists are templates so
// that a program compiles only the one it calls.

/// A packed weight [out, in], and the places of k of its elements, every third.
template <Real T, Backend B>
std::pair<PackedWeight<T, B>, Tensor<std::int32_t, B>> chosen_of(Index out, Index in, Index k) {
  std::vector<std::int32_t> at;
  for (Index m = 0; m < k; ++m) at.push_back(static_cast<std::int32_t>(3 * m + 1));
  return {PackedWeight<T, B>(random_tensor<T, B>({out, in}, 5)), Tensor<std::int32_t, B>::from({k}, at)};
}

/// ops/arithmetic.hpp, activation.hpp, gated.hpp and scaled_activation.hpp.
template <Backend B = Cpu>
std::vector<CaseOn<B>> elementwise_cases() {
  return {
      // arithmetic
      {"add", {{3, 5}, {3, 5}}, {{300, 97}, {300, 97}}, [](auto& x) { return add(x[0], x[1]); }, {}},
      {"add row", {{3, 5}, {5}}, {{300, 97}, {97}}, [](auto& x) { return x[0] + x[1]; }, {}},
      {"add number", {{3, 5}}, {{300, 97}}, [](auto& x) { return 2 + x[0]; }, {}},
      {"sub", {{2, 1, 4}, {3, 1}}, {{40, 1, 97}, {30, 1}}, [](auto& x) { return sub(x[0], x[1]); }, {}},
      {"number sub", {{3, 5}}, {{300, 97}}, [](auto& x) { return 2 - x[0]; }, {}},
      {"sub number", {{3, 5}}, {{300, 97}}, [](auto& x) { return x[0] - 2; }, {}},
      {"mul", {{3, 5}, {3, 1}}, {{300, 97}, {300, 1}}, [](auto& x) { return mul(x[0], x[1]); }, {15, 3}},
      {"mul itself", {{3, 5}}, {{300, 97}}, [](auto& x) { return x[0] * x[0]; }, {15}},
      {"mul number", {{3, 5}}, {{300, 97}}, [](auto& x) { return x[0] * 0.3; }, {}},
      {"div", {{3, 5}, {5}}, {{300, 97}, {97}}, [](auto& x) { return div(x[0], x[1]); }, {5, 15}, 0.5, 2},
      {"div number", {{3, 5}}, {{300, 97}}, [](auto& x) { return x[0] / 3; }, {}},
      {"number div", {{3, 5}}, {{300, 97}}, [](auto& x) { return 3 / x[0]; }, {15}, 0.5, 2},
      // elementwise functions
      {"neg", {{3, 5}}, {{300, 97}}, [](auto& x) { return -x[0]; }, {}},
      {"exp", {{3, 5}}, {{300, 97}}, [](auto& x) { return exp(x[0]); }, {15}},
      {"log", {{3, 5}}, {{300, 97}}, [](auto& x) { return log(x[0]); }, {15}, 0.5, 4},
      {"sqrt", {{3, 5}}, {{300, 97}}, [](auto& x) { return sqrt(x[0]); }, {15}, 0.5, 4},
      {"square", {{3, 5}}, {{300, 97}}, [](auto& x) { return square(x[0]); }, {15}},
      {"abs", {{3, 5}}, {{300, 97}}, [](auto& x) { return abs(x[0]); }, {15}},
      {"tanh", {{3, 5}}, {{300, 97}}, [](auto& x) { return tanh(x[0]); }, {15}},
      {"sigmoid", {{3, 5}}, {{300, 97}}, [](auto& x) { return sigmoid(x[0]); }, {15}},
      {"relu", {{3, 5}}, {{300, 97}}, [](auto& x) { return relu(x[0]); }, {15}},
      {"silu", {{3, 5}}, {{300, 97}}, [](auto& x) { return silu(x[0]); }, {15}},
      {"gelu", {{3, 5}}, {{300, 97}}, [](auto& x) { return gelu(x[0]); }, {15}},
      {"gelu_tanh", {{3, 5}}, {{300, 97}}, [](auto& x) { return gelu_tanh(x[0]); }, {15}},
      {"activate", {{3, 5}}, {{300, 97}}, [](auto& x) { return activate(x[0], Activation::silu); }, {15}},
      {"gated silu",
       {{3, 5}, {3, 5}},
       {{300, 97}, {300, 97}},
       [](auto& x) { return gated(x[0], x[1], Activation::silu); },
       {15, 15}},
      {"gated gelu",
       {{3, 8}, {3, 8}},
       {{300, 96}, {300, 96}},
       [](auto& x) { return gated(x[0], x[1], Activation::gelu); },
       {24, 24}},
      {"gated gelu_tanh",
       {{3, 5}, {3, 5}},
       {{300, 97}, {300, 97}},
       [](auto& x) { return gated(x[0], x[1], Activation::gelu_tanh); },
       {15, 15}},
      {"gated relu, tanh",
       {{3, 5}, {3, 5}},
       {{300, 97}, {300, 97}},
       [](auto& x) { return gated(gated(x[0], x[1], Activation::relu), x[1], Activation::tanh); },
       {15, 15, 15}},
      {"scaled_activation gelu",
       {{2, 3, 5}, {5}},
       {{3, 100, 97}, {97}},
       [](auto& x) { return scaled_activation(x[0], x[1], Activation::gelu); },
       {30, 5}},
      {"scaled_activation relu, tanh",
       {{3, 5}, {5}},
       {{300, 97}, {97}},
       [](auto& x) {
         return scaled_activation(scaled_activation(x[0], x[1], Activation::relu), x[1], Activation::tanh);
       },
       {15, 5, 15}},
      {"scaled_gated",
       {{3, 5}, {5}, {3, 5}},
       {{300, 97}, {97}, {300, 97}},
       [](auto& x) { return scaled_gated(x[0], x[1], x[2], Activation::silu); },
       {15, 5, 15}},
  };
}

/// ops/matmul.hpp, linear.hpp, linear_activation.hpp, softmax.hpp, norm.hpp, residual.hpp, attention.hpp,
/// relu_attention.hpp, rotary.hpp.
template <Backend B = Cpu>
std::vector<CaseOn<B>> matrix_cases() {
  const auto in_a_basis = [](auto& x) {
    using T = ElementOf<decltype(x)>;
    static const auto chosen = chosen_of<T, B>(5, 4, 6);
    static const Basis<T, B> basis{random_tensor<T, B>({5, 5}, 6), random_tensor<T, B>({4, 4}, 7)};
    auto s = Tensor<T, B>::zeros({20});
    scatter_rows(B{}, 6, 1, x[1].value().data(), chosen.second.data(), s.data());
    chosen.first.write({}, gemm(gemm(basis.out, s.reshape({5, 4})), t(basis.in)));
    return sparse_linear(x[0], chosen.first, chosen.second, x[1], x[2], basis);
  };
  return {
      // products
      {"matmul", {{3, 4}, {4, 5}}, {{150, 90}, {90, 130}}, [](auto& x) { return matmul(x[0], x[1]); }, {12, 20}},
      {"matmul batched",
       {{2, 3, 4}, {2, 4, 5}},
       {{5, 70, 90}, {5, 90, 30}},
       [](auto& x) { return matmul(x[0], x[1]); },
       {24, 40}},
      {"gram", {{2, 3, 4}}, {{4, 70, 90}}, [](auto& x) { return gram(x[0]); }, {24}},
      {"matmul frozen",
       {{3, 4}},
       {{150, 4}},
       [](auto& x) {
         return matmul(x[0], random_tensor<ElementOf<decltype(x)>, B>({4, 5}, 5));
       },
       {20}},
      {"linear",
       {{3, 4}, {5, 4}, {5}},
       {{150, 90}, {130, 90}, {130}},
       [](auto& x) { return linear(x[0], x[1], x[2]); },
       {12, 20}},
      {"linear without bias",
       {{2, 3, 4}, {5, 4}},
       {{5, 30, 90}, {130, 90}},
       [](auto& x) { return linear(x[0], x[1]); },
       {24, 20}},
      {"linear packed",
       {{3, 4}, {5}},
       {{500, 4}, {5}},
       [](auto& x) {
         static const PackedWeight<ElementOf<decltype(x)>, B> w(random_tensor<ElementOf<decltype(x)>, B>({5, 4}, 5));
         return linear(x[0], w, x[1]);
       },
       {}},
      {"linear sparse, of the whole product",
       {{3, 4}, {6}, {5}},
       {{500, 4}, {6}, {5}},
       [](auto& x) {
         static const auto chosen = chosen_of<ElementOf<decltype(x)>, B>(5, 4, 6);
         chosen.first.write(chosen.second, x[1].value());
         return sparse_linear(x[0], chosen.first, chosen.second, x[1], x[2]);
       },
       {12, 6}},
      {"linear sparse, by element",
       {{3, 26}, {10}, {40}},
       {{500, 26}, {10}, {40}},
       [](auto& x) {
         static const auto chosen = chosen_of<ElementOf<decltype(x)>, B>(40, 26, 10);
         chosen.first.write(chosen.second, x[1].value());
         return sparse_linear(x[0], chosen.first, chosen.second, x[1], x[2]);
       },
       {78, 10}},
      {"linear sparse in a basis", {{3, 4}, {6}, {5}}, {{500, 4}, {6}, {5}}, in_a_basis, {12, 6}},
      {"linear sparse in a basis, by its matrix", {{9, 4}, {6}, {5}}, {{300, 4}, {6}, {5}}, in_a_basis, {36, 6}},
      {"linear_activation sparse",
       {{3, 4}, {20}, {5}},
       {{500, 4}, {20}, {5}},
       [](auto& x) {
         static const PackedWeight<ElementOf<decltype(x)>, B> w(random_tensor<ElementOf<decltype(x)>, B>({5, 4}, 5));
         w.write({}, x[1].value());
         return sparse_linear_activation(x[0], w, {}, x[1], x[2], Activation::gelu);
       },
       {12, 20, 15}},
      {"linear_activation relu",
       {{3, 4}, {5, 4}, {5}},
       {{150, 90}, {130, 90}, {130}},
       [](auto& x) { return linear_activation(x[0], x[1], x[2], Activation::relu); },
       {12, 20, 15}},
      {"linear_activation gelu_tanh",
       {{3, 4}, {8, 4}, {8}},
       {{150, 90}, {136, 90}, {136}},
       [](auto& x) { return linear_activation(x[0], x[1], x[2], Activation::gelu_tanh); },
       {12, 32, 24}},
      {"linear_activation packed",
       {{3, 4}, {5}},
       {{500, 4}, {5}},
       [](auto& x) {
         static const PackedWeight<ElementOf<decltype(x)>, B> w(random_tensor<ElementOf<decltype(x)>, B>({5, 4}, 5));
         return linear_activation(x[0], w, x[1], Activation::gelu);
       },
       {15}},
      // softmax, norm
      {"softmax", {{3, 5}}, {{300, 97}}, [](auto& x) { return softmax(x[0]); }, {15}},
      {"softmax first axis", {{3, 5, 2}}, {{30, 97, 20}}, [](auto& x) { return softmax(x[0], 0); }, {30}},
      {"log_softmax", {{3, 5}}, {{300, 97}}, [](auto& x) { return log_softmax(x[0]); }, {15}},
      {"layer_norm",
       {{3, 5}, {5}, {5}},
       {{300, 97}, {97}, {97}},
       [](auto& x) { return layer_norm(x[0], x[1], x[2], 1e-5); },
       {15, 5, 3, 3}},
      {"layer_norm frozen",
       {{2, 3, 5}},
       {{30, 20, 5}},
       [](auto& x) {
         using T = ElementOf<decltype(x)>;
         return layer_norm(x[0], random_tensor<T, B>({5}, 5), random_tensor<T, B>({5}, 6), 1e-5);
       },
       {30, 5, 6, 6}},
      {"rms_norm", {{3, 5}, {5}}, {{300, 97}, {97}}, [](auto& x) { return rms_norm(x[0], x[1]); }, {15, 3, 5}},
      {"rms_norm frozen",
       {{2, 3, 8}},
       {{30, 20, 96}},
       [](auto& x) {
         using T = ElementOf<decltype(x)>;
         return rms_norm(x[0], random_tensor<T, B>({x[0].dim(2)}, 5));
       },
       {48, 6, 8}},
      {"bottleneck",
       {{6, 7}, {3, 7}, {3}, {7, 3}, {7}},
       {{300, 97}, {11, 97}, {11}, {97, 11}, {97}},
       [](auto& x) { return bottleneck(x[0], x[1], x[2], x[3], x[4], Activation::gelu); },
       {42, 18, 21, 3, 21, 7}},
      {"residual_norm",
       {{3, 5}, {3, 5}, {5}, {5}},
       {{300, 97}, {300, 97}, {97}, {97}},
       [](auto& x) { return residual_norm(x[0], x[1], x[2], x[3], 1e-5); },
       {15, 5, 3, 3}},
      {"residual_norm dropout",
       {{3, 8}, {3, 8}, {8}, {8}, {3, 8}},
       {{300, 96}, {300, 96}, {96}, {96}, {300, 96}},
       [](auto& x) {
         return residual_norm(x[0], x[1], x[2], x[3], 1e-5, 0.3, {1, 2, 3}, 6, Hand::in_full, x[4]);
       },
       {24, 8, 3, 3}},
      // attention
      {"attention",
       {{7, 6}, {7, 6}, {7, 6}},
       {{200, 32}, {200, 32}, {200, 32}},
       [](auto& x) { return attention(x[0], x[1], x[2], attention_spec(x[0].dim(0), x[1].dim(0), false)); },
       {42, 42, 42, 42, 14}},
      {"attention causal",
       {{7, 6}, {7, 6}, {7, 6}},
       {{200, 32}, {200, 32}, {200, 32}},
       [](auto& x) { return attention(x[0], x[1], x[2], attention_spec(x[0].dim(0), x[1].dim(0), true)); },
       {42, 42, 42, 42, 14}},
      {"attention causal, first queries without a key",
       {{9, 6}, {5, 6}, {5, 6}},
       {{210, 32}, {150, 32}, {150, 32}},
       [](auto& x) { return attention(x[0], x[1], x[2], attention_spec(x[0].dim(0), x[1].dim(0), true)); },
       {54, 30, 30, 54, 18}},
      {"attention cross",
       {{5, 6}, {8, 6}, {8, 6}},
       {{150, 32}, {210, 32}, {210, 32}},
       [](auto& x) { return attention(x[0], x[1], x[2], attention_spec(x[0].dim(0), x[1].dim(0), false)); },
       {30, 48, 48, 30, 10}},
      {"attention dropout",
       {{7, 6}, {7, 6}, {7, 6}},
       {{200, 32}, {200, 32}, {200, 32}},
       [](auto& x) { return attention(x[0], x[1], x[2], attention_spec(x[0].dim(0), x[1].dim(0), false, 0.3f)); },
       {42, 42, 42, 42, 14}},
      {"prefix_attention, relative position",
       {{7, 6}, {7, 6}, {7, 6}, {3, 6}, {3, 6}, {2, 5}},
       {{200, 32}, {200, 32}, {200, 32}, {70, 32}, {70, 32}, {2, 65}},
       [](auto& x) {
         const auto spec = attention_spec(x[0].dim(0), x[1].dim(0), false, 0.3f);
         return prefix_attention(x[0], x[1], x[2], x[3], x[4], x[5], spec);
       },
       {42, 42, 42, 42, 14, 10, 18, 18}},
      {"prefix_attention grouped, causal",
       {{7, 12}, {7, 4}, {7, 4}, {2, 4}, {2, 4}},
       {{200, 48}, {200, 16}, {200, 16}, {5, 16}, {5, 16}},
       [](auto& x) {
         return prefix_attention(x[0], x[1], x[2], x[3], x[4], grouped_spec(x[0].dim(0), x[1].dim(0), true));
       },
       {84, 28, 28, 84, 42, 8, 8}},
      {"relu_attention",
       {{7, 6}, {7, 6}},
       {{200, 33}, {200, 33}},
       [](auto& x) { return relu_attention(x[0], x[1], split(x[0].dim(0), 2)); },
       {42, 42, 42, 7}},
      {"relu_attention causal",
       {{7, 6}, {7, 6}},
       {{200, 33}, {200, 33}},
       [](auto& x) { return relu_attention(x[0], x[1], split(x[0].dim(0), 2), true); },
       {42, 42, 42, 7}},
      {"attention, relative position, near keys alone",
       {{7, 6}, {7, 6}, {7, 6}, {2, 5}},
       {{200, 96}, {200, 96}, {200, 96}, {2, 65}},
       [](auto& x) {
         auto spec = attention_spec(x[0].dim(0), x[1].dim(0), false, 0.3f);
         spec.window = x[0].dim(0) / 2;
         return attention(x[0], x[1], x[2], x[3], spec);
       },
       {42, 42, 42, 42, 14, 10}},
      {"attention grouped, in a window",
       {{9, 12}, {9, 4}, {9, 4}},
       {{400, 48}, {400, 16}, {400, 16}},
       [](auto& x) {
         auto spec = grouped_spec(x[0].dim(0), x[1].dim(0), true, 0.3f);
         spec.window = x[0].dim(0) / 3;
         return attention(x[0], x[1], x[2], spec);
       },
       {108, 36, 36, 108, 54}},
      {"attention grouped",
       {{7, 12}, {7, 4}, {7, 4}},
       {{200, 96}, {200, 32}, {200, 32}},
       [](auto& x) { return attention(x[0], x[1], x[2], grouped_spec(x[0].dim(0), x[1].dim(0), true)); },
       {84, 28, 28, 84, 42}},
      {"attention grouped, cross, dropout",
       {{5, 12}, {8, 4}, {8, 4}},
       {{150, 48}, {210, 16}, {210, 16}},
       [](auto& x) { return attention(x[0], x[1], x[2], grouped_spec(x[0].dim(0), x[1].dim(0), false, 0.3f)); },
       {60, 32, 32, 60, 30}},
      // position
      {"rotary",
       {{7, 12}},
       {{300, 96}},
       [](auto& x) { return rotary(x[0], split(x[0].dim(0), 2), 2, {.rotated = x[0].dim(1) / 2}); },
       {}},
      {"rotary interleaved",
       {{7, 12}},
       {{300, 96}},
       [](auto& x) {
         return rotary(x[0], split(x[0].dim(0), 2), 3, {x[0].dim(1) / 3, 5e5, true});
       },
       {}},
      {"rotary of long contexts",
       {{5, 8}},
       {{300, 96}},
       [](auto& x) {
         return rotary(x[0], split(x[0].dim(0), 2), 1,
                       {.rotated = x[0].dim(1),
                        .factor = 4,
                        .keeps = RotarySpec::Keeps::by_turns,
                        .low = 1,
                        .high = 4,
                        .original = 32,
                        .magnitude = 1.25});
       },
       {}},
      {"rotary of some features",
       {{7, 18}},
       {{300, 126}},
       [](auto& x) { return rotary(x[0], split(x[0].dim(0), 3), 2, {.rotated = 4}); },
       {}},
  };
}

/// ops/reduce.hpp, shape.hpp, pooling.hpp, embedding.hpp, dropout.hpp, residual.hpp, loss.hpp, checkpoint.hpp.
template <Backend B = Cpu>
std::vector<CaseOn<B>> row_cases() {
  const auto labels = [](const auto& x) {
    auto out = number_list(x[0].dim(0), x[0].dim(1));
    out[1] = -100;
    return Tensor<std::int32_t, B>::from(Shape{x[0].dim(0)}, out);
  };
  return {
      // reductions
      {"sum", {{3, 5}}, {{300, 97}}, [](auto& x) { return sum(x[0]); }, {}},
      {"sum axes",
       {{3, 4, 5}},
       {{30, 40, 50}},
       [](auto& x) {
         return sum(x[0], {.axes = {0, -1}});
       },
       {}},
      {"mean", {{3, 5}}, {{300, 97}}, [](auto& x) { return mean(x[0], {.axes = {0}, .keep = true}); }, {}},
      {"max", {{3, 5}}, {{300, 97}}, [](auto& x) { return max(x[0], {.axes = {1}}); }, {3}},
      {"max axes",
       {{3, 4, 5}},
       {{30, 40, 50}},
       [](auto& x) {
         return max(x[0], {.axes = {0, 2}});
       },
       {4}},
      // moving elements
      {"reshape",
       {{3, 4}},
       {{300, 96}},
       [](auto& x) {
         return reshape(x[0], {-1, 2});
       },
       {}},
      {"transpose", {{3, 4}}, {{300, 97}}, [](auto& x) { return transpose(x[0]); }, {}},
      {"permute",
       {{2, 3, 4, 2}},
       {{20, 30, 7, 9}},
       [](auto& x) {
         return permute(x[0], {2, 0, 3, 1});
       },
       {}},
      {"concat",
       {{3, 2}, {3, 4}},
       {{300, 70}, {300, 41}},
       [](auto& x) {
         return concat({x[0], x[1], x[0]}, 1);
       },
       {}},
      {"slice", {{3, 5}}, {{300, 97}}, [](auto& x) { return slice(x[0], -1, 1, 4); }, {}},
      {"slice rows", {{5, 3}}, {{300, 97}}, [](auto& x) { return slice(x[0], 0, 1, 4); }, {}},
      {"gather", {{4, 3}}, {{40, 300}}, [](auto& x) { return gather(x[0], numbers<B>(9, x[0].dim(0))); }, {9}},
      {"first_rows", {{7, 3}}, {{300, 97}}, [](auto& x) { return first_rows(x[0], split(x[0].dim(0), 3)); }, {}},
      {"mean_rows", {{7, 3}}, {{300, 97}}, [](auto& x) { return mean_rows(x[0], split(x[0].dim(0), 3)); }, {}},
      {"last_rows", {{7, 3}}, {{300, 97}}, [](auto& x) { return last_rows(x[0], split(x[0].dim(0), 3)); }, {}},
      {"mean_rows but the first",
       {{9, 3}},
       {{300, 97}},
       [](auto& x) {
         return mean_rows(x[0], Offsets({0, 3, 4, static_cast<std::int32_t>(x[0].dim(0))}), 1);
       },
       {}},
      {"embedding", {{4, 3}}, {{40, 300}}, [](auto& x) { return embedding(x[0], numbers<B>(9, x[0].dim(0))); }, {9}},
      // the rest
      {"dropout",
       {{5, 7}},
       {{300, 197}},
       [](auto& x) {
         return dropout(x[0], 0.3, {1, 2, 3}, 5);
       },
       {}},
      {"activate_dropout gelu",
       {{5, 8}},
       {{300, 200}},
       [](auto& x) {
         return activate_dropout(x[0], Activation::gelu, 0.3, {1, 2, 3}, 8);
       },
       {40}},
      {"activate_dropout tanh",
       {{5, 7}},
       {{300, 197}},
       [](auto& x) {
         return activate_dropout(x[0], Activation::tanh, 0.3, {1, 2, 3}, 5);
       },
       {35}},
      {"residual", {{5, 7}, {5, 7}}, {{300, 197}, {300, 197}}, [](auto& x) { return residual(x[0], x[1]); }, {}},
      {"residual dropout",
       {{5, 7}, {5, 7}, {5, 7}},
       {{300, 200}, {300, 200}, {300, 200}},
       [](auto& x) {
         return residual(x[0], x[1], 0.3, {1, 2, 3}, 5, Hand::in_full, x[2]);
       },
       {}},
      {"cross_entropy",
       {{4, 3}},
       {{300, 97}},
       [labels](auto& x) { return cross_entropy(x[0], labels(x)); },
       {12, 4, 4}},
      {"linear_cross_entropy",
       {{5, 3}, {4, 3}, {4}},
       {{300, 97}, {130, 97}, {130}},
       [](auto& x) { return linear_cross_entropy(x[0], x[1], x[2], numbers<B>(x[0].dim(0), x[1].dim(0))); },
       {15, 12, 4, 5}},
      {"token_log_likelihood",
       {{5, 3}, {4, 3}, {4}},
       {{300, 97}, {130, 97}, {130}},
       [](auto& x) { return token_log_likelihood(x[0], x[1], x[2], numbers<B>(x[0].dim(0), x[1].dim(0))); },
       {15, 12, 4, 5}},
      {"mse", {{3, 5}, {3, 5}}, {{300, 97}, {300, 97}}, [](auto& x) { return mse(x[0], x[1]); }, {15, 15}},
      {"checkpoint",
       {{3, 5}},
       {{300, 97}},
       [](auto& x) { return checkpoint([](const auto& h) { return gelu(exp(h) * h); }, x[0]); },
       {15}},
  };
}

}  // namespace meft::test
