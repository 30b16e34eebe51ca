// Owns: what single kernels of the Cuda backend promise beyond the lines of cases.hpp: shears at every kind of λ,
// attention at every kind of head and span, products at every layout and precision, copies of every size.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <meft/backend/cpu/attention.hpp>
#include <meft/backend/cpu/bottleneck.hpp>
#include <meft/backend/cpu/optimize.hpp>
#include <meft/backend/cpu/random.hpp>
#include <meft/backend/cpu/shear.hpp>
#include <meft/base/scalar.hpp>
#include <meft/cuda.hpp>
#include <meft/memory/buffer.hpp>

#ifdef MEFT_EMULATED
#include <emulate/emulate.hpp>
#endif

#include "any_blocks.hpp"
#include "shear_report.hpp"
#include "tools.hpp"

using namespace meft;
using namespace meft::test;

namespace {

using Random = std::mt19937_64;

/// With MEFT_TEST_ALONE every block comes straight from the device, so that a tool sees one that is left.
[[maybe_unused]] const bool alone = [] {
  const bool on = std::getenv("MEFT_TEST_ALONE");
  if (on) Cuda::pool().set_caching(false);
  return on;
}();

/// An array on the device, filled from the host.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& host) : size_(host.size()), buffer_(Cuda::pool(), bytes() + 1) {
    Cuda::upload(buffer_.data(), host.data(), bytes());
  }
  explicit OnDevice(Index size) : OnDevice(std::vector<T>(static_cast<std::size_t>(size))) {}
  T* data() const { return static_cast<T*>(const_cast<Buffer&>(buffer_).data()); }
  std::vector<T> host() const {
    std::vector<T> out(size_);
    Cuda::download(out.data(), data(), bytes());
    return out;
  }

 private:
  std::size_t bytes() const { return size_ * sizeof(T); }
  std::size_t size_;
  Buffer buffer_;
};

template <class T>
std::vector<T> uniform_values(Random& random, Index n, double low, double high) {
  std::vector<T> out(static_cast<std::size_t>(n));
  for (auto& v : out) v = static_cast<T>(std::uniform_real_distribution<double>(low, high)(random));
  return out;
}

/// The largest |a − b| / max(1, |b|); infinite where an element of a is not finite.
template <class A, class B>
double distance(const std::vector<A>& a, const std::vector<B>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(static_cast<double>(a[i]))) return std::numeric_limits<double>::infinity();
    const auto expected = static_cast<double>(b[i]);
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - expected) / std::max(1.0, std::abs(expected)));
  }
  return worst;
}

template <class Word, class F>
void check_shear(Random& random, Lambda lambda, Index n, int bits, double magnitude) {
  const auto x = [&] {
    std::vector<Word> out(static_cast<std::size_t>(n));
    for (auto& v : out)
      v = static_cast<Word>(std::ldexp(std::uniform_real_distribution<double>(-magnitude, magnitude)(random), bits));
    return out;
  }();
  auto f = uniform_values<F>(random, n, -magnitude, magnitude);
  constexpr std::uint32_t guard = 0xA5A5A5A5u;
  const Index count = digit_words<Word>(Cuda{}, n, lambda);
  const OnDevice<Word> state(x);
  const OnDevice<F> added(f);
  const OnDevice<std::uint32_t> words(std::vector<std::uint32_t>(static_cast<std::size_t>(count) + 16, guard));
  const auto guarded = [&] {
    const auto all = words.host();
    return std::all_of(all.begin() + count, all.end(), [](std::uint32_t w) { return w == guard; });
  };

  const auto down = shear_on<Cuda>(n, state.data(), added.data(), lambda, bits, words.data());
  REQUIRE_FALSE(down.overflow);
  CHECK(guarded());
  auto expected = x;
  if (std::abs(lambda.n) == 1) {  // otherwise digits of other calls are taken in, in an order that backends choose
    std::vector<std::uint32_t> host_words(static_cast<std::size_t>(digit_words<Word>(Cpu{}, n, lambda)) + 1);
    shear_on<Cpu>(n, expected.data(), f.data(), lambda, bits, host_words.data());
    CHECK(state.host() == expected);
  }
  const OnDevice<Word> wrong(state.host());
  const OnDevice<std::uint32_t> wrong_words(words.host());
  const auto up = unshear_on<Cuda>(n, state.data(), added.data(), lambda, bits, words.data());
  CHECK_FALSE(up.overflow);
  CHECK(up.hash == down.hash);
  CHECK(state.host() == x);
  CHECK(guarded());

  f[static_cast<std::size_t>(random() % f.size())] += static_cast<F>(1);
  const OnDevice<F> other(f);
  const auto seen = unshear_on<Cuda>(n, wrong.data(), other.data(), lambda, bits, wrong_words.data());
  CHECK((seen.overflow || seen.hash != down.hash));
}

template <class Word, class F>
void check_shears(int bits, double magnitude, std::uint64_t seed) {
  Random random(seed);
  std::vector<Lambda> lambdas{{1, 10}, {1, 2},  {1, 16}, {1, 17}, {1, 256}, {1, 257},   {-1, 3},       {7, 8},
                              {10, 7}, {-1, 1}, {1, 1},  {3, 1},  {-5, 1},  {1, 32768}, {32767, 32768}};
  for (int i = 0; i < 10; ++i)
    lambdas.push_back(
        Lambda{static_cast<std::int32_t>(random() % 50) + 1, static_cast<std::int32_t>(random() % 999) + 1});
  for (auto lambda : lambdas) {
    lambda = lambda.reduced();
    CAPTURE(lambda.text());
    for (const Index n : {Index{1}, Index{31}, Index{2048}, static_cast<Index>(random() % 5000 + 1)}) {
      CAPTURE(n);
      check_shear<Word, F>(random, lambda, n, bits, magnitude / (1 + std::fabs(lambda.value())));
    }
  }
}

struct Attended {
  std::vector<double> out, lse, dq, dk, dv, dbias{};
  bool operator==(const Attended&) const = default;
};

