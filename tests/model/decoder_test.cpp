// Owns: decoders that are descriptions alone, beyond Llama's: a gated feed-forward network, layer or RMS norm, grouped
// queries and rotary position, against Hugging Face transformers on the files of golden/ that make_decoders.py writes,
// and made reversible.
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include <meft/checkpoints/family.hpp>
#include <meft/method/registry.hpp>
#include <meft/model/transformer.hpp>
#include <meft/ops/loss.hpp>

#include "golden.hpp"
#include "messages.hpp"

namespace {

using namespace meft;

constexpr nn::LayerNames layer_names{.query = "self_attn.q_proj",
                                     .key = "self_attn.k_proj",
                                     .value = "self_attn.v_proj",
                                     .output = "self_attn.o_proj",
                                     .attention_norm = "input_layernorm",
                                     .up = "mlp.up_proj",
                                     .down = "mlp.down_proj",
                                     .mlp_norm = "post_attention_layernorm",
                                     .gate = "mlp.gate_proj"};

model::TransformerSpec described(const std::string& name) {
  model::TransformerSpec out{
      .family = "decoder",
      .names = {.embeddings = {.word = "embed_tokens.weight"}, .layers = "layers", .norm = "norm"},
      .layer_names = &layer_names,
      .causal = true,
      .width = 16,
      .embeddings = {.vocabulary = 40},
      .layers = {{.width = 16,
                  .heads = 2,
                  .head_width = 8,
                  .ffn = 24,
                  .activation = Activation::silu,
                  .gated = true,
                  .norm = nn::NormKind::rms,
                  .epsilon = 1e-6,
                  .norm_first = true,
                  .causal = true,
                  .bias = false,
                  .qkv_bias = false},
                 2},
      .norm = 1e-6,
      .context = 24,
      .language = nn::LanguageSpec{}};
  auto& layer = out.layers.layer;
  if (name == "stablelm") {
    layer.key_heads = 2;
    layer.norm = nn::NormKind::layer;
    layer.epsilon = 1e-5;
    layer.qkv_bias = true;
    layer.rotary = RotarySpec{.rotated = 4};
    out.norm = 1e-5;
  } else {
    layer.key_heads = 1;
    layer.activation = Activation::gelu_tanh;
    layer.epsilon = 1e-5;
    layer.rotary = RotarySpec{.rotated = 8, .base = 5e5, .interleaved = true};
    out.norm = 1e-5;
  }
  return out;
}

nn::Batch<> batch_of(const Values& plain) {
  const auto ids = plain.integer("ids"), labels = plain.integer("labels");
  const Index n = static_cast<Index>(ids.size());
  nn::Batch<> out;
  out.ids = Tensor<std::int32_t>::from({n}, ids);
  out.labels = Tensor<std::int32_t>::from({n}, labels);
  out.offsets = Offsets(plain.integer("offsets"));
  return out;
}

}  // namespace

TEST_CASE("decoders from descriptions equal those of transformers, gradients too") {
  for (const std::string name : {"stablelm", "ernie"}) {
    CAPTURE(name);
    const std::string folder = golden() + "/decoder_" + name;
    const Values weights(folder + "/model.safetensors"), plain(folder + "/plain.safetensors"),
        gradients(folder + "/gradients.safetensors");
    model::Transformer<double> model(described(name));
    CHECK(model.spec.longest() == 24);
    nn::for_each_parameter(
        model, [&](const std::string& at, Parameter<double>& p) { weights.fill("model." + at, p.value()); });
    const auto batch = batch_of(plain);
    const auto body = adapt(model, Full{});
    Comparison forward(plain), backward(gradients);
    Tape tape;
    const auto h = model.run(batch, body);
    forward.add("hidden", h.value.value());
    const auto loss = model.language_head().loss(h.value, batch.labels);
    forward.add("loss", loss.value().reshape({1}));
    tape.backward(loss);
    nn::for_each_parameter(model, [&](const std::string& at, Parameter<double>& p) {
      backward.gradient("model." + at, p.gradient(), p.shape());
    });
    CHECK(backward.names().size() == gradients.file.names().size());
    CAPTURE(forward.at());
    CAPTURE(backward.at());
    CHECK(forward.worst() < 1e-12);
    CHECK(backward.worst() < 1e-11);
  }
}

