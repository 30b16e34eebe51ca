// Owns: tests on real checkpoints, which are not in the repository: those that MEFT_SHARED holds, and what fetch.py
// puts into build/assets. Without it they say that they are skipped.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/method/registry.hpp>
#include <meft/ops/loss.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/text/tokenizer.hpp>
#include <meft/train/prepare.hpp>

#include "golden.hpp"

namespace {

using namespace meft;

/// The folder of a checkpoint, or nothing, said.
std::string shared_weights(const std::string& name) {
  const char* shared = std::getenv("MEFT_SHARED");
  const std::string folder = shared ? std::string(shared) + "/weights/" + name : "";
  if (shared && std::filesystem::exists(folder)) return folder;
  MESSAGE("skipped: no weights of ", name, " (MEFT_SHARED)");
  return "";
}

/// The gradient of the lowest layer's trained parameters under MEFT1 on random reactions.
std::vector<float> lowest_gradient(const std::string& folder, Streams streams) {
  auto bert = checkpoints::hf(folder);
  const auto body = adapt(bert, Meft1{.options = {.stack = {.streams = streams}, .start = AdapterStart::paper}});
  const auto head = nn::Classifier<float>::make(bert.hidden(), 2, {1, 2, 3});
  std::vector<std::vector<std::int32_t>> ids(4);
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 30 + 7 * i; ++j) ids[static_cast<std::size_t>(i)].push_back(15 + (i * 31 + j * j * 7) % 200);
  auto batch = nn::Batch<>::pack(ids);
  batch.run = {5, 0, true};
  {
    Tape tape;
    tape.backward(cross_entropy(head(bert.run(batch, body)), Tensor<std::int32_t>::from({4}, {0, 1, 1, 0})));
  }
  std::vector<float> out;
  for (auto& [name, p] : nn::trainable<float, Cpu>(bert.layers.front())) {
    const auto g = std::as_const(p).gradient().values();
    out.insert(out.end(), g.begin(), g.end());
  }
  return out;
}

/// A language model's logits and greedy tokens beside transformers', which golden/make_smollm2.py wrote.
void check_greedy(const std::string& name, model::Transformer<float> decoder, const nn::LanguageHead<float>& head,
                  const Values& expected) {
  const auto ids = expected.integer("ids");
  const auto prompt = static_cast<std::size_t>(expected.integer("prompt")[0]);
  const auto batch = nn::Batch<>::pack({ids});
  const auto body = adapt(decoder, HeadOnly{});
  const auto logits = head.logits(decoder.run(batch, body).value).value();
  const auto words = static_cast<std::size_t>(logits.dim(1));
  const auto some = expected.real("logits");
  double difference = 0, norm = 0;
  for (std::size_t i = 0, at = 0; i < ids.size(); ++i) {
    const float* row = logits.data() + i * words;
    for (std::size_t j = 0; j < words; j += 389, ++at) {
      difference += std::pow(static_cast<double>(row[j]) - some.at(at), 2);
      norm += some[at] * some[at];
    }
    if (i + 1 >= prompt && i + 1 < ids.size()) CHECK(std::max_element(row, row + words) - row == ids[i + 1]);
  }
  const double error = std::sqrt(difference / norm);
  MESSAGE(name, ": relative error of the logits ", error);
  CHECK(error < 1e-4);
}

}  // namespace

TEST_CASE("real weights: a protein RoBERTa gives each residue the probability that transformers gives") {
  const std::string folder = shared_weights("sapiens-roberta");
  if (folder.empty()) return;
  checkpoints::LoadReport report;
  auto roberta = checkpoints::hf<double>(folder, &report);
  const auto head = checkpoints::load_language_head(folder, roberta, 0, &report);
  CHECK(report.initialised.empty());
  const std::vector<std::int32_t> ids{0, 4, 14, 18, 16, 8, 14, 14, 8, 16, 18, 14, 4, 8, 6, 18, 4, 4, 18, 6, 8, 2};
  // transformers 5.24, RobertaForMaskedLM in float64: log_softmax of the logits at each token's own id.
  const std::vector<double> expected{-0.148119, -1.684162, -0.617183, -0.851183, -1.120333, -2.525872,
                                     -2.56206,  -4.089983, -0.365484, -1.022812, -1.073041, -4.112708,
                                     -0.768457, -0.240109, -0.626302, -2.381563, -1.10968,  -0.420087,
                                     -0.869,    -3.105708, -1.039685, -5.122934};
  const auto batch = nn::Batch<>::pack({ids});
  const auto body = adapt(roberta, HeadOnly{});
  const auto found = head.log_likelihood(roberta.run(batch, body).value,
                                         Tensor<std::int32_t>::from({static_cast<Index>(ids.size())}, ids));
  for (std::size_t i = 0; i < ids.size(); ++i) CHECK(std::abs(found.data()[i] - expected[i]) < 1e-6);
}

TEST_CASE("real weights: 12 layers of a chemistry BERT, exact equals stored and rounded does not") {
  const std::string folder = shared_weights("rxnfp-bert");
  if (folder.empty()) return;
  const auto stored = lowest_gradient(folder, Streams::stored);
  CHECK(!stored.empty());
  CHECK(lowest_gradient(folder, Streams::exact) == stored);
  const auto rounded = lowest_gradient(folder, Streams::rounded);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < stored.size(); ++i) {
    difference += std::pow(static_cast<double>(rounded[i]) - static_cast<double>(stored[i]), 2);
    norm += std::pow(static_cast<double>(stored[i]), 2);
  }
  const double error = std::sqrt(difference / norm);
  MESSAGE("rxnfp-bert, lowest layer: relative error of the gradient with rounded streams ", error,
          ", with exact ones 0");
  CHECK(!(error < 1e-3));
}

