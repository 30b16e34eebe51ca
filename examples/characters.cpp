// A small causal transformer from scratch, on characters: `characters [TEXT FILE]` trains OPT's layers, prints the
// falling loss and a sample. The built-in text is the beginning of Sarah Josepha Hale's "Mary's Lamb" (1830).
#include <cmath>
#include <cstdio>
#include <meft/io/file.hpp>
#include <meft/meft.hpp>
#include <meft/method/registry.hpp>
#include <meft/model/opt.hpp>
#include <meft/model/transformer.hpp>
using namespace meft;

int main(int argc, char** argv) {
  const std::string text = argc > 1 ? io::read_text(argv[1])
                                    : "Mary had a little lamb, its fleece was white as snow, and everywhere that Mary "
                                      "went, the lamb was sure to go; he followed her to school one day, that was "
                                      "against the rule, it made the children laugh and play, to see a lamb at school.";
  std::vector<std::int32_t> all;
  for (const char c : text) all.push_back(static_cast<unsigned char>(c));
  constexpr std::uint32_t window = 64, rows = 4, steps = 250;
  if (all.size() <= window) return std::fprintf(stderr, "characters: fewer than %u characters\n", window + 1), 2;
  model::OptConfig config{.vocab_size = 256, .hidden_size = 64, .num_hidden_layers = 3, .num_attention_heads = 4};
  config.ffn_dim = 256, config.word_embed_proj_dim = 64, config.max_position_embeddings = window;
  model::Transformer<float> model(config.spec());
  model.initialise(1);
  const auto body = adapt(model, Full{});
  const auto head = model.language_head();
  auto adam = optim::AdamW{.rate = 3e-3, .clip = 1}.over(model);
  std::vector<float> losses;
  for (std::uint32_t step = 0; step < steps; ++step) {
    std::vector<std::vector<std::int32_t>> ids;
    std::vector<std::int32_t> next;
    for (std::uint32_t r = 0; r < rows; ++r) {
      const auto from = all.begin() + below({2, step, 0}, r, static_cast<std::uint32_t>(all.size()) - window);
      ids.push_back({from, from + window}), next.insert(next.end(), from + 1, from + window + 1);
    }
    auto batch = nn::Batch<>::pack(ids);
    batch.labels = Tensor<std::int32_t>::from({rows * window}, next);
    Tape tape;
    const auto loss = head.loss(model.run(batch, body).value, batch.labels);
    tape.backward(loss);
    adam.step();
    losses.push_back(loss.value().item());
    if (step % 50 == 0 || step + 1 == steps) std::printf("step %3u: %.3f nats a character\n", step, losses.back());
  }
  std::vector<std::int32_t> sample(all.begin(), all.begin() + 10);  // the text's beginning, and what follows
  for (std::uint64_t i = 0; i < 200; ++i) {
    const std::vector<std::int32_t> seen(sample.end() - std::min<std::ptrdiff_t>(sample.size(), window), sample.end());
    const auto logits = head.logits(model.run(nn::Batch<>::pack({seen}), body).value).value().values();
    double left = 0;  // of a random share of all likelihoods, at temperature 1/2
    for (auto l = logits.end() - 256; l != logits.end(); ++l) left += std::exp(2 * *l);
    left *= uniform(random_bits({3, 0, 0}, i));
    auto next = logits.end() - 256;
    while (next != logits.end() - 1 && (left -= std::exp(2 * *next)) > 0) ++next;
    sample.push_back(static_cast<std::int32_t>(next - logits.end() + 256));
  }
  for (const auto c : sample) std::putchar(c);
  return std::printf("\n"), losses.back() < losses[0] / 2 ? 0 : 1;
}
