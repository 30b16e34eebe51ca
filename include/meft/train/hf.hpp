// Owns: a Hugging Face folder into a model: config.json, then the weights, each tensor checked by name and shape.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include <meft/io/config.hpp>
#include <meft/io/weights.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/nn/language.hpp>

namespace meft::train {

/// What a checkpoint had and lacked.
struct LoadReport {
  std::vector<std::string> initialised;  // the model's, not in the checkpoint: newly made
  std::vector<std::string> unused;       // the checkpoint's, not in the model
};

namespace detail {

/// The names under which a checkpoint may hold a parameter: with or without the family's prefix; norms of the first
/// BERT checkpoints are called gamma and beta, and tied tensors are saved under one of their names.
template <class Module>
std::vector<std::string> spellings(const std::string& name, const std::string& prefix) {
  std::vector<std::string> out{prefix + name, name};
  const auto also = [&](const std::string& modern, const std::string& old) {
    if (!name.ends_with(modern)) return;
    const std::string spelled = name.substr(0, name.size() - modern.size()) + old;
    out.push_back(prefix + spelled);
    out.push_back(spelled);
  };
  also("LayerNorm.weight", "LayerNorm.gamma");
  also("LayerNorm.bias", "LayerNorm.beta");
  if constexpr (requires { Module::aliases(name); })
    for (const auto& alias : Module::aliases(name)) out.insert(out.end(), {prefix + alias, alias});
  return out;
}

inline Shape shape_of(const io::Entry& entry) {
  Shape out;
  for (const std::int64_t d : entry.shape) out.push(d);
  return out;
}
/// The same shape, or the kernel [out, channels, patch, patch] of a convolution that is a matrix [out, in] here.
inline bool fits(const io::Entry& entry, const Shape& shape) {
  if (entry.shape.size() > Shape::max_rank) return false;
  const Shape found = shape_of(entry);
  if (found == shape) return true;
  return found.rank() == 4 && shape.rank() == 2 && found[0] == shape[0] && found.size() == shape.size() &&
         entry.name.ends_with("projection.weight");
}

}  // namespace detail

/// Reads every parameter of `module` from `file`. Throws naming the tensor when one is missing or has another shape.
/// Gives the names that were read. `within` is the module's own name; parameters named in `skipped` are left alone.
template <class Module>
std::set<std::string> load_parameters(Module& module, const io::Weights& file, const std::string& prefix,
                                      const std::string& within = "", const std::set<std::string>& skipped = {},
                                      Where where = Where::current()) {
  std::set<std::string> read;
  std::string missing;
  nn::for_each_parameter(
      module,
      [&](const std::string& name, auto& parameter) {
        if (skipped.contains(name)) return;
        for (const auto& spelled : detail::spellings<Module>(name, prefix)) {
          if (!file.contains(spelled)) continue;
          const auto& entry = file.find(spelled);
          if (!detail::fits(entry, parameter.shape()))
            fail({"load: " + entry.file + ": tensor " + spelled + " has the wrong shape", where},
                 "expected " + parameter.shape().text(), "found " + io::detail::shape_text(entry.shape));
          parameter.value().fill([&](auto to) { io::copy_to(entry, to, where); });
          for (const auto& same : detail::spellings<Module>(name, prefix))  // a tied tensor may be there twice
            if (file.contains(same)) read.insert(same);
          return;
        }
        missing += (missing.empty() ? "" : ", ") + name;
      },
      within);
  if (!missing.empty())
    fail({"load: " + file.path() + ": tensors are missing (with or without `" + prefix + "`)", where}, missing);
  return read;
}

/// Reads `folder`/config.json and the weights beside it into a Model (model::Bert<float> …). With `frozen`, each linear
/// layer is frozen and packed in that precision as soon as it is read, so that its original never takes memory beside
/// the others': for methods that train none of them.
template <class Model>
Model hf(const std::string& folder, LoadReport* report = nullptr, std::optional<Precision> frozen = {},
         Where where = Where::current()) {
  using Linear = nn::Linear<typename Model::value_type, typename Model::backend>;
  Model model(Model::Config::read(io::Config(folder + "/config.json")));
  const io::Weights file(folder, where);
  std::set<std::string> read;
  if (frozen) {
    std::set<std::string> linear;
    nn::walk(model, [&](const std::string& name, Linear&) { linear.insert({name + ".weight", name + ".bias"}); });
    read = load_parameters(model, file, model.prefix(), "", linear, where);
    file.forget();
    nn::walk(model, [&](const std::string& name, Linear& layer) {
      read.merge(load_parameters(layer, file, model.prefix(), name, {}, where));
      freeze(layer);
      layer.precision = *frozen;
      layer.pack();
      Model::backend::pool().trim();
      file.forget();
    });
  } else read = load_parameters(model, file, model.prefix(), "", {}, where);
  if (report)
    for (const auto& name : file.names())
      if (!read.contains(name) && !name.ends_with("position_ids")) report->unused.push_back(name);
  return model;
}

namespace detail {

/// Reads the parameters of a head, each under `prefix` or without, that the checkpoint has in the right shape; the
/// others keep their values and are reported as newly made.
template <class Head>
void read_head(Head& head, const io::Weights& file, const std::string& prefix, LoadReport* report, Where where) {
  nn::for_each_parameter(head, [&]<Real T, Backend B>(const std::string& name, Parameter<T, B>& parameter) {
    for (const auto& spelled : {prefix + name, name})
      if (file.contains(spelled) && shape_of(file.find(spelled)) == parameter.shape()) {
        parameter.value().fill([&](auto to) { io::copy_to(file.find(spelled), to, where); });
        if (report) std::erase(report->unused, spelled);
        return;
      }
    if (report) report->initialised.push_back(name);
  });
}

}  // namespace detail

/// The classification head of `model`'s family: its parts are read from the checkpoint in `folder` where that has them
/// (the last layer only for the same number of labels) and made anew otherwise, N(0, 0.02²). Another `pooling` than the
/// family's own has no layer in front of the last.
template <class Model>
auto load_head(const std::string& folder, const Model& model, Index labels, std::optional<nn::Pooling> pooling = {},
               std::uint64_t seed = 0, LoadReport* report = nullptr, Where where = Where::current()) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  constexpr std::uint32_t site = 0xc0000000u;
  auto spec = model.head();
  if (pooling && *pooling != spec.pooling) {
    spec.pooling = *pooling;
    spec.dense = false;
  }
  const Index width = model.hidden(), rows = spec.pooling == nn::Pooling::first_and_mean ? 2 * width : width;
  nn::Classifier<T, B> head{.output = nn::Linear<T, B>::normal(rows, labels, {seed, site, 0}),
                            .pooling = spec.pooling,
                            .dropout = static_cast<float>(spec.dropout),
                            .site = site + 1,
                            .dropout_before = spec.dropout_before,
                            .dense_name = spec.dense_name,
                            .output_name = spec.output_name};
  if (!spec.bias) head.output.bias = {};
  if (spec.dense) head.dense = nn::Linear<T, B>::normal(width, width, {seed, site + 2, 0});
  detail::read_head(head, io::Weights(folder, where), model.prefix(), report, where);
  return head;
}

/// The language-model head of `model`'s family. What the checkpoint lacks is made anew: matrices N(0, 0.02²), biases
/// zero, norms the identity.
template <class Model>
auto load_language_head(const std::string& folder, const Model& model, std::uint64_t seed = 0,
                        LoadReport* report = nullptr, Where where = Where::current()) {
  using T = typename Model::value_type;
  auto head = model.language_head();
  if (head.dense) {
    head.dense =
        nn::Linear<T, typename Model::backend>::normal(head.dense->in(), head.dense->out(), {seed, 0xc0000003u, 0});
    head.norm = nn::LayerNorm<T, typename Model::backend>::identity(head.dense->out(), head.norm->epsilon);
  }
  if (head.bias.defined()) head.bias.value().zero();
  detail::read_head(head, io::Weights(folder, where), model.prefix(), report, where);
  return head;
}

}  // namespace meft::train
