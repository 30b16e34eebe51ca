// Owns: the methods by name, with their options as one record: what a command line or a saved adapter says.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include <meft/method/peft.hpp>

namespace meft::train {

inline constexpr std::array<std::string_view, 8> method_names{"full", "head",  "bitfit", "adapter",
                                                              "lora", "meft1", "meft2",  "meft3"};

/// A method and its options; those that the method does not have are not read.
struct MethodOptions {
  std::string name = "meft1";
  bool recompute = false;
  Streams streams = Streams::exact;
  int fraction_bits = 20;                  // of exact and stored streams: the range is ±2^(31 − bits)
  std::optional<Lambda> lambda{}, beta{};  // the method's own without
  std::string readout = "average";
  Index bottleneck = 8, reversible_layers = -1, rank = 8;
  double deviation = 0.02;
  Precision precision = Precision::f32;  // of frozen weights
  std::uint64_t seed = 0;

  bool reversible() const { return name.starts_with("meft"); }
  bool bottlenecked() const { return reversible() || name == "adapter"; }
  Lambda chosen_lambda() const { return lambda.value_or(name == "meft2" ? Lambda{1, 1} : Lambda{1, 10}); }
  Lambda chosen_beta() const { return beta.value_or(name == "meft1" ? Lambda{1, 1} : Lambda{1, 10}); }
};

/// The read-out that MEFT's authors use for a `model_type`.
inline std::string default_readout(std::string_view model_type) { return model_type == "opt" ? "scaled" : "average"; }

/// Puts the method on the model and gives the body that runs its layers. Throws for an unknown name.
template <class Model>
auto adapt(Model& model, const MethodOptions& o, Where where = Where::current()) {
  nn::set_precision<typename Model::value_type, typename Model::backend>(model, o.precision);
  const auto reversible = [&](auto method) {
    method.bottleneck = o.bottleneck;
    method.lambda = o.chosen_lambda();
    method.beta = o.chosen_beta();
    method.options.stack.streams = o.streams;
    method.options.stack.fraction_bits = o.fraction_bits;
    method.options.stack.readout = readout_from(o.readout, where);
    method.options.reversible_layers = o.reversible_layers;
    method.options.deviation = o.deviation;
    method.options.seed = o.seed;
    return meft::adapt(model, method);
  };
  if (o.name == "meft1") return reversible(Meft1{});
  if (o.name == "meft2") return reversible(Meft2{});
  if (o.name == "meft3") return reversible(Meft3{});
  if (o.name == "full") return meft::adapt(model, Full{}, o.recompute);
  if (o.name == "head") return meft::adapt(model, HeadOnly{}, o.recompute);
  if (o.name == "bitfit") return meft::adapt(model, BitFit{}, o.recompute);
  if (o.name == "adapter") return meft::adapt(model, Houlsby{.bottleneck = o.bottleneck, .seed = o.seed}, o.recompute);
  if (o.name == "lora") return meft::adapt(model, LowRank{.rank = o.rank, .seed = o.seed}, o.recompute);
  fail({"method: expected full, head, bitfit, adapter, lora, meft1, meft2 or meft3, found", where}, o.name);
}

}  // namespace meft::train
