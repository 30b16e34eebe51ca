// The expected activation memory against the meter, for every method, on shapes of different proportions.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <meft/model/bart.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/t5.hpp>
#include <meft/model/transformer.hpp>
#include <meft/model/vit.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/task/learner.hpp>
#include <meft/task/ranking_learner.hpp>
#include <meft/train/estimate.hpp>
#include <meft/train/job.hpp>
#include <meft/train/optimizers.hpp>
#include <meft/train/prepare.hpp>
#include <meft/train/state.hpp>
#include <meft/train/steps.hpp>

#include "methods.hpp"

using namespace meft;
using Bert = model::Transformer<float>;

namespace {

struct Case {
  Index layers, width, inner, heads, vocabulary;
  int batch, shortest, longest;
  Index key_heads = 0;  // of a Llama; 0: a BERT
};

model::TransformerSpec spec_of(const Case& k) {
  if (k.key_heads) {
    model::LlamaConfig config;
    config.num_hidden_layers = k.layers;
    config.hidden_size = k.width;
    config.intermediate_size = k.inner;
    config.num_attention_heads = k.heads;
    config.num_key_value_heads = k.key_heads;
    config.head_dim = k.width / k.heads;
    config.rotary.rotated = config.head_dim;
    config.vocab_size = k.vocabulary;
    return config.spec();
  }
  return SmallBert{k.layers, k.width, k.heads, k.inner, k.vocabulary}.config().spec();
}

task::Encoded sentences(const Case& k) {
  task::Encoded out;
  for (int i = 0; i < k.batch; ++i) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(k.shortest + i * 7 % (k.longest - k.shortest)));
    for (std::size_t j = 0; j < ids.size(); ++j)
      ids[j] = static_cast<std::int32_t>((static_cast<std::size_t>(i) * 31 + j * 17) %
                                         static_cast<std::size_t>(k.vocabulary));
    out.types.emplace_back(ids.size(), 0);
    out.ids.push_back(std::move(ids));
    out.labels.push_back(static_cast<float>(i % 2));
  }
  return out;
}

struct Found {
  double measured, expected;  // bytes
};

template <class Data>
std::vector<std::uint32_t> all_of(const Data& data) {
  std::vector<std::uint32_t> rows(data.size());
  std::iota(rows.begin(), rows.end(), 0u);
  return rows;
}

Found activation(const Case& k, const AnyMethod& method, bool recompute, Precision precision = Precision::f32) {
  Bert bert(spec_of(k));
  bert.initialise(1);
  auto head = nn::Classifier<float>::make(k.width, 2, {1, 99, 0});
  auto body = adapt(bert, method, {.recompute = recompute, .precision = precision});
  task::Learner<Bert> learner{std::move(bert), std::move(body), std::move(head)};
  const auto examples = sentences(k);
  train::prepare(learner, method, examples, examples.size(), 1, [](std::size_t, std::size_t) { return false; });
  const auto optimizer =
      train::state_over(train::optimizer_of(method_recipe(method), 1), nn::trainable<float, Cpu>(learner));
  train::Steps<float, Cpu> steps([&](const nn::Batch<>& batch) { return learner.loss(batch); }, 0, optimizer.get());
  const auto job = train::Job<float, Cpu>::of(learner, examples, examples);
  const auto rows = all_of(examples);
  std::size_t highest = 0;
  for (const auto& part : job.parts(rows)) {
    const Measure measure(Cpu::pool());
    const auto batch = task::batch_of(examples, part, 2, Run{1, 0, true});
    (void)steps.run(batch, [] {});
    highest = std::max(highest, measure.activation());
  }
  auto sizes = train::step_sizes(spec_of(k), task::batch_of(examples, rows).offsets);
  sizes.front().recompute = recompute;
  sizes.front().narrow = method_facts(method).narrows && precision == Precision::bf16;
  return {static_cast<double>(highest), static_cast<double>(train::expected_activation<float>(method, sizes))};
}

