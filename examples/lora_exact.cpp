// LoRA inside an exact stack: a frozen BERT's layers with low-rank updates of query and value train without stored
// activations. Losses and weights after some steps of AdamW equal, bit for bit, those of the same stack with every
// activation stored.
#include <cstdio>
#include <meft/meft.hpp>
#include <meft/method/registry.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/transformer.hpp>
using namespace meft;

/// The losses of some steps and the weights behind them, and the activations' MiB.
std::pair<std::vector<float>, double> fine_tune(Streams streams) {
  const model::BertConfig config{.vocab_size = 100, .hidden_size = 48, .intermediate_size = 192};
  model::Transformer<float> bert(config.spec());
  bert.initialise(1);
  const StackOptions stack{.streams = streams, .readout = readout_from("plm")};
  auto body = adapt(bert, Meft1{.lambda = {1, 64}, .options = {.stack = stack}, .inside = LowRank{.rank = 4}});
  auto head = nn::Classifier<float>::make(bert.hidden(), 2, {2, 0, 0});
  auto adam = optim::AdamW{.rate = 3e-3}.over(bert, head);
  std::vector<std::vector<std::int32_t>> ids(16);
  for (std::uint32_t i = 0; i < 16; ++i)
    for (std::uint32_t j = 0; j < 24 + i; ++j) ids[i].push_back(static_cast<std::int32_t>(below({3, i, 0}, j, 100)));
  auto batch = nn::Batch<>::pack(ids);  // 16 texts of random words, with random labels
  batch.labels = Tensor<std::int32_t>::from({16}, {0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0});
  std::pair<std::vector<float>, double> out;
  for (std::uint32_t step = 0; step < 8; ++step) {
    batch.run = {.seed = 4, .step = step, .training = true};  // dropout, replayed
    Cpu::pool().reset_peak();
    const auto before = Cpu::pool().read().total;
    Tape tape;
    const auto loss = cross_entropy(head(body(bert.embed(batch))), batch.labels);
    tape.backward(loss);
    out.second = static_cast<double>(Cpu::pool().read().peak - before) / 1048576;
    out.first.push_back(loss.value().item());
    adam.step();
  }
  for (auto& [name, p] : nn::trainable<float, Cpu>(bert))
    for (const float w : p.value().values()) out.first.push_back(w);
  return out;
}

int main() {
  const auto [stored, stored_memory] = fine_tune(Streams::stored);
  const auto [exact, exact_memory] = fine_tune(Streams::exact);
  std::printf("loss %.3f -> %.3f, stored %.1f MiB, exact %.1f MiB: %s\n", exact[0], exact[7], stored_memory,
              exact_memory, stored == exact ? "every bit equal" : "NOT EQUAL");
  return stored == exact && exact[7] < exact[0] && exact_memory < stored_memory / 2 ? 0 : 1;
}
