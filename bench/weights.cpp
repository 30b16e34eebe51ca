// Owns: the bench of formats of frozen weights: bytes, what is lost, and the rates of both products beside those of the
// same weight in bf16, measured in turn; of a language model's checkpoint bytes, memory, seconds of a step of exact
// MEFT1 and how far its predictions are from those in float. Prints a table; writes JSON lines on request.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <exception>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/checkpoints/tokenizer.hpp>
#include <meft/io/file.hpp>
#include <meft/memory/resident.hpp>
#include <meft/method/registry.hpp>
#include <meft/optim/adamw.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/train/prepare.hpp>
#include <meft/train/steps.hpp>

#include "device.hpp"
#include "products.hpp"
#include "rate.hpp"

namespace {

using namespace meft;

struct Size {
  Index rows, in, out;
};

/// Of a format: bytes a number, the error relative to the weights' own size, GFLOP/s and those of bf16.
struct Row {
  double bits = 0, error = 0, forward = 0, backward = 0, bf16_forward = 0, bf16_backward = 0;
};

Row measure(const Size& size, Precision precision, int runs) {
  const Index rows = size.rows, in = size.in, out = size.out;
  const auto w = bench::random<Cpu>({out, in}, 0), x = bench::random<Cpu>({rows, in}, 1),
             dy = bench::random<Cpu>({rows, out}, 2);
  Tensor<float> y({rows, out}), dx({rows, in});
  const PackedWeight<float> packed(w, precision), narrow(w, Precision::bf16);
  Row row;
  row.bits = 8 * static_cast<double>(packed.bytes()) / static_cast<double>(w.size());
  const auto kept = packed.unpack();
  double lost = 0, all = 0;
  for (Index i = 0; i < w.size(); ++i) {
    const double v = static_cast<double>(w.data()[i]), d = static_cast<double>(kept.data()[i]) - v;
    lost += d * d;
    all += v * v;
  }
  row.error = std::sqrt(lost / all);
  const double operations = 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  const auto seconds = [](const auto& call) {
    const double start = bench::now();
    call();
    return bench::now() - start;
  };
  // In turn, so that whatever else the machine does meets all of them.
  double least[4];
  std::fill(std::begin(least), std::end(least), std::numeric_limits<double>::infinity());
  for (int run = 0; run <= runs; ++run) {
    const double now[] = {seconds([&] { packed.forward(rows, x.data(), nullptr, y.data()); }),
                          seconds([&] { narrow.forward(rows, x.data(), nullptr, y.data()); }),
                          seconds([&] { packed.backward(rows, dy.data(), dx.data()); }),
                          seconds([&] { narrow.backward(rows, dy.data(), dx.data()); })};
    for (int i = 0; run > 0 && i < 4; ++i) least[i] = std::min(least[i], now[i]);
  }
  row.forward = operations / least[0] * 1e-9, row.bf16_forward = operations / least[1] * 1e-9;
  row.backward = operations / least[2] * 1e-9, row.bf16_backward = operations / least[3] * 1e-9;
  return row;
}

using Model = model::Transformer<float>;
using Learner = task::LanguageLearner<Model>;

Learner load(const std::string& path, Precision precision) {
  auto model = checkpoints::hf(path, nullptr, precision);
  auto head = checkpoints::load_language_head(path, model, 0, nullptr, precision);
  freeze(head);
  return {std::move(model), {}, std::move(head)};
}

/// Blocks of `tokens` tokens: of a text, or random where there is none.
std::vector<task::Tokens> blocks_of(const std::string& path, const std::string& text, Index count, Index tokens,
                                    Index vocabulary) {
  std::vector<task::Tokens> out(static_cast<std::size_t>(count));
  task::Tokens all;
  if (!text.empty()) all = checkpoints::read_tokenizer(path).tokens(io::read_text(text).substr(0, 1 << 20));
  require(text.empty() || std::ssize(all) >= count * tokens, "--text: too short for so many tokens, found", all.size());
  for (Index i = 0; i < count * tokens; ++i)
    out[static_cast<std::size_t>(i / tokens)].push_back(
        text.empty() ? static_cast<std::int32_t>(random_bits({1, 8, 0}, static_cast<std::uint64_t>(i)) %
                                                 static_cast<std::uint32_t>(vocabulary))
                     : all[static_cast<std::size_t>(i)]);
  return out;
}

/// Mean KL divergence of q's predictions from p's, in nats a token, on what their plain layers give.
double divergence(const Learner& p, const Learner& q, const nn::Batch<>& batch) {
  const NoTape none;
  const auto hidden = [&](const Learner& l) {
    auto plain = l.model;
    return plain.run(batch, adapt(plain, HeadOnly{})).value.value();
  };
  return train::divergence(p.head, hidden(p), q.head, hidden(q));
}

/// A table of the formats of one checkpoint. The resident bytes are the process's: of one format where there is one.
void measure_model(const std::string& path, const std::string& text, const std::vector<std::string>& chosen,
                   Index batch, Index tokens, int steps, const std::string& json) {
  const auto spec = checkpoints::read_spec(checkpoints::read_config(path));
  const task::Blocks data{blocks_of(path, text, batch, tokens, spec.embeddings.vocabulary)};
  std::vector<std::uint32_t> rows(data.size());
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::uint32_t>(i);
  std::optional<Learner> wide;
  if (!text.empty()) wide = load(path, Precision::f32);
  std::printf("%s, %lld x %lld tokens, %d threads; MiB\n", path.c_str(), static_cast<long long>(batch),
              static_cast<long long>(tokens), meft::threads());
  std::printf("%-9s %9s %9s %9s %9s %9s %9s %9s %9s\n", "weights", "owned", "mapped", "activ.", "process", "files",
              "s/step", "loss", "KL");
  using bench::mib;
  std::string lines;
  for (const auto& name : chosen) {
    const std::size_t before = Cpu::pool().read().of(Use::parameter);
    auto learner = load(path, precision_from(name));
    char far[16] = "-";  // without a text there is no float model to be far from
    std::optional<double> divergent;
    if (wide) {
      divergent = divergence(*wide, learner, learner.batch(data, rows, Run{}));
      std::snprintf(far, sizeof far, "%.5f", *divergent);
    }
    const std::size_t owned = Cpu::pool().read().of(Use::parameter) - before;
    std::size_t mapped = 0;
    nn::walk(learner, [&](const std::string&, const PackedWeight<float>& w) { mapped += w.mapped_bytes(); });
    learner.body = adapt(
        learner.model, Meft1{.options = {.stack = {.readout = readout_from("plm")}, .start = AdapterStart::zero}}, {});
    (void)train::calibrate(learner, data, 1, 0);
    auto adam = optim::AdamW{.rate = 1e-4}.over<float, Cpu>(learner);
    train::Steps passes(learner);
    double seconds = 0, loss = 0;
    std::size_t activation = 0;
    for (int i = 0; i < steps; ++i) {
      const double start = bench::now();
      const auto one = passes.run(learner.batch(data, rows, Run{1, static_cast<std::uint32_t>(i), true}), [] {});
      adam.step();
      seconds = bench::now() - start, activation = std::max(activation, one.activation_bytes), loss = one.loss;
    }
    const auto resident = Resident::now();
    std::printf("%-9s %9.1f %9.1f %9.1f %9.1f %9.1f %9.2f %9.4f %9s\n", name.c_str(), mib(owned), mib(mapped),
                mib(activation), mib(resident.own), mib(resident.file), seconds, loss, far);
    std::fflush(stdout);
    if (json.empty()) continue;
    lines += nlohmann::ordered_json{{"weights", name},
                                    {"model", path},
                                    {"batch", batch},
                                    {"seq", tokens},
                                    {"owned_bytes", owned},
                                    {"mapped_bytes", mapped},
                                    {"activation_bytes", activation},
                                    {"resident_own_bytes", resident.own},
                                    {"resident_file_bytes", resident.file},
                                    {"step_seconds", seconds},
                                    {"loss", loss},
                                    {"divergence",
                                     divergent ? nlohmann::ordered_json(*divergent) : nlohmann::ordered_json()},
                                    {"isa", name_of(isa())},
                                    {"threads", meft::threads()},
                                    {"processor", bench::processor()}}
                 .dump() +
             "\n";
    io::write_atomically(json, lines);
  }
}

}  // namespace

