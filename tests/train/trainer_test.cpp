// Owns: the training loop with a learner made for it, small enough to be followed by hand: what several batches a step
// add up to, clipping, rates, the log, the best epoch, what a folder keeps, resuming, and runs that go wrong.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <meft/ops/arithmetic.hpp>
#include <meft/ops/loss.hpp>
#include <meft/train/trainer.hpp>

#include "folder.hpp"

using namespace meft;
using test::contains;
namespace fs = std::filesystem;
using test::Folder;
using test::message_of;

namespace {

constexpr double no_number = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

/// A row is a point, counted `items` times.
struct Row {
  float a, b;
  std::uint32_t items;
};

struct Rows {
  std::vector<Row> rows;
  mutable std::vector<std::vector<std::uint32_t>> expected{};  // batches still to come
  mutable std::vector<std::uint32_t> epochs{};                 // as they were announced
  bool again = false;                                          // batches may be announced that were taken before
  void expect(std::span<const std::vector<std::uint32_t>> batches, std::uint32_t epoch) const {
    CHECK((again || expected.empty()));
    expected.assign(batches.begin(), batches.end());
    epochs.push_back(epoch);
  }
  std::size_t size() const { return rows.size(); }
  std::vector<std::uint32_t> lengths() const {
    std::vector<std::uint32_t> out;
    for (const auto& row : rows) out.push_back(row.items);
    return out;
  }
};

/// Points on a grid of eighths, so that sums are exact; row i counts 1, 3, 2 or 5 times.
Rows points(int n) {
  constexpr std::uint32_t items[] = {1, 3, 2, 5};
  Rows out;
  for (int i = 0; i < n; ++i)
    out.rows.push_back(
        {static_cast<float>((i * 5 + 3) % 16) / 8, static_cast<float>((i * 7) % 16) / 8 - 1, items[i % 4]});
  return out;
}

/// What a learner was asked, and what it is to answer.
struct Script {
  std::vector<std::uint32_t> steps;                 // Run::step of each batch
  std::vector<std::vector<std::uint32_t>> batches;  // rows of each batch
  std::vector<double> scores{};                     // by epoch; empty: the first weight
  std::size_t scored = 0;
  std::int64_t broken = -1;         // this batch has a point that is no number
  std::int64_t out_of_range = -1;   // this batch's loss throws as a stack does
  bool tells = true;                // what a batch counts
  bool training = true;             // how its batches are run
  std::set<std::uint32_t> empty{};  // rows that count nothing
  std::function<void()> scoring{};
  std::size_t scored_at_once = 0;
};

/// Learns the mean point: the gradient is weights − mean.
struct Toy {
  using T = double;
  using B = Cpu;
  Parameter<double> weight;
  std::shared_ptr<Script> script = std::make_shared<Script>();

  Toy() : weight(Tensor<double>::from({1, 2}, {4.0, -2.0})) {}

  nn::Batch<> batch(const Rows& data, std::span<const std::uint32_t> rows, Run run) const {
    REQUIRE(!data.expected.empty());
    CHECK(std::equal(rows.begin(), rows.end(), data.expected[0].begin(), data.expected[0].end()));
    data.expected.erase(data.expected.begin());
    CHECK(run.seed == 7);
    std::vector<float> points;
    for (const auto r : rows)
      for (std::uint32_t i = 0; i < data.rows.at(r).items && !script->empty.contains(r); ++i)
        points.insert(points.end(), {data.rows[r].a, data.rows[r].b});
    if (run.step == script->broken) points[0] = std::nanf("");
    nn::Batch<> out;
    out.run = run;
    out.targets = Tensor<float>::from({static_cast<Index>(points.size())}, points);
    if (script->tells) out.counted = static_cast<Index>(points.size() / 2);
    script->batches.emplace_back(rows.begin(), rows.end());
    return out;
  }
  Var<double> loss(const nn::Batch<>& batch) const {
    script->steps.push_back(batch.run.step);
    CHECK(batch.run.training == script->training);
    if (batch.run.step == script->out_of_range) throw NumberError("reversible stack: a stream left its range");
    const auto x = nn::cast<double>(batch.targets).reshape({batch.targets.size() / 2, 2});
    return mse(add(weight, Tensor<double>::zeros(x.shape())), x);
  }
  std::optional<std::vector<task::Score>> scores(const Rows& data, const std::vector<std::string>&, std::size_t batch,
                                                 const task::Asked& stop) const {
    if (stop(0, data.size())) return {};
    script->scored_at_once = batch;
    if (script->scoring) script->scoring();
    const double value = script->scores.empty() ? weight.value().data()[0] : script->scores.at(script->scored);
    ++script->scored;
    return std::vector<task::Score>{{"other", 0.5}, {"accuracy", value}};
  }
  static void parts(auto& self, auto&& visit) { visit("weight", self.weight); }
};

struct Ranged {
  std::shared_ptr<StreamRange<double>> range = std::make_shared<StreamRange<double>>(32, 20);
  StreamRanges<double, Cpu> ranges() const { return {range.get()}; }
};

/// The same, with streams of two features: in step `at` the second holds `value`.
struct Streaming : Toy {
  std::int64_t at = 2;
  double value = 5000;
  Ranged body{};

