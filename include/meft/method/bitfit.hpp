// Owns: BitFit. Ben Zaken, Ravfogel, Goldberg, arXiv 2106.10199.
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// Biases train.
struct BitFit {};

template <>
struct Described<BitFit> {
  static constexpr std::string_view name = "bitfit", about = "biases";
  static constexpr MethodFacts facts{.starts_as_is = true};
  static void options(auto&, auto&&) {}
  static Index added(const BitFit&, const StepSizes&) { return 0; }
  template <Real T, Backend B>
  static Index activation(const BitFit&, const StepSizes& s) {
    return s.plain(s.layer(), s.layer(), s.gradients(3));
  }
};

template <class Model>
auto adapt(Model& model, const BitFit&, const AdaptOptions& options = {}) {
  detail::train_only(model, options, [](const std::string& name) { return name.ends_with("bias"); });
  return detail::plain_body(model, options);
}

}  // namespace meft
