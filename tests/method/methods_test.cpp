// Owns: the methods on a small BERT, a row each: what trains, its gradients against finite differences, recomputation;
// their description; packed weights, and BERT's errors.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <meft/method/any.hpp>
#include <meft/model/bart.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/opt.hpp>
#include <meft/model/t5.hpp>
#include <meft/model/transformer.hpp>
#include <meft/model/vit.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/nn/merge.hpp>
#include <meft/ops/loss.hpp>
#include <meft/optim/spsa.hpp>
#include <meft/train/steps.hpp>

#include "messages.hpp"
#include "methods.hpp"

namespace {

using namespace meft;
using test::check_error;
using Bert = model::Transformer<double>;

Bert make_bert(Index layers, Index width = 12) {
  auto config = SmallBert{.layers = layers, .width = width, .heads = 3, .inner = 16}.config();
  config.max_position_embeddings = 10;
  // Dropout 0.1 everywhere, replayed from the batch's run, so that differences can be taken.
  return away<double>(config.spec());
}
/// For methods that are for images.
Bert make_vit(Index layers) {
  model::VitConfig config;
  config.hidden_size = 12;
  config.num_hidden_layers = layers;
  config.num_attention_heads = 3;
  config.intermediate_size = 16;
  config.image_size = 8;
  config.patch_size = 4;
  config.num_channels = 1;
  return away<double>(config.spec());
}

nn::Batch<> make_batch() {
  auto batch = nn::Batch<>::pack({{3, 7, 1, 0}, {19}, {5, 5, 2, 11, 8, 13}}, {{0, 0, 1, 1}, {0}, {0, 1, 1, 1, 1, 1}});
  batch.labels = Tensor<std::int32_t>::from({3}, {1, 0, 2});
  batch.run = {6, 2, true};
  batch.pixels = Tensor<float>({3, 1, 8, 8});  // for models that read these
  fill_normal(batch.pixels, {4, 600, 0}, 1.0);
  return batch;
}

StackOptions stack_options() {
  return {.word_bits = 64, .fraction_bits = 40, .slice_tokens = 5, .readout = readout_from("learned")};
}

const std::string layer = "encoder.layer.0.";

/// `names` of the only layer, or of its adapters and the like.
std::vector<std::string> in_layer(const std::vector<std::string>& names) {
  std::vector<std::string> out;
  for (const auto& name : names) out.push_back(layer + name);
  return out;
}
/// A weight and a bias.
std::vector<std::string> module(const std::string& name) { return {name + ".weight", name + ".bias"}; }
/// The parameters of an adapter.
std::vector<std::string> adapter(const std::string& name, bool norm = false) {
  std::vector<std::string> out{name + ".down.weight", name + ".down.bias", name + ".up.weight", name + ".up.bias"};
  if (norm) out.insert(out.end(), {name + ".norm.weight", name + ".norm.bias"});
  return out;
}
std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
/// Those of the model itself that end so.
std::vector<std::string> model_names(const std::string& end, bool images = false) {
  std::vector<std::string> out;
  auto bert = images ? make_vit(1) : make_bert(1);
  nn::for_each_parameter(bert, [&](const std::string& name, const auto&) {
    if (name.ends_with(end)) out.push_back(name);
  });
  return out;
}

/// Those of a layer beside the model's, which has the names of the model's.
std::vector<std::string> in_side_layer(bool images = false) {
  std::vector<std::string> out;
  for (const auto& name : model_names("", images))
    if (name.starts_with(layer)) out.push_back("side.layer.0." + name.substr(layer.size()));
  return out;
}

/// A method at a small size, and what trains of a model of one layer beside the head.
struct Row {
  AnyMethod method;
  std::vector<std::string> trained;
};

const std::vector<Row>& rows() {
  static const MeftOptions options{
      .stack = stack_options(), .dropout = 0.1f, .adapter_norm = true, .start = AdapterStart::paper};
  static const auto balanced = [](MeftOptions from) {
    from.coupling = Coupling::balanced;
    return from;
  }(options);
  static const auto mix = std::vector<std::string>{"readout.mix"};
  static const auto reversible = in_layer(adapter("mlp_adapter") + adapter("reversible_adapter", true)) + mix;
  static const auto update = [](const std::string& of) {
    return in_layer({of + ".lora_A.weight", of + ".lora_B.weight"});
  };
  static const auto updates = update("attention.self.query") + update("attention.self.value");
  static const auto attention_updates = updates + update("attention.self.key") + update("attention.output.dense");
  static const auto all_updates = attention_updates + update("intermediate.dense") + update("output.dense");
  static const LowRank of_attention{3, 6, LowRank::Targets::attention}, of_all{3, 6, LowRank::Targets::linear},
      of_some{3, 6, LowRank::Targets::key | LowRank::Targets::down};
  static const auto factors = in_layer({"attention.self.key.scale", "attention.self.value.scale", "hidden_scale"});
  static const auto more_factors =
      in_layer({"attention.self.key.scale", "attention.self.value.scale", "attended_scale", "hidden_scale"});
  static const auto other_factors =
      in_layer({"attention.self.query.scale", "attention.self.value.scale", "hidden_scale"});
  static const auto with_maps = [](MeftOptions from) {
    from.maps = true;
    from.map = {.terms = 3, .rank = 2, .scale = 0.5};
    return from;
  }(options);
  static const auto beside = in_layer({"reversible_map.down", "reversible_map.mix", "reversible_map.up"});
  static const PrefixTuning prefix{.tokens = 3};
  static const auto before = in_layer({"attention_prefix.key", "attention_prefix.value"});
  static const Alore alore{.terms = 3, .rank = 2, .scale = 0.5};
  static const auto maps = in_layer(
      {"attention_map.down", "attention_map.mix", "attention_map.up", "mlp_map.down", "mlp_map.mix", "mlp_map.up"});
  static const SparseGrad turned{.density = 0.4};
  static const auto in_basis = in_layer({"intermediate.dense.sparse.values", "output.dense.sparse.values"});
  static const Speft speft{.density = 0.2, .local = true};
  static const auto chosen = in_layer({"attention.self.query.sparse.values", "attention.self.key.sparse.values",
                                       "attention.self.value.sparse.values", "attention.output.dense.sparse.values",
                                       "intermediate.dense.sparse.values", "output.dense.sparse.values"});
  static const auto channels = [](const char* part) { return std::string("side.layers.0.channels.") + part; };
  static const auto mixers =
      module(channels("norm")) + module(channels("down")) + module(channels("up")) + std::vector{channels("scale")};
  static const std::vector<Row> all{
      {Full{}, model_names("")},
      {HeadOnly{}, {}},
      {BitFit{}, model_names("bias")},
      {Houlsby{4, 0.1f},
       in_layer(std::vector<std::string>{"attention.output.LayerNorm.weight", "attention.output.LayerNorm.bias",
                                         "output.LayerNorm.weight", "output.LayerNorm.bias"} +
                adapter("attention_adapter") + adapter("mlp_adapter"))},
      {LowRank{3, 6}, updates},
      {Ia3{}, factors},
      {speft, chosen},
      {prefix, before},
      {alore, maps},
      {turned, in_basis},
      {PromptTuning{.tokens = 2}, {"virtual_tokens"}},
      {Unipt{.projection = 5}, module("side.taps.0.dense") + module("side.taps.0.norm") + module("side.taps.1.dense") +
                                   module("side.taps.1.norm") + std::vector<std::string>{"side.gate.weight"} +
                                   module("side.mix") + module("side.mix_norm") + module("side.output")},
      {Lst{.reduction = 2}, module("side.down.0") + module("side.down.1") + std::vector<std::string>{"side.gates"} +
                                in_side_layer() + module("side.norm") + module("side.up")},
      {Qst{.reduction = 2, .rank = 3},
       module("side.down.0.first") + module("side.down.0.second") + module("side.down.0.norm") +
           module("side.down.1.first") + module("side.down.1.second") + module("side.down.1.norm") +
           std::vector<std::string>{"side.gates"} + in_side_layer() + module("side.norm") + module("side.up") +
           std::vector<std::string>{"side.share"}},
      {Sherl{.projection = 5, .late_layers = 0}, module("side.taps.0.dense") + module("side.taps.0.norm") +
                                                     module("side.taps.1.dense") + module("side.taps.1.norm") +
                                                     module("side.gate") + module("side.output") + module("side.norm")},
      {Losa{.rank = 2}, mixers},
      {Fpt{.prompts = 2, .image = 8, .reduction = 2, .layers = 1, .kept = 0.5},
       module("side.patches") + std::vector<std::string>{"side.class_token", "side.position", "side.prompts"} +
           module("side.prompt_norm") + module("side.prompt_down") + in_side_layer(true) + module("side.norm") +
           module("side.up")},
      {Meft1{.bottleneck = 4, .options = options}, reversible},
      {Meft1{.options = options, .inside = LowRank{3, 6}}, updates + mix},
      {Meft1{.options = options, .inside = Ia3{}}, factors + mix},
      {Meft1{.options = options, .inside = speft}, chosen + mix},
      {Meft1{.options = options, .inside = prefix}, before + mix},
      {Meft1{.options = options, .inside = alore}, maps + mix},
      {Meft1{.options = options, .inside = turned}, in_basis + mix},
      {Meft2{.bottleneck = 4, .options = options}, reversible},
      {Meft2{.options = options, .inside = LowRank{3, 6}}, updates + mix},
      {Meft2{.options = options, .inside = Ia3{}}, factors + mix},
      {Meft2{.options = options, .inside = speft}, chosen + mix},
      {Meft2{.options = options, .inside = prefix}, before + mix},
      {Meft2{.options = options, .inside = alore}, maps + mix},
      {Meft2{.options = options, .inside = turned}, in_basis + mix},
      {Meft3{.bottleneck = 4, .options = options},
       in_layer(adapter("attention_adapter") + adapter("mlp_adapter")) + mix},
      {Meft3{.options = options, .inside = LowRank{3, 6}}, updates + mix},
      {Meft3{.options = options, .inside = Ia3{}}, factors + mix},
      {Meft3{.options = options, .inside = speft}, chosen + mix},
      {Meft3{.options = options, .inside = prefix}, before + mix},
      {Meft3{.options = options, .inside = alore}, maps + mix},
      {Meft3{.options = options, .inside = turned}, in_basis + mix},
      {Mezo<Full>{}, model_names("")},
      {Mezo<LowRank>{{3, 6}}, updates},
      {Mezo<PrefixTuning>{prefix}, before},
      {Zofo<LowRank>{.module = {3, 6}}, updates},
      {Zofo<PrefixTuning>{.module = prefix}, before},
      {Zofo<PromptTuning>{.module = {.tokens = 2}}, {"virtual_tokens"}},
      {Zofo<Meft1>{.module = {.bottleneck = 4, .options = options}}, reversible},
      // Beyond the registry's: updates of more layers, the other coupling, factors as peft has them, sums of products
      // beside layers.
      {of_attention, attention_updates},
      {of_all, all_updates},
      {of_some, update("attention.self.key") + update("output.dense")},
      {Meft1{.options = options, .inside = of_all}, all_updates + mix},
      {Meft3{.options = options, .inside = of_attention}, attention_updates + mix},
      {Mezo<LowRank>{{1, 1, LowRank::Targets::linear}}, all_updates},
      {Zofo<LowRank>{.module = of_all}, all_updates},
      {Meft1{.bottleneck = 4, .options = with_maps}, in_layer(adapter("mlp_adapter")) + beside + mix},
      {Meft2{.bottleneck = 4, .options = with_maps}, in_layer(adapter("mlp_adapter")) + beside + mix},
      {Meft1{.beta = {1, 2}, .options = with_maps, .inside = alore}, maps + beside + mix},
      {Ia3{.form = Ia3::Form::bert}, more_factors},
      {Meft1{.options = options, .inside = Ia3{.form = Ia3::Form::bart}}, other_factors + mix},
      {Meft1{.bottleneck = 4, .lambda = {-1, 4}, .options = balanced}, reversible},
      {Meft2{.bottleneck = 4, .options = balanced}, reversible},
      {Meft3{.bottleneck = 4, .options = balanced},
       in_layer(adapter("attention_adapter") + adapter("mlp_adapter")) + mix},
  };
  return all;
}

/// A model under a method, with a head.
struct Subject {
  Bert bert;
  Body<double> body;
  nn::Classifier<double> head;
  nn::Batch<> batch = make_batch();
  struct Part {
    std::string name;
    Parameter<double> parameter;
  };
  std::vector<Part> parts;

