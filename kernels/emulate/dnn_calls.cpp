// Owns: the calls of the cuDNN stand-in, written from the documentation of cuDNN's backend API: descriptors with
// attributes, graphs of products, pointwise operations, reductions and reshapes, one engine that runs any of them.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "dnn.hpp"
#include "emulate.hpp"
#include "memory.hpp"
#include "runtime.hpp"

struct cudnnContext {
  cudaStream_t stream = nullptr;
};

namespace emulate::dnn {
namespace {

struct Attribute {
  cudnnBackendAttributeType_t type;
  std::int64_t count;
  std::string bytes;
};

struct Object {
  cudnnBackendDescriptorType_t type;
  bool final = false;
  std::map<int, Attribute> attributes{};
  Graph graph{};  // of an operation graph, and of what is made from one

  bool has(cudnnBackendAttributeName_t name) const { return attributes.contains(name); }
  template <class T>
  T get(cudnnBackendAttributeName_t name, T otherwise = {}) const {
    const auto at = attributes.find(name);
    if (at != attributes.end()) std::memcpy(&otherwise, at->second.bytes.data(), sizeof(T));
    return otherwise;
  }
  template <class T>
  std::vector<T> list(cudnnBackendAttributeName_t name) const {
    const auto at = attributes.find(name);
    if (at == attributes.end()) return {};
    std::vector<T> out(static_cast<std::size_t>(at->second.count));
    std::memcpy(out.data(), at->second.bytes.data(), out.size() * sizeof(T));
    return out;
  }
  const Object* object(cudnnBackendAttributeName_t name) const {
    return static_cast<const Object*>(get<void*>(name, nullptr));
  }
};

thread_local char last[256] = "";
bool refuses_all = false;

cudnnStatus_t refuse(cudnnStatus_t status, const char* why) {
  std::snprintf(last, sizeof last, "%s", why);
  return status;
}

std::size_t bytes_of(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR: return 1;
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
    default: return 4;  // enumerations
  }
}

Four four(const Object& of, cudnnBackendAttributeName_t name) {
  const auto list = of.list<std::int64_t>(name);
  Four out{};
  for (auto& x : out) x = name == CUDNN_ATTR_TENSOR_DIMENSIONS;
  std::copy_backward(list.begin(), list.end(), out.end());
  return out;
}

/// Enters a tensor, and its offsets, into the graph; gives its id, 0 for none.
std::int64_t enter(Graph& graph, const Object* tensor) {
  if (!tensor) return 0;
  Tensor t{tensor->get<std::int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID),
           tensor->get<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE),
           four(*tensor, CUDNN_ATTR_TENSOR_DIMENSIONS),
           four(*tensor, CUDNN_ATTR_TENSOR_STRIDES),
           tensor->get<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL),
           tensor->get<bool>(CUDNN_ATTR_TENSOR_IS_BY_VALUE),
           tensor->get<std::int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT)};
  t.offsets = enter(graph, tensor->object(CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC));
  t.axes = tensor->attributes.at(CUDNN_ATTR_TENSOR_DIMENSIONS).count;
  graph.tensors[t.id] = t;
  return t.id;
}

