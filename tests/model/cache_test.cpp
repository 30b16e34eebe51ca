// Owns: tokens that a model reads in pieces, behind what it keeps of those before, against tokens read at once: every
// causal family and every method that is for texts.
#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/method/any.hpp>

#include "golden.hpp"
#include "messages.hpp"
#include "methods.hpp"

namespace {

using namespace meft;
using Lists = std::vector<std::vector<std::int32_t>>;

nn::Batch<> batch_of(const Lists& ids) { return nn::Batch<>::pack(ids); }

/// `method` with streams in slices of a sequence or two.
AnyMethod sliced(AnyMethod method) {
  std::visit(
      [](auto& m) {
        if constexpr (MeftMethod<std::decay_t<decltype(m)>>) m.options.stack.slice_tokens = 4;
      },
      method);
  return method;
}

/// A model under a method, whose new parts are away from where they start, its layers run in small slices.
template <Real T>
struct Subject {
  model::Transformer<T> model;
  Body<T> body;

  Subject(const std::string& folder, const AnyMethod& method, const AdaptOptions& options = {})
      : model(checkpoints::hf<T>(golden() + "/" + folder)), body(adapt(model, sliced(method), options)) {
    for (auto* list : {&body.chain, &body.decoder}) list->slice_tokens = 4;
    std::uint32_t site = 900;
    const auto move = [&](const std::string&, Parameter<T>& p) {
      if (!p.defined() || !p.trainable()) return;
      Tensor<T> noise(p.shape());
      fill_normal(noise, {4, site++, 0}, 0.05);
      map(Cpu{}, Add{}, p.size(), p.value().data(), std::as_const(p).value().data(), noise.data());
    };
    nn::for_each_parameter(model, move);
    body.own(body, [&](const char* own, auto& part) { nn::walk(part, move, own); });
  }

  /// The hidden states of each sequence's tokens; a decoder's behind what it is told of the encoder's.
  Tensor<T> run(const Lists& ids, const nn::Hidden<T>* encoded, KvCache<T>* cache) const {
    const NoTape none;
    const auto batch = batch_of(ids);
    return (encoded ? model.decode(batch, *encoded, body, cache) : model.run(batch, body, cache)).value.value();
  }
};

const Lists texts{{3, 7, 1, 12, 5, 9, 2, 14}, {6, 11, 4}, {19, 5, 13, 2, 8, 10}};

/// The texts read as pieces, of which the second text has two, so that it ends before the others.
template <Real T>
void check_pieces(const std::string& folder, const AnyMethod& method, const AdaptOptions& options = {}) {
  const Subject<T> subject(folder, method, options);
  const bool decodes = subject.model.decodes();
  std::optional<nn::Hidden<T>> encoded, later;
  const Lists questions{{4, 9, 3}, {8, 2, 6, 1, 5}, {7}};
  if (decodes) {
    const NoTape none;
    encoded = subject.model.encode(batch_of(questions), subject.body);
    later = subject.model.encode(batch_of({questions[0], questions[2]}), subject.body);
  }
  const auto whole = subject.run(texts, decodes ? &*encoded : nullptr, nullptr);
  Lists entering = texts;  // a decoder reads its start token first, and the others one place later
  if (decodes)
    for (auto& text : entering) {
      text.insert(text.begin(), static_cast<std::int32_t>(subject.model.spec.decoder_start));
      text.pop_back();
    }
  const auto piece = [&](std::size_t text, std::ptrdiff_t first, std::ptrdiff_t last) {
    return std::vector<std::int32_t>(entering[text].begin() + first, entering[text].begin() + last);
  };
  KvCache<T> cache(3);
  const auto check = [&](const Lists& pieces, const std::vector<std::pair<Index, Index>>& rows) {
    const auto found = subject.run(pieces, !decodes ? nullptr : pieces.size() == 3 ? &*encoded : &*later, &cache);
    std::vector<T> expected;
    for (const auto& [first, last] : rows) {
      const auto some = whole.rows(first, last).values();
      expected.insert(expected.end(), some.begin(), some.end());
    }
    CHECK(found.values() == expected);
  };
  check({piece(0, 0, 3), piece(1, 0, 2), piece(2, 0, 1)}, {{0, 3}, {8, 10}, {11, 12}});
  check({piece(0, 3, 4), piece(1, 2, 3), piece(2, 1, 4)}, {{3, 4}, {10, 11}, {12, 15}});
  const Index others[] = {0, 2};
  cache.only(others);
  check({piece(0, 4, 5), piece(2, 4, 5)}, {{4, 5}, {15, 16}});
  check({piece(0, 5, 8), piece(2, 5, 6)}, {{5, 8}, {16, 17}});
}

}  // namespace

TEST_CASE("cache: a causal model that reads texts in pieces has the bits of one that reads them at once") {
  for (const char* folder : {"opt", "opt_post", "llama_lm", "mistral", "qwen2", "qwen3", "gemma3", "bart", "t5_gated"})
    for (const char* name : {"head", "meft1", "meft3"}) {
      CAPTURE(folder);
      CAPTURE(name);
      check_pieces<double>(folder, narrow(name));
      check_pieces<float>(folder, narrow(name), {.precision = Precision::bf16});
    }
}

TEST_CASE("cache: the same under every method that is for texts") {
  for (const auto& method : all_methods()) {
    if (method_facts(method).reads_images) continue;
    const auto name = method_name(method);
    CAPTURE(name);
    check_pieces<double>("qwen3", narrow(name));
    check_pieces<double>("bart", narrow(name));
  }
}

TEST_CASE("cache: what it can't serve is an error") {
  const Subject<double> roberta("roberta", narrow("head")), llama("llama_lm", narrow("head"));
  const auto batch = batch_of({{3, 7}}), more = batch_of({{3}, {7}});
  KvCache<double> cache(1);
  {
    const NoTape none;
    test::check_error({"expected a causal model, found", "bert"},
                      [&] { roberta.model.run(batch, roberta.body, &cache); });
    test::check_error({"offsets: other numbers of sequences"}, [&] { llama.model.run(more, llama.body, &cache); });
    // A pass that ended early has kept rows of tokens that were not read.
    const double some[] = {1, 2};
    (void)cache.behind(some, Tensor<double>::from({2, 1}, some), batch.offsets, 0);
    test::check_error({"kv cache: kept rows are not those", "0, 2"}, [&] {
      (void)cache.behind(some, Tensor<double>::from({2, 1}, some), batch.offsets, 0);
    });
  }
  Tape tape;
  test::check_error({"a cache of read tokens: under no tape"}, [&] { llama.model.run(batch, llama.body, &cache); });
  const Context<double> context{.offsets = batch.offsets, .cache = &cache};
  const auto rows = Tensor<double>::zeros({2, 1});
  test::check_error({"a cache of read tokens: under no tape"}, [&] { (void)context.behind("", Var<double>(rows)); });
  test::check_error({"a cache of read tokens: under no tape"},
                    [&] { (void)context.once("", batch.offsets, [&] { return Var<double>(rows); }); });
}

TEST_CASE("cache: positions end where the model's do, however the tokens came") {
  const Subject<double> opt("opt", narrow("head"));
  const auto& spec = opt.model.spec.embeddings;
  const auto most = static_cast<std::size_t>(spec.positions - spec.first_position);
  KvCache<double> cache(1);
  (void)opt.run({std::vector<std::int32_t>(most - 1, 5)}, nullptr, &cache);
  CHECK_NOTHROW(opt.run({{5}}, nullptr, &cache));
  test::check_error({"longer than max_position_embeddings"}, [&] { (void)opt.run({{5}}, nullptr, &cache); });
}
