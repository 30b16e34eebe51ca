// Owns: what tests ask of an error.
#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <vector>

#include <meft/base/error.hpp>

namespace meft::test {

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

/// The message of the Error that f throws.
inline std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.message();
  }
  return "no error";
}

/// f throws an Error whose message holds every part.
inline void check_error(const std::vector<std::string>& parts, const std::function<void()>& f) {
  const auto found = message_of(f);
  for (const auto& part : parts) CHECK_MESSAGE(contains(found, part), "expected `", part, "` in `", found, "`");
}

}  // namespace meft::test