/// Forward and backward of attention on a backend, in T, given in double; with a bias where there are numbers of it.
template <class B, class T>
Attended attend(const AttentionSpec<double>& spec, const std::vector<Span>& spans, const std::vector<double>& q,
                const std::vector<double>& k, const std::vector<double>& v, const std::vector<double>& dout,
                const std::vector<double>& bias = {}) {
  AttentionSpec<T> here{spec.heads,   spec.width, spec.causal,    static_cast<T>(spec.scale),
                        spec.dropout, spec.key,   spec.first_row, spec.precision};
  here.window = spec.window;
  here.key_heads = spec.key_heads;
  here.reach = static_cast<Index>(bias.size()) / spec.heads / 2;
  const auto narrow = [](const std::vector<double>& x) { return std::vector<T>(x.begin(), x.end()); };
  const auto wide = [](const std::vector<T>& x) { return std::vector<double>(x.begin(), x.end()); };
  const std::size_t rows = q.size() / static_cast<std::size_t>(spec.width);  // of queries, times heads
  if constexpr (B::on_host) {
    const auto a = narrow(q), b = narrow(k), c = narrow(v), d = narrow(dout);
    const auto e = narrow(bias);
    here.bias = e.empty() ? nullptr : e.data();
    std::vector<T> out(a.size()), lse(rows), dq(a.size()), dk(b.size()), dv(b.size()), dbias(e.size());
    attention(B{}, here, spans, a.data(), b.data(), c.data(), out.data(), lse.data());
    attention_backward(B{}, here, spans, a.data(), b.data(), c.data(), out.data(), lse.data(), d.data(), dq.data(),
                       dk.data(), dv.data(), e.empty() ? nullptr : dbias.data());
    return {wide(out), wide(lse), wide(dq), wide(dk), wide(dv), wide(dbias)};
  } else {
    const OnDevice<T> a(narrow(q)), b(narrow(k)), c(narrow(v)), d(narrow(dout));
    const OnDevice<T> e(narrow(bias)), dbias(static_cast<Index>(bias.size()));
    here.bias = bias.empty() ? nullptr : e.data();
    const OnDevice<T> out(static_cast<Index>(q.size())), lse(static_cast<Index>(rows)),
        dq(static_cast<Index>(q.size())), dk(static_cast<Index>(k.size())), dv(static_cast<Index>(k.size()));
    attention(B{}, here, spans, a.data(), b.data(), c.data(), out.data(), lse.data());
    attention_backward(B{}, here, spans, a.data(), b.data(), c.data(), out.data(), lse.data(), d.data(), dq.data(),
                       dk.data(), dv.data(), bias.empty() ? nullptr : dbias.data());
    return {wide(out.host()), wide(lse.host()), wide(dq.host()), wide(dk.host()), wide(dv.host()), wide(dbias.host())};
  }
}

/// A call in bf16 of sequences that follow each other, of some bounds on its values.
struct Sequences {
  Sequences(const std::vector<Index>& lengths, Index heads, Index width, double most = 1)
      : spec{heads, width, false, 1 / std::sqrt(static_cast<double>(width)), 0, {}, 0, Precision::bf16} {
    for (const Index n : lengths) {
      spans.push_back({rows, n, rows, n});
      rows += n;
    }
    Random random(6);
    for (auto* x : {&q, &k, &v, &dout}) *x = uniform_values<double>(random, rows * heads * width, -most, most);
  }
  Attended on_device() const { return attend<Cuda, float>(spec, spans, q, k, v, dout); }
  Attended exact() const { return attend<Cpu, double>(spec, spans, q, k, v, dout); }

  AttentionSpec<double> spec;
  std::vector<Span> spans{};
  Index rows = 0;
  std::vector<double> q{}, k{}, v{}, dout{};
};

/// While it lives, cuDNN's backward pass needs no workspace: our own kernels leave it what it takes.
struct FlatWorkspace {
#ifdef MEFT_EMULATED
  FlatWorkspace() { emulate::set_dnn_bytes_a_score(0); }
  ~FlatWorkspace() { emulate::set_dnn_bytes_a_score(2); }
#else
  FlatWorkspace() {}
#endif
  FlatWorkspace(const FlatWorkspace&) = delete;
  FlatWorkspace& operator=(const FlatWorkspace&) = delete;
};

double distance(const Attended& a, const Attended& b) {
  return std::max({distance(a.out, b.out), distance(a.lse, b.lse), distance(a.dq, b.dq), distance(a.dk, b.dk),
                   distance(a.dv, b.dv), distance(a.dbias, b.dbias)});
}

/// A row-major or transposed view of `x` as [rows, columns], with `gap` more elements in a line.
template <class T>
Strided<T> view(const T* x, Index rows, Index columns, bool transposed, Index gap) {
  return transposed ? Strided<T>{x, 1, rows + gap} : Strided<T>{x, columns + gap, 1};
}
Index elements(Index rows, Index columns, bool transposed, Index gap) {
  return transposed ? columns * (rows + gap) : rows * (columns + gap);
}

/// start + A·B in double.
template <class T>
std::vector<double> plain_product(Index rows, Index columns, Index depth, Strided<T> a, Strided<T> b,
                                  std::vector<double> c) {
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j)
      for (Index k = 0; k < depth; ++k)
        c[static_cast<std::size_t>(i * columns + j)] += static_cast<double>(a.data[i * a.row + k * a.column]) *
                                                        static_cast<double>(b.data[k * b.row + j * b.column]);
  return c;
}

/// What a product starts from, as [rows, columns].
template <class T>
std::vector<double> start_values(Start start, Index rows, Index columns, const std::vector<T>& bias,
                                 const std::vector<T>& c) {
  std::vector<double> out(c.begin(), c.end());
  for (Index i = 0; i < rows * columns; ++i) {
    if (start == Start::zero) out[static_cast<std::size_t>(i)] = 0;
    if (start == Start::bias)
      out[static_cast<std::size_t>(i)] = static_cast<double>(bias[static_cast<std::size_t>(i % columns)]);
  }
  return out;
}

template <class T>
void check_products(double most) {
  Random random(7);
  for (const auto& size : std::vector<std::array<Index, 3>>{{1, 1, 1},
                                                            {3, 5, 7},
                                                            {17, 33, 9},
                                                            {64, 48, 128},
                                                            {1, 40, 30},
                                                            {40, 1, 30},
                                                            {40, 30, 1},
                                                            {5, 4, 0},
                                                            {0, 4, 5}})
    for (const Start start : {Start::zero, Start::bias, Start::accumulate})
      for (int layout = 0; layout < 8; ++layout) {
        const Index rows = size[0], columns = size[1], depth = size[2];
        const bool ta = layout & 1, tb = layout & 2;
        const Index gap = layout & 4 ? 3 : 0;
        CAPTURE(rows);
        CAPTURE(columns);
        CAPTURE(depth);
        CAPTURE(layout);
        const auto a = uniform_values<T>(random, elements(rows, depth, ta, gap), -1, 1),
                   b = uniform_values<T>(random, elements(depth, columns, tb, gap), -1, 1),
                   bias = uniform_values<T>(random, columns, -1, 1),
                   c = uniform_values<T>(random, rows * columns, -1, 1);
        auto shifted = bias;  // to where 16 bytes are not read together
        shifted.insert(shifted.begin(), static_cast<std::size_t>(gap), T(0));
        const OnDevice<T> da(a), db(b), dbias(shifted), dc(c);
        gemm(Cuda{},
             Product<T>{rows, columns, depth, view<T>(da.data(), rows, depth, ta, gap), dc.data(), columns, start,
                        start == Start::bias ? dbias.data() + gap : nullptr},
             view<T>(db.data(), depth, columns, tb, gap));
        CHECK(distance(dc.host(), plain_product(rows, columns, depth, view(a.data(), rows, depth, ta, gap),
                                                view(b.data(), depth, columns, tb, gap),
                                                start_values(start, rows, columns, bias, c))) < most);
      }
}

