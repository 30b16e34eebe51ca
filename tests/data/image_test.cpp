// Images: files and pixels as Pillow has them, processors as transformers has them (tests/golden/make_images.py), data
// sets, hostile files, and batches made ahead. With MEFT_SHARED set the sample of CIFAR-10 there is read too.
#include <doctest/doctest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <meft/data/image.hpp>
#include <meft/data/image_batch.hpp>
#include <meft/data/image_decode.hpp>
#include <meft/data/image_files.hpp>
#include <meft/data/image_inputs.hpp>
#include <meft/data/prefetch.hpp>
#include <meft/data/preprocess.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/task/images.hpp>

#include "folder.hpp"

using namespace meft;
using test::contains, test::Folder, test::message_of;
namespace fs = std::filesystem;
using namespace std::string_literals;

namespace {

const std::string golden = "golden/images";

data::Image decode(const std::string& bytes, const data::DecodeLimits& limits = {}) {
  // A copy of exactly this size, so that the sanitizer sees the end.
  const std::vector<std::uint8_t> copy(bytes.begin(), bytes.end());
  return data::decode_image(copy, "x.img", limits);
}

/// Pixels of a golden tensor, and its height and width.
data::Image image_of(const io::Entry& entry) {
  REQUIRE(entry.shape.size() == 3);
  data::Image out(static_cast<int>(entry.shape[0]), static_cast<int>(entry.shape[1]));
  std::vector<std::int32_t> values(out.pixels().size());
  io::copy_to<std::int32_t>(entry, values);
  std::transform(values.begin(), values.end(), out.pixels().begin(),
                 [](int v) { return static_cast<std::uint8_t>(v); });
  return out;
}

/// The largest difference of two images, 256 where their sizes differ.
int difference(const data::Image& a, const data::Image& b) {
  if (a.height() != b.height() || a.width() != b.width()) return 256;
  int most = 0;
  for (std::size_t i = 0; i < a.pixels().size(); ++i) most = std::max(most, std::abs(a.pixels()[i] - b.pixels()[i]));
  return most;
}

data::Image noise(int height, int width, std::uint64_t seed = 1) {
  data::Image out(height, width);
  for (std::size_t i = 0; i < out.pixels().size(); ++i)
    out.pixels()[i] = static_cast<std::uint8_t>(random_bits(Key{seed}, i) >> 24);
  return out;
}

std::string cifar(const std::vector<int>& labels) {
  std::string out;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    out += static_cast<char>(labels[i]);
    for (std::size_t at = 0; at < 3072; ++at) out += static_cast<char>((at + i) % 251);
  }
  return out;
}

std::string digit(const std::string& label, const std::string& pixel, std::size_t pixels = 784) {
  std::string out = label;
  for (std::size_t i = 0; i < pixels; ++i) out += "," + (i == 5 ? pixel : std::to_string(i % 256));
  return out;
}

}  // namespace

TEST_CASE("decode: golden files as Pillow reads them") {
  const io::Safetensors expected(golden + "/decoded.safetensors");
  CHECK(expected.size() >= 60);
  int worst_jpeg = 0;
  for (const std::string& name : expected.names()) {
    INFO(name);
    if (name.ends_with(".webp") && !data::detail::reads_webp) continue;
    const int found = difference(data::read_image(golden + "/" + name), image_of(expected.find(name)));
    const bool jpeg = name.ends_with(".jpg") && name != "png_inside.jpg";
    CHECK(found <= (jpeg || name == "lossy.webp" ? 1 : 0));
    if (jpeg) worst_jpeg = std::max(worst_jpeg, found);
  }
  MESSAGE("JPEG against Pillow: largest difference ", worst_jpeg);
}

TEST_CASE("resize: every mode as Pillow has it") {
  const data::Image photo = data::read_image(golden + "/photo.png");
  const io::Safetensors expected(golden + "/resized.safetensors");
  int worst = 0;
  for (const std::string& name : expected.names()) {
    INFO(name);
    const data::Image want = image_of(expected.find(name));
    const auto found = data::resize(photo, want.height(), want.width(), static_cast<data::Resample>(name[0] - '0'));
    worst = std::max(worst, difference(found, want));
    CHECK(difference(found, want) == 0);
  }
  MESSAGE("resizing against Pillow: largest difference ", worst);
  for (const auto how : {data::Resample::nearest, data::Resample::lanczos, data::Resample::bilinear})
    CHECK(data::resize(photo, photo.height(), photo.width(), how) == photo);
  data::Image flat(5, 9);
  std::fill(flat.pixels().begin(), flat.pixels().end(), std::uint8_t{201});
  const data::Image larger = data::resize(flat, 50, 3, data::Resample::lanczos);
  CHECK(std::all_of(larger.pixels().begin(), larger.pixels().end(), [](int v) { return v == 201; }));
}

TEST_CASE("pixels: crops, flips, sizes") {
  const data::Image image = noise(7, 10);
  CHECK(data::shortest_edge_size(480, 640, 224) == std::pair(224, 298));
  CHECK(data::shortest_edge_size(640, 480, 224) == std::pair(298, 224));
  CHECK(data::shortest_edge_size(5, 5, 9) == std::pair(9, 9));
  CHECK(contains(message_of([] { data::shortest_edge_size(1, 2000000000, 2000000000); }), "too long"));

  const data::Image part = data::crop(image, {2, 3, 4, 5});
  CHECK(part.height() == 4);
  CHECK(part.width() == 5);
  CHECK(part.row(0)[0] == image.row(2)[9]);
  CHECK(part.row(3)[14] == image.row(5)[23]);
  for (const data::Box& box : {data::Box{-1, 0, 2, 2},
                               {0, -1, 2, 2},
                               {0, 0, 0, 2},
                               {0, 0, 2, 0},
                               {0, 0, 8, 2},
                               {0, 0, 2, 11},
                               {7, 0, 1, 1},
                               {1, 1, INT32_MAX, INT32_MAX},
                               {INT32_MAX, 0, 1, 1}})
    CHECK(contains(message_of([&] { data::crop(image, box); }), "crop: the box is not inside"));

  CHECK(data::center_crop(image, 3, 4) == data::crop(image, {2, 3, 3, 4}));
  const data::Image padded = data::center_crop(image, 10, 13);  // 2 black rows above (rounded up), 2 columns left
  CHECK(data::crop(padded, {2, 2, 7, 10}) == image);
  CHECK(padded.row(0)[0] == 0);
  CHECK(padded.row(9)[38] == 0);

  const data::Image mirrored = data::flip(image);
  CHECK(mirrored.row(1)[0] == image.row(1)[27]);
  CHECK(mirrored.row(1)[29] == image.row(1)[2]);
  CHECK(data::flip(mirrored) == image);

  CHECK(contains(message_of([] { data::Image(0, 5); }), "image: expected sides of at least 1"));
  CHECK(contains(message_of([] { data::Image(70000, 70000); }), "70000 x 70000"));
  CHECK(contains(message_of([&] { data::resize(image, 100000, 100000, data::Resample::bicubic); }), "100000"));
  CHECK(contains(message_of([&] { data::resize(image, 5, -1, data::Resample::nearest); }), "5 x -1"));
  CHECK(contains(message_of([] { data::resize({}, 5, 5, data::Resample::nearest); }), "resize: the image is empty"));
  CHECK(contains(message_of([] { data::center_crop({}, 5, 5); }), "center crop: the image is empty"));
  std::vector<float> few(7);
  CHECK(contains(message_of([&] { data::PixelMap(1, {}, {1, 1, 1}).write(image, few); }), "does not fit"));
}

