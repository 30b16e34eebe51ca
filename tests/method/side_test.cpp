// Owns: networks beside frozen layers: what a chain hands to them, and UniPT's against PyTorch (golden/unipt), one
// sequence at a time, and where later tokens may not be seen.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <meft/io/safetensors.hpp>
#include <meft/method/fpt.hpp>
#include <meft/method/head.hpp>
#include <meft/method/losa.hpp>
#include <meft/method/lst.hpp>
#include <meft/method/qst.hpp>
#include <meft/method/sherl.hpp>
#include <meft/method/unipt.hpp>
#include <meft/model/bart.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/t5.hpp>
#include <meft/model/transformer.hpp>
#include <meft/model/vit.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/task/learner.hpp>

#include "methods.hpp"
#include "tools.hpp"

namespace {

using namespace meft;
using Network = UniptNetwork<double>;
using Taps = SideNetwork<double>::Taps;

constexpr Index width = 6;

/// Of `layers` layers, away from its start.
Network make_network(std::size_t layers, SideStart start, bool causal) {
  const nn::LayerNames names{"q", "k", "v", "o", "n", "u", "d", "m"};
  std::vector<nn::TransformerLayer<double>> list;
  for (std::uint32_t i = 0; i < layers; ++i)
    list.push_back(nn::TransformerLayer<double>::empty(names, {.width = width, .ffn = 8, .causal = causal}, i));
  auto net = Network::make({.projection = 5, .start = start}, list, 3);
  std::uint32_t site = 0;
  nn::for_each_parameter(net, [&](const std::string&, auto& p) { fill_normal(p.value(), {5, site++, 0}, 0.7); });
  return net;
}

model::Transformer<double> make_bert() {
  model::Transformer<double> bert(SmallBert{.layers = 3, .width = 8, .heads = 2, .inner = 16}.config().spec());
  bert.initialise(4);
  return bert;
}

/// In float, wide enough for its memory to be told apart from that of bookkeeping.
model::Transformer<float> make_wide_bert(Index layers) {
  model::Transformer<float> bert(SmallBert{.layers = layers, .width = 32, .heads = 2, .inner = 64}.config().spec());
  bert.initialise(4);
  return bert;
}

model::T5Config t5_config() {
  model::T5Config config;
  config.vocab_size = 20;
  config.d_model = 8;
  config.d_kv = 4;
  config.d_ff = 12;
  config.num_layers = config.num_decoder_layers = 2;
  config.num_heads = 2;
  return config;
}

model::LlamaConfig llama_config() {
  model::LlamaConfig config;
  config.vocab_size = 20;
  config.hidden_size = 8;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 2;
  config.num_key_value_heads = 1;
  config.head_dim = config.rotary.rotated = 4;
  config.intermediate_size = 16;
  return config;
}

Taps draw_taps(std::size_t layers, Index tokens) {
  Taps out;
  for (std::size_t i = 0; i <= layers; ++i) out.push_back(test::random_tensor<double>({tokens, width}, 40 + i));
  return out;
}
Taps rows_of(const Taps& taps, Index first, Index last) {
  Taps out;
  for (const auto& tap : taps) out.push_back(tap.value().rows(first, last));
  return out;
}

double apart(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::fabs(a[i] - b[i]));
  return most;
}

/// Those of the network, which become zero.
template <Real T>
std::vector<T> take_gradients(Body<T>& body) {
  std::vector<T> out;
  for (auto& [name, p] : body.chain.side->parameters) {
    const auto g = p.gradient().values();
    out.insert(out.end(), g.begin(), g.end());
    p.zero_gradient();
  }
  return out;
}

using Values = std::function<std::vector<double>(const std::string&)>;

/// Output and every gradient against golden/PATH.safetensors; inputs(values, context) gives the taps.
template <class Net, class Inputs>
requires std::invocable < Inputs, const Values&, Context<double>
& > void like_pytorch(Net net, const std::string& path, const Inputs& inputs) {
  const io::Safetensors file("golden/" + path + ".safetensors");
  const Values values = [&](const std::string& name) {
    const auto found = file.find(name);
    std::vector<double> out(found.bytes.size() / sizeof(double));
    std::memcpy(out.data(), found.bytes.data(), found.bytes.size());
    return out;
  };
  nn::for_each_parameter(
      net, [&](const std::string& name, auto& p) { p.value() = Tensor<double>::from(p.shape(), values(name)); });
  Context<double> context;
  const Taps taps = inputs(values, context);
  Tape tape;
  const auto y = net(taps, context);
  CHECK(apart(y.value().values(), values("out")) < 1e-12);
  tape.backward(y, Tensor<double>::from(y.shape(), values("up")));
  nn::for_each_parameter(net, [&](const std::string& name, auto& p) {
    CAPTURE(name);
    CHECK(apart(p.gradient().values(), values("grad." + name)) < 1e-11);
  });
}
template <class Net>
void like_pytorch(Net net, const std::string& path, const Offsets& offsets = Offsets({0, 4, 5, 12})) {
  like_pytorch(std::move(net), path, [&](const Values& values, Context<double>& context) {
    context.offsets = offsets;
    Taps taps;
    for (int i = 0; i < 4; ++i) taps.push_back(Tensor<double>::from({12, width}, values("h." + std::to_string(i))));
    return taps;
  });
}

}  // namespace

