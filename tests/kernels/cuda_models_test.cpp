// Owns: whole training steps of every family and of every method on the Cuda backend, on the folders of golden/: losses
// and gradients, or parameters after a step by losses, are those of the CPU, dropout on, and exact streams give the
// bits of stored ones; and tokens that are read in pieces.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <meft/checkpoints/family.hpp>
#include <meft/checkpoints/hf.hpp>
#include <meft/cuda.hpp>
#include <meft/io/json.hpp>
#include <meft/ops/loss.hpp>
#include <meft/train/optimizers.hpp>
#include <meft/train/steps.hpp>

#include "golden.hpp"
#include "methods.hpp"

namespace {

using namespace meft;

struct Outcome {
  float loss;
  std::map<std::string, std::vector<float>> gradients;
};

template <Backend B>
nn::Batch<B> batch_of(const Values& plain) {
  nn::Batch<B> batch;
  const auto upload = [&](const char* name) {
    const auto values = plain.integer(name);
    return Tensor<std::int32_t, B>::from({static_cast<Index>(values.size())}, values);
  };
  if (plain.file.contains("pixels")) {
    const auto pixels = plain.real("pixels");
    batch.pixels = Tensor<float, B>::from(plain.shape_of("pixels"), std::vector<float>(pixels.begin(), pixels.end()));
  } else {
    batch.ids = upload("ids");
    batch.types = upload("token_types");
    batch.offsets = Offsets(plain.integer("offsets"));
  }
  batch.labels = upload("labels");
  batch.run = {.seed = 3, .step = 5, .training = true};
  return batch;
}

/// `units`: two features of the streams have fewer fraction bits than the others. A `dropout` of attention's weights
/// that is not negative: frozen weights in bf16 too.
template <Backend B>
Outcome step(const std::string& folder, const AnyMethod& method, bool units, float dropout = -1) {
  const Values plain(folder + "/plain.safetensors");
  auto model = checkpoints::hf<float, B>(folder);
  auto head = checkpoints::load_head(folder, model, plain.shape_of("logits")[1]);
  AdaptOptions options;
  if (dropout >= 0) {
    options.precision = Precision::bf16;
    nn::walk(model,
             [dropout](const std::string&, nn::TransformerLayer<float, B>& l) { l.attention.dropout = dropout; });
  }
  auto body = adapt(model, method, options);
  const auto batch = batch_of<B>(plain);
  const auto loss_of = [&](const nn::Batch<B>& of) { return cross_entropy(head(model.run(of, body)), of.labels); };
  prepare(model, body, method, Preview<float, B>{1, 1, 0, [&](const auto&) { return loss_of(batch); }});
  for (auto* range : body.ranges())
    if (units) {
      std::vector<int> bits(static_cast<std::size_t>(model.spec.width), 20);
      bits[1] = 17, bits[2] = 16;
      range->set(bits);
    }
  Outcome out;
  auto recipe = method_recipe(method);
  if (recipe.epsilon > 0) {
    recipe.rate = recipe.epsilon = 0.01;
    if (recipe.inner) recipe.inner = 1;
    nn::Named<float, B> trained = nn::trainable<float, B>(model);
    const auto optimizer = train::state_over(train::optimizer_of(recipe, 5), trained);
    train::Steps<float, B> steps(loss_of, 0, optimizer.get());
    const auto nothing = [] {};
    for (int step = 0; step < 2; ++step) {
      out.loss = static_cast<float>(steps.run(batch, nothing, 0).loss);
      if (recipe.inner && step) (void)steps.run(batch, nothing, 1);
      (void)optimizer->step();
    }
    for (auto& [name, p] : trained) out.gradients[name] = p.value().values();
    return out;
  }
  {
    Tape tape;
    const auto loss = loss_of(batch);
    out.loss = loss.value().item();
    tape.backward(loss);
  }
  const auto keep = [&](const std::string& name, Parameter<float, B>& p) {
    if (p.trainable() && p.gradient().defined()) out.gradients[name] = p.gradient().values();
  };
  nn::for_each_parameter(model, keep);
  nn::for_each_parameter(body, keep);
  nn::for_each_parameter(head, keep);
  return out;
}

/// The largest ‖a − b‖ / max(‖b‖, 0.01) of a gradient.
double distance(const Outcome& a, const Outcome& b) {
  REQUIRE(a.gradients.size() == b.gradients.size());
  double worst = 0;
  for (const auto& entry : b.gradients) {  // clang captures no structured bindings
    const std::string& name = entry.first;
    const auto& expected = entry.second;
    CAPTURE(name);
    REQUIRE(a.gradients.contains(name));
    const auto& found = a.gradients.at(name);
    REQUIRE(found.size() == expected.size());
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double d = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
      difference += d * d;
      norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
    }
    REQUIRE(std::isfinite(difference));
    worst = std::max(worst, std::sqrt(difference) / std::max(std::sqrt(norm), 0.01));
  }
  return worst;
}

}  // namespace

