// Owns: the reports of the shears of a pass. They stay where the shears run until the pass is over, so that nobody
// waits for a device in between.
#pragma once

#include <cstddef>
#include <vector>

#include <meft/backend/backend.hpp>
#include <meft/backend/report.hpp>
#include <meft/memory/buffer.hpp>

namespace meft::detail {

template <Backend B>
class ShearReports {
 public:
  ShearReports() = default;
  explicit ShearReports(std::size_t count) : count_(count), buffer_(B::pool(), bytes()) {
    B::zero(buffer_.data(), bytes());
  }

  ShearSlot* at(std::size_t i) const { return static_cast<ShearSlot*>(buffer_.data()) + i; }

  /// Waits for the shears.
  std::vector<ShearSlot> read() const {
    std::vector<ShearSlot> out(count_);
    B::download(out.data(), buffer_.data(), bytes());
    return out;
  }

 private:
  std::size_t bytes() const { return count_ * sizeof(ShearSlot); }

  std::size_t count_ = 0;
  Buffer buffer_;
};

}  // namespace meft::detail