TEST_CASE("ladders: output and every gradient are those of a dense PyTorch") {
  const nn::LayerNames names{"q", "k", "v", "o", "n", "u", "d", "m"};
  std::vector<nn::TransformerLayer<double>> list;
  for (std::uint32_t i = 0; i < 3; ++i)
    list.push_back(nn::TransformerLayer<double>::empty(names, {.width = width, .heads = 2, .ffn = 8}, i));
  const auto check = [&](const LadderSpec& spec, const std::string& file) {
    like_pytorch(Ladder<double>::make(spec, list, 3), "ladders/" + file);
  };
  check(Lst{.reduction = 2, .start = SideStart::random}.ladder(), "lst");
  check(Lst{.reduction = 2, .start = SideStart::backbone}.ladder(), "lst_added");
  check(Qst{.reduction = 2, .rank = 2}.ladder(), "qst");
}

TEST_CASE("sherl: output and every gradient are those of a dense PyTorch") {
  const nn::LayerNames names{"q", "k", "v", "o", "n", "u", "d", "m"};
  std::vector<nn::TransformerLayer<double>> list;
  for (std::uint32_t i = 0; i < 4; ++i)
    list.push_back(nn::TransformerLayer<double>::empty(names, {.width = width, .heads = 2, .ffn = 8}, i));
  for (const auto start : {SideStart::backbone, SideStart::random})
    like_pytorch(SherlNetwork<double>::make({.projection = 5, .start = start}, list, 3),
                 start == SideStart::random ? "sherl/random" : "sherl/backbone");
  CHECK_THROWS_WITH_AS(SherlNetwork<double>::make({.late_layers = 4}, list, 3),
                       doctest::Contains("all layers are late"), Error);
}

TEST_CASE("sherl: a projection that is zero has a share, and no number that is not finite") {
  const auto run = [&]<Real T>(T) {
    const nn::LayerNames names{"q", "k", "v", "o", "n", "u", "d", "m"};
    std::vector<nn::TransformerLayer<T>> list;
    for (std::uint32_t i = 0; i < 4; ++i)
      list.push_back(nn::TransformerLayer<T>::empty(names, {.width = width, .heads = 2, .ffn = 8}, i));
    typename SideNetwork<T>::Taps taps;
    for (std::size_t i = 0; i < 4; ++i) taps.push_back(test::random_tensor<T>({5, width}, 40 + i));
    for (const Index projection : {1, 4}) {  // the norm of one number is its bias, zero at the start
      CAPTURE(projection);
      auto net = SherlNetwork<T>::make({.projection = projection}, list, 3);
      CHECK(net(taps, {Offsets({0, 5})}).value().values() == taps.back().value().values());
      net.taps[1].norm.weight.value().zero();
      net.norm.weight.value() = Tensor<T>::full({width}, T(1));
      const auto weights = test::random_tensor<T>({5, width}, 9);
      Tape tape;
      const auto y = net(taps, {Offsets({0, 5})});
      tape.backward(sum(y * weights));
      for (const T value : y.value().values()) CHECK(std::isfinite(value));
      nn::for_each_parameter(net, [&](const std::string& name, auto& p) {
        CAPTURE(name);
        for (const T value : p.gradient().values()) CHECK(std::isfinite(value));
      });
      // A zero t_1 leaves the others their shares: what is mixed hangs on t_0, unless that is zero too.
      double most = 0;
      for (const T value : net.taps[0].linear.weight.gradient().values())
        most = std::max<double>(most, std::fabs(value));
      CHECK((most > 1e-3) == (projection > 1));
    }
  };
  run(0.0f);
  run(0.0);
}

TEST_CASE("losa: output and every gradient are those of PyTorch; tokens are mixed in images of one size alone") {
  const nn::LayerNames names{"q", "k", "v", "o", "n", "u", "d", "m"};
  std::vector<nn::TransformerLayer<double>> list;
  for (std::uint32_t i = 0; i < 3; ++i)
    list.push_back(nn::TransformerLayer<double>::empty(names, {.width = width, .heads = 2, .ffn = 8}, i));
  like_pytorch(LosaNetwork<double>::make({.rank = 2}, list, 0, 3), "losa/texts");
  const auto net = LosaNetwork<double>::make({.rank = 2}, list, 4, 3);
  like_pytorch(net, "losa/images", Offsets({0, 4, 8, 12}));
  const auto taps = draw_taps(3, 12);
  CHECK_THROWS_WITH_AS(net(taps, {Offsets({0, 4, 12})}), doctest::Contains("expected and found: 4, 8"), Error);
}

