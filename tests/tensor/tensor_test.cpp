// Shapes, tensors, offsets, the pool and its meter, random numbers, 16-bit floats, parallel loops.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <stdexcept>
#include <thread>

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <meft/backend/cpu/philox.hpp>
#include <meft/base/bucket.hpp>
#include <meft/base/parallel.hpp>
#include <meft/tensor/kv_cache.hpp>
#include <meft/tensor/ragged.hpp>
#include <meft/tensor/random.hpp>
#include <meft/tensor/tensor.hpp>

#include "tools.hpp"

using namespace meft;
using namespace meft::test;

namespace {

/// A 16-bit float through float and back, and the rounding of everything between neighbours.
template <class H>
void check_conversions(std::uint16_t infinity) {
  Index wrong = 0;
  const auto make = [](unsigned bits) {
    H h;
    h.bits = static_cast<std::uint16_t>(bits);
    return h;
  };
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const H h = make(bits);
    const float f = static_cast<float>(h);
    if (std::isnan(f)) {
      wrong += (bits & 0x7fffu) <= infinity || !std::isnan(static_cast<float>(H(f)));
      continue;
    }
    wrong += H(f).bits != bits || static_cast<double>(h) != static_cast<double>(f);
    if ((bits & 0x7fffu) + 1 >= infinity) continue;
    // Between h and the next one, away from zero: nearest, ties to even.
    const H next = make(bits + 1);
    const double between = (static_cast<double>(h) + static_cast<double>(next)) / 2;
    const auto middle = static_cast<float>(between);
    if (static_cast<double>(middle) != between) continue;  // below the least float
    wrong += H(middle).bits != (bits % 2 ? next : h).bits;
    wrong += H(std::nextafter(middle, 0.0f)).bits != h.bits;
    wrong += H(std::nextafter(middle, std::copysign(INFINITY, middle))).bits != next.bits;
  }
  CHECK(wrong == 0);
  CHECK(H(INFINITY).bits == infinity);
  CHECK(H(-INFINITY).bits == (infinity | 0x8000u));
  CHECK(H(std::numeric_limits<float>::max()).bits == infinity);
  CHECK(H(-0.0f).bits == 0x8000u);
}

/// How a forked child that runs `body` ended: its status, or -1 where it had not after a minute.
int in_child(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    int status = 0;
    try {
      body();
    } catch (...) {
      status = 7;
    }
    std::_Exit(status);
  }
  int status = 0;
  for (int i = 0; i < 6000; ++i, usleep(10000))
    if (waitpid(child, &status, WNOHANG) == child) return status;
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return -1;
}

int allocations = 0, releases = 0;
bool exhausted = false;

}  // namespace

TEST_CASE("shape: extents, axes, text") {
  const Shape s{2, 3, 4};
  CHECK(s.rank() == 3);
  CHECK(s.size() == 24);
  CHECK(s[-1] == 4);
  CHECK(s.outer(1) == 2);
  CHECK(s.inner(1) == 4);
  CHECK(s.outer(0) == 1);
  CHECK(s.inner(-1) == 1);
  CHECK(s.without(1) == Shape{2, 4});
  CHECK(s.with(-1, 7) == Shape{2, 3, 7});
  CHECK(s.text() == "[2, 3, 4]");
  CHECK(Shape{}.size() == 1);
  CHECK(Shape{}.text() == "[]");
  CHECK(Shape{5, 0}.size() == 0);
  CHECK_FALSE(Shape{2} == Shape{2, 1});
  CHECK(message_of([&] { (void)s[3]; }) == "shape: no such axis: a is [2, 3, 4], 3");
  CHECK(message_of([&] { (void)s[-4]; }) == "shape: no such axis: a is [2, 3, 4], -4");
  CHECK(message_of([] { Shape{1, 1, 1, 1, 1, 1, 1}; }) == "shape: more than six dimensions");
  CHECK(message_of([] { Shape{3, -1}; }) == "shape: a negative extent: -1");
  CHECK(message_of([] { Shape{Index{1} << 40, Index{1} << 40}; }).starts_with("shape: the size overflows 64 bits"));
  CHECK(broadcast({3, 1, 5}, {4, 1}) == Shape{3, 4, 5});
  CHECK(broadcast({}, {2, 3}) == Shape{2, 3});
  CHECK(broadcast({1}, {0}) == Shape{0});
  CHECK(message_of([] {
          broadcast({2, 3}, {2});
        }) == "broadcast: extents differ and neither is 1: a is [2, 3], b is [2]");
}

