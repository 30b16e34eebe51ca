#include "memory.hpp"

#include <cstdio>
#include <vector>

#include "terminal.hpp"

namespace finetune {

void say_memory(const std::string& when, const meft::train::MemoryReport& m) {
  struct Column {
    const char* name;
    std::size_t bytes;
  };
  std::vector<Column> columns{{"weights", m.weights}, {"grads", m.gradients},      {"moments", m.optimizer},
                              {"streams", m.streams}, {"digits", m.digits},        {"slices", m.slices},
                              {"free", m.free()},     {"process", m.resident.own}, {"files", m.resident.file}};
  if (m.features) columns.insert(columns.begin() + 3, {"features", m.features});
  const auto cell = [](const char* form, auto value) {
    char text[32];
    std::snprintf(text, sizeof text, form, value);
    return std::string(text);
  };
  const auto mib = [](std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::string names = cell("%-8s", "MiB"), values = cell("%-8s", when.c_str());
  for (const auto& [name, bytes] : columns) {
    names += cell("%8s", name);
    values += cell("%8.1f", mib(bytes));
  }
  if (terminal_width() >= names.size()) {
    say(names);
    say(values);
    return;
  }
  say("MiB, " + when);
  for (const auto& [name, bytes] : columns) say(cell("  %-8s", name) + cell("%9.1f", mib(bytes)));
}

}  // namespace finetune
