// Owns: images as records of one file: CIFAR-10's binary files, MNIST as CSV. Krizhevsky, "Learning multiple layers of
// features from tiny images", 2009; LeCun et al., "Gradient-based learning applied to document recognition", 1998.
// Must not know data sets.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/file.hpp>
#include <meft/data/image.hpp>
#include <meft/data/text_file.hpp>

namespace meft::data {

/// Where an image stands: a file of its own, a record of a CIFAR-10 file, a line of a CSV file.
enum class ImageKind : std::uint8_t { file, cifar10, csv };

struct ImageExample {
  std::uint32_t file = 0;  // of ImageDataset::files
  std::uint32_t label = 0;
  std::uint64_t offset = 0;  // bytes in that file, for cifar10 and csv
  std::uint32_t bytes = 0;
  ImageKind kind = ImageKind::file;
};

namespace detail {

inline constexpr std::size_t cifar_side = 32, cifar_pixels = 3 * cifar_side * cifar_side,
                             cifar_record = 1 + cifar_pixels;
inline constexpr std::size_t digit_side = 28, digit_pixels = digit_side * digit_side;

/// The lines of a file one by one, without their ends (LF or CR LF). Errors: a line of more than 64 KiB.
class Lines {
 public:
  explicit Lines(const std::string& path) : path_(path), input_(path), chunk_(std::size_t{1} << 20) {}

  bool next(std::string& line) {
    line.clear();
    start_ = at_;
    ++number_;
    for (bool any = false;; any = true) {
      if (used_ == filled_) {
        used_ = 0;
        filled_ = input_.read(chunk_.data(), chunk_.size());
        if (filled_ == 0) {
          strip_return(line);
          return any;
        }
      }
      const char* begin = chunk_.data() + used_;
      const auto* end = static_cast<const char*>(std::memchr(begin, '\n', filled_ - used_));
      const std::size_t count = end ? static_cast<std::size_t>(end - begin) : filled_ - used_;
      line.append(begin, count);
      used_ += count + (end ? 1 : 0);
      at_ += count + (end ? 1 : 0);
      if (line.size() > (std::size_t{1} << 16)) fail(place() + "the line is longer than 65536 bytes");
      if (!end) continue;
      strip_return(line);
      return true;
    }
  }
  std::uint64_t start() const { return start_; }
  std::string place() const { return path_ + ":" + std::to_string(number_) + ": "; }

 private:
  static void strip_return(std::string& line) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
  }

