// Owns: the harness of config.json for every family, of preprocessor_config.json with its pipeline, and of peft's
// adapter_config.json.
#pragma once

#include "fuzz.hpp"

#include <cmath>

#include <meft/checkpoints/peft.hpp>
#include <meft/data/preprocess.hpp>
#include <meft/io/config.hpp>
#include <meft/model/bart.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/gemma3.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/modernbert.hpp>
#include <meft/model/mpnet.hpp>
#include <meft/model/opt.hpp>
#include <meft/model/t5.hpp>
#include <meft/model/vit.hpp>

namespace meft::fuzz {

inline void config(std::string_view bytes) {
  may_refuse([&] {
    const io::Config file(put("config.json", bytes));
    may_refuse([&] { (void)model::BertConfig::read(file).spec(); });
    may_refuse([&] { (void)model::BartConfig::read(file).spec(); });
    may_refuse([&] { (void)model::OptConfig::read(file).spec(); });
    may_refuse([&] {
      const auto spec = model::LlamaConfig::read(file).spec();
      for (Index i = 0; i < spec.layers.layer.rotary->pairs(); ++i)
        expect(!std::isnan(spec.layers.layer.rotary->frequency(i)));
    });
    may_refuse([&] { (void)model::Gemma3Config::read(file).spec(); });
    may_refuse([&] { (void)model::ModernBertConfig::read(file).spec(); });
    may_refuse([&] { (void)model::MpnetConfig::read(file).spec(); });
    may_refuse([&] { (void)model::T5Config::read(file).spec(); });
    may_refuse([&] { (void)model::VitConfig::read(file).spec(); });
    may_refuse([&] { (void)checkpoints::peft_method(file); });
  });
  may_refuse([&] {
    const auto processor = data::ImageProcessor::parse(bytes, "preprocessor_config.json");
    (void)processor.output();
    const auto small = [](const auto& size) {
      return size.height <= 512 && size.width <= 512 && size.shortest_edge <= 512;
    };
    if (small(processor.size) && small(processor.crop_size)) (void)processor(data::Image(5, 7));
  });
}

}  // namespace meft::fuzz
