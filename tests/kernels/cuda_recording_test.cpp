// Owns: recordings of the device's work, uploads ahead of it, and training steps that run from recordings: the same
// bits as without.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <meft/checkpoints/family.hpp>
#include <meft/checkpoints/hf.hpp>
#include <meft/cuda.hpp>
#include <meft/io/json.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/embedding.hpp>
#include <meft/ops/loss.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/shape.hpp>
#include <meft/task/choice_learner.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/task/learner.hpp>
#include <meft/tensor/math.hpp>
#include <meft/train/job.hpp>
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

#ifdef MEFT_EMULATED
TEST_CASE("a look at inputs that finds no room gets what recorded work gave up, and nothing of that is recorded") {
  auto& pool = Cuda::pool();
  const auto table = Values32::full({5, 2}, 1.0f);
  const auto ids = Numbers::from({3}, {0, 4, 2});
  pool.trim();
  pool.trim(Shelf::recordings);
  auto old = Values32::full({1 << 20}, 2.0f);  // 4 MiB, which nothing else has a part in
  Cuda::synchronize();
  emulate::set_device_capacity(emulate::device_bytes_in_use() + 1024);
  Values32 y;
  Recording recording;
  CHECK_NOTHROW(recording = Recording({input(ids)}, [&] {
                  old = {};
                  y = embedding(table, ids).value();
                }));
  emulate::set_device_capacity(std::size_t{8} << 30);
  REQUIRE(recording);
  recording.run();
  recording.finish();
  CHECK(y.values() == std::vector<float>(6, 1.0f));
}

TEST_CASE("an upload ahead that finds no room is given none that the device still works in") {
  constexpr Index size = 1 << 20;  // 4 MiB, of which there is room for two besides x
  auto& pool = Cuda::pool();
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    pool.trim();
    pool.trim(Shelf::ahead);
    Cuda::synchronize();
    const auto x = Values32::full({size}, 1.0f);
    Cuda::synchronize();
    emulate::set_device_capacity(emulate::device_bytes_in_use() + (9 << 20));
    emulate::set_seed(seed);
    CudaAhead::begin();
    Values32 y, next;
    {
      const auto between = map(Exp{}, x);  // is given back before it is worked out
      y = map(Neg{}, between);
    }
    {
      const CudaAhead ahead;
      next = Values32::from({size}, std::vector<float>(size, 3.0f));
    }
    CHECK(y.values() == std::vector<float>(size, -std::exp(1.0f)));
    CHECK(next.values() == std::vector<float>(size, 3.0f));
    emulate::set_seed(0);
    emulate::set_device_capacity(std::size_t{8} << 30);
  }
}
#endif

