// Owns: a run of the fine-tuner on one device: checkpoint, method, data and trainer put together, for texts, questions
// with options, language modelling and images. Instantiated in run_cpu.cpp and run_cuda.cpp. What does not depend on
// the device stands in the other .cpp files, which are compiled once.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <meft/checkpoints/export.hpp>
#include <meft/nn/merge.hpp>
#include <meft/task/choice_learner.hpp>
#include <meft/task/line_likelihood.hpp>
#include <meft/task/ranking_learner.hpp>
#include <meft/train/estimate.hpp>
#include <meft/train/light.hpp>
#include <meft/train/prepare.hpp>

#include "folder.hpp"
#include "inputs.hpp"
#include "learners.hpp"
#include "memory.hpp"
#include "merge.hpp"
#include "predictions.hpp"
#include "report.hpp"
#include "session.hpp"
#include "terminal.hpp"

namespace finetune {

using namespace meft;

/// The steps of a run.
template <Backend B>
class Runner {
 public:
  Runner(Flags flags, Stop stop) : flags_(std::move(flags)), stop_(std::move(stop)) {}

  /// False when stopped before the end.
  bool run() {
    if (flags_.loads()) earlier_ = earlier_run(flags_);
    if (!flags_.predict.empty()) check_predictions(flags_);
    if (!flags_.merge.empty()) check_merge(flags_);
    spec_ = checkpoints::read_spec(checkpoints::read_config(flags_.model));
    check_layers();
    if (spec_.patches) {
      if (flags_.kind() != Kind::images) refuse("images, since the checkpoint is a vision model");
      return images();
    }
    const Index longest = spec_.longest(), front = tokens_in_front(flags_.method);
    if (longest && longest - front < 2)
      throw FlagError("--virtual-tokens", "at least two of the model's " + std::to_string(longest) + " places left",
                      std::to_string(front));
    family_ = {longest ? longest - front : 0, spec_.embeddings.vocabulary, spec_.causal, spec_.decoder.has_value()};
    if (spec_.embeddings.types) family_.types = spec_.embeddings.types;
    if (spec_.causal && (flags_.pooling == "model" || flags_.pooling == "last")) family_.pad = spec_.head.pad;
    if (flags_.ranks() || flags_.kind() == Kind::writing) return ranking();
    switch (flags_.kind()) {
      case Kind::texts: return texts();
      case Kind::choices: return spec_.causal ? choices_with<true>() : choices_with<false>();
      case Kind::language: return language();
      default: refuse("a task on texts, since the checkpoint is a language model");
    }
  }

 private:
  using Model = model::Transformer<float, B>;
  using Learner = task::Learner<Model>;

  [[noreturn]] void refuse(const std::string& expected) const { throw FlagError("--task", expected, flags_.task); }

  void check_layers() const {
    const Index layers = train::layers_of(spec_);
    for (const auto& o : method_options(flags_.method))
      if (const auto* count = std::get_if<std::int64_t>(&o.value); count && o.counts_layers && *count > layers)
        throw FlagError("--" + std::string(o.about.name),
                        "at most " + std::to_string(layers) + ", the checkpoint's layers", o.text());
  }