TEST_CASE("random crops: in bounds, replayed, as spread as they should be") {
  const Key key{7, data::crop_site, 3};
  double area = 0;
  std::set<std::pair<int, int>> places;
  int flips = 0, crossed = 0;
  constexpr int count = 2000;
  for (std::uint64_t i = 0; i < count; ++i) {
    const data::Box box = data::random_crop(120, 200, {}, key, i);
    REQUIRE((box.top >= 0 && box.left >= 0 && box.height >= 1 && box.width >= 1));
    REQUIRE((box.top + box.height <= 120 && box.left + box.width <= 200));
    const double share = box.height * box.width / (120.0 * 200.0), ratio = static_cast<double>(box.width) / box.height;
    REQUIRE((share > 0.078 && ratio > 0.72 && ratio < 1.4));
    CHECK(box == data::random_crop(120, 200, {}, key, i));
    area += share / count;
    places.emplace(box.top, box.left);
    crossed += (2 * box.top < 120 - box.height) != (2 * box.left < 200 - box.width);  // nearer the top, not the left
    flips += data::random_flip({7, data::flip_site, 3}, i);
  }
  CHECK(area > 0.35);  // 0.54 less what did not fit in height
  CHECK(area < 0.55);
  CHECK(places.size() > 1000);
  CHECK(std::abs(crossed - count / 2) < 120);
  CHECK(std::abs(flips - count / 2) < 120);
  CHECK(data::random_crop(120, 200, {}, key, 1) != data::random_crop(120, 200, {}, Key{7, data::crop_site, 4}, 1));
  CHECK(data::random_crop(1, 1000, {}, key, 0) == data::Box{0, 499, 1, 1});
  CHECK(data::random_crop(1000, 4, {1, 1, 1, 1}, key, 0) == data::Box{498, 0, 4, 4});
  for (const data::RandomCrop& bad : {data::RandomCrop{0, 1, 1, 1},
                                      {0.5, 0.2, 1, 1},
                                      {0.5, 1.2, 1, 1},
                                      {1, 1, 0, 1},
                                      {1, 1, 2, 1},
                                      {std::nan(""), 1, 1, 1}})
    CHECK(contains(message_of([&] { data::random_crop(9, 9, bad, key, 0); }), "random crop: expected 0 < min"));
  const data::Image image = noise(40, 30);
  const auto one = data::random_resized_crop(image, 16, 12, data::Resample::bicubic, {}, key, 5);
  CHECK(one.height() == 16);
  CHECK(one.width() == 12);
  CHECK(one == data::random_resized_crop(image, 16, 12, data::Resample::bicubic, {}, key, 5));
}

TEST_CASE("processors: whole pipelines as transformers has them") {
  const io::Safetensors decoded(golden + "/decoded.safetensors"), expected(golden + "/processed.safetensors");
  CHECK(expected.size() == 36);
  float worst = 0;
  for (const std::string& name : expected.names()) {
    INFO(name);
    const std::string folder = name.substr(0, name.find('.')), file = name.substr(name.find('.') + 1);
    const auto processor = data::ImageProcessor::read(golden + "/processors/" + folder);
    CHECK(!processor.defaults);
    const data::Image shaped = processor.shape(image_of(decoded.find(file)));
    std::vector<float> all(shaped.pixels().size());
    processor.pixel_map().write(shaped, all);
    const io::Entry& entry = expected.find(name);
    const auto height = static_cast<std::size_t>(shaped.height()), width = static_cast<std::size_t>(shaped.width());
    const std::size_t step = std::max(height, width) > 100 ? 7 : 1;
    std::vector<float> found;
    for (std::size_t plane = 0; plane < 3; ++plane)
      for (std::size_t y = 0; y < height; y += step)
        for (std::size_t x = 0; x < width; x += step) found.push_back(all[(plane * height + y) * width + x]);
    std::vector<float> want(found.size());
    io::copy_to<float>(entry, want);
    // What one level of 255 becomes, plus a hundredth of it.
    for (std::size_t i = 0; i < found.size(); ++i) {
      const std::size_t channel = i / (found.size() / 3);
      const float level = static_cast<float>(processor.do_rescale ? processor.rescale_factor : 1) /
                          (processor.do_normalize ? processor.deviation[channel] : 1);
      worst = std::max(worst, std::abs(found[i] - want[i]) / level);
    }
  }
  CHECK(worst <= 0.01f);
  MESSAGE("processors against transformers: largest difference in levels of 255: ", worst);
}

