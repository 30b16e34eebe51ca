#include "dnn.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numbers>
#include <set>
#include <unordered_map>

#include "emulate.hpp"
#include "include/cuda_bf16.h"
#include "memory.hpp"
#include "runtime.hpp"

namespace emulate::dnn {

namespace {

std::size_t number = [] {
  const char* text = std::getenv("MEFT_EMULATE_CUDNN");
  return text ? std::strtoull(text, nullptr, 10) : 91900;
}();
std::int64_t bytes_a_score = 2;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

struct Value {
  Four dims{};
  std::vector<double> data;
  double at(const Four& i) const {
    std::int64_t place = 0;
    for (int a = 0; a < 4; ++a) place = place * dims[a] + (dims[a] == 1 ? 0 : i[a]);
    return data[static_cast<std::size_t>(place)];
  }
};

std::size_t bytes_of(cudnnDataType_t type) {
  return type == CUDNN_DATA_BFLOAT16 ? 2 : type == CUDNN_DATA_BOOLEAN ? 1 : 4;
}

double rounded(double x, cudnnDataType_t type) {
  switch (type) {
    case CUDNN_DATA_BFLOAT16: return static_cast<float>(__nv_bfloat16(static_cast<float>(x)));
    case CUDNN_DATA_FLOAT: return static_cast<float>(x);
    default: return x;
  }
}

double load(const char* at, cudnnDataType_t type) {
  if (type == CUDNN_DATA_BFLOAT16) {
    __nv_bfloat16 x;
    std::memcpy(&x, at, 2);
    return static_cast<float>(x);
  }
  if (type == CUDNN_DATA_INT32) {
    std::int32_t x;
    std::memcpy(&x, at, 4);
    return x;
  }
  float x;
  std::memcpy(&x, at, 4);
  return x;
}
void store(char* at, cudnnDataType_t type, double value) {
  if (type == CUDNN_DATA_BFLOAT16) {
    const __nv_bfloat16 x(static_cast<float>(value));
    std::memcpy(at, &x, 2);
  } else {
    const auto x = static_cast<float>(value);
    std::memcpy(at, &x, 4);
  }
}

template <class F>
void for_each(const Four& d, const F& f) {
  Four i{};
  for (i[0] = 0; i[0] < d[0]; ++i[0])
    for (i[1] = 0; i[1] < d[1]; ++i[1])
      for (i[2] = 0; i[2] < d[2]; ++i[2])
        for (i[3] = 0; i[3] < d[3]; ++i[3]) f(i);
}

std::int64_t offset(const Four& i, const Four& strides) {
  return i[0] * strides[0] + i[1] * strides[1] + i[2] * strides[2] + i[3] * strides[3];
}

double normal(double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }
double tanh_of_gelu(double x) { return std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)); }

double apply(int mode, double x, double b, double t) {
  switch (mode) {
    case CUDNN_POINTWISE_ADD: return x + b;
    case CUDNN_POINTWISE_SUB: return x - b;
    case CUDNN_POINTWISE_MUL: return x * b;
    case CUDNN_POINTWISE_DIV: return x / b;
    case CUDNN_POINTWISE_EXP: return std::exp(x);
    case CUDNN_POINTWISE_LOG: return std::log(x);
    case CUDNN_POINTWISE_IDENTITY: return x;
    case CUDNN_POINTWISE_RELU_FWD: return x < 0 ? 0 : x;  // FSETP.GEU, FSEL: a NaN stays
    case CUDNN_POINTWISE_RELU_BWD: return x <= 0 ? 0 : b;
    case CUDNN_POINTWISE_GELU_FWD: return x * normal(x);
    case CUDNN_POINTWISE_GELU_BWD: return b * (normal(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi));
    case CUDNN_POINTWISE_GELU_APPROX_TANH_FWD: return x / 2 * (1 + tanh_of_gelu(x));
    case CUDNN_POINTWISE_GELU_APPROX_TANH_BWD: {
      const double t = tanh_of_gelu(x), slope = std::sqrt(2 / std::numbers::pi) * (1 + 3 * 0.044715 * x * x);
      return b * ((1 + t) / 2 + x / 2 * (1 - t * t) * slope);
    }
    case CUDNN_POINTWISE_CMP_GE: return x >= b;
    case CUDNN_POINTWISE_CMP_LT: return x < b;
    case CUDNN_POINTWISE_LOGICAL_AND: return x != 0 && b != 0;
    case CUDNN_POINTWISE_BINARY_SELECT: return t != 0 ? x : b;
    default: return nan;
  }
}

class Evaluation {
 public:
  Evaluation(const Graph& graph, const std::map<std::int64_t, void*>& data,
             const std::map<std::int64_t, double>& numbers, char* text, std::size_t size)
      : graph_(graph), data_(data), numbers_(numbers), text_(text), size_(size) {}