  Var<double> loss(const nn::Batch<>& batch) const {
    const double now = batch.run.step == at ? value : 1;
    const auto& bits = body.range->bits();
    if (body.range->watched()) body.range->see(Tensor<double>::from({1, 2}, {1.0, now}));
    else if (!(now < std::ldexp(1.0, 31 - (bits.empty() ? 20 : bits[1])))) throw StreamError({}, now, 32, 20);
    return Toy::loss(batch);
  }
};

/// The same in scoring.
struct StreamingScores : Streaming {
  std::optional<std::vector<task::Score>> scores(const Rows& data, const std::vector<std::string>& metrics,
                                                 std::size_t batch, const task::Asked& stop) const {
    const auto& bits = body.range->bits();
    if (body.range->watched()) body.range->see(Tensor<double>::from({1, 2}, {1.0, value}));
    else if (bits.empty()) throw StreamError({}, value, 32, 20);
    return Toy::scores(data, metrics, batch, stop);
  }
};

/// At the first weights again, with the same script.
Toy anew(const Toy& toy) {
  Toy out;
  out.script = toy.script;
  return out;
}

std::vector<double> values(const Toy& toy) { return toy.weight.value().values(); }

/// What a run told.
struct Told {
  std::vector<train::StartReport> starts;
  std::vector<train::StepReport> steps;
  std::vector<train::EpochReport> epochs;
  std::vector<std::size_t> scoring;
  std::vector<train::RangeReport> widened;
  train::Outcome outcome;
  std::vector<double> weights;
  std::shared_ptr<Script> script;
};

/// The state at `path` with what change(metadata) makes of its metadata, its checksum right.
void rewrite(const std::string& path, const auto& change) {
  const io::Safetensors file(path);
  auto metadata = file.metadata();
  change(metadata);
  std::vector<const io::Entry*> entries;
  std::vector<io::NamedTensor> tensors;
  for (const auto& name : file.names()) {
    const auto& e = file.find(name);
    entries.push_back(&e);
    tensors.push_back({e.name, e.dtype, e.shape, e.bytes});
  }
  metadata["checksum"] = checkpoints::checksum(entries, metadata);
  io::write_safetensors(path, tensors, metadata);
}

train::TrainOptions usual(const std::string& folder = "") {
  train::TrainOptions o{.batch = 4, .accumulate = 1, .epochs = 2};
  o.optimizer = optim::AdamW{.rate = 0.25, .decay = 0, .clip = 0};
  o.folder = folder;
  o.log_every = 1;
  o.seed = 7;
  o.save_seconds = 0;
  return o;
}

optim::AdamW& adam_of(train::TrainOptions& options) { return std::get<optim::AdamW>(options.optimizer); }

template <class Learner = Toy>
Told run(const Rows& data, const train::TrainOptions& options, Learner toy = {}, std::int64_t stop_after = -1,
         Index longest_part = 0) {
  Told out;
  data.expected.clear();
  data.epochs.clear();
  auto o = options;
  std::int64_t done = 0;
  if (stop_after >= 0) o.stop = [&] { return done >= stop_after; };
  train::Observer observer;
  observer.started = [&](const auto& r) { out.starts.push_back(r); };
  observer.stepped = [&](const auto& r) { out.steps.push_back(r), ++done; };
  observer.evaluated = [&](const auto& r) { out.epochs.push_back(r); };
  observer.widened = [&](const auto& r) { out.widened.push_back(r); };
  observer.scoring = [&](std::size_t now, std::size_t of) { out.scoring.push_back(now + 100 * of); };
  const Rows dev = points(3);
  auto job = train::Job<double, Cpu>::of(toy, data, dev);
  job.longest_part = longest_part;
  job.tokens = job.lengths;
  train::Trainer<double, Cpu> trainer(std::move(job), o, observer);
  out.outcome = trainer.run();
  out.weights = values(toy);
  out.script = toy.script;
  return out;
}

std::vector<nlohmann::json> lines(const std::string& path) {
  std::ifstream in(path);
  std::vector<nlohmann::json> out;
  for (std::string line; std::getline(in, line);) out.push_back(nlohmann::json::parse(line));
  return out;
}
std::vector<std::int64_t> logged_steps(const std::string& path) {
  std::vector<std::int64_t> out;
  for (const auto& line : lines(path))
    if (line.contains("loss")) out.push_back(line["step"]);
  return out;
}
/// Each line, without what the clock or the memory says.
std::vector<nlohmann::json> timeless(const std::string& path) {
  auto out = lines(path);
  for (auto& line : out)
    for (const char* key : {"seconds", "sequences_per_second", "activation_bytes", "reserved_bytes",
                            "resident_own_bytes", "resident_file_bytes", "memory"})
      line.erase(key);
  return out;
}
/// metrics.json but for its memory.
nlohmann::json scores_of(const Folder& folder) {
  auto out = io::read_json(folder.text() + "/metrics.json");
  CHECK(out.erase("memory") == 1);
  return out;
}
std::string bytes(const std::string& path) { return io::read_text(path, 1 << 20); }

/// The mean point of rows, each as often as it counts, and their mean loss at the first weights.
struct Mean {
  double a = 0, b = 0, loss = 0, items = 0;
};
Mean mean_of(const Rows& data, const std::vector<std::uint32_t>& rows, double wa = 4, double wb = -2) {
  Mean m;
  for (const auto r : rows) {
    const auto& [a, b, items] = data.rows[r];
    m.a += items * static_cast<double>(a);
    m.b += items * static_cast<double>(b);
    m.loss += items * (std::pow(wa - static_cast<double>(a), 2) + std::pow(wb - static_cast<double>(b), 2)) / 2;
    m.items += items;
  }
  m.a /= m.items, m.b /= m.items, m.loss /= m.items;
  return m;
}

/// Writes a file anew with its tensors' bytes passed to `change`, its metadata as they were.
void change_tensors(const std::string& path, const std::function<void(std::string&)>& change) {
  std::string all = bytes(path);
  std::uint64_t header = 0;
  std::memcpy(&header, all.data(), 8);
  std::string data = all.substr(8 + header);
  change(data);
  std::ofstream(path, std::ios::binary) << all.substr(0, 8 + header) << data;
}
void zero_second_half(const std::string& path) {
  change_tensors(path, [](std::string& data) {
    std::fill(data.begin() + static_cast<std::ptrdiff_t>(data.size() / 2), data.end(), '\0');
  });
}
void replace_in(const std::string& path, const std::string& from, const std::string& to) {
  std::string all = bytes(path);
  const auto at = all.find(from);
  REQUIRE(at != all.npos);
  REQUIRE(from.size() == to.size());
  std::ofstream(path, std::ios::binary) << all.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("trainer: several small batches a step are one large one: loss, norm, moments, weights") {
  for (const int count : {13, 16, 17, 24}) {
    const Rows data = points(count);
    for (const std::size_t rows : {8, 12}) {
      auto options = usual();
      options.batch = rows;
      const Told whole = run(data, options);
      REQUIRE(whole.steps.size() == 2 * ((static_cast<std::size_t>(count) + rows - 1) / rows));
      for (std::size_t accumulate = 2; accumulate <= rows; ++accumulate) {
        if (rows % accumulate) continue;
        CAPTURE(count);
        CAPTURE(accumulate);
        options.batch = rows / accumulate;
        options.accumulate = accumulate;
        const Told split = run(data, options);
        REQUIRE(split.steps.size() == whole.steps.size());
        for (std::size_t i = 0; i < whole.steps.size(); ++i) {
          CHECK(split.steps[i].loss == doctest::Approx(whole.steps[i].loss).epsilon(1e-13));
          CHECK(split.steps[i].gradient_norm == doctest::Approx(whole.steps[i].gradient_norm).epsilon(1e-12));
        }
        for (int k = 0; k < 2; ++k)
          CHECK(split.weights[static_cast<std::size_t>(k)] ==
                doctest::Approx(whole.weights[static_cast<std::size_t>(k)]).epsilon(1e-12));
        // The same rows in the same order, only cut otherwise; each batch has random numbers of its own.
        std::vector<std::uint32_t> a, b;
        for (const auto& batch : whole.script->batches) a.insert(a.end(), batch.begin(), batch.end());
        for (const auto& batch : split.script->batches) b.insert(b.end(), batch.begin(), batch.end());
        CHECK(a == b);
        for (const auto& batch : split.script->batches) CHECK(batch.size() <= options.batch);
        for (std::size_t i = 0; i < split.script->steps.size(); ++i) CHECK(split.script->steps[i] == i);
      }
    }
  }
}

TEST_CASE("trainer: a batch taken in parts is the batch: the same examples, in parts of so many items, and means") {
  for (const int count : {13, 17}) {
    const Rows data = points(count);
    for (const std::size_t accumulate : {1, 2, 3}) {
      auto options = usual();
      options.batch = 6;
      options.accumulate = accumulate;
      const Told whole = run(data, options);
      for (const Index longest : {1, 5, 8, 1000}) {
        CAPTURE(longest);
        const Told split = run(data, options, {}, -1, longest);
        REQUIRE(split.steps.size() == whole.steps.size());
        for (std::size_t i = 0; i < whole.steps.size(); ++i) {
          CHECK(split.steps[i].loss == doctest::Approx(whole.steps[i].loss).epsilon(1e-13));
          CHECK(split.steps[i].gradient_norm == doctest::Approx(whole.steps[i].gradient_norm).epsilon(1e-12));
        }
        std::vector<std::uint32_t> a, b;
        for (const auto& batch : whole.script->batches) a.insert(a.end(), batch.begin(), batch.end());
        std::size_t end = 0, next = 0;  // no part goes beyond a batch
        for (const auto& part : split.script->batches) {
          b.insert(b.end(), part.begin(), part.end());
          if (b.size() > end) end += whole.script->batches.at(next++).size();
          CHECK(b.size() <= end);
          Index items = 0;
          for (const auto row : part) items += data.rows[row].items;
          CHECK((items <= longest || part.size() == 1));
        }
        CHECK(a == b);
        CHECK((split.script->batches.size() > whole.script->batches.size()) == (longest < 1000));
        for (std::size_t i = 0; i < split.script->steps.size(); ++i) CHECK(split.script->steps[i] == i);
      }
    }
  }
}

TEST_CASE("trainer: a step's loss and gradient are the means over all that its batches count") {
  const Rows data = points(11);  // 8 rows, then 3: the short group is of a whole and a short batch
  auto options = usual();
  options.batch = 2;
  options.accumulate = 4;
  options.epochs = 1;
  adam_of(options).rate = 1e-12;
  const Told told = run(data, options);
  REQUIRE(told.steps.size() == 2);
  REQUIRE(told.script->batches.size() == 6);
  std::vector<std::uint32_t> rows[2];
  for (std::size_t i = 0; i < 6; ++i)
    for (const auto r : told.script->batches[i]) rows[i / 4].push_back(r);
  CHECK(rows[1].size() == 3);
  for (std::size_t i = 0; i < 2; ++i) {
    const Mean m = mean_of(data, rows[i]);
    CHECK(told.steps[i].loss == doctest::Approx(m.loss).epsilon(1e-9));
    CHECK(told.steps[i].gradient_norm == doctest::Approx(std::hypot(4 - m.a, -2 - m.b)).epsilon(1e-9));
  }
  CHECK(told.steps[0].mean_loss == told.steps[0].loss);
  CHECK(told.steps[1].mean_loss == doctest::Approx((told.steps[0].loss + told.steps[1].loss) / 2).epsilon(1e-13));
}

TEST_CASE("trainer: a run is AdamW's steps at the schedule's rates over the seed's batches") {
  const Rows data = points(11);
  auto options = usual();
  options.warmup = 0.3;
  options.epochs = 3;
  options.optimizer = optim::AdamW{.rate = 0.25, .decay = 0.1, .clip = 1.5};
  const Told told = run(data, options);
  Toy toy;
  auto adam = adam_of(options).over<double>(toy);
  std::vector<std::vector<std::uint32_t>> batches;
  std::int64_t step = 0;
  for (std::uint64_t epoch = 0; epoch < 3; ++epoch)
    for (const auto& rows : data::batches(data.lengths(), 4, 7, epoch, true)) {
      const auto w = values(toy);
      const Mean m = mean_of(data, rows, w[0], w[1]);
      toy.weight.gradient() = Tensor<double>::from({1, 2}, {w[0] - m.a, w[1] - m.b});
      (void)adam.step(optim::linear_schedule(step++, 3, 9));
      batches.push_back(rows);
    }
  CHECK(told.script->batches == batches);
  CHECK(batches[0] != batches[3]);
  for (std::size_t k = 0; k < 2; ++k) CHECK(told.weights[k] == doctest::Approx(values(toy)[k]).epsilon(1e-12));
}

TEST_CASE("trainer: clipping is by the norm of the mean gradient") {
  const Rows data = points(8);
  for (const double clip : {0.0, 0.5, 2.0, 10.0, 100.0})
    for (const std::size_t accumulate : {1, 2, 4}) {
      CAPTURE(clip);
      CAPTURE(accumulate);
      auto options = usual();
      options.batch = 8 / accumulate;
      options.accumulate = accumulate;
      options.epochs = 1;
      adam_of(options).clip = clip;
      Toy toy;
      train::Trainer trainer(toy, data, data, options);
      trainer.run();
      const Mean m = mean_of(data, {0, 1, 2, 3, 4, 5, 6, 7});
      const double norm = std::hypot(4 - m.a, -2 - m.b), times = clip > 0 ? std::min(1.0, clip / norm) : 1;
      trainer.optimizer().for_each_state([&](const std::string& name, const Tensor<double>& x) {
        if (name == "weight.m") {
          CHECK(x.data()[0] == doctest::Approx(0.1 * (4 - m.a) * times).epsilon(1e-12));
          CHECK(x.data()[1] == doctest::Approx(0.1 * (-2 - m.b) * times).epsilon(1e-12));
        }
        if (name == "weight.v")
          CHECK(x.data()[0] == doctest::Approx(0.001 * std::pow((4 - m.a) * times, 2)).epsilon(1e-10));
      });
    }
}

TEST_CASE("trainer: batches that count nothing add nothing; a learner that does not tell cannot accumulate") {
  const Rows data = points(8);
  auto options = usual();
  options.batch = 1;
  options.accumulate = 4;
  options.epochs = 1;
  adam_of(options).rate = 1e-12;
  Toy toy;
  toy.script->empty = {0, 1, 2, 5};
  const Told told = run(data, options, toy);
  for (std::size_t i = 0; i < 2; ++i) {
    std::vector<std::uint32_t> rows;
    for (std::size_t k = 0; k < 4; ++k)
      if (const auto r = told.script->batches[4 * i + k][0]; !toy.script->empty.contains(r)) rows.push_back(r);
    CHECK(told.steps[i].loss == doctest::Approx(rows.empty() ? 0 : mean_of(data, rows).loss).epsilon(1e-9));
  }
  options.accumulate = 1;
  const Told alone = run(data, options, anew(toy));
  CHECK(alone.steps.size() == 8);
  int still = 0;
  for (const auto& step : alone.steps) still += step.gradient_norm == 0;
  CHECK(still == 4);

  // A step of such batches alone moves nothing: neither decay nor what moments are left of steps before.
  adam_of(options).rate = 0.1;
  adam_of(options).decay = 0.5;
  Toy none;
  for (std::uint32_t r = 0; r < 8; ++r) none.script->empty.insert(r);
  const Told nothing = run(data, options, anew(none));
  CHECK(nothing.weights == values(Toy()));
  CHECK(nothing.outcome.place.step == 8);

  Toy silent;
  silent.script->tells = false;
  CHECK_NOTHROW(run(data, options, silent));
  options.accumulate = 2;
  CHECK(contains(message_of([&] { run(data, options, anew(silent)); }), "tells what it counts"));
}

TEST_CASE("trainer: an error amid a step leaves no gradients: the run goes on as one without it") {
  const Rows data = points(8), dev = points(3);
  auto options = usual();
  options.batch = 2;
  options.accumulate = 4;
  const auto weights = [&](int bad) {
    Toy toy;
    auto job = train::Job<double, Cpu>::of(toy, data, dev);
    const auto loss = job.loss;
    job.expect = nullptr;
    job.batch = [&, batch = job.batch](std::span<const std::uint32_t> rows, Run run) {
      data.expected = {{rows.begin(), rows.end()}};
      return batch(rows, run);
    };
    job.loss = [&](const nn::Batch<>& batch) {
      if (--bad == 0) throw std::runtime_error("no Error");
      return loss(batch);
    };
    train::Trainer<double, Cpu> trainer(std::move(job), options);
    if (bad > 0) CHECK_THROWS_AS((void)trainer.run(), std::runtime_error);
    (void)trainer.run();
    return values(toy);
  };
  const auto right = weights(0);
  CHECK(weights(3) == right);
  CHECK(weights(4) == right);
}

TEST_CASE("trainer: stopped amid a step and run again, nothing counts twice") {
  Rows data = points(8);
  data.again = true;
  const Rows dev = points(3);
  auto options = usual();
  options.batch = 2;
  options.accumulate = 4;
  const auto weights = [&](const train::TrainOptions& options, int at) {
    data.expected.clear();
    Toy toy;
    toy.script->training = std::holds_alternative<optim::AdamW>(options.optimizer);
    auto stopping = options;
    int asked = 0;
    stopping.stop = [&] { return ++asked == at; };
    train::Trainer<double, Cpu> trainer(train::Job<double, Cpu>::of(toy, data, dev), stopping);
    if (at > 0) CHECK_FALSE(trainer.run().finished);
    CHECK(trainer.run().finished);
    return values(toy);
  };
  auto by_losses = options;
  by_losses.optimizer = optim::Spsa{.rate = 0.01, .seed = 7};
  for (const auto& each : {options, by_losses}) {
    const auto right = weights(each, 0);
    for (const int at : {2, 3, 4}) CHECK(weights(each, at) == right);
  }
}

TEST_CASE("trainer: the rate rises over the warm-up, rounded up to whole steps, and falls to nothing") {
  struct Case {
    double warmup;
    std::vector<double> first;  // factors
  };
  for (const Case& one : {Case{0.15, {0.5, 1, 1, 7. / 8}}, Case{0.1, {1, 1, 8. / 9}}, Case{0, {1, 0.9}},
                          Case{0.01, {1, 1}}, Case{0.25, {1. / 3, 2. / 3, 1, 1, 6. / 7}}}) {
    CAPTURE(one.warmup);
    const auto& first = one.first;
    const Folder folder;
    auto options = usual(folder.text() + "/run");
    options.epochs = 5;  // 10 steps
    options.warmup = one.warmup;
    const Told told = run(points(8), options);
    REQUIRE(told.steps.size() == 10);
    CHECK(told.starts.at(0).rate == doctest::Approx(0.25 * first[0]).epsilon(1e-14));
    const auto log = lines(options.folder + "/log.jsonl");
    for (std::size_t i = 0, at = 0; i < first.size(); ++i, ++at) {
      CHECK(told.steps[i].rate == doctest::Approx(0.25 * first[i]).epsilon(1e-14));
      while (!log.at(at).contains("rate")) ++at;
      CHECK(log.at(at)["rate"].get<double>() == told.steps[i].rate);
    }
    CHECK(told.steps[9].rate > 0);
    CHECK(told.steps[9].rate < 0.25 / 6);
    CHECK(told.steps[9].step == 10);
    CHECK(told.steps[9].steps == 10);
    CHECK(told.steps[9].epoch == 5);
  }
}

TEST_CASE("trainer: the log has the mean loss of the steps since its last line, an epoch's line its own") {
  for (const std::int64_t every : {1, 2, 3, 5}) {
    const Folder folder;
    auto options = usual(folder.text());
    options.batch = 2;
    options.accumulate = 2;
    options.log_every = every;
    const Told told = run(points(13), options);  // 4 steps an epoch
    REQUIRE(told.steps.size() == 8);
    std::size_t from = 0, epoch = 0;
    for (const auto& line : lines(folder.text() + "/log.jsonl")) {
      const std::size_t step = line["step"];
      if (line.contains("dev")) {
        double sum = 0;
        for (std::size_t i = 4 * epoch; i < 4 * epoch + 4; ++i) sum += told.steps[i].loss;
        CHECK(step == 4 * ++epoch);
        CHECK(line["epoch"] == epoch);
        CHECK(line["train_loss"].get<double>() == doctest::Approx(sum / 4).epsilon(1e-13));
        CHECK(line["dev"]["accuracy"].get<double>() == told.epochs[epoch - 1].scores[1].value);
        continue;
      }
      CHECK(step == from + static_cast<std::size_t>(every));
      double sum = 0;
      for (; from < step; ++from) sum += told.steps[from].loss;
      CHECK(line["loss"].get<double>() == doctest::Approx(sum / static_cast<double>(every)).epsilon(1e-13));
      CHECK(line["gradient_norm"].get<double>() == told.steps[step - 1].gradient_norm);
      CHECK(line["epoch"] == told.steps[step - 1].epoch);
    }
    CHECK(epoch == 2);
    CHECK(told.steps[4].mean_loss == told.steps[4].loss);
    CHECK(told.steps[5].mean_loss == doctest::Approx((told.steps[4].loss + told.steps[5].loss) / 2).epsilon(1e-13));
    CHECK(from == 8 / static_cast<std::size_t>(every) * static_cast<std::size_t>(every));
  }
  // A line is of all steps since the last one, also where a run goes on with more lines than before.
  const Folder folder;
  auto options = usual(folder.text());
  options.resume = true;
  options.log_every = 5;
  const Told first = run(points(16), options, {}, 3);  // 4 steps an epoch
  options.log_every = 2;
  const Told rest = run(points(16), options);
  const double sum = first.steps.at(0).loss + first.steps.at(1).loss + first.steps.at(2).loss + rest.steps.at(0).loss;
  const auto line = lines(folder.text() + "/log.jsonl").at(0);
  CHECK(line["step"] == 4);
  CHECK(line["loss"].get<double>() == doctest::Approx(sum / 4).epsilon(1e-13));
}

TEST_CASE(
    "trainer: the best epoch is the first with the highest score that is a number; its weights are what is left") {
  struct Case {
    std::vector<double> scores;
    std::size_t best;
    std::vector<bool> told;
  };
  for (const Case& one :
       {Case{{0.5, 0.7, 0.7, 0.6}, 1, {true, true, false, false}}, Case{{0.9, 0.9, 0.9}, 0, {true, false, false}},
        Case{{0.1, 0.2, 0.3}, 2, {true, true, true}}, Case{{0.3, 0.1, 0.2}, 0, {true, false, false}},
        Case{{no_number, 0.1, no_number}, 1, {true, true, false}}, Case{{0.1, no_number, 0.2}, 2, {true, false, true}},
        Case{{-inf, -9, inf}, 2, {true, true, true}}, Case{{no_number, no_number}, 0, {true, false}},
        Case{{no_number, -inf}, 1, {true, true}}, Case{{-0.5, 0.0}, 1, {true, true}}}) {
    const auto& scores = one.scores;
    const std::size_t best = one.best;
    CAPTURE(scores);
    const Folder folder;
    auto options = usual(folder.text());
    options.epochs = static_cast<std::int64_t>(scores.size());
    Toy toy;
    toy.script->scores = scores;
    std::vector<std::vector<double>> after;
    toy.script->scoring = [&, weight = toy.weight] { after.push_back(weight.value().values()); };
    const Told told = run(points(8), options, toy);
    REQUIRE(after.size() == scores.size());
    CHECK(after.front() != after.back());
    CHECK(told.weights == after[best]);
    for (std::size_t i = 0; i < scores.size(); ++i) CHECK(told.epochs[i].best == one.told[i]);
    CHECK(told.outcome.place.best_epoch == static_cast<std::int64_t>(best));
    const auto metrics = io::read_json(folder.text() + "/metrics.json");
    CHECK(metrics["best_epoch"] == best + 1);
    CHECK(metrics["metric"] == "accuracy");
    CHECK(metrics["epochs"].size() == scores.size());
    CHECK(metrics["value"] == metrics["epochs"][best]["dev"]["accuracy"]);
    CHECK(metrics["value"] == train::to_json(scores[best]));
    Toy loaded;
    checkpoints::load_trained(io::Safetensors(folder.text() + "/adapter.safetensors"),
                              nn::trainable<double, Cpu>(loaded));
    CHECK(values(loaded) == after[best]);

    // Without a folder the last epoch's weights are left.
    options.folder.clear();
    Toy other;
    other.script->scores = scores;
    CHECK(run(points(8), options, other).weights == after.back());
  }
}

TEST_CASE("trainer: a run that is stopped at any step and resumed has the bits and the log of one that is not") {
  auto options = usual();
  options.batch = 2;
  options.accumulate = 2;
  options.epochs = 3;
  options.log_every = 2;
  options.run = {{"lr", 0.25}};
  const Rows data = points(13);  // 4 steps an epoch
  const Folder whole_folder;
  options.folder = whole_folder.text();
  const Told whole = run(data, options);
  CHECK(whole.starts.at(0).nothing_to_resume == false);
  for (std::int64_t stop = 0; stop < 12; ++stop) {
    CAPTURE(stop);
    const Folder folder;
    options.folder = folder.text();
    options.resume = true;
    const Told first = run(data, options, {}, stop);
    CHECK(!first.outcome.finished);
    CHECK(first.starts.at(0).nothing_to_resume);
    CHECK(!first.starts.at(0).resumed);
    CHECK(first.outcome.place.step == stop);
    const Told rest = run(data, options);
    CHECK(rest.starts.at(0).resumed);
    CHECK(!rest.starts.at(0).nothing_to_resume);
    CHECK(rest.starts.at(0).changed.empty());
    CHECK(rest.starts.at(0).step == stop);
    CHECK(rest.steps.size() == static_cast<std::size_t>(12 - stop));
    const auto& next = rest.steps.at(0);  // what is left goes by the steps of this run
    CHECK(next.sequences_per_second * next.seconds_left == doctest::Approx((stop % 4 == 3 ? 1 : 4) * (11.0 - stop)));
    CHECK(rest.weights == whole.weights);
    CHECK(bytes(folder.text() + "/adapter.safetensors") == bytes(whole_folder.text() + "/adapter.safetensors"));
    CHECK(scores_of(folder) == scores_of(whole_folder));
    CHECK(timeless(folder.text() + "/log.jsonl") == timeless(whole_folder.text() + "/log.jsonl"));
    std::vector<std::uint32_t> epochs;  // of the rest
    for (std::int64_t e = stop / 4; e < 3; ++e) epochs.push_back(static_cast<std::uint32_t>(e));
    CHECK(data.epochs == epochs);
    const Told again = run(data, options);  // there is nothing left to do
    CHECK(again.steps.empty());
    CHECK(again.outcome.finished);
    CHECK(again.weights == whole.weights);
  }
  CHECK(logged_steps(whole_folder.text() + "/log.jsonl") == std::vector<std::int64_t>{2, 4, 6, 8, 10, 12});
  options.resume = false;
  options.folder = whole_folder.text();
  CHECK(contains(message_of([&] { run(data, options); }, &whole_folder), "adapter.safetensors is there already"));
  options.overwrite = true;
  CHECK(run(data, options).weights == whole.weights);
  CHECK(logged_steps(options.folder + "/log.jsonl") == std::vector<std::int64_t>{2, 4, 6, 8, 10, 12});
  options.resume = true;
  CHECK(contains(message_of([&] { run(data, options); }), "resumed or overwritten, not both"));
}

TEST_CASE(
    "trainer: ended between the files of an epoch's end, a run keeps the adapter of the best epoch that it knows") {
  const Rows data = points(12);  // 3 steps an epoch
  const auto toy_with = [](std::vector<double> scores, std::size_t scored = 0) {
    Toy toy;
    toy.script->scores = std::move(scores);
    toy.script->scored = scored;
    return toy;
  };
  const Folder early, whole;
  run(data, usual(early.text()), toy_with({1, 2}), 4);  // into the second epoch
  const Told told = run(data, usual(whole.text()), toy_with({1, 2}));
  const std::string first = bytes(early.text() + "/adapter.safetensors"),
                    second = bytes(whole.text() + "/adapter.safetensors");
  CHECK(first != second);
  CHECK(!fs::exists(whole.path / "adapter.next.safetensors"));
  // Before the state: that epoch is trained again, at another rate, and is no longer the best.
  early.put("adapter.next.safetensors", second);
  auto options = usual(early.text());
  options.resume = true;
  adam_of(options).rate = 0.125;
  run(data, options, toy_with({1, 0.5}, 1));
  CHECK(bytes(early.text() + "/adapter.safetensors") == first);
  CHECK(!fs::exists(early.path / "adapter.next.safetensors"));
  // Behind it: there is nothing left to train.
  whole.put("adapter.next.safetensors", second);
  whole.put("adapter.safetensors", first);
  options.folder = whole.text();
  const Told rest = run(data, options, toy_with({}));
  CHECK(rest.steps.empty());
  CHECK(rest.weights == told.weights);
  CHECK(bytes(whole.text() + "/adapter.safetensors") == second);
  CHECK(!fs::exists(whole.path / "adapter.next.safetensors"));
}

TEST_CASE("trainer: steps by losses: the differences of what batches count, constant rates, resumed to the same bits") {
  const Rows data = points(13);
  Toy toy;
  toy.script->training = false;
  auto options = usual();
  options.optimizer = optim::Spsa{.rate = 0.01, .epsilon = 1e-3, .seed = 7};
  options.warmup = 0.2;  // of 8 steps: 2
  options.schedule = Schedule::constant;
  const Folder whole_folder;
  options.folder = whole_folder.text();
  const Told whole = run(data, options, toy);
  REQUIRE(whole.steps.size() == 8);
  for (std::size_t i = 0; i < 8; ++i) CHECK(whole.steps[i].rate == doctest::Approx(i == 0 ? 0.005 : 0.01));
  CHECK(whole.weights != values(Toy()));
  CHECK(whole.script->steps.size() == 16);  // two losses a batch
  for (std::int64_t stop = 0; stop < 8; stop += 3) {
    const Folder folder;
    options.folder = folder.text();
    options.resume = true;
    CHECK(run(data, options, anew(toy), stop).outcome.place.step == stop);
    CHECK(run(data, options, anew(toy)).weights == whole.weights);
    CHECK(bytes(folder.text() + "/adapter.safetensors") == bytes(whole_folder.text() + "/adapter.safetensors"));
    const auto steps = [](const Folder& of) {
      const io::Safetensors state(of.text() + "/state.safetensors");
      const auto log = state.find("spsa.log").bytes;
      return std::vector<std::byte>(log.begin(), log.end());
    };
    CHECK(steps(folder) == steps(whole_folder));
    CHECK(timeless(folder.text() + "/log.jsonl") == timeless(whole_folder.text() + "/log.jsonl"));
  }
  const io::Safetensors state(whole_folder.text() + "/state.safetensors");
  CHECK(state.find("spsa.log").shape == std::vector<std::int64_t>{8, 2});

  // Two halves weigh as the whole does.
  options = usual();
  options.optimizer = optim::Spsa{.rate = 0.01, .epsilon = 1e-3, .seed = 7};
  const Told once = run(data, options, anew(toy));
  options.batch = 2;
  options.accumulate = 2;
  const Told halves = run(data, options, anew(toy));
  REQUIRE(halves.steps.size() == once.steps.size());
  for (std::size_t i = 0; i < once.steps.size(); ++i) {
    CHECK(halves.steps[i].loss == doctest::Approx(once.steps[i].loss).epsilon(1e-12));
    CHECK(halves.steps[i].gradient_norm == doctest::Approx(once.steps[i].gradient_norm).epsilon(1e-8));
  }
}

TEST_CASE("trainer: steps of two levels: the upper set's gradient and, by lambda, the lower one's") {
  const Rows data = points(13);
  for (const double lambda : {0.0, 1.0, 7.0}) {
    auto options = usual();
    options.optimizer = optim::Bilevel{.module_rate = 0.01, .lambda = lambda, .inner = 0};
    Toy toy;
    toy.script->training = false;
    const Told told = run(data, options, toy);
    const auto of = [&](std::size_t batch) { return mean_of(data, told.script->batches.at(batch)); };
    const auto lower = of(0), upper = of(1);
    CHECK(told.steps.at(0).gradient_norm ==
          doctest::Approx(std::hypot(lambda * (4 - lower.a) + 4 - upper.a, lambda * (-2 - lower.b) - 2 - upper.b)));
  }
}

TEST_CASE(
    "plan: examples of two levels: a batch of the lower set a step, all in an epoch; one of the upper behind each K") {
  const std::vector<std::uint32_t> lengths(100, 3);
  train::Plan plan(lengths, {.batch = 8, .seed = 7, .inner = 3});
  const auto whole = [](train::Rows rows) { return std::vector<train::Rows>{std::move(rows)}; };
  std::set<std::uint32_t> upper, lower;
  std::int64_t step = 0;
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
    plan.begin(epoch, whole);
    std::multiset<std::uint32_t> seen;
    for (std::int64_t i = 0; i < plan.steps(); ++i, ++step) {
      const bool outer = step % 4 == 3;
      REQUIRE(plan.end(i) - plan.first(i) == (outer ? 2 : 1));
      const auto& rows = plan.rows()[plan.first(i)];
      seen.insert(rows.begin(), rows.end());
      if (outer) upper.insert(plan.rows()[plan.first(i) + 1].begin(), plan.rows()[plan.first(i) + 1].end());
      CHECK_FALSE(plan.shares(plan.first(i)));
    }
    if (epoch == 0) lower = {seen.begin(), seen.end()};
    CHECK(std::set(seen.begin(), seen.end()) == lower);
    CHECK(seen.size() == lower.size());
  }
  CHECK((lower.size() > 55 && lower.size() < 78));
  for (const auto row : upper) CHECK_FALSE(lower.contains(row));
  CHECK(upper.size() > 100 - lower.size() - 8);  // several passes
  // Each pass over the upper set is in an order of its own.
  train::Plan all(lengths, {.batch = 8, .seed = 7, .inner = 0});
  std::vector<train::Rows> passes;
  for (std::int64_t epoch = 0, next = 0; epoch < 2; ++epoch) {
    all.begin(epoch, whole);
    for (std::int64_t i = 0; i < all.steps(); ++i, ++next) {
      const auto& rows = all.rows()[all.first(i) + 1];
      if (next % static_cast<std::int64_t>((upper.size() + 7) / 8) == 0) passes.emplace_back();
      passes.back().insert(passes.back().end(), rows.begin(), rows.end());
    }
  }
  REQUIRE(passes.size() > 2);
  CHECK(std::set(passes[0].begin(), passes[0].end()) == upper);
  CHECK(std::set(passes[1].begin(), passes[1].end()) == upper);
  CHECK(passes[0] != passes[1]);
  auto other = plan;
  other.begin(2, whole);
  plan.begin(2, whole);
  CHECK(other.rows() == plan.rows());
  CHECK(contains(message_of([&] { train::Plan(lengths, {.batch = 8, .accumulate = 2, .inner = 3}); }),
                 "expected accumulate 1, found: 2"));
  CHECK(contains(message_of([&] { train::Plan(std::span(lengths).first(1), {.batch = 8, .inner = 3}); }),
                 "too few examples for two sets"));
}

TEST_CASE("trainer: a log that lost or gained lines is whole again after resuming") {
  const Rows data = points(8);
  const Folder folder;
  auto options = usual(folder.text());
  options.epochs = 4;  // 2 steps each
  options.resume = true;
  run(data, options, {}, 5);
  const std::string log = folder.text() + "/log.jsonl", kept = bytes(log),
                    state = bytes(folder.text() + "/state.safetensors");
  const std::string last = kept.substr(kept.rfind('\n', kept.size() - 2) + 1);
  const std::vector<std::int64_t> all{1, 2, 3, 4, 5, 6, 7, 8};
  struct Case {
    std::string log;
    std::vector<std::int64_t> steps;
  };
  for (const Case& one :
       {Case{kept, all}, Case{kept + R"({"step": 6, "loss": 1})" + "\n", all}, Case{kept + R"({"step": 6, "lo)", all},
        Case{kept.substr(0, kept.size() - 1), {1, 2, 3, 4, 6, 7, 8}},  // a torn last line
        Case{kept.substr(0, kept.size() - last.size() / 2), {1, 2, 3, 4, 6, 7, 8}},
        Case{kept.substr(0, kept.size() - last.size()), {1, 2, 3, 4, 6, 7, 8}},  // a lost one
        Case{kept.substr(0, 10), {6, 7, 8}}, Case{"", {6, 7, 8}}}) {
    CAPTURE(one.log);
    folder.put("log.jsonl", one.log);
    folder.put("state.safetensors", state);
    run(data, options, {}, 1);  // stops once more, so that a wrong place of the log shows
    CHECK(lines(log).size() > 0);
    std::ofstream(log, std::ios::app) << R"({"step": 7, "loss": 1})"
                                      << "\n";
    run(data, options);
    CHECK(logged_steps(log) == one.steps);  // each line parses, none is there twice
  }
  folder.put("state.safetensors", state);
  fs::remove(log);
  run(data, options);
  CHECK(logged_steps(log) == std::vector<std::int64_t>{6, 7, 8});
}

TEST_CASE("trainer: a run goes on after its end with more epochs or steps") {
  const Rows data = points(12);  // 3 steps an epoch
  auto options = usual();
  options.warmup = 0;
  options.may_change = {"epochs", "max-steps", "lr"};
  const auto with = [&](std::int64_t epochs, std::int64_t most, const std::string& folder) {
    auto out = options;
    out.epochs = epochs;
    out.max_steps = most;
    out.folder = folder;
    out.resume = true;
    out.run = {{"epochs", epochs}, {"max-steps", most}, {"lr", adam_of(out).rate}, {"batch", 4}};
    return out;
  };
  const auto rows_of = [](const Told& told) {
    std::vector<std::uint32_t> out;
    for (const auto& batch : told.script->batches) out.insert(out.end(), batch.begin(), batch.end());
    return out;
  };
  const Folder plain;
  const auto order = rows_of(run(data, with(4, 0, plain.text())));
  struct Case {
    std::int64_t epochs, most, more_epochs, more_most, first, steps, epochs_told;
  };
  for (const Case c : {Case{2, 0, 4, 0, 6, 12, 4}, Case{4, 4, 4, 8, 4, 8, 3}, Case{4, 5, 4, 0, 5, 12, 4},
                       Case{1, 0, 4, 7, 3, 7, 3}, Case{4, 6, 4, 7, 6, 7, 3}}) {
    CAPTURE(c.most);
    CAPTURE(c.more_most);
    const Folder folder;
    const Told first = run(data, with(c.epochs, c.most, folder.text()));
    CHECK(first.outcome.finished);
    CHECK(first.outcome.place.step == c.first);
    const Told more = run(data, with(c.more_epochs, c.more_most, folder.text()));
    CHECK(more.outcome.finished);
    CHECK(more.outcome.place.step == c.steps);
    CHECK(more.starts.at(0).resumed);
    CHECK(more.starts.at(0).changed.size() ==
          static_cast<std::size_t>((c.epochs != c.more_epochs) + (c.most != c.more_most)));
    const auto& change = more.starts[0].changed[0];
    CHECK(change.name == (c.epochs != c.more_epochs ? "epochs" : "max-steps"));
    CHECK(change.before == std::to_string(c.epochs != c.more_epochs ? c.epochs : c.most));
    // The rate is the longer schedule's, the rows those that come next in it.
    CHECK(more.starts[0].rate ==
          doctest::Approx(0.25 * static_cast<double>(c.steps - c.first) / static_cast<double>(c.steps)));
    auto seen = rows_of(first);
    const auto rest = rows_of(more);
    seen.insert(seen.end(), rest.begin(), rest.end());
    CHECK(seen == std::vector<std::uint32_t>(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(seen.size())));
    CHECK(more.steps.back().epochs == c.epochs_told);
    CHECK(more.steps.back().epoch == c.epochs_told);
    // An epoch that was cut short has a score of its own besides.
    const auto metrics = io::read_json(folder.text() + "/metrics.json");
    std::int64_t ended = 0;
    for (const auto& e : metrics["epochs"]) ended = std::max<std::int64_t>(ended, e["epoch"]);
    CHECK(ended == c.epochs_told);
    CHECK(metrics["epochs"].size() == static_cast<std::size_t>(c.epochs_told + (c.first % 3 != 0)));
    CHECK(metrics["finished"] == true);
    CHECK(metrics["steps"] == c.steps);
    // Its loss is the mean of the steps that it had by then.
    std::vector<double> losses;
    for (const Told* told : {&first, &more})
      for (const auto& step : told->steps) losses.push_back(step.loss);
    for (const auto& e : metrics["epochs"]) {
      double sum = 0;
      const auto begin = 3 * (e["epoch"].get<std::size_t>() - 1), end = e["step"].get<std::size_t>();
      for (std::size_t i = begin; i < end; ++i) sum += losses.at(i);
      CHECK(e["train_loss"].get<double>() == doctest::Approx(sum / static_cast<double>(end - begin)).epsilon(1e-13));
    }
  }
  // The best is found among all scores, those of epochs that were cut short too.
  for (const std::size_t best : {1, 2, 3, 4}) {
    const Folder cut;
    Toy toy;
    toy.script->scores = {0.1, 0.2, 0.3, 0.4, 0.5};
    for (std::size_t i = best + 1; i < 5; ++i) toy.script->scores[i] = 0;
    run(data, with(4, 5, cut.text()), toy);
    CHECK(run(data, with(4, 0, cut.text()), anew(toy)).outcome.place.best_epoch == static_cast<std::int64_t>(best));
    const auto metrics = io::read_json(cut.text() + "/metrics.json");
    CHECK(metrics["value"] == toy.script->scores[best]);
    CHECK(metrics["best_epoch"] == std::array{1, 2, 2, 3, 4}[best]);
  }
  // A lower rate counts from the next step on; other options stay; a run does not go back.
  const Folder folder;
  run(data, with(4, 0, folder.text()), {}, 5);
  adam_of(options).rate = 0.125;
  const Told lower = run(data, with(4, 0, folder.text()), {}, 1);
  CHECK(lower.starts.at(0).changed.size() == 1);
  CHECK(lower.starts[0].changed[0].name == "lr");
  CHECK(lower.steps.at(0).rate == doctest::Approx(0.125 * 7 / 12));
  CHECK(contains(
      message_of([&] { run(data, with(4, 5, folder.text())); }, &folder),
      "cannot resume: state.safetensors is at step 6, past the last one (option epochs or option max-steps), 5"));
  // The state has what changed before the first step.
  Toy broken;
  broken.script->out_of_range = 6;
  CHECK(contains(message_of([&] { run(data, with(6, 0, folder.text()), broken); }), "step 7 of 18"));
  CHECK(train::run_of(io::Safetensors(folder.text() + "/state.safetensors"))["epochs"] == 6);
  CHECK(run(data, with(6, 0, folder.text()), {}, 0).starts.at(0).changed.empty());
  adam_of(options).rate = 0.0625;
  for (const std::size_t changes : {1, 0})
    CHECK(run(data, with(6, 0, folder.text()), {}, 0).starts.at(0).changed.size() == changes);
  auto other = with(6, 0, folder.text());
  other.run["data"] = "other";
  CHECK(contains(message_of([&] { run(data, other); }, &folder),
                 "resume: option --data is not the run's: state.safetensors has nothing, found other (rows or files "
                 "were added, changed or deleted since it began"));
  other.run.erase("data");
  other.run["batch"] = 8;
  CHECK(contains(message_of([&] { run(data, other); }, &folder),
                 "--batch is not the run's: state.safetensors has 4, found 8"));
}

TEST_CASE("trainer: scores that are not finite are kept as they are, and the run resumes") {
  const Folder folder;
  auto options = usual(folder.text());
  options.epochs = 4;
  options.resume = true;
  Toy toy;
  toy.script->scores = {inf, -inf, no_number, 0.25};
  run(points(8), options, toy, 5);
  Toy other;
  other.script->scores = toy.script->scores;
  other.script->scored = 2;
  const Told told = run(points(8), options, other);
  const auto& epochs = told.outcome.place.epochs;
  REQUIRE(epochs.size() == 4);
  CHECK(epochs[0].scores[1].value == inf);
  CHECK(epochs[1].scores[1].value == -inf);
  CHECK(std::isnan(epochs[2].scores[1].value));
  CHECK(epochs[3].scores[1].value == 0.25);
  CHECK(told.outcome.place.best_epoch == 0);
  const auto metrics = io::read_json(folder.text() + "/metrics.json");
  CHECK(metrics["value"] == "inf");
  CHECK(metrics["epochs"][1]["dev"]["accuracy"] == "-inf");
  CHECK(metrics["epochs"][2]["dev"]["accuracy"] == "nan");
}

TEST_CASE("trainer: a state or adapter that is damaged, cut short, gone or another's is found before any step") {
  const Rows data = points(12);
  const Folder folder;
  auto options = usual(folder.text());
  options.resume = true;
  run(data, options, {}, 4);  // in the second epoch
  const std::string state = folder.text() + "/state.safetensors", adapter = folder.text() + "/adapter.safetensors";
  const std::string good_state = bytes(state), good_adapter = bytes(adapter);
  const auto error = [&](const std::function<void()>& harm) {
    harm();
    Toy toy;
    const auto before = values(toy);
    const std::string text = message_of([&] { run(data, options, toy); }, &folder);
    CHECK(toy.script->steps.empty());
    if (!contains(text, "is missing")) CHECK(values(toy) == before);  // nothing was loaded by halves
    folder.put("state.safetensors", good_state);
    folder.put("adapter.safetensors", good_adapter);
    return text;
  };
  CHECK(contains(error([&] { zero_second_half(state); }),
                 "state.safetensors: the file is damaged: expected the checksum"));
  CHECK(contains(error([&] { zero_second_half(adapter); }), "cannot resume: adapter.safetensors: the file is damaged"));
  for (std::size_t at = 0; at < 48; at += 7)  // any byte of the weights and moments
    CHECK(contains(
        error([&] { change_tensors(state, [&](std::string& data) { data[at] = static_cast<char>(data[at] ^ 1); }); }),
        "state.safetensors: the file is damaged"));
  CHECK(contains(error([&] {
                   change_tensors(state, [](std::string& data) {
                     std::swap_ranges(data.begin(), data.begin() + 8, data.begin() + 8);
                   });
                 }),
                 "damaged"));
  CHECK(error([&] { std::ofstream(state, std::ios::binary) << good_adapter; }) ==
        "state.safetensors: not the state of a run: no `run` in its metadata");
  CHECK(contains(error([&] { replace_in(state, "\\\"step\\\":4", "\\\"step\\\":3"); }), "damaged"));
  CHECK(contains(
      error([&] { replace_in(state, "meft-state-2", "meft-state-1"); }),
      "state.safetensors: the state of another version of this library: expected meft-state-2, found meft-state-1"));
  CHECK(contains(error([&] { std::ofstream(state, std::ios::binary) << good_state.substr(0, good_state.size() - 10); }),
                 "state.safetensors"));
  CHECK(contains(
      error([&] { std::ofstream(adapter, std::ios::binary) << good_adapter.substr(0, good_adapter.size() - 10); }),
      "cannot resume: safetensors: adapter.safetensors"));
  CHECK(contains(error([&] { fs::remove(adapter); }),
                 "cannot resume: adapter.safetensors is missing, which holds epoch 1, the best so far"));
  CHECK(contains(error([&] { std::ofstream(adapter, std::ios::binary) << good_state; }),
                 "a tensor that this method does not train: weight.m"));
  CHECK(contains(error([&] { fs::remove(state); }),
                 "cannot resume: adapter.safetensors is there, but no state.safetensors"));
  CHECK(contains(error([&] { fs::remove(state), fs::remove(adapter); }),
                 "cannot resume: metrics.json is there, but no state.safetensors"));
  CHECK(contains(error([&] {
                   for (const char* name : {"state.safetensors", "adapter.safetensors", "metrics.json"})
                     fs::remove(folder.path / name);
                 }),
                 "cannot resume: log.jsonl is there, but no state.safetensors"));
  CHECK(logged_steps(folder.text() + "/log.jsonl") == std::vector<std::int64_t>{1, 2, 3, 4});  // nothing was emptied
  CHECK(run(data, options).outcome.finished);
}

TEST_CASE("trainer: a checksum is of every byte, name, type and shape") {
  std::vector<char> data(37, 'x');
  const auto sum = [&](const std::string& name = "a", const std::string& dtype = "U8",
                       const std::vector<std::int64_t>& shape = {37}, const io::Metadata& metadata = {{"k", "v"}}) {
    const io::NamedTensor tensor{name, dtype, shape, std::as_bytes(std::span(data))}, other{"z", "U8", {0}, {}};
    const auto one = checkpoints::checksum(std::vector{&tensor, &other}, metadata);
    CHECK(one == checkpoints::checksum(std::vector{&other, &tensor}, metadata));
    CHECK(one.size() == 16);
    return one;
  };
  std::set<std::string> seen{sum(),
                             sum("b"),
                             sum("a", "I8"),
                             sum("a", "U8", {1, 37}),
                             sum("a", "U8", {37}, {}),
                             sum("a", "U8", {37}, {{"k", "w"}}),
                             sum("a", "U8", {37}, {{"kv", ""}})};
  CHECK(seen.size() == 7);
  CHECK(seen.contains(sum("a", "U8", {37}, {{"k", "v"}, {"checksum", "1"}})));
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = 'y';
    CHECK(seen.insert(sum()).second);
    data[i] = 'x';
  }
}