/// Bytes of activation of one step on all of the data, in the method's parts; none where nothing trains.
template <class Learner, class Data>
std::optional<double> step_on_all(Learner& learner, const AnyMethod& method, const Data& data) {
  train::prepare(learner, method, data, data.size(), 1, [](std::size_t, std::size_t) { return false; });
  const auto optimizer =
      train::state_over(train::optimizer_of(method_recipe(method), 1), nn::trainable<float, Cpu>(learner));
  if (optimizer->parameters() == 0) return {};
  train::Steps<float, Cpu> steps([&](const nn::Batch<>& batch) { return learner.loss(batch); }, 0, optimizer.get());
  const auto job = train::Job<float, Cpu>::of(learner, data, data);
  double measured = 0;
  for (const auto& part : job.parts(all_of(data))) {
    const auto batch = learner.batch(data, part, Run{1, 0, true});
    const Measure measure(Cpu::pool());
    (void)steps.run(batch, [] {});
    measured = std::max(measured, static_cast<double>(measure.activation()));
  }
  return measured;
}

/// Measured over expected.
double ratio(const Case& k, const AnyMethod& method, bool recompute, Precision precision = Precision::f32) {
  const auto found = activation(k, method, recompute, precision);
  return found.measured / found.expected;
}

}  // namespace

TEST_CASE("the expected activation memory is what the meter reads") {
  const int before = threads();
  const Case cases[] = {{3, 64, 256, 4, 500, 16, 30, 50},
                        {6, 64, 128, 2, 500, 24, 20, 30},
                        {4, 48, 192, 4, 8000, 16, 10, 40},
                        {2, 128, 512, 4, 1000, 8, 100, 128}};
  // On one thread; a method by itself on two as well, for the first case.
  const auto check = [&](const AnyMethod& method, const std::string& more, bool recompute,
                         Precision precision = Precision::f32) {
    const bool whole = more.empty() && method_title(method) == method_name(method);
    for (const auto& k : std::span(cases).first(whole ? 4 : 2)) {
      CAPTURE(method_title(method) + more);
      CAPTURE(k.width);
      set_threads(1);
      const double alone = ratio(k, method, recompute, precision);
      CHECK(alone > 0.93);
      CHECK(alone < 1.07);
      if (&k != cases || !whole) continue;
      set_threads(2);
      const double together = ratio(k, method, recompute, precision);
      CHECK(together > 0.5);
      CHECK(together < 1.07);
    }
  };
  for (auto method : methods_and_insides()) {
    if (method_facts(method).reads_images) continue;
    (void)set_option(method, "projection", "256");
    (void)set_option(method, "scope", "local");  // something of every matrix
    check(method, "", false);
    if (method_facts(method).narrows) check(method, " in bf16", false, Precision::bf16);
    if (method_title(method) != method_name(method)) continue;
    if (set_option(method, "density", "0.5")) check(method, " dense", false);
    if (method_facts(method).recomputes) check(method, " recompute", true);
    if (set_option(method, "forward-samples", "2")) check(method, " samples", false);
    if (!stack_of(method) && set_option(method, "lora-targets", "linear")) {
      check(method, " linear", false);
      for (const char* some : {"output", "query,key,value", "up", "down", "value,up,down"}) {
        REQUIRE(set_option(method, "lora-targets", some));
        check(method, std::string(" ") + some, false);
        if (method_facts(method).recomputes) check(method, std::string(" recompute ") + some, true);
      }
    }
    if (auto* stack = stack_of(method)) {
      for (const Index layers : {1, 2}) {
        stack->stored_layers = layers;
        check(method, " stored layers", false);
      }
      stack->stored_layers = 0;
      for (const auto streams : {Streams::stored, Streams::rounded}) {
        stack->streams = streams;
        check(method, std::string(" ") + name_of(streams), false);
      }
    }
  }
  set_threads(before);
}

TEST_CASE("the expected activation memory of layers with gates and fewer key heads") {
  const int before = threads();
  set_threads(1);
  auto methods = methods_and_insides();
  for (const char* targets : {"linear", "output", "query,key,value", "up,gate", "gate", "down", "value,up,down"}) {
    methods.push_back(LowRank{});
    REQUIRE(set_option(methods.back(), "lora-targets", targets));
  }
  for (auto method : methods) {
    if (method_name(method) == "bitfit" || method_facts(method).reads_images) continue;  // there are no biases
    const bool whole = method_title(method) == method_name(method);
    const Case cases[] = {{3, 64, 256, 4, 500, 16, 30, 50, 2}, {4, 96, 128, 6, 500, 8, 60, 90, 1}};
    for (const auto& k : std::span(cases).first(whole ? 2 : 1)) {
      (void)set_option(method, "projection", "256");
      (void)set_option(method, "scope", "local");
      CAPTURE(method_title(method));
      CAPTURE(k.width);
      const double found = ratio(k, method, false);
      MESSAGE(method_title(method), ", ", k.width, " wide: measured over expected ", found);
      CHECK(found > (whole ? 0.9 : 0.85));
      CHECK(found < 1.1);
    }
  }
  set_threads(before);
}

