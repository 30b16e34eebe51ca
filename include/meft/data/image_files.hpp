// Owns: data sets of images: folders of class folders, CIFAR-10's binary files, MNIST as CSV. Labels are read and
// checked at once, images when they are asked for. Krizhevsky, "Learning multiple layers of features from tiny images",
// 2009; LeCun et al., "Gradient-based learning applied to document recognition", 1998. Must not know models or batches.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/file.hpp>
#include <meft/data/batches.hpp>
#include <meft/data/image.hpp>
#include <meft/data/image_decode.hpp>
#include <meft/data/table.hpp>

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

struct ImageDataset {
  std::vector<std::string> label_names;  // by class number
  std::vector<std::string> files;
  std::vector<ImageExample> train, dev;
  bool held_out = false;  // dev is the held-out tenth of train
  DecodeLimits limits{};

  /// The image of an example; may be called from several threads at once. Errors name the file, and the byte of a
  /// record or line: as decode_image, and a file that is no longer what it was.
  Image image(const ImageExample& example, Where where = Where::current()) const;
};

struct ImageOptions {
  std::uint64_t split_seed = 0;  // picks the held-out tenth
  DecodeLimits limits{};
};

namespace detail {

constexpr std::size_t cifar_side = 32, cifar_pixels = 3 * cifar_side * cifar_side, cifar_record = 1 + cifar_pixels;
constexpr std::size_t digit_side = 28, digit_pixels = digit_side * digit_side;

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

inline void add_file(ImageDataset& data, const std::string& path) {
  if (data.files.size() >= std::numeric_limits<std::uint32_t>::max()) fail(path + ": too many files");
  data.files.push_back(path);
}

inline void add_csv(ImageDataset& data, std::vector<ImageExample>& out, const std::string& path) {
  add_file(data, path);
  const auto file = static_cast<std::uint32_t>(data.files.size() - 1);
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

inline void add_cifar(ImageDataset& data, std::vector<ImageExample>& out, const std::string& path) {
  add_file(data, path);
  const auto file = static_cast<std::uint32_t>(data.files.size() - 1);
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

/// The names in a folder, sorted; hidden ones left out.
inline std::vector<std::string> names_in(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> names;
  std::filesystem::directory_iterator at(folder, error), end;
  for (; !error && at != end; at.increment(error))
    if (std::string name = at->path().filename().string(); !name.starts_with('.')) names.push_back(std::move(name));
  if (error) fail(folder + ": cannot be read: " + error.message());
  std::sort(names.begin(), names.end());
  return names;
}

inline bool is_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

inline bool is_image_name(std::string_view name) {
  std::string lower(name);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower.ends_with(".jpg") || lower.ends_with(".jpeg") || lower.ends_with(".png");
}

/// The folders in a folder, by name: its classes.
inline std::vector<std::string> folders_in(const std::string& folder) {
  std::vector<std::string> out;
  for (std::string& name : names_in(folder))
    if (is_folder(folder + "/" + name)) out.push_back(std::move(name));
  return out;
}

inline void add_folder(ImageDataset& data, std::vector<ImageExample>& out, const std::string& folder, bool training) {
  std::error_code ignored;
  for (const std::string& name : folders_in(folder)) {
    const auto found = std::find(data.label_names.begin(), data.label_names.end(), name);
    if (found == data.label_names.end()) fail(folder + ": class " + excerpt(name) + " has no training images");
    const auto label = static_cast<std::uint32_t>(found - data.label_names.begin());
    const std::string inner = folder + "/" + name;
    const std::size_t before = out.size();
    for (const std::string& image : names_in(inner)) {
      const std::string path = inner + "/" + image;
      if (!is_image_name(image) || !std::filesystem::is_regular_file(path, ignored))
        fail(path + ": is not an image: expected files ending in .jpg, .jpeg or .png");
      add_file(data, path);
      out.push_back({static_cast<std::uint32_t>(data.files.size() - 1), label, 0, 0, ImageKind::file});
    }
    if (out.size() == before && training) fail(inner + ": has no images");
  }
  if (out.empty()) fail(folder + ": has no images in class folders");
}

inline void load_folders(ImageDataset& data, const std::string& path) {
  const std::string train = is_folder(path + "/train") ? path + "/train" : path;
  data.label_names = folders_in(train);
  if (data.label_names.size() < 2)
    fail(train + ": expected at least two class folders, found " + std::to_string(data.label_names.size()));
  add_folder(data, data.train, train, true);
  if (train == path) return;
  for (const char* name : {"val", "dev", "test"})
    if (data.dev.empty() && is_folder(path + "/" + name)) add_folder(data, data.dev, path + "/" + name, false);
}

/// Moves a tenth of train, rounded up, to dev, as data::load does; both keep their order.
inline void hold_out(ImageDataset& data, const std::string& path, std::uint64_t seed) {
  const std::size_t count = data.train.size();
  if (count < 2 || count >= std::numeric_limits<std::uint32_t>::max())
    fail(path + ": needs at least 2 images to hold out a tenth, and fewer than 2^32 - 1; found " +
         std::to_string(count));
  std::vector<char> held(count);
  const auto order = permutation(static_cast<std::uint32_t>(count), Key{seed, split_site, 0});
  for (std::size_t i = 0; i < (count + 9) / 10; ++i) held[order[i]] = 1;
  std::vector<ImageExample> rest;
  for (std::size_t i = 0; i < count; ++i) (held[i] ? data.dev : rest).push_back(data.train[i]);
  data.train = std::move(rest);
  data.held_out = true;
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

inline ImageDataset load_images(const std::string& path, const ImageOptions& options) {
  ImageDataset data;
  data.limits = options.limits;
  const bool folder = is_folder(path);
  std::vector<std::string> cifar_train, cifar_dev, csv_train, csv_dev;
  const auto sort_in = [](const std::string& name, const std::string& file, auto& train, auto& dev) {
    if (name.starts_with("train") || name.starts_with("data_batch") || name.starts_with("mnist_train"))
      train.push_back(file);
    for (const char* start : {"val", "dev", "test", "mnist_test"})
      if (name.starts_with(start)) return dev.push_back(file);
  };
  if (folder) {
    for (const std::string& name : names_in(path)) {
      if (name.ends_with(".bin")) sort_in(name, path + "/" + name, cifar_train, cifar_dev);
      if (name.ends_with(".csv")) sort_in(name, path + "/" + name, csv_train, csv_dev);
    }
  } else if (path.ends_with(".bin")) {
    cifar_train = {path};
  } else if (path.ends_with(".csv")) {
    csv_train = {path};
  } else {
    fail(path + ": expected a folder, a CIFAR-10 file .bin or an MNIST file .csv");
  }
  if (!cifar_train.empty()) {
    data.label_names = cifar_names(std::filesystem::path(cifar_train[0]).parent_path());
    for (const std::string& file : cifar_train) add_cifar(data, data.train, file);
    for (const std::string& file : cifar_dev) add_cifar(data, data.dev, file);
  } else if (!csv_train.empty()) {
    for (int digit = 0; digit < 10; ++digit) data.label_names.push_back(std::to_string(digit));
    for (const std::string& file : csv_train) add_csv(data, data.train, file);
    for (const std::string& file : csv_dev) add_csv(data, data.dev, file);
  } else {
    load_folders(data, path);
  }
  if (data.dev.empty()) hold_out(data, path, options.split_seed);
  return data;
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

inline Image ImageDataset::image(const ImageExample& example, Where where) const {
  return detail::called_from(where, [&] {
    if (example.file >= files.size()) fail("image data: an example of another data set");
    const std::string& path = files[example.file];
    return example.kind == ImageKind::file ? read_image(path, limits, where) : detail::read_record(example, path);
  });
}

/// Reads a data set's files and labels. `path` is
///   a folder with `train/CLASS/*.jpg|jpeg|png` and perhaps `val/`, `dev/` or `test/` (the first of them is dev), or
///   with the class folders themselves; classes are numbered in order of their names' bytes; a folder with CIFAR-10's
///   files `train*.bin` or `data_batch*.bin`, and perhaps `test*.bin`; or one such file; a folder with MNIST as
///   `train*.csv` or `mnist_train*.csv`, and perhaps `val*`, `dev*`, `test*` or `mnist_test*`; or one such file. A line
///   is the label and 784 pixels, line 1 perhaps a header.
/// Without dev files a tenth, fixed by `split_seed`, becomes dev. Images are not decoded. Errors name the file, and the
/// line or record: no classes or images, other files in a class folder, bad labels, pixels or sizes.
inline ImageDataset load_images(const std::string& path, const ImageOptions& options = {},
                                Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::load_images(path, options); });
}

}  // namespace meft::data