/// In bf16 both operands are rounded; the reference rounds them too.
template <class T>
void check_packed(Precision precision, double most) {
  Random random(8);
  const auto round = [&](std::vector<T> x) {
    if (precision == Precision::bf16)
      for (auto& v : x) v = static_cast<T>(static_cast<float>(bf16(static_cast<float>(v))));
    return x;
  };
  for (const auto& size : std::vector<std::array<Index, 3>>{{1, 1, 1}, {5, 7, 3}, {33, 24, 40}, {70, 64, 128}})
    for (const Start start : {Start::zero, Start::bias, Start::accumulate})
      for (const bool forward : {true, false}) {
        const Index rows = size[0], out = size[1], in = size[2];
        CAPTURE(rows);
        CAPTURE(out);
        CAPTURE(in);
        CAPTURE(forward);
        const Index depth = forward ? in : out, columns = forward ? out : in;
        const auto w = uniform_values<T>(random, out * in, -1, 1), x = uniform_values<T>(random, rows * depth, -1, 1),
                   bias = uniform_values<T>(random, columns, -1, 1),
                   c = uniform_values<T>(random, rows * columns, -1, 1);
        const OnDevice<T> dw(w), dx(x), dbias(bias), dc(c), unpacked(out * in);
        const Panels<Cuda, T> packed(dw.data(), out, in, precision);
        const Product<T> product{rows,      columns, depth, {dx.data(), depth, 1},
                                 dc.data(), columns, start, start == Start::bias ? dbias.data() : nullptr};
        if (forward) packed.forward(product);
        else packed.backward(product);
        const auto rw = round(w), rx = round(x);
        const Strided<T> b = forward ? Strided<T>{rw.data(), 1, in} : Strided<T>{rw.data(), in, 1};
        CHECK(distance(dc.host(), plain_product(rows, columns, depth, Strided<T>{rx.data(), depth, 1}, b,
                                                start_values(start, rows, columns, bias, c))) < most);
        packed.unpack(unpacked.data());
        CHECK(unpacked.host() == rw);
        const std::vector<std::int32_t> some{static_cast<std::int32_t>(out - 1), 0, static_cast<std::int32_t>(out / 2)};
        const OnDevice<std::int32_t> numbers(some);
        const OnDevice<T> gathered(3 * in);
        {
          const Measure measure(Cuda::pool());
          packed.rows(3, numbers.data(), gathered.data());
          CHECK(measure.activation() == 0);
        }
        std::vector<T> right;
        for (const Index row : some) right.insert(right.end(), rw.begin() + row * in, rw.begin() + (row + 1) * in);
        CHECK(gathered.host() == right);
        auto changed = w;
        std::vector<std::int32_t> at;
        for (Index i = 0; i < out * in; i += 2) at.push_back(static_cast<std::int32_t>(i));
        const auto values = uniform_values<T>(random, static_cast<Index>(at.size()), -1, 1);
        for (std::size_t m = 0; m < at.size(); ++m) changed[static_cast<std::size_t>(at[m])] = values[m];
        const OnDevice<std::int32_t> indices(at);
        const OnDevice<T> v(values);
        packed.write(static_cast<Index>(at.size()), indices.data(), v.data());
        packed.unpack(unpacked.data());
        CHECK(unpacked.host() == round(changed));
      }
}

/// Where the product ends in the activation: what it gives, and that it says no elsewhere.
void check_activated(Precision precision, double least) {
  Random random(9);
  for (const auto& size : std::vector<std::array<Index, 3>>{{5, 8, 3}, {33, 24, 40}, {70, 64, 128}})
    for (const Activation f : {Activation::relu, Activation::gelu_tanh})
      for (const bool with_bias : {true, false}) {
        const Index rows = size[0], out = size[1], in = size[2];
        CAPTURE(rows);
        CAPTURE(static_cast<int>(f));
        CAPTURE(with_bias);
        const auto w = uniform_values<float>(random, out * in, -1, 1),
                   x = uniform_values<float>(random, rows * in, -1, 1),
                   bias = uniform_values<float>(random, out, -1, 1);
        const OnDevice<float> dw(w), dx(x), dbias(bias), z(rows * out), fused_z(rows * out), y(rows * out);
        const Panels<Cuda, float> packed(dw.data(), out, in, precision);
        const auto product = [&](float* to) {
          return Product<float>{rows,
                                out,
                                in,
                                {dx.data(), in, 1},
                                to,
                                out,
                                with_bias ? Start::bias : Start::zero,
                                with_bias ? dbias.data() : nullptr};
        };
        packed.forward(product(z.data()));
        const bool fused = packed.forward_activated(f, product(y.data()), fused_z.data());
#ifdef MEFT_EMULATED
        REQUIRE(fused);
#endif
        if (!fused) continue;  // a device may have no such product
        // The epilogue's tanh has 11 bits.
        const double most = f == Activation::gelu_tanh ? 1e-3 : least;
        const auto argument = z.host();
        std::vector<double> plain;
        for (const float v : argument)
          plain.push_back(visit(f, [&](auto g) { return static_cast<double>(g(static_cast<double>(v))); }));
        CHECK(distance(y.host(), plain) < most);
        if (f == Activation::gelu_tanh) CHECK(distance(fused_z.host(), argument) < least);
        CHECK_FALSE(packed.forward_activated(Activation::gelu, product(y.data()), z.data()));
      }
}

