// Owns: eigenvectors of a symmetric matrix, on the host in double: Householder's reduction to tridiagonal form, then
// implicit QL. Golub and Van Loan, "Matrix computations", algorithms 8.3.1 and 8.3.3.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>

namespace meft {

/// a = Σ_k value_k·v_k·v_kᵀ: values descending, v_k in row k of `vectors` [n, n], the first of its largest elements
/// positive.
struct Eigenvectors {
  std::vector<double> values, vectors;
};

namespace detail {

/// a [n, n] becomes tridiagonal, Q·T·Qᵀ; gives Qᵀ [n, n] and T's diagonal and what lies beside it, [n] with a zero
/// last.
inline std::vector<double> tridiagonalise(std::size_t n, std::vector<double>& a, std::vector<double>& diagonal,
                                          std::vector<double>& beside) {
  std::vector<std::vector<double>> reflectors;  // I − v·vᵀ, |v|² = 2, of the rows from k + 1 on
  std::vector<double> p(n);
  diagonal.resize(n);
  beside.assign(n, 0);
  for (std::size_t k = 0; k + 2 < n; ++k) {
    const std::size_t first = k + 1, m = n - first;
    std::vector<double> v(a.begin() + static_cast<std::ptrdiff_t>(k * n + first),
                          a.begin() + static_cast<std::ptrdiff_t>((k + 1) * n));
    const double most = std::fabs(
        *std::max_element(v.begin(), v.end(), [](double x, double y) { return std::fabs(x) < std::fabs(y); }));
    double squares = 0;
    for (double& x : v) x = most > 0 ? x / most : 0, squares += x * x;
    const double norm = std::sqrt(squares), rest = squares - v[0] * v[0];
    diagonal[k] = a[k * n + k];
    beside[k] = v[0] * most;
    if (rest > 0) {
      beside[k] = (v[0] > 0 ? -norm : norm) * most;
      v[0] += v[0] > 0 ? norm : -norm;
      const double by = std::sqrt(2 / (rest + v[0] * v[0]));
      for (double& x : v) x *= by;
      double half = 0;
      for (std::size_t i = 0; i < m; ++i) {
        const double* row = a.data() + (first + i) * n + first;
        p[i] = std::inner_product(v.begin(), v.end(), row, 0.0);
        half += 0.5 * p[i] * v[i];
      }
      for (std::size_t i = 0; i < m; ++i) p[i] -= half * v[i];
      for (std::size_t i = 0; i < m; ++i) {
        double* row = a.data() + (first + i) * n + first;
        for (std::size_t j = 0; j < m; ++j) row[j] -= v[i] * p[j] + p[i] * v[j];
      }
    } else {
      std::fill(v.begin(), v.end(), 0.0);
    }
    reflectors.push_back(std::move(v));
  }
  for (std::size_t k = n < 2 ? 0 : n - 2; k < n; ++k) diagonal[k] = a[k * n + k];
  if (n >= 2) beside[n - 2] = a[(n - 2) * n + n - 1];

  std::vector<double> q(n * n);  // Qᵀ = the reflectors one after the other, the last one first
  for (std::size_t i = 0; i < n; ++i) q[i * n + i] = 1;
  for (std::size_t k = reflectors.size(); k-- > 0;) {
    const auto& v = reflectors[k];
    const std::size_t first = k + 1;
    for (std::size_t i = first; i < n; ++i) {
      double* row = q.data() + i * n + first;
      const double by = std::inner_product(v.begin(), v.end(), row, 0.0);
      for (std::size_t j = 0; j < v.size(); ++j) row[j] -= by * v[j];
    }
  }
  return q;
}

}  // namespace detail

/// Of a symmetric matrix a [n, n], row by row. Throws NumberError where its elements are not finite.
inline Eigenvectors eigenvectors(std::size_t n, std::vector<double> a, Where where = Where::current()) {
  require(a.size() == n * n, {"eigenvectors: the matrix is not square", where}, n, a.size());
  for (const double x : a)
    if (!std::isfinite(x)) throw NumberError("eigenvectors: an element is not finite", where);
  std::vector<double> d, e;
  auto q = detail::tridiagonalise(n, a, d, e);
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
      std::size_t i = m;
      for (; i-- > l;) {
        double f = s * e[i];
        const double b = c * e[i];
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
        double *low = q.data() + i * n, *high = low + n;
        for (std::size_t k = 0; k < n; ++k) {
          f = high[k];
          high[k] = s * low[k] + c * f;
          low[k] = c * low[k] - s * f;
        }
      }
      if (r == 0 && i + 1 > l) continue;
      d[l] -= p;
      e[l] = g;
      e[m] = 0;
    }
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) { return d[x] > d[y]; });
  Eigenvectors out;
  for (const std::size_t k : order) {
    const auto row = q.begin() + static_cast<std::ptrdiff_t>(k * n), end = row + static_cast<std::ptrdiff_t>(n);
    const double largest = *std::max_element(row, end, [](double x, double y) { return std::fabs(x) < std::fabs(y); });
    out.values.push_back(d[k]);
    for (auto x = row; x != end; ++x) out.vectors.push_back(largest < 0 ? -*x : *x);
  }
  return out;
}

}  // namespace meft