  bool run() {
    for (const auto& o : graph_.operations) {
      const Tensor& y = graph_.tensors.at(o.y);
      Value out{y.dims, std::vector<double>(static_cast<std::size_t>(y.elements()))};
      switch (o.kind) {
        case Kind::matmul: multiply(o, out); break;
        case Kind::pointwise: map(o, out); break;
        case Kind::reduction: reduce(o, out); break;
        case Kind::reshape: reshape(o, out); break;
      }
      if (!fine_) return false;
      for (double& v : out.data) v = rounded(v, y.type);
      if (!y.inner) touch(y, [&](const Four& i, char* at) { store(at, y.type, out.at(i)); });
      values_[o.y] = std::move(out);
    }
    return fine_;
  }

 private:
  const Value& value(std::int64_t id) {
    if (const auto at = values_.find(id); at != values_.end()) return at->second;
    const Tensor& t = graph_.tensors.at(id);
    Value out{t.dims, std::vector<double>(static_cast<std::size_t>(t.elements()), nan)};
    if (t.by_value) out.data[0] = rounded(numbers_.at(id), t.type);
    else
      touch(t, [&](const Four& i, char* at) {
        std::int64_t place = 0;
        for (int a = 0; a < 4; ++a) place = place * t.dims[a] + i[a];
        out.data[static_cast<std::size_t>(place)] = load(at, t.type);
      });
    return values_[id] = std::move(out);
  }

  /// f(index, address) of the elements that lie in memory: of a ragged tensor those before the next entry's offset.
  template <class F>
  void touch(const Tensor& t, const F& f) {
    char* const base = static_cast<char*>(data_.at(t.id));
    const Value* offsets = t.offsets ? &value(t.offsets) : nullptr;
    for_each(t.dims, [&](const Four& i) {
      std::int64_t place = offset(i, t.strides);
      if (offsets) {
        place = static_cast<std::int64_t>(offsets->data[static_cast<std::size_t>(i[0])]) +
                offset({0, i[1], i[2], i[3]}, t.strides);
        if (place >= static_cast<std::int64_t>(offsets->data[static_cast<std::size_t>(i[0] + 1)])) return;
      }
      char* const at = base + place * static_cast<std::int64_t>(bytes_of(t.type));
      if (fine_ && !is_device_range(at, bytes_of(t.type))) {
        fine_ = false;
        std::snprintf(text_, size_, "cuDNN: element [%lld, %lld, %lld, %lld] of tensor %lld lies out of bounds",
                      static_cast<long long>(i[0]), static_cast<long long>(i[1]), static_cast<long long>(i[2]),
                      static_cast<long long>(i[3]), static_cast<long long>(t.id));
      }
      if (fine_) f(i, at);
    });
  }

  std::int64_t extent(std::int64_t id, std::int64_t entry, std::int64_t whole) {
    return id ? static_cast<std::int64_t>(value(id).data[static_cast<std::size_t>(entry)]) : whole;
  }

  void multiply(const Operation& o, Value& y) {
    const Value a = value(o.x), b = value(o.b);
    std::size_t place = 0;
    for_each(y.dims, [&](const Four& i) {
      const std::int64_t rows = extent(o.m, i[0], y.dims[2]), columns = extent(o.n, i[0], y.dims[3]),
                         terms = extent(o.k, i[0], a.dims[3]);
      if (fine_ && !(rows && columns && terms) && version() < takes_empty_sequences) {
        fine_ = false;
        std::snprintf(text_, size_, "cuDNN %zu: entry %lld of a batch has no rows", version(),
                      static_cast<long long>(i[0]));
      }
      double sum = 0;
      for (std::int64_t k = 0; k < terms; ++k) sum += a.at({i[0], i[1], i[2], k}) * b.at({i[0], i[1], k, i[3]});
      y.data[place++] = i[2] < rows && i[3] < columns ? sum : nan;
    });
  }

  void map(const Operation& o, Value& y) {
    const Value x = value(o.x), b = o.b ? value(o.b) : x, t = o.t ? value(o.t) : x;
    std::size_t place = 0;
    for_each(y.dims, [&](const Four& i) {
      y.data[place++] = o.mode == CUDNN_POINTWISE_GEN_INDEX ? static_cast<double>(i[static_cast<std::size_t>(o.axis)])
                                                            : apply(o.mode, x.at(i), b.at(i), t.at(i));
    });
  }

  void reduce(const Operation& o, Value& y) {
    const Value x = value(o.x);
    const bool largest = o.mode == CUDNN_REDUCE_TENSOR_MAX;
    for (double& v : y.data) v = largest ? -std::numeric_limits<double>::infinity() : 0;
    for_each(x.dims, [&](const Four& i) {
      std::int64_t place = 0;
      for (int a = 0; a < 4; ++a) place = place * y.dims[a] + (y.dims[a] == 1 ? 0 : i[a]);
      double& v = y.data[static_cast<std::size_t>(place)];
      v = largest ? std::fmax(v, x.at(i)) : v + x.at(i);
    });
  }

