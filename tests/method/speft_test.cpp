// SPEFT on a small BERT: its ends, no element and all of them; scores and masks against the dense gradient; chains,
// threads and groups; what is kept in files; merging. SparseGrad in the same places.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/checkpoints/trained.hpp>
#include <meft/method/any.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/t5.hpp>
#include <meft/model/transformer.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/nn/merge.hpp>
#include <meft/ops/loss.hpp>
#include <meft/optim/adamw.hpp>

#include "folder.hpp"
#include "messages.hpp"
#include "methods.hpp"

namespace {

using namespace meft;
using Salience = Speft::Salience;

nn::Batch<> make_batch(std::int32_t shift) {
  auto batch =
      nn::Batch<>::pack({{3, 7, 1, shift}, {19}, {5, 5, 2, 11, shift, 13}}, {{0, 0, 1, 1}, {0}, {0, 1, 1, 1, 1, 1}});
  batch.labels = Tensor<std::int32_t>::from({3}, {1, 0, 2});
  return batch;
}

/// A small BERT with a head, two batches, and what a method chooses by them.
template <Real T>
struct Small {
  model::Transformer<T> bert;
  Body<T> body;
  nn::Classifier<T> head = nn::Classifier<T>::make(12, 3, {4, 400, 0});
  std::vector<nn::Batch<>> batches{make_batch(0), make_batch(9)};

  static model::Transformer<T> made() {
    auto config = SmallBert{.layers = 2, .width = 12, .heads = 3, .inner = 16}.config();
    config.max_position_embeddings = 10;
    return away<T>(config.spec());
  }

  template <class Method>
  explicit Small(const Method& method, const AdaptOptions& options = {})
      : bert(made()), body(adapt(bert, method, options)) {
    head.dropout = 0.1f;
    head.site = 402;
  }
  /// Layers that nothing trains in, one after the other.
  static Small plain(const AdaptOptions& options = {}) {
    Small out(HeadOnly{});
    out.bert = made();
    detail::train_none(out.bert, options);
    out.body = detail::plain_body(out.bert, options);
    return out;
  }
  /// With elements chosen.
  template <class Method = Speft>
  static Small chosen(const Method& method, const AdaptOptions& options = {}) {
    Small out(method, options);
    CHECK(prepare(out.bert, out.body, method, out.preview()));
    return out;
  }

  /// Two batches of one example each, which here are whole batches.
  Preview<T> preview() {
    return {2, 1, 0, [this](std::span<const std::uint32_t> rows) { return loss(batches[rows[0]]); }};
  }
  Var<T> loss(const nn::Batch<>& batch) const { return cross_entropy(head(body(bert.embed(batch))), batch.labels); }
  static void parts(auto& self, auto&& visit) {
    visit("", self.bert);
    visit("", self.head);
  }
  /// Losses of some steps of training, with dropout.
  std::vector<T> train(int steps) {
    auto named = nn::trainable<T, Cpu>(*this);
    auto optimizer = optim::AdamW{.rate = 1e-2, .clip = 1}.template over<T, Cpu>(named);
    std::vector<T> out;
    for (int i = 0; i < steps; ++i) {
      auto batch = batches[static_cast<std::size_t>(i % 2)];
      batch.run = {6, static_cast<std::uint32_t>(i), true};
      Tape tape;
      const auto y = loss(batch);
      tape.backward(y);
      optimizer.step();
      out.push_back(y.value().item());
    }
    out.push_back(loss(batches[0]).value().item());
    return out;
  }