  std::size_t at_once() const { return train::scored_at_once(static_cast<std::size_t>(flags_.batch)); }
  static constexpr std::size_t written_at_once = 32;  // each word reads all weights, whatever a batch is
  /// What the user gets, beside what training of everything takes.
  template <class Learner>
  void say_costs(Learner& learner, const train::BatchSizes& batch) const {
    Index trained = 0, with_gradients = 0;
    nn::for_each_parameter(learner, [&](const std::string&, const auto& p) {
      trained += p.trainable() || p.probed() ? p.size() : 0;
      with_gradients += p.trainable() ? p.size() : 0;
    });
    if (trained == 0)
      throw FlagError("--method", "one that trains something which this checkpoint and --task " + flags_.task + " have",
                      std::string(method_name(flags_.method)) + ": " + std::string(method_about(flags_.method)));
    auto sizes = train::step_sizes<B>(
        spec_, batch.tokens, threads(), requires { learner.head.untied; }, batch.answers.sequences());
    if (const auto& words = learner.model.embeddings; words && words->rows)
      for (auto& list : sizes) list.vocabulary = words->word.shape()[0];
    std::size_t mapped = 0;
    nn::walk(learner, [&](const std::string&, const PackedWeight<float, B>& w) { mapped += w.mapped_bytes(); });
    const auto say = [&](const AnyMethod& method, bool recompute, bool narrow, Index trains, Index gradients,
                         double weights, std::size_t in_file) {
      for (auto& list : sizes) list.recompute = recompute, list.narrow = narrow;
      const Index kept = train::kept_by(train::optimizer_of(method_recipe(method), 0)) * gradients;
      say_cost(method_title(method), trains, weights, static_cast<double>(in_file),
               sizeof(float) * static_cast<double>(kept),
               static_cast<double>(train::expected_activation<float, B>(method, sizes)));
    };
    const bool narrow = method_facts(flags_.method).narrows && flags_.adapt.precision == Precision::bf16;
    say(flags_.method, flags_.adapt.recompute, narrow, trained, with_gradients,
        static_cast<double>(B::pool().read().of(Use::parameter)), mapped);
    if (!std::holds_alternative<ReferenceMethod>(flags_.method) || flags_.adapt.recompute)
      say(ReferenceMethod{}, false, false, learners_.parameters(), learners_.parameters(),
          4.0 * static_cast<double>(learners_.parameters()), 0);
    say_batch(batch.tokens);
  }

  /// What the method chooses by the examples, or chose when the run began. False when stopped.
  template <class Learner, class Data>
  bool prepare(Learner& learner, const Data& data, const train::TrainOptions& options) {
    const train::RunFiles files(options.folder);
    if (options.resume && is_there(files.state)) {
      const io::Safetensors state(files.state);
      checkpoints::use_rows_of(state, learner.model);
      if (checkpoints::may_choose<float, B>(learner)) checkpoints::choose_as_in<float, B>(state, learner);
      if (!method_recipe(flags_.method).log_alone) return true;  // else the parameters start as they did
    } else say_range(train::calibrate(learner, data.train, options.batch, options.seed));
    Progress progress;
    return train::prepare(learner, flags_.method, data.train, options.batch, options.seed,
                          progress.watch("choosing what trains", stop_));
  }

  /// The rows of the word embeddings that the run will look at, where others are to be left out.
  template <class Learner, class Data>
  static void use_rows(Learner& learner, const Data& data) {
    if constexpr (requires { data.train.ids; }) {
      const auto& words = learner.model.embeddings;
      if (!words || !words->rows) return;
      std::vector<std::int32_t> ids;
      if (learner.model.decodes()) ids.push_back(static_cast<std::int32_t>(learner.model.spec.decoder_start));
      const auto add = [&](const auto& set) {
        for (const auto& sequence : set.ids) ids.insert(ids.end(), sequence.begin(), sequence.end());
      };
      add(data.train);
      add(data.dev);
      for (const auto& set : data.more) add(set.second);
      words->rows->use(ids);
      say("word embeddings: " + grouped(words->word.shape()[0]) + " of " + grouped(words->rows->count()) + " rows");
    }
  }

  /// Of steps, which predict words or do not; empty where layers do not run for what is cached.
  std::function<double(const train::BatchSizes&)> light(bool words) const {
    if (flags_.adapt.feature_cache) return {};
    const auto facts = method_facts(flags_.method);
    const bool in_float = facts.trains_all && !facts.narrows;
    return
        [peak = train::product_peak<B>(in_float ? Precision::f32 : flags_.adapt.precision.value_or(Precision::f32)),
         model = spec_, method = flags_.method, again = flags_.adapt.recompute, words](const train::BatchSizes& batch) {
          return train::operations_of(model, method, again, batch, words) / peak;
        };
  }