TEST_CASE("fpt: output and every gradient are those of PyTorch, which ranks keys by a dense matrix") {
  const nn::LayerNames names{"q", "k", "v", "o", "n", "u", "d", "m"};
  std::vector<nn::TransformerLayer<double>> list;
  for (std::uint32_t i = 0; i < 2; ++i)
    list.push_back(
        nn::TransformerLayer<double>::empty(names, {.width = width, .heads = 2, .ffn = 8, .norm_first = true}, i));
  const Fpt method{.prompts = 3, .image = 4, .reduction = 2, .kept = 0.4};
  like_pytorch(FptNetwork<double>::make(method, list, {.patch = 2, .channels = 1}, 3), "fpt",
               [&](const Values& values, Context<double>& context) {
                 const auto tensor = [&](const std::string& name, const Shape& shape) {
                   return Tensor<double>::from(shape, values(name));
                 };
                 context.offsets = Offsets({0, 9, 18});
                 context.sides.push_back({tensor("cells", {8, 4}), Offsets({0, 4, 8})});
                 Taps taps;
                 for (const char* layer : {".0", ".1"}) {
                   Taps k, v;
                   for (const Index at : {0, 9}) {
                     const auto rows = [&](const char* name) -> Var<double> {
                       return tensor(name + std::string(layer), {18, width}).rows(at, at + 9);
                     };
                     const auto kept = detail::most_attended(rows("q"), rows("k"), rows("v"), 2, 1 / std::sqrt(3), 0.4);
                     k.push_back(kept.first);
                     v.push_back(kept.second);
                   }
                   taps.insert(taps.end(), {concat(k), concat(v)});
                 }
                 taps.push_back(tensor("h", {18, width}));
                 return taps;
               });
}

namespace {

/// Images of 16 pixels each way, in patches of 4.
model::VitConfig vit_config(Index layers) {
  model::VitConfig config;
  config.hidden_size = 8;
  config.num_hidden_layers = layers;
  config.num_attention_heads = 2;
  config.intermediate_size = 16;
  config.image_size = 16;
  config.patch_size = 4;
  config.num_channels = 1;
  return config;
}

}  // namespace

TEST_CASE("fpt: cached, streamed, together and alone images give the same bits; at the start the backbone's") {
  const auto config = vit_config(3);
  const Fpt method{.prompts = 2, .image = 8, .reduction = 2, .layers = 2, .kept = 0.3};
  struct Run {
    model::Transformer<double> vit;
    Body<double> body;
    nn::Batch<> batch;
    std::size_t layers = 0;  // how often one ran

    Run(const model::VitConfig& config, const Fpt& method, Index cache) : vit(config.spec()) {
      vit.initialise(4);
      body = adapt(vit, method, {.seed = 2, .feature_cache = cache});
      batch.pixels = test::random_tensor<float>({3, 1, 16, 16}, 6);
      batch.run = {6, 2, true};
      auto& side = *body.chain.side;
      side.watch = [this, watch = side.watch](const auto& x, const auto& c, const auto& next, std::size_t count) {
        const auto counted = [&](std::size_t i, const Var<double>& h, const Context<double>& of) {
          ++layers;
          return next(i, h, of);
        };
        return watch(x, c, SideNetwork<double>::Next(counted), count);
      };
    }
    std::vector<double> hidden() {
      const NoTape none;
      return vit.run(batch, body).value.value().values();
    }
    /// Those of the network, away from its start.
    std::vector<double> gradients() {
      Tape tape;
      const auto y = vit.run(batch, body).value;
      tape.backward(sum(y * test::random_tensor<double>(y.shape(), 9)));
      return take_gradients(body);
    }
  };
  Run streamed(config, method, 0), cached(config, method, 1);
  {
    model::Transformer<double> vit(config.spec());
    vit.initialise(4);
    CHECK(streamed.hidden() == vit.run(streamed.batch, adapt(vit, HeadOnly{})).value.value().values());
  }
  for (auto* run : {&streamed, &cached}) {
    std::uint32_t site = 0;
    for (auto& [name, p] : run->body.chain.side->parameters) fill_normal(p.value(), {5, site++, 0}, 0.7);
    run->layers = 0;
  }
  const auto expected = streamed.gradients();
  CHECK(streamed.layers == 9);
  CHECK(cached.gradients() == expected);
  CHECK(cached.layers == 9);
  CHECK(cached.gradients() == expected);
  CHECK(cached.layers == 9);                                        // none ran
  streamed.batch.run.training = cached.batch.run.training = false;  // alone an image would have another's dropout
  const auto all = streamed.batch;
  const auto together = streamed.hidden();
  CHECK(cached.hidden() == together);
  for (Index i = 0; i < 3; ++i) {
    streamed.batch.pixels = all.pixels.rows(i, i + 1);
    const auto alone = streamed.hidden();
    const auto at = together.begin() + i * std::ssize(alone);
    CHECK(apart(alone, {at, at + std::ssize(alone)}) < 1e-13);
  }
  cached.batch.pixels = test::random_tensor<float>({2, 1, 16, 16}, 7);
  (void)cached.hidden();
  CHECK(cached.layers == 15);

  // A pixel of a smaller image is the mean of what it covers: here one and a half pixels each way.
  auto& patches = *streamed.vit.patches;
  patches.smaller = 1;
  streamed.batch.pixels = Tensor<float>::from({1, 1, 6, 6}, std::vector<float>(36, 0));
  for (Index i = 0; i < 36; ++i) streamed.batch.pixels.data()[i] = static_cast<float>(i % 6 + 10 * (i / 6));
  const auto small = patches.shrunk(streamed.batch);
  CHECK(small.offsets == Offsets({0, 1}));
  const double means[] = {1 / 3.0, 5 / 3.0, 10 / 3.0, 14 / 3.0};
  for (std::size_t i = 0; i < 16; ++i)
    CHECK(small.value.value().values()[i] == doctest::Approx(means[i % 4] + 10 * means[i / 4]));

  auto bert = make_bert();
  CHECK_THROWS_WITH_AS(adapt(bert, Fpt{}), doctest::Contains("reads images, found: bert"), Error);
  CHECK_THROWS_WITH_AS(adapt(streamed.vit, Fpt{.image = 3}), doctest::Contains("no whole patch"), Error);
}

