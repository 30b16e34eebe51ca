// Owns: data sets of images: folders of class folders, CIFAR-10's binary files, MNIST as CSV; which of their files are
// images, and which of these are broken. Labels are read and checked at once, images when they are asked for.
// Must not know models or batches.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/parallel.hpp>
#include <meft/data/image.hpp>
#include <meft/data/image_decode.hpp>
#include <meft/data/image_glance.hpp>
#include <meft/data/image_records.hpp>
#include <meft/data/split.hpp>

namespace meft::data {

struct ImageDataset {
  std::vector<std::string> label_names;  // by class number
  std::vector<std::string> files;
  std::vector<ImageExample> train, dev, test;  // test may be empty: it is to be scored after training
  bool held_out = false;                       // dev is the held-out tenth of train
  SplitFiles splits{};
  std::vector<std::string> skipped{};  // what is no image by its name, in class folders and beside them
  DecodeLimits limits{};

  /// The image of an example; may be called from several threads at once. Errors name the file, and the byte of a
  /// record or line: as decode_image, and a file that is no longer what it was.
  Image image(const ImageExample& example, Where where = Where::current()) const;
};

struct ImageOptions {
  std::uint64_t split_seed = 0;  // picks the held-out tenth
  DecodeLimits limits{};
  bool check = true;    // look at every file's head and end
  bool decode = false;  // dev and test as well, which a run that trains reads when an epoch has ended
};

/// How many examples each of `labels` classes has.
inline std::vector<std::size_t> class_counts(const std::vector<ImageExample>& examples, std::size_t labels) {
  std::vector<std::size_t> out(labels);
  for (const ImageExample& example : examples) ++out.at(example.label);
  return out;
}

namespace detail {

enum class ImageName { image, unread, other };

/// What a file is by its name: an image, one of a kind that is not read, or none.
inline ImageName image_name(std::string_view name) {
  const std::string end = ending(name);
  if (end == ".webp") return reads_webp ? ImageName::image : ImageName::unread;
  for (const char* read : {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif"})
    if (end == read) return ImageName::image;
  for (const char* unread : {".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".ico", ".psd"})
    if (end == unread) return ImageName::unread;
  return ImageName::other;
}

[[noreturn]] inline void refuse_kind(const std::string& path) {
  fail(path + ": images of this kind are not read: convert it to JPEG, PNG, BMP or GIF, or take it away" +
       (ending(path) == ".webp" ? " (this program was built without libwebp)" : ""));
}

/// The folders in a folder, by name: its classes.
inline Names folders_in(const std::string& folder) {
  Names out;
  for (std::string& name : names_in(folder))
    if (is_folder(folder + "/" + name)) out.push_back(std::move(name));
  return out;
}

/// The images of a class folder, sorted; `skipped` gets what is none, its names led by `shown`. Errors: images of a
/// kind that is not read.
inline Names images_in(const std::string& folder, const std::string& shown, Names& skipped) {
  Names out;
  for (std::string& name : names_in(folder)) {
    const std::string path = folder + "/" + name;
    const bool file = !is_folder(path);  // what is neither is refused when it is opened
    const ImageName kind = image_name(name);
    if (file && kind == ImageName::unread) refuse_kind(path);
    if (file && kind == ImageName::image) out.push_back(std::move(name));
    else skipped.push_back(shown + "/" + name + (file ? "" : "/"));
  }
  return out;
}

/// Appends the images in the class folders of `folder`; `apart` are folders that are no classes.
inline void add_folder(ImageDataset& data, std::vector<ImageExample>& out, const std::string& folder,
                       const Names& apart = {}) {
  const bool training = data.label_names.empty();
  const std::string shown = std::filesystem::path(folder).filename().string();
  for (const std::string& name : names_in(folder)) {
    if (std::find(apart.begin(), apart.end(), name) != apart.end()) continue;
    const std::string inner = folder + "/" + name;
    if (!is_folder(inner)) {
      data.skipped.push_back(shown + "/" + name);
      continue;
    }
    const Names images = images_in(inner, name, data.skipped);
    if (images.empty()) {
      data.skipped.push_back(shown + "/" + name + "/");
      continue;
    }
    if (training) data.label_names.push_back(name);
    const auto found = std::find(data.label_names.begin(), data.label_names.end(), name);
    if (found == data.label_names.end()) fail(folder + ": class " + excerpt(name) + " has no training images");
    const auto label = static_cast<std::uint32_t>(found - data.label_names.begin());
    for (const std::string& image : images)
      out.push_back({add_file(data.files, inner + "/" + image), label, 0, 0, ImageKind::file});
  }
  if (training && data.label_names.size() < 2)
    fail(folder + ": expected at least two class folders with images, found " +
         std::to_string(data.label_names.size()));
  if (out.empty()) fail(folder + ": has no images in class folders");
}

/// Throws where folders that are split by their names, as `train/` and `test_images/`, hold images themselves: these
/// have no labels, and the folders would be taken for classes. One such folder alone is a class.
inline void refuse_bare_splits(const std::string& path) {
  std::string train, other;
  for (const std::string& name : folders_in(path)) {
    const std::string inner = path + "/" + name, first = lower(name).substr(0, lower(name).find_first_of("_-. "));
    const std::size_t word = split_word(first);
    if (word == split_words.size() || !folders_in(inner).empty()) continue;
    if (Names ignored; !images_in(inner, name, ignored).empty())
      (split_words[word].second == Part::train ? train : other) = inner;
  }
  if (!train.empty() && !other.empty())
    fail(train + "/: holds images, not class folders: expected those of each class in a folder of its name");
}

/// Splits are folders with class folders in them; without one to train on, all other folders are the classes.
inline void load_folders(ImageDataset& data, const std::string& path) {
  Splits splits = find_splits(path, {});
  splits.leave_out([](const Found& found) { return folders_in(found.files[0]).empty(); });
  data.splits = splits.told();
  Names apart;
  const bool flat = splits.of(Part::train).empty();
  for (Names* part : {&data.splits.train, &data.splits.dev, &data.splits.test})
    for (const std::string& name : *part) apart.push_back(name.substr(0, name.size() - 1));
  if (flat) {
    refuse_bare_splits(path);
    data.splits.unused.clear();
    add_folder(data, data.train, path, apart);
  } else {
    add_folder(data, data.train, splits.files(Part::train)[0]);
  }
  for (const std::string& folder : splits.files(Part::dev)) add_folder(data, data.dev, folder);
  for (const std::string& folder : splits.files(Part::test)) add_folder(data, data.test, folder);
}

/// The files of `kind` in a folder by the split that their names say.
struct RecordFiles {
  Names train, dev, test;

  RecordFiles(const std::string& folder, const Names& names, const std::string& kind) {
    for (const std::string& name : names) {
      const std::size_t word = split_word(name);
      const std::string path = folder + "/" + name;
      if (!name.ends_with(kind)) continue;
      if (name.starts_with("data_batch")) train.push_back(path);
      else if (word < split_words.size())
        (split_words[word].second == Part::train ? train
         : split_words[word].second == Part::dev ? dev
                                                 : test)
            .push_back(path);
    }
  }
};

/// Looks at the head and end of each file; where they are odd, and where an example of `whole` is in it, decodes it.
/// Errors: the broken ones, by name; `advice` ends the message.
inline void check_images(const ImageDataset& data, const std::string& path, const std::string& advice,
                         const std::vector<const std::vector<ImageExample>*>& whole = {}) {
  std::vector<std::string> broken(data.files.size());
  std::vector<char> decoded(data.files.size());
  for (const auto* set : whole)
    for (const ImageExample& example : *set) decoded[example.file] = 1;
  parallel_for(static_cast<std::int64_t>(data.files.size()), [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    try {
      if (decoded[at] || !looks_whole(data.files[at], data.limits)) read_image(data.files[at], data.limits);
    } catch (const Error& error) {
      broken[at] = error.message();
    }
  });
  constexpr std::size_t most = 10;
  std::size_t count = 0;
  std::string list;
  for (std::string& message : broken) {
    if (message.empty()) continue;
    if (message.starts_with(path + "/")) message.erase(0, path.size() + 1);
    if (++count <= most) list += (list.empty() ? "" : "; ") + message;
  }
  if (count == 0) return;
  fail(path + ": " + std::to_string(count) + " of " + std::to_string(broken.size()) +
       (count == 1 ? " images is broken: " : " images are broken: ") + list + (count > most ? "; ..." : "") +
       ". Mend or delete " + (count == 1 ? "it" : "them") + advice);
}

inline ImageDataset load_images(const std::string& path, const ImageOptions& options) {
  ImageDataset data;
  data.limits = options.limits;
  const bool folder = is_folder(path);
  const Names names = folder ? names_in(path) : Names{};
  RecordFiles cifar(path, names, ".bin"), csv(path, names, ".csv");
  bool class_folders = false;
  for (const std::string& name : names)
    class_folders = class_folders || (is_folder(path + "/" + name) && !folders_in(path + "/" + name).empty());
  if (!folder) {
    if (path.ends_with(".bin")) cifar.train = {path};
    else if (path.ends_with(".csv")) csv.train = {path};
    else fail(path + ": expected a folder, a CIFAR-10 file .bin or an MNIST file .csv");
  }
  const bool records = !cifar.train.empty() || (!csv.train.empty() && !class_folders);
  if (records) {
    const bool colour = !cifar.train.empty();
    const RecordFiles& found = colour ? cifar : csv;
    if (colour) data.label_names = cifar_names(std::filesystem::path(cifar.train[0]).parent_path());
    for (int digit = 0; !colour && digit < 10; ++digit) data.label_names.push_back(std::to_string(digit));
    const auto add = [&](std::vector<ImageExample>& out, const Names& files, Names& told) {
      for (const std::string& file : files) {
        (colour ? add_cifar : add_csv)(data.files, out, file);
        told.push_back(std::filesystem::path(file).filename().string());
      }
    };
    add(data.train, found.train, data.splits.train);
    add(data.dev, found.dev, data.splits.dev);
    add(data.test, found.test, data.splits.test);
  } else {
    load_folders(data, path);
  }
  if (data.held_out = data.dev.empty(); data.held_out) hold_out(data.train, data.dev, path, options.split_seed);
  if (options.check && !records)
    check_images(data, path, " and start again; a run that has begun with other images does not resume",
                 options.decode ? std::vector<const std::vector<ImageExample>*>{&data.dev, &data.test}
                                : std::vector<const std::vector<ImageExample>*>{});
  return data;
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
///   a folder with `train/CLASS/*` and perhaps `val/`, `dev/`, `valid/`, `validation/` and `test/`, or with the class
///   folders themselves; classes are numbered in order of their names' bytes; images are .jpg, .png, .bmp, .gif and
///   .webp files, other files are skipped; a folder with CIFAR-10's files `train*.bin` or `data_batch*.bin`, and
///   perhaps `test*.bin`; or one such file; a folder with MNIST as `train*.csv` or `mnist_train*.csv`, and perhaps
///   `val*`, `dev*`, `test*` or `mnist_test*`; or one such file. A line is the label and 784 pixels, line 1 perhaps a
///   header.
/// Without dev files a tenth of train, fixed by `split_seed`, becomes dev: test is never one to choose by, but scored
/// at the end. Images are not decoded, but where their head or end looks broken (or `decode` is set). Errors name the
/// file, and the line or record: no classes or images, images of splits without class folders, broken images, images of
/// a kind that is not read, bad labels, pixels or sizes.
inline ImageDataset load_images(const std::string& path, const ImageOptions& options = {},
                                Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::load_images(path, options); });
}

}  // namespace meft::data