  template <class Learner, class Data>
  bool fit(Learner& learner, const Data& data, const train::BatchSizes& largest, const train::TrainOptions& options) {
    const auto lightest = light(requires { learner.head.untied; });
    B::pool().reset_peak();  // that of measuring
    use_rows(learner, data);
    if (!prepare(learner, data, options)) return false;
    say_costs(learner, largest);
    Progress progress;
    auto renewing = options;
    renewing.renewal = train::renewal(learner, flags_.method, data.train, options.batch, options.seed, options.stop);
    if constexpr (!requires { learner.head.untied; })
      if (const double own = flags_.recipe.head_rate; own > 0)
        nn::for_each_parameter(learner.head,
                               [&](const std::string&, auto& p) { p.set_rate_factor(own / flags_.recipe.rate); });
    renewing.light = lightest;
    train::Trainer trainer(learner, data.train, data.dev, renewing, progress.observer(flags_.output));
    say_start(data.goal, data.train.size(), data.dev.size(), trainer.steps());
    say_loaded(learners_.loaded());
    if (!options.resume || !is_there(train::RunFiles(options.folder).state))
      if (const auto far = train::start_distance(learner, data.train, options.batch)) say_distance(*far);
    remove_leavings(flags_);
    say_memory("start", train::MemoryReport::of(B::pool()));
    const auto outcome = trainer.run();
    progress.end_line();
    say_outcome(flags_, outcome, trainer.steps());
    write_peft(flags_, spec_, learners_.loaded(), data.goal.labels);
    const auto keep = [&](const std::string& name, const std::vector<task::Score>& scores) {
      train::add_scores(train::RunFiles(flags_.output).metrics, name, scores);
    };
    return outcome.finished && evaluate_more(learner, data, keep);
  }

  using Keep = std::function<void(const std::string& set, const std::vector<task::Score>&)>;

  /// Prints the scores of a set. False when stopped.
  template <class Learner, class Data>
  bool evaluate(const Learner& learner, const Data& set, const Goal& goal, const std::string& name,
                const Keep& keep = {}) const {
    Progress progress;
    const auto watch = progress.watch("scoring", stop_);
    const auto scores =
        in_range(learner.body.ranges(), [&] { return learner.scores(set, goal.metrics, at_once(), watch); });
    progress.end_line();
    if (!scores) return false;
    say_scores(*scores, set.size(), name);
    if (keep) keep(name, *scores);
    return true;
  }
  /// The sets besides the first.
  template <class Learner, class Data>
  bool evaluate_more(const Learner& learner, const Data& data, const Keep& keep = {}) const {
    return std::all_of(data.more.begin(), data.more.end(),
                       [&](const auto& set) { return evaluate(learner, set.second, data.goal, set.first, keep); });
  }
  template <class Learner, class Data>
  bool evaluate_all(const Learner& learner, const Data& data) const {
    return evaluate(learner, data.dev, data.goal, data.goal.held_out ? "held-out" : "dev") &&
           evaluate_more(learner, data);
  }

  /// Writes the learner's model with all that it learned in its weights.
  template <class Learner>
  bool merge(Learner& learner) const {
    checkpoints::ExportedHead about{.labels = earlier_->labels};
    if constexpr (requires { learner.head.untied; }) {
      about.what = checkpoints::Predicts::tokens;
      about.untied = learner.head.untied;
    } else {
      if (learner.head.pooling != learner.model.spec.head.pooling)
        throw FlagError("--merge", "a run with the pooling that transformers has for this model",
                        "--pooling " + flags_.pooling);
      if (flags_.kind() != Kind::choices)
        about.problem_type = about.labels.empty() ? "regression" : "single_label_classification";
    }
    nn::merge_updates<float, B>(learner.model);
    checkpoints::restore_rows(learner.model);
    say_merged(flags_,
               checkpoints::write_hf(flags_.merge, flags_.model, learner.model, learner.head, about, flags_.overwrite));
    return true;
  }

  /// What `predict` finds, which is told to show how far it is and to ask whether to stop.
  template <class Learner, class Predict>
  auto predicted(const Learner& learner, Predict&& predict) const {
    Progress progress;
    const auto watch = progress.watch("predicting", stop_);
    return in_range(learner.body.ranges(), [&] { return predict(watch); });
  }

