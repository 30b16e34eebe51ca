// The operations of a step's products against counts by hand, and the rate of products.
#include <doctest/doctest.h>

#include <meft/model/bart.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/vit.hpp>
#include <meft/train/light.hpp>

#include "methods.hpp"

using namespace meft;

namespace {

double operations(const model::TransformerSpec& model, const AnyMethod& method, const train::BatchSizes& batch,
                  bool recompute = false, bool words = false) {
  return train::operations_of(model, method, recompute, batch, words);
}
Offsets of(std::initializer_list<std::int32_t> lengths) { return Offsets::of_lengths(std::vector(lengths)); }

}  // namespace

TEST_CASE("operations: an encoder by every chain, as counted by hand") {
  const auto bert = SmallBert{.layers = 2, .width = 8, .heads = 2, .inner = 16, .words = 30}.config().spec();
  const train::BatchSizes batch{.tokens = of({3, 5}), .words = 2};
  // Multiply-adds of a layer: 8 tokens by query, key, value, output [8, 8], by [16, 8] and [8, 16]; scores and mixtures
  // of 3·3 and 5·5 pairs, 8 features each.
  const double weights = 8 * (4 * 64 + 2 * 128), attention = 2 * 8 * (9 + 25);
  CHECK(operations(bert, HeadOnly{}, batch) == 2 * 2 * (weights + attention));
  CHECK(operations(bert, Full{}, batch) == 2 * 2 * (3 * weights + 3.5 * attention));
  CHECK(operations(bert, Full{}, batch, true) == 2 * 2 * (4 * weights + 4.5 * attention));
  CHECK(operations(bert, BitFit{}, batch) == 2 * 2 * (2 * weights + 3.5 * attention));
  CHECK(operations(bert, Mezo<Full>{.samples = 3}, batch) == 6 * 2 * 2 * (weights + attention));
  // Two adapters of 8 → 4 → 8 a layer: forward, undone, and the gradients of what they read and of their weights.
  const double adapters = 8 * 2 * 2 * 8 * 4;
  Meft1 meft{.bottleneck = 4};
  CHECK(operations(bert, meft, batch) == 2 * 2 * (3 * weights + 4.5 * attention + 4 * adapters));
  meft.options.stack.streams = Streams::stored;
  CHECK(operations(bert, meft, batch) == 2 * 2 * (2 * weights + 3.5 * attention + 3 * adapters));
  meft.options.stack.streams = Streams::exact;
  meft.options.stack.stored_layers = 1;  // the upper one
  CHECK(operations(bert, meft, batch) == 2 * (5 * weights + 8 * attention + 7 * adapters));
  meft.options.stack.stored_layers = 0;
  meft.options.reversible_layers = 1;  // the lower one is frozen
  CHECK(operations(bert, meft, batch) == 2 * (weights + attention + 3 * weights + 4.5 * attention + 4 * adapters));
  // By losses alone: two passes forward. A module beside them by gradients of five batches in four steps, of layers
  // that keep their inputs; and six losses of the fourth step's two batches.
  const double updates = 8 * 2 * 2 * 8 * 2;
  CHECK(operations(bert, Mezo<LowRank>{.inside = {.rank = 2}}, batch) ==
        2 * 2 * (2 * weights + 2 * attention + 2 * updates));
  CHECK(operations(bert, Zofo<LowRank>{.module = {.rank = 2}, .inner = 3}, batch) ==
        doctest::Approx(2 * 2 * ((3 + 1.2) * weights + (2 + 1.2 + 2.5) * attention + (2 + 1.2 + 2) * updates)));
  CHECK(operations(bert, Zofo<LowRank>{.inner = 0}, batch, false, true) -
            operations(bert, Zofo<LowRank>{.inner = 0}, batch) ==
        2 * (2 + 3) * (2 * 8 * 30));  // a head over 30 words: by gradients, and three losses a batch
  // Its reversible layers run again, or the stored ones do not; those below run for all losses.
  Zofo<Meft1> beside{.module = {.bottleneck = 4}, .inner = 3};
  beside.module.options.reversible_layers = 1;
  CHECK(operations(bert, beside, batch) ==
        doctest::Approx(2 * (2.2 * (weights + attention) + 4.2 * weights + 5.7 * attention + 5.2 * adapters)));
  beside.module.options.stack.stored_layers = 1;
  CHECK(operations(bert, beside, batch) ==
        doctest::Approx(2 * (2.2 * (weights + attention) + 3.2 * weights + 4.7 * attention + 4.2 * adapters)));
  // Of all linear layers: forward, and the gradients of both factors' sides.
  CHECK(operations(bert, LowRank{.rank = 2, .targets = LowRank::Targets::linear}, batch) ==
        2 * 2 * (2 * weights + 3.5 * attention + 3 * 8 * 2 * (4 * (8 + 8) + 2 * (8 + 16))));
  // A network beside frozen layers: forward, and two for its gradients.
  CHECK(operations(bert, Lst{.reduction = 2}, batch) == 2 * 2 * (weights + attention + 8 * 3 * 32));
  CHECK(operations(bert, Mezo<Full>{.samples = 3}, batch, false, true) -
            operations(bert, Mezo<Full>{.samples = 3}, batch) ==
        2 * 6 * (2 * 8 * 30));
  // A head over 30 words, at two places: forward, and the gradient of what it reads; in full of its table too.
  CHECK(operations(bert, BitFit{}, batch, false, true) - operations(bert, BitFit{}, batch) == 2 * 2 * (2 * 8 * 30));
  CHECK(operations(bert, Full{}, batch, false, true) - operations(bert, Full{}, batch) == 2 * 3 * (2 * 8 * 30));
}

