// Owns: the arena of device memory, and the handler of faults in it.
#include "memory.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace emulate {
namespace {

constexpr std::size_t alignment = 256;

/// Held for a few instructions, and taken in the fault handler: the thread that faults never holds it.
class Spin {
 public:
  void lock() {
    while (flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  }
  void unlock() { flag_.clear(std::memory_order_release); }

 private:
  std::atomic_flag flag_ = ATOMIC_FLAG_INIT;
};

struct Arena {
  char* begin = nullptr;
  char* end = nullptr;
  char* next = nullptr;
  std::size_t page = 4096;
  std::size_t capacity = std::size_t{8} << 30, used = 0;
  std::uint64_t count = 0;
  std::map<const char*, std::unique_ptr<Allocation>> by_pages;  // live and freed ones
  std::vector<Allocation*> opened;
  Touched touched;
  bool counting = false;
  Spin spin;

  Arena() {
    page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    for (std::size_t size = std::size_t{1} << 37; size >= (std::size_t{1} << 28); size /= 2) {
      void* p = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (p == MAP_FAILED) continue;
      begin = next = static_cast<char*>(p);
      end = begin + size;
      break;
    }
  }

  /// The allocation, live or freed, whose pages or guard page are at or before the address.
  Allocation* at_or_before(const void* address) {
    auto it = by_pages.upper_bound(static_cast<const char*>(address));
    return it == by_pages.begin() ? nullptr : std::prev(it)->second.get();
  }
  Allocation* after(const void* address) {
    auto it = by_pages.upper_bound(static_cast<const char*>(address));
    return it == by_pages.end() ? nullptr : it->second.get();
  }
};

/// Never destroyed: static objects of a program may free device memory later than any order of ours.
Arena& arena() {
  static Arena& one = *new Arena;
  return one;
}

thread_local int access_depth = 0;
std::atomic<FaultHook> fault_hook{nullptr};
struct sigaction previous_segv, previous_bus;

bool wrote(void* context) {
#if defined(__x86_64__)
  return (static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2) != 0;
#else
  (void)context;
  return false;
#endif
}

/// Opens the allocation, or while counting the page. The arena's lock is held.
bool open(Arena& a, Allocation& allocation, const void* address, bool to_write) {
  if (a.counting) {
    const auto page = static_cast<std::size_t>(static_cast<const char*>(address) - allocation.pages) / a.page;
    unsigned char& state = allocation.touched[page];
    const unsigned char bit = to_write ? 2 : 1;
    if (state >= bit) return true;  // another thread was faster
    if (mprotect(allocation.pages + page * a.page, a.page, to_write ? PROT_READ | PROT_WRITE : PROT_READ) != 0)
      return false;
    state |= bit;
    (to_write ? a.touched.written : a.touched.read) += a.page;
    if (allocation.open) return true;
  } else {
    if (allocation.open) return true;  // another thread was faster
    if (mprotect(allocation.pages, allocation.page_bytes, PROT_READ | PROT_WRITE) != 0) return false;
  }
  allocation.open = true;
  a.opened.push_back(&allocation);  // its capacity is reserved at allocation: a handler must not allocate
  return true;
}

void pass_on(int signal, siginfo_t* info, void* context) {
  struct sigaction previous = signal == SIGSEGV ? previous_segv : previous_bus;
  // A handler that raises the signal again must not come back to us and from here to itself.
  static std::atomic<int> depth{0};
  if (depth.fetch_add(1) > 0) previous.sa_handler = SIG_DFL, previous.sa_flags = 0;
  if ((previous.sa_flags & SA_SIGINFO) && previous.sa_sigaction) previous.sa_sigaction(signal, info, context);
  else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN && previous.sa_handler)
    previous.sa_handler(signal);
  else sigaction(signal, &previous, nullptr);  // the instruction runs again and the default takes its course
}

void on_fault(int signal, siginfo_t* info, void* context) {
  Arena& a = arena();
  void* address = info->si_addr;
  const bool device = is_device_address(address);
  if (device && access_depth > 0) {
    std::lock_guard lock(a.spin);
    Allocation* found = a.at_or_before(address);
    if (found && found->alive && address < found->pages + found->page_bytes && open(a, *found, address, wrote(context)))
      return;
  }
  if (FaultHook hook = fault_hook.load(); hook && hook(address, wrote(context), context)) return;
  if (device) {
    char text[640], where[384];
    describe_address(address, where, sizeof where);
    const int length =
        std::snprintf(text, sizeof text, "emulate: the host %s device memory outside of kernels and copies: %s\n",
                      wrote(context) ? "writes" : "touches", where);
    [[maybe_unused]] const auto written = ::write(2, text, static_cast<std::size_t>(length));
  }
  pass_on(signal, info, context);
}

}  // namespace

