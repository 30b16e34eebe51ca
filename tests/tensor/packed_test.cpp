// Products against Eigen's, packed weights against a plain sum in double: every shape of edge, both precisions, on each
// kind of operands.
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <meft/tensor/packed.hpp>
#include <meft/tensor/random.hpp>
#include <meft/weights/formats.hpp>

#include <doctest/doctest.h>
#include <Eigen/Core>

using namespace meft;

namespace {

Tensor<float> gaussian(const Shape& shape, std::uint32_t site) {
  Tensor<float> out(shape);
  fill_normal(out, {11, site, 0}, 1.0);
  return out;
}

std::vector<bf16> rounded_values(const Tensor<float>& x) {
  std::vector<bf16> out;
  for (Index i = 0; i < x.size(); ++i) out.emplace_back(x.data()[i]);
  return out;
}

double rounded(float x, Precision p) {
  return p == Precision::bf16 ? static_cast<double>(bf16(x)) : static_cast<double>(x);
}

#if MEFT_X86
/// cpu::Paired with the processor's instructions written out, so that any machine can run it.
struct EmulatedPairs : cpu::Paired {
  static Strided<std::uint32_t> left(Index rows, Index k, Index, Strided<float> a, std::uint32_t* to) {
    const Index pairs = (k + 1) / 2;
    for (Index i = 0; i < rows; ++i)
      for (Index p = 0; p < pairs; ++p) {
        const float* x = a.data + i * a.row + 2 * p;
        to[i * pairs + p] = cpu::bf16_pair(x[0], 2 * p + 1 < k ? x[1] : 0);
      }
    return {to, pairs, 1};
  }
  static void panel(Index k, Index columns, const float* x, Index row, std::uint32_t* to) {
    panel_by_element(0, k, columns, x, row, to);
  }
  static void panel(Index k, Index columns, const bf16* x, Index row, std::uint32_t* to) {
    Paired::panel(k, columns, x, row, to);
  }
  static void transposed(Index pairs, const std::uint32_t* words, std::uint32_t* to) {
    const auto element = [&](Index out, Index in) {
      return in / 2 < pairs ? words[in / 2 * 16 + out] >> in % 2 * 16 & 0xffffu : 0u;
    };
    for (Index o = 0; o < 16; o += 2)
      for (Index i = 0; i < 16; ++i) to[o / 2 * 16 + i] = element(o, i) | element(o + 1, i) << 16;
  }
  static void multiply(Index rows, Index k, Strided<std::uint32_t> left, cpu::Block<std::uint32_t> block,
                       const cpu::Corner& at, const cpu::Ahead&) {
    const Index pairs = (k + 1) / 2;
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < at.columns; ++j) {
        float& c = at.c[i * at.ldc + j];
        float sum = at.start == Start::zero ? 0 : at.start == Start::bias ? at.bias[j] : c;
        for (Index p = 0; p < pairs; ++p) {
          const std::uint32_t a = left.data[i * left.row + p], b = block.data[j / 16 * block.step + p * 16 + j % 16];
          sum += std::bit_cast<float>(a << 16) * std::bit_cast<float>(b << 16);
          sum += std::bit_cast<float>(a & 0xffff0000u) * std::bit_cast<float>(b & 0xffff0000u);
        }
        c = sum;
      }
  }
};

/// The tile registers of cpu::Amx, written out.
struct EmulatedTiles {
  std::uint32_t tile[8][16][16];
  EmulatedTiles() { std::memset(tile, 0xff, sizeof tile); }  // NaN, until it is set

  template <int t>
  void zero() {
    std::memset(tile[t], 0, sizeof tile[t]);
  }
  template <int t>
  void load(const void* from, Index step) {
    for (Index i = 0; i < 16; ++i) std::memcpy(tile[t][i], static_cast<const char*>(from) + i * step, 64);
  }
  template <int t>
  void store(void* to, Index step) {
    for (Index i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(to) + i * step, tile[t][i], 64);
  }
  template <int c, int a, int b>
  void dot() {
    for (int i = 0; i < 16; ++i)
      for (int p = 0; p < 16; ++p)
        for (int j = 0; j < 16; ++j) {
          auto sum = std::bit_cast<float>(tile[c][i][j]);
          sum += std::bit_cast<float>(tile[a][i][p] << 16) * std::bit_cast<float>(tile[b][p][j] << 16);
          sum += std::bit_cast<float>(tile[a][i][p] & 0xffff0000u) * std::bit_cast<float>(tile[b][p][j] & 0xffff0000u);
          tile[c][i][j] = std::bit_cast<std::uint32_t>(sum);
        }
  }
};

