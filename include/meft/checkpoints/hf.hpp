// Owns: a Hugging Face folder or a GGUF file into a model: config, then the weights, each tensor checked by name and
// shape.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <meft/checkpoints/config.hpp>
#include <meft/checkpoints/family.hpp>
#include <meft/checkpoints/frozen.hpp>
#include <meft/checkpoints/labels.hpp>
#include <meft/checkpoints/names.hpp>
#include <meft/io/weights.hpp>
#include <meft/model/transformer.hpp>

namespace meft::checkpoints {

/// What a checkpoint had and lacked.
struct LoadReport {
  std::vector<std::string> initialised;  // the model's, not in the checkpoint: newly made
  std::vector<std::string> unused;       // the checkpoint's, not in the model
  std::vector<std::string> notes;        // what was taken for granted, or made anew though it was there
};

namespace detail {

template <class Model>
std::vector<std::string> parameters_of(const Model& model) {
  std::vector<std::string> out;
  nn::for_each_parameter(model, [&](const std::string& name, const auto&) { out.push_back(name); });
  return out;
}
/// Where `file` has the parameters of `model`.
template <class Model>
CheckpointNames names_of(const Model& model, const io::Weights& file, Where where) {
  return {file, parameters_of(model), model.spec.prefix, model.spec.spellings, model.spec.tied, where};
}

/// Throws unless the file has all parameters of `model`, in their shapes but for those named in `later`: before any
/// takes memory.
template <class Model>
void check_parameters(const Model& model, const CheckpointNames& names, const std::set<std::string>& later,
                      Where where) {
  names.check_complete(parameters_of(model), where);
  nn::for_each_parameter(model, [&](const std::string& name, const auto& parameter) {
    if (!later.contains(name)) check_shape(*names.find(name), parameter.shape(), where);
  });
}

/// The model's word embeddings, which have room for one row, take theirs from the file. Gives the names in it.
template <class Model>
std::set<std::string> read_rows_later(Model& model, const std::shared_ptr<const io::Weights>& file,
                                      const CheckpointNames& names, Where where) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  const std::string word = model.spec.names.embeddings.word;
  const auto* entry = names.find(word);
  if (!entry) fail({"load: " + file->path() + ": tensor " + word + " is missing", where});
  auto& embeddings = *model.embeddings;
  check_shape(*entry, {model.spec.embeddings.vocabulary, embeddings.word.shape()[1]}, where);
  embeddings.spec.vocabulary = model.spec.embeddings.vocabulary;
  embeddings.rows =
      std::make_shared<nn::TableRows<T, B>>(embeddings.word, word + ".rows", model.spec.embeddings.vocabulary,
                                            [file, entry, where](std::int32_t row, std::span<T> to) {
                                              io::copy_rows_to(*entry, static_cast<std::size_t>(row), to, where);
                                            });
  if (model.decoder_embeddings) model.decoder_embeddings->rows = embeddings.rows;
  return set_of(names.all(word));
}

}  // namespace detail

/// Has a pruned model read the rows that a run trained, which its file names, in that order: what it holds can then be
/// loaded.
template <class Model>
void use_rows_of(const io::Safetensors& file, Model& model, Where where = Where::current()) {
  if (!model.embeddings || !model.embeddings->rows || !file.contains(model.embeddings->rows->name())) return;
  const auto& entry = file.find(model.embeddings->rows->name(), where);
  std::vector<std::int32_t> rows(entry.shape.size() == 1 ? static_cast<std::size_t>(entry.shape[0]) : 0);
  io::copy_to(entry, std::span(rows), where);
  model.embeddings->rows->use(rows, true, where);
}

/// Has a pruned model's word embeddings as a whole again, for what needs each row.
template <class Model>
void restore_rows(Model& model) {
  if (!model.embeddings || !model.embeddings->rows) return;
  model.embeddings->word.value() = model.embeddings->rows->whole();
  model.embeddings->word.numbers() = {};
  model.embeddings->rows = nullptr;
  if (model.decoder_embeddings) model.decoder_embeddings->rows = nullptr;
}

