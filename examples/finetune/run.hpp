// Owns: a run of the fine-tuner for one family of models: data, checkpoint, method and trainer put together, for texts,
// questions with options, language modelling and images. Instantiated in run_FAMILY.cpp.
#pragma once

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <meft/data/lines.hpp>
#include <meft/text/tokenizer.hpp>
#include <meft/train/choice_learner.hpp>
#include <meft/train/estimate.hpp>
#include <meft/train/images.hpp>
#include <meft/train/language_learner.hpp>

#include "common.hpp"
#include "report.hpp"
#include "session.hpp"

namespace finetune {

using namespace meft;

/// The steps of a run on one family.
template <class Model>
class Runner {
 public:
  Runner(Flags flags, Stop stop) : flags_(std::move(flags)), stop_(std::move(stop)) {}

  /// False when stopped before the end.
  bool run() {
    if (flags_.loads()) earlier_ = earlier_run(flags_);
    config_.emplace(Model::Config::read(io::Config(flags_.model)));
    check_layers();
    if constexpr (reads_images) {
      if (flags_.kind() != Kind::images) refuse("images, since the checkpoint is a vision model");
      return images();
    } else {
      switch (flags_.kind()) {
        case Kind::texts: return texts();
        case Kind::choices: return choices();
        case Kind::language: return language();
        default: refuse("a task on texts, since the checkpoint is a language model");
      }
    }
  }

 private:
  using Device = typename Model::backend;
  static constexpr bool reads_images = requires(Model m) { m.config.patch_size; };
  static constexpr bool decodes = requires(Model m) { m.decoder_layers; };
  static constexpr bool causal = requires(Model m) { m.final_norm; };

  [[noreturn]] void refuse(const std::string& expected) const { throw FlagError("--task", expected, flags_.task); }

  void check_layers() const {
    const Index layers = train::ModelSizes::of(*config_).layers;
    if (flags_.method.reversible_layers > layers)
      throw FlagError("--reversible-layers", "at most " + std::to_string(layers) + ", the checkpoint's layers",
                      std::to_string(flags_.method.reversible_layers));
  }

  /// Cuts the length to what the checkpoint allows.
  void check_length(const text::Tokenizer& tokenizer) {
    const Index longest = config_->longest();
    if (!flags_.given.contains("max-length")) flags_.max_length = std::min<std::int64_t>(flags_.max_length, longest);
    if (flags_.max_length > longest)
      throw FlagError("--max-length", "at most " + std::to_string(longest) + ", the checkpoint's positions",
                      std::to_string(flags_.max_length));
    if (static_cast<Index>(tokenizer.size()) > config_->vocab_size)
      fail(flags_.model + ": the tokenizer has more tokens than the model's vocab_size", tokenizer.size(),
           config_->vocab_size);
  }
  std::size_t length() const { return static_cast<std::size_t>(flags_.max_length); }

  Model load(train::LoadReport& report) const {
    const auto frozen = flags_.method.name == "full" ? std::nullopt : std::optional(flags_.method.precision);
    return train::hf<Model>(flags_.model, &report, frozen);
  }

  /// With a head for `labels` classes, or one value.
  template <class Learner>
  Learner classifier(int labels, train::LoadReport& report) {
    auto model = load(report);
    std::optional<nn::Pooling> pooling;
    if (flags_.pooling != "model") pooling = nn::pooling_from(flags_.pooling);
    auto head = train::load_head(flags_.model, model, labels, pooling, flags_.seed, &report);
    auto body = train::adapt(model, flags_.method);
    return {std::move(model), std::move(body), std::move(head)};
  }
  train::LanguageLearner<Model> language_model(train::LoadReport& report) {
    auto model = load(report);
    auto head = train::load_language_head(flags_.model, model, flags_.seed, &report);
    auto body = train::adapt(model, flags_.method);
    if (flags_.method.name != "full") freeze(head);
    return {std::move(model), std::move(body), std::move(head)};
  }