TEST_CASE("trainer: an adapter without a checksum, of earlier versions, is taken as it is; one with it is checked") {
  const Folder folder;
  const std::vector<double> numbers{0.5, -0.25};
  io::write_safetensors(folder.text() + "/old.safetensors",
                        {{"weight", "F64", {1, 2}, std::as_bytes(std::span(numbers))}}, {{"format", "meft-adapter-1"}});
  Toy toy;
  checkpoints::load_trained(io::Safetensors(folder.text() + "/old.safetensors"), nn::trainable<double, Cpu>(toy));
  CHECK(values(toy) == numbers);

  checkpoints::save_trained(folder.text() + "/new.safetensors", nn::trainable<double, Cpu>(toy),
                            {{"format", "meft-adapter-1"}});
  zero_second_half(folder.text() + "/new.safetensors");
  Toy other;
  const auto load = [&] {
    checkpoints::load_trained(io::Safetensors(folder.text() + "/new.safetensors"), nn::trainable<double, Cpu>(other));
  };
  CHECK(contains(message_of(load, &folder), "new.safetensors: the file is damaged: expected the checksum"));
  CHECK(values(other) == std::vector<double>{4, -2});
}

TEST_CASE("trainer: a state of another instruction set is taken, and said to be") {
  const Folder folder;
  auto options = usual(folder.text());
  options.resume = true;
  run(points(8), options, {}, 1);
  const std::string path = folder.text() + "/state.safetensors";
  rewrite(path, [](auto& metadata) {
    CHECK(metadata.at("isa") == name_of(isa()));
    metadata["isa"] = "vax";
  });
  const Told told = run(points(8), options);
  REQUIRE(told.starts.at(0).changed.size() == 1);
  CHECK(told.starts[0].changed[0].name == "isa");
  CHECK(told.starts[0].changed[0].before == "vax");
  CHECK(told.starts[0].changed[0].now == name_of(isa()));
}