/// Others, test frameworks among them, put handlers of their own in our place: so this is done before each kernel.
void install_fault_handler() {
  arena();
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  const auto install = [&](int signal, struct sigaction& previous) {
    struct sigaction before {};
    sigaction(signal, &action, &before);
    if (!(before.sa_flags & SA_SIGINFO) || before.sa_sigaction != on_fault) previous = before;
  };
  install(SIGSEGV, previous_segv);
  install(SIGBUS, previous_bus);
}

void set_fault_hook(FaultHook hook) { fault_hook = hook; }

void* allocate_device(std::size_t bytes) {
  install_fault_handler();
  Arena& a = arena();
  std::lock_guard lock(a.spin);
  const std::size_t padded = (bytes + alignment - 1) / alignment * alignment;
  const std::size_t size = (padded + a.page - 1) / a.page * a.page;
  if (size < bytes || a.used + padded > a.capacity) return nullptr;
  if (!a.begin || a.next + 2 * a.page + size > a.end) {
    // All addresses were given once: forget what is freed and start behind the last live allocation.
    std::erase_if(a.by_pages, [](const auto& entry) { return !entry.second->alive; });
    a.next =
        a.by_pages.empty() ? a.begin : a.by_pages.rbegin()->second->pages + a.by_pages.rbegin()->second->page_bytes;
    if (!a.begin || a.next + 2 * a.page + size > a.end) return nullptr;
  }
  char* pages = a.next + a.page;
  if (mprotect(pages, size, PROT_READ | PROT_WRITE) != 0) return nullptr;
  auto made = std::make_unique<Allocation>();
  made->data = pages + size - padded;
  made->bytes = bytes;
  made->pages = pages;
  made->page_bytes = size;
  made->number = ++a.count;
  made->touched.resize(size / a.page);
  std::memset(pages, canary_byte, static_cast<std::size_t>(made->data - pages));
  std::memset(made->data, poison_byte, bytes);
  std::memset(made->data + bytes, canary_byte, padded - bytes);
  mprotect(pages, size, PROT_NONE);
  void* data = made->data;
  a.by_pages[pages] = std::move(made);
  a.opened.reserve(a.by_pages.size());
  a.next = pages + size;
  a.used += padded;
  return data;
}

