// Owns: prompt tuning. Lester, Al-Rfou, Constant, "The power of scale for parameter-efficient prompt tuning", arXiv
// 2104.08691; before images as Jia et al., arXiv 2203.12119, have it.
#pragma once

#include <array>

#include <meft/method/adapt.hpp>
#include <meft/method/virtual_tokens.hpp>
#include <meft/nn/embeddings.hpp>

namespace meft {

/// Rows in front of every sequence's words, in the encoder and in the decoder, or of every image's patches; they get
/// the first positions and have no output.
struct PromptTuning {
  Index tokens = 20;
  TokenStart start = TokenStart::random;  // words: their rows of the model's table
};

template <>
struct Described<PromptTuning> {
  static constexpr std::string_view name = "prompt", about = "virtual words in front of every sequence";
  static constexpr MethodFacts facts{.apart = "its virtual words stand before the layers"};
  static void options(auto& m, auto&& visit) {
    visit(tokens_option, token_counts, m.tokens);
    visit(token_start_option, token_starts, m.start);
  }
  static Index added(const PromptTuning&, const StepSizes&) { return 0; }
  static Index in_front(const PromptTuning& m) { return m.tokens; }
  template <Real T, Backend B>
  static Index activation(const PromptTuning& m, const StepSizes& s) {
    auto longer = s;
    longer.tokens += m.tokens * s.sequences;
    if (s.memory) longer.memory += m.tokens * s.sequences;
    const Index normed = s.causal ? 0 : longer.tokens * s.norm();  // the embeddings of most encoders are
    return longer.plain(s.layer(), s.layer(), longer.gradients(2)) + normed;
  }
  /// The authors' rate is 0.3, of rows alone: a head that is new does not learn at it.
  static Recipe recipe(const PromptTuning&) { return {.rate = 1e-2}; }
  static constexpr std::array<PeftTensor, 1> tensors{{{"virtual_tokens", ""}}};
  static constexpr PeftForm peft{"PROMPT_TUNING", tensors, {}, true};
  static void peft_numbers(auto& m, auto&& visit) { visit("num_virtual_tokens", m.tokens); }
};

namespace detail {

template <class Model>
void add_prompts(Model& model, const PromptTuning& method, std::uint64_t seed) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  const auto add = [&](auto& embeddings, Index width, std::uint32_t list) {
    const Key key{seed, virtual_site + list, 0};
    auto rows = Parameter<T, B>::empty({method.tokens, width});
    if (method.start == TokenStart::random) fill_normal(rows.value(), key, 1.0);
    else {
      const UseScope use(Use::parameter);
      const auto ids = Tensor<std::int32_t, B>::from({method.tokens}, some_words(model, method.tokens, key));
      rows.value() = (model.embeddings->words(ids) * T(model.embeddings->spec.scale)).value();
    }
    embeddings.prompt = nn::VirtualTokens<T, B>{rows};
  };
  const Index words = model.embeddings ? model.embeddings->word_width() : 0;
  if (model.patches) add(*model.patches, model.spec.width, 0);
  if (model.embeddings) add(*model.embeddings, words, 0);
  if (model.decoder_embeddings) add(*model.decoder_embeddings, words, 1);
}

}  // namespace detail

template <class Model>
auto adapt(Model& model, const PromptTuning& method, const AdaptOptions& options = {}) {
  detail::require_options(method);
  detail::train_none(model, options);
  detail::add_prompts(model, method, options.seed);
  return detail::plain_body(model, options);
}

}  // namespace meft
