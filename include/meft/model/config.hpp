// Owns: what the model families share in reading a config.json.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include <meft/model/spec.hpp>

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

/// Throws when one of the options is off.
void refuse_off(const auto& c, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (!c.flag(name, true)) fail("config: " + std::string(name) + " false is not supported", c.path());
}
/// Throws when one of the shares, of what training leaves out, is not zero.
void refuse_rates(const auto& c, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (c.number(name, 0.0, {0.0, 1.0}) != 0) fail("config: " + std::string(name) + " is not supported", c.path());
}

Activation activation(const auto& c, const char* name, const char* by_default) {
  try {
    return activation_from(c.text(name, std::string(by_default)));
  } catch (Error& error) {
    error.within(c.path());
    throw;
  }
}

/// Which layers `layer_types` says are local; where it is not there, those of which `by_pattern` is true.
std::vector<bool> local_layers(const auto& c, Index layers, const auto& by_pattern) {
  std::vector<bool> out;
  for (Index i = 0; i < layers; ++i) out.push_back(by_pattern(i));
  const auto named = c.texts("layer_types");
  if (named.empty()) return out;
  if (std::ssize(named) != layers)
    fail("config: layer_types: expected one for each layer, found", std::ssize(named), layers, c.path());
  for (std::size_t i = 0; i < named.size(); ++i) {
    out[i] = named[i] == "sliding_attention";
    if (!out[i] && named[i] != "full_attention")
      fail("config: layer_types: expected full_attention or sliding_attention, found", named[i], c.path());
  }
  return out;
}

/// That of causal models: a class is read from the last token that is not `pad`.
inline nn::HeadSpec score_head(Index pad) {
  return {.pooling = nn::Pooling::last, .pad = pad, .dense = false, .bias = false, .output_name = "score"};
}

void check_heads(const auto& c, Index width, Index heads, const char* width_name, const char* heads_name) {
  if (width % heads)
    fail("config: " + std::string(width_name) + " is not a multiple of " + heads_name, width, heads, c.path());
}

}  // namespace meft::model