TEST_CASE("whole steps on the device agree with the CPU, and exact streams equal stored ones bit for bit") {
  double worst = 0, worst_epilogue = 0;
  int steps = 0;
  std::vector<std::string> families{"bert", "bert_gelu_new"};
  for (const auto& row : io::read_json(golden() + "/families.json"))
    if (!row["language"]) families.push_back(row["folder"]);
  for (const std::string& family : families) {
    const std::string folder = golden() + "/" + family;
    std::vector<std::string> methods{"full", "lora", "meft1", "meft2", "meft3"};
    const auto more = [&](std::initializer_list<const char*> names) {
      methods.insert(methods.end(), names.begin(), names.end());
    };
    if (family == "bart")  // cross attention too
      more({"unipt", "speft", "prefix", "prompt", "alore", "meft1+lora", "meft3+ia3", "zofo-meft1"});
    if (family == "vit") more({"unipt", "fpt", "meft1+lora", "meft3+ia3"});
    if (family == "bert")  // those that remain
      for (const auto& method : all_methods())
        if (const std::string name(method_name(method));
            !method_facts(method).reads_images && std::find(methods.begin(), methods.end(), name) == methods.end())
          methods.push_back(name);
    for (const auto& method : methods) {
      CAPTURE(folder);
      CAPTURE(method);
      auto options = narrow(method);
      (void)set_option(options, "side-image", "8"), (void)set_option(options, "side-layers", "2");
      if (family == "opt" || family == "bart") (void)set_option(options, "coupling", "balanced");
      const bool units = family == "vit" || family == "bart";
      const auto device = step<Cuda>(folder, options, units);
      const auto host = step<Cpu>(folder, options, units);
      // GELU by tanh is an epilogue of the product, where its tanh has 11 bits.
      const bool epilogue = family == "bert_gelu_new";
      CHECK(std::abs(device.loss - host.loss) < (epilogue ? 1e-3f : 1e-5f) * std::max(1.0f, host.loss));
      (epilogue ? worst_epilogue : worst) = std::max(epilogue ? worst_epilogue : worst, distance(device, host));
      ++steps;
      auto* stack = stack_of(options);
      if (!stack) continue;
      stack->streams = Streams::stored;
      const auto stored = step<Cuda>(folder, options, units);
      CHECK(stored.loss == device.loss);
      CHECK(stored.gradients == device.gradients);
      CHECK(!stored.gradients.empty());
    }
  }
  CHECK(steps == 128);
  CHECK(worst < 1e-4);
  CHECK((worst_epilogue > 0 && worst_epilogue < 1e-2));
  MESSAGE(steps, " steps: largest relative difference of a gradient ", worst);
}

