// Owns: the way from an image to a model's input that a checkpoint's preprocessor_config.json describes, as written by
// transformers' ViTImageProcessor, DeiTImageProcessor, BitImageProcessor (DINOv2) and ViTFeatureExtractor.
// Must not know models or files of images.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/base/random.hpp>
#include <meft/data/image.hpp>
#include <meft/data/table.hpp>

namespace meft::data {

/// A height and width, or the length of the shorter side.
struct ImageSize {
  int height = 0, width = 0, shortest_edge = 0;
  bool operator==(const ImageSize&) const = default;
};

/// How training images vary: a random part, resized, and flipped or not.
struct Augment {
  RandomCrop crop{};
  bool flip = true;
  std::uint64_t seed = 0;
  std::uint32_t epoch = 0;
};

/// Resizes, crops, rescales and normalises an image. The defaults are ViTImageProcessor's, as documented there.
struct ImageProcessor {
  bool do_resize = true, do_center_crop = false, do_rescale = true, do_normalize = true;
  ImageSize size{224, 224, 0};
  ImageSize crop_size{224, 224, 0};
  Resample resample = Resample::bilinear;
  double rescale_factor = 1.0 / 255;
  std::array<float, 3> mean{0.5f, 0.5f, 0.5f}, deviation{0.5f, 0.5f, 0.5f};
  std::string type = "ViTImageProcessor";
  bool defaults = false;  // read() found no file

  /// Reads `path`, or `path/preprocessor_config.json` when `path` is a folder; where the folder has no such file the
  /// result is the defaults, and says so. A missing or null option has the default of the file's type, and a file
  /// without a type is ViTImageProcessor's. A `size` that is one number is square, for BitImageProcessor the shortest
  /// edge, or as `default_to_square` has it. Errors name the file and the option: unknown or unsupported ones, values
  /// of the wrong type or out of range.
  static ImageProcessor read(const std::string& path, Where where = Where::current());

  /// The same from text; `source` stands for the file in errors.
  static ImageProcessor parse(std::string_view text, const std::string& source, Where where = Where::current());

  /// Whether every image comes out in one size.
  bool fixed_size() const { return do_center_crop || (do_resize && size.shortest_edge == 0); }
  /// That size. Errors: it depends on the image.
  Box output(Where where = Where::current()) const {
    require(fixed_size(), {type + ": images keep a size of their own; a model needs do_center_crop or a size of "
                                  "height and width",
                           where});
    const ImageSize& last = do_center_crop ? crop_size : size;
    return {0, 0, last.height, last.width};
  }

  /// The image resized and cropped.
  Image shape(const Image& image, Where where = Where::current()) const {
    if (!do_resize) return do_center_crop ? center_crop(image, crop_size.height, crop_size.width, where) : image;
    std::pair side(size.height, size.width);
    if (size.shortest_edge > 0) side = shortest_edge_size(image.height(), image.width(), size.shortest_edge, where);
    Image out = data::resize(image, side.first, side.second, resample, where);
    return do_center_crop ? center_crop(out, crop_size.height, crop_size.width, where) : out;
  }

  /// For training: a random part of the image in the output's size, flipped or not.
  Image vary(const Image& image, const Augment& augment, std::uint64_t example, Where where = Where::current()) const {
    const Box out = output(where);
    const Key crop{augment.seed, crop_site, augment.epoch}, coin{augment.seed, flip_site, augment.epoch};
    Image part = random_resized_crop(image, out.height, out.width, resample, augment.crop, crop, example, where);
    return augment.flip && random_flip(coin, example) ? flip(part) : part;
  }

  /// The values that the model sees.
  PixelMap pixel_map() const {
    return {do_rescale ? rescale_factor : 1, do_normalize ? mean : std::array<float, 3>{},
            do_normalize ? deviation : std::array<float, 3>{1, 1, 1}};
  }