TEST_CASE("unipt: output and every gradient are those of a dense PyTorch") {
  for (const auto start : {SideStart::backbone, SideStart::random})
    like_pytorch(make_network(3, start, false), start == SideStart::random ? "unipt/random" : "unipt/backbone");
}

TEST_CASE("unipt: a ragged batch is its sequences one by one") {
  for (const bool causal : {false, true}) {
    const auto net = make_network(2, SideStart::backbone, causal);
    const Offsets offsets({0, 3, 4, 74});
    const auto taps = draw_taps(2, 74);
    const auto whole = net(taps, {offsets}).value().values();
    for (Index s = 0; s < offsets.sequences(); ++s) {
      const auto one = net(rows_of(taps, offsets.begin(s), offsets.end(s)), {offsets.part(s, s + 1)}).value().values();
      const auto at = whole.begin() + offsets.begin(s) * width;
      CHECK(apart(one, {at, at + std::ssize(one)}) < 1e-13);
    }
  }
}

TEST_CASE("unipt: in a causal model no token sees a later one") {
  const auto net = make_network(2, SideStart::random, true);
  const auto taps = draw_taps(2, 70);
  const auto whole = net(taps, {Offsets({0, 70})}).value().values();
  for (const Index count : {1, 40, 69}) {
    const auto some = net(rows_of(taps, 0, count), {Offsets({0, static_cast<std::int32_t>(count)})}).value().values();
    CHECK(apart(some, {whole.begin(), whole.begin() + count * width}) < 1e-13);
  }
}

TEST_CASE("relu_attention: a row without a positive product is the row itself; NaN stays") {
  const auto t = Tensor<double>::from({3, 2}, {1, 2, 3, 1, 0.5, 4});
  const auto a = Tensor<double>::from({3, 2}, {-1, -1, 1, 0, 0, -2});
  const auto y = relu_attention(a, t, Offsets({0, 3})).value().values();
  for (const std::size_t i : {0, 1, 4, 5}) CHECK(y[i] == t.values()[i]);
  CHECK(y[2] == doctest::Approx(3 + (1 * 1 + 3 * 3 + 0.5 * 0.5) / 4.5));
  CHECK(y[3] == doctest::Approx(1 + (1 * 2 + 3 * 1 + 0.5 * 4) / 4.5));
  const auto causal = relu_attention(a, t, Offsets({0, 3}), true).value().values();
  CHECK(causal[2] == doctest::Approx(3 + (1 * 1 + 3 * 3) / 4.0));
  const double no_number = std::nan("");
  const auto bad = relu_attention(Tensor<double>::from({1, 2}, {no_number, 1}), t.rows(0, 1), Offsets({0, 1}));
  CHECK(std::isnan(bad.value().values()[0]));
  CHECK_THROWS_WITH_AS(relu_attention(a, t, Offsets({0, 2})), doctest::Contains("do not cover the rows"), Error);
  CHECK_THROWS_WITH_AS(relu_attention(a.rows(0, 2), t, Offsets({0, 3})), doctest::Contains("not alike"), Error);
}