  /// The lengths of the sequences of the batch with the most tokens of the run.
  Offsets largest_batch(const std::vector<std::uint32_t>& lengths) const {
    std::vector<std::uint32_t> largest;
    std::uint64_t most = 0;
    for (std::int64_t epoch = 0; epoch < std::min<std::int64_t>(flags_.epochs, 8); ++epoch)
      for (auto& rows : data::batches(lengths, static_cast<std::size_t>(flags_.batch), flags_.seed,
                                      static_cast<std::uint64_t>(epoch), true)) {
        std::uint64_t tokens = 0;
        for (const auto row : rows) tokens += lengths[row];
        if (tokens > most) most = tokens, largest = std::move(rows);
      }
    std::vector<std::int32_t> out;
    for (const auto row : largest) out.push_back(static_cast<std::int32_t>(lengths[row]));
    return Offsets::of_lengths(out);
  }

  /// What the user gets, beside what full fine-tuning takes.
  template <class Learner>
  void say_costs(Learner& learner, const Offsets& batch) const {
    Index all = 0, trained = 0;
    nn::for_each_parameter(learner, [&](const std::string& name, const auto& p) {
      const auto has = [&](const char* part) { return name.find(part) != name.npos; };
      if (!has("_adapter.") && !has("lora_") && !has("readout.")) all += p.size();  // full training adds nothing
      if (p.trainable()) trained += p.size();
    });
    nn::walk(learner, [&](const std::string&, const nn::Linear<float, Device>& l) {
      all += l.packed.defined() ? l.packed.shape().size() : 0;
    });
    const auto activation = [&](const train::MethodOptions& method) {
      return static_cast<double>(train::ActivationEstimate<float, Device>(*config_, method, batch).bytes());
    };
    train::MethodOptions full;
    full.name = "full";
    say_cost(flags_.method.name, trained, static_cast<double>(Device::pool().read().of(Use::parameter)),
             activation(flags_.method));
    if (flags_.method.name != "full" || flags_.method.recompute)
      say_cost("full", all, 4.0 * static_cast<double>(all), activation(full));
    std::cout << "(largest batch: " << batch.sequences() << " sequences, " << grouped(batch.tokens())
              << " tokens, the longest " << batch.longest() << ")\n";
  }

  template <class Learner, class Data>
  bool fit(Learner& learner, const Data& train_set, const Data& dev_set, const Goal& goal, const Offsets& largest,
           const train::LoadReport& loaded, const train::TrainOptions& options) {
    say_costs(learner, largest);
    Progress progress;
    train::Trainer trainer(learner, train_set, dev_set, options, progress.observer());
    const auto count = [](const auto& set) { return set.lengths().size(); };
    std::cout << count(train_set) << " examples to train on, " << count(dev_set)
              << (goal.held_out ? " held out" : " to score on") << "; task " << goal.task << ", " << trainer.steps()
              << " steps\n";
    say_loaded(loaded);
    const auto outcome = trainer.run();
    progress.end_line();
    say_outcome(flags_, outcome, trainer.steps());
    return outcome.finished;
  }

  /// Prints the scores of dev examples. False when stopped.
  template <class Learner, class Data>
  bool evaluate(const Learner& learner, const Data& dev, const std::vector<std::string>& metrics, bool held_out,
                const std::string& what = "") const {
    const auto scores = learner.scores(dev, metrics, stop_);
    if (!scores) return false;
    std::cout << dev.lengths().size() << (held_out ? " held-out" : " dev") << " examples" << what << ": "
              << finetune::text(*scores) << "\n";
    return true;
  }

