// Owns: the entry point shared by every doctest program.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "programs.hpp"

int main(int argc, char** argv) {
  const std::string_view path = argv[0];
  for (const auto& program : test::programs())
    if (path.substr(path.rfind('/') + 1) == program.name) return program.main(argc, argv);
  return doctest::Context(argc, argv).run();
}
