// Owns: what the emulated device counts of a step, and what that makes of a device's time. Elsewhere nothing is
// counted.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#ifdef MEFT_EMULATED
#include <emulate/emulate.hpp>
#endif
#include <meft/base/error.hpp>
#include <meft/base/shape.hpp>

namespace bench {

using meft::Index;

#ifdef MEFT_EMULATED
using Tally = emulate::Tally;
#else
struct Tally {
  std::uint64_t launches = 0, read = 0, written = 0;
  double operations = 0;
};
#endif
/// By kernel.
using Counts = std::map<std::string, Tally>;

/// Counts what the emulated device does while it lives, where it is asked to; an Error where that does nothing.
class Counting {
 public:
  Counting(bool on, bool device) : on_(on) {
#ifdef MEFT_EMULATED
    meft::require(!on || device, "--count: what is counted is the emulated device's: --device cuda");
    if (on) emulate::set_counting(true);
#else
    meft::require(!on, "--count: only a build with MEFT_CUDA=emulate counts",
                  device ? "--device cuda" : "--device cpu");
#endif
  }
  ~Counting() { (void)counts(); }
  Counting(const Counting&) = delete;
  Counting& operator=(const Counting&) = delete;
  /// So far; ends it.
  Counts counts() const {
#ifdef MEFT_EMULATED
    if (on_) {
      emulate::set_counting(false);
      return emulate::counts();
    }
#endif
    return {};
  }

 private:
  [[maybe_unused]] bool on_;
};

/// A kernel's name without what all of them have.
inline std::string short_name(std::string name) {
  for (const char* part : {"void ", "(anonymous namespace)::", "meft::", "cuda::", "(int)"})
    for (std::size_t at; (at = name.find(part)) != name.npos;) name.erase(at, std::string(part).size());
  int depth = 0;
  for (std::size_t i = 0; i < name.size(); ++i) {
    depth += (name[i] == '<') - (name[i] == '>');
    if (name[i] == '(' && !depth) return name.substr(0, i);
  }
  return name;
}

/// A device: bytes a second, operations a second of dense products in bf16, seconds of a launch.
struct Device {
  double bytes = 3.0e12, operations = 650e12, launch = 1.5e-6;
};

/// A step of many layers and sequences from steps of few: R(layers, batch) = α + β·batch + layers·(γ·slices + δ·batch).
struct Extrapolated {
  Index layers, batch, slices;
  std::array<Index, 2> depths;
  Counts found[2][2]{};  // [depth][batch − 1]

  /// `value` of a kernel: of a layer, and of the whole step.
  template <class Value>
  std::pair<double, double> of(const std::string& kernel, const Value& value) const {
    const auto at = [&](int d, int b) {
      const auto entry = found[d][b].find(kernel);
      return entry == found[d][b].end() ? 0.0 : static_cast<double>(value(entry->second));
    };
    const auto n = static_cast<double>(batch), slices_ = static_cast<double>(slices),
               apart = static_cast<double>(depths[1] - depths[0]), first = static_cast<double>(depths[0]);
    const double one = (at(1, 0) - at(0, 0)) / apart, two = (at(1, 1) - at(0, 1)) / apart, delta = two - one,
                 gamma = one - delta, rest_one = at(0, 0) - first * one, rest_two = at(0, 1) - first * two,
                 beta = rest_two - rest_one, alpha = rest_one - beta;
    const double layer = gamma * slices_ + delta * n;
    return {layer, alpha + beta * n + static_cast<double>(layers) * layer};
  }

  void print(const std::string& name, Index tokens, Index width, const Device& device = {}) const {
    struct Row {
      std::string kernel;
      double launches, bytes, layer_launches, layer_bytes;
    };
    std::vector<Row> rows;
    Row all{"all", 0, 0, 0, 0}, products{"product", 0, 0, 0, 0};
    double operations = 0;
    for (const auto& entry : found[1][1]) {
      const std::string& kernel = entry.first;
      const auto launches = of(kernel, [](const Tally& c) { return c.launches; });
      const auto bytes = of(kernel, [](const Tally& c) { return c.read + c.written; });
      operations += of(kernel, [](const Tally& c) { return c.operations; }).second;
      rows.push_back({short_name(kernel), launches.second, bytes.second, launches.first, bytes.first});
      const bool product = kernel == "product" || kernel == "product and more";
      for (Row* sum : {&all, product ? &products : &rows.back()}) {
        if (sum == &rows.back()) continue;
        sum->launches += launches.second, sum->bytes += bytes.second;
        sum->layer_launches += launches.first, sum->layer_bytes += bytes.first;
      }
    }
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.bytes > b.bytes; });
    const double array = 4.0 * static_cast<double>(batch * tokens * width);
    std::printf(
        "%s, %lld layers, batch %lld x %lld tokens: counted at %lld and %lld layers of 1 and 2 sequences\n"
        "%10s %9s %10s %9s  %s\n",
        name.c_str(), static_cast<long long>(layers), static_cast<long long>(batch), static_cast<long long>(tokens),
        static_cast<long long>(depths[0]), static_cast<long long>(depths[1]), "MB a layer", "arrays", "launches",
        "GB a step", "kernel");
    rows.insert(rows.begin(), all);
    for (const Row& r : rows)
      if (r.bytes > 0.001 * all.bytes || r.layer_launches >= 1)
        std::printf("%10.1f %9.2f %10.1f %9.2f  %s\n", r.layer_bytes * 1e-6, r.layer_bytes / array, r.layer_launches,
                    r.bytes * 1e-9, r.kernel.c_str());
    const double by_bytes = all.bytes / device.bytes, by_operations = operations / device.operations;
    std::printf(
        "floor: products alone move %.2f GB and do %.2f TFLOP: %.1f ms\n"
        "prediction: max(%.2f GB at %.1f TB/s, %.2f TFLOP at %.0f TFLOP/s) + %.0f launches of %.1f us: "
        "max(%.1f, %.1f) + %.1f = %.1f ms, but for arithmetic outside of products\n\n",
        products.bytes * 1e-9, operations * 1e-12, 1e3 * std::max(products.bytes / device.bytes, by_operations),
        all.bytes * 1e-9, device.bytes * 1e-12, operations * 1e-12, device.operations * 1e-12, all.launches,
        device.launch * 1e6, by_bytes * 1e3, by_operations * 1e3, all.launches * device.launch * 1e3,
        1e3 * (std::max(by_bytes, by_operations) + all.launches * device.launch));
  }
};

}  // namespace bench
