// Owns: the programs that a group's test program is besides, each under a link of its name.
#pragma once

#include <string_view>
#include <vector>

namespace test {

struct Program {
  std::string_view name;
  int (*main)(int, char**);
};

inline std::vector<Program>& programs() {
  static std::vector<Program> all;
  return all;
}

}  // namespace test
