// Owns: the meter against an outside count of the process heap, and what a reversible stack's memory grows by with
// depth. The count replaces this program's malloc (glibc), which sanitizers replace too: under them that test says it
// skips.
#include <doctest/doctest.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "../bench/step.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEFT_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define MEFT_TEST_SANITIZED 1
#endif
#endif
#if defined(__GLIBC__) && !defined(MEFT_TEST_SANITIZED)
#define MEFT_TEST_HEAP 1
#endif

using namespace meft;

#ifdef MEFT_TEST_HEAP
#include <malloc.h>

namespace {

std::atomic<std::int64_t> heap_live{0}, heap_peak{0};

void change(std::int64_t bytes) {
  const std::int64_t now = heap_live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  for (auto peak = heap_peak.load(std::memory_order_relaxed);
       now > peak && !heap_peak.compare_exchange_weak(peak, now);) {
  }
}

/// Blocks that begin a huge page: behind their ends the C library keeps addresses, as many as happened to be left,
/// which malloc_usable_size counts, but no memory.
struct Huge {
  static constexpr std::uintptr_t alignment = std::uintptr_t{1} << 21;
  std::atomic<void*> block{nullptr};
  std::int64_t size = 0;
};
Huge huge[256];

Huge* huge_at(void* block) {
  if (!block || reinterpret_cast<std::uintptr_t>(block) % Huge::alignment) return nullptr;
  for (Huge& one : huge)
    if (one.block.load() == block) return &one;
  return nullptr;
}

std::int64_t size_of(void* block) {
  if (const Huge* one = huge_at(block)) return one->size;
  return block ? static_cast<std::int64_t>(malloc_usable_size(block)) : 0;
}

void* counted(void* block) {
  change(size_of(block));
  return block;
}

}  // namespace

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* block, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* block);

void* malloc(std::size_t size) noexcept { return counted(__libc_malloc(size)); }
void* calloc(std::size_t count, std::size_t size) noexcept { return counted(__libc_calloc(count, size)); }
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  void* block = __libc_memalign(alignment, size);
  if (block && alignment >= Huge::alignment)
    for (Huge& one : huge) {
      void* none = nullptr;
      if (!one.block.compare_exchange_strong(none, block)) continue;
      one.size = static_cast<std::int64_t>(size);
      break;
    }
  return counted(block);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept { return memalign(alignment, size); }
int posix_memalign(void** block, std::size_t alignment, std::size_t size) noexcept {
  if (alignment % sizeof(void*) || !alignment || (alignment & (alignment - 1))) return EINVAL;
  void* made = memalign(alignment, size);
  if (!made) return ENOMEM;
  *block = made;
  return 0;
}
void* realloc(void* block, std::size_t size) noexcept {
  const std::int64_t before = size_of(block);
  void* moved = __libc_realloc(block, size);
  if (!moved && size) return moved;
  if (Huge* one = huge_at(block); one && moved != block) one->block = nullptr;
  change(size_of(moved) - before);
  return moved;
}
void free(void* block) noexcept {
  change(-size_of(block));
  if (Huge* one = huge_at(block)) one->block = nullptr;
  __libc_free(block);
}
}

namespace {

bench::Setup counted_setup(const std::string& method) {
  bench::Setup setup{.config = {}, .batch = 8, .seq = 64, .method = method, .stack = {}};
  setup.config.vocab_size = 1000;
  setup.config.hidden_size = 128;
  setup.config.num_attention_heads = 4;
  setup.config.intermediate_size = 512;
  setup.config.num_hidden_layers = 4;
  return setup;
}

/// Activation memory of a warm step by the pool's meter and by the heap.
std::pair<double, double> two_counts(const std::string& method) {
  bench::Step step(counted_setup(method));
  const auto run = [&] {
    step.differentiate();
    step.update();
  };
  run();
  const std::int64_t before = heap_live.load();
  heap_peak = before;
  const Measure meter(Cpu::pool());
  run();
  return {static_cast<double>(meter.activation()), static_cast<double>(heap_peak.load() - before)};
}

}  // namespace

TEST_CASE("the meter agrees with the heap within 2 %") {
  {
    const std::int64_t before = heap_live.load();
    const std::string block(1 << 20, 'x');
    REQUIRE(heap_live.load() - before >= 1 << 20);  // this program's malloc is the counted one
    CHECK(block.size() == 1 << 20);
  }
  Cpu::pool().set_caching(false);
  for (const std::string method : {"full", "lora", "meft1", "meft3"}) {
    CAPTURE(method);
    const auto [meter, heap] = two_counts(method);
    MESSAGE(method << ": meter " << meter / 1024 << " KiB, heap " << heap / 1024 << " KiB, " << 100 * (heap / meter - 1)
                   << " % more");
    REQUIRE(meter > 1 << 20);
    REQUIRE(std::fabs(meter - heap) <= 0.02 * heap);
  }
  Cpu::pool().set_caching(true);
}