/// Reads `folder`/config.json and the weights beside it, or both of a GGUF file: a model of whichever family it is.
/// With `frozen`, each linear layer is frozen and kept in that precision as soon as it is read, so that its original
/// never takes memory beside the others'; where that is in blocks the word embeddings are frozen too, in q8, or as
/// stored where that has no more bits: for methods that train none of them. As stored they lie in the file, which stays
/// open. With `prune` rows of the word embeddings are read when they are first used; the file stays open. Errors name
/// the file, and the key or tensor: a model_type or an option that is not supported, a tensor that is missing, has
/// another shape, or a value that is NaN or infinite.
template <Real T = float, Backend B = Cpu>
model::Transformer<T, B> hf(const std::string& folder, LoadReport* report = nullptr,
                            std::optional<Precision> frozen = {}, bool prune = false, Where where = Where::current()) {
  using Linear = nn::Linear<T, B>;
  auto spec = read_spec(read_config(folder, where), where);
  prune = prune && !spec.patches;
  const Index vocabulary = prune ? std::exchange(spec.embeddings.vocabulary, 1) : 0;
  auto model = [&] {
    const LatePages late;  // what the config says is not yet compared with the weights
    return model::Transformer<T, B>(spec);
  }();
  const auto opened = std::make_shared<const io::Weights>(folder, where);
  const io::Weights& file = *opened;
  const auto names = detail::names_of(model, file, where);
  std::set<std::string> read, pruned;
  if (prune) pruned = {spec.names.embeddings.word};
  detail::check_parameters(model, names, pruned, where);
  if (prune) {
    model.spec.embeddings.vocabulary = vocabulary;
    read = detail::read_rows_later(model, opened, names, where);
  }
  KeptOtherwise kept;
  if (frozen) {
    std::set<std::string> later = pruned;
    if (auto& words = model.embeddings; words && !prune) {
      const std::string name = spec.names.embeddings.word;
      const auto* entry = names.find(name);
      if (entry) words->table = detail::frozen_table<T, B>(opened, *entry, words->word.shape(), *frozen, kept, where);
      if (words->table.defined()) {
        words->word.value() = {};
        if (model.decoder_embeddings) model.decoder_embeddings->table = words->table;
        names.check_equal(name, where);
        read.merge(detail::set_of(names.all(name)));
      }
    }
    nn::walk(model, [&](const std::string& name, Linear&) { later.insert({name + ".weight", name + ".bias"}); });
    read.merge(load_parameters(model, names, "", later, where));
    file.forget();
    read.merge(detail::load_frozen<T, B>(model, opened, names, *frozen, kept, where));
  } else read.merge(load_parameters(model, names, "", pruned, where));
  if (report) {
    kept.tell(report->notes);
    if (names.wrapped()) report->notes.push_back("the checkpoint's tensors are those under `" + names.lead() + "`");
    for (const auto& name : file.names())
      if (!read.contains(name) && !name.ends_with("position_ids")) report->unused.push_back(name);
  }
  return model;
}