/// cpu::Tiled on those.
struct EmulatedTiled : cpu::Tiled<EmulatedTiles> {
  static Strided<std::uint32_t> left(Index rows, Index k, Index, Strided<float> a, std::uint32_t* to) {
    const Index step = cpu::round_up((k + 1) / 2, 16);
    for (Index i = 0; i < rows; ++i) {
      std::memset(to + i * step, 0, static_cast<std::size_t>(step) * sizeof *to);
      EmulatedPairs::left(1, k, 0, a.at(i, 0), to + i * step);
    }
    return {to, step, 1};
  }
  static void panel(Index k, Index columns, const float* x, Index row, std::uint32_t* to) {
    EmulatedPairs::panel(k, columns, x, row, to);
  }
  static void panel(Index k, Index columns, const bf16* x, Index row, std::uint32_t* to) {
    EmulatedPairs::panel(k, columns, x, row, to);
  }
  static void transposed(Index pairs, const std::uint32_t* words, std::uint32_t* to) {
    EmulatedPairs::transposed(pairs, words, to);
  }
};
#endif

}  // namespace

TEST_CASE("packed: products and the weight's gradient equal a plain sum of the (rounded) operands") {
  const Index sizes[][3] = {{1, 1, 1},    {3, 5, 7},      {37, 33, 21}, {12, 16, 32},    {26, 48, 400},
                            {7, 401, 17}, {300, 130, 96}, {5, 40, 785}, {29, 512, 1024}, {801, 48, 64}};
  for (const auto precision : {Precision::f32, Precision::bf16})
    for (const auto& size : sizes) {
      const Index rows = size[0], out = size[1], in = size[2];
      CAPTURE(rows);
      CAPTURE(out);
      CAPTURE(in);
      CAPTURE(static_cast<int>(precision));
      const auto w = gaussian({out, in}, 1), x = gaussian({rows, in}, 2), dy = gaussian({rows, out}, 3),
                 bias = gaussian({out}, 4);
      const PackedWeight<float> packed(w, precision);
      std::vector<double> y(static_cast<std::size_t>(rows * out)), dx(static_cast<std::size_t>(rows * in)),
          dw(static_cast<std::size_t>(out * in)), size_y = y, size_dx = dx, size_dw = dw;
      for (Index i = 0; i < rows; ++i)
        for (Index o = 0; o < out; ++o) {
          const auto at = static_cast<std::size_t>(i * out + o);
          y[at] = size_y[at] = static_cast<double>(bias.data()[o]);
          size_y[at] = std::abs(size_y[at]);
          for (Index k = 0; k < in; ++k) {
            const double weight = rounded(w.data()[o * in + k], precision);
            const double forward = rounded(x.data()[i * in + k], precision) * weight;
            const double backward = rounded(dy.data()[i * out + o], precision) * weight;
            y[at] += forward;
            size_y[at] += std::abs(forward);
            dx[static_cast<std::size_t>(i * in + k)] += backward;
            size_dx[static_cast<std::size_t>(i * in + k)] += std::abs(backward);
            const double gradient = rounded(x.data()[i * in + k], precision) * rounded(dy.data()[at], precision);
            dw[static_cast<std::size_t>(o * in + k)] += gradient;
            size_dw[static_cast<std::size_t>(o * in + k)] += std::abs(gradient);
          }
        }
      const auto check = [](const Tensor<float>& got, const std::vector<double>& wanted,
                            const std::vector<double>& size) {
        double worst = 0;
        for (std::size_t i = 0; i < wanted.size(); ++i)
          worst = std::max(worst, std::abs(static_cast<double>(got.data()[i]) - wanted[i]) / (size[i] + 1e-30));
        CHECK(worst < 2e-6);
      };
      // Elements that are written stand where packing puts them, and no other moves; half of them are in words of two.
      auto changed = w.clone();
      std::vector<std::int32_t> at;
      std::vector<float> values;
      for (Index i = 0; i < w.size(); i += 1 + i % 3) {
        at.push_back(static_cast<std::int32_t>(i));
        values.push_back(changed.data()[i] = 1.0f / static_cast<float>(3 + i));
      }
      const auto k = static_cast<Index>(at.size());
      const PackedWeight<float> written(w, precision), again(changed, precision), copy = written;
      copy.write(Tensor<std::int32_t>::from({k}, at), Tensor<float>::from({k}, values));
      CHECK(written.unpack().values() == again.unpack().values());
      Tensor<float> written_y({rows, out}), again_y({rows, out});
      written.forward(rows, x.data(), bias.data(), written_y.data());
      again.forward(rows, x.data(), bias.data(), again_y.data());
      CHECK(written_y.values() == again_y.values());
      written.write({}, w.reshape({out * in}));
      CHECK(written.unpack().values() == packed.unpack().values());

      Tensor<float> got_y({rows, out}), got_dx({rows, in}), got_dw({out, in});
      packed.forward(rows, x.data(), bias.data(), got_y.data());
      packed.backward(rows, dy.data(), got_dx.data());
      check(got_y, y, size_y);
      packed.gradient(rows, dy.data(), x.data(), got_dw.data());
      check(got_dx, dx, size_dx);
      check(got_dw, dw, size_dw);
#if MEFT_X86
      if (precision == Precision::bf16 && has_avx2()) {
        const Panels<Cpu, float> panels(w.data(), out, in, precision);
        const auto both = [&](auto operands) {
          using Operands = decltype(operands);
          got_y.zero();
          got_dx.zero();
          panels.forward_as<Operands>({rows, out, in, {x.data(), in, 1}, got_y.data(), out, Start::bias, bias.data()});
          panels.backward_as<Operands>({rows, in, out, {dy.data(), out, 1}, got_dx.data(), in});
          // A side that was rounded before, and blocks that are seen when they are done, give the same bits.
          const auto y_bits = got_y.values(), dx_bits = got_dx.values();
          const auto x_rounded = rounded_values(x), dy_rounded = rounded_values(dy);
          const auto end_of = [](Tensor<float>& to, Index width) {
            to.zero();
            return [&to, width](Index i, Index r, Index j, Index n, const float* c, Index ldc) {
              for (Index k = 0; k < r * n; ++k) to.data()[(i + k / n) * width + j + k % n] += c[k / n * ldc + k % n];
            };
          };
          Product<float> narrow_y{rows, out, in, {nullptr, in, 1}, nullptr, out, Start::bias, bias.data()},
              narrow_dx{rows, in, out, {nullptr, out, 1}, nullptr, in};
          narrow_y.rounded = x_rounded.data(), narrow_dx.rounded = dy_rounded.data();
          const auto end_y = end_of(got_y, out), end_dx = end_of(got_dx, in);
          const cpu::End seen_y(end_y), seen_dx(end_dx);
          panels.forward_as<Operands>(narrow_y, &seen_y);
          panels.backward_as<Operands>(narrow_dx, &seen_dx);
          CHECK(got_y.values() == y_bits);
          CHECK(got_dx.values() == dx_bits);
          got_dw.zero();
          cpu::weight_gradient<Operands>(rows, out, in, dy.data(), x.data(), got_dw.data());
          check(got_y, y, size_y);
          check(got_dx, dx, size_dx);
          check(got_dw, dw, size_dw);
          const auto dw_bits = got_dw.values();
          cpu::weight_gradient<Operands>(rows, out, in, dy.data(), x_rounded.data(), got_dw.data());
          CHECK(got_dw.values() == dw_bits);
        };
        both(cpu::Widened{});
        both(EmulatedPairs{});
        both(EmulatedTiled{});
        if (isa() >= Isa::avx512_bf16) both(cpu::Paired{});
        if (isa() >= Isa::amx) both(cpu::Tiled<cpu::Amx>{});

        // In blocks it has the bits of what these decode to, on each kind of operands.
        const Panels<Cpu, float> blocks(Blocks::of(*weights::format_named("Q4_0"), w.data(), out, in, Cpu::pool()),
                                        Precision::q4);
        std::vector<float> decoded(static_cast<std::size_t>(out * in));
        blocks.unpack(decoded.data());
        const Panels<Cpu, float> oracle(decoded.data(), out, in, Precision::bf16);
        const auto same = [&](auto operands) {
          using Operands = decltype(operands);
          std::vector<float> found[2];
          for (const bool in_blocks : {false, true}) {
            const auto& kept = in_blocks ? blocks : oracle;
            kept.template forward_as<Operands>(
                {rows, out, in, {x.data(), in, 1}, got_y.data(), out, Start::bias, bias.data()});
            kept.template backward_as<Operands>({rows, in, out, {dy.data(), out, 1}, got_dx.data(), in});
            found[in_blocks] = got_y.values();
            for (const float v : got_dx.values()) found[in_blocks].push_back(v);
          }
          CHECK(found[0] == found[1]);
        };
        same(cpu::Widened{});
        same(EmulatedPairs{});
        same(EmulatedTiled{});
        if (isa() >= Isa::avx512_bf16) same(cpu::Paired{});
        if (isa() >= Isa::amx) same(cpu::Tiled<cpu::Amx>{});
      }
#endif
    }
}