  bool texts() {
    using Learner = train::Learner<Model>;
    const text::Tokenizer tokenizer(flags_.model);
    check_length(tokenizer);
    if (earlier_) {
      train::LoadReport ignored;
      const auto& names = earlier_->labels;
      auto learner = classifier<Learner>(names.empty() ? 1 : static_cast<int>(names.size()), ignored);
      train::load_trained(earlier_->saved, learner);
      return score_texts(learner, tokenizer) && predict_texts(learner, tokenizer);
    }
    const FolderLock lock(flags_.output);
    const auto data = data::load(flags_.task, flags_.data, flags_.columns);
    const auto train_set = train::encode(tokenizer, data.train, data.task.pair, length()),
               dev_set = train::encode(tokenizer, data.dev, data.task.pair, length());
    const Goal goal{data.task.name,       fingerprint_of_model(flags_.model),
                    fingerprint_of(data), data.task.label_names,
                    data.task.metrics,    data.task.main_metric,
                    data.task.pair,       data.held_out};
    const auto options = options_of(flags_, goal, stop_);
    train::LoadReport loaded;
    auto learner = classifier<Learner>(data.task.labels, loaded);
    if (!fit(learner, train_set, dev_set, goal, largest_batch(train_set.lengths()), loaded, options)) return false;
    return score_more(learner, tokenizer, data);
  }
  /// Dev splits besides the first, such as MNLI's mismatched one.
  template <class Learner>
  bool score_more(const Learner& learner, const text::Tokenizer& tokenizer, const data::Dataset& data) const {
    for (const auto& split : data.more_dev)
      if (!evaluate(learner, train::encode(tokenizer, split.examples, data.task.pair, length()), data.task.metrics,
                    false, " (" + split.name + ")"))
        return false;
    return true;
  }
  template <class Learner>
  bool score_texts(const Learner& learner, const text::Tokenizer& tokenizer) const {
    if (!flags_.eval_only) return true;
    const auto data = data::load(flags_.task, flags_.data, flags_.columns);
    return evaluate(learner, train::encode(tokenizer, data.dev, earlier_->pair, length()), data.task.metrics,
                    data.held_out) &&
           score_more(learner, tokenizer, data);
  }
  template <class Learner>
  bool predict_texts(const Learner& learner, const text::Tokenizer& tokenizer) const {
    if (flags_.predict.empty()) return true;
    const auto inputs = data::load_inputs(flags_.task, flags_.predict, flags_.columns);
    const auto predictions =
        train::predict(learner, train::encode(tokenizer, inputs, earlier_->pair, length()), 32, stop_);
    if (stop_()) return false;
    const std::string path = flags_.output + "/predictions.tsv";
    io::write_atomically(path, table_of(predictions, earlier_->labels));
    std::cout << inputs.size() << " predictions in " << path << "\n";
    return true;
  }

  /// Questions: a causal model goes on with an option, an encoder sees it beside the question.
  bool choices() {
    const text::Tokenizer tokenizer(flags_.model);
    check_length(tokenizer);
    const auto data = data::choices(flags_.task, flags_.data);
    const auto encoded = [&](const std::vector<data::Choice>& set) {
      if constexpr (causal) return train::encode_causal(tokenizer, set, length());
      else return train::encode_pairs(tokenizer, set, length());
    };
    const auto work = [&](auto&& make) {
      train::LoadReport loaded;
      const auto dev_set = encoded(data.dev);
      if (earlier_) {
        auto learner = make(loaded);
        train::load_trained(earlier_->saved, learner);
        return evaluate(learner, dev_set, {"accuracy", "accuracy_norm"}, data.held_out);
      }
      const FolderLock lock(flags_.output);
      const auto train_set = encoded(data.train);
      const Goal goal{flags_.task,
                      fingerprint_of_model(flags_.model),
                      fingerprint_of(data),
                      {},
                      {"accuracy", "accuracy_norm"},
                      "accuracy",
                      false,
                      data.held_out};
      const auto options = options_of(flags_, goal, stop_);
      auto learner = make(loaded);
      auto lengths = train_set.lengths();
      if constexpr (causal) {
        const auto rows = train_set.answer_rows();
        for (std::size_t q = 0; q < lengths.size(); ++q)
          lengths[q] = static_cast<std::uint32_t>(train_set.ids[rows[q]].size());
      }
      return fit(learner, train_set, dev_set, goal, largest_batch(lengths), loaded, options);
    };
    if constexpr (causal) return work([&](auto& report) { return language_model(report); });
    else return work([&](auto& report) { return classifier<train::ChoiceLearner<Model>>(1, report); });
  }

