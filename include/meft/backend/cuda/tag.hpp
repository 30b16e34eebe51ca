// Owns: the CUDA tag. Its kernels are declared beside it and compiled into the target meft::cuda; no CUDA header is
// needed to use them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include <meft/backend/backend.hpp>

#ifndef MEFT_CUDA
#error "meft: the Cuda backend needs the target meft::cuda: target_link_libraries(your_target PRIVATE meft::cuda)"
#endif

namespace meft {

class Recording;
class CudaAhead;

/// The process's current CUDA device. Everything runs in order on one stream, also the pool's blocks: a block that is
/// given back is safe to be taken again by what is enqueued later. Calls throw Error with the CUDA call's name and
/// code.
struct Cuda {
  static constexpr const char* name = "cuda";
  static constexpr Index slice_tokens = 4096;
  static constexpr bool on_host = false;
  using Recording = meft::Recording;
  using Ahead = CudaAhead;

  /// The process's one pool on the device, stream-ordered, never destroyed.
  static Pool& pool();

  /// On the device, in stream order.
  static void copy(void* to, const void* from, std::size_t bytes);
  static void zero(void* to, std::size_t bytes);
  /// From and to the host, through pinned staging. `from` may be reused and `to` be read when the call returns.
  static void upload(void* to, const void* from, std::size_t bytes);
  static void download(void* to, const void* from, std::size_t bytes);
  /// Uploads what fill(data) writes: now, or where work is recorded, what it writes before each run of it.
  static void follow(void* to, std::size_t bytes, std::function<void(void*)> fill);
  /// found() of the host; where work is recorded, it fits a later run if it is the same then.
  template <class F>
  static auto settled(const F& found) {
    const auto seen = found();
    if (recording()) check_later([found, seen] { return found() == seen; });
    return seen;
  }

  /// f(data) with the bytes on the host: now, or where work is recorded, whenever a run of it is finished.
  template <class F>
  static void read(const void* from, std::size_t bytes, const F& f) {
    if (recording()) return read_later(from, bytes, f);
    std::vector<std::byte> to(bytes);
    download(to.data(), from, bytes);
    f(static_cast<const void*>(to.data()));
  }

  /// Of the recording that is being made, each its own; else 0.
  static std::uint64_t recording_number();

  /// Waits for everything that was enqueued; throws the error of a kernel that failed.
  static void synchronize();

 private:
  static bool recording();
  static void read_later(const void* from, std::size_t bytes, std::function<void(const void*)> then);
  static void check_later(std::function<bool()> check);
};
static_assert(Backend<Cuda>);

}  // namespace meft