TEST_CASE("processors: options, defaults, errors") {
  const auto parse = [](const std::string& text) { return data::ImageProcessor::parse(text, "p.json"); };
  const auto wrong = [&](const std::string& text) { return message_of([&] { parse(text); }); };
  const Folder folder;
  const auto plain = data::ImageProcessor::read(folder.text());
  CHECK(plain.defaults);
  CHECK(plain.size == data::ImageSize{224, 224, 0});
  CHECK(plain.mean == std::array<float, 3>{0.5f, 0.5f, 0.5f});
  CHECK(plain.resample == data::Resample::bilinear);
  CHECK(contains(message_of([&] { data::ImageProcessor::read(folder.text() + "/none.json"); }), "cannot be opened"));
  const auto file = folder.put("preprocessor_config.json", "{\"size\": 0}");
  CHECK(message_of([&] { data::ImageProcessor::read(folder.text()); }, &folder) ==
        "preprocessor_config.json: size is 0, expected an integer from 1 to 16384");
  folder.put("large/preprocessor_config.json", std::string(2 << 20, ' '));
  CHECK(contains(message_of([&] { data::ImageProcessor::read(folder.text() + "/large"); }), "larger than the limit"));

  CHECK(parse("{\"size\": 9}").size == data::ImageSize{9, 9, 0});
  CHECK(parse("{\"size\": [9, 8]}").size == data::ImageSize{9, 8, 0});
  CHECK(parse("{\"image_processor_type\": \"BitImageProcessor\", \"size\": 9}").size == data::ImageSize{0, 0, 9});
  CHECK(parse("{\"image_mean\": 0.25}").mean == std::array<float, 3>{0.25f, 0.25f, 0.25f});
  CHECK(parse("{\"size\": null, \"future\": null}").size == data::ImageSize{224, 224, 0});

  // As transformers 4.57's fast processors write them: every attribute.
  const auto fast = [](const std::string& type, const std::string& square, const std::string& rest) {
    return "{\"image_processor_type\": \"" + type + "ImageProcessorFast\", \"default_to_square\": " + square +
           ", \"data_format\": \"channels_first\", \"device\": null, \"disable_grouping\": null, "
           "\"do_convert_rgb\": null, \"do_normalize\": true, \"do_pad\": null, "
           "\"do_rescale\": true, \"do_resize\": true, \"input_data_format\": null, \"pad_size\": null, "
           "\"rescale_factor\": 0.00392156862745098, \"return_tensors\": null, " +
           rest + "}";
  };
  const std::string
      vit = "\"crop_size\": null, \"do_center_crop\": null, \"image_mean\": 0.5, \"image_std\": 0.5, \"resample\": 2, ",
      bit =
          "\"image_mean\": [0.485, 0.456, 0.406], \"image_std\": [0.229, 0.224, 0.225], "
          "\"do_center_crop\": true, \"crop_size\": {\"height\": 28, \"width\": 28}, \"resample\": 3, ";
  const auto same = [](const data::ImageProcessor& a, const data::ImageProcessor& b) {
    const data::Image image = noise(40, 60);
    return a.size == b.size && a.type == b.type && a(image) == b(image);
  };
  CHECK(same(parse(fast("ViT", "true", vit + "\"size\": {\"height\": 32, \"width\": 32}")), parse("{\"size\": 32}")));
  CHECK(same(parse(fast("Bit", "false", bit + "\"size\": {\"shortest_edge\": 28}")),
             parse("{\"image_processor_type\": \"BitImageProcessor\", " + bit + "\"size\": 28}")));
  CHECK(parse("{\"default_to_square\": false, \"size\": 9}").size == data::ImageSize{0, 0, 9});
  CHECK(parse("{\"default_to_square\": null, \"size\": 9}").size == data::ImageSize{9, 9, 0});
  CHECK(parse("{\"size\": 9, \"default_to_square\": true, \"image_processor_type\": \"BitImageProcessor\"}").size ==
        data::ImageSize{9, 9, 0});
  CHECK(wrong("{\"default_to_square\": 1}") == "p.json: default_to_square is 1, expected true or false");
  const auto loose = parse("{\"size\": {\"shortest_edge\": 20}}");
  CHECK(!loose.fixed_size());
  CHECK(contains(message_of([&] { loose.output(); }), "images keep a size of their own"));
  CHECK(loose(noise(40, 60)).size() == 3 * 20 * 30);

  for (const auto& [given, message] : std::vector<std::pair<std::string, std::string>>{
           {"", "p.json: not JSON"},
           {"[]", "p.json: the file is an array of 0, expected an object"},
           {"{\"do_flip\": true}", "p.json: option `do_flip` is not supported by ViTImageProcessor"},
           {"{\"do_pad\": true}", "p.json: do_pad is true, expected false: padding is not supported"},
           {"{\"do_resize\": 1}", "p.json: do_resize is 1, expected true or false"},
           {"{\"image_processor_type\": \"CLIPImageProcessor\"}",
            "p.json: image_processor_type is \"CLIPImageProcessor\", expected ViTImageProcessor, DeiTImageProcessor, "
            "BitImageProcessor or ViTFeatureExtractor"},
           {"{\"image_processor_type\": \"BitImageProcessorX\"}", "p.json: image_processor_type is"},
           {"{\"resample\": 5}", "p.json: resample is 5, expected 0 (nearest), 1 (lanczos)"},
           {"{\"resample\": \"bilinear\"}", "p.json: resample is \"bilinear\", expected an integer from 0 to 5"},
           {"{\"size\": {\"longest_edge\": 5}}",
            "p.json: size is an object, expected height and width, or shortest_edge"},
           {"{\"size\": {\"shortest_edge\": 5, \"longest_edge\": 9}}",
            "found the keys `longest_edge`, `shortest_edge`"},
           {"{\"size\": {}}", "shortest_edge; found the keys of an empty object"},
           {"{\"size\": {\"height\": 1e99, \"width\": 5}}", "p.json: size.height is 1e+99, expected an integer"},
           {"{\"size\": {\"height\": 5, \"width\": -5}}", "p.json: size.width is -5, expected an integer"},
           {"{\"size\": [1, 2, 3]}", "p.json: size is an array of 3"},
           {"{\"size\": 18446744073709551615}", "p.json: size is 18446744073709551615, expected an integer"},
           {"{\"crop_size\": {\"shortest_edge\": 5}}", "p.json: crop_size is an object, expected height and width;"},
           {"{\"rescale_factor\": 0}", "p.json: rescale_factor is 0, expected a number above 0"},
           {"{\"image_std\": [1, 0, 1]}", "p.json: image_std[1] is 0, expected three numbers of at least 1e-6"},
           {"{\"image_mean\": [1, 0]}", "p.json: image_mean is an array of 2, expected three numbers"},
           {"{\"image_mean\": [1, 0, \"x\"]}", "p.json: image_mean[2] is \"x\""},
           {"{\"image_mean\": [1, 0, 1e300]}", "p.json: image_mean[2] is 1e+300"},
           {"{\"data_format\": \"channels_last\"}",
            "p.json: data_format is \"channels_last\", expected channels_first"},
       }) {
    const std::string text = given, said = wrong(given);
    CHECK_MESSAGE(contains(said, message), text, " said ", said);
  }
}

TEST_CASE("hostile files: cut anywhere, bytes changed, wrong, huge") {
  for (const char* name :
       {"rgb.png", "palette8.png", "interlaced_palette.png", "rgba16.png", "rough.jpg", "progressive.jpg", "cmyk.jpg",
        "held5.jpg", "held6.png", "bmp_rgb.bmp", "bmp_1.bmp", "bmp_565.bmp", "bmp_runs.bmp", "plain.gif", "moving.gif",
        "interlaced.gif", "lossy.webp", "held5.webp"}) {
    INFO(name);
    const std::string whole = read_file(golden + "/" + name);
    const bool png = std::string(name).ends_with(".png"), jpeg = std::string(name).ends_with(".jpg"),
               webp = std::string(name).ends_with(".webp");
    if (webp && !data::detail::reads_webp) continue;
    // What follows the pixels may be missing: a GIF's further images.
    const std::size_t needed = std::string(name).ends_with(".gif") ? whole.size() / 3 : whole.size();
    decode(whole);
    for (std::size_t size = 0; size < needed; size += 1 + size / 200) {
      INFO(size);
      const std::string message = message_of([&] { decode(whole.substr(0, size)); });
      CHECK(message.starts_with("x.img: "));
    }
    int errors = 0;
    constexpr int rounds = 400;
    for (std::uint32_t round = 0; round < rounds; ++round) {
      std::string bad = whole;
      const Key key{11, jpeg ? 1u : 0u, round};
      for (std::uint64_t i = 0; i < 1 + round % 3; ++i)
        bad[below(key, 2 * i, static_cast<std::uint32_t>(bad.size()))] ^=
            static_cast<char>(1 + below(key, 2 * i + 1, 255));
      const std::string message = message_of([&] { decode(bad, {.side = 4000, .pixels = 1000000}); });
      errors += message != "no error";
      CHECK((message == "no error" || message.starts_with("x.img: ")));
    }
    if (png || jpeg) CHECK(errors > (jpeg ? 10 : 200));  // PNG has checksums
  }

  CHECK(message_of([] { decode(""); }) == "x.img: is empty: expected an image");
  CHECK(message_of([] { decode("%PDF-1.4...."); }) ==
        "x.img: is neither JPEG, PNG, BMP, GIF nor WebP: it begins with `%PDF-1.4`");
  CHECK(contains(message_of([] { decode("\x89PNG\r\n"); }), "neither JPEG, PNG, BMP"));
  CHECK(message_of([] { decode("\x89PNG\r\n\x1a\n"); }) == "x.img: PNG: the file ends too early");
  CHECK(contains(message_of([] { decode("\xff\xd8"); }), "x.img: JPEG: "));
  CHECK(contains(message_of([] { decode("\xff\xd8\xff\xd9"); }), "x.img: JPEG: "));
  CHECK(contains(message_of([] { data::read_image("golden"); }), "golden: cannot be read"));
  CHECK(contains(message_of([] { data::read_image("none.png"); }), "none.png: cannot be opened"));
  CHECK(contains(message_of([] { data::read_image(golden + "/photo.png", {.bytes = 100}); }), "limit of 100 bytes"));
  CHECK(contains(message_of([] { decode(std::string(200, 'x'), {.bytes = 100}); }), "is 200 bytes, expected at most"));

  std::string huge = read_file(golden + "/rough.jpg");
  const std::size_t frame = huge.find("\xff\xc0");
  REQUIRE(frame != huge.npos);
  huge.replace(frame + 5, 4, "\xff\xdc\xff\xdc");  // 65500 x 65500
  CHECK(contains(message_of([&] { decode(huge); }), "x.img: is 65500 x 65500 pixels, expected sides up to 65500"));
  // A header that promises 2147483647 x 2147483647, its checksum right.
  std::string head("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0", 29);
  head += std::string("\x9b\xab\x9c\x31", 4);
  const std::string message = message_of([&] { decode(head + std::string("\0\0\0\0IDAT\x35\xaf\x06\x1e", 12)); });
  CHECK_MESSAGE(contains(message, "is 2147483647 x 2147483647 pixels"), message);
  CHECK(contains(message_of([] { data::read_image(golden + "/photo.png", {.side = 50}); }), "is 47 x 61 pixels"));
  CHECK(contains(message_of([] { data::read_image(golden + "/photo.png", {.pixels = 2866}); }), "at most 2866 pixels"));
  CHECK(data::read_image(golden + "/photo.png", {.pixels = 2867}).height() == 61);
}