  const std::string& path_;
  InputFile input_;
  std::vector<char> chunk_;
  std::size_t used_ = 0, filled_ = 0, number_ = 0;
  std::uint64_t at_ = 0, start_ = 0;
};

/// The whole number in a field, or -1 where it is none below 1000.
inline int small_number(std::string_view cell) {
  if (cell.empty() || cell.size() > 3) return -1;
  int value = 0;
  for (const char c : cell) {
    if (c < '0' || c > '9') return -1;
    value = value * 10 + (c - '0');
  }
  return value;
}

/// Label and pixels of a line `label,784 pixels`. Errors begin with `place`.
inline std::uint32_t parse_digit(std::string_view line, std::array<std::uint8_t, digit_pixels>& pixels,
                                 const std::string& place) {
  const auto columns = static_cast<std::size_t>(std::count(line.begin(), line.end(), ',')) + 1;
  if (columns != digit_pixels + 1)
    fail(place + "expected 785 columns (label and 784 pixels, separated by commas), found " + std::to_string(columns) +
         ": " + excerpt(line));
  std::uint32_t label = 0;
  for (std::size_t column = 0; column < columns; ++column) {
    const std::size_t comma = std::min(line.find(','), line.size());
    const std::string_view cell = line.substr(0, comma);
    const int value = small_number(cell), most = column == 0 ? 9 : 255;
    if (value < 0 || value > most)
      fail(place + "column " + std::to_string(column + 1) + ": expected " +
           (column == 0 ? "a label from 0 to 9" : "a pixel from 0 to 255") + ", found " + excerpt(cell));
    if (column == 0) label = static_cast<std::uint32_t>(value);
    else pixels[column - 1] = static_cast<std::uint8_t>(value);
    line.remove_prefix(std::min(comma + 1, line.size()));
  }
  return label;
}

/// Adds a file to the list and gives its number.
inline std::uint32_t add_file(std::vector<std::string>& files, const std::string& path) {
  if (files.size() >= std::numeric_limits<std::uint32_t>::max()) fail(path + ": too many files");
  files.push_back(path);
  return static_cast<std::uint32_t>(files.size() - 1);
}

/// Appends the rows of an MNIST file.
inline void add_csv(std::vector<std::string>& files, std::vector<ImageExample>& out, const std::string& path) {
  const std::uint32_t file = add_file(files, path);
  Lines lines(path);
  std::string line, blank;
  std::array<std::uint8_t, digit_pixels> pixels;
  const std::size_t before = out.size();
  for (bool first = true; lines.next(line); first = false) {
    if (line.empty()) {
      if (blank.empty()) blank = lines.place() + "the line is blank";
      continue;
    }
    if (!blank.empty()) fail(blank);
    if (first) {  // a header's columns have names
      const std::string_view cell = std::string_view(line).substr(0, line.find(','));
      if (!cell.empty() && cell.find_first_of("0123456789+-.") != 0) {
        if (const auto columns = std::count(line.begin(), line.end(), ',') + 1; columns != digit_pixels + 1)
          fail(lines.place() + "expected a header of 785 columns (label and 784 pixels), found " +
               std::to_string(columns) + ": " + excerpt(line));
        continue;
      }
    }
    const std::uint32_t label = parse_digit(line, pixels, lines.place());
    out.push_back({file, label, lines.start(), static_cast<std::uint32_t>(line.size()), ImageKind::csv});
  }
  if (out.size() == before) fail(path + ": has no rows: expected label and 784 pixels, separated by commas");
}

/// Appends the records of a CIFAR-10 file.
inline void add_cifar(std::vector<std::string>& files, std::vector<ImageExample>& out, const std::string& path) {
  const std::uint32_t file = add_file(files, path);
  InputFile input(path);
  std::vector<std::uint8_t> record(cifar_record);
  for (std::uint64_t offset = 0;; offset += cifar_record) {
    const std::size_t count = input.read(record.data(), cifar_record);
    if (count == 0 && offset > 0) return;
    if (count < cifar_record)
      fail(path + ": ends within record " + std::to_string(offset / cifar_record + 1) + ", at byte " +
           std::to_string(offset + count) + ": expected records of 3073 bytes (label, 32 x 32 x 3 pixels)");
    if (record[0] > 9)
      fail(path + ": record " + std::to_string(offset / cifar_record + 1) + ", at byte " + std::to_string(offset) +
           ": expected a label from 0 to 9, found " + std::to_string(int{record[0]}));
    out.push_back({file, record[0], offset, static_cast<std::uint32_t>(cifar_record), ImageKind::cifar10});
  }
}

/// The class names of CIFAR-10: the lines of a file beside the records, else those that its authors gave.
inline std::vector<std::string> cifar_names(const std::filesystem::path& folder) {
  for (const char* name : {"classes.txt", "batches.meta.txt"}) {
    const std::string path = (folder / name).string();
    if (!is_there(path)) continue;
    std::vector<std::string> names;
    std::string line;
    for (Lines lines(path); lines.next(line);)
      if (!line.empty()) names.push_back(line);
    if (names.size() != 10) fail(path + ": expected the names of 10 classes, found " + std::to_string(names.size()));
    return names;
  }
  return {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
}

inline Image read_record(const ImageExample& example, const std::string& path) {
  const std::string place = path + ": at byte " + std::to_string(example.offset) + ": ";
  const bool colour = example.kind == ImageKind::cifar10;
  const auto side = static_cast<int>(colour ? cifar_side : digit_side);
  std::string bytes(example.bytes, '\0');
  InputFile input(path);
  input.seek(example.offset);
  if (input.read(bytes.data(), bytes.size()) < bytes.size()) fail(place + "the file has become shorter");
  Image image(side, side);
  std::uint8_t* to = image.pixels().data();
  if (colour) {
    if (bytes.size() != cifar_record) fail(place + "expected a record of 3073 bytes");
    constexpr std::size_t plane = cifar_side * cifar_side;
    for (std::size_t i = 0; i < plane; ++i)
      for (std::size_t channel = 0; channel < 3; ++channel)
        *to++ = static_cast<std::uint8_t>(bytes[1 + channel * plane + i]);
  } else {
    std::array<std::uint8_t, digit_pixels> pixels;
    parse_digit(bytes, pixels, place);
    for (const std::uint8_t value : pixels) to = std::fill_n(to, 3, value);
  }
  return image;
}

}  // namespace detail

}  // namespace meft::data
