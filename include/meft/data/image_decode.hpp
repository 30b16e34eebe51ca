// Owns: files of images turned into pixels: JPEG by libjpeg-turbo, PNG by libpng, WebP by libwebp where MEFT_WEBP is
// defined; BMP and GIF are image_simple.hpp's. The only header that needs the libraries. A file is told by its first
// bytes, not its name. Must not know folders, labels or processors.
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
#include <utility>
#include <vector>

#include <jpeglib.h>
// jerror.h needs jpeglib.h before it.
#include <jerror.h>
#include <png.h>
#ifdef MEFT_WEBP
#include <webp/decode.h>
#endif

#include <meft/base/error.hpp>
#include <meft/data/image.hpp>
#include <meft/data/image_limits.hpp>
#include <meft/data/image_orientation.hpp>
#include <meft/data/image_simple.hpp>
#include <meft/data/text_file.hpp>

namespace meft::data {

namespace detail {

/// Calls `step`, out of which C code may jump to `place`; false when it did. Nothing in `step` may have a destructor.
template <class Step>
[[gnu::noinline]] bool without_jump(std::jmp_buf& place, const Step& step) {
  if (setjmp(place) != 0) return false;
  step();
  return true;
}

/// Memory for the rows of an image as they come, so that a file of few bytes takes little, whatever size it claims.
class Rows {
 public:
  Rows(std::uint32_t height, std::uint32_t width)
      : height_(height), width_(width), row_bytes_(std::size_t{3} * width) {}

  std::uint8_t* row(std::size_t y) {
    constexpr std::size_t least = std::size_t{1} << 20;
    if (const std::size_t need = (y + 1) * row_bytes_; pixels_.size() < need)
      pixels_.resize(std::min(std::max({need, least, 2 * pixels_.size()}), row_bytes_ * height_));
    return pixels_.data() + y * row_bytes_;
  }
  Image image() { return Image(static_cast<int>(height_), static_cast<int>(width_), std::move(pixels_)); }

 private:
  std::size_t height_, width_, row_bytes_;
  std::vector<std::uint8_t> pixels_;
};

/// libpng's reader and what its callbacks need. It lives outside of the code that is jumped out of.
struct PngReader {
  Bytes bytes;
  std::size_t used = 0;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::jmp_buf place;
  std::array<char, 200> message{};

