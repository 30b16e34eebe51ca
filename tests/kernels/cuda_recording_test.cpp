// Owns: recordings of the device's work, uploads ahead of it, and training steps that run from recordings: the same
// bits as without.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <meft/checkpoints/family.hpp>
#include <meft/checkpoints/hf.hpp>
#include <meft/cuda.hpp>
#include <meft/io/json.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/embedding.hpp>
#include <meft/ops/loss.hpp>
#include <meft/task/choice_learner.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/task/learner.hpp>
#include <meft/tensor/math.hpp>
#include <meft/train/steps.hpp>

#include "cuda_schedules.hpp"
#include "golden.hpp"
#include "methods.hpp"
#include "tools.hpp"

using namespace meft;
using namespace meft::test;

namespace {

using Values32 = Tensor<float, Cuda>;
using Numbers = Tensor<std::int32_t, Cuda>;

template <class T>
Recording::Input input(const Tensor<T, Cuda>& x) {
  return {x.data(), x.bytes()};
}

void overwrite_with(Values32& x, const std::vector<float>& values) { Cuda::upload(x.data(), values.data(), x.bytes()); }

}  // namespace

TEST_CASE("a recording does its work on the values that its inputs hold") {
  const auto f = [] {
    auto x = Values32::from({3}, {1, 2, 3});
    Values32 kept;
    std::vector<std::vector<float>> read;
    const Recording recording({input(x)}, [&] {
      const std::vector<float> constant{10, 20, 30};
      kept = map(Add{}, x, Values32::from({3}, constant));
      Cuda::read(kept.data(), kept.bytes(), [&](const void* data) {
        const auto* values = static_cast<const float*>(data);
        read.emplace_back(values, values + 3);
      });
    });
    REQUIRE(recording);
    CHECK(read.empty());
    recording.run();
    recording.finish();
    overwrite_with(x, {4, 5, 6});
    recording.run();
    recording.finish();
    CHECK(kept.values() == read.back());
    return read;
  };
  for_each_schedule(f, [](const auto& first, const auto& again) {
    CHECK(first == std::vector<std::vector<float>>{{11, 22, 33}, {14, 25, 36}});
    CHECK(again == first);
  });
}

TEST_CASE("work that waits for recorded values is not recorded, and nothing of it is done") {
  auto x = Values32::from({2}, {1, 2});
  const auto refused = [&](const auto& f) {
    const Recording recording({input(x)}, [&] {
      x.zero();
      f();
    });
    CHECK(!recording);
  };
  refused([&] { (void)x.values(); });
  refused([&] { (void)x.rows(0, 1).item(); });
  refused([] { Cuda::synchronize(); });
  refused([] {
    (void)cross_entropy(Values32::zeros({2, 3}), Numbers::from({2}, {0, 1}));
  });  // labels that are no input
  CHECK(x.values() == std::vector<float>{1, 2});
  CHECK_THROWS_WITH_AS(Recording({}, [] { fail("of its own"); }), doctest::Contains("of its own"), Error);
  CHECK_THROWS_WITH_AS(Recording({}, [] { Recording({}, [] {}); }), doctest::Contains("one is being made"), Error);
  CHECK(map(Neg{}, x).values() == std::vector<float>{-1, -2});  // nothing is left of them
}

TEST_CASE("a recording knows inputs that it cannot take") {
  auto ids = Numbers::from({3}, {0, 4, 2}), labels = Numbers::from({3}, {1, -100, 0});
  const auto set = [](Numbers& to, std::vector<std::int32_t> values) {
    Cuda::upload(to.data(), values.data(), to.bytes());
  };
  const auto table = Values32::full({5, 2}, 1.0f);
  const Recording recording({input(ids), input(labels)}, [&] { (void)cross_entropy(embedding(table, ids), labels); });
  REQUIRE(recording);
  CHECK(recording.fits());
  set(ids, {4, 4, 4});
  set(labels, {-100, 0, 1});
  CHECK(recording.fits());
  set(ids, {4, 5, 4});
  CHECK(!recording.fits());
  set(ids, {0, 1, 2});
  set(labels, {1, 1, 1});  // the mean would be over three
  CHECK(!recording.fits());
  set(labels, {1, 2, -100});
  CHECK(!recording.fits());
  set(labels, {1, 1, -100});
  CHECK(recording.fits());
  set(ids, {0, -1, 2});
  CHECK(!Recording({input(ids), input(labels)}, [&] { (void)embedding(table, ids); }));  // the message wants the id
}

