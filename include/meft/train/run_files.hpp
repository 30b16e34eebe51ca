// Owns: the files of a run's folder by name, which of them are there, and the log's lines.
// Must not know: what is in them, but for an adapter's step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <meft/io/file.hpp>
#include <meft/io/safetensors.hpp>

namespace meft::train {

/// The files of a run's folder.
struct RunFiles {
  std::string folder, log, metrics, adapter, next_adapter, state;

  explicit RunFiles(const std::string& name)
      : folder(name),
        log(name + "/log.jsonl"),
        metrics(name + "/metrics.json"),
        adapter(name + "/adapter.safetensors"),
        next_adapter(name + "/adapter.next.safetensors"),
        state(name + "/state.safetensors") {}

  /// Throws where a new run would overwrite another; `resume`: one was to go on, but there is no state.
  void require_free(bool resume, Where where = Where::current()) const {
    for (const auto& file : resume ? std::vector{adapter, metrics, log} : std::vector{adapter, state})
      if (is_there(file))
        fail({resume ? "trainer: cannot resume: " + file + " is there, but no " + state
                     : "trainer: " + file + " is there already: resume that run, overwrite it, or take another folder",
              where});
  }

  /// Puts the next adapter in its place, once there is a state that knows it: what is there is the state's best epoch.
  void take_next(Where where = Where::current()) const {
    std::error_code error;
    std::filesystem::rename(next_adapter, adapter, error);
    if (error) fail({"trainer: cannot put " + next_adapter + " in the place of " + adapter, where}, error.message());
  }
  /// The same for a run that was ended between the two, where the state's best epoch ended at `step`; else it goes.
  void settle(std::int64_t step, Where where = Where::current()) const {
    const auto about = io::Safetensors(next_adapter, where).metadata();
    const auto at = about.find("step");
    if (at != about.end() && at->second == std::to_string(step)) return take_next(where);
    std::error_code error;
    std::filesystem::remove(next_adapter, error);
    if (error) fail({"trainer: cannot remove " + next_adapter, where}, error.message());
  }

  /// Removes them, the state last. Errors: one that cannot be removed.
  void remove(Where where = Where::current()) const {
    for (const auto& file : {log, metrics, adapter, next_adapter, state}) {
      std::error_code error;
      std::filesystem::remove(file, error);
      if (error) fail({"remove: " + file, where}, error.message());
    }
  }
};

/// The log of a run, a line at a time; without a path nothing is written.
class RunLog {
 public:
  explicit RunLog(std::string path) : path_(std::move(path)) {}

  /// Cuts the file back to its first `bytes` bytes, and to whole lines where it has fewer: what is done again goes.
  void restore(std::uint64_t bytes, Where where = Where::current()) {
    bytes_ = 0;
    if (path_.empty() || !is_there(path_)) return;
    std::string text = io::read_text(path_, std::size_t{1} << 32, where);
    const std::size_t before = text.size();
    if (before > bytes) text.resize(static_cast<std::size_t>(bytes));
    text.resize(text.rfind('\n') + 1);  // npos + 1 is 0
    if (text.size() != before) io::write_atomically(path_, text, where);
    bytes_ = text.size();
  }
  void add(const std::string& line) {
    if (path_.empty()) return;
    io::append_line(path_, line);
    bytes_ += line.size() + 1;
  }
  /// What is told of a step that is not done yet.
  void wait(std::string line) { waiting_.push_back(std::move(line)); }
  void add_waiting() {
    for (const auto& line : std::exchange(waiting_, {})) add(line);
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::string path_;
  std::vector<std::string> waiting_;
  std::uint64_t bytes_ = 0;
};

}  // namespace meft::train
