#include <fused_attention.hpp>

namespace meft::cuda::fused {

namespace {

using namespace dnn;

void expect(const Tensor& tensor, Id id) {
  require(tensor.id == id, "cuda: a tensor of a graph has another id than its name", tensor.id,
          static_cast<std::int64_t>(id));
}

/// What both passes hold, made in the order of Id; the backward pass reads v with its last two axes exchanged.
struct Common {
  Common(const Shape& of, bool v_turned) : shape(of), scores{of.batch, of.heads, of.queries, of.keys} {
    const Four bounds{shape.batch + 1, 1, 1, 1}, lengths{shape.batch, 1, 1, 1}, unit{1, 1, 1, 1};
    for (Tensor* t : {&q_offsets, &k_offsets, &s_offsets}) *t = graph.tensor(CUDNN_DATA_INT32, bounds, unit);
    for (Tensor* t : {&q_lengths, &k_lengths}) *t = graph.tensor(CUDNN_DATA_INT32, lengths, unit);
    q = rows(shape.queries, q_offsets);
    k_turned = turned(shape.keys, k_offsets);
    v = v_turned ? turned(shape.keys, k_offsets) : rows(shape.keys, k_offsets);
    out = rows(shape.queries, q_offsets);
    lse = graph.tensor(CUDNN_DATA_FLOAT, one_a_row(), {shape.queries * shape.heads, 1, shape.heads, 1}, s_offsets);
    scale = graph.number(CUDNN_DATA_FLOAT);
    lowest = graph.number(CUDNN_DATA_FLOAT);
    expect(lowest, Id::lowest);
  }

  Graph graph{};
  Shape shape;
  Tensor q_offsets{}, k_offsets{}, s_offsets{}, q_lengths{}, k_lengths{};
  Tensor q{}, k_turned{}, v{}, out{}, lse{}, scale{}, lowest{};
  Four scores;

  /// [batch, heads, rows, width] in packed rows.
  Tensor rows(std::int64_t count, const Tensor& offsets) {
    return graph.tensor(CUDNN_DATA_BFLOAT16, {shape.batch, shape.heads, count, shape.width}, row_strides(count),
                        offsets);
  }
  /// The same with its last two axes exchanged.
  Tensor turned(std::int64_t count, const Tensor& offsets) {
    const Four s = row_strides(count);
    return graph.tensor(CUDNN_DATA_BFLOAT16, {shape.batch, shape.heads, shape.width, count}, {s[0], s[1], s[3], s[2]},
                        offsets);
  }
  Four row_strides(std::int64_t count) const {
    return {count * shape.heads * shape.width, shape.width, shape.heads * shape.width, 1};
  }
  Four one_a_row() const { return {shape.batch, shape.heads, shape.queries, 1}; }
  Tensor inner() { return graph.inner(CUDNN_DATA_FLOAT, scores); }
  Tensor flags() { return graph.inner(CUDNN_DATA_BOOLEAN, scores); }

