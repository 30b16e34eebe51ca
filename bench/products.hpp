// Owns: the flags that benches of products have alike: how many rows, which layers, how often, on how many threads.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/shape.hpp>

namespace bench {

/// Two numbers of each text, `AxB`; an Error begins with `expected`.
inline std::vector<std::pair<meft::Index, meft::Index>> pairs(const std::vector<std::string>& texts,
                                                              const char* expected) {
  std::vector<std::pair<meft::Index, meft::Index>> out;
  for (const auto& text : texts) {
    long long a = 0, b = 0;
    int end = 0;
    const int read = std::sscanf(text.c_str(), "%lldx%lld%n", &a, &b, &end);
    meft::require(read == 2 && static_cast<std::size_t>(end) == text.size() && a > 0 && b > 0, expected, text);
    out.emplace_back(a, b);
  }
  return out;
}

struct ProductFlags {
  std::vector<meft::Index> rows;
  std::vector<std::string> shapes;
  int runs = 5, threads = 0;
  std::string json{};

  void add(CLI::App& app) {
    app.add_option("--rows", rows, "tokens a,b,c")->delimiter(',')->check(CLI::PositiveNumber)->capture_default_str();
    app.add_option("--shapes", shapes, "layers INxOUT,…")->delimiter(',')->capture_default_str();
    app.add_option("--runs", runs, "measured calls, after one that is not")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--threads", threads, "all processors by default")->check(CLI::PositiveNumber);
    app.add_option("--json", json, "file for the rows, a JSON object a line");
  }
  /// The shapes as numbers, in and out.
  auto layers() const { return pairs(shapes, "--shapes: expected INxOUT, found"); }
};

}  // namespace bench
