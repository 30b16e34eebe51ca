#include <algorithm>
#include <fused_product.hpp>
#include <iterator>

namespace meft::cuda::fused {

namespace {

struct Modes {
  Activation f;
  cudnnPointwiseMode_t value, slope;
};
constexpr Modes modes[]{
    {Activation::relu, CUDNN_POINTWISE_RELU_FWD, CUDNN_POINTWISE_RELU_BWD},
    {Activation::gelu, CUDNN_POINTWISE_GELU_FWD, CUDNN_POINTWISE_GELU_BWD},
    {Activation::gelu_tanh, CUDNN_POINTWISE_GELU_APPROX_TANH_FWD, CUDNN_POINTWISE_GELU_APPROX_TANH_BWD},
};
const Modes* modes_of(Activation f) {
  const auto* const at = std::find_if(std::begin(modes), std::end(modes), [f](const Modes& m) { return m.f == f; });
  return at == std::end(modes) ? nullptr : at;
}

}  // namespace

bool has(Activation f) { return modes_of(f); }

dnn::Graph product_graph(const ProductShape& s) {
  using namespace dnn;
  Graph g(3);
  const Four of_a{1, 1, s.rows, s.depth}, of_b{1, 1, s.depth, s.columns}, of_c{1, 1, s.rows, s.columns},
      of_bias{1, 1, 1, s.columns};
  const bool argument = s.end != End::sum && reads_argument(s.f);
  const Tensor a = g.tensor(CUDNN_DATA_BFLOAT16, of_a, dense(of_a)),
               b = g.tensor(CUDNN_DATA_BFLOAT16, of_b,
                            s.turned ? Four{s.depth * s.columns, s.depth * s.columns, 1, s.depth} : dense(of_b)),
               c = g.tensor(CUDNN_DATA_BFLOAT16, of_c, dense(of_c)),
               bias = g.tensor(CUDNN_DATA_FLOAT, of_bias, dense(of_bias)),
               before = g.tensor(argument ? CUDNN_DATA_FLOAT : CUDNN_DATA_BFLOAT16, of_c, dense(of_c));
  require(before.id == static_cast<std::int64_t>(ProductId::before), "cuda: ids of a product's tensors", before.id);
  const auto inner = [&] { return g.inner(CUDNN_DATA_FLOAT, of_c); };
  const Tensor last = s.end == End::sum ? c : s.end == End::activation && argument ? before : inner();
  const Tensor product = g.matmul(a, b, s.bias ? inner() : last, {}, {}, {});
  const Tensor sum = s.bias ? g.pointwise(CUDNN_POINTWISE_ADD, last, product, bias) : product;
  if (s.end == End::slope) g.slope(modes_of(s.f)->slope, c, sum, before);
  if (s.end == End::activation) g.pointwise(modes_of(s.f)->value, c, sum);
  return g;
}

}  // namespace meft::cuda::fused
