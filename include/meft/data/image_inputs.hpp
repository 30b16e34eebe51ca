// Owns: images to predict: those of a folder at any depth, a file of its own, the records of a CIFAR-10 or MNIST file.
// Must not know models or batches.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include <meft/data/image_files.hpp>

namespace meft::data {

/// Images without classes: the examples of `data.train`, and what each is called.
struct ImageInputs {
  ImageDataset data;
  std::vector<std::string> names;  // of a folder's images from there on; of records their number from 1
  std::size_t skipped = 0;         // files of the folder that are no images by their names
};

namespace detail {

/// `around`: the folders that this one lies in, by their own names; a link to one of them is passed over.
inline void add_images_under(ImageInputs& out, const std::string& folder, const std::string& within,
                             std::vector<std::string>& around) {
  std::error_code error;
  const std::string own = std::filesystem::canonical(folder, error).string();
  if (error) fail(folder + ": " + error.message());
  if (std::find(around.begin(), around.end(), own) != around.end()) return;
  around.push_back(own);
  for (const std::string& name : names_in(folder)) {
    const std::string path = folder + "/" + name;
    if (is_folder(path)) {
      add_images_under(out, path, within + name + "/", around);
      continue;
    }
    if (image_name(name) == ImageName::unread) refuse_kind(path);
    if (image_name(name) == ImageName::other) {
      ++out.skipped;
      continue;
    }
    out.data.train.push_back({add_file(out.data.files, path), 0, 0, 0, ImageKind::file});
    out.names.push_back(within + name);
  }
  around.pop_back();
}

inline ImageInputs image_inputs(const std::string& path, const DecodeLimits& limits) {
  ImageInputs out;
  out.data.limits = limits;
  if (is_folder(path)) {
    std::vector<std::string> around;
    add_images_under(out, path, "", around);
    if (out.names.empty()) fail(path + ": holds no images");
    check_images(out.data, path, "");
    return out;
  }
  if (image_name(path) == ImageName::image) {
    out.data.train.push_back({add_file(out.data.files, path), 0, 0, 0, ImageKind::file});
    check_images(out.data, path, "");
    out.names = {std::filesystem::path(path).filename().string()};
    return out;
  }
  if (path.ends_with(".bin")) add_cifar(out.data.files, out.data.train, path);
  else if (path.ends_with(".csv")) add_csv(out.data.files, out.data.train, path);
  else fail(path + ": is neither a folder, an image, a CIFAR-10 file .bin nor an MNIST file .csv");
  for (std::size_t i = 1; i <= out.data.train.size(); ++i) out.names.push_back(std::to_string(i));
  return out;
}

}  // namespace detail

/// Finds images in order of their names, folders and files alike; what is no image by its name is counted and left
/// out. Labels of records are not used. Images are not decoded. Errors name the file: none there, a record cut
/// short.
inline ImageInputs image_inputs(const std::string& path, const DecodeLimits& limits = {},
                                Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::image_inputs(path, limits); });
}

}  // namespace meft::data
