// Owns: what is done with examples before a run: which of them are looked at, and distances by hand.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <meft/method/coupled.hpp>
#include <meft/model/transformer.hpp>
#include <meft/ops/loss.hpp>
#include <meft/train/prepare.hpp>

#include "methods.hpp"

using namespace meft;

namespace {

struct Lengths {
  std::vector<std::uint32_t> all;
  std::vector<std::uint32_t> lengths() const { return all; }
};

using Asked = std::vector<std::vector<std::uint32_t>>;

/// Runs a small BERT on two short texts, whatever it is asked for.
struct Small {
  using T = double;
  using B = Cpu;

  model::Transformer<double> model;
  Body<double> body;
  nn::Classifier<double> head = nn::Classifier<double>::make(8, 2, {1, 99, 0});
  std::shared_ptr<Asked> asked = std::make_shared<Asked>();
  bool trains = false;  // whether it is to be run as in training

  explicit Small(const auto& method)
      : model([] {
          auto config = SmallBert{.layers = 3, .width = 8, .heads = 2, .inner = 16}.config();
          config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0;
          model::Transformer<double> out(config.spec());
          out.initialise(4);
          return out;
        }()),
        body(adapt(model, method, {.seed = 2})) {}

  nn::Batch<> batch(const Lengths&, std::span<const std::uint32_t> rows, Run run) const {
    CHECK(run.training == trains);
    asked->emplace_back(rows.begin(), rows.end());
    auto out = nn::Batch<>::pack({{3, 7, 1}, {5, 2}});
    out.run = run;
    out.labels = Tensor<std::int32_t>::from({2}, {1, 0});
    return out;
  }
  Var<double> loss(const nn::Batch<>& batch) const { return cross_entropy(head(model.run(batch, body)), batch.labels); }
};

}  // namespace

TEST_CASE("distances by hand: KL of two rows' softmax, cosines of rows") {
  // Row 0: p = (3/4, 1/4), q = (1/2, 1/2); row 1: p = (1/2, 1/2), q = (1/4, 3/4), each with another constant.
  const double l = std::log(3);
  const std::vector<double> p{l, 0, 5, 5}, q{-2, -2, 0, l};
  const double first = 0.75 * std::log(1.5) + 0.25 * std::log(0.5),
               second = 0.5 * std::log(2) + 0.5 * std::log(2 / 3.0);
  CHECK(train::detail::divergence(p, q, 2) == doctest::Approx(first + second).epsilon(1e-13));
  CHECK(train::detail::divergence(p, p, 2) == doctest::Approx(0).scale(1));
  CHECK(train::detail::cosine(std::vector<double>{3, 4, 0, 2}, {5, 0, 0, -7}, 2) ==
        doctest::Approx(0.6 - 1).epsilon(1e-13));
  struct Head {
    Var<double> logits(const Tensor<double>& h) const { return h; }
  };
  const auto rows = [](const std::vector<double>& row) {
    std::vector<double> out;
    for (int i = 0; i < 70; ++i) out.insert(out.end(), row.begin(), row.end());  // more than go at once
    return Tensor<double>::from({70, 2}, out);
  };
  CHECK(train::divergence(Head{}, rows({l, 0}), Head{}, rows({1, 1})) == doctest::Approx(first).epsilon(1e-12));
}

TEST_CASE("calibration looks at four batches from all of the examples, or at all of few") {
  const auto asked = [](std::size_t size, std::size_t batch) {
    Small learner(Meft1{.bottleneck = 2});
    (void)train::calibrate(learner, Lengths{std::vector<std::uint32_t>(size, 3)}, batch, 5);
    return *learner.asked;
  };
  CHECK(asked(80, 2) == Asked{{0, 10}, {20, 30}, {40, 50}, {60, 70}});
  CHECK(asked(5, 2) == Asked{{0, 1}, {2, 3}, {4}});
  CHECK(asked(320, 99) == Asked{{0, 10, 20, 30, 40, 50, 60, 70},
                                {80, 90, 100, 110, 120, 130, 140, 150},
                                {160, 170, 180, 190, 200, 210, 220, 230},
                                {240, 250, 260, 270, 280, 290, 300, 310}});
  Small plain(HeadOnly{});
  CHECK(train::calibrate(plain, Lengths{{3, 3}}, 2, 5).features == 0);
  CHECK(plain.asked->empty());
}