TEST_CASE("the expected activation memory of a head over a large vocabulary") {
  using Language = task::LanguageLearner<Bert>;
  const int before = threads();
  set_threads(1);
  const Case cases[] = {{4, 64, 128, 4, 30000, 4, 60, 90, 2}, {8, 96, 256, 6, 8000, 3, 90, 100, 2}};
  for (auto method : all_methods()) {
    if (method_name(method) == "bitfit" || method_facts(method).reads_images) continue;  // there are no biases
    (void)set_option(method, "projection", "64");
    (void)set_option(method, "scope", "local");  // something of every matrix
    for (const Case& k : cases) {
      const auto spec = spec_of(k);
      Bert model(spec);
      model.initialise(1);
      auto body = adapt(model, method);
      auto head = model.language_head();
      Language learner{std::move(model), std::move(body), std::move(head)};
      if (!method_facts(method).trains_all) nn::freeze(learner.head);
      const task::Blocks blocks{sentences(k).ids};
      const auto measured = step_on_all(learner, method, blocks);
      if (!measured) continue;
      const auto sizes = train::step_sizes(spec, learner.batch(blocks, all_of(blocks), {}).offsets, 1, true);
      const auto expected = static_cast<double>(train::expected_activation<float>(method, sizes));
      MESSAGE(method_name(method), ", ", k.width, " wide: ", *measured / (1 << 20), " MiB, over expected ",
              *measured / expected);
      CHECK(*measured > 0.9 * expected);
      CHECK(*measured < 1.1 * expected);
    }
  }
  set_threads(before);
}

namespace {

std::vector<std::int32_t> some_ids(int count, int number) {
  std::vector<std::int32_t> out;
  for (int j = 0; j < count; ++j) out.push_back(5 + (number * 31 + j * 17) % 590);
  return out;
}

model::TransformerSpec with_decoder(bool bart) {
  if (bart) {
    model::BartConfig config{.vocab_size = 600, .d_model = 64, .encoder_layers = 3, .decoder_layers = 5};
    config.encoder_attention_heads = config.decoder_attention_heads = 4;
    config.encoder_ffn_dim = config.decoder_ffn_dim = 256;
    return config.spec();
  }
  model::T5Config config{.vocab_size = 600, .d_model = 64, .d_kv = 16, .d_ff = 192};
  config.num_layers = config.num_decoder_layers = config.num_heads = 4;
  config.gated = true;
  return config.spec();
}

/// Of one step on all of the data. Measured over expected; none where nothing trains.
template <class Learner, class Data>
std::optional<double> decoder_ratio(Learner& learner, const AnyMethod& method, const Data& data, bool words) {
  const auto measured = step_on_all(learner, method, data);
  if (!measured) return {};
  const auto whole = learner.batch(data, all_of(data), {});
  const auto sizes = train::step_sizes(learner.model.spec, whole.offsets, 1, words, whole.answers.sequences());
  return *measured / static_cast<double>(train::expected_activation<float>(method, sizes));
}

}  // namespace