TEST_CASE("in bf16, with dropout of attention: near the CPU's bf16, and exact streams equal stored ones bit for bit") {
  for (const std::string folder : {"bert", "opt"}) {
    CAPTURE(folder);
    auto options = narrow("meft1");
    const auto run = [&]<Backend B>(float dropout) {
      return step<B>(golden() + "/" + folder, options, false, dropout);
    };
    const auto host = run.template operator()<Cpu>(0.1f);
    for (const Index together : {cuda::rows_together, Index{1}}) {  // the products' bias, slope …: apart, and in them
      const Index before = std::exchange(cuda::rows_together, together);
      stack_of(options)->streams = Streams::exact;
      const auto device = run.template operator()<Cuda>(0.1f);
      // The CPU's attention is in float; its products alone round to 8 bits.
      CHECK(distance(device, host) < 0.05);
      CHECK(device.loss != run.template operator()<Cuda>(0).loss);
      stack_of(options)->streams = Streams::stored;
      const auto stored = run.template operator()<Cuda>(0.1f);
      CHECK(stored.loss == device.loss);
      CHECK(stored.gradients == device.gradients);
      cuda::rows_together = before;
    }
  }
}

TEST_CASE("what frozen layers gave is kept on the device, and taken from there") {
  const std::string folder = golden() + "/bert";
  const auto batch = batch_of<Cuda>(Values(folder + "/plain.safetensors"));
  const NoTape none;
  std::vector<std::vector<float>> states;
  for (const Index mib : {0, 1}) {
    auto model = checkpoints::hf<float, Cuda>(folder);
    const auto body = adapt(model, narrow("lst"), {.feature_cache = mib});
    const std::size_t before = Cuda::pool().read().of(Use::features);
    states.push_back(model.run(batch, body).value.value().values());
    CHECK((Cuda::pool().read().of(Use::features) > before) == (mib > 0));
    for (auto& layer : model.layers) layer.mlp_norm.weight.value().zero();  // it does not run again
    states.push_back(model.run(batch, body).value.value().values());
  }
  CHECK(states[2] == states[3]);
  CHECK(states[0] != states[1]);
  CHECK(states[0].size() == states[2].size());
  for (std::size_t i = 0; i < states[0].size(); ++i) CHECK(states[2][i] == doctest::Approx(states[0][i]).epsilon(1e-4));
}

TEST_CASE("tokens that are read in pieces on the device have the states of those that are read at once") {
  using Lists = std::vector<std::vector<std::int32_t>>;
  const NoTape none;
  for (const std::string folder : {"qwen3", "bart"}) {
    CAPTURE(folder);
    auto model = checkpoints::hf<float, Cuda>(golden() + "/" + folder);
    const auto body = adapt(model, narrow("meft1"));
    const auto pack = [](const Lists& ids) { return nn::Batch<Cuda>::pack(ids); };
    std::optional<nn::Hidden<float, Cuda>> encoded;
    if (model.decodes()) encoded = model.encode(pack({{4, 9, 3}, {8, 2}}), body);
    const auto states = [&](const Lists& ids, KvCache<float, Cuda>& cache) {
      const auto batch = pack(ids);
      return (encoded ? model.decode(batch, *encoded, body, &cache) : model.run(batch, body, &cache)).value.value();
    };
    KvCache<float, Cuda> whole(2), pieces(2);
    const auto expected = states({{3, 7, 1, 12}, {6, 11}}, whole).values();
    const auto begun = states({{3, 7, 1}, {6}}, pieces), ended = states({{12}, {11}}, pieces);
    const auto width = static_cast<std::size_t>(begun.dim(1));
    const auto check = [&](const Tensor<float, Cuda>& found, std::initializer_list<std::size_t> rows) {
      const auto values = found.values();
      std::size_t at = 0;
      for (const std::size_t row : rows)
        for (std::size_t i = 0; i < width; ++i, ++at)
          CHECK(values.at(at) == doctest::Approx(expected.at(row * width + i)).epsilon(1e-4));
    };
    check(begun, {0, 1, 2, 4});
    check(ended, {3, 5});
  }
}