TEST_CASE_TEMPLATE("gemm: any strides, start and shape, equal to Eigen's product", T, float, double) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  /// A matrix in memory, row by row or column by column, with two elements between the lines that stay zero.
  struct Lines {
    Lines(const Matrix& m, bool turned) : row(turned ? 1 : m.cols() + 2), column(turned ? m.rows() + 2 : 1) {
      elements.resize(static_cast<std::size_t>((m.rows() + 2) * (m.cols() + 2)));
      for (Index i = 0; i < m.rows(); ++i)
        for (Index j = 0; j < m.cols(); ++j) elements[at(i, j)] = static_cast<T>(m(i, j));
    }
    std::size_t at(Index i, Index j) const { return static_cast<std::size_t>(i * row + j * column); }
    Strided<T> view() const { return {elements.data(), row, column}; }
    Index row, column;
    std::vector<T> elements;
  };
  for (const std::array<Index, 3>& size : std::initializer_list<std::array<Index, 3>>{
           {1, 1, 1}, {4, 8, 128}, {5, 3, 0}, {70, 19, 131}, {3, 33, 257}, {130, 64, 300}})
    for (const bool a_turned : {false, true})
      for (const bool b_turned : {false, true})
        for (const Start start : {Start::zero, Start::bias, Start::accumulate}) {
          const Index rows = size[0], columns = size[1], depth = size[2];
          CAPTURE(rows);
          CAPTURE(columns);
          CAPTURE(depth);
          const Matrix a = Matrix::Random(rows, depth), b = Matrix::Random(depth, columns),
                       c = Matrix::Random(rows, columns), bias = Matrix::Random(1, columns);
          const Lines left(a, a_turned), right(b, b_turned), row(bias, false);
          Lines out(c, false);
          gemm(Cpu{},
               Product<T>{rows, columns, depth, left.view(), out.elements.data(), out.row, start, row.elements.data()},
               right.view());
          Matrix expected = a * b;
          if (start == Start::bias) expected.rowwise() += bias.row(0);
          if (start == Start::accumulate) expected += c;
          double worst = 0;
          for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < columns + 2; ++j)
              worst = std::max(worst, std::abs(out.elements[out.at(i, j)] - (j < columns ? expected(i, j) : 0)));
          // Higham, Accuracy and Stability of Numerical Algorithms, 3.1: of a sum in any order, operands rounded
          // before.
          const double terms = depth ? (a.cwiseAbs() * b.cwiseAbs()).maxCoeff() : 0.0;
          CHECK(worst <=
                static_cast<double>(depth + 3) * static_cast<double>(std::numeric_limits<T>::epsilon()) * (terms + 2));
        }
}

