// Owns: progress lines and the form of numbers.
#include "report.hpp"

#include <unistd.h>

#include <cstdio>

namespace finetune {

namespace {

template <class... Args>
std::string format(const char* form, Args... args) {
  char text[256];
  std::snprintf(text, sizeof text, form, args...);
  return text;
}

std::string duration(double seconds) {
  const auto s = static_cast<long long>(seconds + 0.5);
  return s >= 3600 ? format("%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60)
                   : format("%lld:%02lld", s / 60, s % 60);
}

void print(const std::string& line, const char* end = "\n") {
  std::fputs((line + end).c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace

std::string grouped(std::int64_t number) {
  const std::string digits = std::to_string(number);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && digits[i - 1] != '-' && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string mebibytes(double bytes) {
  const double mib = bytes / (1 << 20);
  return format(mib < 100 ? "%.1f MiB" : "%.0f MiB", mib);
}

std::string text(const std::vector<meft::train::Score>& scores) {
  std::string out;
  for (const auto& s : scores) out += (out.empty() ? "" : ", ") + s.name + format(" %.4f", s.value);
  return out;
}

Progress::Progress() : terminal_(isatty(STDOUT_FILENO) == 1) {}

void Progress::end_line() {
  if (open_) print("");
  open_ = false;
  width_ = 0;
}

void Progress::show(const meft::train::StepReport& r) {
  const auto now = std::chrono::steady_clock::now();
  const double since = std::chrono::duration<double>(now - shown_).count();
  if (since < (terminal_ ? 0.1 : 10.0) && r.step != r.steps) return;
  shown_ = now;
  std::string line =
      format("epoch %lld/%lld  step %lld/%lld  loss %.4f  %.1f sequences/s  activation %s  left %s",
             static_cast<long long>(r.epoch), static_cast<long long>(r.epochs), static_cast<long long>(r.step),
             static_cast<long long>(r.steps), r.mean_loss, r.sequences_per_second,
             mebibytes(static_cast<double>(r.activation_bytes)).c_str(), duration(r.seconds_left).c_str());
  if (!terminal_) return print(line);
  const std::size_t length = line.size();
  if (length < width_) line.append(width_ - length, ' ');
  width_ = length;
  print("\r" + line, "");
  open_ = true;
}

meft::train::Observer Progress::observer() {
  return {.started =
              [this](const meft::train::StartReport& r) {
                if (r.resumed)
                  print(format("resumed at step %lld of %lld, in epoch %lld", static_cast<long long>(r.step),
                               static_cast<long long>(r.steps), static_cast<long long>(r.epoch)));
                shown_ = std::chrono::steady_clock::now();
              },
          .stepped = [this](const meft::train::StepReport& r) { show(r); },
          .evaluated =
              [this](const meft::train::EpochReport& r) {
                end_line();
                print(format("epoch %lld/%lld done at step %lld: train loss %.4f; dev %s%s",
                             static_cast<long long>(r.epoch), static_cast<long long>(r.epochs),
                             static_cast<long long>(r.step), r.mean_loss, text(r.scores).c_str(),
                             r.best ? "  (best)" : ""));
              }};
}

}  // namespace finetune