TEST_CASE("trainer: numbers that go astray name the step; before the first, nothing is left in the folder") {
  const auto failure = [](auto&& f) -> std::optional<train::StepError> {
    try {
      f();
    } catch (const train::StepError& error) {
      return error;
    }
    return {};
  };
  for (const bool range : {false, true})
    for (const std::size_t accumulate : {1, 2}) {
      CAPTURE(range);
      const Folder folder;
      auto options = usual(folder.text());
      options.accumulate = accumulate;
      options.batch = 4 / accumulate;
      const auto broken = [&](std::int64_t step) {
        Toy toy;
        (range ? toy.script->out_of_range : toy.script->broken) = step * static_cast<std::int64_t>(accumulate);
        return toy;
      };
      const auto first = failure([&] { run(points(12), options, broken(0)); });
      REQUIRE(first);
      CHECK(first->step == 1);
      CHECK(first->kept == -1);
      CHECK(!first->trained);
      CHECK(contains(first->message(), "trainer: step 1 of 6, the first, so the learning rate is not the cause: "));
      CHECK(contains(first->message(), range ? "a stream left its range" : "the loss is not finite"));
      CHECK(!fs::exists(folder.path / "state.safetensors"));
      CHECK(!fs::exists(folder.path / "adapter.safetensors"));

      // The folder is free for another try. A state is kept from the first step on.
      const auto later = failure([&] { run(points(12), options, broken(4)); });
      REQUIRE(later);
      CHECK(later->step == 5);
      CHECK(later->kept == 3);  // the epoch's end
      CHECK(later->trained);
      CHECK(contains(later->message(), "trainer: step 5 of 6, training has diverged: "));
      CHECK(contains(later->message(), "state.safetensors holds step 3"));
      options.resume = true;
      options.save_steps = 1;
      const auto again = failure([&] { run(points(12), options, broken(4)); });
      REQUIRE(again);
      CHECK(again->kept == 4);
      CHECK(run(points(12), options).outcome.finished);
      options.folder.clear();
      options.resume = false;
      const auto second = failure([&] { run(points(12), options, broken(1)); });
      REQUIRE(second);
      CHECK(second->step == 2);
      CHECK(second->trained);
      CHECK(second->kept == -1);
    }
}