TEST_CASE("real weights: MPNet-base: transformers' hidden states, as far apart as tokens may be, and its tokens") {
  const std::string path = "../build/assets/mpnet";
  if (!std::filesystem::exists(path)) {
    MESSAGE("skipped: no build/assets/mpnet (tests/fetch.py --mpnet)");
    return;
  }
  const Values expected(golden() + "/mpnet.safetensors");
  checkpoints::LoadReport report;
  auto mpnet = checkpoints::hf(path, &report, Precision::f32);
  CHECK(report.unused == std::vector<std::string>{"pooler.dense.bias", "pooler.dense.weight"});
  const text::Tokenizer tokenizer{std::filesystem::path(path)};
  std::string chapters;
  for (int i = 0; i < 16; ++i)
    chapters += (i ? " Chapter " : "Chapter ") + std::to_string(i) +
                ": the river rose, the bridge held, and nobody in the valley slept that night.";
  std::vector<std::vector<std::int32_t>> ids, types;
  std::vector<std::int32_t> all;
  for (const auto& text :
       {std::string("Hello, un-affable w\u00f6rld! \u4e2d can't <mask>"),
        std::string("What can bees see, and how do they tell each other where the flowers are?"), chapters}) {
    const auto encoding = tokenizer.encode(text, 300);
    ids.push_back(encoding.ids), types.push_back(encoding.types);
    all.insert(all.end(), encoding.ids.begin(), encoding.ids.end());
  }
  CHECK(all == expected.integer("ids"));
  const auto hidden = mpnet.run(nn::Batch<>::pack(ids, types), adapt(mpnet, HeadOnly{})).value.value();
  const auto some = expected.real("hidden");
  REQUIRE(some.size() == static_cast<std::size_t>(hidden.dim(0) * 16));
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < some.size(); ++i) {
    difference += std::pow(static_cast<double>(hidden.data()[i * 48]) - some[i], 2);
    norm += some[i] * some[i];
  }
  const double error = std::sqrt(difference / norm);
  MESSAGE("MPNet-base: relative error of the hidden states ", error);
  CHECK(error < 1e-5);
}

TEST_CASE("real weights: SmolLM2 in blocks of four bits: transformers' logits and its 64 greedy tokens") {
  const std::string path = "../build/assets/smollm2.gguf";
  if (!std::filesystem::exists(path)) {
    MESSAGE("skipped: no build/assets/smollm2.gguf (tests/fetch.py)");
    return;
  }
  // transformers 5.24 in float32 from the same file: a prompt and the 64 tokens that it goes on with, and of every
  // 389th word the logits.
  const Values expected(golden() + "/smollm2.safetensors");
  const auto ids = expected.integer("ids");
  checkpoints::LoadReport report;
  auto smol = checkpoints::hf(path, &report, Precision::f32);
  const auto head = checkpoints::load_language_head(path, smol, 0, &report);
  CHECK(report.initialised.empty());
  CHECK(report.unused.empty());
  check_greedy("SmolLM2", smol, head, expected);

  // Under MEFT1 no flag is needed: feature 507, which reaches 24,926, has a range of its own.
  const task::Blocks data{{std::vector(ids.begin(), ids.begin() + 32)}};
  std::vector<float> gradients[2];
  for (const auto streams : {Streams::exact, Streams::stored}) {
    task::LanguageLearner<decltype(smol)> learner{smol, {}, head};
    freeze(learner.head);
    const StackOptions stack{.streams = streams, .readout = readout_from("plm")};
    learner.body = adapt(
        learner.model, Meft1{.options = {.stack = stack, .coupling = Coupling::balanced, .start = AdapterStart::zero}},
        {.seed = 1});
    const auto range = train::calibrate(learner, data, 1, 0);
    const auto& bits = learner.body.ranges().at(0)->bits();
    REQUIRE(bits.size() == 576);
    CHECK(bits[507] == range.least);
    CHECK((range.least >= 14 && range.least <= 16));
    CHECK(range.features < 10);
    const auto start = train::start_distance(learner, data, 1);
    REQUIRE(start);
    CHECK(start->divergence);
    CHECK(start->value < 0.07);
    MESSAGE("SmolLM2, balanced coupling: ", start->value, " nats a token from the plain model; ", range.features,
            " features have fewer than 20 fraction bits, the fewest ", range.least);
    const std::uint32_t first[] = {0};
    Tape tape;
    tape.backward(learner.loss(learner.batch(data, first, {1, 0, true})));
    for (const auto& [name, p] : nn::trainable<float, Cpu>(learner)) {
      const auto g = p.gradient().defined() ? p.gradient().values() : std::vector<float>{};
      auto& all = gradients[streams == Streams::exact];
      all.insert(all.end(), g.begin(), g.end());
    }
  }
  CHECK(gradients[0].size() > 100000);
  CHECK(gradients[0] == gradients[1]);
}

TEST_CASE("real weights: a decoder of one's own beside transformers") {
  // MEFT_DECODER=NAME.gguf, beside which golden/make_smollm2.py wrote NAME.safetensors
  const char* path = std::getenv("MEFT_DECODER");
  if (!path) {
    MESSAGE("skipped: MEFT_DECODER is not set");
    return;
  }
  auto decoder = checkpoints::hf(path, nullptr, Precision::f32);
  const auto values = std::filesystem::path(path).replace_extension(".safetensors").string();
  check_greedy(path, decoder, checkpoints::load_language_head(path, decoder), Values(values));
}
