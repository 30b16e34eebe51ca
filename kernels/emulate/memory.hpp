// Owns: the emulated device's memory. An allocation ends (up to 255 bytes of alignment) at a page that nobody may touch
// and its pages are closed to everybody but kernels and copies. A fault inside an Access opens the allocation that it
// hits; any other fault in device memory becomes a message. Addresses are not given again while others are left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "emulate.hpp"

namespace emulate {

inline constexpr unsigned char poison_byte = 0xFF;  // four of them are a float NaN, eight a double NaN, two a bf16 NaN
inline constexpr unsigned char canary_byte = 0xC5;  // between an allocation's end and its guard page

struct Allocation {
  char* data = nullptr;  // aligned to 256
  std::size_t bytes = 0;
  char* pages = nullptr;  // the whole pages around it
  std::size_t page_bytes = 0;
  std::uint64_t number = 0;              // counts allocations from 1
  std::vector<unsigned char> touched{};  // while counting, of each page: 1 read, 2 written
  bool open = false;
  bool alive = true;
};

/// A null pointer when the capacity or the address space is used up.
void* allocate_device(std::size_t bytes);
/// False when the pointer is not the start of a live allocation.
bool free_device(void* data);
std::size_t device_capacity();
/// Frees all allocations.
void reset_device_memory();

/// Whether the address lies in the range that device memory comes from, allocated or not.
bool is_device_address(const void* address);
/// Whether [data, data + bytes) lies in one live allocation.
bool is_device_range(const void* data, std::size_t bytes);
/// The live allocation that holds the address, or the nearest one, or null. Valid until the next allocate or free.
const Allocation* find_allocation(const void* address);
/// The address in words: the allocation it lies in or is next to, and the distance.
void describe_address(const void* address, char* text, std::size_t size);

/// While one lives, this thread may touch device memory. Threads that help take an Access of their own.
class Access {
 public:
  Access();
  ~Access();
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
};

/// Bytes of the pages that were read and written since the last call, while counting.
struct Touched {
  std::uint64_t read = 0, written = 0;
};
Touched take_touched();
void set_page_counting(bool on);

/// Closes what Accesses have opened. Returns false after writing which allocation had its margin overwritten.
bool close_device_memory(char* text, std::size_t size);

/// Called on a fault of a thread that runs a kernel: may change the context so that the thread goes on elsewhere, and
/// returns true then. Null when no kernel runs on this thread.
using FaultHook = bool (*)(void* address, bool is_write, void* context);
void set_fault_hook(FaultHook hook);
void install_fault_handler();

}  // namespace emulate
