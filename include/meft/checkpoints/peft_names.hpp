// Owns: the names that PyPI's peft gives to what a method trains. Must not know: files, the methods.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <meft/method/option.hpp>
#include <meft/model/spec.hpp>

namespace meft::checkpoints {

namespace detail {

/// Of a matrix that a checkpoint has as rows of a larger one; null for others.
inline const model::Spelling* part_of(const model::TransformerSpec& spec, const std::string& module) {
  for (const auto& s : spec.spellings)
    if (s.kind == model::Spelling::Kind::part && s.of(module + ".weight")) return &s;
  return nullptr;
}
/// A module's name in the base model, in transformers 5 or before it.
inline std::string module_of(const model::TransformerSpec& spec, std::string module, bool before) {
  constexpr std::string_view end = ".weight";
  if (const auto* part = part_of(spec, module)) {
    const std::string whole = part->spelled(module + std::string(end));
    module = whole.substr(0, whole.size() - end.size());
  }
  if (before) return module;
  for (const auto& [from, to] : spec.modules)
    if (const auto at = module.find(from); at != module.npos) module.replace(at, from.size(), to);
  return module;
}

/// A parameter that a method put into a layer, as peft calls it.
struct PeftPlace {
  std::string module;  // of the base model
  const PeftTensor* tensor;
  const model::Spelling* part = nullptr;  // of the module's rows; null: all

  /// Of the module's rows of what has as many, the number of parts: else 1.
  std::int64_t parts() const { return part && tensor->shape == PeftTensor::Shape::outputs ? part->parts : 1; }
  std::vector<std::int64_t> shape(std::vector<std::int64_t> ours) const {
    if (tensor->shape == PeftTensor::Shape::column) ours.push_back(1);
    if (tensor->row()) ours.insert(ours.begin(), 1);
    ours.front() *= parts();
    return ours;
  }
};

/// The names of trained parameters in peft's files.
class PeftNames {
 public:
  struct Of {
    bool language = false;  // a model that predicts words
    bool before = false;    // transformers 5
  };
  PeftNames(const model::TransformerSpec& spec, const PeftForm& form, Of of)
      : spec_(&spec), form_(&form), of_(of), prefix_(of.language && spec.bare_language ? "" : spec.prefix) {}

  /// Of a parameter that the method put there; nothing for others.
  std::optional<PeftPlace> place(const std::string& ours) const {
    for (const auto& tensor : form_->tensors) {
      const std::string end = "." + std::string(tensor.ours);
      if (form_->joined && (ours == tensor.ours || ours.ends_with(end))) return PeftPlace{ours, &tensor};
      if (!ours.ends_with(end)) continue;
      std::string module = ours.substr(0, ours.size() - end.size());
      if (tensor.row()) module += "." + std::string(reader(tensor, module));
      return PeftPlace{prefix_ + module_of(*spec_, module, of_.before), &tensor, part_of(*spec_, module)};
    }
    return {};
  }
  /// Of any. BERT's pooler is a part of the model there.
  std::string theirs(const std::string& ours) const {
    if (const auto at = place(ours))
      return form_->joined ? joined : lead() + at->module + "." + std::string(at->tensor->theirs);
    return lead() + (ours.starts_with("pooler.") ? prefix_ : "") + ours;
  }
  /// The projection that reads what the tensor is multiplied with, by its name in the layer that the module is in.
  const char* reader(const PeftTensor& tensor, const std::string& module) const {
    const bool decodes = spec_->decoder_layer_names && module.starts_with(spec_->names.decoder_layers);
    const auto& names = decodes ? *spec_->decoder_layer_names : *spec_->layer_names;
    return tensor.shape == PeftTensor::Shape::hidden     ? names.down
           : tensor.shape == PeftTensor::Shape::attended ? names.output
                                                         : names.cross_output;
  }
  std::string lead() const { return form_->joined ? "base_model." : "base_model.model."; }

  static constexpr const char* joined = "prompt_embeddings";
  /// Where the columns of each of these parameters, by their names here and widths, begin there; `count` in all.
  struct Columns {
    std::map<std::string, std::int64_t> first;
    std::int64_t count = 0;
  };
  Columns columns(std::vector<std::pair<std::string, std::int64_t>> widths) const {
    const auto order = [&](const auto& one) {
      const auto* tensor = place(one.first)->tensor;
      return std::tuple(one.first.size() - tensor->ours.size(),
                        one.first.substr(0, one.first.size() - tensor->ours.size()),
                        tensor);  // a higher layer's number is longer or comes later
    };
    std::sort(widths.begin(), widths.end(), [&](const auto& a, const auto& b) { return order(a) < order(b); });
    Columns out;
    for (const auto& [name, width] : widths) out.first[name] = std::exchange(out.count, out.count + width);
    return out;
  }

 private:
  const model::TransformerSpec* spec_;
  const PeftForm* form_;
  Of of_;
  std::string prefix_;
};

/// A projection's name in a layer of the base model; of a gate that it has not, what there would be one for.
inline std::string name_of(const model::TransformerSpec& spec, Projection projection, bool before) {
  const auto& names = *spec.layer_names;
  const char* const gate = *names.gate ? names.gate : names.up;
  const char* const of[] = {names.query, names.key, names.value, names.output, names.up, gate, names.down};
  return module_of(spec, of[static_cast<std::size_t>(projection)], before);
}

/// Whether a tensor of a layer, `….NUMBER.projection.end`, is that.
inline bool of_layer(std::string_view tensor, std::string_view projection, std::string_view end) {
  const std::string after = "." + std::string(projection) + "." + std::string(end);
  if (!tensor.ends_with(after) || tensor.size() == after.size()) return false;
  const char before = tensor[tensor.size() - after.size() - 1];
  return before >= '0' && before <= '9';
}

}  // namespace detail

}  // namespace meft::checkpoints