  std::vector<std::pair<std::string, nn::Linear<T>>> matrices() {
    std::vector<std::pair<std::string, nn::Linear<T>>> out;
    nn::walk(bert.layers, [&](const std::string& name, nn::Linear<T>& linear) { out.push_back({name, linear}); });
    return out;
  }
  /// Which elements train, by number among those of all matrices.
  std::vector<std::size_t> mask() {
    std::vector<std::size_t> out;
    std::size_t first = 0;
    for (auto& [name, linear] : matrices()) {
      if (const auto* s = linear.chosen()) {
        std::vector<std::int32_t> at(static_cast<std::size_t>(s->values.size()));
        std::iota(at.begin(), at.end(), 0);
        if (s->indices->defined()) at = s->indices->values();
        for (const auto i : at) out.push_back(first + static_cast<std::size_t>(i));
      }
      first += static_cast<std::size_t>(linear.in() * linear.out());
    }
    return out;
  }
  /// All elements of the matrices, as they are multiplied with.
  std::vector<T> weights() { return weights_of(bert); }
  static std::vector<T> weights_of(model::Transformer<T>& of) {
    std::vector<T> out;
    nn::walk(of.layers, [&](const std::string&, nn::Linear<T>& linear) {
      const auto w = (linear.packed.defined() ? linear.packed.unpack() : linear.weight.value()).values();
      out.insert(out.end(), w.begin(), w.end());
    });
    return out;
  }
};

/// The gradient of each element where everything trains: its mean over the batches, or that of its squares.
template <Real T>
std::vector<double> dense(bool squares) {
  Small<T> s(Full{});
  std::vector<double> out;
  for (const auto& batch : s.batches) {
    for (auto& [name, p] : nn::trainable<T, Cpu>(s)) p.gradient() = {};
    Tape tape;
    tape.backward(s.loss(batch));
    std::size_t at = 0;
    for (auto& one : s.matrices())
      for (const T g : one.second.weight.gradient().values()) {
        if (at == out.size()) out.push_back(0);
        out[at++] += squares ? static_cast<double>(g * g) / 2 : static_cast<double>(g) / 2;
      }
  }
  return out;
}

std::vector<std::size_t> highest(const std::vector<double>& scores, std::size_t first, std::size_t last, double share) {
  std::vector<std::size_t> order(last - first);
  std::iota(order.begin(), order.end(), first);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  order.resize(static_cast<std::size_t>(std::llround(share * static_cast<double>(last - first))));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace

TEST_CASE("speft: without elements it is training of the head, with all of them that of the matrices, bit for bit") {
  const auto ends = []<Real T>(T) {
    for (const bool recompute : {false, true}) {
      const AdaptOptions options{.recompute = recompute};
      auto none = Small<T>::chosen({.density = 0}, options);
      CHECK(none.train(4) == Small<T>::plain(options).train(4));

      auto all = Small<T>::chosen({.density = 1}, options);
      Small<T> full(Full{});
      freeze(full.bert);
      for (auto& [name, linear] : full.matrices()) linear.weight.set_trainable(true);
      CHECK(all.train(4) == full.train(4));
      CHECK(all.weights() == full.weights());
    }
  };
  ends(float{});
  ends(double{});
}

/// Training of some steps by a state that is kept, from a step on.
template <Real T>
void go_on(Small<T>& s, optim::AdamWState<T, Cpu>& optimizer, std::uint32_t first, std::uint32_t last) {
  for (std::uint32_t i = first; i < last; ++i) {
    auto batch = s.batches[i % 2];
    batch.run = {6, i, true};
    Tape tape;
    tape.backward(s.loss(batch));
    optimizer.step();
  }
}

TEST_CASE("speft: chosen anew, what was learned stays; files bring it back, and what was there before") {
  for (int kind = 0; kind < 4; ++kind) {
    const auto precision = kind % 2 ? Precision::bf16 : Precision::f32;
    const double density = kind < 2 ? 0.1 : 1;
    CAPTURE(density);
    const Speft method{.density = density, .every = 2};
    const AdaptOptions options{.precision = precision};
    auto s = Small<float>::chosen(method, options);
    const auto plain = Small<float>(method, options).weights();
    auto optimizer = optim::AdamW{.rate = 3e-2}.over<float>(s);
    const test::Folder folder;
    const auto write = [&](const std::string& name) {
      checkpoints::save_trained(folder.text() + "/" + name, nn::trainable<float, Cpu>(s), {}, nn::indices<Cpu>(s));
    };
    go_on(s, optimizer, 0, 2);
    write("first");
    const auto first = s.mask();
    const auto last = s.loss(s.batches[0]).value().item();
    const auto before = s.weights();
    CHECK(before != plain);
    for (int twice = 0; twice < 2; ++twice) {  // the second time there is nothing new to keep
      CHECK(prepare(s.bert, s.body, method, s.preview()));
      CHECK(s.weights() == before);
      CHECK((s.mask() == first) == (density == 1));
      CHECK(s.mask().size() == first.size());
    }
    const auto held = nn::indices<Cpu>(s);
    CHECK(std::count_if(held.begin(), held.end(), [](const auto& one) { return one.first.ends_with("held_values"); }) >
          0);
    CHECK(s.loss(s.batches[0]).value().item() == last);
    std::vector<std::string> anew;
    for (const auto& one : nn::trainable<float, Cpu>(s))
      if (one.first.ends_with("sparse.values")) anew.push_back(one.first);
    optimizer.follow(nn::trainable<float, Cpu>(s), anew);
    go_on(s, optimizer, 2, 4);
    write("second");
    const auto bits = s.loss(s.batches[1]).value().item();  // which writes what trains into the weights
    const auto after = s.weights();
    CHECK(after != before);

    const auto load = [&](Small<float>& to, const std::string& name) {
      const io::Safetensors file(folder.text() + "/" + name);
      checkpoints::choose_as_in<float, Cpu>(file, to);
      checkpoints::load_trained(file, nn::trainable<float, Cpu>(to), nn::indices<Cpu>(to));
    };
    Small<float> other(method, options);
    load(other, "second");
    CHECK(other.mask() == s.mask());
    CHECK(other.loss(s.batches[1]).value().item() == bits);
    CHECK(other.weights() == after);
    load(other, "first");  // what the second alone changed goes
    CHECK(other.mask() == first);
    CHECK(other.loss(s.batches[0]).value().item() == last);
    CHECK(other.weights() == before);
    load(s, "second");
    auto merged = s.bert;
    nn::merge_updates<float, Cpu>(merged);
    CHECK(Small<float>::weights_of(merged) == after);
  }
}

// The first step behind a choice is that of a new optimizer: of 1 − β the moments' shares cancel.
TEST_CASE(
    "speft: moments of what is chosen anew begin anew, a head's go on; decay goes to the start, and not to zero") {
  for (const double density : {0.1, 1.0}) {
    CAPTURE(density);
    const Speft method{.density = density, .every = 2, .decays = true};
    auto s = Small<double>::chosen(method);
    auto optimizer = optim::AdamW{.rate = 1e-2, .decay = 0.5}.over<double>(s);
    go_on(s, optimizer, 0, 2);
    CHECK(prepare(s.bert, s.body, method, s.preview()));
    std::vector<std::string> anew;
    auto named = nn::trainable<double, Cpu>(s);
    for (const auto& one : named)
      if (one.first.ends_with("sparse.values")) anew.push_back(one.first);
    REQUIRE(!anew.empty());
    optimizer.follow(named, anew);
    std::vector<std::vector<double>> values;
    for (const auto& one : named) values.push_back(one.second.value().values());
    go_on(s, optimizer, 2, 3);
    for (std::size_t i = 0; i < named.size(); ++i) {
      if (!named[i].first.ends_with("sparse.values")) continue;
      const auto now = named[i].second.value().values();
      for (std::size_t j = 0; j < now.size(); ++j)
        if (now[j] != values[i][j]) CHECK(std::fabs(now[j] - values[i][j]) == doctest::Approx(1e-2).epsilon(1e-3));
    }
    // Without a gradient a value goes back to where it started: by rate·decay of what it is away.
    std::size_t at = 0;
    while (named[at].first != anew[0]) ++at;
    auto p = named[at].second;
    const auto start = p.anchor().values();
    CHECK(start == values[at]);
    auto plain = optim::AdamW{.rate = 0.1, .decay = 0.5}.over<double>(named);
    const auto away = p.value().values();
    plain.step();
    const auto now = p.value().values();
    for (std::size_t j = 0; j < now.size(); ++j)
      CHECK(now[j] == doctest::Approx(away[j] + 0.05 * (start[j] - away[j])).epsilon(1e-12));
  }
}

TEST_CASE("speft: the mask is one sort of the scores of the dense gradient, of equals the first") {
  const auto mean = dense<float>(false), squares = dense<float>(true);
  const auto w = Small<float>(Full{}).weights();
  for (const auto salience :
       {Salience::gradient, Salience::snip, Salience::force, Salience::taylor, Salience::magnitude, Salience::fisher}) {
    CAPTURE(name_at(Speft::saliences, static_cast<std::size_t>(salience)));
    std::vector<double> scores;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double g = mean[i], x = static_cast<double>(w[i]);
      scores.push_back(salience == Salience::gradient    ? std::fabs(g)
                       : salience == Salience::snip      ? std::fabs(g * x)
                       : salience == Salience::force     ? -g * x
                       : salience == Salience::taylor    ? g * x * (g * x)
                       : salience == Salience::magnitude ? std::fabs(x)
                                                         : squares[i]);
    }
    const auto global = highest(scores, 0, scores.size(), 0.1);
    std::vector<std::size_t> local;
    Small<float> shapes(HeadOnly{});
    std::size_t first = 0;
    for (auto& one : shapes.matrices()) {
      const auto size = static_cast<std::size_t>(one.second.in() * one.second.out());
      const auto more = highest(scores, first, first + size, 0.1);
      local.insert(local.end(), more.begin(), more.end());
      first += size;
    }
    CHECK(Small<float>::chosen({.density = 0.1, .salience = salience}).mask() == global);
    CHECK(Small<float>::chosen({.density = 0.1, .salience = salience, .local = true}).mask() == local);
  }
  // Where all scores are equal, the first.
  detail::Highest equal(3);
  for (std::uint64_t i = 0; i < 200000; ++i) equal.add(0.5, i);
  CHECK(equal.numbers() == std::vector<std::uint64_t>{0, 1, 2});
}

TEST_CASE("speft: scores that need every matrix at once") {
  // GRaSP against differences of the dense gradient along itself, element by element.
  const auto g = dense<double>(false);
  std::vector<double> moved[2];
  for (const int side : {0, 1}) {
    Small<double> s(Full{});
    const double epsilon = side ? -1e-5 : 1e-5;
    std::size_t at = 0;
    for (auto& one : s.matrices()) {
      auto& p = one.second.weight;
      for (Index i = 0; i < p.size(); ++i) p.value().data()[i] += epsilon * g[at++];
    }
    for (const auto& batch : s.batches) {
      Tape tape;
      tape.backward(s.loss(batch));
    }
    for (auto& one : s.matrices()) {
      const auto values = one.second.weight.gradient().values();
      moved[side].insert(moved[side].end(), values.begin(), values.end());
    }
  }
  const auto w = Small<double>(Full{}).weights();
  std::vector<double> scores;
  for (std::size_t i = 0; i < w.size(); ++i) scores.push_back(-w[i] * (moved[0][i] - moved[1][i]));
  auto expected = highest(scores, 0, scores.size(), 0.1);
  auto found = Small<double>::chosen({.density = 0.1, .salience = Salience::grasp}).mask();
  std::vector<std::size_t> common;
  std::set_intersection(expected.begin(), expected.end(), found.begin(), found.end(), std::back_inserter(common));
  CHECK(common.size() >= expected.size() * 97 / 100);  // differences of other steps

  // SynFlow leaves everything as it was, and asks for no example.
  const Speft flow{.density = 0.1, .salience = Salience::synflow};
  Small<double> s(flow);
  const auto before = s.loss(s.batches[0]).value().item();
  CHECK(prepare(s.bert, s.body, flow, Preview<double>{0, 1, 0, {}}));
  CHECK(s.mask().size() == expected.size());
  CHECK(s.weights() == w);
  CHECK(s.loss(s.batches[0]).value().item() == before);
}

TEST_CASE("speft: synflow inside a stack is that of the layers, whatever the range; of T5 by differences") {
  model::LlamaConfig config;
  config.vocab_size = 20;
  config.hidden_size = 12;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 3;
  config.num_key_value_heads = 3;
  config.head_dim = config.rotary.rotated = 4;
  config.intermediate_size = 16;
  const Speft flow{.density = 0.1, .salience = Salience::synflow};
  const auto mask = [&](const AnyMethod& method) {
    model::Transformer<float> llama(config.spec());
    llama.initialise(4);
    std::uint32_t site = 500;
    nn::for_each_parameter(llama, [&](const std::string&, Parameter<float>& p) {
      if (p.shape().rank() > 1) fill_normal(p.value(), {4, site++, 0}, 3);
    });
    const auto body = adapt(llama, method);
    CHECK(prepare(llama, body, method, Preview<float>{0, 1, 0, {}}));
    std::vector<std::vector<std::int32_t>> out;
    nn::walk(llama.layers, [&](const std::string&, nn::Linear<float>& linear) {
      out.push_back(linear.chosen() ? linear.chosen()->indices->values() : std::vector<std::int32_t>());
    });
    return out;
  };
  CHECK(mask(Meft1{.inside = flow}) == mask(flow));

  model::T5Config small;
  small.vocab_size = 20;
  small.d_model = 12;
  small.d_kv = 4;
  small.d_ff = 16;
  small.num_layers = small.num_decoder_layers = 1;
  small.num_heads = 3;
  model::Transformer<double> t5(small.spec()), by_hand(small.spec());
  for (auto* one : {&t5, &by_hand}) {
    one->initialise(4);
    fill_normal(one->encoder_norm->weight.value(), {4, 6, 0}, 1.0);
  }
  const auto body = adapt(t5, flow);
  const Preview<double> preview{0, 1, 0, {}};
  detail::Scoring<double, Cpu> scoring(t5, body, flow, preview);
  std::vector<std::vector<double>> scores;
  const auto before = t5.encoder_norm->weight.value().values();
  CHECK(scoring.score([&](std::size_t, const std::vector<double>& of) { scores.push_back(of); }));
  CHECK(t5.encoder_norm->weight.value().values() == before);
  const auto plain = adapt(by_hand, Full{});
  nn::for_each_parameter(by_hand, [&](const std::string&, Parameter<double>& p) {
    for (Index i = 0; i < p.size(); ++i) p.value().data()[i] = std::fabs(p.value().data()[i]);
  });
  const auto r = [&] {
    const Var<double> one = Tensor<double>::full({1, 12}, 1.0);
    const Offsets row({0, 1});
    const auto encoded = (*by_hand.encoder_norm)(plain.chain({one, {row}}).value);
    return sum(plain.decoder({one, {row, {}, 0, {{encoded, row}}}}).value).value().item();
  };
  std::size_t at = 0;
  detail::for_each_layer(by_hand, [&](auto& layer) {
    nn::walk(layer, [&](const std::string& name, nn::Linear<double>& linear) {
      CAPTURE(name);
      const auto& of = scores.at(at++);
      for (std::size_t j = 0; j < of.size(); j += 11) {
        double& w = linear.weight.value().data()[j];
        const double was = w;
        w = was + 1e-6;
        const double up = r();
        w = was - 1e-6;
        const double down = r();
        w = was;
        CHECK(of[j] == doctest::Approx(std::fabs(was * (up - down) / 2e-6)).epsilon(1e-5).scale(1e-4));
      }
    });
  });
  CHECK(at == scores.size());
}

TEST_CASE("speft: scores, mask, values and losses do not depend on chain, threads and groups") {
  const Speft method{.density = 0.05};
  auto usual = Small<float>::chosen(method);
  const auto mask = usual.mask();
  const auto losses = usual.train(4);
  const auto weights = usual.weights();
  for (const int count : {1, 2})
    for (const bool recompute : {false, true})
      for (const Index at_once : {1, 400, 1 << 20}) {
        set_threads(count);
        auto other = method;
        other.at_once = at_once;
        auto s = Small<float>::chosen(other, {.recompute = recompute});
        CHECK(s.mask() == mask);
        CHECK(s.train(4) == losses);
        CHECK(s.weights() == weights);
      }
  set_threads(1);

  // In a stack: exact streams against stored ones, the scores themselves.
  const auto stacked = [&](Streams streams, int count) {
    set_threads(count);
    Small<float> s(method);
    s.body.chain =
        couple(s.bert.layers,
               Meft1{.bottleneck = 4,
                     .options = {.stack = {.streams = streams, .slice_tokens = 5}, .start = AdapterStart::paper}},
               {.seed = 3});
    std::vector<double> out;
    const auto preview = s.preview();
    detail::Scoring<float, Cpu> scoring(s.bert, s.body, method, preview);
    CHECK(scoring.score(
        [&](std::size_t, const std::vector<double>& scores) { out.insert(out.end(), scores.begin(), scores.end()); }));
    CHECK(prepare(s.bert, s.body, method, preview));
    for (const auto at : s.mask()) out.push_back(static_cast<double>(at));
    for (const float x : s.train(4)) out.push_back(static_cast<double>(x));
    return out;
  };
  const auto exact = stacked(Streams::exact, 1);
  CHECK(*std::max_element(exact.begin(), exact.end()) > 0);
  CHECK(stacked(Streams::stored, 1) == exact);
  CHECK(stacked(Streams::exact, 2) == exact);
  set_threads(1);
}

TEST_CASE("speft: elements outside of the mask keep their bits, and merging changes no bit of what is computed") {
  for (const auto precision : {Precision::f32, Precision::bf16}) {
    const AdaptOptions options{.precision = precision};
    const Speft method{.density = 0.05};
    const auto before = Small<float>(HeadOnly{}, options).weights();
    auto s = Small<float>::chosen(method, options);
    CHECK(s.weights() == before);
    CHECK(s.train(0) == Small<float>(HeadOnly{}, options).train(0));
    s.train(6);
    const auto mask = s.mask();
    const auto after = s.weights();
    std::size_t changed = 0;
    for (std::size_t i = 0; i < after.size(); ++i) {
      if (after[i] == before[i]) continue;
      ++changed;
      CHECK(std::binary_search(mask.begin(), mask.end(), i));
    }
    CHECK(changed > mask.size() / 2);
    const auto loss = s.loss(s.batches[0]).value().item();
    nn::merge_updates<float, Cpu>(s.bert);
    CHECK(s.weights() == after);
    s.body = adapt(s.bert, HeadOnly{});
    CHECK(s.loss(s.batches[0]).value().item() == loss);
  }
}

TEST_CASE("speft: files have the elements and their values; stopping leaves nothing chosen") {
  const test::Folder folder;
  const std::string path = (folder.path / "adapter.safetensors").string();
  for (const double density : {0.05, 1.0}) {
    auto s = Small<float>::chosen({.density = density});
    s.train(3);
    const auto loss = s.loss(s.batches[0]).value().item();
    checkpoints::save_trained(path, nn::trainable<float, Cpu>(s), {{"format", "x"}}, nn::indices<Cpu>(s));
    const io::Safetensors file(path);
    Small<float> other(Speft{});
    CHECK(checkpoints::may_choose<float, Cpu>(other));
    checkpoints::choose_as_in<float, Cpu>(file, other);
    CHECK(other.mask() == s.mask());
    checkpoints::load_trained(file, nn::trainable<float, Cpu>(other), nn::indices<Cpu>(other));
    CHECK(other.loss(s.batches[0]).value().item() == loss);
    if (density == 1) continue;
    auto elsewhere = Small<float>::chosen({.density = density, .salience = Salience::magnitude});
    CHECK_THROWS_AS(checkpoints::load_trained(file, nn::trainable<float, Cpu>(elsewhere), nn::indices<Cpu>(elsewhere)),
                    Error);
    for (const std::vector<std::int32_t>& wrong : {std::vector<std::int32_t>{3, 3}, {-1, 5}, {0, 144}}) {
      const std::string name = "encoder.layer.0.attention.self.query.sparse";
      nn::Named<float, Cpu> values{{name + ".values", Parameter<float>::zeros({2})}};
      nn::Indices<Cpu> indices{{name + ".indices", Tensor<std::int32_t>::from({2}, wrong)}};
      checkpoints::save_trained(path + ".bad", values, {}, indices);
      CHECK_THROWS_WITH_AS((checkpoints::choose_as_in<float, Cpu>(io::Safetensors(path + ".bad"), other)),
                           doctest::Contains("ascending indices below 144"), Error);
    }
  }
  Small<float> s(Speft{});
  auto preview = s.preview();
  preview.stop = [](std::size_t done, std::size_t of) {
    CHECK(of == 2);
    return done == 1;
  };
  const auto weights = s.weights();
  CHECK_FALSE(prepare(s.bert, s.body, Speft{.density = 0.1}, preview));
  CHECK(s.mask().empty());
  CHECK(s.weights() == weights);
  preview.stop = {};
  preview.loss = [&](std::span<const std::uint32_t>) {
    return s.loss(s.batches[0]) * std::numeric_limits<float>::infinity();
  };
  CHECK_THROWS_WITH_AS(prepare(s.bert, s.body, Speft{.density = 0.1}, preview), doctest::Contains("not finite"), Error);
  CHECK(s.mask().empty());
}

TEST_CASE("sparsegrad: bases, mask and gradients are those of whole gradients; files have them") {
  const SparseGrad method{.density = 0.1};
  auto s = Small<double>::chosen(method);
  const auto again = Small<double>::chosen(method, {.recompute = true}).mask();
  CHECK(s.mask() == again);

  Small<double> full(Full{});
  std::vector<std::vector<Tensor<double>>> gradients;  // of each batch, of each matrix
  for (const auto& batch : s.batches) {
    Tape tape;
    tape.backward(full.loss(batch));
    auto& of = gradients.emplace_back();
    for (auto& one : full.matrices()) of.push_back(std::exchange(one.second.weight.gradient(), {}));
  }
  const auto start = s.weights();
  CHECK(start == Small<double>(HeadOnly{}).weights());  // S is zero
  {
    Tape tape;
    tape.backward(s.loss(s.batches[0]));
  }
  // Bases of both layers' gradients of a kind, whose sums they diagonalise: their eigenvalues descend.
  struct Kind {
    Tensor<double> out{}, in{};                // the sums
    Basis<double> all{};                       // every vector
    std::vector<std::size_t> rows, columns{};  // which of them are there
  };
  auto matrices = s.matrices();
  std::map<const void*, Kind> kinds;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const auto* sparse = std::get_if<nn::Sparse<double>>(&matrices[i].second.update);
    if (!sparse) continue;
    auto& kind = kinds[sparse->turned->basis.get()];
    for (const auto& of : gradients) {
      accumulate(kind.out, gemm(of[i], t(of[i])));
      accumulate(kind.in, gemm(t(of[i]), of[i]));
    }
  }
  CHECK(kinds.size() == 2);  // up and down
  for (const auto& one : matrices) {
    const auto* sparse = std::get_if<nn::Sparse<double>>(&one.second.update);
    if (!sparse || !sparse->turned->first) continue;
    auto& kind = kinds[sparse->turned->basis.get()];
    const auto check = [](const Tensor<double>& gram, const Tensor<double>& some, std::vector<std::size_t>& which) {
      const auto v = meft::detail::eigenvector_columns(gram);
      const auto n = static_cast<std::size_t>(v.dim(0)), count = static_cast<std::size_t>(some.dim(1));
      const auto unit = gemm(t(v), v).values(), values = gemm(gemm(t(v), gram), v).values();
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) {
          CHECK(std::fabs(unit[i * n + j] - (i == j)) < 1e-12);
          if (i != j) CHECK(std::fabs(values[i * n + j]) < 1e-12 * values[0]);
          else if (i) CHECK(values[i * n + i] <= values[(i - 1) * n + i - 1] + 1e-12 * values[0]);
        }
      const auto same = gemm(t(some), v).values();  // [count, n]
      for (std::size_t j = 0; j < count; ++j)
        for (std::size_t i = 0; i < n; ++i)
          if (std::fabs(same[j * n + i] - 1) < 1e-9) which.push_back(i);
      CHECK(which.size() == count);
      CHECK(std::is_sorted(which.begin(), which.end()));
      return v;
    };
    kind.all = {check(kind.out, sparse->basis().out, kind.rows), check(kind.in, sparse->basis().in, kind.columns)};
  }
  // The mask has the largest elements of gradients in them, and what trains has its elements' gradients.
  std::vector<std::pair<double, std::size_t>> sizes;  // of all elements that may be chosen, by number
  std::vector<std::size_t> mask;
  std::size_t first = 0;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const auto& linear = matrices[i].second;
    CAPTURE(matrices[i].first);
    const auto* sparse = std::get_if<nn::Sparse<double>>(&linear.update);
    if (!sparse) continue;
    const auto& kind = kinds[sparse->turned->basis.get()];
    const auto in = static_cast<std::size_t>(linear.in()), size = in * static_cast<std::size_t>(linear.out());
    const auto turned = [&](const Tensor<double>& g) { return gemm(gemm(t(kind.all.out), g), kind.all.in).values(); };
    std::vector<double> sum(size);
    for (const auto& of : gradients) {
      const auto g = turned(of[i]);
      for (std::size_t j = 0; j < size; ++j) sum[j] += std::fabs(g[j]);
    }
    for (std::size_t j = 0; j < size; ++j) sizes.push_back({-sum[j], first + j});
    if (const auto* chosen = linear.chosen()) {
      const auto g = turned(gradients[0][i]), dv = chosen->values.gradient().values();
      const auto at = chosen->indices->values();
      for (std::size_t m = 0; m < at.size(); ++m) {
        const auto place = static_cast<std::size_t>(at[m]), c = kind.columns.size();
        const std::size_t j = kind.rows.at(place / c) * in + kind.columns[place % c];
        mask.push_back(first + j);
        CHECK(dv[m] == doctest::Approx(g[j]).epsilon(1e-9).scale(1e-3));
      }
    }
    first += size;
  }
  CHECK(mask.size() == static_cast<std::size_t>(std::llround(0.1 * static_cast<double>(sizes.size()))));
  std::sort(sizes.begin(), sizes.end());
  std::vector<std::size_t> largest;
  for (std::size_t m = 0; m < mask.size(); ++m) largest.push_back(sizes[m].second);
  std::sort(largest.begin(), largest.end());
  CHECK(largest == mask);

  const test::Folder folder;
  const std::string path = (folder.path / "adapter.safetensors").string();
  for (const double density : {0.1, 0.002}) {  // of some matrices none
    auto run = Small<double>::chosen(SparseGrad{.density = density});
    run.train(4);
    const auto w = run.weights();
    const auto loss = run.loss(run.batches[0]).value().item();
    CHECK(w != start);
    // W = W_0 + V_o·S·V_iᵀ
    for (auto& [name, linear] : run.matrices()) {
      const auto* chosen = linear.chosen();
      if (!chosen) continue;
      const auto& [out, in] = chosen->basis();
      const Index r = out.dim(1), c = in.dim(1);
      CHECK((density > 0.01 || (r < linear.out() && c < linear.in())));
      auto all = Tensor<double>::zeros({r * c});
      const auto at = chosen->indices->values();
      for (std::size_t m = 0; m < at.size(); ++m) all.data()[at[m]] = chosen->values.value().values()[m];
      const auto change = gemm(gemm(out, all.reshape({r, c})), t(in)).values();
      const auto before = chosen->turned->start.values(), now = linear.packed.unpack().values();
      for (std::size_t j = 0; j < now.size(); ++j) CHECK(std::fabs(now[j] - before[j] - change[j]) < 1e-12);
    }
    checkpoints::save_trained(path, nn::trainable<double, Cpu>(run), {{"format", "x"}}, nn::indices<Cpu>(run));
    const io::Safetensors file(path);
    Small<double> other(method);
    checkpoints::choose_as_in<double, Cpu>(file, other);
    checkpoints::load_trained(file, nn::trainable<double, Cpu>(other), nn::indices<Cpu>(other));
    CHECK(other.loss(run.batches[0]).value().item() == loss);
    CHECK(other.weights() == w);
    CHECK(other.mask() == run.mask());
    auto indices = nn::indices<Cpu>(run);
    if (density < 0.01) {
      std::erase_if(indices, [](const auto& one) { return one.first.ends_with("sparse.indices"); });
      checkpoints::save_trained(path + ".bad", nn::trainable<double, Cpu>(run), {}, indices);
      CHECK_THROWS_WITH_AS((checkpoints::choose_as_in<double, Cpu>(io::Safetensors(path + ".bad"), other)),
                           doctest::Contains("sparse.indices is missing: the basis has not all vectors"), Error);
    }
    std::erase_if(indices, [](const auto& one) { return one.first.ends_with("basis_out"); });
    checkpoints::save_trained(path + ".bad", nn::trainable<double, Cpu>(run), {}, indices);
    CHECK_THROWS_WITH_AS((checkpoints::choose_as_in<double, Cpu>(io::Safetensors(path + ".bad"), other)),
                         doctest::Contains("the basis of these is not there"), Error);
  }
}

