// Owns: what the program prints.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include <meft/train/observer.hpp>

namespace finetune {

/// `1,234,567`
std::string grouped(std::int64_t number);
std::string mebibytes(double bytes);
/// `accuracy 0.8123, f1 0.8011`
std::string text(const std::vector<meft::train::Score>& scores);

/// Progress: one line that is written over on a terminal, a line every ten seconds elsewhere.
class Progress {
 public:
  Progress();
  meft::train::Observer observer();
  /// Ends the line that is being written over.
  void end_line();

 private:
  void show(const meft::train::StepReport& report);

  bool terminal_, open_ = false;
  std::size_t width_ = 0;
  std::chrono::steady_clock::time_point shown_{};
};

}  // namespace finetune
