// Owns: the handle of cuDNN, and the plans of graphs, kept for each shape.
#pragma once

#include <cudnn.hpp>
#include <map>
#include <optional>

#include <meft/base/mutex.hpp>
#include <recorder.cuh>

namespace meft::cuda::dnn {

/// On the main stream.
inline cudnnHandle_t handle() {
  static const cudnnHandle_t handle = [] {
    cudnnHandle_t made = nullptr;
    check(cudnnCreate(&made), "cudnnCreate");
    check(cudnnSetStream(made, main_stream()), "cudnnSetStream");
    return made;
  }();
  return handle;
}

/// The plan of the graph that make() gives for a shape, adding in a fixed order: made the first time, which takes cuDNN
/// seconds, and kept, so that forward and undo agree. Null where cuDNN has none, or it is to be made `later`.
template <class Shape, class Make>
const Plan* plan_of(const Shape& shape, const Make& make) {
  static Mutex& mutex = *new Mutex;
  static auto& known = *new std::map<Shape, std::optional<Plan>>;
  const Lock lock(mutex);
  auto at = known.find(shape);
  if (at == known.end()) {
    if (later([shape, make] { dnn::plan_of(shape, make); })) return nullptr;
    at = known.try_emplace(shape).first;
    try {
      at->second = make().plan(Device(handle()));
    } catch (const Error&) {  // cuDNN's words: there is none
    }
  }
  return at->second ? &*at->second : nullptr;
}

}  // namespace meft::cuda::dnn