  /// A kind of task: read(sets) gives its examples, ask() what --predict names, make(classes) the learner,
  /// predict(learner, asked) writes what it finds and is false when stopped, largest(examples) is the largest batch.
  template <class Read, class Ask, class Make, class Predict, class Largest>
  bool task(const Read& read, const Ask& ask, const Make& make, const Predict& predict, const Largest& largest) {
    using Data = decltype(read(Sets::all));
    using Asked = decltype(ask());
    if (!flags_.merge.empty()) {
      auto learner = make(earlier_->labels);
      return merge(learner);
    }
    if (earlier_) {
      // Neither can be moved: sets of images point into their data.
      const auto scored = std::unique_ptr<const Data>(flags_.eval_only ? new Data(read(Sets::dev)) : nullptr);
      const auto asked = std::unique_ptr<const Asked>(flags_.predict.empty() ? nullptr : new Asked(ask()));
      if (scored && earlier_->peft) earlier_->labels = scored->goal.labels;
      const auto learner = make(earlier_->labels);
      return (!scored || evaluate_all(learner, *scored)) && (!asked || predict(learner, *asked));
    }
    const FolderLock lock(flags_.output);
    const Data data = read(Sets::all);
    const auto options = options_of(flags_, data.goal, stop_);
    auto learner = make(data.goal.labels);
    return fit(learner, data, largest(data), options);
  }

  bool texts() {
    const auto tokenizer = tokenizer_of(flags_, family_);
    return task([&](Sets sets) { return read_texts(flags_, tokenizer, family_, sets); },
                [&] { return texts_to_predict(flags_, tokenizer, family_, earlier_->pair); },
                [&](const auto& classes) { return learners_.template classifier<Learner>(classes); },
                [&](const auto& learner, const auto& asked) {
                  const auto found = predicted(learner, [&](const task::Asked& watch) {
                    return task::predict(learner, asked.encoded, at_once(), watch);
                  });
                  return found.size() == asked.rows.size() &&
                         write_predictions(flags_, table_of(found, earlier_->labels, asked.rows, earlier_->pair),
                                           found.size());
                },
                [&](const auto& data) { return largest_batch(flags_, data.train.lengths()); });
  }

  template <bool causal>
  bool choices_with() {
    const auto tokenizer = tokenizer_of(flags_, family_);
    return task([&](Sets sets) { return read_questions(flags_, tokenizer, family_, sets); },
                [&] { return questions_to_predict(flags_, tokenizer, family_); },
                [&](const auto&) {
                  if constexpr (causal) return learners_.language_model();
                  else return learners_.template classifier<task::ChoiceLearner<Model>>({});
                },
                [&](const auto& learner, const auto& asked) {
                  const auto found = predicted(learner, [&](const task::Asked& watch) {
                    if constexpr (causal) return learner.option_log_likelihoods(asked.encoded, at_once(), watch);
                    else return learner.option_logits(asked.encoded, watch);
                  });
                  return found && write_predictions(flags_, table_of(*found, asked.rows), asked.rows.size());
                },
                [&](const auto& data) { return largest_batch(flags_, data.lengths); });
  }

  bool language() {
    if (spec_.decoder) refuse("another task: a model with encoder and decoder has no --task lm");
    const auto tokenizer = tokenizer_of(flags_, family_);
    return task([&](Sets sets) { return read_lines(flags_, tokenizer, family_, sets); },
                [&] { return lines_to_predict(flags_); }, [&](const auto&) { return learners_.language_model(); },
                [&](const auto& learner, const auto& asked) {
                  const auto cut = cutting(flags_, tokenizer, family_);
                  const auto found = predicted(learner, [&](const task::Asked& watch) {
                    return task::line_likelihoods(learner, tokenizer, asked, cut.first, cut.second, at_once(), watch);
                  });
                  return found && write_predictions(flags_, table_of(*found, asked), asked.size());
                },
                [&](const auto& data) { return largest_batch(flags_, data.train.lengths()); });
  }

