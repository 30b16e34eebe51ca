// Owns: the model of every family: a transformer built from its description.
// Must not know: the families, files.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include <meft/model/spec.hpp>

namespace meft::model {

/// Hugging Face's initialisation: matrices N(0, 0.02²), biases zero, norms the identity, LayerScale one.
template <Real T, Backend B, class Module>
void initialise_parameters(Module& module, std::uint64_t seed) {
  std::uint32_t site = 0;
  nn::for_each_parameter(module, [&](const std::string&, Parameter<T, B>& p) {
    if (p.shape().rank() > 1) fill_normal(p.value(), {seed, site++, 0}, 0.02);
    else p.value().zero();
  });
  const auto one = [](Parameter<T, B>& p) {
    if (p.defined()) p.value() = Parameter<T, B>::ones(p.shape()).value();
  };
  nn::walk(module, [&](const std::string&, nn::Norm<T, B>& norm) { norm.reset(); });
  nn::walk(module, [&](const std::string&, nn::TransformerLayer<T, B>& layer) {
    one(layer.attention_scale);
    one(layer.mlp_scale);
  });
}

/// A model without a head. Parameters are uninitialised until a checkpoint is loaded or `initialise` called.
template <Real T, Backend B = Cpu>
struct Transformer {
  using value_type = T;
  using backend = B;
  using Layers = std::vector<nn::TransformerLayer<T, B>>;

  TransformerSpec spec;
  std::optional<nn::TokenEmbeddings<T, B>> embeddings{}, decoder_embeddings{};
  std::optional<nn::PatchEmbeddings<T, B>> patches{};
  Layers layers{}, decoder_layers{};
  std::optional<nn::Norm<T, B>> norm{}, encoder_norm{};
  std::optional<nn::Linear<T, B>> project_out{};
  std::optional<nn::RelativeBias<T, B>> relative{}, decoder_relative{};

  explicit Transformer(const TransformerSpec& description) : spec(description) {
    const auto tokens = [&](const nn::EmbeddingNames& names, std::uint32_t number, const Parameter<T, B>& word) {
      return nn::TokenEmbeddings<T, B>::empty(names, spec.embeddings, spec.width,
                                              spec.projects() ? spec.word_width : spec.width, spec.family,
                                              embedding_site + number, word);
    };
    if (spec.patches) patches = nn::PatchEmbeddings<T, B>::empty(*spec.patches, spec.width, embedding_site);
    else embeddings = tokens(spec.names.embeddings, 0, {});
    append(layers, relative, *spec.layer_names, spec.layers, 0);
    if (spec.decoder) {
      decoder_embeddings = tokens(spec.names.decoder_embeddings, 1, embeddings->word);
      const auto* names = spec.decoder_layer_names ? spec.decoder_layer_names : spec.layer_names;
      append(decoder_layers, decoder_relative, *names, *spec.decoder, spec.layers.count);
    }
    for (auto* one : {&norm, &encoder_norm})
      if (spec.norm && (one == &norm || spec.encoder_norm))
        *one = nn::Norm<T, B>::empty(spec.width, *spec.norm, spec.layers.layer.norm);
    if (spec.projects()) project_out = nn::Linear<T, B>::empty(spec.width, spec.word_width, false);
  }

  /// The width of what `run` gives.
  Index hidden() const { return spec.hidden(); }
  bool decodes() const { return spec.decoder.has_value(); }

  /// The hidden states that enter the first layer, of `batch.ids` and `types` or of `batch.pixels`; with a cache behind
  /// what was read before.
  nn::Hidden<T, B> embed(const nn::Batch<B>& batch, KvCache<T, B>* cache = nullptr) const {
    if (patches) {
      auto [x, offsets] = (*patches)(batch);
      nn::Hidden<T, B> out{x, {std::move(offsets), batch.run}};
      if (patches->smaller) out.context.sides.push_back(patches->shrunk(batch));
      return out;
    }
    const Offsets earlier = read_of(cache), offsets = embeddings->entering(batch.offsets, earlier);
    const auto longest = [=] { return offsets.behind(earlier).longest(); };
    if (spec.context && settled<B>([=, most = spec.context] { return longest() > most; }))
      fail(std::string(spec.family) + ": a sequence is longer than max_position_embeddings", longest(), spec.context);
    return {(*embeddings)(batch.ids, batch.types, batch.offsets, batch.run, earlier),
            {offsets, batch.run, 0, {}, cache}};
  }
  /// What enters the decoder: the batch's own tokens, one place later, behind the start token; with a cache the tokens
  /// themselves, behind what was read before. Its layers read `encoded`, the first list's output, as a side input.
  nn::Hidden<T, B> embed_decoder(const nn::Batch<B>& batch, const nn::Hidden<T, B>& encoded,
                                 KvCache<T, B>* cache = nullptr) const {
    const Offsets earlier = read_of(cache);
    const auto ids = cache ? batch.ids : behind_start(batch);
    return {(*decoder_embeddings)(ids, batch.types, batch.offsets, batch.run, earlier),
            {decoder_embeddings->entering(batch.offsets, earlier),
             batch.run,
             0,
             {{encoded.value, encoded.context.offsets}},
             cache}};
  }
  /// Behind the last layer.
  nn::Hidden<T, B> finish(nn::Hidden<T, B> h) const {
    if (norm) h.value = dropped((*norm)(h.value), h.context.run, 2);
    if (project_out) h.value = (*project_out)(h.value);
    return h;
  }
  /// The hidden states of a batch, with the layers run by `body`, a meft::Body. With a cache, of a causal model: those
  /// of the next tokens of its sequences, which then have been read too; under no tape.
  nn::Hidden<T, B> run(const nn::Batch<B>& batch, const auto& body, KvCache<T, B>* cache = nullptr) const {
    require(!cache || (spec.causal && !decodes()), "a cache of read tokens: expected a causal model, found",
            spec.family);
    auto h = encode(batch, body, cache);
    return decodes() ? decode(batch, h, body) : ended(std::move(h));
  }
  /// What the first list of layers gives: of a model with a decoder that which its layers read.
  nn::Hidden<T, B> encode(const nn::Batch<B>& batch, const auto& body, KvCache<T, B>* cache = nullptr) const {
    auto h = body.chain(embed(batch, cache));
    if (encoder_norm) h.value = dropped((*encoder_norm)(h.value), batch.run, 3);
    return h;
  }
  /// What the decoder gives for the batch's tokens, each sequence of which reads its rows of `encoded`.
  nn::Hidden<T, B> decode(const nn::Batch<B>& batch, const nn::Hidden<T, B>& encoded, const auto& body,
                          KvCache<T, B>* cache = nullptr) const {
    return ended(body.decoder(embed_decoder(batch, encoded, cache)));
  }
  /// Of what the last list of layers gives, the rows that are no virtual token's.
  nn::Hidden<T, B> without_prompt(nn::Hidden<T, B> h) const {
    const auto& prompt = patches ? patches->prompt : (decodes() ? decoder_embeddings : embeddings)->prompt;
    if (!prompt || h.context.earlier().tokens() > 0) return h;
    std::vector<std::int32_t> lengths;
    for (Index s = 0; s < h.context.offsets.sequences(); ++s)
      lengths.push_back(static_cast<std::int32_t>(h.context.offsets.length(s) - prompt->count()));
    h.value = prompt->without(h.value, h.context.offsets);
    h.context.offsets = Offsets::of_lengths(lengths);
    return h;
  }