TEST_CASE("a method that chooses by examples gives streams a wider range where these leave it") {
  const AnyMethod method = Meft1{.options = {.stack = {.fraction_bits = 30}}, .inside = Speft{.density = 0.1}};
  Small learner(method);
  nn::for_each_parameter(learner.model, [](const std::string& name, Parameter<double>& p) {
    if (name == "embeddings.LayerNorm.weight") p.value() = Tensor<double>::full(p.shape(), 4.0);
  });
  const auto ranges = learner.body.ranges();
  CHECK(ranges.at(0)->least() == 30);  // ±2
  CHECK(train::prepare(learner, method, Lengths{{3, 3}}, 2, 5, [](std::size_t, std::size_t) { return false; }));
  CHECK(ranges.at(0)->least() < 30);
  std::size_t chosen = 0;
  nn::walk(learner.model.layers, [&](const std::string&, nn::Linear<double>& linear) {
    if (linear.chosen()) chosen += static_cast<std::size_t>(linear.chosen()->values.size());
  });
  CHECK(chosen > 100);
}

TEST_CASE("the distance from the plain model: of a stack alone, on few examples; near where the factor is small") {
  const Lengths some{std::vector<std::uint32_t>(20, 3)};
  const Small plain(HeadOnly{});
  CHECK_FALSE(train::start_distance(plain, some, 4));
  const auto far = [&](Lambda lambda) {
    const Small learner(Meft1{.lambda = lambda, .options = {.stack = {.readout = readout_from("plm")}}});
    const auto found = train::start_distance(learner, some, 4);
    REQUIRE(found);
    CHECK_FALSE(found->divergence);
    return 1 - found->value;
  };
  CHECK(far({1, 4096}) < 1e-9);
  CHECK(far({1, 2}) > 1e-6);

  // It is told of what the head pools, whatever it makes of that.
  Small learner(Meft1{.bottleneck = 2});
  const double bare = train::start_distance(learner, some, 4)->value;
  learner.head.dense = nn::Linear<double>::normal(8, 8, {1, 98, 0});
  learner.head.norm = nn::Norm<double>::empty(8, 1e-12);
  fill_normal(learner.head.norm->weight.value(), {1, 97, 0}, 1.0);
  CHECK(train::start_distance(learner, some, 4)->value == bare);

  // The plain model is without what a method added.
  const auto hidden = [](const Small& of, const Body<double>& body) {
    return of.model.run(of.batch({}, {}, {}), body).value.value().values();
  };
  const auto expected = hidden(plain, plain.body);
  const MeftOptions paper{.start = AdapterStart::paper};
  for (const Small& learner : {Small(Meft1{.inside = PrefixTuning{.tokens = 3}}), Small(Meft1{.options = paper}),
                               Small(Meft3{.options = paper})}) {
    CHECK(hidden(learner, train::detail::plain_of(learner.body)) == expected);
    CHECK(hidden(learner, learner.body) != expected);
  }

  const auto rows = [&](const std::vector<std::uint32_t>& lengths, std::size_t batch) {
    const Small learner(Meft1{.bottleneck = 2});
    (void)train::start_distance(learner, Lengths{lengths}, batch);
    return learner.asked->at(0).size();
  };
  CHECK(rows(some.all, 4) == 4);
  CHECK(rows(some.all, 99) == 8);
  CHECK(rows({3, 3}, 4) == 2);
  CHECK(rows({600, 424, 1}, 4) == 2);  // 1024 tokens are enough
  CHECK(rows({2000, 1}, 4) == 1);
}
