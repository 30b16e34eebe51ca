// Owns: what a graph of the cuDNN stand-in is, once its descriptors were found to hold together.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "include/cudnn.h"

namespace emulate::dnn {

using Four = std::array<std::int64_t, 4>;

struct Tensor {
  std::int64_t id = 0;
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  Four dims{}, strides{};
  bool inner = false, by_value = false;
  std::int64_t alignment = 1;  // bytes of which its address is a multiple
  std::int64_t offsets = 0;    // id of the ragged offsets, or 0
  std::int64_t axes = 4;       // of those that it was described with, the last ones
  std::int64_t elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
};

enum class Kind { matmul, pointwise, reduction, reshape };

/// y = kind(x, b, t), tensors by id, 0 where there is none; of a slope dx = kind(x, dy). Of a product, the overrides of
/// its extents.
struct Operation {
  Kind kind;
  std::int64_t x = 0, b = 0, t = 0, y = 0;
  int mode = 0;  // of cudnnPointwiseMode_t or cudnnReduceTensorOp_t
  std::int64_t axis = -1;
  std::int64_t m = 0, n = 0, k = 0;
};

struct Graph {
  std::map<std::int64_t, Tensor> tensors;
  std::vector<Operation> operations;
};

/// Why a graph cannot be: shapes that do not fit, a tensor read before it is written. Empty when it can.
const char* examine(const Graph& graph);

/// Whether cuDNN has an engine: seen of a product by itself, with what follows it, where tensors have three axes.
bool has_engine(const Graph& graph);

/// Counts the graph's bytes and operations on the device, and makes its results zero.
void count_graph(const Graph& graph, const std::map<std::int64_t, void*>& data);

/// Bytes that the engine wants: of a backward pass of attention, which adds in a fixed order, a bf16 for each score
/// (16 heads of 8 × 512 tokens: 67 MB), of others a few.
std::int64_t workspace(const Graph& graph);

/// The number of the cuDNN that is stood in for, and from which on a sequence may have no rows.
std::size_t version();
inline constexpr std::size_t takes_empty_sequences = 92500;

/// Works the graph out in double, each tensor rounded to its type, on data that lies on the device. `data` has the
/// address of each tensor that is not inner; of one by value, the number itself is in `numbers`. Returns false after
/// writing what lay out of bounds, or which product had no rows. What no override covers is NaN.
bool evaluate(const Graph& graph, const std::map<std::int64_t, void*>& data,
              const std::map<std::int64_t, double>& numbers, char* text, std::size_t size);

}  // namespace emulate::dnn