TEST_CASE("side: predicting needs no more than training, on any number of threads") {
  auto bert = make_wide_bert(6);
  const auto body = adapt(bert, Unipt{.projection = 16});
  const std::vector<std::vector<std::int32_t>> ids(16, std::vector<std::int32_t>(100, 3)),
      types(16, std::vector<std::int32_t>(100, 0));
  const int before = threads();
  const auto activation = [&](int with, bool recorded) {
    set_threads(with);
    const auto batch = nn::Batch<>::pack(ids, types), part = nn::Batch<>::pack({ids[0]}, {types[0]});
    const Measure measure(Cpu::pool());
    std::optional<Tape> tape;
    if (recorded) tape.emplace();
    const auto h = bert.run(recorded ? part : batch, body);
    return measure.activation();
  };
  const std::size_t states = 16 * 100 * 32 * sizeof(float), trained = activation(1, true);
  for (const int with : {1, 4})
    CHECK(activation(with, false) <= trained + 4 * states);  // of the whole batch: in, out, embedded
  set_threads(before);
}

TEST_CASE("side: scoring takes no more sequences at once than a part of a step, to the same values") {
  const auto learner_of = [](const auto& method) {
    auto bert = make_wide_bert(2);
    auto body = adapt(bert, method);
    const Index width = bert.hidden();
    return task::Learner<model::Transformer<float>>{std::move(bert), std::move(body),
                                                    nn::Classifier<float>::make(width, 2, {1, 9, 0})};
  };
  task::Encoded data;
  for (std::size_t i = 0; i < 32; ++i) {
    data.ids.emplace_back(40 + i, static_cast<std::int32_t>(3 + i % 5));
    data.types.emplace_back(40 + i, 0);
    data.labels.push_back(static_cast<float>(i % 2));
  }
  const auto peak = [&](const auto& learner, std::size_t batch, std::vector<float>& logits) {
    const Measure measure(Cpu::pool());
    logits = task::predict(learner, data, batch).logits;
    return measure.activation();
  };
  const auto compare = [&](const auto& method) {
    const auto learner = learner_of(method);
    const Offsets at_once = Offsets::of_lengths(std::vector<std::int32_t>(4, 70));  // a part, and a token more
    std::vector<float> all, alone;
    const std::size_t found = peak(learner, 32, all);
    (void)peak(learner, 1, alone);
    CHECK(all.size() == 64);
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(std::abs(all[i] - alone[i]) < 1e-5f);
    CHECK(learner.body.longest_part() < at_once.tokens());
    const auto part = nn::Batch<>::pack({data.ids.end() - 3, data.ids.end()}, {data.types.end() - 3, data.types.end()});
    const Measure measure(Cpu::pool());
    {
      const Tape tape;
      (void)learner.logits(part);
    }
    CHECK(found <= measure.activation() * 5 / 4);
  };
  compare(HeadOnly{});
  compare(Losa{});
  compare(Unipt{.projection = 16});
}

TEST_CASE("side: taps are the frozen layers' inputs and outputs, unrecorded, and nothing of them is dropped") {
  auto bert = make_bert();
  auto batch = nn::Batch<>::pack({{3, 7, 1, 0}, {19}, {5, 5, 2}}, {{0, 0, 1, 1}, {0}, {0, 1, 1}});
  auto body = adapt(bert, Unipt{.projection = 4});
  auto& side = *body.chain.side;
  CHECK(body.longest_part() == side_tokens<Cpu>);
  std::vector<std::vector<double>> seen;
  side.run = [&, run = side.run](const Taps& taps, const Context<double>& context) {
    REQUIRE(taps.size() == 4);
    for (const auto& tap : taps) {
      CHECK(!tap.recorded());
      seen.push_back(tap.value().values());
    }
    return run(taps, context);
  };
  for (const bool training : {false, true}) {
    batch.run = {6, 2, training};
    Tape tape;
    CHECK(body(bert.embed(batch)).value.recorded());
  }
  REQUIRE(seen.size() == 8);
  auto h = bert.embed(batch);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(seen[i] == seen[i + 4]);
    CHECK(seen[i] == h.value.value().values());
    if (i < 3) h.value = bert.layers[i](h.value, h.context);
  }
  CHECK_THROWS_WITH_AS(adapt(bert, Unipt{}, {.recompute = true}), doctest::Contains("side network"), Error);
}

/// BERT of three layers with a method on it, its network away from its start.
template <Real T>
struct Beside {
  model::Transformer<T> bert;
  Body<T> body;