  explicit Subject(const AnyMethod& method, bool recompute = false, Index layers = 2, Index width = 12,
                   std::optional<Precision> precision = {})
      : bert(method_facts(method).reads_images ? make_vit(layers) : make_bert(layers, width)),
        body(adapt(bert, method, {.recompute = recompute, .precision = precision})),
        head(nn::Classifier<double>::make(width, 3, {4, 400, 0})) {
    head.dense = nn::Linear<double>::normal(width, width, {4, 401, 0}, 0.3);
    head.dropout = 0.1f;
    head.site = 402;
    prepare(bert, body, method, Preview<double>{1, 1, 0, [&](const auto&) { return loss(); }});
    nn::for_each_parameter(bert, [&](const std::string& name, Parameter<double>& p) { parts.push_back({name, p}); });
    body.own(body, [&](const char* own, auto& part) {
      nn::walk(
          part,
          [&](const std::string& name, Parameter<double>& p) {
            if (p.defined()) parts.push_back({name, p});
          },
          own);
    });
    nn::for_each_parameter(head, [&](const std::string& name, Parameter<double>& p) { parts.push_back({name, p}); });
    // Away from where a method starts: LoRA's B and all new biases are zero, and α is 1.
    std::uint32_t site = 700;
    for (auto& part : parts) {
      if (!part.parameter.trainable()) continue;
      Tensor<double> noise(part.parameter.shape());
      fill_normal(noise, {4, site++, 0}, 0.2);
      map(Cpu{}, Add{}, noise.size(), part.parameter.value().data(), std::as_const(part.parameter).value().data(),
          noise.data());
    }
  }