  /// The image as the model sees it: [3, height, width].
  std::vector<float> operator()(const Image& image, Where where = Where::current()) const {
    const Image shaped = shape(image, where);
    std::vector<float> out(shaped.pixels().size());
    pixel_map().write(shaped, out, where);
    return out;
  }
};

namespace detail {

inline constexpr int max_side = 16384;

/// The class that wrote the file, without the endings of its variants.
inline std::string processor_type(const JsonField& file) {
  auto field = file.find("image_processor_type");
  if (!field) field = file.find("feature_extractor_type");
  if (!field) return "ViTImageProcessor";
  std::string_view name = field->string();
  for (const std::string_view ending : {"Fast", "Pil"})
    if (name.ends_with(ending)) name.remove_suffix(ending.size());
  for (const std::string_view model : {"ViT", "DeiT", "Bit"})
    if (name.starts_with(model)) {
      const std::string_view rest = name.substr(model.size());
      if (rest == "ImageProcessor" || rest == "FeatureExtractor") return std::string(model) + "ImageProcessor";
    }
  field->wrong("ViTImageProcessor, DeiTImageProcessor, BitImageProcessor or ViTFeatureExtractor");
}

inline ImageProcessor defaults_of(const std::string& type) {
  ImageProcessor out;
  out.type = type;
  if (type == "ViTImageProcessor") return out;
  out.resample = Resample::bicubic;
  out.do_center_crop = true;
  if (type == "DeiTImageProcessor") {
    out.size = {256, 256, 0};
  } else {
    out.size = {0, 0, 224};
    out.mean = {0.48145466f, 0.4578275f, 0.40821073f};
    out.deviation = {0.26862954f, 0.26130258f, 0.27577711f};
  }
  return out;
}

inline ImageSize size_of(const JsonField& field, bool square, bool crop) {
  const auto side = [](const JsonField& value) { return static_cast<int>(value.integer(1, max_side)); };
  const auto& value = field.value();
  if (value.is_object()) {
    const std::size_t keys = value.size();
    if (keys == 2 && value.contains("height") && value.contains("width"))
      return {side(field.at("height")), side(field.at("width")), 0};
    if (!crop && keys == 1 && value.contains("shortest_edge")) return {0, 0, side(field.at("shortest_edge"))};
    std::string names;
    for (const auto& [key, ignored] : value.items()) names += (names.empty() ? "" : ", ") + excerpt(key);
    field.wrong(std::string(crop ? "height and width" : "height and width, or shortest_edge") + "; found the keys " +
                (names.empty() ? "of an empty object" : names));
  }
  if (value.is_array()) {
    if (value.size() != 2) field.wrong("height and width");
    return {side(field.at(std::size_t{0})), side(field.at(std::size_t{1})), 0};
  }
  const int both = side(field);
  return square ? ImageSize{both, both, 0} : ImageSize{0, 0, both};
}

inline double number_of(const JsonField& field, double low, const char* expected) {
  if (!field.value().is_number()) field.wrong(expected);
  const double value = field.value().get<double>();
  if (!(value >= low && value <= 1e6)) field.wrong(expected);
  return value;
}

/// Three numbers, or one for all channels.
inline std::array<float, 3> channels_of(const JsonField& field, double low, const char* expected) {
  std::array<float, 3> out{};
  if (!field.value().is_array()) {
    out.fill(static_cast<float>(number_of(field, low, expected)));
    return out;
  }
  if (field.array().size() != 3) field.wrong("three numbers, one a channel");
  for (std::size_t i = 0; i < 3; ++i) out[i] = static_cast<float>(number_of(field.at(i), low, expected));
  return out;
}

/// Options that say nothing about the pixels of an RGB image, or only with the value that we have.
inline bool harmless(std::string_view key, const JsonField& field) {
  for (const std::string_view name :
       {"image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys", "do_convert_rgb",
        "device", "disable_grouping", "return_tensors", "input_data_format", "pad_size", "default_to_square"})
    if (key == name) return true;
  if (key == "do_pad") {
    if (field.boolean()) field.wrong("false: padding is not supported");
    return true;
  }
  if (key == "data_format") {
    if (field.string() != "channels_first") field.wrong("channels_first");
    return true;
  }
  return false;
}

/// `square`: so is a `size` of one number.
inline void take(ImageProcessor& out, const std::string& key, const JsonField& field, bool square,
                 const std::string& source) {
  constexpr double tiny = 1e-6, any = -1e6;
  if (key == "do_resize") out.do_resize = field.boolean();
  else if (key == "do_center_crop") out.do_center_crop = field.boolean();
  else if (key == "do_rescale") out.do_rescale = field.boolean();
  else if (key == "do_normalize") out.do_normalize = field.boolean();
  else if (key == "size") out.size = size_of(field, square, false);
  else if (key == "crop_size") out.crop_size = size_of(field, true, true);
  else if (key == "rescale_factor") out.rescale_factor = number_of(field, tiny / 1e3, "a number above 0");
  else if (key == "image_mean") out.mean = channels_of(field, any, "three numbers, one a channel");
  else if (key == "image_std") out.deviation = channels_of(field, tiny, "three numbers of at least 1e-6");
  else if (key == "resample") {
    const std::int64_t filter = field.integer(0, 5);
    if (filter > 3)
      field.wrong(
          "0 (nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic); 4 (box) and 5 (hamming) are "
          "not supported");
    out.resample = static_cast<Resample>(filter);
  } else if (!harmless(key, field)) {
    fail(source + ": option " + excerpt(key) + " is not supported by " + out.type);
  }
}

}  // namespace detail

inline ImageProcessor ImageProcessor::parse(std::string_view text, const std::string& source, Where where) {
  return detail::called_from(where, [&] {
    const auto tree = parse_json(text, source, where);
    const JsonField file(tree, source);
    file.object();
    ImageProcessor out = detail::defaults_of(detail::processor_type(file));
    const auto said = file.find("default_to_square");
    const bool square = said ? said->boolean() : out.type != "BitImageProcessor";
    for (const auto& [key, value] : tree.items())
      if (!value.is_null()) detail::take(out, key, file.at(key), square, source);
    return out;
  });
}

inline ImageProcessor ImageProcessor::read(const std::string& path, Where where) {
  return detail::called_from(where, [&] {
    namespace fs = std::filesystem;
    std::error_code error;
    std::string file = path;
    if (fs::is_directory(path, error)) {
      file = (fs::path(path) / "preprocessor_config.json").string();
      if (fs::symlink_status(file, error).type() == fs::file_type::not_found) {
        ImageProcessor out;
        out.defaults = true;
        return out;
      }
    }
    return parse(read_file(file, std::size_t{1} << 20), file, where);
  });
}

}  // namespace meft::data
