// Owns: what a run used since it was started or resumed: time, memory, examples.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include <meft/train/memory.hpp>
#include <meft/train/observer.hpp>

namespace meft::train {

class Usage {
 public:
  /// Starts at `step`.
  explicit Usage(std::int64_t step = 0) : step_(step) {}

  double seconds() const { return std::chrono::duration<double>(Clock::now() - started_).count(); }
  std::size_t activation_bytes() const { return activation_; }  // the highest
  const MemoryReport& memory() const { return memory_; }        // the highest

  /// A batch was learned from, whose products could be done in `light` seconds.
  void add(std::size_t sequences, double light) {
    sequences_ += sequences;
    light_ += light;
  }
  void raise(std::size_t activation_bytes) { activation_ = std::max(activation_, activation_bytes); }
  void raise(const MemoryReport& memory) { memory_.raise(memory); }

  /// Says it behind step `report.step` of `report.steps`.
  void tell(StepReport& report) const {
    const double so_far = std::max(1e-9, seconds());
    report.peak_activation_bytes = activation_;
    report.memory = memory_;
    report.sequences_per_second = static_cast<double>(sequences_) / so_far;
    report.light = light_ / so_far;
    report.seconds_left =
        so_far / static_cast<double>(report.step - step_) * static_cast<double>(report.steps - report.step);
  }

 private:
  using Clock = std::chrono::steady_clock;

  Clock::time_point started_ = Clock::now();
  std::int64_t step_;
  std::size_t sequences_ = 0, activation_ = 0;
  double light_ = 0;
  MemoryReport memory_{};
};

}  // namespace meft::train