TEST_CASE("decode: few bytes that claim many pixels take little memory") {
  const auto peak = [] {
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    return used.ru_maxrss / 1024;  // MiB
  };
  const auto big = [](std::uint32_t value) {
    std::string out;
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 255);
    return out;
  };
  const auto chunk = [&](const std::string& kind, const std::string& data) {
    std::uint32_t sum = ~0u;
    for (const char c : kind + data) {
      sum ^= static_cast<unsigned char>(c);
      for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0xEDB88320u : 0u);
    }
    return big(static_cast<std::uint32_t>(data.size())) + kind + data + big(~sum);
  };
  const auto png = [&](std::size_t garbage, char interlaced) {
    const std::string head = big(8192) + big(8192) + "\x08\x02" + std::string(2, '\0') + interlaced;
    return "\x89PNG\r\n\x1a\n" + chunk("IHDR", head) + chunk("IDAT", std::string(garbage, '\x55'));
  };
  std::string jpeg = read_file(golden + "/rough.jpg");
  const std::size_t frame = jpeg.find("\xff\xc0");
  REQUIRE(frame != jpeg.npos);
  jpeg.replace(frame + 5, 4, std::string("\x20\0\x20\0", 4));
  std::string gif = read_file(golden + "/plain.gif"), bmp = read_file(golden + "/bmp_runs.bmp");
  gif.replace(6, 4, std::string("\0\x20\0\x20", 4));
  const std::size_t image = gif.find(std::string("\x2c\0\0\0\0", 5));
  REQUIRE(image != gif.npos);
  gif.replace(image + 5, 4, std::string("\0\x20\0\x20", 4));
  bmp.replace(18, 8, std::string("\0\x20\0\0\0\x20\0\0", 8));
  const auto before = peak();
  for (const std::string& bytes : {png(0, 0), png(0, 1), png(400, 0), png(300000, 0), jpeg, gif, bmp}) {
    INFO(bytes.size());
    CHECK(message_of([&] { decode(bytes); }).starts_with("x.img: "));
  }
  CHECK(contains(message_of([&] { decode(png(0, 0)); }), "bytes cannot hold 8192 x 8192 pixels"));
  CHECK(peak() - before < 120);  // the pixels would be 192
}

TEST_CASE("decode: an image of more than a megabyte, row by row") {
  constexpr std::uint32_t height = 700, width = 801;
  const auto shade = [](std::size_t i) { return static_cast<char>((i * 2654435761u) >> 13 & 255); };
  const auto big = [](std::uint32_t value) {
    std::string out;
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 255);
    return out;
  };
  std::string raw;  // each row led by its filter: none
  for (std::size_t y = 0, i = 0; y < height; ++y) {
    raw += '\0';
    for (std::size_t x = 0; x < 3 * width; ++x) raw += shade(i++);
  }
  std::uint32_t a = 1, b = 0;
  for (const char c : raw) a = (a + static_cast<unsigned char>(c)) % 65521, b = (b + a) % 65521;
  std::string packed = "\x78\x01";  // stored blocks
  for (std::size_t at = 0; at < raw.size(); at += 65535) {
    const std::size_t size = std::min<std::size_t>(65535, raw.size() - at);
    packed += static_cast<char>(at + size == raw.size());
    for (const std::size_t n : {size, ~size}) packed += {static_cast<char>(n & 255), static_cast<char>(n >> 8 & 255)};
    packed += raw.substr(at, size);
  }
  packed += big(b << 16 | a);
  const auto chunk = [&](const std::string& kind, const std::string& data) {
    std::uint32_t sum = ~0u;
    for (const char c : kind + data) {
      sum ^= static_cast<unsigned char>(c);
      for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0xEDB88320u : 0u);
    }
    return big(static_cast<std::uint32_t>(data.size())) + kind + data + big(~sum);
  };
  const std::string head = big(width) + big(height) + std::string("\x08\x02\0\0\0", 5);
  const data::Image image =
      decode("\x89PNG\r\n\x1a\n" + chunk("IHDR", head) + chunk("IDAT", packed) + chunk("IEND", ""));
  REQUIRE(image.height() == height);
  REQUIRE(image.width() == width);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < image.pixels().size(); ++i)
    wrong += image.pixels()[i] != static_cast<std::uint8_t>(shade(i));
  CHECK(wrong == 0);
}

TEST_CASE("decode: the orientation's entry, in every type and broken") {
  const auto exif = [](std::uint8_t type, std::uint8_t value, const std::string& tag = "\x12\x01") {
    return "II*\0\x08\0\0\0\x01\0"s + tag + std::string(1, static_cast<char>(type)) + "\0\x01\0\0\0"s +
           std::string(1, static_cast<char>(value)) + "\0\0\0\0\0\0\0"s;
  };
  const auto found = [](const std::string& bytes) {
    const std::vector<std::uint8_t> copy(bytes.begin(), bytes.end());
    return data::detail::exif_orientation(copy);
  };
  for (const std::uint8_t type : {1, 3, 4}) CHECK(found(exif(type, 6)) == 6);
  CHECK(found("Exif\0\0"s + exif(3, 8)) == 8);
  CHECK(found(exif(5, 6)) == 1);
  CHECK(found(exif(3, 0)) == 1);
  CHECK(found(exif(3, 9)) == 1);
  CHECK(found(exif(3, 6, "\x13\x01")) == 0);
  CHECK(found("XX*\0") == 0);
  const std::string whole = exif(3, 6);
  for (std::size_t size = 0; size < 19; ++size) CHECK(found(whole.substr(0, size)) <= 1);
  const auto xmp = [](const std::string& bytes) {
    const std::vector<std::uint8_t> copy(bytes.begin(), bytes.end());
    return data::detail::xmp_orientation(copy);
  };
  CHECK(xmp("a tiff:Orientation=\"6\" b") == 6);
  CHECK(xmp("<tiff:Orientation>3</tiff:Orientation>") == 3);
  CHECK(xmp("tiff:Orientation tiff:Orientation=\"9\"") == 1);
  CHECK(xmp("Orientation=\"6\"") == 0);
}