TEST_CASE("trainer: a step whose streams leave their range is done again with a wider one, which is the run's") {
  const Folder folder, plain_folder;
  auto options = usual(folder.text());
  options.save_steps = 1;
  auto data = points(12);
  data.again = true;
  const Told plain = run(data, usual(plain_folder.text()));
  for (const std::int64_t first : {2, 0}) {
    options.overwrite = true;
    const Told told = run(data, options, Streaming{{}, first}, 4);
    options.overwrite = false;
    options.resume = true;
    Streaming rest{{}, 99};
    const Told resumed = run(data, options, rest);
    options.resume = false;
    CHECK(resumed.weights == plain.weights);
    CHECK(rest.body.range->bits() == std::vector<int>{20, 17});
    REQUIRE(told.widened.size() == 1);
    CHECK(told.widened[0].step == first + 1);
    CHECK(told.widened[0].by.features == 1);
    CHECK(told.widened[0].by.least == 17);
    CHECK(io::Safetensors(folder.text() + "/adapter.safetensors").metadata().at("fraction_bits") == "[[20,17]]");
    CHECK(contains(io::read_text(folder.text() + "/log.jsonl"),
                   "{\"step\":" + std::to_string(first + 1) + ",\"widened_features\":1,\"least_fraction_bits\":17}"));
  }
  // With the best epoch's weights its ranges come back.
  const Folder best_folder;
  Streaming later{{}, 4};
  later.script->scores = {2, 1};
  REQUIRE(run(data, usual(best_folder.text()), later).widened.size() == 1);
  CHECK(later.body.range->bits().empty());
  // In scoring too: no step is done again.
  const Folder scored_folder;
  StreamingScores scoring{{{}, 99}};
  const Told scored = run(data, usual(scored_folder.text()), scoring);
  CHECK(scored.weights == plain.weights);
  REQUIRE(scored.widened.size() == 1);
  CHECK(scored.widened[0].step == 3);
  CHECK(scoring.body.range->bits() == std::vector<int>{20, 17});
  CHECK(logged_steps(scored_folder.text() + "/log.jsonl").size() == 6);
  CHECK(contains(io::read_text(scored_folder.text() + "/log.jsonl"), "{\"step\":3,\"widened_features\":1"));

  // Infinity has no range, and a value that no step of training could have.
  for (const double value : {inf, 3e9})
    CHECK(contains(message_of([&] {
                     run(data, usual(), Streaming{{}, 2, value});
                   }),
                   "trainer: step 3 of 6, training has diverged: reversible stack: a stream left"));
  // What is no range of this stack is refused.
  auto broken = [&](const std::string& bits) {
    StreamRange<double> range(32, 20);
    return message_of([&] { checkpoints::set_ranges<double, Cpu>({&range}, parse_json(bits, "x"), "the state"); });
  };
  CHECK(contains(broken("[[20,21]]"), "the state: fraction bits: [0][1] is 21, expected an integer from 1 to 20"));
  CHECK(contains(broken("[[20],[20]]"), "lists and stacks differ in number"));
  CHECK(contains(broken("7"), "expected an array"));
}