TEST_CASE("tensor: handles share, clones do not") {
  auto x = Tensor<float>::from({2, 3}, {1, 2, 3, 4, 5, 6});
  CHECK(x.unique());
  const auto y = x;
  CHECK_FALSE(x.unique());
  CHECK(y.same(x));
  auto z = x.clone();
  CHECK_FALSE(z.same(x));
  z.zero();
  CHECK(z.values() == std::vector<float>(6, 0));
  CHECK(x.values() == std::vector<float>{1, 2, 3, 4, 5, 6});

  const auto row = x.rows(1, 2);
  CHECK(row.shape() == Shape{1, 3});
  CHECK(row.values() == std::vector<float>{4, 5, 6});
  x.data()[3] = 9;
  CHECK(row.data()[0] == 9);
  CHECK(row.reshape({-1}).rows(1, 3).values() == std::vector<float>{5, 6});
  CHECK(x.reshape({3, -1}).shape() == Shape{3, 2});
  CHECK(Tensor<std::int32_t>::full({2}, 7).values() == std::vector<std::int32_t>{7, 7});
  CHECK(Tensor<float>().defined() == false);
  CHECK(Tensor<float>::full({}, 3).item() == 3);
  CHECK(Tensor<float>(Shape{0, 4}).values().empty());

  CHECK(message_of([&] { x.reshape({4, 2}); }) == "reshape: sizes differ: a is [2, 3], b is [4, 2]");
  CHECK(message_of([&] { x.rows(1, 3); }) == "rows: outside the first axis: a is [2, 3], 1, 3");
  CHECK(message_of([&] { x.rows(2, 1); }) == "rows: outside the first axis: a is [2, 3], 2, 1");
  CHECK(message_of([&] { x.item(); }) == "item: not a single element: a is [2, 3]");
  CHECK(message_of([] { Tensor<float>().item(); }) == "item: not a single element: a is []");
  CHECK(message_of([] {
          Tensor<float>::from({2}, {1, 2, 3});
        }) == "tensor: the number of values differs from the shape's size: a is [2], 3");
}

TEST_CASE(
    "offsets that a recording has open: others come, and who reads them otherwise than to read them again ties it") {
  const auto of = [](const std::vector<std::int32_t>& lengths) { return Offsets::of_lengths(lengths); };
  const auto own = of({3, 1, 4});
  CHECK(own.identity() == nullptr);
  auto open = own.open();
  CHECK(open == own);
  CHECK(open.identity() != own.open().identity());
  const auto copy = open, whole = open.part(0, 3);
  const auto longest = reading_again([copy] { return copy.longest(); });
  const auto fill = [copy](std::int32_t* to) { *to = static_cast<std::int32_t>(copy.end(0)); };
  CHECK(longest() == 4);
  CHECK(settled<Cpu>([copy] { return copy.length(1); }) == 1);
  CHECK(Tensor<std::int32_t>::following({1}, reading_again(fill)).item() == 3);
  CHECK(copy.begin(0) == 0);  // follow from their numbers
  CHECK(copy.end(2) == 8);
  CHECK(!open.tied());
  for (const auto& other : {of({1, 7, 1}), of({1, 7}), of({8})})
    CHECK(message_of([&] { open.assign(other); }).starts_with("offsets: only open ones are assigned to"));
  CHECK(message_of([&] { Offsets(own).assign(of({1, 6, 1})); }).starts_with("offsets: only open ones"));
  open.assign(of({1, 6, 1}));
  CHECK(longest() == 6);
  CHECK(whole.tokens() == 8);
  CHECK(!open.tied());
  CHECK(copy.end(0) == 1);
  CHECK(open.tied());
  CHECK(own == of({3, 1, 4}));
  CHECK(!own.tied());
}

TEST_CASE("bucket: few sizes, little more") {
  std::set<Index> sizes;
  for (Index n = 0; n <= 4096; ++n) {
    const Index size = bucket(n, 8);
    CHECK(size >= n);
    CHECK((size == n || 8 * (size - n) < n));
    CHECK(bucket(size, 8) == size);
    if (n > 2048) sizes.insert(size);
  }
  CHECK(sizes.size() == 8);
}

