// Owns: the program of all harnesses, one of which MEFT_FUZZ names: one program, since each alone would compile the
// same templates again. `planted` has a bug, to show that the fuzzer finds one.
#include "fuzz.hpp"

#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config.hpp"
#include "data.hpp"
#include "image.hpp"
#include "state.hpp"
#include "tokenizer.hpp"
#include "weights.hpp"

namespace {

using namespace meft;

/// Reads behind the end of what begins with `meft`.
void planted(std::string_view bytes) {
  const std::vector<char> own(bytes.begin(), bytes.end());
  volatile char sink = 0;
  if (bytes.starts_with("meft")) sink = own.data()[own.size()];
  (void)sink;
}

using Harness = void (*)(std::string_view);

Harness harness() {
  static constexpr std::pair<std::string_view, Harness> all[] = {
      {"config", fuzz::config},
      {"data", fuzz::data_set},
      {"gguf", fuzz::gguf},
      {"image", fuzz::image},
      {"planted", planted},
      {"pytorch", fuzz::pytorch},
      {"safetensors", fuzz::safetensors},
      {"state", fuzz::state},
      {"tokenizer", fuzz::tokenizer},
  };
  const char* wanted = std::getenv("MEFT_FUZZ");
  std::string names;
  for (const auto& [name, run] : all) {
    if (wanted && name == wanted) return run;
    names += " " + std::string(name);
  }
  std::fprintf(stderr, "fuzz: set MEFT_FUZZ to one of%s\n", names.c_str());
  std::exit(2);
}

const Harness chosen = harness();

}  // namespace

/// With MEFT_FUZZ_SEEDS set: writes the seeds of `state`, which only the library can make, into that folder.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  const char* seeds = std::getenv("MEFT_FUZZ_SEEDS");
  if (!seeds || chosen != fuzz::state) return 0;
  std::size_t number = 0;
  for (const std::string& seed : fuzz::runs().seeds())
    std::ofstream(std::string(seeds) + "/run" + std::to_string(number++), std::ios::binary) << seed;
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  chosen({reinterpret_cast<const char*>(data), size});
  return 0;
}
