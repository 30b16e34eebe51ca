// Formats of frozen weights: what they say, what is lost in them, and products with them against the bf16 product of
// what they decode to.
#include <cmath>
#include <vector>

#include <meft/tensor/packed.hpp>

#include <doctest/doctest.h>

#include "any_blocks.hpp"

using namespace meft;

namespace {

using test::any_blocks;
using test::gaussian;

std::vector<float> bf16_of(std::vector<float> x) {
  for (float& v : x) v = static_cast<float>(bf16(v));
  return x;
}

/// A format's number, one by one.
template <class F>
float number_of(const std::byte* block, std::size_t i) {
  return weights::Numbers<F>(block)[i];
}
using NumberOf = float (*)(const std::byte* block, std::size_t i);
template <class... F>
std::vector<NumberOf> numbers_of(weights::List<F...>) {
  return {number_of<F>...};
}

}  // namespace

TEST_CASE("weights: what is multiplied are the decoded blocks, rounded to bf16") {
  const auto numbers = numbers_of(weights::Every{});
  for (std::size_t kind = 0; kind < numbers.size(); ++kind) {
    const auto& format = weights::formats[kind];
    CAPTURE(format.dtype);
    const Index out = 19, in = 512;
    const auto blocks = any_blocks(format, out, in, 1);
    std::vector<float> expected, found(static_cast<std::size_t>(out * in));
    float block[weights::most_block];
    for (std::size_t at = 0; at < blocks.bytes(); at += format.bytes) {
      format.decode(blocks.data + at, block);
      expected.insert(expected.end(), block, block + format.numbers);
      for (std::size_t i = 0; i < format.numbers; ++i) REQUIRE(numbers[kind](blocks.data + at, i) == block[i]);
    }
    blocks.decode(0, out, found.data());
    CHECK(found == bf16_of(expected));
    // Rows in the order of rotary pairs: the first half of a head are its even ones.
    auto paired = blocks;
    paired.out = 16, paired.heads = 2;
    paired.decode(0, 16, found.data());
    for (Index i = 0; i < 16; ++i) {
      const Index at = i % 8, from = i - at + (at < 4 ? 2 * at : 2 * at - 7);
      for (Index j = 0; j < in; ++j)
        REQUIRE(found[static_cast<std::size_t>(i * in + j)] ==
                static_cast<float>(bf16(expected[static_cast<std::size_t>(from * in + j)])));
    }
  }
}

TEST_CASE("weights: what is lost in a format, and the bytes that it takes") {
  struct Row {
    Precision precision;
    double bits, error;  // a number, and the root of the mean square, of numbers of deviation 1
  };
  const auto w = gaussian({256, 1024}, 2);
  for (const Row& row :
       {Row{Precision::q8, 8.5, 0.0062}, Row{Precision::q4, 4.5, 0.083}, Row{Precision::nf4, 4.25, 0.0875}}) {
    CAPTURE(name_of(row.precision));
    const PackedWeight<float> packed(w, row.precision);
    CHECK(packed.precision() == row.precision);
    CHECK(static_cast<double>(packed.bytes()) < 1.03 * row.bits / 8 * static_cast<double>(w.size()));
    CHECK(packed.mapped_bytes() == 0);
    const auto kept = packed.unpack();
    double squares = 0;
    for (Index i = 0; i < w.size(); ++i) {
      const double d = static_cast<double>(kept.data()[i] - w.data()[i]);
      squares += d * d;
    }
    const double error = std::sqrt(squares / static_cast<double>(w.size()));
    CHECK(error < row.error);
    CHECK(error > 0.8 * row.error);
    CHECK(PackedWeight<float>(kept, row.precision).unpack().values().size() == kept.values().size());
  }
  // Zeros stay, whatever the row's length; the largest of a row does not move far.
  auto zero = Tensor<float>::zeros({3, 50});
  zero.data()[60] = 3;
  for (const auto& made : weights::made) {
    const auto kept = PackedWeight<float>(zero, made.precision).unpack();
    for (Index i = 0; i < zero.size(); ++i) CHECK(kept.data()[i] == doctest::Approx(zero.data()[i]).epsilon(0.01));
  }
  // What is no number has no block.
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    auto broken = zero.clone();
    broken.data()[120] = bad;
    for (const auto& made : weights::made)
      CHECK_THROWS_WITH_AS(PackedWeight<float>(broken, made.precision), doctest::Contains("row 2, column 20"), Error);
  }
  // So do numbers whose scale a half has not, as far as it has one.
  for (const float most : {4e5f, 6e5f, 1e7f, 1e20f, 3e38f})
    for (const auto precision : {Precision::q8, Precision::q4, Precision::nf4}) {
      CAPTURE(most);
      CAPTURE(name_of(precision));
      auto large = Tensor<float>::zeros({1, 64});
      large.data()[3] = most, large.data()[40] = -most;
      const auto kept = PackedWeight<float>(large, precision).unpack();
      const float scale = precision == Precision::q8 ? 127 : precision == Precision::q4 ? 7 : 1;
      const float expected = std::min(most, 65504 * scale);
      for (Index i = 0; i < large.size(); ++i) {
        const float sign = i == 3 ? 1.0f : i == 40 ? -1.0f : 0.0f;
        CHECK(std::fabs(kept.data()[i] - sign * expected) <= 0.2f * expected);
      }
    }
  const PackedWeight<float> packed(w, Precision::q4);
  CHECK_THROWS_WITH_AS(packed.write({}, w.reshape({w.size()})), doctest::Contains("expected f32 or bf16"), Error);
}