TEST_CASE("decode: a PNG is turned as its texts say: an EXIF profile, or else XMP") {
  const std::string png = read_file(golden + "/rgb.png");
  const auto crc = [](const std::string& bytes) {
    std::uint32_t out = ~0u;
    for (const char c : bytes) {
      out ^= static_cast<unsigned char>(c);
      for (int bit = 0; bit < 8; ++bit) out = out >> 1 ^ (out & 1 ? 0xEDB88320u : 0);
    }
    return ~out;
  };
  const auto big = [](std::uint32_t x) {
    std::string out;
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(x >> shift & 0xFF);
    return out;
  };
  const auto with = [&](const std::string& kind, const std::string& data) {
    const std::string chunk = kind + data;
    return png.substr(0, 33) + big(static_cast<std::uint32_t>(data.size())) + chunk + big(crc(chunk)) + png.substr(33);
  };
  const auto turned = [&](int way) { return data::detail::upright(decode(png), way); };
  const auto profile = [](char value) {
    return "Raw profile type exif\0\nexif\n      26\n49492a0008000000010012010300010000\n000"s + value +
           "0000000000000000\n";
  };
  REQUIRE(turned(6) != decode(png));
  CHECK(decode(with("tEXt", profile('6'))) == turned(6));
  CHECK(decode(with("tEXt", profile('3'))) == turned(3));
  CHECK(decode(with("tEXt", profile('x'))) == decode(png));  // no digits: no profile
  CHECK(decode(with("tEXt", "Raw profile type exif\0"s)) == decode(png));
  const std::string xmp = "XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation=\"8\"/>"s;
  CHECK(decode(with("iTXt", xmp)) == turned(8));
  CHECK(decode(with("tEXt", "Comment\0tiff:Orientation=\"8\""s)) == decode(png));
}

TEST_CASE("data sets: broken images are found before training, odd but whole ones are not broken") {
  const std::string jpg = read_file(golden + "/420.jpg"), png = read_file(golden + "/rgb.png"),
                    gif = read_file(golden + "/plain.gif"), bmp = read_file(golden + "/bmp_rgb.bmp");
  const Folder folder;
  const auto error = [&] { return message_of([&] { data::load_images(folder.text()); }, &folder); };
  for (const char* name : {"train/a/0.jpg", "train/a/1.jpg", "train/b/0.jpg", "val/a/0.jpg", "val/b/0.jpg"})
    folder.put(name, jpg);
  folder.put("train/b/1.png", png);
  folder.put("train/b/2.gif", gif);
  folder.put("train/b/3.bmp", bmp);
  CHECK(error() == "no error");
  folder.put("train/b/4.jpg", jpg + "camera's notes");  // behind the end
  folder.put("train/b/5.png", png + std::string(100, '\0'));
  folder.put("train/b/6.gif", gif + "x");
  CHECK(error() == "no error");
  for (const auto& [name, bytes] :
       std::vector<std::pair<std::string, std::string>>{{"val/b/1.jpg", jpg.substr(0, jpg.size() * 2 / 3)},
                                                        {"val/b/1.jpg", jpg.substr(0, jpg.size() - 2)},
                                                        {"train/a/2.png", png.substr(0, png.size() - 5)},
                                                        {"train/a/2.png", png.substr(0, 40)},
                                                        {"train/a/2.gif", gif.substr(0, gif.size() / 2)},
                                                        {"train/a/2.bmp", bmp.substr(0, bmp.size() - 1)},
                                                        {"train/a/2.jpg", ""},
                                                        {"train/a/2.jpg", "<html>not found</html> and more text"}}) {
    folder.put(name, bytes);
    const std::string said = error();
    CHECK_MESSAGE(contains(said, ": 1 of "), said);
    CHECK_MESSAGE(contains(said, " images is broken: " + name + ": "), said);
    CHECK_MESSAGE(contains(said, "Mend or delete it and start again"), said);
    fs::remove(folder.path / name);
  }
  for (int i = 0; i < 12; ++i) folder.put("val/a/x" + std::to_string(i) + ".jpg", jpg.substr(0, 300));
  CHECK(contains(error(), ": 12 of "));
  CHECK(contains(error(), "; .... Mend or delete them"));
  CHECK(message_of([&] { data::load_images(folder.text(), {.check = false}); }) == "no error");
}

TEST_CASE("data sets: splits of images by all their names, classes beside split folders") {
  const std::string png = read_file(golden + "/rgb.png");
  for (const char* dev : {"val", "valid", "validation", "dev", "eval", "Validation"}) {
    const Folder folder;
    for (const std::string& part : {"train"s, std::string(dev), "test"s})
      for (const char* name : {"/a/0.png", "/b/0.png"}) folder.put(part + name, png);
    folder.put("train/a/1.png", png);
    const auto data = data::load_images(folder.text());
    CHECK(data.train.size() == 3);
    CHECK(data.dev.size() == 2);
    CHECK(data.test.size() == 2);
    CHECK_FALSE(data.held_out);
    CHECK(data.splits.text() == "train `train/`; dev `"s + dev + "/`; test `test/`");
  }
  const Folder flat;  // without train/, what holds class folders is a split and what holds images a class
  for (const char* name : {"a/0.png", "a/1.png", "valid/0.png", "valid/1.png", "test/a/0.png", "test/valid/1.png"})
    flat.put(name, png);
  const auto data = data::load_images(flat.text());
  CHECK(data.label_names == std::vector<std::string>{"a", "valid"});
  CHECK(data.train.size() == 3);
  CHECK(data.held_out);
  CHECK(data.test.size() == 2);

  // Images of splits without class folders have no labels; a class may be called train all the same.
  for (const auto& [train, test] : {std::pair("train", "test"), {"Training", "val"}, {"train_images", "test-images"}}) {
    const Folder bare;
    for (const char* name : {"/0.png", "/1.png"})
      for (const char* part : {train, test}) bare.put(part + std::string(name), png);
    bare.put("other/0.png", png);
    CHECK(contains(message_of([&] { data::load_images(bare.text()); }, &bare),
                   std::string(train) + "/: holds images, not class folders"));
  }
  const Folder vehicles;
  for (const char* name : {"bus/0.png", "bus/1.png", "train/0.png", "test/bus/0.png", "test/train/0.png"})
    vehicles.put(name, png);
  CHECK(data::load_images(vehicles.text()).label_names == std::vector<std::string>{"bus", "train"});
}

