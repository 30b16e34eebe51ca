// Owns: eigenvectors of a symmetric matrix, on the host in double: Householder's reduction to tridiagonal form in
// panels, then implicit QL, whose rotations many columns go through at a time. Golub and Van Loan, "Matrix
// computations", algorithms 8.3.1 and 8.3.3; Dongarra, Sorensen, Hammarling, "Block reduction of matrices to condensed
// forms", 1989.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/target.hpp>

namespace meft {

/// a = Σ_k value_k·v_k·v_kᵀ: values descending, v_k in row k of `vectors` [n, n], the first of its largest elements
/// positive.
struct Eigenvectors {
  std::vector<double> values, vectors;
};

namespace detail {

/// Four doubles, at any address.
struct Four {
  typedef double Lanes __attribute__((vector_size(32)));
  Lanes x;

  MEFT_INLINE static Four at(const double* from) {
    Four out;
    std::memcpy(&out.x, from, sizeof out.x);
    return out;
  }
  MEFT_INLINE void to(double* out) const { std::memcpy(out, &x, sizeof x); }
};

/// Σ x·y; and to ← to + by·x meanwhile, where by is given.
MEFT_INLINE inline double scalar_product(std::size_t n, const double* x, const double* y, double by = 0,
                                         double* to = nullptr) {
  constexpr std::size_t step = 16;
  Four::Lanes sums[4] = {};
  std::size_t i = 0;
  for (; i + step <= n; i += step)
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j) {
      const auto a = Four::at(x + i + 4 * j).x;
      sums[j] += a * Four::at(y + i + 4 * j).x;
      if (to) Four{Four::at(to + i + 4 * j).x + by * a}.to(to + i + 4 * j);
    }
  const auto sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double out = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  for (; i < n; ++i) {
    out += x[i] * y[i];
    if (to) to[i] += by * x[i];
  }
  return out;
}
/// to ← to − a·x − b·y.
MEFT_INLINE inline void subtract(std::size_t n, double a, const double* x, double b, const double* y, double* to) {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8)
#pragma GCC unroll 2
    for (std::size_t j = i; j < i + 8; j += 4)
      Four{Four::at(to + j).x - a * Four::at(x + j).x - b * Four::at(y + j).x}.to(to + j);
  for (; i < n; ++i) to[i] -= a * x[i] + b * y[i];
}

/// v ← a vector of |v|² = 2 whose reflection I − v·vᵀ takes what it was to its first axis; gives the length there.
/// Zeros where it is there already.
inline double reflector(std::size_t m, double* v) {
  double most = 0, squares = 0;
  for (std::size_t i = 0; i < m; ++i) most = std::max(most, std::fabs(v[i]));
  for (std::size_t i = 0; i < m; ++i) v[i] = most > 0 ? v[i] / most : 0, squares += v[i] * v[i];
  const double first = v[0], norm = std::sqrt(squares), rest = squares - first * first;
  if (!(rest > 0)) {
    std::fill(v, v + m, 0.0);
    return first * most;
  }
  v[0] += first > 0 ? norm : -norm;
  const double by = std::sqrt(2 / (rest + v[0] * v[0]));
  for (std::size_t i = 0; i < m; ++i) v[i] *= by;
  return (first > 0 ? -norm : norm) * most;
}