  template <class Method>
  explicit Beside(const Method& method, Index cache = 0)
      : bert(SmallBert{.layers = 3, .width = 16, .heads = 2, .inner = 48}.config().spec()) {
    bert.initialise(4);
    body = adapt(bert, method, {.seed = 2, .feature_cache = cache});
    std::uint32_t site = 0;
    for (auto& [name, p] : body.chain.side->parameters) fill_normal(p.value(), {5, site++, 0}, 0.7);
  }
  /// The output and every gradient of the network.
  std::vector<T> step(const nn::Batch<>& batch) {
    Tape tape;
    const auto y = body(bert.embed(batch)).value;
    auto out = y.value().values();
    if (!body.chain.side->parameters.empty()) tape.backward(sum(y * test::random_tensor<T>(y.shape(), 9)));
    const auto gradients = take_gradients(body);
    out.insert(out.end(), gradients.begin(), gradients.end());
    return out;
  }
  std::vector<T> hidden(const nn::Batch<>& batch) const {
    const NoTape none;
    return body(bert.embed(batch)).value.value().values();
  }
  /// What frozen layers give is no number from here on.
  void spoil() {
    for (std::size_t i = 0; i + body.chain.side->late < bert.layers.size(); ++i) {
      auto& weight = bert.layers[i].mlp_norm.weight.value();
      weight = Tensor<T>::full(weight.shape(), std::numeric_limits<T>::quiet_NaN());
    }
  }
};

/// Sequences by number, each of its own length, in one batch.
nn::Batch<> sequences(const std::vector<int>& numbers) {
  std::vector<std::vector<std::int32_t>> ids, types;
  for (const int n : numbers) {
    ids.emplace_back();
    for (int i = 0; i < 1 + 9 * n % 41; ++i) ids.back().push_back((3 * i * i + 7 * n + i) % 20);
    types.emplace_back(ids.back().size(), 0);
  }
  auto batch = nn::Batch<>::pack(ids, types);
  batch.run = {6, 2, true};
  return batch;
}

template <Real T, class Method>
void cached_is_made_anew(const Method& method, std::size_t taps) {
  CAPTURE(Described<Method>::name);
  const auto first = sequences({0, 1, 2, 3}), mixed = sequences({4, 1, 5, 6, 3, 1, 7}),
             known = sequences({7, 0, 6, 2, 4});
  Beside<T> plain(method), cached(method, 1);
  const auto kept = [] { return Cpu::pool().read().of(Use::features); };
  const std::size_t before = kept();
  const auto measured = [&](Beside<T>& of) {
    const Measure measure(Cpu::pool());
    auto out = of.step(first);
    return std::pair(std::move(out), measure.activation());
  };
  CHECK(measured(cached) == measured(plain));  // what came to stay is no activation
  const std::size_t tokens = static_cast<std::size_t>(first.offsets.tokens());
  CHECK(kept() - before >= taps * tokens * 16 * sizeof(T));
  CHECK(kept() - before < taps * (tokens * 16 * sizeof(T) + 4 * 64));
  CHECK(cached.step(mixed) == plain.step(mixed));
  cached.spoil();
  CHECK(cached.step(known) == plain.step(known));
  CHECK(cached.hidden(mixed) == plain.hidden(mixed));
  CHECK(std::isnan(cached.hidden(sequences({0, 8}))[16]));

  Beside<T> little(method);
  little.body.chain.side->cache = std::make_shared<FeatureCache<T>>(taps * 16 * sizeof(T));  // of one token
  const std::size_t empty = kept();
  for (int i = 0; i < 2; ++i) CHECK(little.step(mixed) == plain.step(mixed));
  CHECK(kept() == empty);
  CHECK(little.step(first) == plain.step(first));
  CHECK(kept() > empty);
}

TEST_CASE("losa: images of another size than the model's, all of one") {
  const auto config = vit_config(2);
  const NoTape none;
  const auto tokens = [&](Index side, Index expected) {
    model::Transformer<double> vit(config.spec());
    vit.initialise(4);
    const auto body = adapt(vit, Losa{.rank = 2}, {.image_tokens = expected});
    nn::Batch<> batch;
    batch.pixels = test::random_tensor<float>({2, 1, side, side}, 6);
    return vit.run(batch, body).value.value().dim(0);
  };
  CHECK(tokens(16, 0) == 2 * 17);
  CHECK(tokens(8, 5) == 2 * 5);
  CHECK_THROWS_WITH_AS((void)tokens(8, 0), doctest::Contains("expected and found: 17, 5"), Error);
}

TEST_CASE_TEMPLATE("side: what frozen layers gave is kept, with the bits of layers that run again", T, float, double) {
  cached_is_made_anew<T>(Unipt{.projection = 4}, 4);
  cached_is_made_anew<T>(Lst{.reduction = 2}, 4);
  cached_is_made_anew<T>(Qst{.reduction = 2, .rank = 2}, 4);
  cached_is_made_anew<T>(Sherl{.projection = 4}, 3);
  cached_is_made_anew<T>(Losa{.rank = 2}, 4);
  cached_is_made_anew<T>(HeadOnly{}, 1);  // what it reads alone
}