Operation operation(Graph& graph, const Object& o) {
  const auto id = [&](cudnnBackendAttributeName_t name) { return enter(graph, o.object(name)); };
  switch (o.type) {
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
      return {.kind = Kind::matmul,
              .x = id(CUDNN_ATTR_OPERATION_MATMUL_ADESC),
              .b = id(CUDNN_ATTR_OPERATION_MATMUL_BDESC),
              .y = id(CUDNN_ATTR_OPERATION_MATMUL_CDESC),
              .m = id(CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC),
              .n = id(CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC),
              .k = id(CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC)};
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
      return {.kind = Kind::reduction,
              .x = id(CUDNN_ATTR_OPERATION_REDUCTION_XDESC),
              .y = id(CUDNN_ATTR_OPERATION_REDUCTION_YDESC),
              .mode = o.object(CUDNN_ATTR_OPERATION_REDUCTION_DESC)->get<int>(CUDNN_ATTR_REDUCTION_OPERATOR)};
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
      return {.kind = Kind::reshape,
              .x = id(CUDNN_ATTR_OPERATION_RESHAPE_XDESC),
              .y = id(CUDNN_ATTR_OPERATION_RESHAPE_YDESC)};
    default: {
      const Object& how = *o.object(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
      const bool back = o.has(CUDNN_ATTR_OPERATION_POINTWISE_DXDESC);
      return {.kind = Kind::pointwise,
              .x = id(CUDNN_ATTR_OPERATION_POINTWISE_XDESC),
              .b = id(back ? CUDNN_ATTR_OPERATION_POINTWISE_DYDESC : CUDNN_ATTR_OPERATION_POINTWISE_BDESC),
              .t = id(CUDNN_ATTR_OPERATION_POINTWISE_TDESC),
              .y = id(back ? CUDNN_ATTR_OPERATION_POINTWISE_DXDESC : CUDNN_ATTR_OPERATION_POINTWISE_YDESC),
              .mode = how.get<int>(CUDNN_ATTR_POINTWISE_MODE),
              .axis = how.get<std::int64_t>(CUDNN_ATTR_POINTWISE_AXIS, -1)};
    }
  }
}

/// The attributes without which a descriptor is not final.
std::vector<cudnnBackendAttributeName_t> needed(cudnnBackendDescriptorType_t type) {
  switch (type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
      return {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_DIMENSIONS,
              CUDNN_ATTR_TENSOR_STRIDES, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT};
    case CUDNN_BACKEND_MATMUL_DESCRIPTOR: return {CUDNN_ATTR_MATMUL_COMP_TYPE};
    case CUDNN_BACKEND_POINTWISE_DESCRIPTOR: return {CUDNN_ATTR_POINTWISE_MODE, CUDNN_ATTR_POINTWISE_MATH_PREC};
    case CUDNN_BACKEND_REDUCTION_DESCRIPTOR: return {CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_ATTR_REDUCTION_COMP_TYPE};
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_MATMUL_DESC, CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC,
              CUDNN_ATTR_OPERATION_MATMUL_CDESC};
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC};
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_REDUCTION_DESC, CUDNN_ATTR_OPERATION_REDUCTION_XDESC,
              CUDNN_ATTR_OPERATION_REDUCTION_YDESC};
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
      return {CUDNN_ATTR_OPERATION_RESHAPE_XDESC, CUDNN_ATTR_OPERATION_RESHAPE_YDESC};
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: return {CUDNN_ATTR_OPERATIONGRAPH_OPS};
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
      return {CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_ATTR_ENGINEHEUR_MODE};
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: return {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG};
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      return {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS};
    default: return {};
  }
}

}  // namespace
}  // namespace emulate::dnn

using namespace emulate;
using dnn::Object;
using dnn::refuse;