  /// The family's language head over the word embeddings. Throws where it has none.
  nn::LanguageHead<T, B> language_head(Where where = Where::current()) const {
    require(spec.language.has_value() && embeddings, {"language_head: the family has none", where}, spec.family);
    require(!embeddings->rows, {"language_head: it reads all rows of the word embeddings, which are pruned", where},
            embeddings->word.shape());
    return nn::LanguageHead<T, B>::empty(*spec.language, embeddings->word, embeddings->table);
  }

  void initialise(std::uint64_t seed) { initialise_parameters<T, B>(*this, seed); }

  static void parts(auto& self, auto&& visit) {
    const auto& names = self.spec.names;
    visit("embeddings", self.patches);
    visit("", self.embeddings);
    visit(names.project_out, self.project_out);
    if (names.norm_before_layers) visit(names.norm, self.norm);
    visit(names.relative, self.relative);
    visit(names.layers, self.layers);
    visit(names.encoder_norm, self.encoder_norm);
    visit(names.decoder_relative, self.decoder_relative);
    visit("", self.decoder_embeddings);
    visit(names.decoder_layers, self.decoder_layers);
    if (!names.norm_before_layers) visit(names.norm, self.norm);
    if (self.patches) visit("virtual_tokens", self.patches->prompt);
    if (self.embeddings) visit("virtual_tokens", self.embeddings->prompt);
    if (self.decoder_embeddings) visit("decoder_virtual_tokens", self.decoder_embeddings->prompt);
  }

 private:
  static constexpr std::uint32_t embedding_site = 0xe0000000u;

  static Offsets read_of(const KvCache<T, B>* cache) {
    if (!cache) return {};
    refuse_tape_beside_cache();
    return cache->read();
  }

  /// The batch's tokens, in each sequence one place later, behind the start token.
  Tensor<std::int32_t, B> behind_start(const nn::Batch<B>& batch) const {
    const Index tokens = batch.offsets.tokens();
    const auto start = Tensor<std::int32_t, B>::from({1}, {static_cast<std::int32_t>(spec.decoder_start)});
    Tensor<std::int32_t, B> from({tokens + 1}), shifted({tokens});
    B::copy(from.data(), start.data(), start.bytes());
    B::copy(from.data() + 1, batch.ids.data(), batch.ids.bytes());
    const auto before =
        Tensor<std::int32_t, B>::following({tokens}, reading_again([offsets = batch.offsets](std::int32_t* to) {
                                             for (Index s = 0; s < offsets.sequences(); ++s)
                                               for (Index i = offsets.begin(s); i < offsets.end(s); ++i)
                                                 *to++ = static_cast<std::int32_t>(i == offsets.begin(s) ? 0 : i);
                                           }));
    gather_rows(B{}, tokens, 1, std::as_const(from).data(), before.data(), shifted.data());
    return shifted;
  }

  /// What comes behind the last list of layers, with a cache that has read their tokens.
  nn::Hidden<T, B> ended(nn::Hidden<T, B> h) const {
    auto* const cache = h.context.cache;
    const Offsets read = h.context.offsets;
    auto out = finish(without_prompt(std::move(h)));
    if (cache) cache->advance(read);
    out.context.cache = nullptr;
    return out;
  }

  Var<T, B> dropped(const Var<T, B>& x, const Run& run, std::uint32_t number) const {
    if (!run.training || spec.dropout == 0) return x;
    return meft::dropout(x, spec.dropout, run.key(embedding_site + number));
  }

  void append(Layers& to, std::optional<nn::RelativeBias<T, B>>& bias, const nn::LayerNames& names,
              const LayersSpec& what, Index first) const {
    if (what.layer.relative) bias = nn::RelativeBias<T, B>::empty(*what.layer.relative, what.layer.heads);
    for (Index i = 0; i < what.count; ++i) {
      to.push_back(nn::TransformerLayer<T, B>::empty(names, what.at(i), static_cast<std::uint32_t>(first + i)));
      to.back().attention.relative = bias;
    }
  }
};

}  // namespace meft::model
