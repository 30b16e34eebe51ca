// Owns: λ, the rational factor of a shear.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <meft/base/error.hpp>

namespace meft {

/// λ = n/d with 1 ≤ |n|, d ≤ 32768, in lowest terms once `reduced`. λ = 1/10 costs log2 10 bits an element to undo.
struct Lambda {
  std::int32_t n = 1, d = 1;

  Lambda reduced(Where where = Where::current()) const {
    require(n != 0 && d > 0 && n >= -32768 && n <= 32768 && d <= 32768,
            {"lambda: not n/d with 1 <= |n|, d <= 32768", where}, *this);
    std::int32_t g = d;  // Euclid
    for (std::int32_t rest = n < 0 ? -n : n; rest;) g = std::exchange(rest, g % rest);
    return {n / g, d / g};
  }
  double value() const { return static_cast<double>(n) / d; }
  std::string text() const { return std::to_string(n) + "/" + std::to_string(d); }
  friend bool operator==(Lambda, Lambda) = default;

  /// Reads `1/10`, `-1`, `2^-8`; throws with the text otherwise.
  static Lambda parse(std::string_view text, Where where = Where::current()) {
    const auto number = [&](std::string_view part) {
      const bool negative = part.starts_with('-');
      if (negative) part.remove_prefix(1);
      bool ok = !part.empty() && part.size() < 10;  // nine digits fit
      std::int32_t value = 0;
      for (const char c : part) {
        ok = ok && '0' <= c && c <= '9';
        if (ok) value = value * 10 + (c - '0');
      }
      require(ok, {"lambda: expected n, n/d or 2^-k, found", where}, text);
      return negative ? -value : value;
    };
    if (text.starts_with("2^-")) {
      const std::int32_t k = number(text.substr(3));
      require(k >= 0 && k <= 15, {"lambda: 2^-k needs 0 <= k <= 15, found", where}, text);
      return {1, 1 << k};
    }
    const auto slash = text.find('/');
    const Lambda out = slash == text.npos ? Lambda{number(text), 1}
                                          : Lambda{number(text.substr(0, slash)), number(text.substr(slash + 1))};
    return out.reduced(where);
  }
};

}  // namespace meft