  /// Scores where there is no query or no key, and of a causal sequence those of later keys, become the lowest number.
  Tensor within(const Tensor& x) {
    const Tensor row = graph.places(x, 2), column = graph.places(x, 3);
    const Tensor in = graph.pointwise(CUDNN_POINTWISE_LOGICAL_AND, flags(),
                                      graph.pointwise(CUDNN_POINTWISE_CMP_LT, flags(), row, q_lengths),
                                      graph.pointwise(CUDNN_POINTWISE_CMP_LT, flags(), column, k_lengths));
    return graph.pointwise(CUDNN_POINTWISE_BINARY_SELECT, inner(), x, lowest, in);
  }
  Tensor seen(const Tensor& x) {
    if (!shape.causal) return x;
    const Tensor row = graph.places(x, 2), column = graph.places(x, 3);
    return graph.pointwise(CUDNN_POINTWISE_BINARY_SELECT, inner(), x, lowest,
                           graph.pointwise(CUDNN_POINTWISE_CMP_GE, flags(), row, column));
  }
  /// scale·q·kᵀ.
  Tensor products() {
    const Tensor x = graph.matmul(q, k_turned, inner(), q_lengths, k_lengths, {});
    return graph.pointwise(CUDNN_POINTWISE_MUL, inner(), x, scale);
  }
};

}  // namespace

Graph forward_graph(const Shape& shape) {
  Common c(shape, false);
  auto& g = c.graph;
  const auto a_row = [&] { return g.inner(CUDNN_DATA_FLOAT, c.one_a_row()); };
  const Tensor x = c.seen(c.within(c.products()));
  const Tensor top = g.reduce(CUDNN_REDUCE_TENSOR_MAX, x, a_row());
  const Tensor e = g.pointwise(CUDNN_POINTWISE_EXP, c.inner(), g.pointwise(CUDNN_POINTWISE_SUB, c.inner(), x, top));
  const Tensor total = g.reduce(CUDNN_REDUCE_TENSOR_ADD, e, a_row());
  g.pointwise(CUDNN_POINTWISE_ADD, c.lse, top, g.pointwise(CUDNN_POINTWISE_LOG, a_row(), total));
  const Tensor p = g.pointwise(CUDNN_POINTWISE_DIV, g.inner(CUDNN_DATA_BFLOAT16, c.scores), e, total);
  g.matmul(p, c.v, c.out, c.q_lengths, {}, c.k_lengths);
  return std::move(c.graph);
}

Graph backward_graph(const Shape& shape) {
  Common c(shape, true);
  auto& g = c.graph;
  const Tensor dout = c.rows(shape.queries, c.q_offsets), dq = c.rows(shape.queries, c.q_offsets),
               dk = c.rows(shape.keys, c.k_offsets), dv = c.rows(shape.keys, c.k_offsets),
               row_sums = g.tensor(CUDNN_DATA_FLOAT, c.one_a_row(), dense(c.one_a_row())),
               one = g.number(CUDNN_DATA_FLOAT);
  expect(one, Id::one);

  // Σ dout·out of each row; the factor 1 stands where dropout would have its own.
  const Four rows{shape.batch, shape.heads, shape.queries, shape.width};
  const Tensor both = g.pointwise(
      CUDNN_POINTWISE_MUL,
      g.inner(CUDNN_DATA_FLOAT, rows,
              {shape.heads * shape.queries * shape.width, shape.queries * shape.width, shape.heads * shape.width, 1}),
      dout, c.out);
  g.pointwise(CUDNN_POINTWISE_MUL, row_sums,
              g.reduce(CUDNN_REDUCE_TENSOR_ADD, both, g.inner(CUDNN_DATA_FLOAT, c.one_a_row())), one);

  // p = exp(x − lse), dv = pᵀ·dout.
  const auto across = [&](const Tensor& x) {
    return g.reshape(x, g.inner(CUDNN_DATA_BFLOAT16, {shape.batch, shape.heads, shape.keys, shape.queries},
                                {shape.heads * shape.queries * shape.keys, shape.queries * shape.keys, 1, shape.keys}));
  };
  const Tensor x = c.seen(g.pointwise(CUDNN_POINTWISE_SUB, c.inner(), c.within(c.products()), c.lse));
  const Tensor p = g.pointwise(CUDNN_POINTWISE_EXP, c.inner(), x);
  g.matmul(across(p), dout, dv, c.k_lengths, {}, c.q_lengths);

  // ds = (dout·vᵀ − Σ dout·out)·p·scale, dk = dsᵀ·q, dq = ds·k.
  Tensor ds = g.matmul(dout, c.v, c.inner(), c.q_lengths, c.k_lengths, {});
  ds = g.pointwise(CUDNN_POINTWISE_SUB, c.inner(), ds, row_sums);
  ds = g.pointwise(CUDNN_POINTWISE_MUL, c.inner(), ds, p);
  ds = g.pointwise(CUDNN_POINTWISE_MUL, g.inner(CUDNN_DATA_BFLOAT16, c.scores), ds, c.scale);
  g.matmul(across(ds), c.q, dk, c.k_lengths, {}, c.q_lengths);
  const Tensor keys =
      g.reshape(c.k_turned, g.inner(CUDNN_DATA_BFLOAT16, {shape.batch, shape.heads, shape.keys, shape.width},
                                    c.row_strides(shape.keys), c.k_offsets));
  g.matmul(ds, keys, dq, c.q_lengths, {}, c.k_lengths);
  return std::move(c.graph);
}

}  // namespace meft::cuda::fused