TEST_CASE("trainer: what is chosen anew every so many steps has moments of its own from there on, resumed too") {
  Rows data = points(16);  // 4 steps an epoch
  data.again = true;
  const Rows dev = points(3);
  int choices = 0, most = 100, read = 0;
  auto options = usual();
  options.warmup = 0;
  options.renewal = {
      .every = 3, .choose = [&] { return ++choices <= most; }, .choose_as_in = [&](const io::Safetensors&) { ++read; }};
  const auto trainer_of = [&](Toy& toy, const std::function<bool()>& stop = {}) {
    auto job = train::Job<double, Cpu>::of(toy, data, dev);
    job.chosen = {"weight"};
    job.look_again = [](auto& again) { again.chosen = {"weight"}; };
    auto o = options;
    o.stop = stop;
    return train::Trainer<double, Cpu>(std::move(job), o);
  };
  Toy expected;
  auto adam = adam_of(options).over<double>(expected);
  for (std::int64_t step = 0; step < 8; ++step) {
    if (step == 3 || step == 6) adam = adam_of(options).over<double>(expected);
    const auto w = values(expected);
    const Mean m = mean_of(data, data::batches(data.lengths(), 4, 7, step / 4, true)[step % 4], w[0], w[1]);
    expected.weight.gradient() = Tensor<double>::from({1, 2}, {w[0] - m.a, w[1] - m.b});
    (void)adam.step(optim::linear_schedule(step, 0, 8));
  }
  Toy toy;
  CHECK(trainer_of(toy).run().finished);
  for (std::size_t k = 0; k < 2; ++k) CHECK(values(toy)[k] == doctest::Approx(values(expected)[k]).epsilon(1e-12));
  CHECK(choices == 2);
  CHECK(read == 0);
  // Stopped behind a choice and gone on with: it is not made twice.
  Toy stopped;
  bool once = false;
  auto trainer = trainer_of(stopped, [&] { return choices == 3 && !std::exchange(once, true); });
  CHECK(trainer.run().place.step == 3);
  CHECK(trainer.run().finished);
  CHECK(choices == 4);
  CHECK(values(stopped) == values(toy));

  const Folder whole_folder;
  options.folder = whole_folder.text();
  Toy whole;
  whole.script->scores = {1, 2};  // the last epoch is the best
  CHECK(trainer_of(whole).run().finished);
  CHECK(values(whole) == values(toy));
  CHECK(read == 1);
  options.resume = true;
  for (std::int64_t stop = 0; stop < 8; ++stop) {
    CAPTURE(stop);
    const Folder folder;
    options.folder = folder.text();
    Toy first, rest;
    first.script->scores = rest.script->scores = {1, 2};
    rest.script->scored = static_cast<std::size_t>(stop / 4);
    std::int64_t asked = 0;  // before each batch, and each scoring
    CHECK_FALSE(trainer_of(first, [&] { return asked++ >= stop + stop / 4; }).run().finished);
    CHECK(trainer_of(rest).run().finished);
    CHECK(values(rest) == values(whole));
  }
  // A choice that was stopped after it gave up the one before leaves the state of before, also in an earlier folder.
  for (const std::int64_t every : {1, 0}) {
    const Folder folder;
    options.folder = folder.text();
    options.save_steps = every;
    Toy first, rest;
    first.script->scores = rest.script->scores = {1, 2};
    const auto choose = std::exchange(options.renewal.choose, [&] {
      first.weight.set_trainable(false);
      return false;
    });
    auto job = train::Job<double, Cpu>::of(first, data, dev);
    job.chosen = {"weight"};
    auto trainer_of_first = train::Trainer<double, Cpu>(std::move(job), options);
    CHECK(trainer_of_first.run().place.step == 3);
    options.renewal.choose = choose;
    CHECK(trainer_of(rest).run().finished);
    CHECK(values(rest) == values(whole));
  }
  // A choice that was stopped ends the run there.
  most = choices, options.folder.clear(), options.resume = false;
  Toy none;
  const auto outcome = trainer_of(none).run();
  CHECK_FALSE(outcome.finished);
  CHECK(outcome.place.step == 3);

  CHECK_FALSE(train::Renewal{}.due(3));
  CHECK_FALSE(train::Renewal{.every = 3}.due(0));
  CHECK(train::Renewal{.every = 3}.last(0) == 0);
  CHECK(train::Renewal{.every = 3}.last(3) == 0);
  CHECK(train::Renewal{.every = 3}.last(4) == 3);
}