TEST_CASE("offsets of a ragged batch") {
  const auto offsets = Offsets::of_lengths(std::vector<std::int32_t>{3, 0, 4});
  CHECK(offsets.sequences() == 3);
  CHECK(offsets.tokens() == 7);
  CHECK(offsets.begin(2) == 3);
  CHECK(offsets.end(2) == 7);
  CHECK(offsets.length(1) == 0);
  CHECK(offsets.longest() == 4);
  CHECK(offsets == Offsets(std::vector<std::int32_t>{0, 3, 3, 7}));
  CHECK(offsets.part(1, 3) == Offsets(std::vector<std::int32_t>{0, 0, 4}));
  CHECK(offsets.part(2, 2) == Offsets());
  CHECK(Offsets().sequences() == 0);
  CHECK(Offsets().longest() == 0);
  CHECK(message_of([] { Offsets(std::vector<std::int32_t>{}); }) == "offsets: no values");
  CHECK(message_of([] { Offsets(std::vector<std::int32_t>{1, 2}); }) == "offsets: the first value is not 0: 1");
  CHECK(message_of([] {
          Offsets(std::vector<std::int32_t>{0, 5, 3});
        }) == "offsets: a sequence has a negative length: sequence 1, -2");
  CHECK(message_of([] {
          Offsets::of_lengths(std::vector<std::int32_t>{2, -1});
        }) == "offsets: a sequence has a negative length: sequence 1, -1");
  CHECK(message_of([] {
          Offsets::of_lengths(std::vector<std::int32_t>{INT32_MAX, 1});
        }) == "offsets: more than 2^31 - 1 tokens: 2147483648");
  CHECK(message_of([&] { offsets.part(2, 4); }) == "offsets: no such part: 2, 4, 3 sequences");
}

namespace {

void* counted_allocate(std::size_t bytes) {
  return exhausted ? nullptr : (++allocations, std::aligned_alloc(64, bytes));
}
void counted_free(void* p, std::size_t) { ++releases, std::free(p); }

/// Blocks of one step: random sizes, taken and given back as a step does, most of them in reverse order. None may
/// overlap another that lives.
class FakeStep {
 public:
  FakeStep(Pool& pool, std::uint32_t seed, std::size_t largest) : pool_(pool), seed_(seed) {
    std::size_t forward = 60 + draw() % 60;
    while (forward-- > 0) {
      take(draw() % largest + 1);  // kept for the way back
      const std::size_t before = live_.size();
      for (std::size_t n = draw() % 4; n-- > 0;) take(draw() % largest + 1);
      while (live_.size() > before) give(before + draw() % (live_.size() - before));
    }
    while (!live_.empty()) {
      take(draw() % largest + 1);
      give(live_.size() - 1);
      give(live_.size() - 1);
    }
  }

