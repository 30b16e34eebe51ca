// Owns: a model with its head as a folder that Hugging Face's transformers loads: weights, config.json, and what stands
// beside a checkpoint's weights. Must not know: how a model came to its weights.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/checkpoints/trained.hpp>
#include <meft/ops/shape.hpp>

namespace meft::checkpoints {

/// What a config.json says of the head.
struct ExportedHead {
  Predicts what = Predicts::classes;
  std::vector<std::string> labels{};  // of the classes in order; none: a number
  std::string problem_type{};         // or nothing
  bool untied = false;                // the language head's table is not the embeddings'
};

/// The files of a checkpoint that are copied as they are: the tokenizer's, the images', how text is generated.
inline constexpr const char* copied_files[] = {"tokenizer.json",
                                               "tokenizer_config.json",
                                               "vocab.txt",
                                               "vocab.json",
                                               "merges.txt",
                                               "added_tokens.json",
                                               "special_tokens_map.json",
                                               "sentencepiece.bpe.model",
                                               "spiece.model",
                                               "tokenizer.model",
                                               "chat_template.jinja",
                                               "preprocessor_config.json",
                                               "generation_config.json"};

namespace detail {

/// The source's config.json for a model with this head, in float32.
inline nlohmann::json config_with(const io::Config& source, const model::TransformerSpec& spec,
                                  const ExportedHead& head, Where where) {
  auto out = source.tree();
  out["architectures"] = {class_name(source, head.what, where)};
  out["dtype"] = "float32";
  for (const char* key : {"torch_dtype", "quantization_config", "num_labels", "_num_labels", "_name_or_path"})
    out.erase(key);
  if (head.what != Predicts::classes) {
    out["tie_word_embeddings"] = !head.untied;
    // Where it is not there T5's follows from the one above.
    if (std::string_view(spec.family) == "t5") out["scale_decoder_outputs"] = spec.language->scale != 1;
    return out;
  }
  const auto labels = head.labels.empty() ? std::vector<std::string>{"LABEL_0"} : head.labels;
  out["id2label"] = out["label2id"] = nlohmann::json::object();
  for (std::size_t i = 0; i < labels.size(); ++i) {
    out["id2label"][std::to_string(i)] = labels[i];
    out["label2id"][labels[i]] = i;
  }
  out.erase("problem_type");
  if (!head.problem_type.empty()) out["problem_type"] = head.problem_type;
  return out;
}

/// Under which other names transformers looks for a parameter too, where the config ties nothing: the output's bias and
/// the word embeddings of both sides, but T5's, which it ties whatever the config says.
inline std::vector<std::string> untied_names(const model::TransformerSpec& spec, const std::string& name) {
  using Kind = model::Spelling::Kind;
  std::vector<std::string> out;
  for (const auto& s : spec.spellings) {
    const bool words =
        s.kind == Kind::same && name == spec.names.embeddings.word && std::string_view(spec.family) != "t5";
    if (s.of(name) && (words || s.kind == Kind::wins)) out.push_back(s.spelled(name));
  }
  return out;
}

/// The checkpoint's shape, where it differs by ones alone or is that of a kernel.
template <Real T, Backend B>
Tensor<T, B> shaped(const Tensor<T, B>& x, const io::Entry* entry) {
  if (!entry || entry->shape.size() > Shape::max_rank) return x;
  const auto without_ones = [](const Shape& shape) {
    Shape out;
    for (const Index d : shape)
      if (d != 1) out.push(d);
    return out;
  };
  const Shape there = shape_of(*entry);
  return fits(*entry, x.shape()) || without_ones(there) == without_ones(x.shape()) ? x.reshape(there) : x;
}

/// What stands in `folder` beside a checkpoint's weights and is none of the `files` that will be written: it would be
/// read with them. Throws when one of all these is there and may not be replaced, or an adapter is, which is put on the
/// weights where it lies beside them.
inline std::vector<std::string> others_in(const std::string& folder, const std::vector<std::string>& files,
                                          bool overwrite, Where where) {
  const auto there = [&](const std::string& file) { return is_there(folder + "/" + file); };
  const auto refuse = [&](const std::string& file, const char* why) {
    fail({"export: " + folder + "/" + file + ": is there already" + why, where});
  };
  if (there("adapter_config.json")) refuse("adapter_config.json", ", and would be put on the weights that are written");
  std::vector<std::string> out;
  for (const std::string name : copied_files)
    if (there(name) && std::find(files.begin(), files.end(), name) == files.end()) out.push_back(name);
  if (overwrite) return out;
  if (!out.empty()) refuse(out[0], "");
  for (const auto& file : files)
    if (there(file)) refuse(file, "");
  return {};
}

/// The checkpoint's tensors of the model itself that have none of these parameters' names, as DINOv2's mask token:
/// those in modules that the parameters are in too, since heads may stand beside these.
inline std::vector<const io::Entry*> unread(const CheckpointNames& names, const std::set<std::string>& parameters) {
  std::set<std::string> read, modules;
  for (const auto& name : parameters) {
    read.merge(set_of(names.all(name)));
    modules.insert(name.substr(0, name.rfind('.')));
  }
  std::vector<const io::Entry*> out;
  for (const auto& name : names.file().names()) {
    if (read.contains(name) || !name.starts_with(names.lead()) || name.ends_with("position_ids")) continue;
    const auto own = name.substr(names.lead().size());
    const auto parent = own.substr(0, own.rfind('.')) + ".";
    if (std::any_of(modules.begin(), modules.end(), [&](const auto& m) { return (m + ".").starts_with(parent); }))
      out.push_back(&names.file().find(name));
  }
  return out;
}

}  // namespace detail

/// Writes a model, and its head, in the form of the checkpoint in `source` that it was loaded from: packed weights as
/// they are unpacked, names with the family's prefix, shapes the checkpoint's. config.json comes last, so that a folder
/// that is not whole is not taken for one. Such files that are there, and a tokenizer's that the checkpoint does not
/// have, are replaced and removed where `overwrite` is set and an Error otherwise. Gives the names of the files.
template <class Model, class Head>
std::vector<std::string> write_hf(const std::string& folder, const std::string& source, Model& model, Head& head,
                                  const ExportedHead& about, bool overwrite = false, Where where = Where::current()) {
  namespace fs = std::filesystem;
  using T = typename Model::value_type;
  using B = typename Model::backend;
  const io::Config config(source, where);
  std::vector<std::string> copied;
  for (const char* name : copied_files)
    if (is_there(source + "/" + name)) copied.push_back(name);
  auto files = copied;
  files.insert(files.begin(), {"model.safetensors", "config.json"});
  std::error_code error;
  if (fs::equivalent(folder, source, error)) fail({"export: " + folder + ": is the checkpoint itself", where});
  const auto others = detail::others_in(folder, files, overwrite, where);
  fs::create_directories(folder, error);
  if (error) fail({"export: cannot make the folder " + folder, where}, error.message());

  const io::Weights file(source, where);
  const auto names = detail::names_of(model, file, where);
  detail::NamedTensors tensors;
  std::set<std::string> module_names;
  const bool untied = about.what == Predicts::classes ? !model.spec.tied : about.untied;
  std::map<std::string, std::vector<Var<T, B>>> wholes;  // of which not all parts are there yet
  const auto add = [&](const std::string& name, const std::string& prefix, const Tensor<T, B>& x) {
    module_names.insert(name);
    if (const auto* part = names.part(name)) {
      auto& whole = wholes[prefix + part->spelled(name)];
      whole.resize(static_cast<std::size_t>(part->parts));
      whole[static_cast<std::size_t>(part->part)] = x;
      if (std::all_of(whole.begin(), whole.end(), [](const auto& p) { return p.defined(); }))
        tensors.add(prefix + part->spelled(name), concat(whole).value());
      return;
    }
    const auto shaped = detail::shaped(x, names.find(name));
    tensors.add(prefix + name, shaped);
    if (untied)
      for (const auto& other : detail::untied_names(model.spec, name)) tensors.add(prefix + other, shaped);
  };
  const auto add_all = [&](auto& module, const auto& prefix_of) {
    nn::for_each_parameter(module,
                           [&](const std::string& name, Parameter<T, B>& p) { add(name, prefix_of(name), p.value()); });
    nn::walk(module, [&](const std::string& name, nn::Linear<T, B>& linear) {
      if (linear.packed.defined()) add(name + ".weight", prefix_of(name), linear.packed.unpack());
    });
  };
  const std::string prefix = model.spec.prefix;
  add_all(model, [&](const std::string&) { return prefix; });
  // BERT's pooler is a part of the model there.
  add_all(head, [&](const std::string& name) { return name.starts_with("pooler.") ? prefix : std::string(); });
  for (const auto* entry : detail::unread(names, module_names))
    tensors.add({prefix + entry->name.substr(names.lead().size()), entry->dtype, entry->shape, entry->bytes});
  const std::string weights = folder + "/model.safetensors", next = weights + ".next";
  tensors.write_plain(next, where);
  fs::remove(folder + "/config.json", error);  // that of what was there
  if (!error) fs::rename(next, weights, error);
  if (error) fail({"export: cannot replace what is in " + folder, where}, error.message());
  for (const auto& name : others)
    if (!fs::remove(folder + "/" + name, error) || error)
      fail({"export: cannot remove " + folder + "/" + name, where}, error.message());
  for (const auto& name : copied)
    io::write_atomically(folder + "/" + name, io::read_text(source + "/" + name, std::size_t{1} << 30, where), where);
  io::write_atomically(folder + "/config.json", detail::config_with(config, model.spec, about, where).dump(2) + "\n",
                       where);
  return files;
}

}  // namespace meft::checkpoints