TEST_CASE("the expected activation memory of models with a decoder, whose texts are others or the encoder's") {
  const int before = threads();
  set_threads(1);
  task::RankedQuestions texts{.answered = task::Answered::by_decoder};
  task::Encoded classes;
  for (int i = 0; i < 16; ++i) {
    texts.prompts.push_back(some_ids(50 + i * 7 % 30, i));
    texts.answers.push_back(some_ids(10 + i * 7 % 20, i + 100));
    texts.first.push_back(static_cast<std::uint32_t>(i + 1));
    texts.labels.push_back(0);
    classes.ids.push_back(some_ids(30 + i * 7 % 20, i));
    classes.types.emplace_back(classes.ids.back().size(), 0);
    classes.labels.push_back(static_cast<float>(i % 2));
  }
  for (auto method : methods_and_insides())
    for (const bool bart : {true, false}) {
      if (method_facts(method).reads_images || (!bart && method_name(method) == "bitfit"))
        continue;  // T5 has no biases
      (void)set_option(method, "projection", "64");
      (void)set_option(method, "scope", "local");
      const auto spec = with_decoder(bart);
      for (const bool writes : {true, false}) {
        if (!writes && method_title(method) != method_name(method)) continue;
        Bert model(spec);
        model.initialise(1);
        auto body = adapt(model, method);
        std::optional<double> found;
        if (writes) {
          auto head = model.language_head();
          task::RankingLearner<Bert> learner{std::move(model), std::move(body), std::move(head), task::Losses::words};
          if (!method_facts(method).trains_all) nn::freeze(learner.head);
          found = decoder_ratio(learner, method, texts, true);
        } else {
          task::Learner<Bert> learner{std::move(model), std::move(body),
                                      nn::Classifier<float>::make(64, 2, {1, 99, 0})};
          found = decoder_ratio(learner, method, classes, false);
        }
        if (!found) continue;
        const auto title = method_title(method) + (bart ? " bart " : " t5 ") + (writes ? "writes" : "classes");
        MESSAGE(title, ": measured over expected ", *found);
        // The elements of SparseGrad may all be a decoder's.
        CHECK((*found > 0.7 || method_title(method) == "sparsegrad"));
        CHECK(*found < 1.15);
      }
    }
  set_threads(before);
}

TEST_CASE("the expected activation memory beside a frozen ViT, and FPT+'s share of full fine-tuning's") {
  const int before = threads();
  set_threads(1);
  const auto found = [](Index layers, Index image, Index inner, const Fpt& method) {
    model::VitConfig config;
    config.hidden_size = 64;
    config.num_hidden_layers = layers;
    config.num_attention_heads = 4;
    config.intermediate_size = inner;
    config.image_size = image;
    config.patch_size = 8;
    Bert vit(config.spec());
    vit.initialise(1);
    auto body = adapt(vit, method);
    auto head = nn::Classifier<float>::make(64, 2, {1, 99, 0});
    for (auto [name, p] : nn::trainable<float, Cpu>(body)) p.zero_gradient();
    for (auto [name, p] : nn::trainable<float, Cpu>(head)) p.zero_gradient();
    nn::Batch<> batch;
    batch.pixels = Tensor<float>({1, 3, image, image});
    batch.labels = Tensor<std::int32_t>::from({1}, {1});
    batch.run = {1, 0, true};
    fill_normal(batch.pixels, {1, 2, 0}, 1.0);
    const Measure measure(Cpu::pool());
    {
      Tape tape;
      tape.backward(cross_entropy(head(vit.run(batch, body)), batch.labels));
    }
    const auto tokens = static_cast<std::int32_t>(1 + image * image / 64);
    const auto sizes = train::step_sizes(config.spec(), Offsets({0, tokens, 2 * tokens}));
    const auto measured = static_cast<double>(measure.activation());
    CHECK(measured == doctest::Approx(train::expected_activation<float>(method, sizes)).epsilon(0.1));
    return measured;
  };
  for (const Index image : {112, 200}) {
    CAPTURE(image);
    const Fpt method{.image = 32, .layers = 3};
    CHECK(found(4, image, 256, method) == found(8, image, 256, method));  // with all that is below the last three
    (void)found(4, image, 256, {.image = 56, .reduction = 4, .layers = 4, .kept = 0.5});
    (void)found(4, image, 1024, method);
  }
  model::VitConfig base;
  base.image_size = 512;
  std::vector<std::int32_t> lengths(16, 1025);
  const auto sizes = train::step_sizes(base.spec(), Offsets::of_lengths(lengths));
  CHECK(static_cast<double>(train::expected_activation<float>(Fpt{}, sizes)) <
        0.032 * static_cast<double>(train::expected_activation<float>(Full{}, sizes)));
  set_threads(before);
}

