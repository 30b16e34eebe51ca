// Owns: methods as the tests of other things take them.
#pragma once

#include <string_view>

#include <meft/method/any.hpp>

/// The method of a name, with adapters, if it has any, of width 3, and a network beside the layers, if it has one, of
/// width 5 or half the layers', and with weights that are not zero; three virtual tokens, if it has such; elements of
/// weights, if it chooses such, are a tenth, by the weights alone.
inline meft::AnyMethod narrow(std::string_view name) {
  auto method = meft::method_named(name);
  (void)meft::set_option(method, "bottleneck", "3");
  (void)meft::set_option(method, "projection", "5");
  (void)meft::set_option(method, "reduction", "2");
  (void)meft::set_option(method, "virtual-tokens", "3");
  (void)meft::set_option(method, "start", "random");
  (void)meft::set_option(method, "adapter-start", "paper");
  (void)meft::set_option(method, "density", "0.1");
  (void)meft::set_option(method, "salience", "magnitude");
  return method;
}
