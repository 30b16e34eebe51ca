// Owns: fibres, stacks that one OS thread switches between. A switch saves the registers that a call preserves
// (x86-64, aarch64), or goes through ucontext elsewhere and with EMULATE_UCONTEXT. ASan is told of each switch. TSan is
// not: to it a fibre is the thread that runs it (a thread of its own costs a clock of all fibres at each switch), so
// its count of calls, which a switch would break, is left out (CMakeLists.txt).
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(__aarch64__) && !defined(EMULATE_UCONTEXT)
#define EMULATE_UCONTEXT 1
#endif
#ifdef EMULATE_UCONTEXT
#include <ucontext.h>
#endif

namespace emulate {

class Fibre {
 public:
  Fibre() = default;  // the thread's own stack, entered by switching away from it
  Fibre(std::size_t stack_bytes, void (*entry)());
  ~Fibre();
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  /// Continues `to` where it left off; returns when somebody switches back.
  void switch_to(Fibre& to);
  /// Forgets what ran on the stack: the next switch calls `entry` anew.
  void restart();
  /// What ran on the stack is lost, though it never returned: sanitizers no longer guard its variables.
  void abandon();

  /// Whether the address lies in the page that guards the stack's end.
  bool guards(const void* address) const;
  bool holds(const void* address) const;
  void* top() const { return static_cast<char*>(memory_) + bytes_; }

 private:
  friend void fibre_begin();
  void arrived();

  void* memory_ = nullptr;  // one guard page, then the stack
  std::size_t bytes_ = 0;   // of both
  void (*entry_)() = nullptr;
#ifdef EMULATE_UCONTEXT
  ucontext_t context_{};
#else
  void* pointer_ = nullptr;
#endif
  // For ASan.
  [[maybe_unused]] void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace emulate