TEST_CASE("a recording that is run at a later step draws that step's random bits") {
  const auto x = Values32::full({4099}, 1.0f);
  const Key key{5, 7, 40};
  const auto at = [&](std::uint32_t step) { return dropout(x, 0.3, {key.seed, key.site, step}).value().values(); };
  Values32 y;
  const Recording recording({}, [&] { y = dropout(x, 0.3, key).value(); });
  REQUIRE(recording);
  for (const std::uint32_t later : {0u, 1u, 9u, 0u, 0u - 3u}) {
    recording.run(later);
    recording.finish();
    CHECK(y.values() == at(key.step + later));
    CHECK(at(41) == at(41));
  }
  CHECK(at(40) != at(41));
}

TEST_CASE("a recording's memory is its own") {
  auto& pool = Cuda::pool();
  pool.trim();
  pool.trim(Shelf::recordings);
  const std::size_t before = pool.reserved();
  Values32 y;
  {
    auto x = Values32::full({1 << 16}, 2.0f);
    Recording first({input(x)}, [&] { y = map(Exp{}, map(Add{}, map(Neg{}, x), x)); });
    const auto held = pool.reserved();
    Recording second = std::move(first);
    for (int i = 0; i < 3; ++i) {
      std::vector<Values32> others;
      for (int k = 0; k < 4; ++k) others.push_back(Values32::full({1 << 16}, 3.0f));
      second.run();
      second.finish();
      for (const auto& other : others) CHECK(other.values() == std::vector<float>(1 << 16, 3.0f));
      CHECK(y.values() == std::vector<float>(1 << 16, 1.0f));
    }
    pool.trim();
    CHECK(pool.reserved() == held);
  }
  pool.trim();
  CHECK(pool.reserved() == before + (1 << 18));  // y outlives it
  y = {};
  pool.trim(Shelf::recordings);
  CHECK(pool.reserved() == before);
}

TEST_CASE("an upload ahead reaches what is enqueued after it") {
  const auto f = [] {
    std::vector<std::vector<float>> out;
    Values32 now = Values32::from({4}, {0, 0, 0, 0});
    for (float i = 1; i < 5; ++i) {
      CudaAhead::begin();
      auto y = map(Exp{}, now);
      Values32 next;
      {
        const CudaAhead ahead;
        next = Values32::from({4}, {i, i + 1, i + 2, i + 3});
      }
      y = map(Add{}, map(Sub{}, now, y), y);
      now = std::move(next);
      out.push_back(map(Neg{}, now).values());
      out.push_back(y.values());
    }
    return out;
  };
  for_each_schedule(f, [](const auto& first, const auto& again) {
    CHECK(first[6] == std::vector<float>{-4, -5, -6, -7});
    CHECK(again == first);
  });
}