TEST_CASE("decoders from descriptions made reversible: exact equal to stored bit for bit, with dropout") {
  for (const std::string name : {"stablelm", "ernie"}) {
    CAPTURE(name);
    const Values plain(golden() + "/decoder_" + name + "/plain.safetensors");
    auto batch = batch_of(plain);
    batch.run = {.seed = 5, .step = 2, .training = true};
    std::vector<std::vector<float>> found[2];
    for (const auto streams : {Streams::stored, Streams::exact}) {
      auto spec = described(name);
      auto& layer = spec.layers.layer;
      layer.dropout = layer.attention_dropout = layer.activation_dropout = 0.1f;
      model::Transformer<float> model(spec);
      model.initialise(3);
      const auto body = adapt(model, Meft1{.bottleneck = 3,
                                           .options = {.stack = {.streams = streams, .slice_tokens = 8},
                                                       .coupling = Coupling::balanced,
                                                       .start = AdapterStart::paper}});
      Tape tape;
      const auto h = model.run(batch, body);
      const auto loss = model.language_head().loss(h.value, batch.labels);
      tape.backward(loss);
      auto& out = found[streams == Streams::exact];
      out.push_back(h.value.value().values());
      nn::for_each_parameter(model, [&](const std::string&, Parameter<float>& p) {
        if (p.trainable()) out.push_back(p.gradient().values());
      });
    }
    CHECK(found[0].size() == 1 + 2 * 8);
    CHECK(found[0] == found[1]);
  }
}

// Where the buckets of T5's _relative_position_bucket begin, in transformers 5.24.
TEST_CASE("relative position: distances have transformers' buckets") {
  using Starts = std::vector<std::pair<Index, std::int32_t>>;
  const auto check = [](const nn::RelativeSpec& spec, const Starts& starts) {
    std::int32_t expected = -1;
    for (Index d = -130, at = 0; d <= 130; ++d) {
      if (at < std::ssize(starts) && starts[static_cast<std::size_t>(at)].first == d)
        expected = starts[static_cast<std::size_t>(at++)].second;
      CHECK_MESSAGE(nn::relative_bucket(spec, d) == expected, d);
    }
  };
  check(
      {.buckets = 32, .farthest = 128},
      {{-130, 15}, {-90, 14}, {-63, 13}, {-45, 12}, {-31, 11}, {-22, 10}, {-15, 9}, {-11, 8}, {-7, 7}, {-6, 6}, {-5, 5},
       {-4, 4},    {-3, 3},   {-2, 2},   {-1, 1},   {0, 0},    {1, 17},   {2, 18},  {3, 19},  {4, 20}, {5, 21}, {6, 22},
       {7, 23},    {8, 24},   {12, 25},  {16, 26},  {23, 27},  {32, 28},  {46, 29}, {64, 30}, {91, 31}});
  check({.buckets = 32, .farthest = 128, .both_ways = false},
        {{-130, 31}, {-112, 30}, {-98, 29}, {-86, 28}, {-76, 27}, {-66, 26}, {-58, 25}, {-51, 24},
         {-45, 23},  {-39, 22},  {-34, 21}, {-30, 20}, {-26, 19}, {-23, 18}, {-20, 17}, {-18, 16},
         {-15, 15},  {-14, 14},  {-13, 13}, {-12, 12}, {-11, 11}, {-10, 10}, {-9, 9},   {-8, 8},
         {-7, 7},    {-6, 6},    {-5, 5},   {-4, 4},   {-3, 3},   {-2, 2},   {-1, 1},   {0, 0}});
  check({.buckets = 8, .farthest = 20}, {{-130, 3}, {-6, 2}, {-1, 1}, {0, 0}, {1, 5}, {2, 6}, {7, 7}});
  check({.buckets = 8, .farthest = 20, .both_ways = false},
        {{-130, 7}, {-13, 6}, {-8, 5}, {-5, 4}, {-3, 3}, {-2, 2}, {-1, 1}, {0, 0}});
}

