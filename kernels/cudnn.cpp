// Owns: the calls of cuDNN's backend API behind cudnn.hpp.
#include <algorithm>
#include <cstring>
#include <cudnn.hpp>
#include <iterator>

namespace meft::cuda::dnn {

namespace {

Descriptor make_descriptor(cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t made = nullptr;
  check(cudnnBackendCreateDescriptor(type, &made), "cudnnBackendCreateDescriptor");
  return Descriptor(made);
}

template <class T>
void set(const Descriptor& to, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T* values,
         std::int64_t count) {
  check(cudnnBackendSetAttribute(to.get(), name, type, count, values), "cudnnBackendSetAttribute");
}
template <class T>
void set(const Descriptor& to, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T& value) {
  set(to, name, type, &value, 1);
}
void set(const Descriptor& to, cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value) {
  set(to, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, value);
}

void finalize(const Descriptor& of, const char* what) {
  const cudnnStatus_t status = cudnnBackendFinalize(of.get());
  if (status != CUDNN_STATUS_SUCCESS) check(status, (std::string("cudnnBackendFinalize of ") + what).c_str());
}

/// What cuDNN says of the last call that failed on this thread.
std::string last_message() {
  char text[512] = "";
  cudnnGetLastErrorString(text, sizeof text);
  return text;
}

/// Whether an engine configuration adds in a fixed order. (cuDNN may count more notes than it was asked for.)
bool in_order(cudnnBackendDescriptor_t configuration) {
  const Descriptor engine = make_descriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t at = engine.get();
  std::int64_t count = 0;
  check(cudnnBackendGetAttribute(configuration, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
                                 &at),
        "cudnnBackendGetAttribute");
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  check(cudnnBackendGetAttribute(at, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                 CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes),
        "cudnnBackendGetAttribute");
  const auto end = std::begin(notes) + std::min<std::int64_t>(count, std::size(notes));
  return std::find(std::begin(notes), end, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) == end;
}

}  // namespace

void check(cudnnStatus_t status, const char* call, Where where) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  throw Error(std::string("cuda: ") + call + ": " + cudnnGetErrorString(status) + " (" +
                  std::to_string(static_cast<int>(status)) + "): " + last_message(),
              where);
}

Device::Device(const std::string& json) : of_(make_descriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)) {
  set(of_, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, json.data(),
      static_cast<std::int64_t>(json.size()));
  finalize(of_, "the device's properties");
}

