// Fine-tunes a Hugging Face folder on a TSV file with ratings in column 2 and texts in column 3.
#include <cstdio>
#include <meft/checkpoints/hf.hpp>
#include <meft/data/batches.hpp>
#include <meft/meft.hpp>
#include <meft/method/registry.hpp>
#include <meft/task/encoded.hpp>
#include <meft/text/wordpiece.hpp>
using namespace meft;

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "reviews MODEL FILE\n"), 2;
  auto bert = checkpoints::hf(argv[1]);
  auto body = adapt(bert, Meft1{.bottleneck = 8, .lambda = {1, 10}});
  auto head = nn::Classifier<float>::make(bert.hidden(), 2);
  auto adam = optim::AdamW{.rate = 1e-3, .decay = 0.1}.over(body, head);
  const auto data = data::load("tsv", argv[2], {.text = "3", .label = "2", .threshold = 0.5});
  const auto reviews = task::encode(text::WordPiece(argv[1]), data.train, false, 128);
  std::uint32_t step = 0;
  for (const auto& rows : data::batches(reviews.lengths(), 16, /*seed*/ 0, /*epoch*/ 0, /*shuffle*/ true)) {
    const auto batch = task::batch_of(reviews, rows, 2, {.seed = 0, .step = step, .training = true});
    Tape tape;
    auto loss = cross_entropy(head(body(bert.embed(batch))), batch.labels);
    tape.backward(loss);
    adam.step();
    if (++step % 10 == 0) std::printf("step %u: loss %.3f\n", step, loss.value().item());
    if (step == 30) break;
  }
  return 0;
}