TEST_CASE("side: nothing is kept of layers that read an encoder's output, or tokens of before") {
  model::Transformer<double> t5(t5_config().spec());
  t5.initialise(4);
  const auto body = adapt(t5, Unipt{.projection = 4}, {.feature_cache = 1});
  CHECK(body.chain.side->cache != nullptr);
  CHECK(body.decoder.side->cache == nullptr);
  CHECK(adapt(t5, Unipt{.projection = 4}).chain.side->cache == nullptr);

  const NoTape none;
  model::LlamaConfig decoder;
  decoder.vocab_size = 20;
  decoder.hidden_size = 8;
  decoder.num_hidden_layers = 2;
  decoder.num_attention_heads = decoder.num_key_value_heads = 2;
  decoder.head_dim = decoder.rotary.rotated = 4;
  decoder.intermediate_size = 16;
  std::vector<std::vector<double>> pieces;
  for (const Index mib : {0, 1}) {
    model::Transformer<double> llama(decoder.spec());
    llama.initialise(4);
    const auto with = adapt(llama, Lst{.reduction = 2}, {.feature_cache = mib});
    const std::size_t before = Cpu::pool().read().of(Use::features);
    KvCache<double> read(1);
    for (int i = 0; i < 2; ++i) pieces.push_back(llama.run(sequences({1}), with, &read).value.value().values());
    CHECK(Cpu::pool().read().of(Use::features) == before);
  }
  CHECK(pieces[0] == pieces[2]);
  CHECK(pieces[1] == pieces[3]);
  CHECK(pieces[0] != pieces[1]);
}

TEST_CASE("side: of T5 nothing is dropped between its lists of layers and behind them either") {
  auto config = t5_config();
  config.dropout_rate = 0.5;
  auto batch = nn::Batch<>::pack({{3, 7, 1, 5}, {19, 4}});
  const auto check = [&](const auto& method) {
    model::Transformer<double> t5(config.spec());
    t5.initialise(4);
    const auto body = adapt(t5, method);
    const auto at_step = [&](std::uint32_t step) {
      batch.run = {6, step, true};
      return t5.run(batch, body).value.value().values();
    };
    CHECK(at_step(1) == at_step(2));
  };
  check(Unipt{.projection = 4});
  check(Lst{.reduction = 2});
  check(Qst{.reduction = 2, .rank = 2});
  check(Sherl{.projection = 4});
  check(Losa{.rank = 2});
}

TEST_CASE("side: late layers run on the network's output, and gradients go through them") {
  auto bert = make_bert();
  const auto batch = nn::Batch<>::pack({{3, 7, 1, 0}, {19}, {5, 5, 2}}, {{0, 0, 1, 1}, {0}, {0, 1, 1}});
  auto h = bert.embed(batch);
  const auto plain = Chain<double>{.layers = bert.layers, .plain = 3}(h).value.value().values();
  const auto body = adapt(bert, Sherl{.projection = 4});
  const auto& side = *body.chain.side;
  CHECK(side.late == 1);
  CHECK(body(h).value.value().values() == plain);
  std::uint32_t site = 0;
  for (const auto& [name, p] : side.parameters) {
    auto one = p;
    fill_normal(one.value(), {5, site++, 0}, 0.7);
  }
  Tape tape;
  const auto y = body(bert.embed(batch)).value;
  const auto weights = test::random_tensor<double>(y.shape(), 9);
  tape.backward(sum(y * weights));
  const NoTape none;
  for (const auto& one : side.parameters) {
    CAPTURE(one.first);
    const auto& p = one.second;
    auto value = p.value();
    const auto at_size = [&](double size) {
      value.data()[0] += size;
      const double found = sum(body(bert.embed(batch)).value * weights).value().values()[0];
      value.data()[0] -= size;
      return found;
    };
    const double slope = (at_size(1e-6) - at_size(-1e-6)) / 2e-6;
    CHECK(p.gradient().values()[0] == doctest::Approx(slope).epsilon(1e-5).scale(1e-3));
  }
}

