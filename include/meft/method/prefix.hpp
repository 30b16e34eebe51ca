// Owns: prefix-tuning. Li and Liang, "Prefix-tuning: optimizing continuous prompts for generation", arXiv 2101.00190,
// without their reparametrisation.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <meft/method/adapt.hpp>
#include <meft/method/preview.hpp>
#include <meft/method/virtual_tokens.hpp>

namespace meft {

/// Keys and values before those of every attention, seen by all queries; no token stands for them.
struct PrefixTuning {
  Index tokens = 5;
  TokenStart start = TokenStart::random;  // words: the keys and values that the model has for them
};

template <>
struct Described<PrefixTuning> {
  static constexpr std::string_view name = "prefix", about = "keys and values before those of every attention";
  static constexpr MethodFacts facts{.apart = "its keys and values belong to no token"};
  static void options(auto& m, auto&& visit) {
    visit(tokens_option, token_counts, m.tokens);
    visit(token_start_option, token_starts, m.start);
  }
  static Index added(const PrefixTuning& m, const StepSizes& s) { return 2 * s.keys() * m.tokens; }
  static Kept kept(const PrefixTuning&, const StepSizes&) { return {}; }
  static Recipe recipe(const PrefixTuning&) { return {.rate = 1e-2}; }
  static constexpr std::array<PeftTensor, 2> tensors{{{"attention_prefix.key", ""}, {"attention_prefix.value", ""}}};
  static constexpr std::array<std::string_view, 1> without{"prefix_projection"};
  static constexpr PeftForm peft{"PREFIX_TUNING", tensors, without, true};
  static void peft_numbers(auto& m, auto&& visit) { visit("num_virtual_tokens", m.tokens); }
};

/// N(0, 1), as PyPI's peft has them.
template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const PrefixTuning& method, const AdaptOptions& options) {
  for (auto* layer : layers) {
    const auto add = [&](nn::MultiHeadAttention<T, B>& attention, std::uint32_t site) {
      const auto one = [&](std::uint32_t place) {
        auto out = Parameter<T, B>::empty({method.tokens, attention.key.out()});
        fill_normal(out.value(), {options.seed, site + place, 0}, 1.0);
        return out;
      };
      attention.prefix = nn::Prefix<T, B>{one(6), one(7)};
    };
    add(layer->attention, layer->site);
    if (layer->cross) add(*layer->cross, layer->more + layer->site);
  }
}

/// Where it starts from words, their keys and values.
template <class Model, Real T, Backend B>
bool prepare(Model& model, const Body<T, B>&, const PrefixTuning& method, const Preview<T, B>& preview) {
  detail::require_options(method);
  if (method.start == TokenStart::random) return true;
  const auto ids = detail::some_words(model, method.tokens, {preview.seed, detail::virtual_site, 0});
  const auto words = nn::Batch<B>::pack({ids});
  const NoTape none;
  const UseScope use(Use::parameter);
  const auto one_list = [](const auto& layers, nn::Hidden<T, B> h) {
    for (auto layer : layers) {
      const auto take = [&](nn::MultiHeadAttention<T, B>& attention, const Var<T, B>& memory, const Offsets& offsets) {
        if (!attention.prefix) return;
        attention.prefix->key.value() = attention.keys(memory, offsets).value();
        attention.prefix->value.value() = attention.value(memory).value();
        attention.prefix.reset();  // this handle's: the words see none
      };
      const auto& c = h.context;
      take(layer.attention, layer.norm_first ? layer.attention_norm(h.value) : h.value, c.offsets);
      if (layer.cross) take(*layer.cross, c.sides.front().value, c.sides.front().offsets);
      h.value = layer(h.value, c);
    }
    return h;
  };
  auto encoded = one_list(model.layers, model.embed(words));
  if (model.encoder_norm) encoded.value = (*model.encoder_norm)(encoded.value);
  if (model.decodes()) one_list(model.decoder_layers, model.embed_decoder(words, encoded));
  return true;
}

}  // namespace meft