/// Of a [n, n], whose upper triangle is read: Q·T·Qᵀ with Q = H_0·H_1·…, H_k = I − v_k·v_kᵀ with v_k behind the
/// diagonal in row k of a, which is changed. T's diagonal and what lies beside it, [n], with a zero last.
inline void tridiagonalise(std::size_t n, std::vector<double>& a, std::vector<double>& diagonal,
                           std::vector<double>& beside) {
  constexpr std::size_t panel = 32;
  diagonal.assign(n, 0);
  beside.assign(n, 0);
  std::vector<double> w(panel * n);  // a − Σ v·wᵀ + w·vᵀ over the panel's v is what a has become
  const auto row = [&](std::size_t i) { return a.data() + i * n; };
  for (std::size_t begin = 0; begin + 2 < n; begin += panel) {
    const std::size_t end = std::min(begin + panel, n - 2);
    vectorised([&]() MEFT_INLINE {
      for (std::size_t k = begin; k < end; ++k) {
        double* const x = row(k);
        double* const p = w.data() + (k - begin) * n;
        for (std::size_t t = begin; t < k; ++t) {
          const double *v = row(t), *u = w.data() + (t - begin) * n;
          subtract(n - k, v[k], u + k, u[k], v + k, x + k);
        }
        diagonal[k] = x[k];
        const std::size_t first = k + 1, m = n - first;
        beside[k] = reflector(m, x + first);
        std::fill(p, p + n, 0.0);
        for (std::size_t i = first; i < n; ++i)
          p[i] += row(i)[i] * x[i] + scalar_product(n - i - 1, row(i) + i + 1, x + i + 1, x[i], p + i + 1);
        for (std::size_t t = begin; t < k; ++t) {
          const double *v = row(t) + first, *u = w.data() + (t - begin) * n + first;
          subtract(m, scalar_product(m, u, x + first), v, scalar_product(m, v, x + first), u, p + first);
        }
        subtract(m, 0.5 * scalar_product(m, p + first, x + first), x + first, 0, x + first, p + first);
      }
    });
    parallel_chunks(static_cast<std::int64_t>(n - end), 64, [&](std::int64_t from, std::int64_t until) {
      vectorised([&]() MEFT_INLINE {
        for (std::size_t i = end + static_cast<std::size_t>(from); i < end + static_cast<std::size_t>(until); ++i)
          for (std::size_t t = begin; t < end; ++t) {
            const double *v = row(t), *u = w.data() + (t - begin) * n;
            subtract(n - i, v[i], u + i, u[i], v + i, row(i) + i);
          }
      });
    });
  }
  for (std::size_t k = n < 2 ? 0 : n - 2; k < n; ++k) diagonal[k] = row(k)[k];
  if (n >= 2) beside[n - 2] = row(n - 2)[n - 1];
}

/// Rows of Qᵀ in columns [first, first + width), all of them beside each other: [n, width].
class Columns {
 public:
  static constexpr std::size_t width = 32;

  /// Of the identity.
  Columns(std::size_t n, std::size_t first) : n_(n), x_(n * width) {
    for (std::size_t j = first; j < std::min(first + width, n); ++j) x_[j * width + j - first] = 1;
  }

  /// Reflections as `tridiagonalise` leaves them in a, from the first on.
  void reflect(const std::vector<double>& a) {
    vectorised([&]() MEFT_INLINE {
      for (std::size_t k = 0; k + 2 < n_; ++k) {
        const double* v = a.data() + k * n_;
        Four::Lanes sums[width / 4] = {};
        for (std::size_t i = k + 1; i < n_; ++i)
#pragma GCC unroll 8
          for (std::size_t j = 0; j < width / 4; ++j) sums[j] += v[i] * Four::at(row(i) + 4 * j).x;
        for (std::size_t i = k + 1; i < n_; ++i)
#pragma GCC unroll 8
          for (std::size_t j = 0; j < width / 4; ++j)
            Four{Four::at(row(i) + 4 * j).x - v[i] * sums[j]}.to(row(i) + 4 * j);
      }
    });
  }

  /// Rows `high` and the one below it, then that and the one below it, and so on: (low, high) ← (c·low − s·high, s·low
  /// + c·high).
  struct Turn {
    double c, s;
  };
  struct Turns {
    std::size_t high, count;
  };
  void turn(const std::vector<Turns>& sweeps, const std::vector<Turn>& turns) {
    vectorised([&]() MEFT_INLINE {
      const Turn* at = turns.data();
      for (const auto& [first, count] : sweeps) {
        double* high = row(first);
        Four::Lanes carried[width / 4];
#pragma GCC unroll 8
        for (std::size_t j = 0; j < width / 4; ++j) carried[j] = Four::at(high + 4 * j).x;
        for (std::size_t i = 0; i < count; ++i, ++at, high -= width) {
          const double c = at->c, s = at->s;
#pragma GCC unroll 8
          for (std::size_t j = 0; j < width / 4; ++j) {
            const auto low = Four::at(high - width + 4 * j).x, f = carried[j];
            Four{s * low + c * f}.to(high + 4 * j);
            carried[j] = c * low - s * f;
          }
        }
#pragma GCC unroll 8
        for (std::size_t j = 0; j < width / 4; ++j) Four{carried[j]}.to(high + 4 * j);
      }
    });
  }