TEST_CASE("data sets: folders of classes") {
  const std::string png = read_file(golden + "/rgb.png"), jpg = read_file(golden + "/420.jpg");
  const Folder folder;
  for (const char* name : {"train/dog/b.JPG", "train/dog/a.jpeg", "train/Cat/1.jpg", "val/dog/x.jpg", "test/dog/y.jpg"})
    folder.put(name, jpg);
  folder.put("train/Cat/2.png", png);
  folder.put("train/.hidden/2.png", png);
  folder.put("train/Cat/.thumbs", "x");
  folder.put("train/readme.txt", "x");
  auto data = data::load_images(folder.text());
  CHECK(data.label_names == std::vector<std::string>{"Cat", "dog"});
  REQUIRE(data.train.size() == 4);
  REQUIRE(data.dev.size() == 1);
  CHECK(!data.held_out);
  CHECK(data.files[data.train[2].file] == folder.text() + "/train/dog/a.jpeg");
  CHECK(data.train[2].label == 1);
  CHECK(contains(data.files[data.dev[0].file], "/val/dog/x.jpg"));
  CHECK(data.image(data.train[1]) == data::read_image(golden + "/rgb.png"));
  CHECK(data.skipped == std::vector<std::string>{"train/readme.txt"});
  CHECK(data.splits.text() == "train `train/`; dev `val/`; test `test/`");
  CHECK(data::class_counts(data.train, 2) == std::vector<std::size_t>{2, 2});
  REQUIRE(data.test.size() == 1);
  CHECK(contains(data.files[data.test[0].file], "/test/dog/y.jpg"));
  fs::remove_all(folder.path / "val");
  const auto no_val = data::load_images(folder.text());  // test never is dev
  CHECK(no_val.held_out);
  CHECK(no_val.dev.size() == 1);
  CHECK(no_val.test.size() == 1);

  const auto error = [&] { return message_of([&] { data::load_images(folder.text()); }, &folder); };
  folder.put("test/bird/x.png", png);
  CHECK(error() == "test: class `bird` has no training images");
  fs::remove_all(folder.path / "test");
  for (int i = 0; i < 16; ++i) folder.put("train/dog/" + std::to_string(i) + ".png", png);
  data = data::load_images(folder.text());
  CHECK(data.held_out);
  CHECK(data.dev.size() == 2);
  CHECK(data.train.size() == 18);
  const auto files_of = [](const std::vector<data::ImageExample>& split) {
    std::vector<std::uint32_t> files;
    for (const auto& example : split) files.push_back(example.file);
    return files;
  };
  CHECK(files_of(data.dev) == files_of(data::load_images(folder.text()).dev));
  CHECK(files_of(data.dev) != files_of(data::load_images(folder.text(), {.split_seed = 5}).dev));
  CHECK(data::load_images(folder.text() + "/train").train.size() == 18);  // the class folders themselves

  folder.put("train/dog/Thumbs.db", "x");
  folder.put("train/dog/list.txt", "x");
  fs::create_directories(folder.path / "train/dog/deep");
  fs::create_directories(folder.path / "train/emu");
  data = data::load_images(folder.text());
  CHECK(data.train.size() + data.dev.size() == 20);
  CHECK(data.label_names == std::vector<std::string>{"Cat", "dog"});
  CHECK(data.skipped ==
        std::vector<std::string>{"dog/Thumbs.db", "dog/deep/", "dog/list.txt", "train/emu/", "train/readme.txt"});
  folder.put("train/dog/scan.TIF", "II*");
  CHECK(contains(error(), "train/dog/scan.TIF: images of this kind are not read: convert it to JPEG"));
  fs::remove_all(folder.path / "train/dog");
  fs::remove_all(folder.path / "train/emu");
  CHECK(contains(error(), "train: expected at least two class folders with images, found 1"));
  CHECK(contains(message_of([] { data::load_images("none"); }), "none: expected a folder"));
  CHECK(contains(message_of([&] { data.image({.file = 1000}); }), "another data set"));
  folder.put("train/Cat/1.jpg", "GIF");
  CHECK(message_of([&] { data.image(data.train[0]); }, &folder) ==
        "train/Cat/1.jpg: is neither JPEG, PNG, BMP, GIF nor WebP: it begins with `GIF`");
}

TEST_CASE("data sets: CIFAR-10") {
  const Folder folder;
  folder.put("data_batch_1.bin", cifar({0, 9, 3}));
  folder.put("data_batch_2.bin", cifar({1}));
  folder.put("test_batch.bin", cifar({2, 2}));
  auto data = data::load_images(folder.text());
  REQUIRE(data.test.size() == 2);
  CHECK(data.held_out);
  folder.put("val.bin", cifar({7}));
  data = data::load_images(folder.text());
  CHECK(data.splits.text() == "train `data_batch_1.bin`, `data_batch_2.bin`; dev `val.bin`; test `test_batch.bin`");
  REQUIRE(data.train.size() == 4);
  REQUIRE(data.dev.size() == 1);
  CHECK(data.label_names[9] == "truck");
  CHECK(data.train[1].label == 9);
  CHECK(data.train[3].label == 1);
  const data::Image image = data.image(data.train[2]);
  CHECK(image.height() == 32);
  CHECK(image.row(0)[0] == 2);                      // red of the third record
  CHECK(image.row(1)[4] == (1024 + 33 + 2) % 251);  // green at (1, 1)
  CHECK(image.row(31)[95] == (3071 + 2) % 251);
  folder.put("classes.txt", "a\r\nb\nc\nd\ne\nf\ng\nh\ni\nj");
  data = data::load_images(folder.text());
  CHECK(data.label_names[0] == "a");
  CHECK(data.label_names[9] == "j");
  folder.put("classes.txt", "a\nb\n");
  const auto error = [&] { return message_of([&] { data::load_images(folder.text()); }, &folder); };
  CHECK(error() == "classes.txt: expected the names of 10 classes, found 2");
  fs::remove(folder.path / "classes.txt");

  folder.put("data_batch_1.bin", cifar({0, 9, 3, 4}).substr(0, 2 * 3073 + 100));
  CHECK(error() ==
        "data_batch_1.bin: ends within record 3, at byte 6246: expected records of 3073 bytes (label, 32 x 32 x 3 "
        "pixels)");
  CHECK(message_of([&] { data.image(data.train[2]); }, &folder) ==
        "data_batch_1.bin: at byte 6146: the file has become shorter");
  folder.put("data_batch_1.bin", "");
  CHECK(contains(error(), "data_batch_1.bin: ends within record 1, at byte 0"));
  folder.put("data_batch_1.bin", cifar({0, 10}));
  CHECK(error() == "data_batch_1.bin: record 2, at byte 3073: expected a label from 0 to 9, found 10");
  const auto single = folder.put("mine.bin", cifar(std::vector<int>(20, 5)));
  CHECK(data::load_images(single).dev.size() == 2);
  CHECK(contains(message_of([&] { data::load_images(folder.put("one.bin", cifar({1}))); }), "at least 2 rows"));

  if (const char* shared = std::getenv("MEFT_SHARED"); shared && fs::exists(fs::path(shared) / "data/cifar10")) {
    data = data::load_images((fs::path(shared) / "data/cifar10").string());
    CHECK(data.train.size() == 4500);
    CHECK(data.dev.size() == 500);
    CHECK(data.test.size() == 1000);
    CHECK(data.label_names[6] == "frog");
    std::set<std::uint32_t> labels;
    for (const auto& example : data.train) labels.insert(example.label);
    CHECK(labels.size() == 10);
    CHECK(data.image(data.test[999]).width() == 32);
  } else {
    MESSAGE("skipped: CIFAR-10 itself: no data/cifar10 (MEFT_SHARED)");
  }
}

