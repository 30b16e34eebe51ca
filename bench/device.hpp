// Owns: what benches that run on any backend share: the flag that names it, random tensors on it.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include <meft/backend/device.hpp>
#include <meft/tensor/random.hpp>

namespace bench {

inline void add_device(CLI::App& app, std::string& device) {
  app.add_option("--device", device, "where it runs")
      ->check(CLI::IsMember(std::vector<std::string>(meft::device_names.begin(), meft::device_names.end())))
      ->capture_default_str();
}

/// N(0, 1).
template <meft::Backend B>
meft::Tensor<float, B> random(const meft::Shape& shape, std::uint32_t site) {
  meft::Tensor<float, B> out(shape);
  meft::fill_normal(out, {1, site, 0}, 1);
  return out;
}

}  // namespace bench