TEST_CASE("speft: scores are of as many examples as are asked for, drawn by the seed, by batches or one by one") {
  using Rows = std::vector<std::vector<std::uint32_t>>;
  const auto seen = [](const Speft& method, std::uint64_t seed) {
    Small<float> s(method);
    Rows out;
    const auto loss = [&](std::span<const std::uint32_t> rows) {
      out.emplace_back(rows.begin(), rows.end());
      return s.loss(s.batches[0]);
    };
    CHECK(prepare(s.bert, s.body, method, Preview<float>{20, 4, seed, loss}));
    return out;
  };
  const auto joined = [](const Rows& batches) {
    std::vector<std::uint32_t> out;
    for (const auto& one : batches) out.insert(out.end(), one.begin(), one.end());
    return out;
  };
  const auto distinct = [](std::vector<std::uint32_t> rows) {
    std::sort(rows.begin(), rows.end());
    return std::adjacent_find(rows.begin(), rows.end()) == rows.end() && rows.back() < 20;
  };
  const Speft some{.density = 0.1, .examples = 10}, each{.density = 0.1, .salience = Salience::fisher, .examples = 10};
  const auto batches = seen(some, 1);
  REQUIRE(batches.size() == 3);
  CHECK((batches[0].size() == 4 && batches[1].size() == 4 && batches[2].size() == 2));
  CHECK(distinct(joined(batches)));
  CHECK(*std::max_element(batches[0].begin(), batches[0].end()) > 9);  // not the first ones
  CHECK(seen(some, 1) == batches);
  CHECK(seen(some, 2) != batches);
  const auto alone = seen(each, 1);
  CHECK(alone.size() == 10);
  CHECK(joined(alone) == joined(batches));
  const auto all = joined(seen({.density = 0.1}, 1));
  CHECK((all.size() == 20 && distinct(all)));
}