TEST_CASE("data sets: MNIST as CSV") {
  const Folder folder;
  const auto rows = digit("3", "200") + "\n" + digit("9", "0") + "\r\n" + digit("0", "255");
  folder.put("mnist_train.csv", rows);
  folder.put("mnist_dev.csv", digit("label", "pixel") + "\r\n" + rows + "\r\n\n\n");
  const auto data = data::load_images(folder.text());
  CHECK(data.label_names.size() == 10);
  REQUIRE(data.train.size() == 3);
  REQUIRE(data.dev.size() == 3);
  for (const auto* split : {&data.train, &data.dev}) {
    CHECK((*split)[0].label == 3);
    CHECK((*split)[1].label == 9);
    const data::Image image = data.image((*split)[2]);
    CHECK(image.width() == 28);
    CHECK(image.row(0)[15] == 255);
    CHECK(image.row(0)[17] == 255);
    CHECK(image.row(27)[83] == 783 % 256);
  }
  const auto error = [&](const std::string& bytes) {
    const auto file = folder.put("t.csv", bytes);
    return message_of([&] { data::load_images(file); }, &folder);
  };
  CHECK(contains(error(digit("3", "0") + "\n" + digit("3", "0", 783) + "\n"),
                 "t.csv:2: expected 785 columns (label and 784 pixels, separated by commas), found 784: `3,0,1,2"));
  CHECK(error(digit("3", "0") + "\n" + digit("10", "0")) ==
        "t.csv:2: column 1: expected a label from 0 to 9, found `10`");
  CHECK(error(digit("3", "0") + "\n\n" + digit("1", "0")) == "t.csv:2: the line is blank");
  for (const char* pixel : {"256", "-1", "1.5", "", " 1", "x", "9999999999999999999999"})
    CHECK(error(digit("3", "0") + "\r\n" + digit("1", pixel) + "\r\n") ==
          "t.csv:2: column 7: expected a pixel from 0 to 255, found `" + std::string(pixel) + "`");
  CHECK(contains(error(digit("label", "x", 783)), "t.csv:1: expected a header of 785 columns"));
  CHECK(contains(error(digit("label", "x") + "\n"), "t.csv: has no rows"));
  CHECK(contains(error(""), "t.csv: has no rows"));
  CHECK(contains(error(digit("3", "0") + "\n" + std::string(100000, '1')), "t.csv:2: the line is longer than"));
  const std::string good = digit("3", "77") + "\n" + digit("4", "78") + "\n";
  for (std::size_t size = 0; size < good.size(); size += 97)
    CHECK(contains(error(good.substr(0, size)), "t.csv"));  // also a single row, which cannot be split
  folder.put("mnist_train.csv", digit("3", "x") + "\n" + rows);
  CHECK(contains(message_of([&] { data.image(data.train[0]); }, &folder), "mnist_train.csv: at byte 0: "));
}

TEST_CASE("what is no regular file is refused, not waited for") {
  const Folder folder;
  const auto refused = [&](const std::string& name, auto&& read, bool directory = true) {
    test::refuses_odd_files(folder / name, read, directory);
  };
  const std::string at = folder.text() + "/";
  refused("a.png", [&] { data::read_image(at + "a.png"); });
  refused(
      "train.csv", [&] { data::load_images(at + "train.csv"); }, false);
  refused(
      "train.bin", [&] { data::load_images(at + "train.bin"); }, false);
  refused("train.bin", [&] { data::load_images(folder.text()); });
  refused("preprocessor_config.json", [&] { data::ImageProcessor::read(folder.text()); });
  folder.put("train.bin", std::string(2 * 3073, '\1'));
  refused("classes.txt", [&] { data::load_images(folder.text()); });
  refused("test_batch.bin", [&] { data::load_images(folder.text()); });
}

TEST_CASE("inputs: images of a folder at any depth, of a file, of records") {
  const std::string png = read_file(golden + "/rgb.png");
  const Folder folder;
  for (const char* name : {"some/b.png", "some/a/z.PNG", "some/a/c/1.png"}) folder.put(name, png);
  for (const char* name : {"some/notes.txt", "some/a/list.txt", "some/a/c/2"}) folder.put(name, "x");
  const auto found = data::image_inputs(folder.text() + "/some");
  CHECK(found.names == std::vector<std::string>{"a/c/1.png", "a/z.PNG", "b.png"});
  CHECK(found.skipped == 3);
  REQUIRE(found.data.train.size() == 3);
  CHECK(found.data.image(found.data.train[2]) == data::read_image(golden + "/rgb.png"));
  const auto one = data::image_inputs(folder.text() + "/some/b.png");
  CHECK(one.names == std::vector<std::string>{"b.png"});
  CHECK(one.data.train.size() == 1);
  fs::create_directory_symlink(".", folder.path / "some/a/loop");
  fs::create_directory_symlink("../..", folder.path / "some/a/c/loop");
  fs::create_directory_symlink("a/c", folder.path / "some/z");  // which is another place for the same
  CHECK(data::image_inputs(folder.text() + "/some").names ==
        std::vector<std::string>{"a/c/1.png", "a/z.PNG", "b.png", "z/1.png"});
  for (const char* link : {"some/a/loop", "some/a/c/loop", "some/z"}) fs::remove(folder.path / link);
  const auto records = data::image_inputs(folder.put("x.bin", cifar({9, 4, 0})));
  CHECK(records.names == std::vector<std::string>{"1", "2", "3"});
  CHECK(records.data.image(records.data.train[2]).row(0)[0] == 2);
  CHECK(data::image_inputs(folder.put("x.csv", digit("3", "7") + "\n" + digit("1", "7") + "\n")).names ==
        std::vector<std::string>{"1", "2"});

  const auto error = [&](const std::string& path) {
    return message_of([&] { data::image_inputs(folder.text() + "/" + path); }, &folder);
  };
  fs::create_directories(folder.path / "empty/inner");
  CHECK(error("empty") == "empty: holds no images");
  CHECK(error("some/notes.txt") ==
        "some/notes.txt: is neither a folder, an image, a CIFAR-10 file .bin nor an MNIST file .csv");
  folder.put("some/a/y.png", png.substr(0, png.size() / 2));
  CHECK(contains(error("some"), "some: 1 of 4 images is broken: a/y.png: "));
  CHECK(contains(error("some/a/y.png"), "1 of 1 images is broken: "));
  folder.put("some/a/scan.tiff", "II*");
  CHECK(contains(error("some"), "some/a/scan.tiff: images of this kind are not read"));
}