 private:
  std::size_t draw() { return random_bits({seed_, 1, 0}, drawn_++); }
  void take(std::size_t bytes) {
    const auto block = pool_.take(bytes);
    char* const data = static_cast<char*>(block.data);
    REQUIRE(block.capacity >= bytes);
    for (const auto& other : live_) {
      const char* const begin = static_cast<const char*>(other.data);
      REQUIRE((data + block.capacity <= begin || begin + other.capacity <= data));
    }
    data[0] = data[block.capacity - 1] = 1;  // a sanitizer sees a place outside of every segment
    live_.push_back(block);
  }
  void give(std::size_t i) {
    pool_.give(live_[i]);
    live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  Pool& pool_;
  std::uint32_t seed_;
  std::uint64_t drawn_ = 0;
  std::vector<Pool::Block> live_;
};

}  // namespace

TEST_CASE("kv cache: numbers outside its sequences are errors, and it stays as it is") {
  KvCache<float> cache(2);
  const Offsets one({0, 1});
  const auto row = Tensor<float>::full({1, 3}, 1);
  for (const Index bad : {Index{2}, Index{5}, Index{-1}}) {
    const Index numbers[] = {0, bad};
    CHECK(message_of([&] { cache.only(numbers); }).starts_with("kv cache: expected numbers of its sequences, found"));
    for (const auto& f : {std::function<void()>([&] { (void)cache.behind(&cache, row, one, bad); }),
                          std::function<void()>([&] { (void)cache.once(&cache, one, bad, [&] { return row; }); })})
      CHECK(message_of(f).starts_with("kv cache: expected a part of its sequences, found"));
  }
  CHECK(cache.read().sequences() == 2);
  const Index second[] = {1};
  cache.only(second);
  CHECK(cache.read().sequences() == 1);
  CHECK(cache.behind(&cache, row, one, 0).shape() == Shape{1, 3});
}

TEST_CASE("pool: blocks are aligned, counted by use, and given again") {
  allocations = releases = 0;
  {
    Pool pool("test", counted_allocate, counted_free);
    const auto a = pool.take(1);
    CHECK(reinterpret_cast<std::uintptr_t>(a.data) % 64 == 0);
    CHECK(a.capacity == 64);
    const auto least = pool.take(0);
    CHECK(least.capacity == 64);
    CHECK(pool.system_calls() == 1);  // small blocks share a segment
    Pool::Block b;
    {
      const UseScope use(Use::gradient);
      b = pool.take(65);
      {
        const UseScope inner(Use::optimizer);
        pool.give(pool.take(1000));
      }
    }
    const auto c = pool.take((1 << 16) + 1);
    CHECK(c.capacity == (1 << 16) + 4096);
    CHECK(pool.read().of(Use::activation) == 128 + c.capacity);
    CHECK(pool.read().of(Use::gradient) == 128);
    CHECK(pool.read().of(Use::optimizer) == 0);
    CHECK(pool.read().total == 256 + c.capacity);
    CHECK(pool.read().peak == 256 + c.capacity);
    CHECK(allocations == 2);

    // A block that is given back is given again, whatever it was for, and cut where less is asked for.
    pool.give(c);
    CHECK(pool.read().total == 256);
    CHECK(pool.read().peak == 256 + c.capacity);
    const auto d = pool.take(1 << 17);
    CHECK(d.data == c.data);
    pool.give(b);
    const auto e = pool.take(64);
    CHECK(e.data == b.data);
    CHECK(allocations == 2);
    CHECK(pool.read().of(Use::gradient) == 0);
    pool.reset_peak();
    CHECK(pool.read().peak == pool.read().total);

    // What lasts has memory of its own, and gives it back at once.
    {
      const UseScope use(Use::parameter);
      const std::size_t reserved = pool.reserved();
      const auto weight = pool.take(1 << 20);
      CHECK(pool.reserved() == reserved + (1 << 20));
      pool.give(weight);
      CHECK(pool.reserved() == reserved);
    }

    // An exhausted device gives up what is free before it fails.
    exhausted = true;
    const std::string message = message_of([&] { pool.take(1 << 20); });
    CHECK(message.starts_with("pool: the device has no memory left: test, asked for, 1048576, alive, "));
    exhausted = false;
    CHECK(message_of([&] {
            pool.take(~std::size_t{0} - 5);
          }).starts_with("pool: more bytes than an address space has: test, asked for, 18446744073709551610"));

    pool.give(d);
    pool.set_caching(false);
    CHECK(pool.reserved() == (1 << 18));  // the small blocks' segment, of which some live
    const int before = releases;
    pool.give(pool.take(64));
    CHECK(releases == before + 1);
    for (const auto& block : {a, least, e}) pool.give(block);
    CHECK(pool.read().total == 0);
    CHECK(pool.reserved() == 0);
  }
  CHECK(releases == allocations);
}

TEST_CASE("pool: the peak, whole and by use, is of what lives, however much is held") {
  Pool pool("test", counted_allocate, counted_free);
  pool.give(pool.take(1 << 22));
  pool.reset_peak();
  CHECK(pool.read().peak == 0);
  const auto small = pool.take(1 << 17);
  CHECK(pool.read().peak == 1 << 17);
  {
    const UseScope use(Use::streams);
    pool.give(pool.take(1 << 18));
  }
  pool.give(small);
  CHECK(pool.read().peak == (1 << 17) + (1 << 18));
  CHECK(pool.read().peak_of(Use::streams) == 1 << 18);
  CHECK(pool.read().peak_of(Use::activation) == 1 << 17);
  CHECK(pool.read().peak_of(Use::digits) == 0);
  pool.reset_peak();
  CHECK(pool.read().peak_of(Use::streams) == 0);
  CHECK(pool.read().peak_of(Use::activation) == 0);

  // Of each use what lived at the peak of the whole, not its own highest.
  pool.give(pool.take(1 << 18));
  const auto less = pool.take(1 << 17);
  {
    const UseScope use(Use::digits);
    pool.give(pool.take(1 << 18));
  }
  pool.give(less);
  CHECK(pool.read().peak == (1 << 17) + (1 << 18));
  CHECK(pool.read().peak_of(Use::activation) == 1 << 17);
  CHECK(pool.read().peak_of(Use::digits) == 1 << 18);
}

TEST_CASE("pool: what is held stays near what was needed at once, whatever shapes come") {
  allocations = releases = 0;
  {
    Pool pool("test", counted_allocate, counted_free);
    std::size_t calls = 0;
    for (const std::size_t largest : {std::size_t{2000}, std::size_t{3} << 18, std::size_t{5} << 20})
      for (std::uint32_t step = 0; step < 60; ++step) FakeStep(pool, step, largest + step * largest / 100);
    const double needed = static_cast<double>(pool.read().peak);
    CHECK(static_cast<double>(pool.reserved()) <= 1.15 * needed);
    MESSAGE("held " << static_cast<double>(pool.reserved()) / needed << " of the highest need");

    // Shapes that come again ask the system for nothing.
    pool.trim();
    CHECK(pool.reserved() == 0);
    for (int step = 0; step < 6; ++step) {
      if (step == 3) calls = pool.system_calls();
      for (const std::uint32_t seed : {7u, 8u}) FakeStep(pool, seed, std::size_t{3} << 20);
    }
    CHECK(pool.system_calls() == calls);

    // A block that stays from step to step does not keep what is held from following the need.
    pool.trim();
    pool.reset_peak();
    std::vector<Pool::Block> stay;
    for (std::uint32_t step = 0; step < 60; ++step) {
      if (step % 20 == 0) stay.push_back(pool.take(std::size_t{1} << 18));
      FakeStep(pool, step, (std::size_t{1} << 20) + step * (std::size_t{1} << 14));
    }
    CHECK(static_cast<double>(pool.reserved()) <= 1.3 * static_cast<double>(pool.read().peak));
    MESSAGE("held " << static_cast<double>(pool.reserved()) / static_cast<double>(pool.read().peak)
                    << " of the highest need where blocks stay");
    for (const auto& block : stay) pool.give(block);
  }
  CHECK(releases == allocations);
}

TEST_CASE("pool: where the device has no more than a block needs, a segment is no larger") {
  constexpr std::size_t most = 100 << 10;
  const auto allocate = [](std::size_t bytes) { return bytes > most ? nullptr : std::aligned_alloc(64, bytes); };
  const auto release = [](void* block, std::size_t) { std::free(block); };
  Pool pool("test", allocate, release);
  const auto block = pool.take(most);
  CHECK(block.data != nullptr);
  CHECK(pool.reserved() == most);
  CHECK(message_of([&] { pool.take(most + 1); }).starts_with("pool: the device has no memory left"));
  pool.give(block);
}

TEST_CASE("arena: the smallest place with room, the first of equals; segments that touch stay apart, and go whole") {
  static char memory[3072];
  const auto place = [](const void* block) { return static_cast<const char*>(block) - memory; };
  Arena arena;
  arena.add(memory + 1024, 1024);
  arena.add(memory, 1024);
  CHECK(arena.take(2048) == nullptr);
  void* const first = arena.take(1024);
  void* const second = arena.take(1024);
  CHECK((place(first) == 0 && place(second) == 1024));
  CHECK(arena.take(1) == nullptr);
  CHECK(arena.used() == 2048);
  arena.give(second, 1024);
  arena.give(first, 1024);
  CHECK(arena.take(2048) == nullptr);
  CHECK((arena.take(1024) == first && arena.take(1024) == second));
  arena.give(first, 1024);
  arena.give(second, 1024);
  CHECK(arena.take(2048) == nullptr);
  CHECK((arena.take(1024) == first && place(arena.take(768)) == 1024));
  arena.give(first, 1024);
  CHECK(place(arena.take(256)) == 1024 + 768);  // though there is room in front of it
  arena.give(memory + 1024 + 768, 256);
  arena.give(second, 768);
  void* const large = arena.take(768);
  void* const small = arena.take(256);
  CHECK((place(large) == 0 && place(small) == 768));
  void* const other = arena.take(512);
  CHECK(place(other) == 1024);
  CHECK((arena.holds(memory) && arena.holds(memory + 2047) && !arena.holds(memory + 2048)));

  // A place that comes back joins those beside it; a segment goes where nothing of it is used.
  std::vector<std::pair<std::ptrdiff_t, std::size_t>> gone;
  const auto released = [&] {
    gone.clear();
    return arena.release([&](void* data, std::size_t size) { gone.emplace_back(place(data), size); });
  };
  arena.give(large, 768);
  CHECK(released() == 0);
  arena.give(small, 256);
  CHECK(released() == 1024);
  CHECK(gone == std::vector<std::pair<std::ptrdiff_t, std::size_t>>{{0, 1024}});
  CHECK((arena.segments() == 1 && arena.held() == 1024 && !arena.holds(memory)));
  arena.give(other, 512);
  CHECK(place(arena.take(1024)) == 1024);
  CHECK((arena.used() == 1024 && released() == 0));
}

TEST_CASE("buffer: what is kept beside is of its elements alone, until the block is written to") {
  const Buffer block(Cpu::pool(), 64);
  Buffer note(Cpu::pool(), 64);
  auto* const at = static_cast<std::byte*>(note.data());
  block.keep_beside(note, 4, 8, 3);
  CHECK((block.beside(4, 8, 2) == at && block.beside_made_in() == 3));
  CHECK(block.beside(6, 6, 2) == at + 4);
  CHECK(block.beside(3, 2, 2) == nullptr);
  CHECK(block.beside(6, 7, 2) == nullptr);
  CHECK_FALSE(note.unique());
  (void)block.writable();
  CHECK(block.beside(4, 8, 2) == nullptr);
  CHECK(note.unique());
}

TEST_CASE("measure: the peak of what lives, less what lived before") {
  { const Tensor<float> earlier(Shape{4096}); }  // a higher peak, before it begins
  const Tensor<float> before(Shape{16});
  const Measure measure(Cpu::pool());
  Tensor<float> kept;
  {
    const Tensor<float> gone(Shape{64});
    kept = Tensor<float>(Shape{32});
  }
  CHECK(measure.activation() == 256 + 128);
}

TEST_CASE("philox: the known answers of Random123") {
  using Words = std::array<std::uint32_t, 4>;
  CHECK(philox({}, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({.seed = ~std::uint64_t{0}, .site = ~0u, .step = ~0u}, ~std::uint64_t{0}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({.seed = 0x299f31d0a4093822, .site = 0x13198a2e, .step = 0x03707344}, 0x85a308d3243f6a88) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  CHECK(random_bits({}, 2) == 0xbc57ac4c);
  // Of seven rounds.
  CHECK(dropout_block({}, 0) == Words{0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48});
  CHECK(dropout_block({.seed = ~std::uint64_t{0}, .site = ~0u, .step = ~0u}, ~std::uint64_t{0}) ==
        Words{0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662});
  CHECK(dropout_block({.seed = 0x299f31d0a4093822, .site = 0x13198a2e, .step = 0x03707344}, 0x85a308d3243f6a88) ==
        Words{0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a});
  const int halves[] = {0xb709, 0x5f6f, 0x3f64, 0x0d89, 0x1f81, 0x4f12, 0x0a48, 0x4f73};
  for (unsigned e = 0; e < 8; ++e) CHECK(dropout_bits(Key{}, e) == halves[e]);
}

TEST_CASE("philox: words and dropout's bits in bulk are the same") {
  const Key key{.seed = 0x123456789abcdef0, .site = 3, .step = 4};
  for (std::uint64_t block : {std::uint64_t{0}, std::uint64_t{0xfffffffd}, ~std::uint64_t{0} - 5})
    for (Index blocks : {0, 1, 7, 8, 9, 33}) {
      std::vector<std::uint32_t> words(static_cast<std::size_t>(4 * blocks + 1), 42);
      cpu::philox_words(key, block, blocks, words.data());
      Index wrong = 0;
      for (Index b = 0; b < blocks; ++b)
        for (std::size_t k = 0; k < 4; ++k)
          wrong += words[static_cast<std::size_t>(4 * b) + k] != philox(key, block + static_cast<std::uint64_t>(b))[k];
      CHECK(wrong == 0);
      CHECK(words.back() == 42);

      std::vector<std::uint16_t> bits(static_cast<std::size_t>(8 * blocks + 1), 42);
      cpu::dropout_draws(key, block, blocks, bits.data());
      for (Index b = 0; b < blocks; ++b) {
        const auto drawn = dropout_block(key, block + static_cast<std::uint64_t>(b));
        for (unsigned e = 0; e < 8; ++e) wrong += bits[static_cast<std::size_t>(8 * b) + e] != dropout_bits(drawn, e);
      }
      CHECK(wrong == 0);
      CHECK(bits.back() == 42);
    }
}

TEST_CASE("random numbers: ranges and moments") {
  CHECK(uniform(0) == 0);
  CHECK(uniform(0xffffffff) < 1);
  CHECK(below({}, 0, 10) == (std::uint64_t{0x6627e8d5} * 10) >> 32);

  Tensor<float> x(Shape{100, 1000});
  fill_normal(x, {.seed = 1, .site = 2}, 0.02);
  double mean = 0, square = 0;
  for (float v : x.values()) {
    mean += v / 1e5;
    square += static_cast<double>(v) * v / 1e5;
  }
  CHECK(std::abs(mean) < 4 * 0.02 / std::sqrt(1e5));
  CHECK(std::sqrt(square) == doctest::Approx(0.02).epsilon(0.01));
  Tensor<float> again(Shape{700}), other(Shape{700});
  fill_normal(again, {.seed = 1, .site = 2}, 0.02);
  CHECK(again.values() == x.reshape({-1}).rows(0, 700).values());
  fill_normal(other, {.seed = 1, .site = 3}, 0.02);
  CHECK(other.values() != again.values());
}

TEST_CASE("half: all values, rounding") {
  check_conversions<half>(0x7c00);
  CHECK(static_cast<float>(half(65519.996f)) == 65504);
  CHECK(half(65520.0f).bits == 0x7c00);
  CHECK(static_cast<float>(half(0x1p-24f)) == 0x1p-24f);
  CHECK(half(0x1p-25f).bits == 0);
  CHECK(half(0x1.000002p-25f).bits == 1);
}

TEST_CASE("bf16: all values, rounding") { check_conversions<bf16>(0x7f80); }

TEST_CASE("parallel_for: each number once, nested loops in place, exceptions come back") {
  const int before = threads();
  for (int count : {1, 2, 4}) {
    set_threads(count);
    CHECK(threads() == count);
    std::vector<std::atomic<int>> hits(1000);
    parallel_for(1000, [&](Index i) { parallel_for(3, [&](Index) { ++hits[static_cast<std::size_t>(i)]; }); });
    Index wrong = 0;
    for (const auto& h : hits) wrong += h != 3;
    CHECK(wrong == 0);

    std::vector<int> cover(100, 0);
    parallel_chunks(100, 7, [&](Index begin, Index end) {
      CHECK((end - begin == 7 || end == 100));
      for (Index i = begin; i < end; ++i) ++cover[static_cast<std::size_t>(i)];
    });
    CHECK(cover == std::vector<int>(100, 1));
    parallel_for(0, [](Index) { FAIL("nothing to do"); });

    for (int round = 0; round < 20; ++round) {
      std::atomic<int> done{0};
      CHECK_THROWS_AS(parallel_for(100,
                                   [&](Index i) {
                                     if (i == 5) throw std::runtime_error("five");
                                     ++done;
                                   }),
                      std::runtime_error);
      CHECK(done < 100);
    }
    CHECK_THROWS_AS(parallel_for(4, [&](Index) { parallel_for(2, [](Index) { throw Error("inner"); }); }), Error);
    std::atomic<int> after{0};
    parallel_for(50, [&](Index) { ++after; });
    CHECK(after == 50);
  }
  set_threads(0);
  CHECK(threads() == 1);
  set_threads(before);
}

TEST_CASE("shape and tensor: a size that overflows is an error, in elements and in bytes") {
  const std::string overflows = "shape: the size overflows 64 bits";
  CHECK(message_of([] { Tensor<double>(Shape{Index{1} << 61}); }) ==
        overflows + ": a is [2305843009213693952], 8 bytes an element");
  CHECK(message_of([] { Tensor<float>::zeros({Index{1} << 31, Index{1} << 31}); }).starts_with(overflows));
  CHECK(message_of([] { Tensor<std::int32_t>::full({Index{1} << 61}, 1); }).starts_with(overflows));
  CHECK(message_of([] { Tensor<half>(Shape{1, Index{1} << 62}); }).starts_with(overflows));
  CHECK(message_of([] { Tensor<half>(Shape{3}.with(0, Index{1} << 62)); }).starts_with(overflows));
  CHECK(message_of([] { Tensor<half>(Shape{3}.with(0, -1)); }).starts_with("shape: a negative extent"));
  CHECK(message_of([] { Shape{0, Index{1} << 40, Index{1} << 40}; }).starts_with(overflows));  // so does what is inside
  CHECK(message_of([] { Shape{Index{1} << 40, Index{1} << 40, 0}; }).starts_with(overflows));
  // What fits in 64 bits and not in the machine is the pool's error.
  CHECK(message_of([] { Tensor<half>(Shape{Index{1} << 61}); }).starts_with("pool: more bytes than an address"));
  CHECK(Shape{3, 0, 5}.bytes(4) == 0);
  CHECK(Shape{3, 5}.bytes(4) == 60);
  CHECK(Shape{}.bytes(8) == 8);
}

TEST_CASE("tensor: what needs elements refuses an empty one") {
  const std::string empty = ": the tensor is empty: it was default-made and never given a value";
  Tensor<float> x;
  CHECK(x.size() == 0);
  CHECK(x.bytes() == 0);
  CHECK(message_of([&] { x.clone(); }) == "clone" + empty);
  CHECK(message_of([&] { x.zero(); }) == "zero" + empty);
  CHECK(message_of([&] { x.values(); }) == "values" + empty);
  CHECK(message_of([&] { x.host(); }) == "host" + empty);
  CHECK(message_of([&] { x.fill([](auto) {}); }) == "fill" + empty);
  CHECK(message_of([&] { x.reshape({1}); }) == "reshape" + empty);
  CHECK(message_of([&] { x.reshape({-1}); }) == "reshape" + empty);
  CHECK(message_of([&] { x.rows(0, 1); }).starts_with("rows: "));
  CHECK(message_of([&] { x.item(); }).starts_with("item: "));
  x = Tensor<float>(Shape{0, 3});  // no elements, but made
  CHECK(x.clone().values().empty());
  CHECK(x.reshape({3, 0}).shape() == Shape{3, 0});
  CHECK(message_of([&] { x.reshape({0, -1}); }) == "reshape: an extent of -1 beside one of 0 may be anything: 0");
  CHECK(x.reshape({-1, 3}).shape() == Shape{0, 3});
}

TEST_CASE("parallel_for: nobody waits for another's loop") {
  const int before = threads();
  for (const int count : {2, 4}) {
    set_threads(count);
    // A new number of threads holds from the next loop on.
    std::atomic<int> seen{0};
    parallel_for(8, [&](Index) {
      set_threads(3);
      ++seen;
    });
    CHECK(seen == 8);
    CHECK(threads() == 3);
    parallel_for(8, [&](Index) { ++seen; });
    CHECK(seen == 16);
    // A thread of the user's that a loop's body waits for runs loops of its own, and sets the number.
    std::atomic<int> inner{0};
    parallel_for(8, [&](Index) {
      std::thread([&] {
        parallel_for(50, [&](Index) { ++inner; });
        set_threads(2);
      }).join();
    });
    CHECK(inner == 8 * 50);
    CHECK(threads() == 2);
    // Loops of two threads at once, each number once.
    std::vector<std::atomic<int>> hits(2000);
    const auto half = [&](std::size_t from) {
      for (int round = 0; round < 20; ++round)
        parallel_for(1000, [&](Index i) { ++hits[from + static_cast<std::size_t>(i)]; });
    };
    std::thread other([&] { half(1000); });
    half(0);
    other.join();
    Index wrong = 0;
    for (const auto& h : hits) wrong += h != 20;
    CHECK(wrong == 0);
  }
  set_threads(before);
}

TEST_CASE("parallel_for: as many threads as the process may run on") {
  cpu_set_t all, one;
  REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
  CHECK(detail::cores() == CPU_COUNT(&all));
  int first = 0;
  while (!CPU_ISSET(first, &all)) ++first;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
  const int found = detail::cores();
  REQUIRE(sched_setaffinity(0, sizeof all, &all) == 0);
  CHECK(found == 1);
}

TEST_CASE("parallel_for: a forked child goes on alone") {
  const int before = threads();
  set_threads(4);
  parallel_for(100, [](Index) {});
  std::atomic<int> done{0};
  const auto loop = [&] {
    done = 0;
    parallel_for(100, [&](Index) { ++done; });
    if (done != 100) std::_Exit(5);
  };
  CHECK(in_child(loop) == 0);
  CHECK(in_child([&] {
          if (threads() != 1) std::_Exit(6);
          loop();
          set_threads(3);  // threads of its own
          if (threads() != 3) std::_Exit(6);
          loop();
        }) == 0);
  CHECK(in_child([] { std::exit(0); }) == 0);
  CHECK(in_child([] { set_threads(1); }) == 0);
  // Forked while a loop runs in another thread, and in a loop's body.
  std::atomic<bool> stop{false}, began{false};
  std::thread busy([&] {
    while (!stop) parallel_for(8, [&](Index) { began = true; });
  });
  while (!began) usleep(100);
  for (int i = 0; i < 5; ++i) CHECK(in_child(loop) == 0);
  stop = true;
  busy.join();
  // While another takes and gives memory.
  stop = began = false;
  std::thread taking([&] {
    for (; !stop; began = true) Tensor<float> some({1000});
  });
  while (!began) usleep(100);
  for (int i = 0; i < 20; ++i) CHECK(in_child([] { Tensor<float> some({1000}); }) == 0);
  stop = true;
  taking.join();
  std::atomic<int> bad{0};
  parallel_for(4, [&](Index) { bad += in_child([] { parallel_for(10, [](Index) {}); }) != 0; });
  CHECK(bad == 0);
  loop();  // the parent's crew is as it was
  CHECK(done == 100);
  CHECK(threads() == 4);
  set_threads(before);
}

TEST_CASE("MEFT_ISA: a name of none is an error that lists them") {
  // A process of its own for each, since the choice is made once.
  const auto with = [](const char* value) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const pid_t child = fork();
    if (child == 0) {
      dup2(ends[1], 1);
      setenv("MEFT_ISA", value, 1);
      execl("/proc/self/exe", "tensor_test", "--no-skip", "-tc=isa of this process", nullptr);
      std::_Exit(9);
    }
    close(ends[1]);
    std::string out;
    char text[4096];
    for (ssize_t n; (n = read(ends[0], text, sizeof text)) > 0;) out.append(text, static_cast<std::size_t>(n));
    close(ends[0]);
    waitpid(child, nullptr, 0);
    return out;
  };
  for (const char* wrong : {"avx51", "AVX2", "avx512bf16", "none", "avx2 "}) {
    CAPTURE(wrong);
    const auto out = with(wrong);
    CHECK(out.find("isa: MEFT_ISA: expected portable, avx2, avx512, avx512_bf16 or amx, found: " +
                   std::string(wrong)) != out.npos);
  }
  for (const char* right : {"portable", "avx2", "avx512", "avx512_bf16", "amx", ""}) {
    CAPTURE(right);
    const auto out = with(right);
    CHECK(out.find("isa: no error") != out.npos);
  }
  CHECK(with("portable").find("runs portable") != std::string::npos);
}

TEST_CASE("isa of this process" * doctest::skip()) {
  std::printf("isa: %s\n", message_of([] { Tensor<float>::zeros({3}).values(), (void)isa(); }).c_str());
  std::printf("runs %s\n", isa_names[static_cast<int>(isa())]);
}