  Var<double> logits() const { return head(bert.run(batch, body)); }
  Var<double> loss() const { return cross_entropy(logits(), batch.labels); }
  void backward() {
    for (auto& part : parts) part.parameter.gradient() = {};
    Tape tape;
    tape.backward(loss());
  }
  /// Every gradient and the loss, in one line.
  std::vector<double> bits() {
    backward();
    std::vector<double> out{loss().value().item()};
    for (const auto& part : parts) {
      if (!part.parameter.gradient().defined()) continue;
      const auto g = part.parameter.gradient().values();
      out.insert(out.end(), g.begin(), g.end());
    }
    return out;
  }
  std::vector<std::string> trained() const {
    std::vector<std::string> out;
    for (const auto& part : parts)
      if (part.parameter.trainable()) out.push_back(part.name);
    return out;
  }
};

}  // namespace

// Streams of 40 fraction bits make the loss a staircase with steps near 1e-12: there the step is 1e-3, and its own
// error, third derivatives times 1e-6, bounds the check.
TEST_CASE("methods: gradients against finite differences; what is frozen has none") {
  for (const auto& row : rows()) {
    Subject s(row.method);
    s.backward();
    const bool reversible = method_facts(row.method).reversible;
    const double step = reversible ? 1e-3 : 1e-5, tolerance = reversible ? 1e-4 : 1e-6;
    std::uint32_t site = 0;
    for (auto& part : s.parts) {
      const std::string& name = part.name;
      auto& p = part.parameter;
      CAPTURE(method_title(row.method));
      CAPTURE(name);
      CHECK(p.gradient().defined() == p.trainable());
      if (!p.gradient().defined()) continue;
      const auto gradient = p.gradient().values();
      double largest = 0;
      for (const double g : gradient) largest = std::max(largest, std::fabs(g));
      if (!name.ends_with("key.bias")) CHECK(largest > 1e-6);  // softmax does not see a key bias
      for (std::uint64_t draw = 0; draw < 4; ++draw) {
        const auto e = below({8, site, 0}, draw, static_cast<std::uint32_t>(p.size()));
        double& x = p.value().data()[e];
        const double before = x;
        x = before + step;
        const double up = s.loss().value().item();
        x = before - step;
        const double down = s.loss().value().item();
        x = before;
        CHECK(std::fabs((up - down) / (2 * step) - gradient[e]) <= tolerance * std::max(largest, 0.01));
      }
      ++site;
    }
  }
}

TEST_CASE("methods: the same bits from recomputation and from any number of threads") {
  for (const auto& row : rows()) {
    const auto& method = row.method;
    CAPTURE(method_title(method));
    const bool recomputes = method_facts(method).recomputes;
    set_threads(1);
    const auto one = Subject(method).bits();
    if (recomputes) CHECK(Subject(method, true).bits() == one);
    else CHECK_THROWS_AS(Subject(method, true), Error);
    set_threads(2);
    CHECK(Subject(method).bits() == one);
    if (recomputes) CHECK(Subject(method, true).bits() == one);
    set_threads(1);
  }
}

TEST_CASE("methods: full fine-tuning in bf16 is near that in float, recomputed too, and as MeZO reads it is the same") {
  const auto bits = [](const AnyMethod& method, bool recompute, std::optional<Precision> precision) {
    return Subject(method, recompute, 2, 12, precision).bits();
  };
  set_threads(1);
  const auto wide = bits(Full{}, false, {}), narrow = bits(Full{}, false, Precision::bf16);
  REQUIRE(narrow.size() == wide.size());
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < wide.size(); ++i) {
    apart += (narrow[i] - wide[i]) * (narrow[i] - wide[i]);
    size += wide[i] * wide[i];
  }
  CHECK(apart > 1e-8 * size);  // a bf16 has 8 bits
  CHECK(apart < 1e-2 * size);
  CHECK(bits(Full{}, true, Precision::bf16) == narrow);
  set_threads(2);
  CHECK(bits(Full{}, true, Precision::bf16) == narrow);
  set_threads(1);
  CHECK(bits(Mezo<Full>{}, false, Precision::bf16) == bits(Mezo<Full>{}, false, {}));
}

TEST_CASE("methods: exact streams give the bits of stored ones") {
  int checked = 0;
  for (const auto& row : rows()) {
    auto method = row.method;
    auto* stack = stack_of(method);
    if (!stack) continue;
    CAPTURE(method_title(method));
    const auto exact = Subject(method, false, 3).bits();
    stack->streams = Streams::stored;
    CHECK(Subject(method, false, 3).bits() == exact);
    ++checked;
  }
  CHECK(checked == 31);
}

TEST_CASE("methods: what is inside MEFT's layers changes the upper ones alone, and takes no factor beside it") {
  const StackOptions stack{.readout = readout_from("plm")};
  const auto names = [&](const AnyMethod& method) {
    auto out = Subject(method, false, 2).trained();
    out.resize(out.size() - 4);  // the head's
    return out;
  };
  const auto upper = names(Meft1{.options = {.stack = stack, .reversible_layers = 1}, .inside = LowRank{3, 6}});
  CHECK(upper.size() == 4);
  for (const auto& name : upper) CHECK(name.starts_with("encoder.layer.1.attention.self."));
  auto bert = make_bert(1);
  check_error({"factor beside it is one", "1/2"}, [&] { (void)adapt(bert, Meft1{.beta = {1, 2}, .inside = Ia3{}}); });
  check_error({"factor beside it is one", "1/3"}, [&] { (void)adapt(bert, Meft2{.lambda = {1, 3}, .inside = Ia3{}}); });
  // Nothing is changed at the start: x₂ becomes λ·x₁ + layer(x₂) and they change places, in MEFT2 with β for λ.
  const auto hidden = [&](const AnyMethod& method) {
    auto model = make_bert(3);
    auto batch = make_batch();
    batch.run.training = false;
    return adapt(model, method)(model.embed(batch)).value.value().values();
  };
  const MeftOptions plm{.stack = stack};
  const auto start = hidden(Meft1{.lambda = {1, 8}, .options = plm, .inside = LowRank{}});
  CHECK(hidden(Meft1{.lambda = {1, 8}, .options = plm, .inside = Ia3{}}) == start);
  CHECK(hidden(Meft2{.beta = {1, 8}, .options = plm, .inside = Ia3{}}) == start);
  CHECK(hidden(Meft3{.options = plm, .inside = Ia3{}}) == hidden(Meft3{.options = plm, .inside = LowRank{}}));
  const auto plain = hidden(HeadOnly{}), near = hidden(Meft1{.lambda = {1, 4096}, .options = plm, .inside = Ia3{}});
  for (std::size_t i = 0; i < plain.size(); ++i) CHECK(near[i] == doctest::Approx(plain[i]).epsilon(0.01).scale(1));
}

TEST_CASE("methods: every one of the registry has a row here; the names of what trains") {
  const auto all = methods_and_insides();
  REQUIRE(rows().size() == all.size() + 15);
  for (std::size_t i = 0; i < rows().size(); ++i) {
    const auto& row = rows()[i];
    if (i < all.size()) CHECK(method_title(row.method) == method_title(all[i]));
    CAPTURE(method_title(row.method));
    const std::vector<std::string> head{"pooler.dense.weight", "pooler.dense.bias", "classifier.weight",
                                        "classifier.bias"};
    auto found = Subject(row.method, false, 1).trained(), expected = row.trained + head;
    std::sort(found.begin(), found.end());
    std::sort(expected.begin(), expected.end());
    CHECK(found == expected);
  }
  CHECK(rows()[0].trained.size() == 5 + 16);
  CHECK(rows()[2].trained.size() == 9);
}