  explicit PngReader(Bytes from) : bytes(from) {
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

inline Image decode_png(Bytes bytes, const std::string& name, const DecodeLimits& limits) {
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
  // Deflate packs at most 1032 to 1.
  const std::uint64_t row =
      (std::uint64_t{width} * png_get_channels(reader.png, reader.info) * png_get_bit_depth(reader.png, reader.info) +
       7) /
      8;
  if (row * height / 1032 > bytes.size())
    fail(name + ": PNG: the file ends too early: " + std::to_string(bytes.size()) + " bytes cannot hold " +
         std::to_string(width) + " x " + std::to_string(height) + " pixels");
  Rows rows(height, width);
  bool whole = false;
  check(without_jump(reader.place, [&reader, &whole, width] {
    png_set_strip_16(reader.png);
    png_set_palette_to_rgb(reader.png);
    png_set_expand_gray_1_2_4_to_8(reader.png);
    png_set_gray_to_rgb(reader.png);
    png_set_strip_alpha(reader.png);
    whole = png_set_interlace_handling(reader.png) > 1;
    png_read_update_info(reader.png, reader.info);
    if (png_get_rowbytes(reader.png, reader.info) != std::size_t{3} * width)
      png_error(reader.png, "the pixels do not turn into 8-bit RGB");
  }));
  std::vector<png_bytep> all(whole ? height : 0);  // an interlaced image comes in passes over all rows
  if (whole) rows.row(height - 1);
  for (png_uint_32 y = 0; y < all.size(); ++y) all[y] = rows.row(y);
  png_uint_32 y = 0;
  check(without_jump(reader.place, [&reader, &rows, &all, &y, height, whole] {
    if (whole) png_read_image(reader.png, all.data());
    else
      for (; y < height; ++y) png_read_row(reader.png, rows.row(y), nullptr);
    png_read_end(reader.png, reader.info);
  }));
  int orientation = 0;
  png_uint_32 exif_size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(reader.png, reader.info, &exif_size, &exif) != 0)
    orientation = exif_orientation({exif, exif_size});
  png_textp texts = nullptr;
  int count = 0, by_xmp = 0;
  png_get_text(reader.png, reader.info, &texts, &count);
  for (const png_text& text : std::span(texts, static_cast<std::size_t>(count))) {
    const std::string_view key = text.key, value = text.text;
    const Bytes bytes_of{reinterpret_cast<const std::uint8_t*>(value.data()), value.size()};
    if (key == "XML:com.adobe.xmp") by_xmp = xmp_orientation(bytes_of);
    else if (key == "Raw profile type exif" && exif == nullptr) orientation = exif_orientation(raw_profile(value));
  }
  return upright(rows.image(), orientation != 0 ? orientation : by_xmp);
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

/// The orientation that a JPEG's EXIF gives, or else its XMP.
inline int orientation_of(const jpeg_decompress_struct& jpeg) {
  using namespace std::string_view_literals;
  constexpr std::string_view xmp = "http://ns.adobe.com/xap/1.0/\0"sv;
  std::vector<std::uint8_t> exif;  // may be cut into several markers
  int by_xmp = 0;
  for (jpeg_saved_marker_ptr marker = jpeg.marker_list; marker; marker = marker->next) {
    const Bytes data{marker->data, marker->data_length};
    if (begins(data, "Exif\0\0"sv)) exif.insert(exif.end(), data.begin() + (exif.empty() ? 0 : 6), data.end());
    else if (begins(data, xmp)) by_xmp = xmp_orientation(data.subspan(xmp.size()));
  }
  const int by_exif = exif_orientation(exif);
  return by_exif != 0 ? by_exif : by_xmp;
}

inline Image decode_jpeg(Bytes bytes, const std::string& name, const DecodeLimits& limits) {
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
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&jpeg, TRUE);
  }));
  check_size(jpeg.image_height, jpeg.image_width, limits, name);
  const int orientation = orientation_of(jpeg);  // markers go when decoding ends
  const bool ink = jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK;
  // Every block of 8 x 8 takes at least a bit, but in arithmetic coding.
  if (const std::uint64_t blocks = std::uint64_t{jpeg.image_height} * jpeg.image_width / 64;
      jpeg.arith_code == FALSE && blocks / 8 > bytes.size())
    fail(name + ": JPEG: the file ends too early: " + std::to_string(bytes.size()) + " bytes cannot hold " +
         std::to_string(jpeg.image_width) + " x " + std::to_string(jpeg.image_height) + " pixels");
  Rows rows(jpeg.image_height, jpeg.image_width);
  std::vector<std::uint8_t> inks(ink ? std::size_t{4} * jpeg.image_width : 0);
  check(without_jump(reader.place, [&jpeg, &rows, &inks, ink] {
    jpeg.out_color_space = ink ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&jpeg);
    if (jpeg.output_components != (ink ? 4 : 3)) ERREXIT(&jpeg, JERR_CONVERSION_NOTIMPL);
    while (jpeg.output_scanline < jpeg.output_height) {
      std::uint8_t* row = rows.row(jpeg.output_scanline);
      JSAMPROW to = ink ? inks.data() : row;
      if (jpeg_read_scanlines(&jpeg, &to, 1) != 1) ERREXIT(&jpeg, JERR_INPUT_EOF);
      if (ink) cmyk_to_rgb(to, row, static_cast<int>(jpeg.image_width));
    }
    jpeg_finish_decompress(&jpeg);
  }));
  return upright(rows.image(), orientation);
}

#ifdef MEFT_WEBP
inline constexpr bool reads_webp = true;

