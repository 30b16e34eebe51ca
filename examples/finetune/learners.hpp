// Owns: a learner of the checkpoint: its model with a head, the method put on, and of an earlier run what that trained.
// Must not know: what is done with it (run.hpp), how examples are read.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <meft/checkpoints/export.hpp>
#include <meft/checkpoints/streams.hpp>
#include <meft/method/any.hpp>
#include <meft/task/language_learner.hpp>

#include "folder.hpp"

namespace finetune {

using namespace meft;

template <Backend B>
class Learners {
 public:
  using Model = model::Transformer<float, B>;

  /// Of what these are when a learner is asked for; they outlive this.
  Learners(const Flags& flags, const std::optional<Earlier>& earlier, const model::TransformerSpec& spec)
      : flags_(flags), earlier_(earlier), spec_(spec) {}

  /// With a head for classes of these names, or one value. Of an earlier run, with what it trained.
  template <class Learner>
  Learner classifier(const std::vector<std::string>& names) {
    auto model = load();
    std::optional<nn::Pooling> pooling;
    if (flags_.pooling != "model") pooling = nn::pooling_from(flags_.pooling);
    auto head = checkpoints::load_head(flags_.model, model, names.empty() ? 1 : std::ssize(names), pooling, flags_.seed,
                                       &loaded_, names);
    return with_trained(adapted(Learner{std::move(model), {}, std::move(head)}), names);
  }
  template <class L = task::LanguageLearner<Model>>
  L language_model() {
    for (const auto& [flag, given] :
         {std::pair("--prune-embeddings", flags_.prune_embeddings), std::pair("--head-lr", flags_.gives_head_rate())})
      if (given) throw FlagError(flag, "a task with a head of its own", "--task " + flags_.task);
    auto model = load();
    auto head = checkpoints::load_language_head(flags_.model, model, flags_.seed, &loaded_, frozen());
    auto learner = adapted(L{std::move(model), {}, std::move(head)});
    if (!trains_all()) freeze(learner.head);
    if (learner.head.word.probed())  // the head is the model's, and goes with it
      nn::for_each_parameter(learner.head, [](const std::string&, auto& p) { p.set_probed(true); });
    return with_trained(std::move(learner), {});
  }

  /// What was read of the checkpoint's files.
  const checkpoints::LoadReport& loaded() const { return loaded_; }
  /// All of the last learner's, without what the method adds.
  Index parameters() const { return whole_; }

 private:
  bool trains_all() const { return method_facts(flags_.method).trains_all; }

  /// How frozen weights are kept; none where everything trains.
  std::optional<Precision> frozen() const { return trains_all() ? std::nullopt : flags_.adapt.precision; }

  Model load() {
    auto model = checkpoints::hf<float, B>(flags_.model, &loaded_, frozen(), flags_.prune_embeddings);
    B::pool().reset_peak();  // that of reading it
    return model;
  }

  /// Its layers run as the method has it.
  template <class Learner>
  Learner adapted(Learner learner) {
    whole_ = count(learner);
    if (const auto& words = learner.model.embeddings; words && words->rows)
      whole_ += (words->rows->count() - words->word.shape()[0]) * words->word.shape()[1];
    learner.body = adapt(learner.model, flags_.method, flags_.adapt);
    return learner;
  }
  template <class Learner>
  Learner with_trained(Learner learner, const std::vector<std::string>& classes) const {
    if (!earlier_) return learner;
    if (earlier_->peft) {
      earlier_->peft->load(nn::trainable<float, B>(learner), spec_, flags_.method, loaded_.initialised,
                           checkpoints::rows_in(checkpoints::read_config(flags_.model), classes));
      return learner;
    }
    checkpoints::use_rows_of(*earlier_->saved, learner.model);
    checkpoints::choose_as_in<float, B>(*earlier_->saved, learner);
    checkpoints::load_trained(*earlier_->saved, nn::trainable<float, B>(learner), nn::indices<B>(learner));
    checkpoints::load_ranges(*earlier_->saved, learner.body.ranges());
    return learner;
  }

  /// All of a model's and its head's.
  template <class Learner>
  static Index count(Learner& learner) {
    Index all = 0;
    nn::for_each_parameter(learner, [&](const std::string&, const auto& p) { all += p.size(); });
    nn::walk(learner, [&](const std::string&, const PackedWeight<float, B>& w) { all += w.size(); });
    return all;
  }

  const Flags& flags_;
  const std::optional<Earlier>& earlier_;
  const model::TransformerSpec& spec_;
  checkpoints::LoadReport loaded_;
  Index whole_ = 0;
};

}  // namespace finetune