TEST_CASE("beside frozen layers the activation memory is that of a part's taps") {
  const int before = threads();
  set_threads(1);
  for (auto method : all_methods()) {
    if (!method_facts(method).beside || method_facts(method).reads_images) continue;
    (void)set_option(method, "projection", "256");
    CAPTURE(method_name(method));
    const Case usual{6, 64, 256, 4, 500, 8, 62, 64};
    const auto bytes = [&](const Case& k) { return activation(k, method, false).measured; };
    auto batch = usual, wide = usual, deep = usual, deeper = usual;
    batch.batch = 32, wide.inner = 512, deep.layers = 8, deeper.layers = 10;
    const double found = bytes(usual);
    CHECK(bytes(batch) == found);
    if (method_name(method) == "head") continue;  // it has one tap: what is alive in a layer is more
    const auto options = method_options(method);
    const auto has = [&](std::string_view name) {
      return std::any_of(options.begin(), options.end(), [&](const auto& o) { return o.about.name == name; });
    };
    // A ladder's layers have their share of the width.
    if (has("reduction")) CHECK(bytes(wide) < found * 1.4);
    else CHECK(bytes(wide) == found);
    // A tap's; with late layers each of those below is compared with each.
    const double curved = has("late-layers") ? 0.02 : 1e-3;
    CHECK(bytes(deeper) - bytes(deep) == doctest::Approx(bytes(deep) - found).epsilon(curved));
  }
  set_threads(before);
}

// BERT-base's proportions at half its width, whose layers are as flat in memory however many there are.
TEST_CASE("training by forward passes alone takes the activation memory of inference") {
  const int before = threads();
  const Case k{1, 384, 1536, 6, 1000, 8, 127, 128};
  auto examples = sentences(k);
  std::vector<std::uint32_t> rows(examples.size());
  std::iota(rows.begin(), rows.end(), 0u);
  for (const auto& method : all_methods()) {
    const auto recipe = method_recipe(method);
    if (recipe.epsilon == 0 || recipe.inner) continue;  // none, or gradients too
    CAPTURE(std::string(method_name(method)));
    Bert bert(spec_of(k));
    bert.initialise(1);
    auto head = nn::Classifier<float>::make(k.width, 2, {1, 99, 0});
    auto body = adapt(bert, method);
    task::Learner<Bert> learner{std::move(bert), std::move(body), std::move(head)};
    const auto optimizer = train::state_over(train::optimizer_of(recipe, 1), nn::trainable<float, Cpu>(learner));
    const auto loss = [&](const nn::Batch<>& batch) { return learner.loss(batch); };
    train::Steps<float, Cpu> steps(loss, 0, optimizer.get());
    double alone = 0;  // of one thread; two hold at most twice of it, less where their slices do not meet
    for (const int count : {1, 2}) {
      set_threads(count);
      auto batch = task::batch_of(examples, rows, 2, Run{1, 0, true});
      const auto inference = [&] {
        const NoTape none;
        const Measure measure(Cpu::pool());
        batch.run.training = false;
        (void)loss(batch);
        return measure.activation();
      }();
      const auto probing = steps.run(batch, [] {}).activation_bytes;
      MESSAGE(count << " threads: inference " << inference / 1024 << " KiB, probing " << probing / 1024 << " KiB");
      if (count == 1) alone = static_cast<double>(inference);
      CHECK(static_cast<double>(probing) <= 1.1 * count * alone);
      (void)optimizer->step();
    }
  }
  set_threads(before);
}

TEST_CASE("a state of another run is refused, naming the option and both values") {
  const nlohmann::json stored{{"lr", 0.5}, {"task", "rte"}}, same = stored;
  CHECK_NOTHROW(train::require_same_run(stored, same, "state"));
  CHECK_THROWS_WITH_AS(train::require_same_run(stored, {{"lr", 0.25}, {"task", "rte"}}, "state"),
                       doctest::Contains("--lr is not the run's: state has 0.5, found 0.25"), Error);
  CHECK_THROWS_WITH_AS(train::require_same_run(stored, {{"lr", 0.5}}, "state"),
                       doctest::Contains("--task is not the run's: state has rte, found nothing"), Error);
  CHECK_THROWS_WITH_AS(train::require_same_run(stored, {{"lr", 0.5}, {"task", "rte"}, {"beta", "1/2"}}, "state"),
                       doctest::Contains("--beta"), Error);
}
