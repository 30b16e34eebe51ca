#include "step.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include <meft/backend/device.hpp>
#include <meft/ops/loss.hpp>
#include <meft/train/light.hpp>
#include <meft/train/optimizers.hpp>
#include <meft/train/steps.hpp>

#include "rate.hpp"

namespace bench {

namespace {

constexpr std::uint32_t head_site = 0xf0000000u;

constexpr std::string_view recomputed = "+recompute";

/// The method with the setup's stack, and the model's dropout in what it adds.
AnyMethod method_of(const Setup& setup, float dropout) {
  auto method = Named::of(setup.method).method;
  std::visit(
      [&](auto& m) {
        if constexpr (requires { m.options.dropout; }) m.options.dropout = dropout;
        if constexpr (requires { m.dropout; }) m.dropout = dropout;
      },
      method);
  if (auto* stack = stack_of(method)) *stack = setup.stack;
  return method;
}

/// With positions enough.
model::TransformerSpec spec_of(const Setup& setup) {
  auto config = setup.config;
  config.max_position_embeddings = std::max(config.max_position_embeddings, setup.seq);
  return config.spec();
}

}  // namespace

Named Named::of(std::string_view name) {
  if (name == recomputed.substr(1)) return {ReferenceMethod{}, true};
  const bool recompute = name.ends_with(recomputed);
  Named out{method_named(recompute ? name.substr(0, name.size() - recomputed.size()) : name), recompute};
  require(!recompute || method_facts(out.method).recomputes, "method: keeps no activations to recompute", name);
  return out;
}

std::vector<std::string> every_method() {
  std::vector<std::string> names, more, reversible;
  for (const auto& method : methods_and_insides()) {
    if (method_facts(method).reads_images) continue;  // the shapes are of texts
    const std::string name = method_title(method);
    const bool reference = std::holds_alternative<ReferenceMethod>(method);
    (method_facts(method).reversible ? reversible : names).push_back(name);
    if (reference) names.emplace_back(recomputed.substr(1));
    else if (method_facts(method).recomputes) more.push_back(name + std::string(recomputed));
  }
  names.insert(names.end(), more.begin(), more.end());
  names.insert(names.end(), reversible.begin(), reversible.end());
  return names;
}

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
  train::BatchSizes batch;
  const auto sequences = static_cast<std::size_t>(setup.batch);
  batch.tokens = Offsets::of_lengths(std::vector(sequences, static_cast<std::int32_t>(setup.seq)));
  return train::operations_of(spec_of(setup), method_of(setup, 0), Named::of(setup.method).recompute, batch, false);
}

template <Backend B>
Step<B>::Step(const Setup& setup) : setup_(setup), bert_(spec_of(setup)) {
  bert_.initialise(setup.seed);
  const Index width = bert_.hidden();
  head_.dense = nn::Linear<float, B>::normal(width, width, {setup.seed, head_site, 0});
  head_.output = nn::Linear<float, B>::normal(width, 2, {setup.seed, head_site + 1, 0});
  head_.dropout = bert_.spec.embeddings.dropout;
  head_.site = head_site + 2;
  nn::set_precision<float, B>(head_, setup.precision);
  const auto method = method_of(setup, bert_.spec.embeddings.dropout);
  body_ = adapt(bert_, method,
                {.recompute = Named::of(setup.method).recompute, .precision = setup.precision, .seed = setup.seed});
  if (!method_facts(method).trains_all) {  // the pooler belongs to the pre-trained weights
    nn::freeze(*head_.dense);
    head_.dense->pack();
  }
  draw_batch(0);
  prepare(bert_, body_, method, Preview<float, B>{1, 1, setup.seed, [this](const auto&) {
                                                    const auto& batch = parts_.front();
                                                    return cross_entropy(head_(body_(bert_.embed(batch))),
                                                                         batch.labels);
                                                  }});
  auto trained = nn::trainable<float, B>(bert_);
  for (auto& more : {nn::trainable<float, B>(body_), nn::trainable<float, B>(head_)})
    trained.insert(trained.end(), more.begin(), more.end());
  auto recipe = method_recipe(method);
  recipe.rate = std::min(1e-4, recipe.rate);
  recipe.decay = recipe.clip = 0;
  optimizer_ = train::state_over(train::optimizer_of(recipe, setup.seed), trained);
  B::pool().trim();
}