TEST_CASE("methods: the weights that a method says it adds to a layer are those of its matrices there") {
  model::LlamaConfig few;  // key heads
  few.vocab_size = 20;
  few.hidden_size = 12;
  few.num_hidden_layers = 1;
  few.num_attention_heads = 3;
  few.num_key_value_heads = 1;
  few.head_dim = few.rotary.rotated = 4;
  few.intermediate_size = 16;
  int checked = 0;
  for (const auto& row : rows()) {
    if (method_facts(row.method).beside) continue;
    CAPTURE(method_title(row.method));
    for (const bool llama : {false, true}) {
      CAPTURE(llama);
      auto model = llama ? away<double>(few.spec()) : make_bert(1);
      std::set<std::string> own;
      const auto over = [&](const auto& f) { nn::for_each_parameter(model.layers[0], f); };
      over([&](const std::string& name, const auto&) { own.insert(name); });
      const auto body = adapt(model, row.method);
      Index found = 0;
      over([&](const std::string& name, const auto& p) {
        if (p.shape().rank() > 1 && !own.contains(name)) found += p.size();
      });
      CHECK(added_weights(row.method, StepSizes::of(model.spec.layers.layer)) == found);
      checked += found > 0;
    }
  }
  CHECK(checked > 40);
}

TEST_CASE("methods: by name, with their options as text") {
  for (const auto& method : all_methods()) {
    const auto name = method_name(method);
    CAPTURE(name);
    CHECK(method_named(name).index() == method.index());
    CHECK(!method_about(method).empty());
    for (const auto& option : method_options(method)) {
      CAPTURE(option.about.name);
      auto copy = method;
      CHECK(set_option(copy, option.about.name, option.text()));  // what it says of itself it takes
      CHECK_FALSE(set_option(copy, option.about.name, "nothing of the kind"));
      CHECK_FALSE(set_option(copy, option.about.name, ""));
      const auto options = method_options(copy);
      for (const auto& other : options)
        if (other.about.name == option.about.name) CHECK(other.value == option.value);
    }
    auto copy = method;
    CHECK_FALSE(set_option(copy, "colour", "1"));
  }
  check_error({"method: expected full, head", " or ", "found: meft4"}, [] { (void)method_named("meft4"); });
  // What is inside is read, though others that could be there have options of the same names.
  for (const auto& method : methods_and_insides()) {
    const auto title = method_title(method);
    const auto plus = title.find('+');
    if (plus == title.npos) continue;
    CAPTURE(title);
    for (const auto& inner : method_options(method_named(title.substr(plus + 1))))
      for (const auto& option : method_options(method))
        if (option.about.name == inner.about.name) {
          CAPTURE(option.about.name);
          CHECK(option.about.needs.empty());
          CHECK(option.text() == inner.text());
        }
  }

  AnyMethod method = Meft2{};
  for (const auto& given : std::vector<std::array<const char*, 3>>{{"lambda", "2^-3", "1/8"},
                                                                   {"beta", "-2/4", "-1/2"},
                                                                   {"stored-layers", "3", "3"},
                                                                   {"stored-layers", "0", "0"},
                                                                   {"streams", "rounded", "rounded"},
                                                                   {"readout", "scaled", "scaled"},
                                                                   {"coupling", "balanced", "balanced"},
                                                                   {"adapter-start", "paper", "paper"},
                                                                   {"beside", "alore", "alore"},
                                                                   {"beside", "adapter", "adapter"},
                                                                   {"bottleneck", "65536", "65536"},
                                                                   {"reversible-layers", "3", "3"},
                                                                   {"reversible-layers", "all", "all"},
                                                                   {"adapter-deviation", "0.25", "0.25"},
                                                                   {"fraction-bits", "29", "29"}}) {
    const char *name = given[0], *text = given[1], *found = given[2];
    CAPTURE(name);
    REQUIRE(set_option(method, name, text));
    for (const auto& option : method_options(method))
      if (option.about.name == name) CHECK(option.text() == found);
  }
  for (const auto& given : std::vector<std::array<const char*, 2>>{{"lambda", "0"},
                                                                   {"lambda", "1/0"},
                                                                   {"beta", "2^-16"},
                                                                   {"streams", "exac"},
                                                                   {"streams", "exact|rounded"},
                                                                   {"readout", "concat"},
                                                                   {"bottleneck", "0"},
                                                                   {"bottleneck", "65537"},
                                                                   {"bottleneck", "4.0"},
                                                                   {"reversible-layers", "0"},
                                                                   {"stored-layers", "-1"},
                                                                   {"stored-layers", "all"},
                                                                   {"adapter-deviation", "1"},
                                                                   {"adapter-deviation", "-0.1"},
                                                                   {"adapter-deviation", "nan"},
                                                                   {"fraction-bits", "30"}}) {
    const char *name = given[0], *text = given[1];
    CAPTURE(name);
    CAPTURE(text);
    CHECK_FALSE(set_option(method, name, text));
  }
  const auto& m = std::get<Meft2>(method);
  CHECK((m.lambda.reduced() == Lambda{1, 8} && m.beta.reduced() == Lambda{-1, 2}));
  CHECK((m.bottleneck == 65536 && m.options.deviation == 0.25 && m.options.reversible_layers == -1));
  CHECK((m.options.stack.streams == Streams::rounded && m.options.stack.fraction_bits == 29));
  CHECK(m.options.stack.readout.kind == Readout::Kind::scaled);
  CHECK((m.options.coupling == Coupling::balanced && m.options.start == AdapterStart::paper && !m.options.maps));
  // An enumeration by names in its order.
  AnyMethod vectors = Ia3{}, chosen = Speft{};
  for (const auto& [of, rate] : std::vector<std::pair<AnyMethod, double>>{{LowRank{}, Recipe{}.rate},
                                                                          {Ia3{}, 3e-3},
                                                                          {Alore{}, 1e-3},
                                                                          {Lst{}, 3e-3},
                                                                          {Losa{}, 1e-3},
                                                                          {Speft{}, 1e-3},
                                                                          {Fpt{}, 2e-4},
                                                                          {Unipt{}, 5e-4},
                                                                          {Sherl{}, 1e-3},
                                                                          {Full{}, 1e-4},
                                                                          {Meft1{}, 5e-4},
                                                                          {Meft3{.inside = Ia3{}}, 3e-3}}) {
    const auto name = method_name(of);
    CAPTURE(name);
    CHECK(method_recipe(of).rate == rate);
    CHECK(method_recipe(of).head_rate == (name == "speft" ? 5e-4 : 0));
  }
  CHECK(std::get<Ia3>(vectors).form == Ia3::Form::paper);
  for (const auto& [name, form] : std::vector<std::pair<const char*, Ia3::Form>>{{"peft-bart", Ia3::Form::bart},
                                                                                 {"peft-opt", Ia3::Form::opt},
                                                                                 {"peft", Ia3::Form::bert},
                                                                                 {"paper", Ia3::Form::paper}}) {
    REQUIRE(set_option(vectors, "ia3-form", name));
    CHECK(std::get<Ia3>(vectors).form == form);
  }
  AnyMethod updates = LowRank{};
  const auto targets = [&](const char* text) {
    REQUIRE(set_option(updates, "lora-targets", text));
    const auto options = method_options(updates);
    return std::find_if(options.begin(), options.end(), [](const auto& o) { return o.about.name == "lora-targets"; })
        ->text();
  };
  using Targets = LowRank::Targets;
  CHECK(targets("query-value") == "query-value");
  CHECK(targets("down,key") == "key,down");
  CHECK(std::get<LowRank>(updates).targets == (Targets::key | Targets::down));
  CHECK(targets("attention,up,gate,down,up") == "linear");
  CHECK(targets("value,query") == "query-value");
  for (const char* text : {"", "query,", ",", "q_proj", "query value", "query|value", "Linear"})
    CHECK_FALSE(set_option(updates, "lora-targets", text));
  CHECK(std::get<LowRank>(updates).targets == Targets::query_value);
  auto ungated = make_bert(1);
  check_error({"lora: option lora-targets: the layers have nothing of it"},
              [&] { (void)adapt(ungated, LowRank{.targets = Targets::gate}); });
  check_error({"lora: option lora-targets"}, [&] { (void)adapt(ungated, LowRank{.targets = Targets{}}); });
  CHECK((set_option(chosen, "salience", "grasp") && std::get<Speft>(chosen).salience == Speft::Salience::grasp));
  CHECK((set_option(chosen, "value-decay", "yes") && std::get<Speft>(chosen).decays));
  for (const char* text : {"pape", "peft|peft-opt", "|", "-opt"}) CHECK_FALSE(set_option(vectors, "ia3-form", text));

  CHECK(stack_of(method)->fraction_bits == 29);
  AnyMethod opt = Meft1{}, bert = Meft1{}, vit = Meft1{}, llama = Meft2{}, plain = LowRank{};
  suit_family(opt, {"opt"});
  suit_family(bert, {"bert"});
  suit_family(vit, {"vit", true});
  suit_family(llama, {"llama"});
  suit_family(plain, {"opt"});
  CHECK(std::get<Meft1>(opt).options.coupling == Coupling::paper);
  CHECK(std::get<Meft1>(bert).options.coupling == Coupling::balanced);
  CHECK(std::get<Meft1>(vit).options.coupling == Coupling::paper);
  CHECK(std::get<Meft2>(llama).options.coupling == Coupling::balanced);
  CHECK(std::get<Meft1>(bert).options.start == AdapterStart::zero);
  CHECK(std::get<Meft1>(opt).options.stack.readout.kind == Readout::Kind::scaled);
  CHECK(std::get<Meft1>(bert).options.stack.readout.kind == Readout::Kind::carrier);
  CHECK(std::get<Meft1>(vit).options.stack.readout.kind == Readout::Kind::average);
  CHECK(std::get<Meft2>(llama).options.stack.readout.kind == Readout::Kind::carrier);
  CHECK(stack_of(plain) == nullptr);
  for (const bool images : {false, true}) {
    const auto start = images ? TokenStart::random : TokenStart::words;
    AnyMethod prefix = Mezo<PrefixTuning>{}, prompt = Zofo<PromptTuning>{};
    suit_family(prefix, {images ? "vit" : "bert", images});
    suit_family(prompt, {images ? "vit" : "bert", images});
    CHECK(std::get<Mezo<PrefixTuning>>(prefix).inside.start == start);
    CHECK(std::get<Zofo<PromptTuning>>(prompt).module.start == start);
  }
}