// As QLoRA's code has them: eight above zero and seven below it divide the shares up to the 0.9677083th evenly.
TEST_CASE("weights: NF4's numbers are quantiles of a normal distribution, in units of the outermost") {
  const auto share = [](double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; };
  constexpr double most = 0.9677083, outermost = 1.848130959757373;
  CHECK(share(outermost) == doctest::Approx(most).epsilon(1e-12));
  for (int i = 0; i < 16; ++i) {
    const double expected = 0.5 + (most - 0.5) * (i - 7) / (i < 7 ? 7 : 8);
    CHECK(share(static_cast<double>(weights::Nf4::code.at[i]) * outermost) == doctest::Approx(expected).epsilon(1e-6));
  }
}

TEST_CASE("weights: products have the bits of the decoded matrix in bf16") {
  const auto same = [](const PackedWeight<float>& packed, Index rows) {
    const Index out = packed.shape()[0], in = packed.shape()[1];
    const auto x = gaussian({rows, in}, 3), dy = gaussian({rows, out}, 4), bias = gaussian({out}, 5);
    const PackedWeight<float> oracle(packed.unpack(), Precision::bf16);
    Tensor<float> y({rows, out}), dx({rows, in}), oracle_y({rows, out}), oracle_dx({rows, in});
    packed.forward(rows, x.data(), bias.data(), y.data());
    packed.backward(rows, dy.data(), dx.data());
    oracle.forward(rows, x.data(), bias.data(), oracle_y.data());
    oracle.backward(rows, dy.data(), oracle_dx.data());
    if (has_avx2()) {
      CHECK(y.values() == oracle_y.values());
      CHECK(dx.values() == oracle_dx.values());
    } else {
      double far = 0;
      for (Index i = 0; i < y.size(); ++i)
        far = std::max(far, static_cast<double>(std::fabs(y.data()[i] - oracle_y.data()[i])));
      for (Index i = 0; i < dx.size(); ++i)
        far = std::max(far, static_cast<double>(std::fabs(dx.data()[i] - oracle_dx.data()[i])));
      CHECK(far < 1e-3);
    }
  };
  for (const auto& made : weights::made)
    for (const auto& size : {Shape{1, 1, 1}, Shape{3, 5, 7}, Shape{37, 33, 21}, Shape{26, 48, 400}, Shape{7, 401, 40},
                             Shape{70, 130, 96}, Shape{5, 40, 785}}) {
      CAPTURE(name_of(made.precision));
      CAPTURE(size.text());
      same(PackedWeight<float>(gaussian({size[1], size[2]}, 6), made.precision), size[0]);
    }
  for (const auto& format : weights::formats) {
    CAPTURE(format.dtype);
    auto blocks = any_blocks(format, 90, 512, 7);
    blocks.heads = 3;
    same(PackedWeight<float>(blocks), 30);
  }
}

TEST_CASE("weights: in double they are those of float") {
  const auto w = gaussian({70, 80}, 8);
  std::vector<double> wide(w.data(), w.data() + w.size());
  const PackedWeight<float> narrow(w, Precision::q4);
  const PackedWeight<double> packed(Tensor<double>::from(w.shape(), wide), Precision::q4);
  const auto a = narrow.unpack().values();
  const auto b = packed.unpack().values();
  for (std::size_t i = 0; i < a.size(); ++i) REQUIRE(static_cast<double>(a[i]) == b[i]);
  const auto x = gaussian({9, 80}, 9), dy = gaussian({9, 70}, 10);
  const auto twice = [](const Tensor<float>& t) {
    return Tensor<double>::from(t.shape(), std::vector<double>(t.data(), t.data() + t.size()));
  };
  Tensor<float> y({9, 70}), dx({9, 80});
  Tensor<double> wide_y({9, 70}), wide_dx({9, 80});
  narrow.forward(9, x.data(), nullptr, y.data());
  narrow.backward(9, dy.data(), dx.data());
  packed.forward(9, twice(x).data(), nullptr, wide_y.data());
  packed.backward(9, twice(dy).data(), wide_dx.data());
  for (Index i = 0; i < y.size(); ++i) CHECK(static_cast<double>(y.data()[i]) == doctest::Approx(wide_y.data()[i]));
  for (Index i = 0; i < dx.size(); ++i) CHECK(static_cast<double>(dx.data()[i]) == doctest::Approx(wide_dx.data()[i]));
}

#if MEFT_X86
TEST_CASE("weights: panels in words hold what those of a bf16 weight do") {
  if (!has_avx2()) return;
  const Index out = 40, in = 48;
  const auto blocks = Blocks::of(*weights::format_named("Q4_0"), gaussian({out, in}, 11).data(), out, in, Cpu::pool());
  std::vector<float> w(static_cast<std::size_t>(out * in));
  blocks.decode(0, out, w.data());
  const auto at = [&](Index i, Index j) { return i < out && j < in ? w[static_cast<std::size_t>(i * in + j)] : 0.0f; };
  alignas(32) float tile[256], turned[256];
  std::uint32_t words[128];
  for (const Index i : {Index{0}, Index{32}})
    for (Index k = 0; k < in; k += 16) {
      blocks.tile(blocks.rows(i), k, tile);
      cpu::detail::pair(tile, words);
      for (Index q = 0; q < 8; ++q)
        for (Index j = 0; j < 16; ++j)
          REQUIRE(words[q * 16 + j] == cpu::bf16_pair(at(i + 2 * q, k + j), at(i + 2 * q + 1, k + j)));
      cpu::detail::turn(tile, 16, turned, 16);
      cpu::detail::pair(turned, words);
      for (Index q = 0; q < 8; ++q)
        for (Index r = 0; r < 16; ++r)
          REQUIRE(words[q * 16 + r] == cpu::bf16_pair(at(i + r, k + 2 * q), at(i + r, k + 2 * q + 1)));
    }
}
#endif