  void reshape(const Operation& o, Value& y) {
    const Value x = value(o.x);
    const Tensor &from = graph_.tensors.at(o.x), &to = graph_.tensors.at(o.y);
    std::unordered_map<std::int64_t, double> memory;
    for_each(from.dims, [&](const Four& i) { memory[offset(i, from.strides)] = x.at(i); });
    std::size_t place = 0;
    for_each(to.dims, [&](const Four& i) {
      const auto at = memory.find(offset(i, to.strides));
      y.data[place++] = at == memory.end() ? nan : at->second;
    });
  }

  const Graph& graph_;
  const std::map<std::int64_t, void*>& data_;
  const std::map<std::int64_t, double>& numbers_;
  char* text_;
  std::size_t size_;
  std::map<std::int64_t, Value> values_;
  bool fine_ = true;
};

/// Whether x spreads over y.
bool spreads(const Four& x, const Four& y) {
  for (int a = 0; a < 4; ++a)
    if (x[a] != y[a] && x[a] != 1) return false;
  return true;
}

}  // namespace

const char* examine(const Graph& graph) {
  std::set<std::int64_t> known;
  for (const auto& [id, t] : graph.tensors)
    if (!t.inner) known.insert(id);
  std::set<std::int64_t> written;
  for (const auto& o : graph.operations) {
    for (const std::int64_t id : {o.x, o.b, o.t, o.m, o.n, o.k})
      if (id && !known.contains(id)) return "a tensor is read before it is written";
    if (!written.insert(o.y).second) return "a tensor is written twice";
    known.insert(o.y);
    const Four &x = graph.tensors.at(o.x).dims, &y = graph.tensors.at(o.y).dims;
    switch (o.kind) {
      case Kind::matmul: {
        const Four& b = graph.tensors.at(o.b).dims;
        if (x[0] != y[0] || x[1] != y[1] || b[0] != y[0] || b[1] != y[1] || x[2] != y[2] || b[3] != y[3] ||
            x[3] != b[2])
          return "the extents of a product do not fit";
        break;
      }
      case Kind::pointwise:
        for (const std::int64_t id : {o.x, o.b, o.t})
          if (id && !spreads(graph.tensors.at(id).dims, y)) return "an operand does not spread over the result";
        break;
      case Kind::reduction:
        if (!spreads(y, x)) return "a reduction's result does not fit";
        break;
      case Kind::reshape:
        if (x[0] * x[1] * x[2] * x[3] != y[0] * y[1] * y[2] * y[3]) return "a reshape changes the number of elements";
        break;
    }
  }
  return "";
}

namespace {
int products(const Graph& graph) {
  int count = 0;
  for (const auto& o : graph.operations) count += o.kind == Kind::matmul;
  return count;
}
}  // namespace

bool has_engine(const Graph& graph) {
  if (products(graph) > 1) return true;
  for (const auto& [id, t] : graph.tensors)
    if (t.axes != 3) return false;
  return true;
}

void count_graph(const Graph& graph, const std::map<std::int64_t, void*>& data) {
  Tally c{1, 0, 0, 0};
  std::set<std::int64_t> results;
  for (const auto& o : graph.operations) {
    results.insert(o.y);
    if (o.kind == Kind::matmul)
      c.operations += 2.0 * static_cast<double>(graph.tensors.at(o.y).elements()) *
                      static_cast<double>(graph.tensors.at(o.x).dims[3]);
  }
  for (const auto& [id, t] : graph.tensors) {
    if (t.inner || t.by_value) continue;
    std::int64_t elements = t.elements();
    if (t.offsets) elements = static_cast<const std::int32_t*>(data.at(t.offsets))[t.dims[0]];
    const std::uint64_t bytes = static_cast<std::uint64_t>(elements) * bytes_of(t.type);
    (results.contains(id) ? c.written : c.read) += bytes;
    if (results.contains(id)) std::memset(data.at(id), 0, bytes);
  }
  const auto own = static_cast<std::uint64_t>(workspace(graph));
  c.read += own, c.written += own;
  count(products(graph) == 1 ? "product and more" : "graph", c);
}

std::int64_t workspace(const Graph& graph) {
  if (products(graph) <= 2) return 256;
  for (const auto& o : graph.operations)
    if (o.kind == Kind::matmul) return graph.tensors.at(o.y).elements() * bytes_a_score;
  return 0;
}

std::size_t version() { return number; }

bool evaluate(const Graph& graph, const std::map<std::int64_t, void*>& data,
              const std::map<std::int64_t, double>& numbers, char* text, std::size_t size) {
  return Evaluation(graph, data, numbers, text, size).run();
}

}  // namespace emulate::dnn

void emulate::set_dnn_version(std::size_t to) { dnn::number = to; }
void emulate::set_dnn_bytes_a_score(std::int64_t bytes) { dnn::bytes_a_score = bytes; }