TEST_CASE("methods: a number outside of its option's range is an error that names it, and changes nothing") {
  auto bert = make_bert(2), vit = make_vit(2);
  int checked = 0;
  const auto check = [&](const auto& method) {
    using Method = std::decay_t<decltype(method)>;
    auto& model = Described<Method>::facts.reads_images ? vit : bert;
    for (int wrong = 0;; ++wrong) {  // each of its numbers
      auto bad = method;
      std::string name;
      int at = 0;
      Described<Method>::options(bad, [&]<class Kind>(const Option& about, const Kind& kind, auto& value) {
        constexpr bool whole = std::same_as<Kind, Whole>;
        constexpr bool real = std::same_as<Kind, Part> || std::same_as<Kind, Share> || std::same_as<Kind, Positive>;
        if constexpr (whole || real) {
          if (!about.needs.empty() || at++ != wrong) return;
          name = about.name;
          if constexpr (whole) value = kind.low - 1;
          else value = wrong % 2 ? -1 : std::numeric_limits<double>::quiet_NaN();
        }
      });
      if (name.empty()) break;
      CAPTURE(method_title(method));
      const std::vector<std::string> parts{std::string(Described<Method>::name), "option " + name + ": expected "};
      check_error(parts, [&] { (void)adapt(model, bad); });
      check_error(parts, [&] { (void)added_weights(bad, StepSizes{.width = 12, .ffn = 16, .heads = 3}); });
      check_error(parts, [&] { (void)method_activation<double, Cpu>(bad, StepSizes{.width = 12, .ffn = 16}); });
      ++checked;
    }
  };
  for (const auto& method : methods_and_insides()) std::visit(check, method);
  CHECK(checked > 60);
  for (auto* model : {&bert, &vit})
    nn::for_each_parameter(*model, [](const std::string&, const auto& p) { CHECK((p.defined() && p.trainable())); });
  check_error({"feature-cache", "-1"}, [&] { (void)adapt(bert, Lst{}, {.feature_cache = -1}); });
  check_error({"lambda", "1/0"}, [&] { (void)adapt(bert, Meft1{.lambda = {1, 0}}); });
}

TEST_CASE("methods: new parts start where the method says") {
  auto bert = make_bert(2);
  const auto before = bert.embed(make_batch());
  const auto plain = adapt(bert, Full{})(before).value.value().values();
  const auto lora = adapt(bert, LowRank{3, 6})(before).value.value().values();  // B is zero: the model as it was
  for (std::size_t i = 0; i < plain.size(); ++i) CHECK(lora[i] == doctest::Approx(plain[i]).epsilon(1e-11));
  const auto adapted = adapt(bert, Meft1{});
  const auto& adapter = *bert.layers[0].mlp_adapter;
  CHECK(adapter.down.weight.shape() == Shape{8, 12});
  double squares = 0;
  for (const double v : adapter.down.weight.value().values()) squares += v * v;
  CHECK(std::sqrt(squares / 96) == doctest::Approx(0.02).epsilon(0.2));
  for (const double v : adapter.down.bias.value().values()) CHECK(v == 0);
}