/// Three steps over parameters of many sizes, one of them not aligned; gradients are zero after each.
template <class T>
void check_adamw(double most) {
  Random random(9);
  const std::vector<Index> sizes{1, 7, 0, 16384, 16385, 50000, 300};
  struct Arrays {
    std::vector<T> gradient, value, first, second;
  };
  std::vector<Arrays> host;
  std::vector<OnDevice<T>> device;
  std::vector<AdamWSlot<T>> host_slots, slots;
  for (const Index n : sizes) {
    const auto zeros = std::vector<T>(static_cast<std::size_t>(n) + 1);
    const auto value = uniform_values<T>(random, n + 1, -1, 1);
    host.push_back({zeros, value, zeros, zeros});
    for (int k = 0; k < 4; ++k) device.emplace_back(k == 1 ? value : zeros);
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const Index off = sizes[i] == 300;
    auto& h = host[i];
    host_slots.push_back({sizes[i], h.gradient.data() + off, h.value.data() + off, h.first.data() + off,
                          h.second.data() + off, i % 2 == 0});
    slots.push_back({sizes[i], device[4 * i].data() + off, device[4 * i + 1].data() + off,
                     device[4 * i + 2].data() + off, device[4 * i + 3].data() + off, i % 2 == 0});
  }
  const auto count = static_cast<Index>(sizes.size());
  for (int t = 1; t <= 3; ++t) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const auto g = uniform_values<T>(random, sizes[i], -2, 2);
      std::copy(g.begin(), g.end(), host_slots[i].gradient);
      Cuda::upload(slots[i].gradient, g.data(), g.size() * sizeof(T));
    }
    const double expected = sum_squares(Cpu{}, count, host_slots.data());
    CHECK(std::abs(sum_squares(Cuda{}, count, slots.data()) / expected - 1) < 1e-12);
    const AdamWStep step{1e-2, 0.9, 0.99, 1e-6, 0.1, 1 - std::pow(0.9, t), 1 - std::pow(0.99, t), 0.5};
    adamw(Cpu{}, count, host_slots.data(), step);
    adamw(Cuda{}, count, slots.data(), step);
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      CAPTURE(sizes[i]);
      CHECK(distance(device[4 * i].host(), host[i].gradient) == 0);
      CHECK(distance(device[4 * i + 1].host(), host[i].value) < most);
      CHECK(distance(device[4 * i + 2].host(), host[i].first) < most);
      CHECK(distance(device[4 * i + 3].host(), host[i].second) < most);
    }
  }
  CHECK(sum_squares(Cuda{}, 0, slots.data()) == 0);
}

}  // namespace

TEST_CASE("AdamW on the device: all parameters in one pass, each as on the CPU") {
  check_adamw<float>(1e-6);
  check_adamw<double>(1e-14);
}

TEST_CASE("noise on the device: the CPU's, wherever rows begin") {
  const std::vector<std::int32_t> numbers{5, 0, 900, 5};
  const OnDevice<std::int32_t> rows(numbers);
  for (const Index width : {1, 7, 33, 400})
    for (const bool gathered : {false, true}) {
      const auto n = static_cast<std::size_t>(4 * width);
      std::vector<float> x(n), expected(n);
      for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 17) - 8;
      add_noise(Cpu{}, 4, width, gathered ? numbers.data() : nullptr, 3, {1, 2, 3}, 0.5, 2.0, x.data(),
                expected.data());
      const OnDevice<float> in(x), out(static_cast<Index>(n));
      add_noise(Cuda{}, 4, width, gathered ? rows.data() : nullptr, 3, {1, 2, 3}, 0.5, 2.0,
                static_cast<const float*>(in.data()), out.data());
      const auto found = out.host();
      for (std::size_t i = 0; i < n; ++i) CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-5).scale(1));
    }
}

TEST_CASE("shears on the device: undone bit for bit, with the CPU's bits, digits in their words, a change is seen") {
  check_shears<std::int32_t, float>(20, 900, 1);
  check_shears<std::int64_t, double>(40, 1e6, 2);
}

TEST_CASE("a shear at the ends of the range: the CPU's, undone") {
  constexpr auto most = std::numeric_limits<std::int32_t>::max();
  const std::vector<std::int32_t> x{-most, 1 - most, most, -7, most - 1};
  std::vector<float> f(x.size());
  const auto n = static_cast<Index>(x.size());
  for (const Lambda lambda : {Lambda{1, 10}, Lambda{1, 32768}, Lambda{1, 1}}) {
    CAPTURE(lambda.text());
    auto expected = x;
    std::vector<std::uint32_t> host_words(static_cast<std::size_t>(digit_words<std::int32_t>(Cpu{}, n, lambda)) + 1);
    CHECK_FALSE(shear_on<Cpu>(n, expected.data(), f.data(), lambda, 20, host_words.data()).overflow);
    const OnDevice<std::int32_t> state(x);
    const OnDevice<float> added(f);
    const OnDevice<std::uint32_t> words(digit_words<std::int32_t>(Cuda{}, n, lambda) + 1);
    const auto down = shear_on<Cuda>(n, state.data(), added.data(), lambda, 20, words.data());
    CHECK_FALSE(down.overflow);
    CHECK(state.host() == expected);
    CHECK(unshear_on<Cuda>(n, state.data(), added.data(), lambda, 20, words.data()).hash == down.hash);
    CHECK(state.host() == x);
  }
}

TEST_CASE("a shear that leaves the range is reported, with the value") {
  const std::vector<float> f{1, 2, 5000, 3};
  const OnDevice<std::int32_t> x(Index{4});
  const OnDevice<float> added(f);
  const Lambda lambda{1, 10};
  const OnDevice<std::uint32_t> words(digit_words<std::int32_t>(Cuda{}, 4, lambda));
  const auto report = shear_on<Cuda>(4, x.data(), added.data(), lambda, 20, words.data());
  CHECK(report.overflow);
  CHECK(report.value == doctest::Approx(5000));
  CHECK_FALSE(shear_on<Cuda>(2, x.data(), added.data(), lambda, 20, words.data()).overflow);
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  const OnDevice<float> bad(std::vector<float>{nan});
  CHECK(shear_on<Cuda>(1, x.data(), bad.data(), lambda, 20, words.data()).overflow);
  const OnDevice<std::int64_t> wide(Index{1});
  const OnDevice<std::uint32_t> more(digit_words<std::int64_t>(Cuda{}, 1, lambda));
  CHECK(shear_on<Cuda>(1, wide.data(), bad.data(), lambda, 40, more.data()).overflow);
}

