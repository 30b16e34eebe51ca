// Owns: what the model families share: reading options of a config.json, making layers, positions, initial values.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <meft/nn/transformer.hpp>

namespace meft::model {

/// The config's model_type, one of `known`. Throws naming it and the file otherwise.
std::string model_type(const auto& c, std::initializer_list<const char*> known, const char* by_default) {
  const std::string type = c.text("model_type", std::string(by_default));
  std::string expected;
  for (const char* name : known) {
    if (type == name) return type;
    expected += (expected.empty() ? "" : ", ") + std::string(name);
  }
  fail("config: expected model_type " + expected + ", found", type, c.path());
}

/// Throws when the option `name` is there with another value than the one supported.
void refuse_unless(const auto& c, const char* name, const char* supported) {
  const std::string found = c.text(name, std::string(supported));
  if (found != supported) fail("config: expected " + std::string(name) + " " + supported + ", found", found, c.path());
}
/// Throws when one of the options is on.
void refuse_flags(const auto& c, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (c.flag(name, false)) fail("config: " + std::string(name) + " is not supported", c.path());
}

Activation activation(const auto& c, const char* name, const char* by_default) {
  try {
    return activation_from(c.text(name, std::string(by_default)));
  } catch (Error& error) {
    error.within(c.path());
    throw;
  }
}

void check_heads(const auto& c, Index width, Index heads, const char* width_name, const char* heads_name) {
  if (width % heads)
    fail("config: " + std::string(width_name) + " is not a multiple of " + heads_name, width, heads, c.path());
}

/// Appends `count` layers, numbered from `first`.
template <Real T, Backend B>
void append_layers(std::vector<nn::TransformerLayer<T, B>>& layers, const nn::LayerNames& names,
                   const nn::LayerSpec& spec, Index count, Index first = 0) {
  for (Index i = 0; i < count; ++i)
    layers.push_back(nn::TransformerLayer<T, B>::empty(names, spec, static_cast<std::uint32_t>(first + i)));
}

/// For each token its place in its sequence plus `first`, as rows of a table of `rows` positions.
template <Backend B>
Tensor<std::int32_t, B> places(const Offsets& offsets, Index first, Index rows, const char* model) {
  if (offsets.longest() + first > rows)
    fail(std::string(model) + ": a sequence is longer than max_position_embeddings", offsets.longest(), rows - first);
  std::vector<std::int32_t> out;
  out.reserve(static_cast<std::size_t>(offsets.tokens()));
  for (Index s = 0; s < offsets.sequences(); ++s)
    for (Index i = 0; i < offsets.length(s); ++i) out.push_back(static_cast<std::int32_t>(first + i));
  return Tensor<std::int32_t, B>::from({offsets.tokens()}, out);
}

/// Hugging Face's initialisation: matrices N(0, 0.02²), biases zero, norms the identity, LayerScale one.
template <Real T, Backend B, class Model>
void initialise_parameters(Model& model, std::uint64_t seed) {
  std::uint32_t site = 0;
  nn::for_each_parameter(model, [&](const std::string&, Parameter<T, B>& p) {
    if (p.shape().rank() > 1) fill_normal(p.value(), {seed, site++, 0}, 0.02);
    else p.value().zero();
  });
  nn::walk(model, [](const std::string&, nn::LayerNorm<T, B>& norm) {
    norm.weight.value() = Parameter<T, B>::ones(norm.weight.shape()).value();
  });
  nn::walk(model, [](const std::string&, nn::TransformerLayer<T, B>& layer) {
    for (auto* scale : {&layer.attention_scale, &layer.mlp_scale})
      if (scale->defined()) scale->value() = Parameter<T, B>::ones(scale->shape()).value();
  });
}

}  // namespace meft::model
