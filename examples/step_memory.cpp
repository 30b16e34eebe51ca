// Memory measured: the pool's meter around a training step of a small BERT, at two depths, whose activations are
// stored, recomputed layer by layer, or come back exactly from a reversible stack.
#include <cstdio>
#include <meft/meft.hpp>
#include <meft/method/registry.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/transformer.hpp>
using namespace meft;

/// MiB that a step needs beyond weights, gradients and moments; `what` tells the parts.
template <class Method>
double measure(const char* what, Index layers, const Method& method, bool recompute) {
  const model::BertConfig config{.vocab_size = 1000,
                                 .hidden_size = 128,
                                 .num_hidden_layers = layers,
                                 .num_attention_heads = 4,
                                 .intermediate_size = 512};
  model::Transformer<float> bert(config.spec());
  bert.initialise(1);
  const auto body = adapt(bert, method, {.recompute = recompute});
  auto head = nn::Classifier<float>::make(bert.hidden(), 2);
  const auto adam = optim::AdamW{}.over(bert, head);  // makes gradients and moments
  const std::vector<std::int32_t> words(64, 7);
  auto batch = nn::Batch<>::pack(std::vector(16, words));
  batch.labels = Tensor<std::int32_t>::from({16}, std::vector<std::int32_t>(16, 1));
  batch.run = {.seed = 1, .step = 0, .training = true};
  Cpu::pool().reset_peak();
  const auto before = Cpu::pool().read().total;
  {
    Tape tape;
    tape.backward(cross_entropy(head(bert.run(batch, body)), batch.labels));
  }
  const auto reading = Cpu::pool().read();
  const auto mebibytes = [](std::size_t bytes) { return static_cast<double>(bytes) / 1048576; };
  const double all = mebibytes(reading.peak - before);
  std::printf("%-12s %2d layers: %6.1f MiB = %5.1f activations + %4.1f workspace + %4.1f streams + %4.1f digits\n",
              what, static_cast<int>(layers), all, mebibytes(reading.peak_of(Use::activation)),
              mebibytes(reading.peak_of(Use::workspace)), mebibytes(reading.peak_of(Use::streams)),
              mebibytes(reading.peak_of(Use::digits)));
  return all;
}

int main() {
  set_threads(1);  // with more, the peak depends on which slices meet
  const double stored[] = {measure("stored", 4, LowRank{}, false), measure("stored", 12, LowRank{}, false)};
  const double recomputed[] = {measure("recomputed", 4, LowRank{}, true), measure("recomputed", 12, LowRank{}, true)};
  const double reversible[] = {measure("reversible", 4, Meft1{}, false), measure("reversible", 12, Meft1{}, false)};
  const auto more = [](const double(&all)[2]) { return (all[1] - all[0]) / 8; };
  std::printf("a layer more costs %.2f, %.2f and %.2f MiB\n", more(stored), more(recomputed), more(reversible));
  return more(reversible) < more(recomputed) / 4 && more(recomputed) < more(stored) / 4 ? 0 : 1;
}