// The pool asks the system for at least 256 KiB at a time, for small blocks and for a step's: so much comes on top.
TEST_CASE("the heap takes at most a tenth more than what is needed at once, whatever lengths come") {
  const int before = threads();
  set_threads(1);  // with more, the peak depends on which slices meet
  for (const bool ragged : {false, true})
    for (const std::string method : {"full", "lora", "meft1"}) {
      CAPTURE(method);
      CAPTURE(ragged);
      const double grains = ragged ? 2 << 18 : 1 << 18;  // here a 27th of what is needed
      auto setup = counted_setup(method);
      setup.ragged = ragged;
      Cpu::pool().trim();
      Cpu::pool().reset_peak();
      const std::size_t pool_before = Cpu::pool().read().total;
      const std::int64_t heap_before = heap_live.load();
      heap_peak = heap_before;
      bench::Step step(setup);
      for (int i = 0; i < (ragged ? 40 : 4); ++i) {
        step.differentiate();
        step.update();
      }
      const std::size_t needed = Cpu::pool().read().peak;
      const double own = static_cast<double>(needed - pool_before),
                   heap = static_cast<double>(heap_peak.load() - heap_before);
      MESSAGE(method << std::string(ragged ? " ragged" : "") << ": heap " << heap / own << " of the meter");
      CHECK(heap <= 1.1 * own + grains);
      CHECK(static_cast<double>(Cpu::pool().reserved()) <= 1.1 * static_cast<double>(needed) + grains);
    }
  set_threads(before);
}
#else
TEST_CASE("the meter agrees with the heap within 2 %") {
  MESSAGE("skipped: the heap is counted through glibc's malloc, which a sanitizer or another C library replaces");
}
#endif

namespace {

constexpr Index hidden = 64, sequences = 5, length = 40, in_slice = 2;

bench::Setup deep(const std::string& method, Index layers, Streams streams) {
  bench::Setup setup{.config = {}, .batch = sequences, .seq = length, .method = method, .stack = {}};
  setup.config.vocab_size = 100;
  setup.config.hidden_size = hidden;
  setup.config.num_attention_heads = 4;
  setup.config.intermediate_size = 256;
  setup.config.num_hidden_layers = layers;
  setup.stack.streams = streams;
  setup.stack.slice_tokens = in_slice * length;
  return setup;
}

/// Pool bytes of the digits that a shear keeps for the whole batch.
std::size_t digit_bytes(Lambda lambda) {
  std::size_t bytes = 0;
  for (Index first = 0; first < sequences; first += in_slice) {
    const Index rows = std::min(in_slice, sequences - first) * length,
                words = digit_words<std::int32_t>(Cpu{}, rows * hidden, lambda);
    const auto before = Cpu::pool().read().total;
    const Tensor<std::uint32_t> digits({words});
    bytes += Cpu::pool().read().total - before;
  }
  return bytes;
}

std::size_t layer_digits(const std::string& method) {
  return digit_bytes(method == "meft2" ? Lambda{1, 1} : Lambda{1, 10}) +
         digit_bytes(method == "meft1" ? Lambda{1, 1} : Lambda{1, 10});
}

/// Bytes of what a layer's two shears report, a slice each.
constexpr std::size_t layer_reports = 2 * (sequences + in_slice - 1) / in_slice * sizeof(ShearSlot);

}  // namespace

TEST_CASE("36 more reversible layers cost their side digits, 16 bytes a shear for its report, and nothing else") {
  const int before = threads();
  set_threads(1);  // with more, the peak depends on which slices meet
  Cpu::pool().set_caching(false);
  for (const std::string method : {"meft1", "meft2", "meft3"}) {
    CAPTURE(method);
    const std::size_t at_12 = bench::measure(deep(method, 12, Streams::exact), 1).activation;
    const std::size_t at_48 = bench::measure(deep(method, 48, Streams::exact), 1).activation;
    CHECK(at_48 - at_12 == 36 * (layer_digits(method) + layer_reports));
    const double an_element = static_cast<double>(at_48 - at_12) / (36.0 * sequences * length * hidden);
    CHECK(an_element <= (method == "meft3" ? 1.0 : 0.5));
    MESSAGE(method << ": 12 layers " << at_12 / 1024 << " KiB, 48 layers " << at_48 / 1024 << " KiB, " << an_element
                   << " bytes an element and layer");
  }
  Cpu::pool().set_caching(true);
  set_threads(before);
}

TEST_CASE("stored streams do grow with depth") {
  const std::size_t at_2 = bench::measure(deep("meft1", 2, Streams::stored), 1).activation;
  const std::size_t at_8 = bench::measure(deep("meft1", 8, Streams::stored), 1).activation;
  CHECK(at_8 > 3 * at_2);
}

TEST_CASE("memory is counted by use") {
  const auto full = bench::measure(deep("full", 2, Streams::exact), 1),
             meft = bench::measure(deep("meft1", 2, Streams::exact), 1);
  CHECK(full.parameter == full.gradient);  // everything trains
  CHECK(full.optimizer == 2 * full.gradient);
  CHECK(meft.optimizer == 2 * meft.gradient);
  CHECK(meft.gradient < full.gradient / 4);
  CHECK(meft.activation < full.activation);
  CHECK(full.reserved >= full.parameter + full.gradient + full.optimizer);
}

TEST_CASE("after the second step the system is asked for no memory") {
  const int before = threads();
  set_threads(1);  // with more, other slices may meet later
  for (const std::string method : {"full", "recompute", "bitfit", "adapter", "lora", "meft1", "meft2", "meft3"}) {
    CAPTURE(method);
    Cpu::pool().trim();
    bench::Step step(deep(method, 3, Streams::exact));
    const auto run = [&] {
      step.differentiate();
      CHECK(step.update());
    };
    run();
    run();
    const std::size_t calls = Cpu::pool().system_calls();
    for (int i = 0; i < 4; ++i) run();
    CHECK(Cpu::pool().system_calls() == calls);
  }
  set_threads(before);
}