namespace detail {

/// Brings rows [from[0]], [from[1]] … of a row-major matrix to the front, in that order.
template <class T>
void take_rows(std::span<T> values, const std::vector<std::size_t>& from) {
  const std::vector<T> old(values.begin(), values.end());
  const std::size_t width = values.size() / std::max<std::size_t>(from.size(), 1);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = old[from[i / width] * width + i % width];
}

/// Reads the parameters of a head that the checkpoint has in the right shape; the others, and those under `anew`, keep
/// their values and are reported as newly made. The rows of what is under `ordered` are taken in the order of `rows`.
template <class Head>
void read_head(Head& head, const CheckpointNames& names, const std::string& anew, const std::string& ordered,
               const std::vector<std::size_t>& rows, LoadReport* report, Where where) {
  const auto under = [](const std::string& name, const std::string& module) {
    return !module.empty() && name.starts_with(module + ".");
  };
  nn::for_each_parameter(head, [&]<Real T, Backend B>(const std::string& name, Parameter<T, B>& parameter) {
    const auto* entry = under(name, anew) ? nullptr : names.find(name);
    if (!entry || shape_of(*entry) != parameter.shape()) {
      if (report) report->initialised.push_back(name);
      return;
    }
    parameter.value().fill([&](std::span<T> to) {
      io::copy_finite_to(*entry, to, where);
      if (under(name, ordered) && !rows.empty()) take_rows(to, rows);
    });
    if (report)
      for (const auto& read : names.all(name)) std::erase(report->unused, read);
  });
}

/// The name of the embeddings whose tied output is called `word`.
inline std::string input_of(std::span<const model::Spelling> spellings, std::string_view word) {
  for (const auto& s : spellings)
    if (s.kind == model::Spelling::Kind::output && s.other == word) return std::string(s.name);
  return {};
}
/// A bias [1, vocabulary] that is no parameter, where the checkpoint has one that is not zero.
template <class Head>
void read_constant_bias(Head& head, const CheckpointNames& names, LoadReport* report, Where where) {
  const auto* entry = names.find(head.names.bias);
  if (!entry) return;
  auto bias = std::decay_t<decltype(head.bias)>::empty({1, head.shape()[0]});
  fill(bias, *entry, where);
  if (report) std::erase(report->unused, entry->name);
  const auto values = bias.value().values();
  if (std::all_of(values.begin(), values.end(), [](auto v) { return v == 0; })) return;
  head.bias.value() = bias.value().reshape({-1});
  head.bias.set_trainable(false);
}

/// What is done with the checkpoint's rows of the last layer of a head.
struct TakenRows {
  bool anew = false;
  std::vector<std::size_t> order;
};
/// `labels` rows for the classes `ours` (a regression has one and none; without names the rows stay as they are).
inline TakenRows taken_rows(const io::Config& config, const io::Entry& output, Index labels,
                            const std::vector<std::string>& ours, LoadReport* report) {
  const Index rows = output.shape.empty() ? 0 : output.shape[0];
  const auto theirs = HeadLabels::read(config, rows);
  const auto say = [&](const std::string& what) {
    if (report) report->notes.push_back("the checkpoint's head: " + what);
  };
  const std::string usual = labels == 1 ? "regression" : "single_label_classification";
  if (rows != labels) {
    say("has " + std::to_string(rows) + (rows == 1 ? " row" : " rows") + ", " + std::to_string(labels) +
        (labels == 1 ? " is needed: made anew" : " are needed: made anew"));
    return {true, {}};
  }
  if (!theirs.problem.empty() && theirs.problem != usual) {
    say("its problem_type is " + show_name(theirs.problem) + ", not '" + usual + "': made anew");
    return {true, {}};
  }
  if (labels == 1 || ours.empty()) return {};
  const auto found = head_rows(ours, theirs.names);
  if (found.order == HeadRows::Order::others) {
    say("its labels are others (" + show_rows(ours, theirs.names, found.rows) + "): made anew");
    return {true, {}};
  }
  const bool assumed = found.order == HeadRows::Order::assumed;
  if (assumed || !std::is_sorted(found.rows.begin(), found.rows.end()))
    say((assumed ? "the order of its labels is assumed: " : "its rows follow id2label: ") +
        show_rows(ours, theirs.names, found.rows));
  return {false, found.rows};
}

}  // namespace detail

