// Owns: the files of a run's folder by name, which of them are there, and a log cut back to a place.
// Must not know: what is in them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include <meft/io/file.hpp>

namespace meft::train {

/// The files of a run's folder.
struct RunFiles {
  std::string folder, log, metrics, adapter, state;

  explicit RunFiles(const std::string& name)
      : folder(name),
        log(name + "/log.jsonl"),
        metrics(name + "/metrics.json"),
        adapter(name + "/adapter.safetensors"),
        state(name + "/state.safetensors") {}

  /// Throws where a new run would overwrite another; `resume`: one was to go on, but there is no state.
  void require_free(bool resume, Where where = Where::current()) const {
    for (const auto& file : resume ? std::vector{adapter, metrics, log} : std::vector{adapter, state})
      if (is_there(file))
        fail({resume ? "trainer: cannot resume: " + file + " is there, but no " + state
                     : "trainer: " + file + " is there already: resume that run, overwrite it, or take another folder",
              where});
  }

  /// Removes them, the state last. Errors: one that cannot be removed.
  void remove(Where where = Where::current()) const {
    for (const auto& file : {log, metrics, adapter, state}) {
      std::error_code error;
      std::filesystem::remove(file, error);
      if (error) fail({"remove: " + file, where}, error.message());
    }
  }
};

/// Cuts a log back to its first `bytes` bytes, and to whole lines where it has fewer. Gives its size.
inline std::uint64_t restore_log(const std::string& path, std::uint64_t bytes, Where where = Where::current()) {
  if (!is_there(path)) return 0;
  std::string text = io::read_text(path, std::size_t{1} << 32, where);
  const std::size_t before = text.size();
  if (before > bytes) text.resize(static_cast<std::size_t>(bytes));
  text.resize(text.rfind('\n') + 1);  // npos + 1 is 0
  if (text.size() != before) io::write_atomically(path, text, where);
  return text.size();
}

}  // namespace meft::train