/// The first frame would need libwebpdemux: animations are refused.
inline Image decode_webp(Bytes bytes, const std::string& name, const DecodeLimits& limits) {
  WebPBitstreamFeatures found{};
  if (WebPGetFeatures(bytes.data(), bytes.size(), &found) != VP8_STATUS_OK) fail(name + ": WebP: a broken header");
  if (found.has_animation != 0) fail(name + ": WebP: animations are not supported");
  check_size(static_cast<std::uint32_t>(found.height), static_cast<std::uint32_t>(found.width), limits, name);
  if (const std::size_t claimed = number_at(bytes, 4, 4, false); claimed + 8 > bytes.size() + 1)
    fail(name + ": WebP: the file ends too early");
  Image image(found.height, found.width);
  if (!WebPDecodeRGBInto(bytes.data(), bytes.size(), image.pixels().data(), image.pixels().size(),
                         static_cast<int>(image.row_bytes())))
    fail(name + ": WebP: broken data");
  int orientation = 0, by_xmp = 0;
  for (std::size_t at = 12; at + 8 <= bytes.size();) {
    const std::size_t size = number_at(bytes, at + 4, 4, false);
    if (size > bytes.size() - at - 8) break;
    const Bytes chunk = bytes.subspan(at + 8, size);
    if (begins(bytes.subspan(at), "EXIF")) orientation = exif_orientation(chunk);
    if (begins(bytes.subspan(at), "XMP ")) by_xmp = xmp_orientation(chunk);
    at += 8 + size + size % 2;
  }
  return upright(std::move(image), orientation != 0 ? orientation : by_xmp);
}
#else
inline constexpr bool reads_webp = false;

[[noreturn]] inline Image decode_webp(Bytes, const std::string& name, const DecodeLimits&) {
  fail(name + ": is a WebP image, and this program was built without libwebp");
}
#endif

}  // namespace detail

/// The image of a JPEG, PNG, BMP, GIF or WebP file in memory; `name` stands for the file in errors. As Pillow's
/// ImageOps.exif_transpose and convert("RGB"): turned as EXIF or XMP say, grey is repeated in all channels, a palette
/// looked up, alpha dropped (not blended), of 16-bit samples the high byte taken (Pillow does so with all but
/// one-channel ones, which it clips), CMYK and YCCK turned into RGB without a profile; of a GIF the first image.
/// Gamma and colour profiles are ignored.
/// Errors: another format, above the limits, cut off, or refused by the library.
inline Image decode_image(std::span<const std::uint8_t> bytes, const std::string& name, const DecodeLimits& limits = {},
                          Where where = Where::current()) {
  return detail::called_from(where, [&] {
    if (bytes.empty()) fail(name + ": is empty: expected an image");
    if (bytes.size() > limits.bytes)
      fail(name + ": is " + std::to_string(bytes.size()) + " bytes, expected at most " + std::to_string(limits.bytes));
    if (detail::begins(bytes, "\x89PNG\r\n\x1a\n")) return detail::decode_png(bytes, name, limits);
    if (detail::begins(bytes, "\xff\xd8")) return detail::decode_jpeg(bytes, name, limits);
    if (detail::begins(bytes, "GIF87a") || detail::begins(bytes, "GIF89a"))
      return detail::decode_gif(bytes, name, limits);
    if (detail::begins(bytes, "RIFF") && bytes.size() >= 12 && detail::begins(bytes.subspan(8), "WEBP"))
      return detail::decode_webp(bytes, name, limits);
    if (detail::begins(bytes, "BM") && bytes.size() >= 26) return detail::decode_bmp(bytes, name, limits);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 8));
    fail(name + ": is neither JPEG, PNG, BMP, GIF nor WebP: it begins with " + detail::excerpt(text));
  });
}

/// The image of a file. Errors: also a file that cannot be read.
inline Image read_image(const std::string& path, const DecodeLimits& limits = {}, Where where = Where::current()) {
  return detail::called_from(where, [&] {
    const std::string bytes = read_file(path, limits.bytes);
    return decode_image({reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()}, path, limits, where);
  });
}

}  // namespace meft::data
