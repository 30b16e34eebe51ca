// Owns: the declaration of uploads that run beside the work of the device. Needs no CUDA header.
#pragma once

#include <memory>

#include <meft/backend/cuda/tag.hpp>

namespace meft {

namespace cuda {
class OnStream;
}

/// While it lives, what is uploaded to new memory goes beside the work that was enqueued since `begin`. Work that is
/// enqueued after its end finds the values there. Memory of this kind that is given back between `begin` and the end of
/// an Ahead may still be read by that work: hold it until then.
class CudaAhead {
 public:
  static void begin();
  CudaAhead();
  ~CudaAhead();
  CudaAhead(const CudaAhead&) = delete;
  CudaAhead& operator=(const CudaAhead&) = delete;

 private:
  ShelfScope shelf_{Shelf::ahead};
  std::unique_ptr<cuda::OnStream> on_;
};

}  // namespace meft