TEST_CASE("side: encoder and decoder have a network each, and the decoder reads the tuned encoder") {
  model::BartConfig config;
  config.vocab_size = 20;
  config.d_model = 8;
  config.encoder_layers = 2;
  config.decoder_layers = 2;
  config.encoder_attention_heads = config.decoder_attention_heads = 2;
  config.encoder_ffn_dim = config.decoder_ffn_dim = 12;
  config.max_position_embeddings = 12;
  model::Transformer<double> bart(config.spec());
  bart.initialise(4);
  const auto batch = nn::Batch<>::pack({{3, 7, 1, 5}, {19, 4}});
  auto body = adapt(bart, Unipt{.projection = 4});
  std::vector<std::string> names;
  std::uint32_t site = 0;
  nn::for_each_parameter(body, [&](const std::string& name, auto& p) {
    if (!p.trainable()) return;
    names.push_back(name);
    fill_normal(p.value(), {9, site++, 0}, 0.5);
  });
  CHECK(std::count_if(names.begin(), names.end(), [](const auto& n) { return n.starts_with("encoder.side."); }) == 19);
  CHECK(std::count_if(names.begin(), names.end(), [](const auto& n) { return n.starts_with("decoder.side."); }) == 19);
  const auto weights = test::random_tensor<double>({6, 8}, 3);
  const auto loss = [&] { return sum(bart.run(batch, body).value * weights); };
  {
    Tape tape;
    tape.backward(loss());
  }
  auto& p = body.chain.side->parameters.front().second;  // the encoder's
  const auto gradient = p.gradient().values();
  for (const std::size_t i : {0, 5}) {
    double& x = p.value().data()[i];
    const double before = x, step = 1e-5;
    x = before + step;
    const double up = loss().value().item();
    x = before - step;
    const double down = loss().value().item();
    x = before;
    CHECK((up - down) / (2 * step) == doctest::Approx(gradient[i]).epsilon(1e-5));
    CHECK(std::fabs(gradient[i]) > 1e-6);
  }
}

TEST_CASE("ladders: a network that is no times narrower is an error") {
  const auto make = [] { (void)Ladder<double>::make({.reduction = 0}, {}, 0); };
  CHECK_THROWS_WITH_AS(make(), doctest::Contains("option reduction: expected an integer from 1"), Error);
}

TEST_CASE("ladders: their layers have the model's kind of positions") {
  // Two tokens change places, and another's output with them, if layers tell places apart.
  const auto moved = [](const model::Transformer<double>& model) {
    auto net = Ladder<double>::make({.reduction = 2}, model.layers, 3);
    std::uint32_t site = 0;
    nn::for_each_parameter(net, [&](const std::string&, auto& p) { fill_normal(p.value(), {5, site++, 0}, 0.7); });
    Context<double> context;
    context.offsets = Offsets({0, 5});
    const auto last = [&](const std::vector<std::size_t>& order) {
      Taps taps;
      for (std::size_t i = 0; i <= model.layers.size(); ++i) {
        const auto rows = test::random_tensor<double>({5, 8}, 40 + static_cast<std::uint32_t>(i)).values();
        std::vector<double> placed;
        for (const auto row : order) placed.insert(placed.end(), &rows[8 * row], &rows[8 * row] + 8);
        taps.push_back(Tensor<double>::from({5, 8}, placed));
      }
      return net(taps, context).value().rows(4, 5).values();
    };
    return apart(last({0, 1, 2, 3, 4}), last({0, 2, 1, 3, 4}));
  };
  model::Transformer<double> t5(t5_config().spec());
  t5.initialise(4);
  nn::for_each_parameter(t5, [](const std::string& name, auto& p) {
    if (name.ends_with("relative_attention_bias.weight")) fill_normal(p.value(), {6, 0, 0}, 1);
  });
  model::Transformer<double> llama(llama_config().spec());
  llama.initialise(4);
  CHECK(moved(t5) > 1e-3);
  CHECK(moved(llama) > 1e-3);
  CHECK(moved(make_bert()) < 1e-12);  // whose places are in its embeddings
}

TEST_CASE("side: beside a causal model no token sees a later one, whatever the network") {
  const auto check = [](const auto& method) {
    model::Transformer<double> llama(llama_config().spec());
    llama.initialise(4);
    const auto body = adapt(llama, method);
    std::uint32_t site = 0;
    for (auto [name, p] : body.chain.side->parameters) fill_normal(p.value(), {5, site++, 0}, 0.7);
    const auto hidden = [&](const std::vector<std::int32_t>& ids) {
      return llama.run(nn::Batch<>::pack({ids}), body).value.value();
    };
    const auto a = hidden({3, 7, 1, 5, 2}), b = hidden({3, 7, 1, 9, 4}), c = hidden({8, 7, 1, 5, 2});
    CHECK(apart(a.rows(0, 3).values(), b.rows(0, 3).values()) < 1e-13);
    CHECK(apart(a.rows(3, 4).values(), b.rows(3, 4).values()) > 1e-3);
    CHECK(apart(a.rows(4, 5).values(), c.rows(4, 5).values()) > 1e-6);
  };
  check(Unipt{.projection = 4});
  check(Lst{.reduction = 2});
  check(Qst{.reduction = 2, .rank = 2});
  check(Sherl{.projection = 4});
  check(Losa{.rank = 2});
}
