// Owns: the harness of image files, decoded and put through processors.
#pragma once

#include "fuzz.hpp"

#include <cstring>
#include <meft/data/image_decode.hpp>
#include <meft/data/image_glance.hpp>
#include <meft/data/preprocess.hpp>
#include <vector>

namespace meft::fuzz {

inline void image(std::string_view bytes) {
  constexpr data::DecodeLimits limits{.pixels = 1 << 22};
  may_refuse([&] { (void)data::detail::looks_whole(put("i.img", bytes), limits); });
  may_refuse([&] {
    const std::vector<std::uint8_t> own(bytes.begin(), bytes.end());
    const auto decoded = data::decode_image(own, "x", limits);
    if (decoded.pixels().size() >= 3 * 300 * 300) return;
    data::ImageProcessor processor;
    processor.size = {24, 24, 0};
    (void)processor(decoded);
    processor.size = {0, 0, 20};
    processor.resample = data::Resample::bicubic;
    processor.do_center_crop = true;
    processor.crop_size = {16, 16, 0};
    (void)processor(decoded);
    (void)processor.vary(decoded, {}, 3);
  });
}

}  // namespace meft::fuzz