  /// Texts and questions whose answers a language model ranks, and texts that it writes.
  bool ranking() {
    const bool writes = flags_.kind() == Kind::writing;
    if (writes && !spec_.causal && !spec_.decoder) refuse("another task: an encoder writes no text");
    const auto tokenizer = tokenizer_of(flags_, family_);
    if (!writes) set_asking(flags_, family_);
    return task([&](Sets sets) { return (writes ? read_written : read_ranked)(flags_, tokenizer, family_, sets); },
                [&] {
                  return writes ? texts_to_write(flags_, tokenizer, family_)
                                : ranked_to_predict(flags_, tokenizer, family_, earlier_->pair);
                },
                [&](const auto&) {
                  auto learner = learners_.template language_model<task::RankingLearner<Model>>();
                  learner.losses = writes ? task::Losses::words : task::losses_from(flags_.losses);
                  return learner;
                },
                [&](const auto& learner, const auto& asked) {
                  if (writes) return write(learner, asked, tokenizer);
                  const auto found = predicted(learner, [&](const task::Asked& watch) {
                    return learner.answer_scores(asked.encoded, at_once(), watch);
                  });
                  if (!found) return false;
                  if (flags_.kind() == Kind::choices)
                    return write_predictions(flags_, table_of(*found, asked.questions), asked.questions.size());
                  const task::Predictions all{earlier_->labels.size(), {found->begin(), found->end()}};
                  return write_predictions(flags_, table_of(all, earlier_->labels, asked.texts, earlier_->pair),
                                           all.size());
                },
                [&](const auto& data) { return largest_batch(flags_, data.train); });
  }
  template <class Learner>
  bool write(const Learner& learner, const RankedToPredict& asked, const text::Tokenizer& tokenizer) const {
    const auto form = ranked_form(flags_, tokenizer, family_);
    const auto found = predicted(learner, [&](const task::Asked& watch) {
      return task::write(learner, asked.encoded, form.start, form.end.front(), task::WrittenRoom(form).written,
                         written_at_once, watch);
    });
    if (!found) return false;
    std::vector<std::string> texts;
    for (auto ids : *found) {  // a model's vocabulary may be larger than its tokenizer's: such words have no text
      std::erase_if(ids, [&](std::int32_t id) { return static_cast<std::size_t>(id) >= tokenizer.size(); });
      texts.push_back(tokenizer.decode(ids));
    }
    return write_predictions(flags_, table_of(texts, asked.texts), texts.size());
  }

  bool images() {
    const auto box = data::ImageProcessor::read(flags_.model).output();
    flags_.adapt.image_tokens = spec_.patches->tokens(box.height, box.width);
    return task([&](Sets) { return Images(flags_, earlier_ && earlier_->saved ? &earlier_->labels : nullptr); },
                [&] { return ImagesToPredict(flags_); },
                [&](const auto& classes) { return learners_.template classifier<Learner>(classes); },
                [&](const auto& learner, const auto& asked) {
                  const auto found = predicted(learner, [&](const task::Asked& watch) {
                    return task::predict(learner, asked.set, at_once(), watch);
                  });
                  return found.size() == asked.set.size() &&
                         write_predictions(flags_, table_of(found, earlier_->labels, asked.inputs.names), found.size());
                },
                [&](const auto& data) {
                  const auto tokens = static_cast<std::int32_t>(flags_.adapt.image_tokens);
                  const std::size_t most = std::min(static_cast<std::size_t>(flags_.batch), data.train.size());
                  return train::BatchSizes{Offsets::of_lengths(std::vector(most, tokens))};
                });
  }

  Flags flags_;
  Stop stop_;
  Family family_;
  std::optional<Earlier> earlier_;
  model::TransformerSpec spec_;
  Learners<B> learners_{flags_, earlier_, spec_};
};

template <Backend B>
bool run_on(Flags flags, const Stop& stop) {
  return Runner<B>(std::move(flags), stop).run();
}

}  // namespace finetune