namespace {

void write(const std::string& path, auto& s) {
  checkpoints::save_trained(path, nn::trainable<float, Cpu>(s), {}, nn::indices<Cpu>(s));
}
void read(const std::string& path, auto& to) {
  const io::Safetensors file(path);
  checkpoints::choose_as_in<float, Cpu>(file, to);
  checkpoints::load_trained(file, nn::trainable<float, Cpu>(to), nn::indices<Cpu>(to));
  (void)to.loss(to.batches[0]);  // writes what trains into the weights
}

}  // namespace

TEST_CASE("speft, sparsegrad: a file read into a model that trained gives what it gives a fresh one") {
  const test::Folder folder;
  const std::string first = folder.text() + "/first", second = folder.text() + "/second";
  const auto check = [&](const auto& one, const auto& two, const AdaptOptions& options) {
    auto a = Small<float>::chosen(one, options), b = Small<float>::chosen(two, options);
    for (auto* s : {&a, &b}) s->train(6);
    write(first, a);
    write(second, b);
    const auto weights = b.weights();
    Small<float> fresh(two, options), again(two, options);
    read(second, fresh);
    CHECK(fresh.weights() == weights);
    for (const auto& path : {first, second, second}) read(path, again);
    CHECK(again.weights() == weights);
    CHECK(again.mask() == b.mask());
    again.train(3);
    read(second, again);
    CHECK(again.weights() == weights);
  };
  for (const auto precision : {Precision::f32, Precision::bf16}) {
    const AdaptOptions options{.precision = precision};
    for (const double density : {0.05, 1.0})
      check(Speft{.density = density}, Speft{.density = 0.1, .salience = Salience::magnitude}, options);
    check(SparseGrad{.density = 0.05}, SparseGrad{.density = 0.1}, options);
    check(SparseGrad{.density = 1}, SparseGrad{.density = 0.1}, options);
  }
}