TEST_CASE("operations: gated blocks, shared keys, what a token does not see; a decoder behind an encoder; images") {
  model::LlamaConfig llama;
  llama.num_hidden_layers = 1;
  llama.hidden_size = 8;
  llama.intermediate_size = 12;
  llama.num_attention_heads = 4;
  llama.num_key_value_heads = 2;
  llama.head_dim = 2;
  llama.rotary.rotated = 2;
  llama.vocab_size = 20;
  auto spec = llama.spec();
  const train::BatchSizes batch{.tokens = of({5})};
  const double weights = 5 * (2 * 64 + 2 * 8 * 4 + 3 * 8 * 12);
  CHECK(operations(spec, HeadOnly{}, batch) == 2 * (weights + 2 * 8 * 15));  // 1 + 2 + 3 + 4 + 5 pairs
  spec.layers.layer.window = 2;
  CHECK(operations(spec, HeadOnly{}, batch) == 2 * (weights + 2 * 8 * 9));  // 1 + 2 + 2 + 2 + 2
  spec.layers.layer.causal = false;
  CHECK(operations(spec, HeadOnly{}, batch) == 2 * (weights + 2 * 8 * 13));  // 2 + 3 + 3 + 3 + 2

  spec.layers.layer.window = 0;
  spec.layers.layer.head_width = 4;
  CHECK(operations(spec, HeadOnly{}, batch) == 2 * (5 * (2 * 8 * 16 + 2 * 8 * 8 + 3 * 8 * 12) + 2 * 16 * 25));

  model::BartConfig bart;
  bart.d_model = 8;
  bart.encoder_layers = bart.decoder_layers = 1;
  bart.encoder_attention_heads = bart.decoder_attention_heads = 2;
  bart.encoder_ffn_dim = bart.decoder_ffn_dim = 16;
  // A text of 4 tokens and two answers of 2 and 3 words.
  const train::BatchSizes asked{.tokens = of({4, 2, 3}), .answers = of({2, 3}), .words = 5};
  const double encoder = 4 * (4 * 64 + 2 * 128) + 2 * 8 * 16, decoder = 5 * (4 * 64 + 2 * 128) + 2 * 8 * (3 + 6),
               cross = 5 * 2 * 64 + 4 * 2 * 64 + 2 * 8 * (2 * 4 + 3 * 4);
  CHECK(operations(bart.spec(), HeadOnly{}, asked) == 2 * (encoder + decoder + cross));

  // A text alone, which the decoder reads too.
  CHECK(operations(bart.spec(), HeadOnly{}, {.tokens = of({4})}) ==
        2 * (encoder + 4 * (4 * 64 + 2 * 128) + 2 * 8 * 10 + 2 * (4 * 2 * 64) + 2 * 8 * 16));

  model::VitConfig vit;
  vit.hidden_size = 8;
  vit.intermediate_size = 16;
  vit.num_hidden_layers = 1;
  vit.num_attention_heads = 2;
  vit.patch_size = 4;
  // Two images of 2 × 3 patches, and the class token.
  const train::BatchSizes images{.images = 2, .height = 8, .width = 12};
  CHECK(operations(vit.spec(), HeadOnly{}, images) == 2 * 2 * (7 * (4 * 64 + 2 * 128) + 2 * 8 * 49));
}

TEST_CASE("the rate of products is that of a product, and leaves nothing behind") {
  const auto before = Cpu::pool().read();
  const double rate = train::product_peak<Cpu>(Precision::f32);
  CHECK(rate > 1e6);
  CHECK(Cpu::pool().read().total == before.total);
}