TEST_CASE("packed: bf16 takes half the bytes and unpacks to the rounded weight") {
  const auto w = gaussian({64, 96}, 5);
  const PackedWeight<float> wide(w), narrow(w, Precision::bf16);
  CHECK(narrow.precision() == Precision::bf16);
  if (has_avx2()) CHECK(16 * narrow.bytes() <= 9 * wide.bytes());  // a pooled block is up to an eighth larger
  const auto back = narrow.unpack(), same = wide.unpack();
  for (Index i = 0; i < w.size(); ++i) {
    REQUIRE(back.data()[i] == static_cast<float>(bf16(w.data()[i])));
    REQUIRE(same.data()[i] == w.data()[i]);
  }
}

TEST_CASE("packed: rounding to bf16 agrees with the scalar type, specials included") {
  const cpu::RoundToBf16 round;
  for (const std::uint32_t bits : {0u, 0x80000000u, 0x3f800000u, 0x3f808000u, 0x3f818000u, 0x3f808001u, 0x7f7fffffu,
                                   0x7f800000u, 0xff800000u, 0x7fc00001u, 0x7f800001u, 0xffffffffu, 1u, 0x80008000u}) {
    const float x = std::bit_cast<float>(bits);
    CAPTURE(bits);
    CHECK(std::bit_cast<std::uint32_t>(round(x)) == std::bit_cast<std::uint32_t>(static_cast<float>(bf16(x))));
  }
}

TEST_CASE("packed: results do not depend on the thread count") {
  const auto w = gaussian({200, 300}, 6), x = gaussian({777, 300}, 7), dy = gaussian({777, 200}, 8);
  const int before = threads();
  for (const auto precision : {Precision::f32, Precision::bf16}) {
    const PackedWeight<float> packed(w, precision);
    Tensor<float> one({777, 200}), two({777, 200}), one_dw({200, 300}), two_dw({200, 300});
    set_threads(1);
    packed.forward(777, x.data(), nullptr, one.data());
    packed.gradient(777, dy.data(), x.data(), one_dw.data());
    set_threads(3);
    packed.forward(777, x.data(), nullptr, two.data());
    packed.gradient(777, dy.data(), x.data(), two_dw.data());
    CHECK(one.values() == two.values());
    CHECK(one_dw.values() == two_dw.values());
  }
  set_threads(before);
}