std::size_t cudnnGetVersion() { return dnn::version(); }
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  if (!handle) return refuse(CUDNN_STATUS_BAD_PARAM, "no place for the handle");
  *handle = new cudnnContext;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  if (!handle || !valid(stream)) return refuse(CUDNN_STATUS_BAD_PARAM, "no handle or no stream");
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}
const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
    case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_EXECUTION_FAILED: return "CUDNN_STATUS_EXECUTION_FAILED";
  }
  return "unknown status";
}
void cudnnGetLastErrorString(char* message, std::size_t max_size) { std::snprintf(message, max_size, "%s", dnn::last); }

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  if (!descriptor) return refuse(CUDNN_STATUS_BAD_PARAM, "no place for the descriptor");
  *descriptor = new Object{type};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Object*>(descriptor);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, std::int64_t count, const void* elements) {
  auto* const o = static_cast<Object*>(descriptor);
  if (!o || !elements || count < 1) return refuse(CUDNN_STATUS_BAD_PARAM, "no descriptor or no elements");
  if (o->final) return refuse(CUDNN_STATUS_BAD_PARAM, "the descriptor is final");
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
    for (std::int64_t i = 0; i < count; ++i)
      if (const auto* part = static_cast<const Object* const*>(elements)[i]; !part || !part->final)
        return refuse(CUDNN_STATUS_BAD_PARAM, "an attribute's descriptor is not final");
  o->attributes[name] = {
      type, count,
      std::string(static_cast<const char*>(elements), static_cast<std::size_t>(count) * dnn::bytes_of(type))};
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  auto* const o = static_cast<Object*>(descriptor);
  if (!o || o->final) return refuse(CUDNN_STATUS_BAD_PARAM, "no descriptor, or one that is final");
  for (const auto name : dnn::needed(o->type))
    if (!o->has(name))
      return refuse(CUDNN_STATUS_BAD_PARAM, ("attribute " + std::to_string(name) + " is missing").c_str());
  if (o->type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) {
    const bool y = o->has(CUDNN_ATTR_OPERATION_POINTWISE_YDESC), dy = o->has(CUDNN_ATTR_OPERATION_POINTWISE_DYDESC);
    if (y == dy || dy != o->has(CUDNN_ATTR_OPERATION_POINTWISE_DXDESC))
      return refuse(CUDNN_STATUS_BAD_PARAM, "a pointwise operation has y, or dy and dx");
  }
  if (o->type == CUDNN_BACKEND_TENSOR_DESCRIPTOR) {
    const auto axes = o->attributes.at(CUDNN_ATTR_TENSOR_DIMENSIONS).count;
    if (axes < 3 || axes > 4 || o->attributes.at(CUDNN_ATTR_TENSOR_STRIDES).count != axes)
      return refuse(CUDNN_STATUS_NOT_SUPPORTED, "tensors have three or four axes here");
    for (const auto extent : dnn::four(*o, CUDNN_ATTR_TENSOR_DIMENSIONS))
      if (extent < 1) return refuse(CUDNN_STATUS_BAD_PARAM, "an extent is not positive");
  }
  if (o->type == CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {
    for (void* part : o->list<void*>(CUDNN_ATTR_OPERATIONGRAPH_OPS))
      o->graph.operations.push_back(dnn::operation(o->graph, *static_cast<const Object*>(part)));
    if (const char* why = dnn::examine(o->graph); *why) return refuse(CUDNN_STATUS_BAD_PARAM, why);
  }
  if (o->type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)
    o->graph = o->object(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)->graph;
  if (o->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && capturing())
    return refuse(CUDNN_STATUS_EXECUTION_FAILED, "kernels are compiled and loaded while a stream captures");
  if (o->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && dnn::refuses_all)
    return refuse(CUDNN_STATUS_NOT_SUPPORTED, "no plan, as the test wants it");
  if (o->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR &&
      !dnn::has_engine(o->object(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)->graph))
    return refuse(CUDNN_STATUS_NOT_SUPPORTED, "a product by itself has tensors of three axes");
  if (o->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
    o->graph = o->object(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)->graph;
  o->final = true;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(const cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, std::int64_t requested, std::int64_t* count,
                                       void* elements) {
  const auto* const o = static_cast<const Object*>(descriptor);
  if (!o || !count || requested < 1 || !elements) return refuse(CUDNN_STATUS_BAD_PARAM, "no place for an attribute");
  *count = 1;
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: {  // one engine, which runs every graph
      auto* const configuration = static_cast<Object*>(*static_cast<void**>(elements));
      configuration->graph = o->graph;
      configuration->final = true;
      return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_ENGINECFG_ENGINE: return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:  // one, and it may count more than it was asked for
      std::fill_n(static_cast<cudnnBackendNumericalNote_t*>(elements), requested, CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
      *count = requested + (std::int64_t{1} << 28);
      return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE: {
      const std::int64_t bytes = dnn::workspace(o->graph);
      std::memcpy(elements, &bytes, sizeof bytes);
      return CUDNN_STATUS_SUCCESS;
    }
    default: return refuse(CUDNN_STATUS_NOT_SUPPORTED, "an attribute that the stand-in does not give");
  }
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  const auto *const p = static_cast<const Object*>(plan), *const arguments = static_cast<const Object*>(pack);
  if (!handle || !p || !arguments || !p->final || !arguments->final)
    return refuse(CUDNN_STATUS_BAD_PARAM, "no handle, or a plan or arguments that are not final");
  const auto ids = arguments->list<std::int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const auto pointers = arguments->list<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  if (ids.size() != pointers.size()) return refuse(CUDNN_STATUS_BAD_PARAM, "ids and pointers differ in number");
  std::map<std::int64_t, void*> data;
  for (std::size_t i = 0; i < ids.size(); ++i) data[ids[i]] = pointers[i];
  std::map<std::int64_t, double> numbers;
  for (const auto& [id, tensor] : p->graph.tensors) {
    if (tensor.inner) continue;
    if (!data.contains(id) || !data[id]) return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor has no address");
    if (tensor.by_value == is_device_address(data[id]))
      return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor lies on the wrong side");
    if (tensor.by_value) numbers[id] = *static_cast<const float*>(data[id]);
    else if (reinterpret_cast<std::uintptr_t>(data[id]) % static_cast<std::uintptr_t>(tensor.alignment))
      return refuse(CUDNN_STATUS_BAD_PARAM, ("the address of tensor " + std::to_string(id) + " is no multiple of " +
                                             std::to_string(tensor.alignment) + ", as its descriptor says")
                                                .c_str());
  }
  void* const workspace = arguments->get<void*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, nullptr);
  if (!is_device_range(workspace, static_cast<std::size_t>(dnn::workspace(p->graph))))
    return refuse(CUDNN_STATUS_BAD_PARAM, "the workspace is smaller than the plan's");
  const cudaError_t code = touch_device(
      handle->stream,
      [graph = p->graph, data, numbers] {
        if (counting()) return dnn::count_graph(graph, data);
        char text[256];
        if (!dnn::evaluate(graph, data, numbers, text, sizeof text)) raise_fault(cudaErrorIllegalAddress, text);
      },
      true);
  return code == cudaSuccess ? CUDNN_STATUS_SUCCESS : refuse(CUDNN_STATUS_EXECUTION_FAILED, cudaGetErrorString(code));
}

void emulate::set_dnn_refuses(bool refuses) { dnn::refuses_all = refuses; }