TEST_CASE(
    "attention on the device: heads of every width, spans of every length, causal and not, dropout, windows, "
    "relative position") {
  Random random(3);
  double worst = 0;
  for (const Index width : {1, 3, 8, 32, 33, 64, 65, 96, 128, 200, 256})
    for (const bool causal : {false, true})
      for (const float dropout : {0.0f, 0.25f}) {
        CAPTURE(width);
        CAPTURE(causal);
        CAPTURE(dropout);
        // One sequence is empty, one has a single query, one more keys than queries, one is just over a tile.
        const std::vector<Span> spans{{0, 5, 0, 5}, {5, 0, 5, 0}, {5, 1, 5, 40}, {6, 33, 45, 35}, {39, 17, 80, 17}};
        const Index heads = 2, queries = 56, keys = 97;
        AttentionSpec<double> spec{heads,   width,     causal, 1 / std::sqrt(static_cast<double>(width)),
                                   dropout, {4, 1, 2}, 11};
        const bool near = causal == (dropout > 0);
        spec.window = near ? 9 : 0;
        const auto q = uniform_values<double>(random, queries * heads * width, -1, 1),
                   k = uniform_values<double>(random, keys * heads * width, -1, 1),
                   v = uniform_values<double>(random, keys * heads * width, -1, 1),
                   dout = uniform_values<double>(random, queries * heads * width, -1, 1),
                   bias = uniform_values<double>(random, dropout > 0 ? heads * (2 * 20 + 1) : 0, -1, 1);
        const auto expected = attend<Cpu, double>(spec, spans, q, k, v, dout, bias);
        CHECK(distance(attend<Cuda, double>(spec, spans, q, k, v, dout, bias), expected) < 1e-12);
        worst = std::max(worst, distance(attend<Cuda, float>(spec, spans, q, k, v, dout, bias), expected));
      }
  CHECK(worst < 1e-5);
  MESSAGE("attention in float against double: ", worst);
}

TEST_CASE("attention in bf16 on the device: cuDNN where it runs") {
  const FlatWorkspace flat;
  Random random(4);
  double worst = 0;
  for (const Index width : {8, 32, 64, 128})
    for (const bool causal : {false, true}) {
      CAPTURE(width);
      CAPTURE(causal);
      // Three sequences, from row 3 on; cuDNN is given four.
      std::vector<Span> spans{{3, 5, 3, 5}, {8, 1, 8, 1}, {9, 33, 9, 33}};
      if (!causal) spans = {{3, 5, 3, 12}, {8, 1, 15, 30}, {9, 33, 45, 7}};
      const Index heads = 2, rows = 52;
      const AttentionSpec<double> spec{heads, width, causal, 1 / std::sqrt(static_cast<double>(width)),
                                       0,     {},    0,      Precision::bf16};
      const auto q = uniform_values<double>(random, 42 * heads * width, -1, 1),
                 k = uniform_values<double>(random, rows * heads * width, -1, 1),
                 v = uniform_values<double>(random, rows * heads * width, -1, 1),
                 dout = uniform_values<double>(random, 42 * heads * width, -1, 1);
      const auto got = attend<Cuda, float>(spec, spans, q, k, v, dout),
                 again = attend<Cuda, float>(spec, spans, q, k, v, dout);
      const double apart = distance(got, attend<Cpu, double>(spec, spans, q, k, v, dout));
      CHECK(apart < 0.02);
      worst = std::max(worst, apart);
      CHECK(got == again);
    }
#ifdef MEFT_EMULATED
  CHECK(worst > 1e-4);  // operands were rounded
#endif
  MESSAGE("attention in bf16 against double: ", worst);
}

namespace {

struct OnTensorCores {
  Index width, heads, key_heads;
  bool causal;
  Index window;
  float dropout;
  bool bias;
  std::vector<Index> lengths;
};

/// ‖a − b‖ over ‖b‖, or over 1e-3 an element where that is more.
double relative_norm(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double apart = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) apart += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
  return std::sqrt(apart / std::max({norm, 1e-6 * static_cast<double>(a.size()), 1e-30}));
}

/// The most that an element differs, over its `size`, that of the sum of its terms' magnitudes.
double share_of_size(const std::vector<double>& a, const std::vector<double>& b, const std::vector<double>& size) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) most = std::max(most, std::abs(a[i] - b[i]) / size[i]);
  return most;
}

}  // namespace

TEST_CASE("attention on tensor cores: the CPU's on operands of bf16, with its dropout, and the same bits again") {
  // Weights and slopes are rounded to 8 bits, each by 2⁻⁸ of it at most: a sum of weighted numbers by as much of the
  // sum of their magnitudes, which a wrong bit of dropout passes; sums of slopes by about as much of their norm.
  const double most[6] = {0x1p-8, 1e-5, 0x1p-8, 0x1p-8, 0x1p-8, 0x1p-8};  // of out, lse, dq, dk, dv, dbias
  const std::vector<Index> all{1, 15, 16, 17, 63, 64, 65, 130}, few{17, 65};
  Random random(11);
  double worst[6] = {};
  for (const auto& c : std::vector<OnTensorCores>{{16, 2, 1, false, 0, 0, false, all},
                                                  {16, 2, 2, true, 0, 0.25f, false, all},
                                                  {8, 2, 2, false, 9, 0.1f, true, {65, 130}},
                                                  {16, 1, 1, true, 20, 0.1f, false, {130}},
                                                  {64, 1, 1, false, 0, 0.1f, false, {64, 130}},
                                                  {8, 3, 1, false, 0, 0.5f, false, few},
                                                  {20, 2, 2, true, 0, 0, true, few},
                                                  {33, 1, 1, false, 0, 0.1f, false, few},
                                                  {80, 2, 1, true, 0, 0.1f, false, few},
                                                  {128, 1, 1, false, 0, 0.1f, true, few}}) {
    CAPTURE(c.width);
    CAPTURE(c.causal);
    CAPTURE(c.window);
    CAPTURE(c.dropout);
    AttentionSpec<double> spec{c.heads,   c.width,   c.causal, 1 / std::sqrt(static_cast<double>(c.width)),
                               c.dropout, {4, 1, 2}, 11,       Precision::bf16};
    spec.window = c.window;
    spec.key_heads = c.key_heads;
    // Each has as many keys as queries but for the last two: more, and fewer. One is empty.
    std::vector<Span> spans{{0, 0, 0, 0}};
    Index rows = 2, keys = 3;  // which no span has
    for (const Index n : c.lengths) spans.push_back({rows, n, keys, n}), rows += n, keys += n;
    for (const Index n : {Index{41}, Index{5}}) spans.push_back({rows, 19, keys, n}), rows += 19, keys += n;
    const auto values = [&](Index n) {
      auto out = uniform_values<double>(random, n, -2, 2);
      for (auto& x : out) x = static_cast<double>(bf16(static_cast<float>(x)));
      return out;
    };
    const auto q = values(rows * c.heads * c.width), k = values(keys * c.key_heads * c.width),
               v = values(keys * c.key_heads * c.width), dout = values(rows * c.heads * c.width),
               bias = values(c.bias ? c.heads * (2 * 12 + 1) : 0);
    const auto expected = attend<Cpu, double>(spec, spans, q, k, v, dout, bias),
               got = attend<Cuda, float>(spec, spans, q, k, v, dout, bias);
    const std::vector<double>*const found[] = {&got.out, &got.lse, &got.dq, &got.dk, &got.dv, &got.dbias},
                                    *const right[] = {&expected.out, &expected.lse, &expected.dq,
                                                      &expected.dk,  &expected.dv,  &expected.dbias};
    const auto magnitudes = [](std::vector<double> x) {
      for (auto& a : x) a = std::abs(a);
      return x;
    };
    const auto sizes = attend<Cpu, double>(spec, spans, q, k, magnitudes(v), magnitudes(dout), bias);
    for (int i = 0; i < 6; ++i) {
      CAPTURE(i);
      const double apart = i == 0   ? share_of_size(got.out, expected.out, sizes.out)
                           : i == 4 ? share_of_size(got.dv, expected.dv, sizes.dv)
                                    : relative_norm(*found[i], *right[i]);
      CHECK(apart < most[i]);
      worst[i] = std::max(worst[i], apart);
    }
    CHECK(worst[0] > 1e-4);  // weights were rounded
#ifdef MEFT_EMULATED
    emulate::set_seed(5);
#endif
    const auto again = attend<Cuda, float>(spec, spans, q, k, v, dout, bias);
#ifdef MEFT_EMULATED
    emulate::set_seed(0);
#endif
    CHECK(got == again);
  }
  MESSAGE("on tensor cores, relative: out ", worst[0], ", lse ", worst[1], ", dq ", worst[2], ", dk ", worst[3],
          ", dv ", worst[4], ", dbias ", worst[5]);
}

