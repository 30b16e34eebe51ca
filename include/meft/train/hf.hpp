// Owns: a Hugging Face folder into a model: config.json, then the weights, each tensor checked by name and shape.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include <meft/io/config.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/nn/classifier.hpp>

namespace meft::train {

/// What a checkpoint had and lacked.
struct LoadReport {
  std::vector<std::string> initialised;  // the model's, not in the checkpoint: newly made
  std::vector<std::string> unused;       // the checkpoint's, not in the model
};

namespace detail {

/// The names under which a checkpoint may hold a parameter: with or without the family's prefix; norms of the first
/// BERT checkpoints are called gamma and beta.
inline std::vector<std::string> spellings(const std::string& name, const std::string& prefix) {
  std::vector<std::string> out{prefix + name, name};
  const auto also = [&](const std::string& modern, const std::string& old) {
    if (!name.ends_with(modern)) return;
    const std::string spelled = name.substr(0, name.size() - modern.size()) + old;
    out.push_back(prefix + spelled);
    out.push_back(spelled);
  };
  also("LayerNorm.weight", "LayerNorm.gamma");
  also("LayerNorm.bias", "LayerNorm.beta");
  return out;
}

inline Shape shape_of(const io::Entry& entry) {
  Shape out;
  for (const std::int64_t d : entry.shape) out.push(d);
  return out;
}

}  // namespace detail

/// Reads every parameter of `module` from `file`. Throws naming the tensor when one is missing or has another shape.
/// Gives the names that were read. `within` is the module's own name; parameters named in `skipped` are left alone.
template <class Module>
std::set<std::string> load_parameters(Module& module, const io::Safetensors& file, const std::string& prefix,
                                      const std::string& within = "", const std::set<std::string>& skipped = {},
                                      Where where = Where::current()) {
  std::set<std::string> read;
  std::string missing;
  nn::for_each_parameter(
      module,
      [&](const std::string& name, auto& parameter) {
        if (skipped.contains(name)) return;
        for (const auto& spelled : detail::spellings(name, prefix)) {
          if (!file.contains(spelled)) continue;
          const auto& entry = file.find(spelled);
          if (entry.shape.size() > Shape::max_rank || !(detail::shape_of(entry) == parameter.shape()))
            fail({"load: " + entry.file + ": tensor " + spelled + " has the wrong shape", where},
                 "expected " + parameter.shape().text(), "found " + io::detail::shape_text(entry.shape));
          auto& value = parameter.value();
          using T = typename std::decay_t<decltype(value)>::value_type;
          io::copy_to(entry, std::span<T>(value.data(), static_cast<std::size_t>(value.size())), where);
          read.insert(spelled);
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
  const io::Safetensors file(folder, where);
  std::set<std::string> read;
  if (frozen) {
    std::set<std::string> linear;
    nn::walk(model, [&](const std::string& name, Linear&) { linear.insert({name + ".weight", name + ".bias"}); });
    read = load_parameters(model, file, Model::prefix, "", linear, where);
    file.forget();
    nn::walk(model, [&](const std::string& name, Linear& layer) {
      read.merge(load_parameters(layer, file, Model::prefix, name, {}, where));
      freeze(layer);
      layer.precision = *frozen;
      layer.pack();
      Model::backend::pool().trim();
      file.forget();
    });
  } else read = load_parameters(model, file, Model::prefix, "", {}, where);
  if (report)
    for (const auto& name : file.names())
      if (!read.contains(name) && !name.ends_with("position_ids")) report->unused.push_back(name);
  return model;
}

/// A classification head for the model in `folder`: pooler and classifier are read when the checkpoint has them (the
/// classifier only for the same number of labels) and made anew otherwise, N(0, 0.02²). Mean pooling has no pooler.
template <Real T, Backend B = Cpu>
nn::Classifier<T, B> load_head(const std::string& folder, Index width, Index labels, nn::Pooling pooling, float dropout,
                               std::uint64_t seed, const std::string& prefix = "bert.", LoadReport* report = nullptr,
                               Where where = Where::current()) {
  const io::Safetensors file(folder, where);
  constexpr std::uint32_t site = 0xc0000000u;
  nn::Classifier<T, B> head{{}, nn::Linear<T, B>::normal(width, labels, {seed, site, 0}), pooling, dropout, site + 1};
  if (pooling == nn::Pooling::first) head.dense = nn::Linear<T, B>::normal(width, width, {seed, site + 2, 0});
  nn::for_each_parameter(head, [&](const std::string& name, Parameter<T, B>& parameter) {
    for (const auto& spelled : {prefix + name, name})
      if (file.contains(spelled) && detail::shape_of(file.find(spelled)) == parameter.shape()) {
        io::copy_to(file.find(spelled),
                    std::span<T>(parameter.value().data(), static_cast<std::size_t>(parameter.size())), where);
        if (report) std::erase(report->unused, spelled);
        return;
      }
    if (report) report->initialised.push_back(name);
  });
  return head;
}

}  // namespace meft::train
