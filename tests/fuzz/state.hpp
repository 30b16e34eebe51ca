// Owns: the harness of what a run keeps: its state, adapter and log, one of them damaged, and the run resumed from
// them.
#pragma once

#include "fuzz.hpp"

#include <meft/base/parallel.hpp>
#include <meft/nn/linear.hpp>
#include <meft/ops/loss.hpp>
#include <meft/train/trainer.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace meft::fuzz {

/// The least that trains: one linear layer on six examples.
struct SixRows {
  std::size_t size() const { return 6; }
  std::vector<std::uint32_t> lengths() const { return {1, 2, 3, 1, 2, 3}; }
};
struct OneLayer {
  using T = float;
  using B = Cpu;
  nn::Linear<float, Cpu> layer = nn::Linear<float, Cpu>::normal(3, 2, {1, 2, 3});

  nn::Batch<Cpu> batch(const SixRows&, std::span<const std::uint32_t> rows, Run run) const {
    nn::Batch<Cpu> out;
    out.run = run;
    std::vector<std::int32_t> labels;
    for (const std::uint32_t row : rows) labels.push_back(static_cast<std::int32_t>(row % 2));
    out.labels = Tensor<std::int32_t>::from({static_cast<Index>(labels.size())}, labels);
    return out;
  }
  Var<float> loss(const nn::Batch<Cpu>& batch) const {
    return cross_entropy(layer(Var<float>(Tensor<float>::full({batch.labels.dim(0), 3}, 0.5f))), batch.labels);
  }
  std::optional<std::vector<task::Score>> scores(const SixRows&, const std::vector<std::string>&, std::size_t,
                                                 const task::Asked&) const {
    return std::vector<task::Score>{{"accuracy", 0.5}};
  }
  static void parts(auto& self, auto&& visit) { visit("layer", self.layer); }
};

/// A run's files as they are when it is done, and a place in its middle.
class Runs {
 public:
  Runs() {
    set_threads(1);
    clean();
    run();
    state_ = io::read_text(file("state.safetensors"));
    adapter_ = io::read_text(file("adapter.safetensors"));
    log_ = io::read_text(file("log.jsonl"));
    place_ = io::Safetensors(file("state.safetensors")).metadata().at("place");
    auto tree = parse_json(place_, "place");
    tree.update({{"epoch", 1}, {"group", 1}, {"step", 4}, {"batches", 4}, {"finished", false}});
    tree["epochs"].erase(1);
    middle_ = tree.dump();
  }

  /// The inputs to start from.
  std::vector<std::string> seeds() const {
    return {"0" + state_, "1" + place_, "1" + middle_, "2" + adapter_, "3" + log_};
  }

  /// The first byte says which file the rest is: the state, the state's place, the adapter or the log.
  void resume(std::string_view bytes) const {
    if (bytes.empty()) return;
    const std::string_view rest = bytes.substr(1);
    const int which = bytes[0] & 3;
    clean();
    may_refuse([&] {
      put("adapter.safetensors", which == 2 ? rest : std::string_view(adapter_));
      if (which == 0) put("state.safetensors", rest);
      else if (which == 1) save(rest);
      else if (which == 2) put("state.safetensors", state_);
      else save(middle_), put("log.jsonl", rest);
      run();
    });
  }

 private:
  static std::string file(const char* name) { return folder() + "/" + name; }
  static void clean() {
    for (const char* name : {"state.safetensors", "adapter.safetensors", "log.jsonl", "metrics.json"}) remove(name);
  }
  static train::TrainOptions options() {
    train::TrainOptions out;
    out.batch = 2;
    out.epochs = 2;
    out.folder = folder();
    out.run = {{"a", 1}};
    out.save_seconds = 0;
    out.log_every = 1;
    out.resume = true;
    return out;
  }
  static void run() {
    const SixRows data;
    OneLayer learner;
    const auto outcome = train::Trainer(learner, data, data, options()).run();
    if (outcome.finished)
      expect(outcome.place.best_epoch >= 0 &&
             static_cast<std::size_t>(outcome.place.best_epoch) < outcome.place.epochs.size());
  }
  /// A state as the library writes it, at this place.
  static void save(std::string_view place) {
    OneLayer learner;
    auto optimizer = optim::AdamW{}.over<float, Cpu>(learner);
    train::save_state(file("state.safetensors"), optimizer,
                      train::detail::place_from(parse_json(place, "place"), "state"), options().run);
  }

  std::string state_, adapter_, log_, place_, middle_;
};

inline const Runs& runs() {
  static const Runs made;
  return made;
}
inline void state(std::string_view bytes) { runs().resume(bytes); }

}  // namespace meft::fuzz