  /// Lines of text: a causal model predicts the next token, an encoder masked ones.
  bool language() {
    if constexpr (decodes) refuse("another task: a model with encoder and decoder has no --task lm");
    else {
      const text::Tokenizer tokenizer(flags_.model);
      check_length(tokenizer);
      const auto lines = data::lines(flags_.data);
      std::optional<train::MaskOptions> mask;
      train::BlockOptions cut{.max_length = length(), .before = {tokenizer.bos()}};
      if constexpr (!causal) {
        cut.after = {tokenizer.eos()};
        mask.emplace();
        mask->mask = tokenizer.mask();
        mask->vocabulary = static_cast<std::int32_t>(tokenizer.size());
        for (const auto id : {tokenizer.bos(), tokenizer.eos(), tokenizer.pad(), tokenizer.unk()})
          if (id >= 0) mask->special.push_back(id);
        if (mask->mask < 0) fail(flags_.model + ": the tokenizer has no mask token, which --task lm needs");
      }
      const auto blocks = [&](const std::vector<std::string>& set) {
        return train::Blocks{train::blocks(tokenizer, set, cut), mask, flags_.seed};
      };
      const auto dev_set = blocks(lines.dev);
      train::LoadReport loaded;
      const std::vector<std::string> metrics{"log_likelihood", "perplexity"};
      if (earlier_) {
        auto learner = language_model(loaded);
        train::load_trained(earlier_->saved, learner);
        return evaluate(learner, dev_set, metrics, lines.held_out);
      }
      const FolderLock lock(flags_.output);
      const auto train_set = blocks(lines.train);
      const Goal goal{flags_.task,
                      fingerprint_of_model(flags_.model),
                      fingerprint_of(lines.train, lines.dev),
                      {},
                      metrics,
                      "log_likelihood",
                      false,
                      lines.held_out};
      const auto options = options_of(flags_, goal, stop_);
      auto learner = language_model(loaded);
      return fit(learner, train_set, dev_set, goal, largest_batch(train_set.lengths()), loaded, options);
    }
  }

  bool images() {
    if constexpr (reads_images) {
      using Learner = train::Learner<Model>;
      const auto processor = data::ImageProcessor::read(flags_.model);
      if (processor.defaults)
        std::cout << flags_.model << " has no preprocessor_config.json: 224 x 224, mean and deviation 0.5\n";
      const auto data = data::load_images(flags_.data);
      const train::ImageSet dev_set(data, data.dev, processor);
      train::LoadReport loaded;
      const int labels = static_cast<int>(data.label_names.size());
      if (earlier_) {
        if (earlier_->labels != data.label_names)
          fail(flags_.data + ": other classes than those of the run in " + flags_.output, labels,
               earlier_->labels.size());
        auto learner = classifier<Learner>(labels, loaded);
        train::load_trained(earlier_->saved, learner);
        return evaluate(learner, dev_set, {"accuracy"}, data.held_out);
      }
      const FolderLock lock(flags_.output);
      std::optional<data::Augment> augment;
      if (flags_.augment) augment = data::Augment{.seed = flags_.seed};
      const train::ImageSet train_set(data, data.train, processor, augment);
      const Goal goal{flags_.task,
                      fingerprint_of_model(flags_.model),
                      fingerprint_of(data),
                      data.label_names,
                      {"accuracy"},
                      "accuracy",
                      false,
                      data.held_out};
      const auto options = options_of(flags_, goal, stop_);
      auto learner = classifier<Learner>(labels, loaded);
      const auto box = processor.output();
      const auto tokens = static_cast<std::int32_t>(config_->leading() + (box.height / config_->patch_size) *
                                                                             (box.width / config_->patch_size));
      const std::vector<std::int32_t> largest(std::min(static_cast<std::size_t>(flags_.batch), data.train.size()),
                                              tokens);
      return fit(learner, train_set, dev_set, goal, Offsets::of_lengths(largest), loaded, options);
    } else refuse("a task on texts, since the checkpoint is a language model");
  }

  Flags flags_;
  Stop stop_;
  std::optional<Earlier> earlier_;
  std::optional<typename Model::Config> config_;
};

template <class Model>
bool run_as(Flags flags, const Stop& stop) {
  return Runner<Model>(std::move(flags), stop).run();
}

}  // namespace finetune