TEST_CASE("processors: images vary by seed and epoch, in what is cropped and in what is flipped") {
  data::ImageProcessor processor;
  processor.size = {16, 16, 0};
  const data::Image image = noise(16, 16);
  const data::RandomCrop whole{1, 1, 1, 1};
  const auto varied = [&](const data::RandomCrop& crop, bool flip, std::uint64_t seed, std::uint32_t epoch) {
    std::vector<data::Image> out;
    for (std::uint64_t i = 0; i < 16; ++i)
      out.push_back(processor.vary(image, {.crop = crop, .flip = flip, .seed = seed, .epoch = epoch}, i));
    return out;
  };
  for (const auto& one : varied(whole, false, 1, 2)) CHECK(one == image);
  int flipped = 0;
  for (const auto& one : varied(whole, true, 1, 2)) {
    CHECK((one == image || one == data::flip(image)));
    flipped += one != image;
  }
  CHECK((flipped > 2 && flipped < 14));
  for (const bool flip : {true, false}) {
    const data::RandomCrop crop = flip ? whole : data::RandomCrop{};
    CHECK(varied(crop, flip, 1, 2) == varied(crop, flip, 1, 2));
    CHECK(varied(crop, flip, 1, 2) != varied(crop, flip, 1, 3));
    CHECK(varied(crop, flip, 1, 2) != varied(crop, flip, 0, 2));
  }
}

TEST_CASE("batches: images ready for a model, the same on any number of threads") {
  const Folder folder;
  folder.put("train.bin", cifar({1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2}));
  const auto data = data::load_images(folder.text());
  data::ImageProcessor processor;
  processor.size = {10, 12, 0};
  const std::vector<std::uint32_t> both = {4, 0};
  const auto batch = data::image_batch(data, data.train, both, processor);
  CHECK(batch.height == 10);
  CHECK(batch.width == 12);
  CHECK(batch.labels.size() == 2);
  CHECK(batch.labels[1] == static_cast<std::int32_t>(data.train[0].label));
  const auto alone = processor(data.image(data.train[0]));
  std::vector<float> pixels(2 * 360);
  batch.write(pixels);
  CHECK(std::equal(alone.begin(), alone.end(), pixels.begin() + 360));
  CHECK(
      contains(message_of([&] { batch.write(std::span(pixels).first(719)); }), "image batch: the output does not fit"));
  CHECK(contains(message_of([&] { data::image_batch(data, data.dev, both, processor); }), "no such example"));

  // What an image cannot be shaped into is told by its file.
  auto large = processor;
  large.size = {0, 0, 1 << 20}, large.crop_size = {8, 8, 0}, large.do_center_crop = true;
  CHECK(contains(message_of([&] { data::image_batch(data, data.train, both, large); }, &folder),
                 "train.bin: image: expected sides"));

  const auto order = data::batches(std::vector<std::uint32_t>(data.train.size(), 1), 3, 1, 0, true);
  std::vector<data::ImageBatch> first;
  for (const int threads : {0, 1, 2, 5}) {
    data::Prefetch<data::ImageBatch> ahead(order.size(),
                                           [&](std::size_t i, const std::atomic<bool>& stop) {
                                             return data::image_batch(data, data.train, order[i], processor,
                                                                      data::Augment{.seed = 3, .epoch = 2}, &stop);
                                           },
                                           {.threads = threads, .ahead = 3});
    std::vector<data::ImageBatch> all;
    while (auto one = ahead.next()) all.push_back(std::move(*one));
    REQUIRE(all.size() == order.size());
    if (first.empty()) first = all;
    for (std::size_t i = 0; i < all.size(); ++i) {
      CHECK(all[i].examples == order[i]);
      CHECK(all[i].images == first[i].images);
      CHECK(all[i].labels == first[i].labels);
    }
  }
  CHECK(first[0].images != data::image_batch(data, data.train, order[0], processor, data::Augment{.seed = 4}).images);
}

TEST_CASE("image sets: varied anew in each epoch, the same in the same one; those without are as they are") {
  const Folder folder;
  folder.put("train.bin", cifar({1, 2, 3, 4, 5, 6, 7, 8}));
  const auto data = data::load_images(folder.text());
  data::ImageProcessor processor;
  processor.size = {10, 12, 0};
  const auto images = [&](const task::ImageSet& set, std::uint32_t epoch) {
    const std::vector<std::vector<std::uint32_t>> batches{{0, 1}, {2, 0}};
    set.expect(batches, epoch);
    std::vector<float> out;
    for (const auto& rows : batches) {
      const auto pixels = task::batch_of(set, rows).pixels.values();
      out.insert(out.end(), pixels.begin(), pixels.end());
    }
    return out;
  };
  const task::ImageSet varied(data, data.train, processor, data::Augment{.seed = 3}),
      plain(data, data.train, processor);
  const auto first = images(varied, 0), second = images(varied, 1);
  CHECK(first != second);
  CHECK(images(varied, 0) == first);
  CHECK(images(plain, 0) == images(plain, 1));
  CHECK(images(plain, 0) != first);
}

TEST_CASE("prefetch: order, bounds, errors, early ends") {
  using Numbers = data::Prefetch<std::size_t>;
  using namespace std::chrono_literals;
  for (const int threads : {0, 1, 2, 4}) {
    std::atomic<std::size_t> begun{0}, taken{0}, most{0};
    Numbers ahead(200,
                  [&](std::size_t i, const std::atomic<bool>&) {
                    const std::size_t now = ++begun - taken;
                    for (std::size_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) continue;
                    if (i % 7 == 3) std::this_thread::sleep_for(200us);
                    return i * i;
                  },
                  {.threads = threads, .ahead = 4});
    CHECK(ahead.count() == 200);
    for (std::size_t i = 0; i < 200; ++i) {
      const auto value = ahead.next();
      REQUIRE(value);
      CHECK(*value == i * i);
      ++taken;
    }
    CHECK(!ahead.next());
    CHECK(!ahead.next());
    CHECK(begun == 200);
    CHECK(most <= 5);  // 4, and the one that next() has just given
  }

  for (const int threads : {0, 1, 3}) {
    Numbers failing(50,
                    [](std::size_t i, const std::atomic<bool>&) {
                      if (i == 5) fail("number", i);
                      if (i > 5) throw std::runtime_error("later");
                      if (i == 4) std::this_thread::sleep_for(2ms);
                      return i;
                    },
                    {.threads = threads, .ahead = 8});
    for (std::size_t i = 0; i < 5; ++i) CHECK(*failing.next() == i);
    CHECK(message_of([&] { failing.next(); }) == "number: 5");
    CHECK(message_of([&] { failing.next(); }) == "number: 5");
  }

  for (const int threads : {1, 4})
    for (int round = 0; round < 20; ++round) {
      Numbers dropped(1000,
                      [](std::size_t i, const std::atomic<bool>& stop) {
                        for (int wait = 0; wait < 1000 && i > 2 && !stop; ++wait) std::this_thread::sleep_for(50us);
                        return i;
                      },
                      {.threads = threads, .ahead = 6});
      for (int i = 0; i < round % 3; ++i) CHECK(dropped.next());
    }
  {
    Numbers endless(4,  // unless its end tells it to stop
                    [](std::size_t i, const std::atomic<bool>& stop) {
                      while (!stop) std::this_thread::sleep_for(100us);
                      return i;
                    },
                    {.threads = 2, .ahead = 2});
  }

  CHECK(!Numbers(0, [](std::size_t i, const std::atomic<bool>&) { return i; }).next());
  CHECK(contains(message_of([] { Numbers(1, nullptr); }), "nothing to call"));
  const auto make = [](std::size_t i, const std::atomic<bool>&) { return i; };
  CHECK(contains(message_of([&] { Numbers(1, make, {.ahead = 0}); }), "at least 1 ahead"));
  CHECK(contains(message_of([&] { Numbers(1, make, {.threads = -1}); }), "at least 0 threads"));
}