int main(int argc, char** argv) {
  bench::ProductFlags flags{{256, 1024}, {"384x1536", "768x768", "768x3072", "3072x768", "4096x4096"}, 10};
  std::vector<std::string> chosen{"q8", "q4", "nf4"};
  std::vector<std::string> formats;
  for (const auto& kept : weights::kept) formats.emplace_back(kept.name);
  std::string model, text;
  int steps = 2;
  Index batch = 1, tokens = 256;
  CLI::App app("Formats of frozen weights: bytes, error, and products' rates beside those of bf16.");
  app.add_option("--weights", chosen, "formats a,b,c")
      ->delimiter(',')
      ->check(CLI::IsMember(formats))
      ->capture_default_str();
  flags.add(app);
  auto* const whole = app.add_option("--model", model, "a language model's checkpoint, in place of products");
  for (const char* name : {"--rows", "--shapes", "--runs"}) app.get_option(name)->excludes(whole);
  app.add_option("--text", text, "a file to predict, for the divergence from float; without, tokens are random")
      ->needs(whole);
  const auto step = [&](const char* name, auto& value, const char* meaning) {
    app.add_option(name, value, meaning)->check(CLI::PositiveNumber)->needs(whole)->capture_default_str();
  };
  step("--batch", batch, "sequences a step");
  step("--seq", tokens, "tokens of a sequence");
  step("--steps", steps, "steps, of which the last is timed");
  CLI11_PARSE(app, argc, argv);
  try {
    if (flags.threads) set_threads(flags.threads);
    require(!model.empty() || std::find(chosen.begin(), chosen.end(), "as-stored") == chosen.end(),
            "--weights as-stored: is of a checkpoint's file: --model FILE is missing");
    if (!model.empty()) return measure_model(model, text, chosen, batch, tokens, steps, flags.json), 0;
    std::printf("%s, %d threads; bits a number, error relative to the weights' size, GFLOP/s and shares of bf16's\n\n",
                bench::processor().c_str(), meft::threads());
    std::printf("%-9s %6s %6s %6s %6s %8s %9s %6s %9s %6s\n", "weights", "rows", "in", "out", "bits", "error",
                "forward", "/bf16", "backward", "/bf16");
    std::string lines;
    for (const auto& name : chosen)
      for (const auto& layer : flags.layers())
        for (const Index count : flags.rows) {
          const auto in = static_cast<long long>(layer.first), out = static_cast<long long>(layer.second);
          const auto row = measure({count, in, out}, precision_from(name), flags.runs);
          std::printf("%-9s %6lld %6lld %6lld %6.3f %8.5f %9.1f %6.3f %9.1f %6.3f\n", name.c_str(),
                      static_cast<long long>(count), in, out, row.bits, row.error, row.forward,
                      row.forward / row.bf16_forward, row.backward, row.backward / row.bf16_backward);
          std::fflush(stdout);
          if (flags.json.empty()) continue;
          lines += nlohmann::ordered_json{{"weights", name},
                                          {"rows", count},
                                          {"in", in},
                                          {"out", out},
                                          {"bits", row.bits},
                                          {"error", row.error},
                                          {"forward", row.forward},
                                          {"bf16_forward", row.bf16_forward},
                                          {"backward", row.backward},
                                          {"bf16_backward", row.bf16_backward},
                                          {"isa", name_of(isa())},
                                          {"threads", meft::threads()},
                                          {"processor", bench::processor()}}
                       .dump() +
                   "\n";
          io::write_atomically(flags.json, lines);
        }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "weights: %s\n", error.what());
    return 1;
  }
}