template <Backend B>
void Step<B>::draw_batch(std::uint32_t step) {
  const auto draw = [&](std::uint32_t site, std::uint64_t i) {
    return random_bits({setup_.seed, head_site + site, step}, i);
  };
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::int32_t> labels;
  for (Index i = 0; i < setup_.batch; ++i) {
    const auto number = static_cast<std::uint64_t>(i), longest = static_cast<std::uint64_t>(setup_.seq);
    const std::uint64_t length = setup_.ragged ? 1 + draw(4, number) % longest : longest;
    ids.emplace_back();
    for (std::uint64_t j = 0; j < length; ++j)
      ids.back().push_back(static_cast<std::int32_t>(draw(3, number * longest + j) %
                                                     static_cast<std::uint32_t>(setup_.config.vocab_size)));
    labels.push_back(static_cast<std::int32_t>(i % 2));
  }
  std::vector<std::int32_t> lengths;
  for (const auto& sequence : ids) lengths.push_back(static_cast<std::int32_t>(sequence.size()));
  const auto whole = Offsets::of_lengths(lengths);
  const Index longest = body_.longest_part();
  parts_.clear();
  for (const auto& [first, last] : meft::detail::cut(whole, longest ? longest : whole.tokens())) {
    const auto part = [first = first, last = last](const auto& list) {
      return std::decay_t<decltype(list)>(list.begin() + first, list.begin() + last);
    };
    auto& batch = parts_.emplace_back(nn::Batch<B>::pack(part(ids)));
    batch.labels = Tensor<std::int32_t, B>::from({last - first}, part(labels));
    batch.run = {setup_.seed, step + static_cast<std::uint32_t>(parts_.size() - 1), true};
  }
}

template <Backend B>
float Step<B>::differentiate(Times* times) {
  const train::Loss<float, B> loss_of = [&](const nn::Batch<B>& batch) {
    return cross_entropy(head_(body_(bert_.embed(batch))), batch.labels);
  };
  train::Steps<float, B> probing(loss_of, 0, optimizer_.get());
  float mean = 0;
  for (const auto& batch : parts_) {
    const double start = now();
    const float share = static_cast<float>(batch.offsets.sequences()) / static_cast<float>(setup_.batch);
    if (optimizer_->probes()) {
      mean += share * static_cast<float>(probing.run(batch, [] {}).loss);
      if (times) times->forward += now() - start;
      continue;
    }
    Tape tape;
    const auto loss = loss_of(batch);
    if (times) B::synchronize();
    const double turned = now();
    tape.backward(loss, Tensor<float, B>::full(loss.shape(), share));
    if (times) B::synchronize();
    if (times) times->forward += turned - start, times->backward += now() - turned;
    mean += share * loss.value().item();
  }
  return mean;
}

template <Backend B>
bool Step<B>::update() {
  const auto next = parts_.back().run.step + 1, count = static_cast<std::uint32_t>(parts_.size());
  if (setup_.ragged) draw_batch(next);
  else
    for (auto& batch : parts_) batch.run.step += count;
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
      if (!p.gradient().defined()) continue;
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
    cost.trained = step.trained();
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

std::optional<Setup> stored(const Setup& setup) {
  const auto [method, recompute] = Named::of(setup.method);
  auto out = setup;
  out.method = method_title(method);
  out.stack.streams = Streams::stored;
  const bool undone = method_facts(method).reversible && setup.stack.streams != Streams::stored;
  return undone || recompute ? std::optional(out) : std::nullopt;
}

template <Backend B>
std::vector<float> first_gradient(const Setup& setup) {
  Step<B> step(setup);
  step.differentiate();
  return step.lowest_gradient();
}

std::optional<double> relative_error(const std::vector<float>& g, const std::vector<float>& reference) {
  require(g.size() == reference.size(), "bench: gradients of different sizes", g.size(), reference.size());
  if (g.empty()) return std::nullopt;
  if (!std::memcmp(g.data(), reference.data(), g.size() * sizeof(float))) return 0;
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
template std::vector<float> first_gradient<Cpu>(const Setup&);
#ifdef MEFT_CUDA
template class Step<Cuda>;
template Cost measure<Cuda>(const Setup&, int);
template std::vector<float> first_gradient<Cuda>(const Setup&);
#endif

}  // namespace bench