TEST_CASE("attention in bf16: keys 64 more than a multiple of 128, rows whose lse is far below 0") {
  const FlatWorkspace flat;
  Sequences call({64, 1}, 2, 16);
  for (auto& x : call.q) x = std::abs(x);
  for (auto& x : call.k) x = -30 * std::abs(x);
  const auto got = call.on_device(), expected = call.exact();
  CHECK(*std::max_element(expected.lse.begin(), expected.lse.end()) < 0);
  CHECK(distance(got.out, expected.out) < 0.05);
  CHECK(distance(got.lse, expected.lse) < 0.02);
  CHECK(distance(got.dv, expected.dv) < 0.1);
  for (const auto* x : {&got.dq, &got.dk})
    CHECK(std::all_of(x->begin(), x->end(), [](double v) { return std::isfinite(v); }));
}

#ifdef MEFT_EMULATED
TEST_CASE("attention's workspace does not follow the batch or the square of a sequence") {
  // Plans are kept by shape: each width once.
  const auto needed = [&](std::int64_t bytes_a_score, Index width) {
    const Sequences call({40, 9, 33, 7}, 1, width);
    emulate::set_dnn_bytes_a_score(bytes_a_score);
    const Measure measure(Cuda::pool());
    const auto got = call.on_device();
    const std::size_t activation = measure.activation();
    emulate::set_dnn_bytes_a_score(2);
    CHECK(distance(got, call.exact()) < 0.02);
    return activation;
  };
  constexpr std::int64_t scores = 128 * 128;                       // of a sequence, as cuDNN is given it
  CHECK(needed((32 << 20) / scores, 128) < std::size_t{1} << 20);  // on tensor cores, by our own kernels
  const std::size_t together = needed((32 << 20) / scores, 136);   // one sequence at a time
  CHECK(together >= std::size_t{32} << 20);
  CHECK(together < std::size_t{34} << 20);
  CHECK(needed((257 << 20) / scores, 144) < std::size_t{1} << 20);  // by those for any head
}

TEST_CASE("attention in bf16: what cuDNN refuses, and batches that are no power of two") {
  const Sequences three({5, 1, 33}, 3, 8);
  emulate::set_dnn_refuses(true);
  const auto refused = three.on_device();
  emulate::set_dnn_refuses(false);
  CHECK(distance(refused, three.exact()) < 0.02);  // our own kernels
  const FlatWorkspace flat;
  const Sequences other({5, 1, 33}, 5, 8);
  const auto fused = other.on_device();  // four sequences, none of them empty
  emulate::set_dnn_version(91800);
  const auto old = other.on_device();
  emulate::set_dnn_version(91900);
  for (const auto* got : {&old, &fused}) {
    CHECK(distance(*got, other.exact()) > 1e-4);
    CHECK(distance(*got, other.exact()) < 0.02);
  }
  CHECK(old != fused);
}

TEST_CASE("uploads wait for the device only when they come round") {
  emulate::set_seed(5);
  const auto before = emulate::waits_made();
  const std::vector<float> values(250, 3);
  std::vector<OnDevice<float>> all;
  for (int i = 0; i < 200; ++i) all.emplace_back(values);
  CHECK(emulate::waits_made() - before <= 1);
  for (const auto& one : all) CHECK(one.host() == values);
  emulate::set_seed(0);
}

TEST_CASE("tables of attention are uploaded once") {
  const FlatWorkspace flat;
  const Sequences call({40, 9}, 2, 8);
  const auto enqueued = [&] {
    const auto before = emulate::copies_made();
    (void)call.on_device();
    return emulate::copies_made() - before;
  };
  const auto first = enqueued();
  CHECK(enqueued() == first - 1);  // forward and backward have one table
}

TEST_CASE("a product's algorithm is chosen once, wherever in memory its matrices begin at multiples of 16 bytes") {
  const OnDevice<float> a(Index{13 * 23 + 16}), b(Index{23 * 12 + 16}), c(Index{13 * 12 + 16});
  const auto asked = [&](Index off) {
    const auto before = emulate::heuristics_asked();
    gemm(Cuda{}, Product<float>{13, 12, 23, {a.data() + off, 23, 1}, c.data() + off, 12},
         Strided<float>{b.data() + off, 12, 1});
    return emulate::heuristics_asked() - before;
  };
  CHECK(asked(0) == 1);
  CHECK(asked(16) == 0);
  CHECK(asked(4) == 0);
  CHECK(asked(1) == 1);
}

TEST_CASE("a head for which a device has too little shared memory is an error that says so") {
  Sequences call({5}, 1, 200);
  call.spec.precision = Precision::f32;
  emulate::set_shared_memory(99 << 10);  // of sm_86, 89 and 120
  const auto message = message_of([&] { (void)call.on_device(); });
  emulate::set_shared_memory(163 << 10);
  CAPTURE(message);
  for (const char* part : {"200", "101376", "host emulation"}) CHECK(message.find(part) != message.npos);
  CHECK(distance(call.on_device(), call.exact()) < 1e-5);
}