namespace {

using Model = model::Transformer<float, Cuda>;

/// A learner from a golden folder under a method, with head_of(model), its gradients zero.
template <template <class> class Learner, class Head>
Learner<Model> made(const std::string& folder, const AnyMethod& method, const Head& head_of,
                    Precision precision = Precision::f32) {
  auto model = checkpoints::hf<float, Cuda>(folder);
  auto head = head_of(model);
  nn::walk(model, [](const std::string&, nn::TransformerLayer<float, Cuda>& l) { l.attention.dropout = 0.1f; });
  auto body = adapt(model, method, {.precision = precision});
  Learner<Model> learner{std::move(model), std::move(body), std::move(head)};
  nn::for_each_parameter(learner, [](const std::string&, auto& p) {
    if (p.trainable()) p.zero_gradient();
  });
  return learner;
}
task::Learner<Model> classifier(const std::string& folder, const AnyMethod& method,
                                Precision precision = Precision::f32) {
  const Index labels = Values(folder + "/plain.safetensors").shape_of("logits")[1];
  return made<task::Learner>(
      folder, method, [&](const Model& model) { return checkpoints::load_head(folder, model, labels); }, precision);
}

/// The batch of a golden file at a step: ids within the sequences, pixels and labels turn round.
nn::Batch<Cuda> batch_at(const Values& plain, std::uint32_t step, bool training = true) {
  nn::Batch<Cuda> batch;
  const auto by = [&](auto begin, auto end) {
    if (end - begin > 1) std::rotate(begin, begin + step % (end - begin), end);
  };
  const auto upload = [](const std::vector<std::int32_t>& values) {
    return Numbers::from({static_cast<Index>(values.size())}, values);
  };
  auto labels = plain.integer("labels");
  by(labels.begin(), labels.end());
  batch.labels = upload(labels);
  if (plain.file.contains("pixels")) {
    const auto real = plain.real("pixels");
    std::vector<float> pixels(real.begin(), real.end());
    by(pixels.begin(), pixels.end());
    batch.pixels = Values32::from(plain.shape_of("pixels"), pixels);
  } else {
    auto ids = plain.integer("ids");
    batch.offsets = Offsets(plain.integer("offsets"));
    for (Index s = 0; s < batch.offsets.sequences(); ++s)
      if (batch.offsets.length(s) > 3)
        by(ids.begin() + batch.offsets.begin(s) + 1, ids.begin() + batch.offsets.end(s) - 1);
    batch.ids = upload(ids);
    batch.types = upload(plain.integer("token_types"));
  }
  batch.run = {.seed = 3, .step = 5 + step, .training = training};
  return batch;
}

struct Trained {
  std::vector<double> losses;
  std::map<std::string, std::vector<float>> gradients;
  int recorded = 0;
  std::size_t activation = 0;
};

/// Four steps whose gradients add up.
template <class L, class Batches>
Trained train_steps(L learner, std::size_t recordings, const Batches& batch) {
  train::Steps steps(learner, recordings);
  Trained out;
  for (std::uint32_t i = 0; i < 4; ++i) {
    int meanwhile = 0;
    const auto done = steps.run(batch(i), [&] { ++meanwhile; });
    CHECK(meanwhile == 1);
    out.losses.push_back(done.loss);
    out.recorded += done.recorded;
    out.activation = std::max(out.activation, done.activation_bytes);
  }
  nn::for_each_parameter(learner, [&](const std::string& name, auto& p) {
    if (p.trainable()) out.gradients[name] = p.gradient().values();
  });
  return out;
}

/// Whether the steps of a learner that make() gives have the same bits from recordings, all but the first recorded.
template <class Make, class Batches>
int check_steps(const Make& make, const Batches& batch) {
  const auto plain = train_steps(make(), 0, batch), again = train_steps(make(), 8, batch);
  CHECK(plain.recorded == 0);
  CHECK(again.recorded == 3);
  CHECK(again.losses == plain.losses);
  CHECK(again.gradients == plain.gradients);
  CHECK(again.losses[1] != again.losses[2]);
  CHECK(static_cast<double>(again.activation) ==  // blocks that were kept are larger by up to an eighth
        doctest::Approx(static_cast<double>(plain.activation)).epsilon(0.02));
  return again.recorded;
}

}  // namespace