namespace {

template <Real T>
using ModelOf = model::Transformer<T, Cuda>;
using Model = ModelOf<float>;

/// A learner from a golden folder under a method, with head_of(model), its gradients zero.
template <template <class> class Learner, Real T = float, class Head>
Learner<ModelOf<T>> made(const std::string& folder, const AnyMethod& method, const Head& head_of,
                         Precision precision = Precision::f32) {
  auto model = checkpoints::hf<T, Cuda>(folder);
  auto head = head_of(model);
  nn::walk(model, [](const std::string&, nn::TransformerLayer<T, Cuda>& l) { l.attention.dropout = 0.1f; });
  auto body = adapt(model, method, {.precision = precision});
  Learner<ModelOf<T>> learner{std::move(model), std::move(body), std::move(head)};
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

Numbers upload(const std::vector<std::int32_t>& values) {
  return Numbers::from({static_cast<Index>(values.size())}, values);
}

/// The batch of a golden file at a step: ids within the sequences, pixels and labels turn round.
nn::Batch<Cuda> batch_at(const Values& plain, std::uint32_t step, bool training = true) {
  nn::Batch<Cuda> batch;
  const auto by = [&](auto begin, auto end) {
    if (end - begin > 1) std::rotate(begin, begin + step % (end - begin), end);
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

template <class T>
struct Trained {
  std::vector<double> losses;
  std::map<std::string, std::vector<T>> gradients;
  std::uint32_t recorded = 0;
  std::size_t activation = 0;
};

/// Steps whose gradients add up.
template <class L, class Batches>
auto train_steps(L learner, std::size_t recordings, const Batches& batch, std::uint32_t count = 4) {
  train::Steps steps(learner, recordings);
  Trained<typename L::T> out;
  for (std::uint32_t i = 0; i < count; ++i) {
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
std::uint32_t check_steps(const Make& make, const Batches& batch) {
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
  const std::vector<std::string> methods{"full", "meft1 bf16", "lora", "meft1", "meft3", "meft1 learned"};
  std::uint32_t recorded = 0, families = 0;
  for (const auto& c : io::read_json(golden() + "/families.json")) {
    const std::string folder = golden() + "/" + std::string(c["folder"]);
    const Values plain(folder + "/plain.safetensors");
    const std::string& method = methods[families++ % methods.size()];
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

namespace {

/// A batch of six sequences of drawn lengths, with labels below `classes`, or words that are to be predicted.
nn::Batch<Cuda> drawn(std::uint32_t seed, Index classes, std::int32_t shortest = 3, std::int32_t longest = 10) {
  constexpr std::int32_t words = 40;
  std::mt19937 random(seed);
  const auto below = [&](std::int32_t n) { return static_cast<std::int32_t>(random() % static_cast<unsigned>(n)); };
  std::vector<std::vector<std::int32_t>> ids, types;
  std::vector<std::int32_t> labels;
  for (int s = 0; s < 6; ++s) {
    const std::int32_t length = shortest + below(longest - shortest + 1);
    for (ids.emplace_back(); std::ssize(ids.back()) < length;) {
      ids.back().push_back(5 + below(words - 5));
      if (!classes) labels.push_back(below(8) ? 5 + below(words - 5) : ignored_label);
    }
    types.emplace_back(static_cast<std::size_t>(length), 0);
    if (classes) labels.push_back(below(static_cast<std::int32_t>(classes)));
  }
  auto out = nn::Batch<Cuda>::pack(ids, types);
  out.labels = upload(labels);
  out.run = {.seed = 3, .step = 100 + seed, .training = true};
  return out;
}

}  // namespace

namespace {

struct Ragged {
  std::string folder, method;
  bool training = true;
};

}  // namespace

TEST_CASE("ragged text runs from recordings: batches of drawn lengths") {
  constexpr std::uint32_t count = 10;
  for (const auto& c : std::vector<Ragged>{{"roberta", "meft1 bf16"},         // attention of our own
                                           {"roberta", "meft1 bf16", false},  // without dropout cuDNN's
                                           {"bert_lm", "meft1"},
                                           {"opt_lm", "prefix"},
                                           {"bart", "lora"},
                                           {"t5", "full"},
                                           {"qwen3", "meft3"}}) {
    CAPTURE(c.folder);
    CAPTURE(c.method);
    const std::string folder = golden() + "/" + c.folder;
    const auto options = narrow(c.method.substr(0, c.method.find(' ')));
    const auto precision = c.method.ends_with("bf16") ? Precision::bf16 : Precision::f32;
    const auto check = [&](const auto& make, Index classes) {
      const auto batch = [&](std::uint32_t i) {
        auto out = nn::filled(drawn(i, classes, 5, 8));
        CHECK(out.filling == 2);
        out.run.training = c.training;
        return out;
      };
      const auto apart = train_steps(make(), 0, batch, count), again = train_steps(make(), 32, batch, count);
      CHECK(again.losses == apart.losses);
      CHECK(again.gradients == apart.gradients);
      CHECK(again.recorded >= count / 3);
    };
    if (folder.ends_with("lm"))
      check(
          [&] {
            return made<task::LanguageLearner>(
                folder, options, [&](const Model& m) { return checkpoints::load_language_head(folder, m); }, precision);
          },
          0);
    else check([&] { return classifier(folder, options, precision); }, 3);
  }
}

TEST_CASE("ragged text runs from few recordings, and what the pool holds stays near the highest need") {
  const std::string folder = golden() + "/bert";
  constexpr std::uint32_t count = 60;
  const auto steps = [&](std::size_t recordings, auto& held) {
    auto& pool = Cuda::pool();
    pool.trim();
    pool.reset_peak();
    const auto batch = [&](std::uint32_t i) {
      held.push_back(pool.reserved());
      return nn::filled(drawn(i, 2));
    };
    return train_steps(classifier(folder, narrow("full")), recordings, batch, count);
  };
  std::vector<std::size_t> held, held_apart;
  const auto apart = steps(0, held_apart), found = steps(32, held);
  CHECK(found.losses == apart.losses);
  CHECK(found.gradients == apart.gradients);
  MESSAGE(found.recorded, " of ", count, " steps recorded");
  for (const auto* of : {&held_apart, &held})
    CHECK(*std::max_element(of->begin() + 30, of->end()) <= *std::max_element(of->begin(), of->begin() + 30));
  CHECK(found.recorded >= 45);
}

TEST_CASE("what is tied to the lengths of sequences runs from recordings of the same lengths") {
  const std::string folder = golden() + "/bert";
  const std::vector<std::int32_t> lengths[] = {{5, 6, 7, 8}, {8, 7, 6, 5}, {6, 5, 8, 7}};
  const auto batch = [&](std::uint32_t i) {
    std::vector<std::vector<std::int32_t>> ids;
    for (const auto n : lengths[i % 3]) ids.emplace_back(static_cast<std::size_t>(n), 7 + n);
    auto out = nn::Batch<Cuda>::pack(ids);
    out.labels = upload({0, 1, 1, 0});
    out.run = {.seed = 3, .step = 5 + i, .training = true};
    return nn::filled(std::move(out));
  };
  for (const auto& c : {std::pair{"prompt", 9u}, std::pair{"unipt", 9u}, std::pair{"lst", 11u}}) {
    CAPTURE(c.first);
    const auto make = [&] { return classifier(folder, narrow(c.first)); };
    const auto apart = train_steps(make(), 0, batch, 12), found = train_steps(make(), 32, batch, 12);
    CHECK(found.recorded == c.second);
    CHECK(found.losses == apart.losses);
    CHECK(found.gradients == apart.gradients);
  }
}

TEST_CASE("a batch that is filled up: few sizes, little waste, its own sequences first") {
  std::mt19937 random(3);
  std::set<Index> sizes;
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::int32_t> lengths(1 + random() % 40);
    const auto most = 4 + random() % 97;
    for (auto& n : lengths) n = static_cast<std::int32_t>(1 + random() % most);
    const auto own = Offsets::of_lengths(lengths), all = nn::filled<Cuda>(own);
    CHECK(nn::filled<Cpu>(own) == own);
    const Index more = all.sequences() - own.sequences(), wanting = all.tokens() - own.tokens();
    if (more == 0) {
      const bool equal = own.longest() * own.sequences() == own.tokens();
      const bool gains = own.longest() >= 4 && !equal && own.tokens() + own.tokens() / 8 < Cuda::slice_tokens;
      CHECK(!gains);
      continue;
    }
    CHECK(all.part(0, own.sequences()) == own);
    CHECK(4 * more >= own.sequences());
    CHECK(16 * more < 9 * own.sequences() + 64);
    CHECK(wanting >= more);
    CHECK(8 * (wanting - more) < own.tokens() + more);
    for (Index s = own.sequences(); s < all.sequences(); ++s) {
      CHECK(all.length(s) > 0);
      CHECK(all.length(s) <= own.longest());
    }
    sizes.insert(all.tokens());
  }
  CHECK(sizes.size() > 20);
  CHECK(sizes.size() < 80);
  const auto same = Offsets::of_lengths(std::vector<std::int32_t>{5, 5, 5}),
             empty = Offsets::of_lengths(std::vector<std::int32_t>{5, 0, 6}),
             large = Offsets::of_lengths(std::vector<std::int32_t>{2048, 2040, 40});
  for (const auto& left : {same, empty, large}) CHECK(nn::filled<Cuda>(left) == left);
}

TEST_CASE("what a batch is filled up with changes no loss and no gradient") {
  // A gradient's own norm, or where it is zero up to rounding, as that of a key bias, a part of the largest.
  const auto distance = [](const auto& a, const auto& b) {
    std::vector<std::array<double, 2>> found;
    double largest = 0, worst = 0;
    for (const auto& entry : b.gradients) {
      double apart = 0, norm = 0;
      for (std::size_t i = 0; i < entry.second.size(); ++i) {
        const double x = entry.second[i], d = a.gradients.at(entry.first)[i] - x;
        apart += d * d, norm += x * x;
      }
      found.push_back({std::sqrt(apart), std::sqrt(norm)});
      largest = std::max(largest, std::sqrt(norm));
    }
    CHECK(largest > 0);
    for (const auto& [apart, norm] : found) worst = std::max(worst, apart / std::max(norm, 1e-3 * largest));
    return worst;
  };
  double worst = 0;
  for (const std::string folder : {"bert", "opt", "t5", "roberta_lm", "opt_lm"})
    for (const std::string method : {"full", "meft1"}) {
      CAPTURE(folder);
      CAPTURE(method);
      const std::string path = golden() + "/" + folder;
      const auto check = [&](const auto& make, Index classes) {
        const auto own = train_steps(make(), 0, [&](std::uint32_t i) { return drawn(i, classes); }),
                   all = train_steps(make(), 0, [&](std::uint32_t i) { return nn::filled(drawn(i, classes)); });
        for (std::size_t i = 0; i < own.losses.size(); ++i)
          CHECK(all.losses[i] == doctest::Approx(own.losses[i]).epsilon(1e-13));
        const double apart = distance(all, own);
        CHECK(apart < 1e-12);
        worst = std::max(worst, apart);
      };
      if (folder.ends_with("lm"))
        check(
            [&] {
              return made<task::LanguageLearner, double>(path, narrow(method), [&](const ModelOf<double>& m) {
                return checkpoints::load_language_head(path, m);
              });
            },
            0);
      else
        check(
            [&] {
              return made<task::Learner, double>(
                  path, narrow(method), [&](const ModelOf<double>& m) { return checkpoints::load_head(path, m, 3); });
            },
            3);
    }
  MESSAGE("gradients of a batch that is filled up, apart by ", worst);
}

namespace {

/// Loss and gradients of a learner's batch of data on a backend, in double.
template <template <class> class Learner, Backend B, class Data, class Head>
std::map<std::string, std::vector<double>> learned(const Data& data, const std::vector<std::uint32_t>& rows,
                                                   bool filled, const Head& head_of, bool reversible = false) {
  const std::string folder = golden() + (std::is_same_v<Data, task::Blocks> ? "/bert_lm" : "/bert");
  auto model = checkpoints::hf<double, B>(folder);
  auto head = head_of(folder, model);
  auto method = narrow(reversible ? "meft1" : "full");
  if (auto* stack = stack_of(method)) stack->slice_tokens = 8;
  auto body = adapt(model, method);
  Learner<model::Transformer<double, B>> learner{std::move(model), std::move(body), std::move(head)};
  const auto job = train::Job<double, B>::of(learner, data, data);
  const auto batch = job.fill(job.batch(rows, Run{3, 1, true}));
  CHECK((batch.filling > 0) == filled);
  CHECK(train::sizes_of(batch).tokens.sequences() == batch.offsets.sequences() - batch.filling);
  CHECK(job.fill(job.batch(rows, Run{3, 1, false})).filling == 0);
  std::map<std::string, std::vector<double>> out;
  Tape tape;
  const auto loss = job.loss(batch);
  out["loss"] = loss.value().values();
  tape.backward(loss);
  nn::for_each_parameter(learner, [&](const std::string& name, auto& p) {
    if (p.trainable() && p.gradient().defined()) out[name] = p.gradient().values();
  });
  return out;
}

}  // namespace

TEST_CASE("learners fill up what they train on, on a device") {
  std::mt19937 random(5);
  task::EncodedChoices choices;
  task::Encoded encoded;
  task::Blocks blocks;
  for (std::uint32_t q = 0; q < 3; ++q) {
    for (std::uint32_t i = 0; i < 2 + q % 2; ++i) {
      std::vector<std::int32_t> ids(4 + random() % 7);
      for (auto& id : ids) id = static_cast<std::int32_t>(5 + random() % 30);
      choices.types.emplace_back(ids.size(), static_cast<std::int32_t>(i % 2));
      choices.ids.push_back(ids);
      encoded.labels.push_back(static_cast<float>(i % 2));
      blocks.ids.push_back(std::move(ids));
    }
    choices.first.push_back(static_cast<std::uint32_t>(choices.ids.size()));
    choices.answers.push_back(static_cast<std::int32_t>(q % 2));
  }
  encoded.ids = choices.ids, encoded.types = choices.types;
  const std::vector<std::uint32_t> questions{2, 0, 1}, rows{4, 0, 6, 1, 3};
  const auto same = [](const auto& found, const auto& expected) {
    REQUIRE(found.size() == expected.size());
    CHECK(found.size() > 20);
    for (const auto& entry : expected) {
      CAPTURE(entry.first);
      double worst = 0;
      for (std::size_t i = 0; i < entry.second.size(); ++i)
        worst = std::max(worst, std::fabs(found.at(entry.first)[i] - entry.second[i]));
      CHECK(worst < 1e-12);
    }
  };
  for (const Index labels : {1, 2}) {  // a regression too
    const auto head = [labels](const std::string& folder, const auto& model) {
      return checkpoints::load_head(folder, model, labels);
    };
    same(learned<task::Learner, Cuda>(encoded, rows, true, head),
         learned<task::Learner, Cpu>(encoded, rows, false, head));
  }
  const auto one = [](const std::string& folder, const auto& model) {
    return checkpoints::load_head(folder, model, 1);
  };
  same(learned<task::ChoiceLearner, Cuda>(choices, questions, true, one),
       learned<task::ChoiceLearner, Cpu>(choices, questions, false, one));
  const auto words = [](const std::string& folder, const auto& model) {
    return checkpoints::load_language_head(folder, model);
  };
  same(learned<task::LanguageLearner, Cuda>(blocks, rows, true, words),
       learned<task::LanguageLearner, Cpu>(blocks, rows, false, words));
  // In slices it is as it was.
  (void)learned<task::LanguageLearner, Cuda>(blocks, rows, false, words, true);
}

TEST_CASE(
    "recordings: no more than asked for; of shapes that came once the oldest is forgotten, and none that is recorded") {
  Parameter<float, Cuda> weight = Parameter<float, Cuda>::ones({1});
  weight.zero_gradient();
  // What depends on more of a batch than its values: the sum of the targets of the first answer.
  const train::Loss<float, Cuda> loss = [&](const nn::Batch<Cuda>& batch) {
    const Index count = batch.answers.length(0) + batch.wrong.length(0) + (batch.run.training ? 1 : 0);
    return sum(slice(Var<float, Cuda>(batch.targets), 0, 0, count) * weight);
  };
  const auto batch = [](Index size, float value = 1) {
    nn::Batch<Cuda> out;
    out.targets = Values32::full({size}, value);
    out.answers = Offsets::of_lengths(std::vector<std::int32_t>{1, 2});
    out.wrong = Offsets::of_lengths(std::vector<std::int32_t>{0, 1});
    out.run = {.seed = 3, .step = 1, .training = true};
    return out;
  };
  const auto recorded = [&](auto& steps, const nn::Batch<Cuda>& one) {
    const auto done = steps.run(one, [] {});
    CHECK(done.loss == loss(one).value().item());
    return done.recorded;
  };
  {
    train::Steps<float, Cuda> steps(loss, 2);
    for (const Index size : {5, 6}) {
      CHECK_FALSE(recorded(steps, batch(size)));
      CHECK(recorded(steps, batch(size, 2)));
    }
    for (int i = 0; i < 3; ++i) CHECK_FALSE(recorded(steps, batch(7)));
    CHECK(recorded(steps, batch(5, 3)));
  }
  {
    train::Steps<float, Cuda> steps(loss, 100);
    CHECK_FALSE(recorded(steps, batch(5)));
    CHECK(recorded(steps, batch(5, 2)));
    for (Index size = 6; size < 70; ++size) CHECK_FALSE(recorded(steps, batch(size)));  // one more than are remembered
    CHECK(recorded(steps, batch(5, 3)));
    CHECK_FALSE(recorded(steps, batch(6)));  // forgotten
    CHECK(recorded(steps, batch(69)));
    CHECK(recorded(steps, batch(6)));
  }
  // Whatever else the work follows from makes another recording.
  train::Steps<float, Cuda> steps(loss, 8);
  CHECK_FALSE(recorded(steps, batch(5)));
  CHECK(recorded(steps, batch(5)));
  auto other = batch(5);
  other.answers = Offsets::of_lengths(std::vector<std::int32_t>{2, 1});
  CHECK_FALSE(recorded(steps, other));
  other = batch(5);
  other.wrong = Offsets::of_lengths(std::vector<std::int32_t>{1, 0});
  CHECK_FALSE(recorded(steps, other));
  other = batch(5);
  other.run.training = false;
  CHECK_FALSE(recorded(steps, other));
  other = batch(5);
  other.run.seed = 4;
  CHECK_FALSE(recorded(steps, other));
  other = batch(5);
  other.filling = 1;
  CHECK_FALSE(recorded(steps, other));
  CHECK(recorded(steps, batch(5)));
}

TEST_CASE("as many labels that count, or nearly, are one recording") {
  const std::string folder = golden() + "/roberta_lm";
  const Values plain(folder + "/plain.safetensors");
  auto learner = made<task::LanguageLearner>(
      folder, narrow("meft1"), [&](const Model& m) { return checkpoints::load_language_head(folder, m); });
  train::Steps steps(learner);
  const auto run = [&](Index counted) {
    auto batch = batch_at(plain, 0);
    std::vector<std::int32_t> labels(static_cast<std::size_t>(batch.labels.size()), ignored_label);
    std::fill_n(labels.begin(), counted, 7);
    batch.labels = upload(labels);
    return steps.run(batch, [] {}).recorded;
  };
  CHECK(!run(9));
  CHECK(run(10));
  CHECK(run(9));
  CHECK(!run(12));  // another number of rows goes through the head
  CHECK(run(11));
  CHECK(run(10));
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
