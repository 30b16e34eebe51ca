// Owns: the counts of what kernels, copies and the libraries' calls read and write.
#include <map>
#include <string>

#include "emulate.hpp"
#include "engine.hpp"
#include "memory.hpp"
#include "runtime.hpp"

namespace emulate {
namespace {

std::map<std::string, Tally>& all() {
  static auto& one = *new std::map<std::string, Tally>;
  return one;
}

}  // namespace

void count(const std::string& name, const Tally& more) {
  Tally& c = all()[name];
  c.launches += more.launches;
  c.read += more.read;
  c.written += more.written;
  c.operations += more.operations;
}

void count_kernel(const void* kernel) {
  char name[1024];
  describe_function(kernel, name, sizeof name);
  const Touched touched = take_touched();
  count(name, {1, touched.read, touched.written, static_cast<double>(take_operations())});
}

void set_counting(bool on) {
  Lock lock;
  set_page_counting(on);
  take_touched();
  if (on) all().clear();
}

std::map<std::string, Tally> counts() {
  Lock lock;
  return all();
}

}  // namespace emulate