TEST_CASE("trainer: a light is asked for each batch, of what its loss counts") {
  auto options = usual();
  options.batch = 2;
  options.accumulate = 2;
  int asked = 0;
  Index words = 0;
  options.light = [&](const train::BatchSizes& sizes) {
    ++asked;
    words += sizes.words;
    return 0.5;
  };
  const Told told = run(points(8), options);
  CHECK(asked == 8);
  CHECK(words == 44);  // 1, 3, 2 and 5, twice an epoch
  CHECK(told.steps.back().light > 0);
}

TEST_CASE("trainer: a state of a place where no run can be, its checksum right, is refused") {
  const Folder folder;
  auto options = usual(folder.text());
  options.resume = true;
  const std::string path = folder.text() + "/state.safetensors";
  const auto error = [&](const nlohmann::json& change, Toy toy) {
    const std::string good = bytes(path);
    rewrite(path, [&](auto& metadata) {
      auto place = parse_json(metadata.at("place"), "place");
      place.update(change);
      metadata["place"] = place.dump();
    });
    const std::string text = message_of([&] { run(points(12), options, toy); }, &folder);
    CHECK(toy.script->steps.empty());
    folder.put("state.safetensors", good);
    return text;
  };
  run(points(12), options, {}, 4);
  for (const nlohmann::json& change :
       {nlohmann::json{{"epoch", 2}}, nlohmann::json{{"batches", 3}}, nlohmann::json{{"best_epoch", 1}}})
    CHECK(error(change, {}) == "state.safetensors: state: impossible values");
  CHECK(contains(error({{"step", -1}}, {}), "step is -1"));
  CHECK(contains(error({{"step", 7}, {"batches", 7}}, {}),
                 "is at step 7, past the last one (option epochs or option max-steps), 6"));
  for (const char* name : {"state.safetensors", "adapter.safetensors", "metrics.json", "log.jsonl"})
    fs::remove(folder.path / name);
  options.optimizer = optim::Spsa{.rate = 0.01};
  Toy probed, again;
  probed.script->training = again.script->training = false;
  run(points(12), options, probed, 4);
  CHECK(contains(error({{"step", 5000}, {"batches", 5000}}, again), "too small for its number of steps: 5000"));
}