Tensor Graph::make(cudnnDataType_t type, const Four& dims, const Four& strides, const Tensor& offsets, bool inner,
                   bool by_value) {
  Descriptor made = make_descriptor(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const std::int64_t id = next_++, alignment = 16;
  set(made, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, id);
  set(made, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type);
  const int hidden = 4 - axes_;
  set(made, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, dims.data() + hidden, axes_);
  set(made, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, strides.data() + hidden, axes_);
  set(made, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, alignment);
  set(made, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, inner);
  set(made, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, by_value);
  if (offsets) set(made, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, offsets.of);
  finalize(made, "a tensor");
  parts_.push_back(std::move(made));
  return {parts_.back().get(), id, dims};
}

Tensor Graph::tensor(cudnnDataType_t type, const Four& dims, const Four& strides, const Tensor& offsets) {
  return make(type, dims, strides, offsets, false, false);
}
Tensor Graph::number(cudnnDataType_t type) { return make(type, {1, 1, 1, 1}, {1, 1, 1, 1}, {}, false, true); }
Tensor Graph::inner(cudnnDataType_t type, const Four& dims) { return inner(type, dims, dense(dims)); }
Tensor Graph::inner(cudnnDataType_t type, const Four& dims, const Four& strides, const Tensor& offsets) {
  return make(type, dims, strides, offsets, true, false);
}

Tensor Graph::enter(cudnnBackendDescriptorType_t type, const std::vector<Link>& tensors, const Tensor& y,
                    cudnnBackendAttributeName_t setting, Descriptor how) {
  Descriptor made = make_descriptor(type);
  if (how) {
    finalize(how, "an operation's mode");
    set(made, setting, how.get());
    parts_.push_back(std::move(how));
  }
  for (const auto& [name, tensor] : tensors)
    if (tensor) set(made, name, tensor.of);
  finalize(made, "an operation");
  operations_.push_back(made.get());
  parts_.push_back(std::move(made));
  return y;
}

Tensor Graph::matmul(const Tensor& a, const Tensor& b, Tensor y, const Tensor& m, const Tensor& n, const Tensor& k) {
  Descriptor how = make_descriptor(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  set(how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  return enter(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR,
               {{CUDNN_ATTR_OPERATION_MATMUL_ADESC, a},
                {CUDNN_ATTR_OPERATION_MATMUL_BDESC, b},
                {CUDNN_ATTR_OPERATION_MATMUL_CDESC, y},
                {CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m},
                {CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n},
                {CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k}},
               y, CUDNN_ATTR_OPERATION_MATMUL_DESC, std::move(how));
}

Tensor Graph::pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t math, const std::vector<Link>& tensors,
                        const Tensor& y, std::int64_t axis) {
  Descriptor how = make_descriptor(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
  set(how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, math);
  if (axis >= 0) set(how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, axis);
  return enter(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, tensors, y, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR,
               std::move(how));
}

Tensor Graph::pointwise(cudnnPointwiseMode_t mode, Tensor y, const Tensor& x, const Tensor& b, const Tensor& t) {
  const bool compares =
      mode == CUDNN_POINTWISE_CMP_GE || mode == CUDNN_POINTWISE_CMP_LT || mode == CUDNN_POINTWISE_LOGICAL_AND;
  return pointwise(mode, compares ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT,
                   {{CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x},
                    {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b},
                    {CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t},
                    {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y}},
                   y);
}

Tensor Graph::slope(cudnnPointwiseMode_t mode, Tensor dx, const Tensor& dy, const Tensor& x) {
  return pointwise(mode, CUDNN_DATA_FLOAT,
                   {{CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x},
                    {CUDNN_ATTR_OPERATION_POINTWISE_DYDESC, dy},
                    {CUDNN_ATTR_OPERATION_POINTWISE_DXDESC, dx}},
                   dx);
}

Tensor Graph::places(const Tensor& x, std::int64_t axis) {
  const Tensor y = inner(CUDNN_DATA_INT32, x.dims);
  return pointwise(CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32,
                   {{CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x}, {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y}}, y, axis);
}

Tensor Graph::reduce(cudnnReduceTensorOp_t by, const Tensor& x, Tensor y) {
  Descriptor how = make_descriptor(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  set(how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, by);
  set(how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  return enter(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR,
               {{CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x}, {CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y}}, y,
               CUDNN_ATTR_OPERATION_REDUCTION_DESC, std::move(how));
}

Tensor Graph::reshape(const Tensor& x, Tensor y) {
  return enter(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR,
               {{CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x}, {CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y}}, y);
}

Plan Graph::plan(const Device& device, std::int64_t proposals) {
  Descriptor graph = make_descriptor(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations_.data(),
      static_cast<std::int64_t>(operations_.size()));
  if (device.handle()) set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, device.handle());
  finalize(graph, "a graph");

  const Descriptor heuristic = make_descriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.get());
  set(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A);
  if (device.described()) set(heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device.described());
  finalize(heuristic, "the heuristic");
  std::vector<Descriptor> configurations;
  std::array<cudnnBackendDescriptor_t, most_proposals> found;
  for (auto& f : found) {
    configurations.push_back(make_descriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
    f = configurations.back().get();
  }
  std::int64_t count = 0;
  check(cudnnBackendGetAttribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                 proposals, &count, found.data()),
        "cudnnBackendGetAttribute");
  std::string why = "no engine proposed";
  for (std::int64_t i = 0; i < std::min(count, proposals); ++i) {
    auto& configuration = configurations[static_cast<std::size_t>(i)];
    if (!in_order(configuration.get())) {
      why = "every engine adds in the order of arrival";
      continue;
    }
    Plan out;
    out.of_ = make_descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set(out.of_, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration.get());
    if (device.described()) set(out.of_, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device.described());
    if (cudnnBackendFinalize(out.of_.get()) != CUDNN_STATUS_SUCCESS) {
      why = last_message();
      continue;
    }
    std::int64_t bytes = 0, one = 0;
    check(cudnnBackendGetAttribute(out.of_.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &one,
                                   &bytes),
          "cudnnBackendGetAttribute");
    out.workspace_ = static_cast<std::size_t>(bytes);
    out.parts_ = std::move(parts_);
    out.parts_.push_back(std::move(graph));
    out.parts_.push_back(std::move(configuration));
    return out;
  }
  fail("cuda: cuDNN has no plan for a graph", why);
}

void Plan::run(cudnnHandle_t handle, const std::vector<std::int64_t>& ids, const std::vector<void*>& data,
               void* workspace) const {
  const Descriptor pack = make_descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  const auto count = static_cast<std::int64_t>(ids.size());
  set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, ids.data(), count);
  set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, data.data(), count);
  set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace);
  finalize(pack, "a graph's arguments");
  check(cudnnBackendExecute(handle, of_.get(), pack.get()), "cudnnBackendExecute");
}

}  // namespace meft::cuda::dnn