TEST_CASE("methods: before the first step a model is what it was, bit for bit, where the method says so") {
  int checked = 0;
  const auto hidden = [](const auto& adapted, bool images, bool training) {
    auto model = images ? make_vit(2) : make_bert(2);
    auto batch = make_batch();
    batch.pixels = batch.pixels.rows(0, 1);  // an image is read on its own
    batch.run.training = training;
    const auto body = adapted(model);
    return body(model.embed(batch)).value.value().values();
  };
  const auto frozen = [](auto& model) {
    detail::train_none(model, {});
    return detail::plain_body(model, {});
  };
  for (const auto& row : rows())
    if (const auto& method = row.method; method_facts(method).starts_as_is) {
      CAPTURE(method_title(method));
      const bool drops = !method_facts(method).beside;  // what is beside layers drops nothing inside them
      const bool images = method_facts(method).reads_images;
      const auto adapted = [&](auto& model) { return adapt(model, method); };
      CHECK(hidden(adapted, images, drops) == hidden(frozen, images, drops));
      ++checked;
    }
  CHECK(checked >= 3);
}

// As g·z is unbiased, with a variance of the number d of trained elements times the gradient's square, the mean of n
// draws has with the gradient a cosine near 1/√(1 + d/n).
TEST_CASE("methods: what trains by forward passes alone follows the gradient, and leaves the parameters as they are") {
  int checked = 0;
  for (const auto& row : rows()) {
    const auto recipe = method_recipe(row.method);
    if (recipe.epsilon == 0) continue;
    ++checked;
    CAPTURE(method_title(row.method));
    const bool all = method_facts(row.method).trains_all;
    for (const int threads : {1, 2}) {
      set_threads(threads);
      Subject s(row.method, false, 1, all ? 6 : 12);  // so that draws outnumber what trains by far
      s.batch.run.training = false;
      s.backward();
      std::vector<std::vector<double>> gradient, before, mean;
      nn::Named<double, Cpu> trained;
      Index size = 0;
      for (auto& part : s.parts) {
        before.push_back(part.parameter.value().values());
        if (!part.parameter.trainable()) continue;
        trained.push_back({part.name, part.parameter});
        gradient.push_back(part.parameter.gradient().values());
        mean.emplace_back(gradient.back().size());
        size += part.parameter.size();
      }
      const auto still = [&] {
        std::vector<std::vector<double>> now;
        for (const auto& part : s.parts) now.push_back(part.parameter.value().values());
        return now == before;
      };
      // g against zᵀ∇ℓ: the difference falls as ε².
      double apart[2];
      for (const bool fine : {false, true}) {
        const double epsilon = fine ? 1e-3 : 1e-2;
        auto state = optim::Spsa{.rate = 0, .epsilon = epsilon, .seed = 3}.over<double, Cpu>(trained);
        train::Steps<double, Cpu> steps([&](const nn::Batch<>&) { return s.loss(); }, 0, &state);
        state.probe(1);
        double slope = 0;
        for (std::size_t i = 0; i < trained.size(); ++i) {
          const auto moved = trained[i].second.variable().value().values(), at = trained[i].second.value().values();
          for (std::size_t j = 0; j < at.size(); ++j) slope += (moved[j] - at[j]) / epsilon * gradient[i][j];
        }
        state.probe(0);
        (void)steps.run(s.batch, [] {});
        CHECK(still());
        (void)state.step();
        CHECK(still());  // at rate 0
        apart[fine] = std::fabs(state.log()[0].g - slope);
        if (fine) CHECK(apart[1] < 1e-4 * std::max(1.0, std::fabs(slope)));
      }
      CHECK(apart[1] < apart[0] / 20);

      const int draws = recipe.inner || threads == 2 ? 8 : 4096;
      auto state = optim::Spsa{.rate = 0, .epsilon = 1e-4, .seed = 4}.over<double, Cpu>(trained);
      train::Steps<double, Cpu> steps([&](const nn::Batch<>&) { return s.loss(); }, 0, &state);
      for (int draw = 0; draw < draws; ++draw) {
        (void)steps.run(s.batch, [] {});
        std::vector<std::vector<double>> z;
        state.probe(1);
        for (const auto& one : trained) z.push_back(one.second.variable().value().values());
        state.probe(0);
        (void)state.step();
        for (std::size_t i = 0; i < z.size(); ++i) {
          const auto at = trained[i].second.value().values();
          for (std::size_t j = 0; j < z[i].size(); ++j)
            mean[i][j] += state.log().back().g * (z[i][j] - at[j]) / 1e-4 / draws;
        }
      }
      double product = 0, square = 0, other = 0;
      for (std::size_t i = 0; i < mean.size(); ++i)
        for (std::size_t j = 0; j < mean[i].size(); ++j) {
          product += mean[i][j] * gradient[i][j];
          square += mean[i][j] * mean[i][j];
          other += gradient[i][j] * gradient[i][j];
        }
      const double cosine = product / std::sqrt(square * other),
                   expected = 1 / std::sqrt(1 + static_cast<double>(size) / draws);
      CAPTURE(cosine);
      CAPTURE(expected);
      CHECK(std::fabs(cosine - expected) < (draws > 100 ? 0.02 : 0.15));
      if (draws > 100) CHECK(cosine > 0.9);
      if (threads == 2) {  // the same numbers from one thread
        set_threads(1);
        auto alone = optim::Spsa{.rate = 0, .epsilon = 1e-4, .seed = 4}.over<double, Cpu>(trained);
        train::Steps<double, Cpu> again([&](const nn::Batch<>&) { return s.loss(); }, 0, &alone);
        for (int draw = 0; draw < draws; ++draw) (void)again.run(s.batch, [] {}), (void)alone.step();
        for (int draw = 0; draw < draws; ++draw)
          CHECK(alone.log()[static_cast<std::size_t>(draw)].g == state.log()[static_cast<std::size_t>(draw)].g);
      }
    }
    set_threads(1);
  }
  CHECK(checked >= 3);
}

TEST_CASE("methods: merged weights give what the updates gave") {
  int checked = 0;
  for (const auto& row : rows()) {
    const auto& method = row.method;
    if (!method_facts(method).merges() || !method_facts(method).trains_layers) continue;
    CAPTURE(method_title(method));
    Subject s(method);  // away from its start
    s.batch.run.training = false;
    const auto before = s.logits().value().values();
    nn::merge_updates<double, Cpu>(s.bert);
    s.body = adapt(s.bert, HeadOnly{});
    const auto names = s.trained();
    const auto after = s.logits().value().values();
    std::vector<std::string> left;
    nn::for_each_parameter(s.bert, [&](const std::string& name, const auto&) { left.push_back(name); });
    auto plain = make_bert(2);
    std::vector<std::string> own;
    (void)adapt(plain, HeadOnly{});
    nn::for_each_parameter(plain, [&](const std::string& name, const auto&) { own.push_back(name); });
    CHECK(left == own);
    double apart = 0;
    for (std::size_t i = 0; i < before.size(); ++i) apart = std::max(apart, std::fabs(after[i] - before[i]));
    CHECK(apart < 1e-12);
    Subject fresh(HeadOnly{});
    fresh.batch.run.training = false;
    const auto without = fresh.logits().value().values();
    double changed = 0;
    for (std::size_t i = 0; i < before.size(); ++i) changed = std::max(changed, std::fabs(without[i] - before[i]));
    CHECK(changed > 1e-3);
    ++checked;
  }
  CHECK(checked >= 6);
}

