// Owns: methods as the tests of other things take them.
#pragma once

#include <string_view>

#include <meft/method/any.hpp>

/// The method of a name, with adapters, if it has any, of width 3.
inline meft::AnyMethod narrow(std::string_view name) {
  auto method = meft::method_named(name);
  (void)meft::set_option(method, "bottleneck", "3");
  return method;
}
