// Owns: JPEG and PNG files turned into images, by libjpeg-turbo and libpng. The only header that needs them.
// A file is told by its first bytes, not its name. Must not know folders, labels or processors.
#pragma once

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <jpeglib.h>
// jerror.h needs jpeglib.h before it.
#include <jerror.h>
#include <png.h>

#include <meft/base/error.hpp>
#include <meft/data/image.hpp>
#include <meft/data/table.hpp>

namespace meft::data {

/// What is decoded at most: the sides and pixels are checked before memory is taken for them.
struct DecodeLimits {
  int side = 65500;
  std::int64_t pixels = max_image_pixels;
  std::size_t bytes = std::size_t{256} << 20;  // of the file
};

namespace detail {

/// Calls `step`, out of which C code may jump to `place`; false when it did. Nothing in `step` may have a destructor.
template <class Step>
[[gnu::noinline]] bool without_jump(std::jmp_buf& place, const Step& step) {
  if (setjmp(place) != 0) return false;
  step();
  return true;
}

inline void check_size(std::uint32_t height, std::uint32_t width, const DecodeLimits& limits, const std::string& name) {
  const auto side = static_cast<std::uint32_t>(std::max(limits.side, 1));
  if (height == 0 || width == 0 || height > side || width > side ||
      static_cast<std::int64_t>(std::uint64_t{height} * width) > std::min(limits.pixels, max_image_pixels))
    fail(name + ": is " + std::to_string(width) + " x " + std::to_string(height) + " pixels, expected sides up to " +
         std::to_string(side) + " and at most " + std::to_string(limits.pixels) + " pixels");
}

/// libpng's reader and what its callbacks need. It lives outside of the code that is jumped out of.
struct PngReader {
  std::span<const std::uint8_t> bytes;
  std::size_t used = 0;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::jmp_buf place;
  std::array<char, 200> message{};

  explicit PngReader(std::span<const std::uint8_t> from) : bytes(from) {
    const bool made = without_jump(place, [this] {
      png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &failed, [](png_structp, png_const_charp) {});
      if (png) info = png_create_info_struct(png);
    });
    if (!made || !info) {
      png_destroy_read_struct(&png, nullptr, nullptr);
      fail("png: libpng cannot be started");
    }
  }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }

  [[noreturn]] static void failed(png_structp png, png_const_charp text) {
    auto& self = *static_cast<PngReader*>(png_get_error_ptr(png));
    std::snprintf(self.message.data(), self.message.size(), "%s", text);
    std::longjmp(self.place, 1);
  }

  static void read(png_structp png, png_bytep to, std::size_t size) {
    auto& self = *static_cast<PngReader*>(png_get_io_ptr(png));
    if (size > self.bytes.size() - self.used) png_error(png, "the file ends too early");
    std::memcpy(to, self.bytes.data() + self.used, size);
    self.used += size;
  }
};

inline Image decode_png(std::span<const std::uint8_t> bytes, const std::string& name, const DecodeLimits& limits) {
  PngReader reader(bytes);
  const auto check = [&](bool done) {
    if (!done) fail(name + ": PNG: " + reader.message.data());
  };
  check(without_jump(reader.place, [&reader] {
    constexpr png_uint_32 largest = 0x7fffffff;
    png_set_user_limits(reader.png, largest, largest);  // check_size has the better message
    png_set_read_fn(reader.png, &reader, &PngReader::read);
    png_read_info(reader.png, reader.info);
  }));
  const png_uint_32 height = png_get_image_height(reader.png, reader.info),
                    width = png_get_image_width(reader.png, reader.info);
  check_size(height, width, limits, name);
  Image image(static_cast<int>(height), static_cast<int>(width));
  std::vector<png_bytep> rows(height);
  for (png_uint_32 y = 0; y < height; ++y) rows[y] = image.row(static_cast<int>(y));
  check(without_jump(reader.place, [&reader, &rows, &image] {
    png_set_strip_16(reader.png);
    png_set_palette_to_rgb(reader.png);
    png_set_expand_gray_1_2_4_to_8(reader.png);
    png_set_gray_to_rgb(reader.png);
    png_set_strip_alpha(reader.png);
    png_set_interlace_handling(reader.png);
    png_read_update_info(reader.png, reader.info);
    if (png_get_rowbytes(reader.png, reader.info) != image.row_bytes())
      png_error(reader.png, "the pixels do not turn into 8-bit RGB");
    png_read_image(reader.png, rows.data());
    png_read_end(reader.png, nullptr);
  }));
  return image;
}

/// The same of libjpeg.
struct JpegReader {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf place;
  std::array<char, JMSG_LENGTH_MAX> message{};
  bool made = false;