TEST_CASE("speft, sparsegrad: a second choice keeps what was learned, or begins anew") {
  const test::Folder folder;
  const std::string path = folder.text() + "/adapter";
  for (const double density : {0.05, 1.0}) {
    auto s = Small<float>::chosen({.density = density});
    s.train(6);
    const auto learned = s.weights();
    const Speft other{.density = 0.1, .salience = Salience::magnitude};
    CHECK(prepare(s.bert, s.body, other, s.preview()));
    CHECK(s.weights() == learned);
    s.train(6);
    write(path, s);
    Small<float> fresh(other);
    read(path, fresh);
    CHECK(fresh.weights() == s.weights());
  }
  for (const double density : {0.05, 1.0}) {
    const SparseGrad method{.density = density};
    auto s = Small<float>::chosen(method);
    const auto plain = s.weights();
    const auto count = s.mask().size();
    for (int twice = 0; twice < 2; ++twice) {
      s.train(6);
      CHECK(s.weights() != plain);
      CHECK(prepare(s.bert, s.body, method, s.preview()));
      CHECK(s.weights() == plain);
      CHECK(s.mask().size() == count);
    }
    s.train(6);
    CHECK(prepare(s.bert, s.body, SparseGrad{.density = 0}, s.preview()));
    CHECK(s.weights() == plain);
    CHECK(s.mask().empty());
  }
}