// |merged − not merged| ≤ 2·(in + 4)·2⁻²⁴·Σ|x||W|, W with its factors, ΔW by its own.
TEST_CASE("methods: a merged linear layer in float stays within the rounding of its product") {
  const auto random = [](const Shape& shape, std::uint32_t site, double deviation = 1) {
    Tensor<float> out(shape);
    fill_normal(out, {19, site, 0}, deviation);
    return out;
  };
  for (const bool low_rank : {false, true})
    for (const bool packed : {false, true})
      for (const Index in : {3, 40}) {
        const Index out = 17, rank = 5;
        nn::Linear<float> layer{Parameter<float>(random({out, in}, 1)), Parameter<float>(random({out}, 2))};
        freeze(layer);
        if (packed) layer.pack();
        const nn::Scale<float> scale{Parameter<float>(random({out}, 3))};
        auto lora = nn::Lora<float>::make(in, out, rank, 16, {19, 5, 0});
        lora.b = Parameter<float>(random({out, rank}, 6));
        if (low_rank) layer.update = lora;
        else layer.update = scale;
        const Parameter<float> factor(random({in}, 4));
        const auto x = random({9, in}, 7);
        const auto inputs = x * factor;
        const auto before = layer(inputs).value().values();
        const auto w = random({out, in}, 1).values(), l = scale.factors.value().values(), f = factor.value().values(),
                   b = layer.bias.value().values(), xs = x.values();
        std::vector<double> size(static_cast<std::size_t>(9 * out));
        for (std::size_t r = 0; r < 9; ++r)
          for (std::size_t i = 0; i < static_cast<std::size_t>(out); ++i) {
            double sum = std::fabs(b[i]);
            for (std::size_t j = 0; j < static_cast<std::size_t>(in); ++j) {
              double weight = std::fabs(w[i * static_cast<std::size_t>(in) + j]);
              for (std::size_t k = 0; low_rank && k < static_cast<std::size_t>(rank); ++k)
                weight +=
                    lora.scale * std::fabs(lora.b.value().values()[i * rank + k] * lora.a.value().values()[k * in + j]);
              sum += std::fabs(xs[r * static_cast<std::size_t>(in) + j] * f[j]) * weight;
            }
            size[r * static_cast<std::size_t>(out) + i] = (low_rank ? 1.0 : std::fabs(l[i])) * sum;
          }
        nn::merge(layer, factor);
        CHECK(layer.update.index() == 0);
        CHECK(layer.packed.defined() == packed);
        const auto after = layer(x).value().values();
        for (std::size_t i = 0; i < size.size(); ++i)
          CHECK(std::fabs(double(after[i]) - double(before[i])) <=
                2 * static_cast<double>(in + 4) * std::ldexp(1.0, -24) * size[i]);
      }
}

TEST_CASE("methods: a sum of Kronecker products is that of the whole matrices, and merges within rounding") {
  const Index d = 12, m = 3, r = 2, out = 7, part = d / m;
  auto map = nn::KroneckerMap<double>::make(d, m, r, 0.7, 0, 3, 5);
  fill_normal(map.up.value(), {19, 8, 0}, 1.0);
  const auto v = map.down.value().values(), a = map.mix.value().values(), u = map.up.value().values();
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  std::vector<double> whole(at(d * d));  // I + s·H
  for (Index i = 0; i < d; ++i)
    for (Index j = 0; j < d; ++j) {
      double h = 0;
      for (Index term = 0; term < m; ++term)
        for (Index k = 0; k < r; ++k)
          h += a[at((term * m + j / part) * m + i / part)] * u[at(i % part * m * r + term * r + k)] *
               v[at((term * r + k) * part + j % part)];
      whole[at(i * d + j)] = (i == j) + 0.7 * h;
    }
  Tensor<double> x({5, d}), w({out, d});
  fill_normal(x, {19, 9, 0}, 1.0);
  fill_normal(w, {19, 10, 0}, 1.0);
  const auto matrix = Tensor<double>::from({d, d}, whole);
  const auto expected = gemm(x, t(matrix)).values(), found = map(x, {Offsets({0, 5})}).value().values();
  for (std::size_t i = 0; i < found.size(); ++i)
    CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-12).scale(1));
  auto merged = w.values();
  map.merge(merged);
  const auto product = gemm(w, matrix).values();
  for (std::size_t i = 0; i < merged.size(); ++i)
    CHECK(merged[i] == doctest::Approx(product[i]).epsilon(1e-12).scale(1));

  // |merged − not merged| ≤ 2·(in + 4)·2⁻²⁴·Σ|x||W|·|I + s·H|, twice d products long.
  nn::KroneckerMap<float> single{Parameter<float>::empty({m * r, part}), Parameter<float>::empty({m, m, m}),
                                 Parameter<float>::empty({part, m * r}), 0.7};
  std::uint32_t site = 20;
  for (auto* p : {&single.down, &single.mix, &single.up}) fill_normal(p->value(), {19, site++, 0}, 0.5);
  Tensor<float> xs({9, d}), ws({out, d});
  fill_normal(xs, {19, 30, 0}, 1.0);
  fill_normal(ws, {19, 31, 0}, 1.0);
  nn::Linear<float> layer{Parameter<float>(ws), {}};
  freeze(layer);
  layer.pack();
  const auto before = layer(single(xs, {Offsets({0, 9})})).value().values();
  nn::merge(layer, [&](std::vector<double>& to) { single.merge(to); });
  const auto after = layer(xs).value().values();
  for (std::size_t i = 0; i < after.size(); ++i) CHECK(std::fabs(after[i] - before[i]) < 4e-5);
  for (const Index terms : {4, 0, -2})
    check_error({"kronecker-terms", std::to_string(terms)},
                [&] { (void)nn::KroneckerMap<float>::make(10, terms, 1, 1, 0, 0, 0); });
}

// Where nothing depends on position, words before a text in a causal model are what their keys and values are.
TEST_CASE("methods: virtual tokens that start from words are these words") {
  model::OptConfig config;
  config.vocab_size = 20;
  config.hidden_size = config.word_embed_proj_dim = 12;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 3;
  config.ffn_dim = 16;
  config.max_position_embeddings = 20;
  const auto made = [&] {
    model::Transformer<double> out(config.spec());
    out.initialise(4);
    nn::for_each_parameter(out, [&](const std::string&, Parameter<double>& p) {
      if (p.shape().rank() > 1) fill_normal(p.value(), {4, 77, static_cast<std::uint32_t>(p.size())}, 0.3);
    });
    out.embeddings->position.value().zero();
    return out;
  };
  auto plain = made(), prefixed = made(), prompted = made();
  const auto batch = nn::Batch<>::pack({{3, 7, 1}, {19, 4}});
  const auto ids = detail::some_words(plain, 4, {6, detail::virtual_site, 0});
  auto first = ids, second = ids;
  first.insert(first.end(), {3, 7, 1});
  second.insert(second.end(), {19, 4});
  const auto with = nn::Batch<>::pack({first, second});
  const auto all = plain.run(with, adapt(plain, HeadOnly{})).value.value().values();
  std::vector<double> expected(all.begin() + 4 * 12, all.begin() + 7 * 12);
  expected.insert(expected.end(), all.begin() + 11 * 12, all.end());

  const PrefixTuning prefix{.tokens = 4, .start = TokenStart::words};
  const auto body = adapt(prefixed, prefix);
  CHECK(prepare(prefixed, body, prefix, Preview<double>{0, 1, 6, {}}));
  const auto prompt = adapt(prompted, PromptTuning{.tokens = 4, .start = TokenStart::words}, {.seed = 6});
  for (const auto& found : {prefixed.run(batch, body), prompted.run(batch, prompt)}) {
    const auto values = found.value.value().values();
    REQUIRE(values.size() == expected.size());
    CHECK(found.context.offsets == batch.offsets);
    for (std::size_t i = 0; i < values.size(); ++i)
      CHECK(values[i] == doctest::Approx(expected[i]).epsilon(1e-11).scale(1));
  }
}

