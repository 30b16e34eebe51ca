// Owns: reading the files of golden/ and comparing with them.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <meft/checkpoints/hf.hpp>

namespace meft {

/// ctest runs the tests in their folder.
inline std::string golden() { return "golden"; }

/// One golden file.
struct Values {
  io::Safetensors file;

  explicit Values(const std::string& path) : file(path) {}
  std::vector<double> real(const std::string& name) const {
    const auto& entry = file.find(name);
    Index n = 1;
    for (const auto d : entry.shape) n *= d;
    std::vector<double> out(static_cast<std::size_t>(n));
    io::copy_to(entry, std::span<double>(out));
    return out;
  }
  std::vector<std::int32_t> integer(const std::string& name) const {
    std::vector<std::int32_t> out(static_cast<std::size_t>(file.find(name).shape.at(0)));
    io::copy_to(file.find(name), std::span<std::int32_t>(out));
    return out;
  }
  template <Real T>
  void fill(const std::string& name, Tensor<T>& out) const {
    REQUIRE(shape_of(name) == out.shape());
    io::copy_to(file.find(name), std::span<T>(out.data(), static_cast<std::size_t>(out.size())));
  }
  Shape shape_of(const std::string& name) const { return checkpoints::detail::shape_of(file.find(name)); }
};

/// Compares tensors with golden ones and keeps the largest error: ‖a − b‖/max(‖b‖, least), or ‖a − b‖ where b is zero.
/// A key bias adds the same to all scores of a row, which softmax does not see: its gradient is zero up to rounding.
class Comparison {
 public:
  explicit Comparison(const Values& values, double least = 0) : values_(values), least_(least) {}

  template <Real T>
  void add(const std::string& name, const Tensor<T>& found) {
    const auto expected = values_.real(name);
    double difference = 0, norm = 0;
    const bool comparable = found.size() == static_cast<Index>(expected.size());
    for (std::size_t i = 0; comparable && i < expected.size(); ++i) {
      const double d = static_cast<double>(found.data()[i]) - expected[i];
      difference += d * d;
      norm += expected[i] * expected[i];
    }
    double error = std::sqrt(difference);
    if (norm > 0 && !name.ends_with("key.bias") && !name.ends_with("attn.k.bias") && !name.ends_with("k_proj.bias"))
      error /= std::max(std::sqrt(norm), least_);
    if (!comparable || std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (names_.empty() || error > worst_) {
      worst_ = error;
      at_ = name;
    }
    CHECK_MESSAGE(names_.insert(name).second, name, " compared twice");
  }
  /// The gradient of a parameter or variable; none counts as zero.
  template <Real T>
  void gradient(const std::string& name, const Tensor<T>& g, const Shape& shape) {
    add(name, g.defined() ? g : Tensor<T>::zeros(shape));
  }

  double worst() const { return worst_; }
  const std::string& at() const { return at_; }
  const std::set<std::string>& names() const { return names_; }

 private:
  const Values& values_;
  double least_, worst_ = 0;
  std::string at_;
  std::set<std::string> names_;
};

}  // namespace meft
