#include "step.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include <meft/backend/device.hpp>
#include <meft/method/peft.hpp>
#include <meft/ops/loss.hpp>

#include "rate.hpp"

namespace bench {

namespace {

constexpr std::uint32_t head_site = 0xf0000000u;

template <Backend B>
Body<float, B> adapt_by_name(model::Transformer<float, B>& bert, std::string_view method, const StackOptions& stack,
                             std::uint64_t seed) {
  const auto dropout = bert.spec.embeddings.dropout;
  const MeftOptions options{.stack = stack, .dropout = dropout, .seed = seed};
  if (method == "meft1") return adapt(bert, Meft1{.options = options});
  if (method == "meft2") return adapt(bert, Meft2{.options = options});
  if (method == "meft3") return adapt(bert, Meft3{.options = options});
  const bool recompute = method.ends_with("recompute");
  const auto kind = method == "recompute" ? "full" : method.substr(0, method.find("+recompute"));
  if (kind == "full") return adapt(bert, Full{}, recompute);
  if (kind == "head") return adapt(bert, HeadOnly{}, recompute);
  if (kind == "bitfit") return adapt(bert, BitFit{}, recompute);
  if (kind == "adapter") return adapt(bert, Houlsby{.dropout = dropout, .seed = seed}, recompute);
  if (kind == "lora") return adapt(bert, LowRank{.seed = seed}, recompute);
  fail(
      "method: expected full, head, bitfit, adapter, lora, each also with +recompute, recompute, meft1, meft2 or "
      "meft3, found",
      method);
}

/// With positions enough.
model::TransformerSpec spec_of(const Setup& setup) {
  auto config = setup.config;
  config.max_position_embeddings = std::max(config.max_position_embeddings, setup.seq);
  return config.spec();
}

}  // namespace

model::BertConfig config_of(std::string_view name) {
  model::BertConfig c;
  const auto shape = [&](Index hidden, Index heads, Index ffn, Index layers) {
    c.hidden_size = hidden, c.num_attention_heads = heads, c.intermediate_size = ffn, c.num_hidden_layers = layers;
  };
  if (name == "bert-large") shape(1024, 16, 4096, 24);
  else if (name == "minilm6") shape(384, 12, 1536, 6);
  else require(name == "bert-base", "model: expected bert-base, bert-large or minilm6, found", name);
  return c;
}

double operations(const Setup& setup) {
  const auto& c = setup.config;
  const double rows = static_cast<double>(setup.batch * setup.seq), hidden = static_cast<double>(c.hidden_size);
  const double weights = 2 * rows * hidden * static_cast<double>(4 * c.hidden_size + 2 * c.intermediate_size);
  const double attention = 4 * rows * hidden * static_cast<double>(setup.seq);
  const std::string_view method = setup.method;
  const bool full = method == "full" || method == "recompute", head = method.starts_with("head");
  double added = 0;  // two modules [hidden → rank → hidden] a layer
  if (method.starts_with("lora")) added = 8 * rows * hidden * static_cast<double>(LowRank{}.rank);
  if (method.starts_with("adapter")) added = 8 * rows * hidden * static_cast<double>(Houlsby{}.bottleneck);
  if (reversible(method)) added = 8 * rows * hidden * static_cast<double>(MeftOptions{}.bottleneck);

  const double forward = weights + attention + added;
  const bool twice = reversible(method) ? setup.stack.streams != Streams::stored : method.ends_with("recompute");
  double step = forward;
  if (!head) step += (full ? 2 : 1) * weights + 2 * attention + 2 * added + (twice ? forward : 0);
  return step * static_cast<double>(c.num_hidden_layers);
}

template <Backend B>
Step<B>::Step(const Setup& setup) : setup_(setup), bert_(spec_of(setup)) {
  bert_.initialise(setup.seed);
  const Index width = bert_.hidden();
  head_.dense = nn::Linear<float, B>::normal(width, width, {setup.seed, head_site, 0});
  head_.output = nn::Linear<float, B>::normal(width, 2, {setup.seed, head_site + 1, 0});
  head_.dropout = bert_.spec.embeddings.dropout;
  head_.site = head_site + 2;
  nn::set_precision<float, B>(bert_, setup.precision);
  nn::set_precision<float, B>(head_, setup.precision);
  body_ = adapt_by_name(bert_, setup.method, setup.stack, setup.seed);
  if (setup.method != "full" && setup.method != "recompute") {  // the pooler belongs to the pre-trained weights
    nn::freeze(*head_.dense);
    head_.dense->pack();
  }
  optimizer_.emplace(optim::AdamW{.rate = 1e-4}.over<float, B>(bert_, body_, head_));
  draw_batch(0);
  B::pool().trim();
}

template <Backend B>
void Step<B>::draw_batch(std::uint32_t step) {
  const auto draw = [&](std::uint32_t site, std::uint64_t i) {
    return random_bits({setup_.seed, head_site + site, step}, i);
  };
  std::vector<std::vector<std::int32_t>> ids, types;
  std::vector<std::int32_t> labels;
  for (Index i = 0; i < setup_.batch; ++i) {
    const auto number = static_cast<std::uint64_t>(i), longest = static_cast<std::uint64_t>(setup_.seq);
    const std::uint64_t length = setup_.ragged ? 1 + draw(4, number) % longest : longest;
    ids.emplace_back();
    for (std::uint64_t j = 0; j < length; ++j)
      ids.back().push_back(static_cast<std::int32_t>(draw(3, number * longest + j) %
                                                     static_cast<std::uint32_t>(setup_.config.vocab_size)));
    types.emplace_back(length, 0);
    labels.push_back(static_cast<std::int32_t>(i % 2));
  }
  batch_ = nn::Batch<B>::pack(ids, types);
  batch_.labels = Tensor<std::int32_t, B>::from({setup_.batch}, labels);
  batch_.run = {setup_.seed, step, true};
}

template <Backend B>
float Step<B>::differentiate(Times* times) {
  const double start = now();
  Tape tape;
  auto loss = cross_entropy(head_(body_(bert_.embed(batch_))), batch_.labels);
  if (times) B::synchronize();
  const double turned = now();
  tape.backward(loss);
  if (times) B::synchronize();
  if (times) times->forward = turned - start, times->backward = now() - turned;
  return loss.value().item();
}

template <Backend B>
bool Step<B>::update() {
  if (setup_.ragged) draw_batch(batch_.run.step + 1);
  else ++batch_.run.step;
  try {
    optimizer_->step();
  } catch (const Error&) {
    optimizer_->zero_gradients();
    return false;
  }
  return true;
}

template <Backend B>
std::vector<float> Step<B>::lowest_gradient() {
  std::vector<float> out;
  for (auto& layer : bert_.layers) {
    for (auto& [name, p] : nn::trainable<float, B>(layer)) {
      const auto g = p.gradient().values();
      out.insert(out.end(), g.begin(), g.end());
    }
    if (!out.empty()) break;
  }
  return out;
}

HeapMeter::HeapMeter()
    : live(reinterpret_cast<std::int64_t (*)()>(dlsym(RTLD_DEFAULT, "heapmeter_live"))),
      peak(reinterpret_cast<std::int64_t (*)()>(dlsym(RTLD_DEFAULT, "heapmeter_peak"))),
      reset(reinterpret_cast<void (*)()>(dlsym(RTLD_DEFAULT, "heapmeter_reset"))) {}

const Times& Cost::least() const {
  return *std::min_element(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
}

double Cost::median() const {
  std::vector<double> s;
  for (const auto& t : times) s.push_back(t.step);
  std::sort(s.begin(), s.end());
  return (s[(s.size() - 1) / 2] + s[s.size() / 2]) / 2;
}

template <Backend B>
Cost measure(const Setup& setup, int warm) {
  Cost cost;
  {
    Phases phases;
    Setup timed = setup;
    timed.stack.phases = &phases;
    Step<B> step(timed);
    const HeapMeter heap;
    for (int i = 0; i <= warm; ++i) {
      const auto before = B::pool().read();
      if (heap) heap.reset();
      const std::int64_t heap_before = heap ? heap.live() : 0;
      const Measure meter(B::pool());
      phases.undo = phases.gradient = 0;
      Times times;
      const double start = now();
      step.differentiate(&times);
      if (i == 0) cost.gradient_values = step.lowest_gradient();
      const double differentiated = now();
      cost.finite &= step.update();
      B::synchronize();
      times.step = now() - start;
      times.update = now() - differentiated;
      if (phases.undo > 0)
        times.undo =
            times.backward * static_cast<double>(phases.undo) / static_cast<double>(phases.undo + phases.gradient);
      if (i == 0) continue;
      cost.times.push_back(times);
      cost.activation = std::max(cost.activation, meter.activation());
      cost.needed = std::max(cost.needed, B::pool().read().peak);
      cost.reserved = std::max(cost.reserved, B::pool().reserved());
      if (const auto resident = Resident::now(); resident.own > cost.resident.own) cost.resident = resident;
      if (heap) cost.heap = std::max(cost.heap.value_or(0), static_cast<std::size_t>(heap.peak() - heap_before));
      cost.parameter = before.of(Use::parameter);
      cost.gradient = before.of(Use::gradient);
      cost.optimizer = before.of(Use::optimizer);
    }
  }
  B::pool().trim();
  return cost;
}

double relative_error(const std::vector<float>& g, const std::vector<float>& reference) {
  require(g.size() == reference.size(), "bench: gradients of different sizes", g.size(), reference.size());
  if (g.empty() || !std::memcmp(g.data(), reference.data(), g.size() * sizeof(float))) return 0;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < g.size(); ++i) {
    const double d = static_cast<double>(g[i]) - static_cast<double>(reference[i]);
    difference += d * d;
    norm += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
  }
  if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
  return std::max(std::sqrt(difference / norm), std::numeric_limits<double>::denorm_min());
}

template class Step<Cpu>;
template Cost measure<Cpu>(const Setup&, int);
#ifdef MEFT_CUDA
template class Step<Cuda>;
template Cost measure<Cuda>(const Setup&, int);
#endif

}  // namespace bench