TEST_CASE("methods: prefixes that start from words are every attention's keys and values of them, across too") {
  model::BartConfig config;
  config.vocab_size = 20;
  config.d_model = 12;
  config.encoder_layers = config.decoder_layers = 2;
  config.encoder_attention_heads = config.decoder_attention_heads = 3;
  config.encoder_ffn_dim = config.decoder_ffn_dim = 16;
  config.max_position_embeddings = 10;
  model::T5Config other;  // with a norm behind the encoder
  other.vocab_size = 20;
  other.d_model = 12;
  other.d_kv = 4;
  other.d_ff = 16;
  other.num_layers = other.num_decoder_layers = 2;
  other.num_heads = 3;
  for (const auto& spec : {config.spec(), other.spec()}) {
    CAPTURE(spec.family);
    auto model = away<double>(spec);
    const PrefixTuning prefix{.tokens = 4, .start = TokenStart::words};
    const auto body = adapt(model, prefix);
    CHECK(prepare(model, body, prefix, Preview<double>{0, 1, 6, {}}));
    const auto ids = detail::some_words(model, 4, {6, detail::virtual_site, 0});
    const auto words = nn::Batch<>::pack({ids});
    const auto check = [](nn::MultiHeadAttention<double>& attention, const Var<double>& reads) {
      CHECK(attention.prefix->key.value().values() == attention.key(reads).value().values());
      CHECK(attention.prefix->value.value().values() == attention.value(reads).value().values());
      attention.prefix.reset();
    };
    const auto enters = [](const auto& layer, const Var<double>& h) {
      return layer.norm_first ? layer.attention_norm(h) : h;
    };
    Body<double> without;  // prefixes
    auto h = model.embed(words);
    for (auto layer : model.layers) {  // copies
      check(layer.attention, enters(layer, h.value));
      h.value = layer(h.value, h.context);
      without.chain.layers.push_back(layer);
    }
    without.chain.plain = without.chain.layers.size();
    const auto encoded = model.encode(words, without);
    h = model.embed_decoder(words, encoded);
    for (auto layer : model.decoder_layers) {
      check(layer.attention, enters(layer, h.value));
      check(*layer.cross, encoded.value);
      h.value = layer(h.value, h.context);
    }
  }
}

TEST_CASE("methods: a packed weight gives what the weight gives") {
  const auto random = [](const Shape& shape, std::uint32_t site) {
    Tensor<double> out(shape);
    fill_normal(out, {9, site, 0}, 1.0);
    return out;
  };
  for (const Index out : {1, 5, 33})
    for (const Index in : {1, 12, 40}) {
      nn::Linear<double> layer{Parameter<double>(random({out, in}, 1)), Parameter<double>(random({out}, 2))};
      const auto x = random({7, in}, 3), dy = random({7, out}, 4);
      const auto both = [&] {
        Tape tape;
        const auto v = tape.watch(x.clone());
        const auto y = layer(v);
        tape.backward(y, dy.clone());
        return std::pair(y.value().values(), tape.gradient(v).values());
      };
      const auto [y, dx] = both();
      freeze(layer);
      layer.pack();
      CHECK_FALSE(layer.weight.defined());
      CHECK(layer.packed.defined());
      CHECK(layer.in() == in);
      CHECK(layer.out() == out);
      const auto [packed_y, packed_dx] = both();
      for (std::size_t i = 0; i < y.size(); ++i) CHECK(packed_y[i] == doctest::Approx(y[i]).epsilon(1e-12).scale(10));
      for (std::size_t i = 0; i < dx.size(); ++i)
        CHECK(packed_dx[i] == doctest::Approx(dx[i]).epsilon(1e-12).scale(10));
    }
  nn::Linear<double> trained = nn::Linear<double>::normal(3, 2, {});
  trained.pack();
  CHECK(trained.weight.defined());  // a trained weight is not packed

  // A whole model: packed under `head`, not packed under `full`.
  auto frozen = make_bert(2), open = make_bert(2);
  auto batch = make_batch();
  batch.run.training = false;
  const auto a = adapt(frozen, HeadOnly{})(frozen.embed(batch)).value.value().values();
  const auto b = adapt(open, Full{})(open.embed(batch)).value.value().values();
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-11));
}

TEST_CASE("methods: a copy of a model shares its parameters, and freezing drops gradients") {
  Subject s(Full{});
  s.backward();
  auto copy = s.bert;
  CHECK(copy.embeddings->word.gradient().defined());
  freeze(copy);
  CHECK_FALSE(s.bert.embeddings->word.gradient().defined());
  CHECK(Subject(Full{}).trained().size() > 0);
  CHECK(nn::trainable<double, Cpu>(s.bert).empty());
}

TEST_CASE("methods: dropout is off outside training") {
  Subject s(Full{});
  const auto training = s.loss().value().item();
  s.batch.run.training = false;
  const auto off = s.loss().value().item();
  CHECK(training != off);
  s.batch.run.step = 99;
  CHECK(s.loss().value().item() == off);
}

TEST_CASE("bert: a sequence too long, ids and labels outside, an uneven batch are errors") {
  Subject s(Full{});
  const auto run = [&](const std::vector<std::vector<std::int32_t>>& ids,
                       const std::vector<std::vector<std::int32_t>>& types) {
    (void)s.bert.embed(nn::Batch<>::pack(ids, types));
  };
  const std::vector<std::int32_t> ten(10, 1), eleven(11, 1), zeros(11, 0);
  CHECK_NOTHROW(run({ten}, {{zeros.begin(), zeros.end() - 1}}));
  check_error({"longer than max_position_embeddings", "11, 10"}, [&] { run({{1}, eleven}, {{0}, zeros}); });
  check_error({"id outside the table", "[20, 12]", "position 2", "id 20"}, [&] { run({{1}, {4, 20}}, {{0}, {0, 0}}); });
  check_error({"id outside the table", "id -1"}, [&] { run({{-1}}, {{0}}); });
  check_error({"id outside the table", "[2, 12]", "position 1", "id 2"}, [&] { run({{1, 1}}, {{0, 2}}); });
  check_error({"batch", "2, 1"}, [&] { run({{1}, {1}}, {{0}}); });
  check_error({"batch", "3, 2"}, [&] { run({{1, 2, 3}}, {{0, 0}}); });
  s.batch.labels = Tensor<std::int32_t>::from({3}, {1, 3, 0});
  check_error({"cross_entropy"}, [&] { (void)s.loss(); });
  check_error({"bottleneck", "0"}, [&] { (void)adapt(s.bert, Meft1{.bottleneck = 0}); });
}