bool free_device(void* data) {
  Arena& a = arena();
  std::lock_guard lock(a.spin);
  Allocation* found = a.at_or_before(data);
  if (!found || found->data != data || !found->alive) return false;
  found->alive = false;
  std::erase(a.opened, found);
  found->open = false;
  // A fresh mapping gives the memory back and keeps the addresses closed.
  mmap(found->pages, found->page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  a.used -= (found->bytes + alignment - 1) / alignment * alignment;
  return true;
}

Touched take_touched() { return std::exchange(arena().touched, {}); }
void set_page_counting(bool on) { arena().counting = on; }
bool counting() { return arena().counting; }

void set_device_capacity(std::size_t bytes) { arena().capacity = bytes; }
std::size_t device_capacity() { return arena().capacity; }
std::size_t device_bytes_in_use() { return arena().used; }

void reset_device_memory() {
  std::vector<void*> alive;
  for (const auto& [pages, allocation] : arena().by_pages)
    if (allocation->alive) alive.push_back(allocation->data);
  for (void* data : alive) free_device(data);
}

bool is_device_address(const void* address) {
  const Arena& a = arena();
  return a.begin && address >= a.begin && address < a.end;
}

bool is_device_range(const void* data, std::size_t bytes) {
  if (!is_device_address(data)) return false;
  Arena& a = arena();
  std::lock_guard lock(a.spin);
  const Allocation* found = a.at_or_before(data);
  const char* first = static_cast<const char*>(data);
  return found && found->alive && first >= found->data && first <= found->data + found->bytes &&
         bytes <= static_cast<std::size_t>(found->data + found->bytes - first);
}

const Allocation* find_allocation(const void* address) {
  if (!is_device_address(address)) return nullptr;
  Arena& a = arena();
  std::lock_guard lock(a.spin);
  return a.at_or_before(address);
}

void describe_address(const void* address, char* text, std::size_t size) {
  if (!is_device_address(address)) {
    std::snprintf(text, size, "address %p is not device memory", address);
    return;
  }
  Arena& a = arena();
  std::lock_guard lock(a.spin);
  const char* p = static_cast<const char*>(address);
  const Allocation* before = a.at_or_before(p);
  const Allocation* next = a.after(p);
  // The nearer of the two neighbours, where the address is in neither.
  const bool inside = before && p >= before->data && p < before->data + before->bytes;
  if (before && !inside && p >= before->data && next && next->data - p < p - (before->data + before->bytes))
    before = next;
  if (!before) before = next;
  if (!before) {
    std::snprintf(text, size, "address %p, where nothing was ever allocated", address);
    return;
  }
  char place[96];
  if (p < before->data) std::snprintf(place, sizeof place, "%td bytes before the start", before->data - p);
  else if (p < before->data + before->bytes) std::snprintf(place, sizeof place, "at offset %td", p - before->data);
  else std::snprintf(place, sizeof place, "%td bytes past the end", p - (before->data + before->bytes));
  std::snprintf(text, size, "%s of the %s %llu of %zu bytes", place, before->alive ? "allocation" : "freed allocation",
                static_cast<unsigned long long>(before->number), before->bytes);
}

Access::Access() { ++access_depth; }
Access::~Access() { --access_depth; }

bool close_device_memory(char* text, std::size_t size) {
  Arena& a = arena();
  std::lock_guard lock(a.spin);
  bool whole = true;
  for (Allocation* allocation : a.opened) {
    if (a.counting) {
      mprotect(allocation->pages, allocation->page_bytes, PROT_READ | PROT_WRITE);
      std::fill(allocation->touched.begin(), allocation->touched.end(), 0);
    }
    const char *first = allocation->data, *last = first + allocation->bytes;
    const char* low = first - std::min<std::ptrdiff_t>(first - allocation->pages, 256);
    for (const char* p = low; p < allocation->pages + allocation->page_bytes; ++p) {
      if (p == first) p = last;
      if (p == allocation->pages + allocation->page_bytes) break;
      if (static_cast<unsigned char>(*p) == canary_byte) continue;
      if (whole) {
        const bool past = p >= last;
        std::snprintf(text, size, "a write %td bytes %s of allocation %llu of %zu bytes", past ? p - last : first - p,
                      past ? "past the end" : "before the start", static_cast<unsigned long long>(allocation->number),
                      allocation->bytes);
      }
      whole = false;
      std::memset(const_cast<char*>(p), canary_byte, 1);
    }
    mprotect(allocation->pages, allocation->page_bytes, PROT_NONE);
    allocation->open = false;
  }
  a.opened.clear();
  return whole;
}

}  // namespace emulate