TEST_CASE("speft, sparsegrad: weights in blocks, and noise that would take several weights, are refused") {
  for (const AnyMethod& method : {AnyMethod(Speft{.density = 0.1}), AnyMethod(SparseGrad{.density = 0.1})}) {
    Small<float> blocks(method, {.precision = Precision::q8});
    test::check_error({"expected weights in f32 or bf16, of which elements may change, found", "q8"},
                      [&] { (void)prepare(blocks.bert, blocks.body, method, blocks.preview()); });
    Small<float> small(method);
    REQUIRE(prepare(small.bert, small.body, method, small.preview()));
    nn::for_each_parameter(small.body, [](const std::string& name, auto& p) {
      if (name.ends_with("sparse.values")) p.perturb({3, 1, 0}, 1e-3);
    });
    const auto run = [&] { (void)small.bert.run(small.batches[0], small.body); };
    if (std::holds_alternative<Speft>(method)) {
      run();
      const SampleScope scope(1, 1);
      test::check_error({"sparse: noise on chosen elements takes one sample a step"}, run);
    } else {
      test::check_error({"sparse: noise on chosen elements takes one sample a step, and no basis"}, run);
    }
  }
}

TEST_CASE("speft, sparsegrad: densities and numbers of examples outside their range, and previews without examples") {
  Small<float> s(Speft{}), turned(SparseGrad{});
  const auto choose = [&](const Speft& method, const Preview<float>& preview) {
    return test::message_of([&] { (void)prepare(s.bert, s.body, method, preview); });
  };
  const auto choose_turned = [&](const SparseGrad& method, const Preview<float>& preview) {
    return test::message_of([&] { (void)prepare(turned.bert, turned.body, method, preview); });
  };
  for (const double density : {-1.0, 2.0, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK(test::contains(choose({.density = density, .salience = Salience::magnitude}, s.preview()),
                         "speft: option density: expected a number from 0 to 1"));
    CHECK(test::contains(choose_turned({.density = density}, turned.preview()), "sparsegrad: option density"));
  }
  CHECK(test::contains(choose({.examples = 0}, s.preview()), "speft: option score-examples"));
  CHECK(test::contains(choose_turned({.examples = -3}, turned.preview()), "sparsegrad: option score-examples"));

  auto none = s.preview(), empty = turned.preview();
  none.examples = empty.examples = 0;
  for (const auto salience : {Salience::gradient, Salience::fisher, Salience::grasp})
    CHECK(choose({.density = 0.1, .salience = salience}, none) == "speft: no examples to compute scores from");
  CHECK(choose_turned({.density = 0.1}, empty) == "sparsegrad: no examples to compute scores from");
  CHECK(s.mask().empty());
  CHECK(turned.mask().empty());
  CHECK(choose({.density = 0.1, .salience = Salience::magnitude}, none) == "no error");  // asks for none
  CHECK(!s.mask().empty());
  none.batch = 0;
  CHECK(test::contains(choose({.density = 0.1}, none), "batches of a preview"));

  CHECK(test::contains(choose_turned({}, s.preview()), "no error"));
  CHECK(test::contains(test::message_of([&] { (void)prepare(s.bert, s.body, SparseGrad{}, s.preview()); }),
                       "sparsegrad: another method's elements"));
  CHECK(test::contains(test::message_of([&] { (void)prepare(turned.bert, turned.body, Speft{}, turned.preview()); }),
                       "speft: another method's elements"));
}