TEST_CASE("memory that the pool gives back stays with the process") {
  { const Buffer some(Cuda::pool(), 1 << 22); }
  const auto before = emulate::bytes_returned();
  Cuda::pool().trim();
  Cuda::synchronize();
  CHECK(emulate::bytes_returned() == before);
}
#endif

TEST_CASE("a bottleneck's backward pass of many rows: the CPU's, with the sums of at most 128 blocks beside it") {
  constexpr Index rows = 8300, width = 2, inner = 64, size = (2 * width + 1) * inner + width;
  Random random(14);
  const auto x = uniform_values<double>(random, rows * width, -1, 1),
             dy = uniform_values<double>(random, rows * width, -1, 1),
             z = uniform_values<double>(random, rows * inner, -1, 1), w = uniform_values<double>(random, size, -1, 1);
  const auto to_float = [](const std::vector<double>& of) { return std::vector<float>(of.begin(), of.end()); };
  const auto run = [&]<Backend B, Real T>(B, const T* of_x, const T* of_z, const T* of_dy, const T* from, T* dx,
                                          T* to) {
    const auto at = [&](auto* first) {
      return std::array{first, first + inner * width, first + inner * (width + 1), first + inner * (2 * width + 1)};
    };
    const auto weights = at(from);
    const auto gradients = at(to);
    bottleneck_backward(B{}, Activation::relu, rows,
                        BottleneckWeights<T>{width, inner, weights[0], weights[1], weights[2], weights[3]}, of_x, of_z,
                        of_dy, static_cast<const T*>(nullptr), dx,
                        BottleneckGradients<T>{gradients[0], gradients[1], gradients[2], gradients[3]});
  };
  std::vector<double> right_dx(x.size()), right(w.size());
  run(Cpu{}, x.data(), z.data(), dy.data(), w.data(), right_dx.data(), right.data());
  const OnDevice<float> of_x(to_float(x)), of_z(to_float(z)), of_dy(to_float(dy)), from(to_float(w)), dx(rows * width),
      to(size);
  const auto as_read = [](const OnDevice<float>& of) { return static_cast<const float*>(of.data()); };
  const Measure measure(Cuda::pool());
  run(Cuda{}, as_read(of_x), as_read(of_z), as_read(of_dy), as_read(from), dx.data(), to.data());
  CHECK(measure.activation() <= 128 * size * sizeof(float) + 4096);
  CHECK(distance(dx.host(), right_dx) < 1e-5);
  CHECK(distance(to.host(), right) < 1e-4);
}

TEST_CASE("a head that is wider than the kernels take is an error") {
  const OnDevice<float> x(Index{257}), out(Index{257}), lse(Index{1});
  const Spans spans({{0, 1, 0, 1}});
  const auto message = message_of([&] {
    attention(Cuda{}, AttentionSpec<float>{1, 257}, spans, x.data(), x.data(), x.data(), out.data(), lse.data());
  });
  CHECK(message.find("257") != message.npos);
  CHECK(message.find("256") != message.npos);
}

TEST_CASE("products on the device: every layout, start and size") {
  check_products<float>(1e-5);  // up to 128 terms
  check_products<double>(1e-13);
}

TEST_CASE("packed weights on the device: float and bf16, forward and transposed") {
  check_packed<float>(Precision::f32, 1e-5);
  check_packed<float>(Precision::bf16, 1e-4);  // tensor cores cut sums off
  check_packed<double>(Precision::f32, 1e-13);
}

TEST_CASE("weights in blocks on the device: each format, decoded a panel at a time") {
  const Index before = cuda::most_decoded, rows = 5;
  for (const auto& format : weights::formats) {
    CAPTURE(format.dtype);
    auto blocks = any_blocks(format, 40, format.numbers == 256 ? 256 : 96, 1);
    blocks.heads = 2;
    const Index out = blocks.out, in = blocks.in;
    cuda::most_decoded = 16 * in;  // panels of 16, 16 and 8 rows
    std::vector<float> w(static_cast<std::size_t>(out * in));
    blocks.decode(0, out, w.data());
    const OnDevice<float> dw(w), unpacked(out * in), some(3 * in);
    const Panels<Cuda, float> packed(blocks, Precision::as_stored), oracle(dw.data(), out, in, Precision::bf16);
    CHECK(packed.precision() == Precision::as_stored);
    CHECK(packed.bytes() < blocks.bytes() + 512);
    packed.unpack(unpacked.data());
    CHECK(unpacked.host() == w);
    const OnDevice<std::int32_t> numbers(std::vector<std::int32_t>{39, 0, 17});
    packed.rows(3, numbers.data(), some.data());
    const auto found = some.host();
    for (Index i = 0; i < 3 * in; ++i) {
      const Index from = i < in ? 39 : i < 2 * in ? 0 : 17;
      REQUIRE(found[static_cast<std::size_t>(i)] == w[static_cast<std::size_t>(from * in + i % in)]);
    }
    CHECK_THROWS_AS(packed.write(3, numbers.data(), some.data()), Error);

    Random random(7);
    const OnDevice<float> x(uniform_values<float>(random, rows * in, -1, 1)),
        dy(uniform_values<float>(random, rows * out, -1, 1)), bias(uniform_values<float>(random, out, -1, 1));
    for (const Start start : {Start::zero, Start::bias, Start::accumulate}) {
      const OnDevice<float> y(rows * out), expected(rows * out), dx(rows * in), expected_dx(rows * in);
      const auto forward = [&](const OnDevice<float>& to) {
        return Product<float>{rows, out, in, {x.data(), in, 1}, to.data(), out, start, bias.data()};
      };
      const auto backward = [&](const OnDevice<float>& to) {
        const Start own = start == Start::bias ? Start::zero : start;
        return Product<float>{rows, in, out, {dy.data(), out, 1}, to.data(), in, own};
      };
      for (int again = 0; again < 2; ++again) {  // accumulates once more
        packed.forward(forward(y)), oracle.forward(forward(expected));
        packed.backward(backward(dx)), oracle.backward(backward(expected_dx));
      }
      CHECK(distance(y.host(), expected.host()) < 1e-4);  // a panel's sum and the whole's may be cut differently
      CHECK(distance(dx.host(), expected_dx.host()) < 1e-4);  // added in another order
#ifdef MEFT_EMULATED
      const auto bits = dx.host();
      emulate::set_seed(3);
      const OnDevice<float> other(rows * in);
      packed.backward(backward(other)), packed.backward(backward(other));
      CHECK(other.host() == bits);
      emulate::set_seed(0);
#endif
    }
    const auto activated = [&](const Panels<Cuda, float>& panels, const OnDevice<float>& y) {
      const Product<float> p{rows, out, in, {x.data(), in, 1}, y.data(), out, Start::bias, bias.data()};
      return panels.forward_activated(Activation::relu, p, y.data());
    };
    const OnDevice<float> y(rows * out), expected(rows * out);
    const bool both = activated(packed, y) && activated(oracle, expected);
    if (both) CHECK(distance(y.host(), expected.host()) < 1e-4);
#ifdef MEFT_EMULATED
    CHECK(both);  // a device may have no such product
#endif
  }
  // What a product has beside it: the left side in bf16 and one panel.
  const auto blocks = any_blocks(weights::formats[0], 512, 128, 2);
  const Panels<Cuda, float> packed(blocks, Precision::as_stored);
  cuda::most_decoded = 16 * 128;
  const OnDevice<float> x(Index{128}), y(Index{512});
  const std::size_t held = Cuda::pool().read().total;
  Cuda::pool().reset_peak();
  packed.forward({1, 512, 128, {x.data(), 128, 1}, y.data(), 512});
#ifdef MEFT_EMULATED
  CHECK(Cuda::pool().read().peak - held < 8192);  // on a device cuBLASLt may want more
#endif
  cuda::most_decoded = before;
}