TEST_CASE("steps that run from recordings give the bits of steps that do not") {
  // One of the methods on each family, in turn: recordings know neither.
  const std::string methods[] = {"full", "meft1 bf16", "lora", "meft1", "meft3", "meft1 learned"};
  int recorded = 0, families = 0;
  for (const auto& c : io::read_json(golden() + "/families.json")) {
    const std::string folder = golden() + "/" + std::string(c["folder"]);
    const Values plain(folder + "/plain.safetensors");
    const std::string& method = methods[families++ % std::ssize(methods)];
    CAPTURE(folder);
    CAPTURE(method);
    auto options = narrow(method.substr(0, method.find(' ')));
    const auto precision = method.ends_with("bf16") ? Precision::bf16 : Precision::f32;
    if (method.ends_with("learned")) stack_of(options)->readout = readout_from("learned");
    const auto batch = [&](std::uint32_t i) {
      // With dropout attention in bf16 is our own, without it cuDNN's.
      auto out = batch_at(plain, i, precision == Precision::f32 || families % 12 < 6);
      if (method == "lora" || method == "meft3")  // one of several of a step
        out.weight = Values32::from(Shape{}, {static_cast<float>(3 + i)});
      return out;
    };
    if (c["language"]) {
      recorded += check_steps(
          [&] {
            return made<task::LanguageLearner>(
                folder, options, [&](const Model& m) { return checkpoints::load_language_head(folder, m); }, precision);
          },
          batch);
      continue;
    }
    recorded += check_steps([&] { return classifier(folder, options, precision); }, batch);
  }
  CHECK(recorded == 3 * families);
}

TEST_CASE("steps on questions with options run from recordings") {
  const std::string folder = golden() + "/bert";
  const Values plain(folder + "/plain.safetensors");
  for (const std::string method : {"full", "meft1"})
    check_steps(
        [&] {
          return made<task::ChoiceLearner>(folder, narrow(method),
                                           [&](const Model& m) { return checkpoints::load_head(folder, m, 1); });
        },
        [&](std::uint32_t i) {
          auto batch = batch_at(plain, i);
          const auto none = static_cast<std::int32_t>(batch.offsets.sequences());
          REQUIRE(none >= 4);
          batch.options = Numbers::from({6}, {0, 1, none, 2, 3, none});
          batch.labels = Numbers::from({2}, {0, static_cast<std::int32_t>(i % 2)});
          return batch;
        });
}

TEST_CASE("a recording that no batch fits is given up, with its memory") {
  const std::string folder = golden() + "/roberta_lm";
  const Values plain(folder + "/plain.safetensors");
  auto learner = made<task::LanguageLearner>(
      folder, narrow("meft1"), [&](const Model& m) { return checkpoints::load_language_head(folder, m); });
  train::Steps steps(learner);
  const auto run = [&](std::int32_t first_label) {
    auto batch = batch_at(plain, 0);
    Cuda::upload(batch.labels.data(), &first_label, sizeof first_label);
    return steps.run(batch, [] {}).recorded;
  };
  CHECK(!run(5));
  CHECK(run(7));
  CHECK(!run(-100));  // one label fewer
  CHECK(run(8));
  Cuda::pool().trim();
  const auto held = Cuda::pool().reserved();
  for (int i = 0; i < 4; ++i) CHECK(!run(-100));
  Cuda::pool().trim();
  CHECK(Cuda::pool().reserved() < held);
  CHECK(!run(5));
}

TEST_CASE("a recorded step reports what a stack reports") {
  const std::string folder = golden() + "/bert";
  const Values plain(folder + "/plain.safetensors");
  auto learner = classifier(folder, narrow("meft1"));
  train::Steps steps(learner);
  const auto run = [&](std::uint32_t i) { return steps.run(batch_at(plain, i), [] {}); };
  run(0);
  CHECK(run(1).recorded);
  // A parameter that sends a stream out of its range.
  nn::for_each_parameter(learner, [](const std::string& name, auto& p) {
    if (name.find("embeddings.LayerNorm.weight") == name.npos) return;
    const auto huge = Values32::full(p.shape(), 1e30f);
    Cuda::copy(p.value().data(), huge.data(), huge.bytes());
  });
  CHECK_THROWS_WITH_AS(run(2), doctest::Contains("left the fixed-point range"), Error);
}