  double* row(std::size_t i) { return x_.data() + i * width; }

 private:
  std::size_t n_;
  std::vector<double> x_;
};

}  // namespace detail

/// Of a symmetric matrix a [n, n], row by row. The same bits on any number of threads. Throws NumberError where its
/// elements are not finite.
inline Eigenvectors eigenvectors(std::size_t n, std::vector<double> a, Where where = Where::current()) {
  require(a.size() == n * n, {"eigenvectors: the matrix is not square", where}, n, a.size());
  for (const double x : a)
    if (!std::isfinite(x)) throw NumberError("eigenvectors: an element is not finite", where);
  std::vector<double> d, e;
  detail::tridiagonalise(n, a, d, e);
  std::vector<detail::Columns> q;
  for (std::size_t first = 0; first < n; first += detail::Columns::width) q.emplace_back(n, first);
  const auto of_all = [&](const auto& f) {
    parallel_for(std::ssize(q), [&](std::int64_t i) { f(q[static_cast<std::size_t>(i)]); });
  };
  of_all([&](auto& columns) { columns.reflect(a); });
  a = {};
  constexpr std::size_t at_once = 1 << 18;
  std::vector<detail::Columns::Turns> sweeps;
  std::vector<detail::Columns::Turn> turns;
  const auto flush = [&] {
    of_all([&](auto& columns) { columns.turn(sweeps, turns); });
    sweeps.clear();
    turns.clear();
  };
  for (std::size_t l = 0; l < n; ++l)
    for (int sweep = 0;; ++sweep) {
      std::size_t m = l;
      while (m + 1 < n &&
             std::fabs(e[m]) > std::numeric_limits<double>::epsilon() * (std::fabs(d[m]) + std::fabs(d[m + 1])))
        ++m;
      if (m == l) break;
      if (sweep == 100) throw NumberError("eigenvectors: no convergence", where);
      double g = (d[l + 1] - d[l]) / (2 * e[l]), r = std::hypot(g, 1.0), s = 1, c = 1, p = 0;
      g = d[m] - d[l] + e[l] / (g + std::copysign(r, g));
      const std::size_t before = turns.size();
      std::size_t i = m;
      for (; i-- > l;) {
        const double f = s * e[i], b = c * e[i];
        e[i + 1] = r = std::hypot(f, g);
        if (r == 0) {
          d[i + 1] -= p;
          e[m] = 0;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        turns.push_back({c, s});
      }
      sweeps.push_back({m, turns.size() - before});
      if (turns.size() > at_once) flush();
      if (r == 0 && i + 1 > l) continue;
      d[l] -= p;
      e[l] = g;
      e[m] = 0;
    }
  flush();
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) { return d[x] > d[y]; });
  Eigenvectors out;
  out.vectors.reserve(n * n);
  for (const std::size_t k : order) {
    out.values.push_back(d[k]);
    const auto begin = std::ssize(out.vectors);
    for (std::size_t j = 0; j < n; ++j)
      out.vectors.push_back(q[j / detail::Columns::width].row(k)[j % detail::Columns::width]);
    const auto row = out.vectors.begin() + begin;
    if (*std::max_element(row, out.vectors.end(), [](double x, double y) { return std::fabs(x) < std::fabs(y); }) < 0)
      std::for_each(row, out.vectors.end(), [](double& x) { x = -x; });
  }
  return out;
}

}  // namespace meft