TEST_CASE("trainer: a state is kept every so many steps, or seconds") {
  /// The step of the state that was there when the tenth broke.
  const auto kept = [](std::int64_t steps, std::optional<double> seconds) {
    const Folder folder;
    auto options = usual(folder.text());
    options.batch = 1;
    options.save_steps = steps;
    if (seconds) options.save_seconds = *seconds;
    Toy toy;
    toy.script->broken = 9;
    try {
      run(points(12), options, toy);
    } catch (const train::StepError& error) {
      return error.kept;
    }
    return std::int64_t{-1};
  };
  for (const std::int64_t every : {1, 3, 5}) CHECK(kept(every, {}) == 9 / every * every);
  CHECK(kept(100, {}) == 1);
  CHECK(kept(usual().save_steps, 1e-9) == 9);
  CHECK(kept(usual().save_steps, 1e9) == 1);
}

TEST_CASE("usage: rates are of the time since the run went on; what is left, of the steps since then") {
  train::Usage usage(4);
  usage.add(5, 0.25);
  usage.add(1, 0.5);
  train::StepReport report;
  report.step = 7, report.steps = 13;
  usage.tell(report);
  CHECK(report.seconds_left > 0);
  CHECK(report.sequences_per_second * report.seconds_left == doctest::Approx(6 * 2));
  CHECK(report.light * report.seconds_left == doctest::Approx(0.75 * 2));
}

TEST_CASE("memory: of two reports the uses where more was needed, else the higher of each") {
  using train::MemoryReport;
  const MemoryReport low{.weights = 1, .slices = 9, .needed = 10, .held = 30, .resident = {5, 6, 7}},
      high{.weights = 2, .slices = 3, .needed = 20, .held = 25, .resident = {4, 9, 8}};
  for (auto [now, other] : {std::pair{low, high}, std::pair{high, low}}) {
    now.raise(other);
    CHECK((now.weights == 2 && now.slices == 3 && now.needed == 20 && now.held == 30));
    CHECK((now.resident.own == 5 && now.resident.file == 6 && now.resident.peak == 8));
    CHECK(now.free() == 10);
  }
  CHECK(MemoryReport{.needed = 30, .held = 20}.free() == 0);
  Cpu::pool().reset_peak();
  const std::size_t before = MemoryReport::of(Cpu::pool()).slices;
  for (const Use use : {Use::activation, Use::workspace}) {
    const UseScope scope(use);
    Cpu::pool().reset_peak();
    const Tensor<float> large({1 << 16});
    CHECK(MemoryReport::of(Cpu::pool()).slices == before + (4 << 16));
  }
}

TEST_CASE("trainer: what ends the scoring does not cost the epoch") {
  const Folder folder, whole_folder;
  auto options = usual(whole_folder.text());
  const Told whole = run(points(12), options);
  options.folder = folder.text();
  options.resume = true;
  Toy toy;
  toy.script->scoring = [] { fail("dev.jpg: premature end"); };
  CHECK(message_of([&] { run(points(12), options, toy); }) == "dev.jpg: premature end");
  CHECK(toy.script->steps.size() == 3);
  const Told rest = run(points(12), options);
  CHECK(rest.starts.at(0).step == 3);
  CHECK(rest.steps.size() == 3);
  CHECK(rest.weights == whole.weights);
  CHECK(scores_of(folder) == scores_of(whole_folder));

  const Folder third;
  options.folder = third.text();
  Toy astray;
  astray.script->scoring = [] { throw NumberError("a stream left its range"); };
  const std::string text = message_of([&] { run(points(12), options, astray); });
  CHECK(contains(text, "trainer: scores after step 3 of 6, training has diverged: a stream left its range"));
  CHECK(contains(text, "state.safetensors holds step 1"));
}

TEST_CASE("trainer: scoring tells how far it is, and stops when asked") {
  const Told told = run(points(8), usual());
  CHECK(told.scoring == std::vector<std::size_t>{300, 300});
  for (const auto& step : told.steps) CHECK(step.peak_activation_bytes >= step.activation_bytes);
  std::size_t highest = 0;
  for (const auto& step : told.steps) highest = std::max(highest, step.activation_bytes);
  CHECK(highest > 0);
  CHECK(told.outcome.activation_bytes == highest);
  CHECK(told.steps.back().peak_activation_bytes == highest);

  // A step's is its highest batch's: here four rows, then one.
  const Rows equal{std::vector<Row>(5, Row{1, 2, 64})};
  auto options = usual();
  options.epochs = 1;
  const Told apart = run(equal, options);
  options.accumulate = 2;
  const Told together = run(equal, options);
  REQUIRE(apart.steps.size() == 2);
  REQUIRE(together.steps.size() == 1);
  CHECK(apart.steps[0].activation_bytes > apart.steps[1].activation_bytes);
  CHECK(together.steps[0].activation_bytes >= apart.steps[0].activation_bytes);
}

TEST_CASE("trainer: scoring takes no more examples than a batch has, and its memory counts") {
  auto options = usual();
  options.epochs = 1;
  Toy toy;
  options.batch = 3;
  run(points(8), options, toy);
  CHECK(toy.script->scored_at_once == 3);
  toy.script->scored = 0;
  options.batch = 64;
  toy.script->scoring = [] { const Tensor<double> large({1 << 16}); };
  const Told told = run(points(8), options, toy);
  CHECK(toy.script->scored_at_once == 32);
  CHECK(told.outcome.activation_bytes >= std::size_t{8} << 16);
  CHECK(told.steps.back().peak_activation_bytes < std::size_t{8} << 16);
}

TEST_CASE("trainer: wrong options are errors, and large ones mean all rows") {
  const Rows data = points(9);
  const auto with = [&](auto&& change) {
    auto options = usual();
    change(options);
    return message_of([&] { run(data, options); });
  };
  CHECK(contains(with([](auto& o) { o.batch = 0; }), "are positive"));
  CHECK(contains(with([](auto& o) { o.accumulate = 0; }), "are positive"));
  CHECK(contains(with([](auto& o) { o.epochs = 0; }), "are positive"));
  CHECK(contains(with([](auto& o) { o.max_steps = -1; }), "max_steps is not negative"));
  CHECK(contains(with([](auto& o) { o.warmup = 1; }), "in [0, 1)"));
  const char* const missing = "trainer: the main metric `recall` is none of the metrics, found: [\"accuracy\",\"f1\"]";
  CHECK(with([](auto& o) { o.main_metric = "recall", o.metrics.push_back("f1"); }) == missing);
  CHECK(contains(with([](auto& o) { o.metrics.clear(), o.epochs = 1; }), "`accuracy` is none of the metrics"));
  {
    Toy frozen;
    frozen.weight.set_trainable(false);
    CHECK(message_of([&] { run(data, usual(), frozen); }) == "trainer: nothing trains");
  }
  auto options = usual();
  options.batch = std::numeric_limits<std::size_t>::max() / 2;
  options.accumulate = 4;
  const Told told = run(data, options);
  CHECK(told.steps.size() == 2);
  options = usual();
  options.batch = 2;
  options.accumulate = std::numeric_limits<std::size_t>::max();
  const Told split = run(data, options);
  CHECK(split.steps.size() == 2);
  CHECK(split.steps[0].loss == doctest::Approx(told.steps[0].loss));
  CHECK(split.script->batches.size() == 10);
}
