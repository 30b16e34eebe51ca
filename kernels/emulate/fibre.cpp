// Owns: the switch between fibres.
#include "fibre.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define EMULATE_ASAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define EMULATE_ASAN 1
#endif
#ifdef EMULATE_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef EMULATE_UCONTEXT
#elif defined(__x86_64__)
// save: where the old stack pointer goes; to: the new one. The six registers, then the floating-point control words.
asm(R"(
.text
.p2align 4
.globl meft_emulate_switch
.hidden meft_emulate_switch
.type meft_emulate_switch, @function
meft_emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  fnstcw 4(%rsp)
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  ldmxcsr (%rsp)
  fldcw 4(%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size meft_emulate_switch, .-meft_emulate_switch
)");
extern "C" void meft_emulate_switch(void** save, void* to);
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.globl meft_emulate_switch
.hidden meft_emulate_switch
.type meft_emulate_switch, %function
meft_emulate_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size meft_emulate_switch, .-meft_emulate_switch
)");
extern "C" void meft_emulate_switch(void** save, void* to);
#endif

namespace emulate {

namespace {
thread_local Fibre* running = nullptr;  // the fibre being switched to, and from then on the one that runs
thread_local Fibre* left = nullptr;

std::size_t page_bytes() {
  static const std::size_t bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}
}  // namespace

void fibre_begin() {
  running->arrived();
  running->entry_();
  __builtin_trap();  // an entry never returns: there is nothing to return to
}

Fibre::Fibre(std::size_t stack_bytes, void (*entry)()) : entry_(entry) {
  const std::size_t page = page_bytes();
  bytes_ = (stack_bytes + page - 1) / page * page + page;
  memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory_ == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory_, page, PROT_NONE);
  bottom_ = static_cast<char*>(memory_) + page;
  size_ = bytes_ - page;
  restart();
}

Fibre::~Fibre() {
  if (!memory_) return;
  munmap(memory_, bytes_);
}

void Fibre::abandon() {
#ifdef EMULATE_ASAN
  __asan_unpoison_memory_region(bottom_, size_);
#endif
}

void Fibre::restart() {
  abandon();
  fake_stack_ = nullptr;
#ifdef EMULATE_UCONTEXT
  getcontext(&context_);
  context_.uc_stack.ss_sp = const_cast<void*>(bottom_);
  context_.uc_stack.ss_size = size_;
  context_.uc_link = nullptr;
  makecontext(&context_, &fibre_begin, 0);
#elif defined(__x86_64__)
  // From the top: a null return address, fibre_begin as the switch's return, six registers, the control words.
  auto* slot = static_cast<std::uint64_t*>(top());
  *--slot = 0;
  *--slot = reinterpret_cast<std::uint64_t>(&fibre_begin);
  for (int i = 0; i < 6; ++i) *--slot = 0;
  std::uint32_t control[2] = {};
  asm volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(control[0]), "=m"(control[1]));
  std::memcpy(--slot, control, sizeof control);
  pointer_ = slot;
#elif defined(__aarch64__)
  auto* slot = static_cast<std::uint64_t*>(top()) - 20;
  std::memset(slot, 0, 160);
  slot[11] = reinterpret_cast<std::uint64_t>(&fibre_begin);
  pointer_ = slot;
#endif
}

void Fibre::arrived() {
#ifdef EMULATE_ASAN
  const void* bottom = nullptr;
  std::size_t size = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &size);
  if (left && !left->memory_) left->bottom_ = bottom, left->size_ = size;
#endif
}

void Fibre::switch_to(Fibre& to) {
  left = this;
  running = &to;
#ifdef EMULATE_ASAN
  __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.size_);
#endif
#ifdef EMULATE_UCONTEXT
  swapcontext(&context_, &to.context_);
#else
  meft_emulate_switch(&pointer_, to.pointer_);
#endif
  arrived();
}

bool Fibre::guards(const void* address) const { return memory_ && address >= memory_ && address < bottom_; }

bool Fibre::holds(const void* address) const { return memory_ && address >= bottom_ && address < top(); }

}  // namespace emulate