/// The classification head of `model`'s family: its parts are read from the checkpoint in `folder` where that has them
/// (the last layer only for the same number of labels and the same kind of problem) and made anew otherwise,
/// N(0, 0.02²). Another `pooling` than the family's own has no layer in front of the last. `names` are the classes'
/// names: a head that is taken over is brought into their order by its config.json (see head_rows), and the report's
/// notes say so.
template <class Model>
auto load_head(const std::string& folder, const Model& model, Index labels, std::optional<nn::Pooling> pooling = {},
               std::uint64_t seed = 0, LoadReport* report = nullptr, const std::vector<std::string>& names = {},
               Where where = Where::current()) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  constexpr std::uint32_t site = 0xc0000000u;
  require(names.empty() || std::ssize(names) == labels,
          {"head: the number of names is another than that of labels", where}, names.size(), labels);
  auto spec = model.spec.head;
  if (pooling && *pooling != spec.pooling) {
    spec.pooling = *pooling;
    spec.dense = false;
  }
  const Index width = model.spec.hidden(), rows = spec.pooling == nn::Pooling::first_and_mean ? 2 * width : width;
  nn::Classifier<T, B> head{.output = nn::Linear<T, B>::normal(rows, labels, {seed, site, 0}),
                            .pooling = spec.pooling,
                            .dropout = static_cast<float>(spec.dropout),
                            .site = site + 1,
                            .dropout_before = spec.dropout_before,
                            .dense_name = spec.dense_name,
                            .output_name = spec.output_name,
                            .activation = spec.activation,
                            .norm_name = spec.norm_name};
  if (!spec.bias) head.output.bias = {};
  if (spec.dense) {
    head.dense = nn::Linear<T, B>::normal(width, width, {seed, site + 2, 0});
    if (!spec.dense_bias) head.dense->bias = {};
    if (spec.norm) head.norm = nn::Norm<T, B>::identity(width, *spec.norm, spec.norm_kind);
  }
  const io::Weights file(folder, where);
  const auto there = detail::names_of(model, file, where);
  const std::string output = spec.output_name;
  detail::TakenRows taken;
  if (const auto* entry = there.find(output + ".weight"))
    taken = detail::taken_rows(read_config(folder, where), *entry, labels, names, report);
  detail::read_head(head, there, taken.anew ? output : "", output, taken.order, report, where);
  return head;
}

/// The language-model head of `model`'s family. What the checkpoint lacks is made anew: matrices N(0, 0.02²), biases
/// zero, norms the identity. Its table is the word embeddings, unless the checkpoint has one of its own: there with
/// `tie_word_embeddings` false, or there with other values than the embeddings. With `frozen` a table of its own is
/// kept as hf keeps that of the embeddings.
template <class Model>
auto load_language_head(const std::string& folder, const Model& model, std::uint64_t seed = 0,
                        LoadReport* report = nullptr, std::optional<Precision> frozen = {},
                        Where where = Where::current()) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  auto head = model.language_head(where);
  if (head.dense) {
    const bool biased = head.dense->bias.defined();
    head.dense = nn::Linear<T, B>::normal(head.dense->in(), head.dense->out(), {seed, 0xc0000003u, 0});
    if (!biased) head.dense->bias = {};
    head.norm->reset();
  }
  if (head.bias.defined()) head.bias.value().zero();
  const auto opened = std::make_shared<const io::Weights>(folder, where);
  const auto names = detail::names_of(model, *opened, where);
  const bool tied = model.spec.tied;
  if (const auto* table = names.find(head.names.word)) {
    const auto* input = names.find(detail::input_of(model.spec.spellings, head.names.word));
    head.untied = !tied || !input || !CheckpointNames::same(*table, *input);
    if (head.untied) {
      const Shape shape = head.shape();
      detail::check_shape(*table, shape, where);  // never made anew
      KeptOtherwise kept;
      if (frozen) head.table = detail::frozen_table<T, B>(opened, *table, shape, *frozen, kept, where);
      else head.table = {};
      if (report) kept.tell(report->notes);
      head.word = head.table.defined() ? Parameter<T, B>() : Parameter<T, B>::empty(shape);
      if (report && head.table.defined())
        for (const auto& read : names.all(head.names.word)) std::erase(report->unused, read);
      if (report && tied)
        report->notes.push_back(table->name + " is used: it differs from the word embeddings, though the config ties " +
                                "them");
    }
  } else if (report && !tied) {
    report->notes.push_back("the output is the word embeddings: tie_word_embeddings is false, but there is no " +
                            std::string(head.names.word));
  }
  detail::read_head(head, names, "", "", {}, report, where);
  if (!head.bias.defined()) detail::read_constant_bias(head, names, report, where);
  return head;
}

}  // namespace meft::checkpoints