TEST_CASE("what libraries choose for a shape is chosen outside of recordings, which are then made again") {
  Random random(12);
  const Sequences call({40, 9}, 2, 56);  // of shapes that nobody has had before
  const auto narrow = [](const std::vector<double>& x) { return std::vector<float>(x.begin(), x.end()); };
  const OnDevice<float> a(uniform_values<float>(random, 11 * 29, -1, 1)),
      b(uniform_values<float>(random, 29 * 9, -1, 1)), q(narrow(call.q)), k(narrow(call.k)), v(narrow(call.v));
  const AttentionSpec<float> spec{2, 56, false, static_cast<float>(call.spec.scale), 0, {}, 0, Precision::bf16};
  const auto work = [&](const OnDevice<float>& c, const OnDevice<float>& out, const OnDevice<float>& lse) {
    gemm(Cuda{}, Product<float>{11, 9, 29, {a.data(), 29, 1}, c.data(), 9}, Strided<float>{b.data(), 9, 1});
    attention(Cuda{}, spec, call.spans, q.data(), k.data(), v.data(), out.data(), lse.data());
  };
  const auto results = [&](const auto& f) {
    const OnDevice<float> c(Index{11 * 9}), out(static_cast<Index>(call.q.size())), lse(2 * call.rows);
    f([&] { work(c, out, lse); });
    return std::array{c.host(), out.host(), lse.host()};
  };
  int calls = 0;
  const auto recorded = results([&](const auto& f) {
    const Recording recording({}, [&] { ++calls, f(); });
    REQUIRE(recording);
    recording.run();
    recording.finish();
  });
  CHECK(calls == 2);
  CHECK(recorded == results([](const auto& f) { f(); }));
  CHECK(distance(recorded[1], call.exact().out) < 0.05);
}

TEST_CASE("a recording rounds what it reads in each run, whatever is there rounded when it is made") {
  const auto rounded = [](std::vector<float> values) {
    for (float& v : values) v = static_cast<float>(bf16(v));
    return values;
  };
  Random random(13);
  const auto first = uniform_values<float>(random, 24, -1, 1), second = uniform_values<float>(random, 24, -1, 1);
  auto x = Tensor<float, Cuda>::from({24}, first);
  const OnDevice<float> wide(Index{24});
  const auto work = [&] { from_bf16(Cuda{}, 24, x.rounded(), wide.data()); };
  work();
  const Recording recording({}, work);
  CHECK(wide.host() == rounded(first));
  Cuda::upload(x.data(), second.data(), x.bytes());
  recording.run();
  recording.finish();
  CHECK(wide.host() == rounded(second));
  const OnDevice<float> other(std::vector<float>(24));
  from_bf16(Cuda{}, 24, x.rounded(), other.data());
  CHECK(other.host() == rounded(second));
  Cuda::upload(x.data(), first.data(), x.bytes());
  const Recording never({}, work);
  work();  // with none of what was recorded done
  CHECK(wide.host() == rounded(first));
}

TEST_CASE("products that end in an activation") {
  check_activated(Precision::f32, 1e-5);
  check_activated(Precision::bf16, 1e-4);
  // GELU's argument is written in rows of a multiple of 8; double has no such product.
  const OnDevice<float> a(4), z(4);
  const OnDevice<double> wide(64);
  const Product<float> narrow{2, 2, 1, {a.data(), 1, 1}, z.data(), 2};
  CHECK_FALSE(gemm_activated(Cuda{}, Activation::gelu_tanh, narrow, Strided<float>{a.data(), 2, 1}, z.data()));
  const Product<double> in_double{8, 8, 1, {wide.data(), 1, 1}, wide.data(), 8};
  CHECK_FALSE(gemm_activated(Cuda{}, Activation::relu, in_double, Strided<double>{wide.data(), 8, 1}, wide.data()));
}

TEST_CASE("copies of every size pass the staging, and nothing is left on the pool") {
  const std::size_t before = Cuda::pool().read().total;
  Random random(5);
  constexpr Index chunk = 1 << 20;
  for (const Index size : {Index{0}, Index{1}, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk + 5}) {
    CAPTURE(size);
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
    for (auto& b : bytes) b = static_cast<std::uint8_t>(random());
    const OnDevice<std::uint8_t> device(bytes);
    CHECK((device.host() == bytes));
    const OnDevice<std::uint8_t> copy(size);
    Cuda::copy(copy.data(), device.data(), bytes.size());
    CHECK((copy.host() == bytes));
    Cuda::zero(copy.data(), bytes.size());
    CHECK((copy.host() == std::vector<std::uint8_t>(bytes.size())));
  }
  Cuda::synchronize();
  CHECK(Cuda::pool().read().total == before);
}

TEST_CASE("a device without room is an error that says how much was asked of it") {
  constexpr std::size_t pebibyte = std::size_t{1} << 50;
  const auto message = message_of([] { Buffer(Cuda::pool(), pebibyte); });
  CHECK(message.find("cuda") != message.npos);
  CHECK(message.find(std::to_string(pebibyte)) != message.npos);
  CHECK_NOTHROW(Buffer(Cuda::pool(), 64));
}