TEST_CASE(
    "layers of two kinds: the configs of transformers 4 and of 5 say the same, and what is not supported is named") {
  const auto read = [](nlohmann::json config) {
    return checkpoints::read_spec(io::Config("config.json", std::move(config)));
  };
  const auto refused = [&](nlohmann::json config) { return test::message_of([&] { (void)read(std::move(config)); }); };
  const auto same = [&](const nlohmann::json& old, const nlohmann::json& now) {
    const auto a = read(old), b = read(now);
    CHECK(a.layers.is_local == b.layers.is_local);
    CHECK(a.layers.local->window == b.layers.local->window);
    for (const auto& [x, y] : {std::pair{a.layers.layer, b.layers.layer}, {*a.layers.local, *b.layers.local}})
      for (const Index pair : {1, 3}) CHECK(x.rotary->frequency(pair) == y.rotary->frequency(pair));
    return a;
  };
  const nlohmann::json sizes{
      {"hidden_size", 32}, {"num_hidden_layers", 7}, {"intermediate_size", 48}, {"num_attention_heads", 4}};
  auto gemma = sizes, modern = sizes;
  gemma.update({{"model_type", "gemma3_text"}, {"head_dim", 16}, {"query_pre_attn_scalar", 8}});
  modern["model_type"] = "modernbert";
  auto old = gemma, now = gemma;
  old.update({{"rope_theta", 5e5},
              {"rope_local_base_freq", 3e3},
              {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}},
              {"sliding_window", 512}});
  const nlohmann::json kinds{"sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
                             "sliding_attention", "full_attention",    "sliding_attention"};
  now.update({{"layer_types", kinds},
              {"sliding_window", 512},
              {"rope_parameters",
               {{"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 5e5}}},
                {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 3e3}}}}}});
  const auto spec = same(old, now);
  for (const char* kind : {"full_attention", "sliding_attention"}) now["rope_parameters"][kind].erase("rope_theta");
  now.update({{"rope_theta", 5e5}, {"rope_local_base_freq", 3e3}});  // beside the kinds, for those that have none
  (void)same(old, now);
  // Of values that stand in both, those in rope_scaling.
  now["rope_scaling"] = {{"factor", 8.0}};
  now["rope_parameters"]["full_attention"]["factor"] = 2.0;
  (void)same(old, now);
  CHECK(spec.layers.is_local == std::vector<bool>{true, true, true, true, true, false, true});
  CHECK(spec.layers.layer.scale == 1 / std::sqrt(8.0));
  CHECK(spec.embeddings.scale == std::sqrt(32.0));
  CHECK(read(gemma).layers.layer.rotary->base == 1e6);
  for (const char* option : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    auto capped = gemma;
    capped[option] = 30.0;
    CHECK(refused(capped).find(std::string(option) + " is not supported") != std::string::npos);
  }
  gemma["use_bidirectional_attention"] = true;
  CHECK(refused(gemma).find("use_bidirectional_attention is not supported") != std::string::npos);

  old = now = modern;
  old.update({{"global_rope_theta", 9e4},
              {"local_rope_theta", 7e3},
              {"global_attn_every_n_layers", 3},
              {"local_attention", 20}});
  const nlohmann::json thirds{"full_attention",    "sliding_attention", "sliding_attention", "full_attention",
                              "sliding_attention", "sliding_attention", "full_attention"};
  now.update({{"layer_types", thirds},
              {"local_attention", 20},
              {"rope_parameters",
               {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 9e4}}},
                {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 7e3}}}}}});
  const auto encoder = same(old, now);
  for (const char* kind : {"full_attention", "sliding_attention"}) now["rope_parameters"][kind].erase("rope_theta");
  now.update({{"global_rope_theta", 9e4}, {"local_rope_theta", 7e3}});
  (void)same(old, now);
  CHECK(encoder.layers.local->window == 11);
  now.update({{"local_attention", 128}, {"sliding_window", 10}});  // its half, which counts
  now["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  old["local_attention"] = 20, old["rope_scaling"] = now["rope_scaling"];
  CHECK(same(old, now).layers.local->rotary->factor == 8);
  CHECK(!encoder.layers.at(0).attention_norm);
  CHECK(encoder.layers.at(1).attention_norm);
  modern["global_rope_theta"] = 9e4;
  CHECK(read(modern).layers.local->rotary->base == 1e4);
  modern["local_rope_theta"] = nullptr;  // to transformers 4 that of the others
  CHECK(read(modern).layers.local->rotary->base == 9e4);
  modern["classifier_pooling"] = "max";
  CHECK(refused(modern).find("classifier_pooling: expected cls or mean, found") != std::string::npos);
  auto llama = sizes;
  llama.update({{"model_type", "llama"}, {"vocab_size", 40}, {"max_position_embeddings", 24}, {"rope_theta", 3e3}});
  const auto angle = [&] { return read(llama).layers.layer.rotary->frequency(3); };
  const double plain = angle();
  llama["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 4.0}};  // within the context the same
  CHECK(angle() == plain);
  llama["rope_scaling"]["rope_type"] = "longrope";
  CHECK(refused(llama).find("rope_type: expected default, dynamic, linear, llama3 or yarn, found") !=
        std::string::npos);
  CHECK(refused(llama).find("longrope") != std::string::npos);
  auto mpnet = sizes;
  mpnet.update({{"model_type", "mpnet"},
                {"vocab_size", 40},
                {"max_position_embeddings", 24},
                {"relative_attention_num_buckets", 16}});
  CHECK(refused(mpnet).find("relative_attention_num_buckets") != std::string::npos);
}

TEST_CASE("configs: what would change a model's values or its training, and is not computed, is named") {
  const nlohmann::json sizes{{"vocab_size", 40},
                             {"hidden_size", 32},
                             {"num_hidden_layers", 2},
                             {"d_model", 32},
                             {"intermediate_size", 48},
                             {"num_attention_heads", 4},
                             {"encoder_layers", 2},
                             {"encoder_ffn_dim", 48},
                             {"encoder_attention_heads", 4},
                             {"decoder_layers", 2},
                             {"decoder_ffn_dim", 48},
                             {"decoder_attention_heads", 4},
                             {"ffn_dim", 48},
                             {"d_kv", 8},
                             {"num_heads", 4},
                             {"head_dim", 8},
                             {"is_causal", true},
                             {"max_position_embeddings", 24},
                             {"encoder_layerdrop", 0},
                             {"num_key_value_heads", 4}};
  const auto message = [&](const std::string& type, const char* option, const nlohmann::json& value) {
    auto config = sizes;
    config["model_type"] = type;
    const auto read = [&] { (void)checkpoints::read_spec(io::Config("config.json", config)); };
    CHECK(test::message_of(read) == "no error");
    config[option] = value;
    return test::message_of(read);
  };
  for (const std::string type : {"opt", "bart", "t5", "llama", "mistral", "qwen2", "qwen3", "gemma3_text"}) {
    CAPTURE(type);
    CHECK(message(type, "is_causal", false).find("is_causal false is not supported") != std::string::npos);
  }
  for (const std::string type : {"llama", "mistral", "qwen2", "qwen3", "gemma3_text", "modernbert"}) {
    CAPTURE(type);
    const std::string expected =
        "partial_rotary_factor: expected 1: these models in transformers turn whole heads, found";
    CHECK(message(type, "partial_rotary_factor", 0.5).find(expected) != std::string::npos);
    CHECK(message(type, "partial_rotary_factor", 1) == "no error");
    nlohmann::json rope{{"rope_type", "default"}, {"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}};
    if (type == "gemma3_text" || type == "modernbert") rope = {{"full_attention", rope}};
    CHECK(message(type, "rope_parameters", rope).find(expected) != std::string::npos);
  }
  for (const auto& [type, option] : {std::pair{"opt", "layerdrop"},
                                     {"bart", "encoder_layerdrop"},
                                     {"bart", "decoder_layerdrop"},
                                     {"dinov2", "drop_path_rate"},
                                     {"modernbert", "attention_dropout"}})
    CHECK(message(type, option, 0.1).find(std::string(option) + " is not supported") != std::string::npos);
}

TEST_CASE("T5: transformers 5 says by scale_decoder_outputs what 4 says by tie_word_embeddings") {
  const auto scale = [](const char* config) {
    return checkpoints::read_spec(io::Config("config.json", nlohmann::json::parse(config))).language->scale;
  };
  CHECK(scale(R"({"model_type": "t5", "d_model": 16})") == 0.25);
  CHECK(scale(R"({"model_type": "t5", "d_model": 16, "tie_word_embeddings": false})") == 1);
  CHECK(scale(R"({"model_type": "t5", "d_model": 16, "tie_word_embeddings": true, "scale_decoder_outputs": false})") ==
        1);
  CHECK(scale(R"({"model_type": "t5", "d_model": 16, "tie_word_embeddings": false, "scale_decoder_outputs": true})") ==
        0.25);
}

namespace {

/// A config.json of every size that any family asks for, and more.
model::TransformerSpec spec_of(const std::string& type, const nlohmann::json& more = {}) {
  nlohmann::json config{{"model_type", type}};
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "ffn_dim", "d_model", "d_ff",
                          "encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings", "image_size"})
    config[key] = 64;
  for (const char* key :
       {"num_attention_heads", "encoder_attention_heads", "decoder_attention_heads", "num_heads", "patch_size"})
    config[key] = 8;
  for (const char* key : {"num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers"}) config[key] = 2;
  if (!more.is_null()) config.update(more);
  return checkpoints::read_spec(io::Config("config.json", std::move(config)));
}

}  // namespace

TEST_CASE("configs: each dropout goes where the family has it") {
  struct Rates {
    double embedded, block, attention, inside, head, behind;
  };
  const auto check = [](const std::string& type, const nlohmann::json& config, const Rates& expected) {
    CAPTURE(type);
    const auto spec = spec_of(type, config);
    const auto same = [](double found, double wanted) {
      CHECK(found == static_cast<double>(static_cast<float>(wanted)));
    };
    std::vector<nn::LayerSpec> layers{spec.layers.layer};
    if (spec.layers.local) layers.push_back(*spec.layers.local);
    if (spec.decoder) layers.push_back(spec.decoder->layer);
    for (const auto& layer : layers) {
      same(static_cast<double>(layer.dropout), expected.block);
      same(static_cast<double>(layer.attention_dropout), expected.attention);
      same(static_cast<double>(layer.activation_dropout), expected.inside);
    }
    same(static_cast<double>(spec.patches ? spec.patches->dropout : spec.embeddings.dropout), expected.embedded);
    same(static_cast<double>(spec.dropout), expected.behind);
    CHECK(spec.head.dropout == expected.head);
  };
  nlohmann::json all;  // each option of any family, with a rate of its own
  double next = 0;
  for (const char* name :
       {"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "attention_dropout", "dropout",
        "activation_dropout", "dropout_rate", "embedding_dropout", "mlp_dropout"})
    all[name] = next += 0.015625;
  const auto rate = [&](const char* name) { return all[name].get<double>(); };
  const double hidden = rate("hidden_dropout_prob"), scores = rate("attention_probs_dropout_prob"),
               attention = rate("attention_dropout"), classifier = rate("classifier_dropout"),
               whole = rate("dropout_rate");
  for (const char* type : {"bert", "roberta"}) check(type, all, {hidden, hidden, scores, 0, classifier, 0});
  check("mpnet", all, {hidden, hidden, scores, 0, hidden, 0});
  for (const char* type : {"vit", "deit"}) check(type, all, {hidden, hidden, scores, 0, 0, 0});
  check("dinov2", all, {hidden, 0, scores, 0, 0, 0});
  check("opt", all, {0, rate("dropout"), attention, 0, 0, 0});
  check("bart", all, {rate("dropout"), rate("dropout"), attention, rate("activation_dropout"), classifier, 0});
  check("t5", all, {whole, whole, whole, whole, classifier, whole});
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3", "gemma3_text"})
    check(type, all, {0, 0, attention, 0, 0, 0});
  auto modern = all;
  modern.erase("attention_dropout");
  check("modernbert", modern, {rate("embedding_dropout"), 0, 0, rate("mlp_dropout"), classifier, 0});
  // Those of a config that does not say.
  check("bert", {}, {0.1, 0.1, 0.1, 0, 0.1, 0});
  check("bert", {{"hidden_dropout_prob", 0.25}}, {0.25, 0.25, 0.1, 0, 0.25, 0});
  check("bart", {{"classif_dropout", 0.5}}, {0.1, 0.1, 0, 0, 0, 0});  // which transformers does not read
  check("t5", {}, {0.1, 0.1, 0.1, 0.1, 0, 0.1});
  for (const char* type : {"vit", "llama", "gemma3_text", "modernbert"}) check(type, {}, {0, 0, 0, 0, 0, 0});
}

TEST_CASE("configs: T5's activation and gate are what is said apart of them, else feed_forward_proj's") {
  const auto check = [](const nlohmann::json& more, Activation f, bool gated) {
    CAPTURE(more.dump());
    const auto layer = spec_of("t5", more).layers.layer;
    CHECK((layer.activation == f && layer.gated == gated));
  };
  check({}, Activation::relu, false);
  check({{"feed_forward_proj", "gated-gelu"}}, Activation::gelu_tanh, true);
  check({{"feed_forward_proj", "gated-gelu"}, {"dense_act_fn", "gelu"}}, Activation::gelu, true);
  check({{"feed_forward_proj", "gelu"}, {"dense_act_fn", "gelu"}, {"is_gated_act", true}}, Activation::gelu, true);
}

TEST_CASE("configs: the token that no class is read from, where a causal model pads with it") {
  CHECK(spec_of("llama").head.pad == -1);
  CHECK(spec_of("qwen3", {{"pad_token_id", 5}}).head.pad == 5);
  CHECK(spec_of("gemma3_text").head.pad == 0);
  CHECK(spec_of("opt").head.pad == 1);
  CHECK(spec_of("t5", {{"pad_token_id", 5}}).head.pad == -1);
}

TEST_CASE("configs: without a model_type a config is BERT's, but where it may be RoBERTa's") {
  nlohmann::json config{{"vocab_size", 9},          {"hidden_size", 6},       {"num_hidden_layers", 1},
                        {"num_attention_heads", 2}, {"intermediate_size", 8}, {"max_position_embeddings", 514}};
  const auto read = [&] { return checkpoints::read_spec(io::Config("config.json", config)); };
  CHECK(read().family == std::string("bert"));
  config["type_vocab_size"] = 1;
  CHECK(meft::test::message_of([&] { (void)read(); }).find("model_type is missing: expected bert or") !=
        std::string::npos);
  config["model_type"] = "bert";
  CHECK(read().embeddings.first_position == 0);
}

TEST_CASE("configs: what a family has where its config does not say; T5's, OPT's and ModernBERT's options") {
  CHECK(spec_of("mistral", {{"num_attention_heads", 16}}).layers.layer.key_heads == 8);
  CHECK(spec_of("mistral", {{"num_attention_heads", 16}}).layers.local->window == 4096);
  CHECK_FALSE(spec_of("mistral", {{"num_attention_heads", 16}, {"sliding_window", nullptr}}).layers.local);
  CHECK(spec_of("llama", {{"num_attention_heads", 16}}).layers.layer.key_heads == 16);
  CHECK(spec_of("llama").layers.layer.head_width == 8);
  CHECK(spec_of("qwen3").layers.layer.head_width == 128);
  CHECK_FALSE(spec_of("qwen2", {{"sliding_window", 8}}).layers.local);  // not in use
  const auto upper = spec_of("qwen2", {{"num_hidden_layers", 30}, {"use_sliding_window", true}});
  CHECK(upper.layers.local->window == 4096);
  std::vector<bool> local(30);
  local[28] = local[29] = true;
  CHECK(upper.layers.is_local == local);
  // Biases: of the attention, and of the feed-forward network, by options that are another family's too.
  const nlohmann::json biased{{"attention_bias", true}, {"mlp_bias", true}};
  struct Biases {
    const char* type;
    bool inner, attention, output;
  };
  for (const auto& one : {Biases{"llama", true, true, true},
                          {"mistral", false, false, false},
                          {"qwen2", false, true, false},
                          {"qwen3", false, true, true},
                          {"gemma3_text", false, true, true}}) {
    CAPTURE(one.type);
    const auto layer = spec_of(one.type, biased).layers.layer;
    CHECK((layer.bias == one.inner && layer.qkv_bias == one.attention && layer.output_bias == one.output));
  }

  CHECK(spec_of("t5", {{"num_layers", 3}}).decoder->count == 3);
  CHECK(spec_of("t5", {{"num_decoder_layers", 4}}).decoder->count == 4);
  CHECK(spec_of("t5", {{"pad_token_id", 5}}).decoder_start == 5);
  CHECK(spec_of("t5", {{"pad_token_id", 5}, {"decoder_start_token_id", 7}}).decoder_start == 7);
  CHECK(spec_of("opt").norm);
  CHECK_FALSE(spec_of("opt", {{"_remove_final_layer_norm", true}}).norm);
  CHECK_FALSE(spec_of("opt", {{"do_layer_norm_before", false}}).norm);
  // Images and patches are squares, by their side or both.
  const auto patches = [](const nlohmann::json& config) { return *spec_of("vit", config).patches; };
  const auto square = patches({{"image_size", {32, 32}}, {"patch_size", {4, 4}}});
  CHECK((square.image == 32 && square.patch == 4));
  const auto oblong = [&](const nlohmann::json& size) {
    return test::message_of([&] { (void)patches({{"image_size", size}}); });
  };
  for (const auto& [size, found] : {std::pair{nlohmann::json{224, 196}, "found [224, 196]"},
                                    {nlohmann::json{224}, "found a list of 1"},
                                    {nlohmann::json{0, 0}, "an integer in [1, 16384], found 0"}}) {
    CHECK(oblong(size).find("'image_size': expected an integer") != std::string::npos);
    CHECK(oblong(size).find(found) != std::string::npos);
  }
  CHECK(spec_of("dinov2", {{"patch_size", nullptr}}).patches->patch == 14);
  CHECK(spec_of("modernbert").head.pooling == nn::Pooling::first);
  CHECK(spec_of("modernbert", {{"classifier_pooling", "mean"}}).head.pooling == nn::Pooling::mean);
}

// As transformers' _compute_yarn_parameters has them.
TEST_CASE("configs: YaRN's factor, scale and borders") {
  const auto yarn = [](const nlohmann::json& more) {
    nlohmann::json scaling{{"rope_type", "yarn"}, {"original_max_position_embeddings", 16}};
    scaling.update(more);
    return *spec_of("llama", {{"head_dim", 8}, {"rope_theta", 3e3}, {"rope_scaling", scaling}}).layers.layer.rotary;
  };
  const auto usual = yarn({{"truncate", false}});
  CHECK(usual.factor == 4);  // of 64 positions and 16
  CHECK(usual.magnitude == doctest::Approx(0.1 * std::log(4) + 1).epsilon(1e-14));
  const auto border = [](double turns) {
    return 8 * std::log(16 / (turns * 2 * std::acos(-1.0))) / (2 * std::log(3e3));
  };
  CHECK(usual.low == 0);  // pairs that turn 32 times are not there
  CHECK(usual.high == doctest::Approx(border(1)).epsilon(1e-14));
  CHECK(yarn({{"truncate", true}}).high == std::ceil(border(1)));
  const auto told = yarn({{"beta_fast", 2}, {"beta_slow", 0.5}, {"factor", 8}, {"truncate", false}});
  CHECK((told.factor == 8 && told.low == doctest::Approx(border(2)).epsilon(1e-14)));
  CHECK(told.high == doctest::Approx(border(0.5)).epsilon(1e-14));
  CHECK(yarn({{"mscale", 0.7}, {"mscale_all_dim", 0.3}}).magnitude ==
        doctest::Approx((0.07 * std::log(4) + 1) / (0.03 * std::log(4) + 1)).epsilon(1e-14));
  CHECK(yarn({{"mscale", 0.7}}).magnitude == usual.magnitude);
  CHECK(yarn({{"mscale", 0.7}, {"mscale_all_dim", 0.3}, {"attention_factor", 1.5}}).magnitude == 1.5);
  CHECK(yarn({{"original_max_position_embeddings", 64}}).magnitude == 1);  // as long as it was
}
