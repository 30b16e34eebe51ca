// Owns: computations described to cuDNN as graphs of tensors and operations, through its backend API, and their plans.
// https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html
#pragma once

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>

namespace meft::cuda::dnn {

/// Throws Error with the call's name and cuDNN's code and message.
void check(cudnnStatus_t status, const char* call, Where where = Where::current());

struct Destroy {
  void operator()(void* descriptor) const { cudnnBackendDestroyDescriptor(descriptor); }
};
using Descriptor = std::unique_ptr<void, Destroy>;

using Four = std::array<std::int64_t, 4>;

/// Strides of a dense tensor whose last axis goes fastest.
inline Four dense(const Four& d) { return {d[1] * d[2] * d[3], d[2] * d[3], d[3], 1}; }

/// A tensor of a graph. `of`: it lives as long as its graph.
struct Tensor {
  cudnnBackendDescriptor_t of = nullptr;
  std::int64_t id = 0;
  Four dims{};
  explicit operator bool() const { return of != nullptr; }
};

/// The device that a graph is planned for: a handle's, or any that a JSON text describes, present or not. Plans for a
/// description are for looking at: cuDNN's frontend runs those that were made with a handle.
class Device {
 public:
  explicit Device(cudnnHandle_t handle) : handle_(handle) {}
  explicit Device(const std::string& json);
  cudnnHandle_t handle() const { return handle_; }
  cudnnBackendDescriptor_t described() const { return of_.get(); }

 private:
  cudnnHandle_t handle_ = nullptr;
  Descriptor of_;
};

/// A graph that is ready to run.
class Plan {
 public:
  std::size_t workspace() const { return workspace_; }
  /// Enqueues it on the handle's stream; data[i] is the address of the tensor ids[i].
  void run(cudnnHandle_t handle, const std::vector<std::int64_t>& ids, const std::vector<void*>& data,
           void* workspace) const;

 private:
  friend class Graph;
  std::vector<Descriptor> parts_;
  Descriptor of_;
  std::size_t workspace_ = 0;
};

class Graph {
 public:
  /// Of tensors with so many axes, the last of their four: cuDNN has engines for a product by itself where there are
  /// three.
  explicit Graph(int axes = 4) : axes_(axes) {}

  /// A tensor that the caller holds. With `offsets` [b + 1, 1, 1, 1], batch entry i begins offsets[i] elements in.
  Tensor tensor(cudnnDataType_t type, const Four& dims, const Four& strides, const Tensor& offsets = {});
  /// One number on the host, given when the graph runs.
  Tensor number(cudnnDataType_t type);
  /// What never leaves the graph.
  Tensor inner(cudnnDataType_t type, const Four& dims);
  Tensor inner(cudnnDataType_t type, const Four& dims, const Four& strides, const Tensor& offsets = {});

  /// y = a·b over the last two axes; only the first m rows, n columns and k terms count, [b, 1, 1, 1] each.
  Tensor matmul(const Tensor& a, const Tensor& b, Tensor y, const Tensor& m, const Tensor& n, const Tensor& k);
  /// Comparisons are done in booleans, all else in float.
  Tensor pointwise(cudnnPointwiseMode_t mode, Tensor y, const Tensor& x, const Tensor& b = {}, const Tensor& t = {});
  /// dx = dy·f'(x), the derivative that the mode names; in float.
  Tensor slope(cudnnPointwiseMode_t mode, Tensor dx, const Tensor& dy, const Tensor& x);
  /// The place of each element of x along an axis.
  Tensor places(const Tensor& x, std::int64_t axis);
  /// Over the axes where y has extent 1.
  Tensor reduce(cudnnReduceTensorOp_t by, const Tensor& x, Tensor y);
  /// The same elements under other axes.
  Tensor reshape(const Tensor& x, Tensor y);

  /// The first plan that works on the device among those that cuDNN's heuristics propose first, less those of engines
  /// that add in the order of arrival; throws Error with cuDNN's words when none does.
  Plan plan(const Device& device, std::int64_t proposals = most_proposals);
  static constexpr std::int64_t most_proposals = 16;

 private:
  Tensor make(cudnnDataType_t type, const Four& dims, const Four& strides, const Tensor& offsets, bool inner,
              bool by_value);
  using Link = std::pair<cudnnBackendAttributeName_t, Tensor>;
  /// Adds an operation on the tensors that there are; `how`, where it has one, becomes its attribute `setting`. Gives
  /// y.
  Tensor enter(cudnnBackendDescriptorType_t type, const std::vector<Link>& tensors, const Tensor& y,
               cudnnBackendAttributeName_t setting = {}, Descriptor how = {});
  /// `axis` is negative where the mode has none.
  Tensor pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t math, const std::vector<Link>& tensors, const Tensor& y,
                   std::int64_t axis = -1);

  std::vector<Descriptor> parts_;
  std::vector<cudnnBackendDescriptor_t> operations_;
  std::int64_t next_ = 1;
  int axes_;
};

}  // namespace meft::cuda::dnn