  JpegReader() {
    jpeg.err = jpeg_std_error(&errors);
    jpeg.client_data = this;
    errors.error_exit = &failed;
    errors.output_message = [](j_common_ptr) {};
    errors.emit_message = [](j_common_ptr common, int level) {
      if (level < 0 && common->err->msg_code == JWRN_JPEG_EOF) failed(common);
    };
    // A small file of many empty scans would take minutes.
    progress.progress_monitor = [](j_common_ptr common) {
      constexpr int most_scans = 500;
      auto* self = static_cast<JpegReader*>(common->client_data);
      if (self->jpeg.input_scan_number <= most_scans) return;
      std::snprintf(self->message.data(), self->message.size(), "more than %d scans", most_scans);
      std::longjmp(self->place, 1);
    };
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() {
    if (made) jpeg_destroy_decompress(&jpeg);
  }

  [[noreturn]] static void failed(j_common_ptr common) {
    auto* self = static_cast<JpegReader*>(common->client_data);
    common->err->format_message(common, self->message.data());
    std::longjmp(self->place, 1);
  }
};

/// Ink is stored inverted, as Adobe's programs do and Pillow assumes.
inline void cmyk_to_rgb(const std::uint8_t* from, std::uint8_t* to, int width) {
  for (int x = 0; x < width; ++x, from += 4)
    for (int channel = 0; channel < 3; ++channel) {
      const unsigned light = from[3], product = (255u - from[channel]) * light + 128;
      *to++ = static_cast<std::uint8_t>(light - (((product >> 8) + product) >> 8));
    }
}

inline Image decode_jpeg(std::span<const std::uint8_t> bytes, const std::string& name, const DecodeLimits& limits) {
  JpegReader reader;
  auto& jpeg = reader.jpeg;
  const auto check = [&](bool done) {
    if (!done) fail(name + ": JPEG: " + reader.message.data());
  };
  check(without_jump(reader.place, [&reader, &jpeg, bytes] {
    jpeg_create_decompress(&jpeg);
    reader.made = true;
    jpeg.client_data = &reader;
    jpeg.progress = &reader.progress;
    jpeg_mem_src(&jpeg, bytes.data(), static_cast<unsigned long>(bytes.size()));
    jpeg_read_header(&jpeg, TRUE);
  }));
  check_size(jpeg.image_height, jpeg.image_width, limits, name);
  const bool ink = jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK;
  Image image(static_cast<int>(jpeg.image_height), static_cast<int>(jpeg.image_width));
  std::vector<std::uint8_t> inks(ink ? std::size_t{4} * jpeg.image_width : 0);
  check(without_jump(reader.place, [&jpeg, &image, &inks, ink] {
    jpeg.out_color_space = ink ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&jpeg);
    if (jpeg.output_components != (ink ? 4 : 3)) ERREXIT(&jpeg, JERR_CONVERSION_NOTIMPL);
    while (jpeg.output_scanline < jpeg.output_height) {
      std::uint8_t* row = image.row(static_cast<int>(jpeg.output_scanline));
      JSAMPROW to = ink ? inks.data() : row;
      if (jpeg_read_scanlines(&jpeg, &to, 1) != 1) ERREXIT(&jpeg, JERR_INPUT_EOF);
      if (ink) cmyk_to_rgb(to, row, image.width());
    }
    jpeg_finish_decompress(&jpeg);
  }));
  return image;
}

inline bool begins(std::span<const std::uint8_t> bytes, std::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

}  // namespace detail

/// The image of a JPEG or PNG file in memory; `name` stands for the file in errors. As Pillow's convert("RGB"): grey is
/// repeated in all channels, a palette looked up, alpha dropped (not blended), of 16-bit samples the high byte taken
/// (Pillow does so with all but one-channel ones, which it clips), CMYK and YCCK turned into RGB without a profile.
/// EXIF orientation, gamma and colour profiles are ignored.
/// Errors: neither JPEG nor PNG, above the limits, cut off, or refused by the library.
inline Image decode_image(std::span<const std::uint8_t> bytes, const std::string& name, const DecodeLimits& limits = {},
                          Where where = Where::current()) {
  return detail::called_from(where, [&] {
    if (bytes.empty()) fail(name + ": is empty: expected a JPEG or PNG file");
    if (bytes.size() > limits.bytes)
      fail(name + ": is " + std::to_string(bytes.size()) + " bytes, expected at most " + std::to_string(limits.bytes));
    if (detail::begins(bytes, "\x89PNG\r\n\x1a\n")) return detail::decode_png(bytes, name, limits);
    if (detail::begins(bytes, "\xff\xd8")) return detail::decode_jpeg(bytes, name, limits);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 8));
    fail(name + ": is neither JPEG nor PNG: it begins with " + detail::excerpt(text));
  });
}

/// The image of a file. Errors: also a file that cannot be read.
inline Image read_image(const std::string& path, const DecodeLimits& limits = {}, Where where = Where::current()) {
  return detail::called_from(where, [&] {
    const std::string bytes = detail::read_bytes(path, limits.bytes);
    return decode_image({reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()}, path, limits, where);
  });
}

}  // namespace meft::data
