// Owns: what a run trained as a folder of PyPI's peft, adapter_config.json and adapter_model.safetensors, and the
// reading of one. Must not know: the methods, how training goes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/checkpoints/peft_names.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/method/any.hpp>

namespace meft::checkpoints {

inline constexpr const char *peft_config = "adapter_config.json", *peft_model = "adapter_model.safetensors";

namespace detail {

/// The update of a module: of its rows, or of parts of these.
struct PeftUpdate {
  struct Factors {
    const io::Entry *first = nullptr, *second = nullptr;  // [rank, in], [out, rank]
  };
  std::map<int, Factors> of{};  // by part
  int parts = 1;

  /// As one, of `times` its rank: first factors below each other, second ones in the rows of their parts, else zeros.
  std::pair<std::vector<std::byte>, std::vector<std::byte>> joined(std::int64_t times) const {
    const auto& any = of.begin()->second;
    const auto one = io::dtype_bytes(any.first->dtype), rows = static_cast<std::size_t>(any.second->shape[0]);
    const std::size_t rank = static_cast<std::size_t>(any.first->shape[0]) * one,
                      all = rank * static_cast<std::size_t>(times);
    std::vector<std::byte> first(any.first->bytes.size() * static_cast<std::size_t>(times)),
        second(static_cast<std::size_t>(parts) * rows * all);
    std::size_t place = 0;
    for (const auto& [part, factors] : of) {
      std::copy(factors.first->bytes.begin(), factors.first->bytes.end(),
                first.begin() + static_cast<std::ptrdiff_t>(place * factors.first->bytes.size()));
      for (std::size_t row = 0; row < rows; ++row)
        std::memcpy(second.data() + (static_cast<std::size_t>(part) * rows + row) * all + place * rank,
                    factors.second->bytes.data() + row * rank, rank);
      ++place;
    }
    return {std::move(first), std::move(second)};
  }
};

/// A number as an integer where it is one.
inline nlohmann::json number_of(double value) {
  if (value == std::floor(value) && std::fabs(value) < 1e15) return static_cast<std::int64_t>(value);
  return value;
}

}  // namespace detail

/// The method in peft's files for such a model; null where peft has none of the kind.
inline const PeftForm* peft_form(const AnyMethod& method, const model::TransformerSpec& spec) {
  const auto* form = meft::peft_form(method);
  const bool none = form && (form->joined ? spec.decoder || spec.patches : spec.fused() && !peft_product(method));
  return none ? nullptr : form;
}

/// What stands in adapter_config.json besides the method.
struct PeftBase {
  std::string model;                // the checkpoint's folder
  std::string task;                 // peft's task_type; nothing: `architecture` says what the model is
  std::string architecture{};       // the class in transformers
  bool language = false;            // it predicts words
  std::vector<std::size_t> rows{};  // of the head's last layer, for the classes in order; none: as they are
};

/// Writes tensors of a run, by their names here, as peft does; the configuration comes last. What the method did not
/// put into layers, a head's, is listed as modules_to_save; its rows are in the checkpoint's order, which is what
/// peft's user reads a prediction's name by.
inline void write_peft(const std::string& folder, const io::Safetensors& trained, const model::TransformerSpec& spec,
                       const AnyMethod& method, const PeftBase& base, Where where = Where::current()) {
  const auto* form = peft_form(method, spec);
  require(form != nullptr, {"peft: has no such method for the model", where}, method_name(method), spec.family);
  const detail::PeftNames names(spec, *form, {.language = base.language});
  std::vector<io::NamedTensor> tensors;
  const std::string output = std::string(spec.head.output_name) + ".";
  std::vector<std::size_t> back(base.rows.size());
  for (std::size_t i = 0; i < back.size(); ++i) back.at(base.rows[i]) = i;
  std::deque<std::vector<std::byte>> made;
  const auto product = peft_product(method);
  std::map<std::string, detail::PeftUpdate> updates;  // by module
  std::vector<std::pair<std::string, std::int64_t>> columns;
  std::set<std::string> target, feedforward, whole;
  for (const auto& name : trained.names()) {
    const auto& entry = trained.find(name, where);
    const auto place = names.place(name);
    if (form->joined && place) {
      columns.emplace_back(name, entry.shape[1]);
      continue;
    }
    if (!place) whole.insert(name.substr(0, name.find('.')));
    else {
      target.insert(place->module);
      if (place->tensor->row()) feedforward.insert(place->module);
    }
    if (place && product) {
      auto& update = updates[place->module];
      auto& [first, second] = update.of[place->part ? place->part->part : 0];
      (place->tensor == &form->tensors[0] ? first : second) = &entry;
      if (place->part) update.parts = place->part->parts;
      continue;
    }
    auto bytes = entry.bytes;
    if (!back.empty() && name.starts_with(output)) {
      auto& rows = made.emplace_back(bytes.begin(), bytes.end());
      detail::take_rows(std::span(rows), back);
      bytes = rows;
    }
    tensors.push_back({names.theirs(name), entry.dtype, place ? place->shape(entry.shape) : entry.shape, bytes});
  }
  std::int64_t times = 1;  // the rank that is written: of all modules the same
  for (const auto& [module, update] : updates) times = std::max<std::int64_t>(times, std::ssize(update.of));
  for (const auto& [module, update] : updates) {
    for (const auto& [part, factors] : update.of)
      require(factors.first && factors.second, {"peft: a factor of an update is missing", where}, module);
    auto [a, b] = update.joined(times);
    const auto& [first, second] = update.of.begin()->second;
    const std::string at = names.lead() + module + ".";
    tensors.push_back({at + std::string(form->tensors[0].theirs),
                       first->dtype,
                       {times * first->shape[0], first->shape[1]},
                       made.emplace_back(std::move(a))});
    tensors.push_back({at + std::string(form->tensors[1].theirs),
                       second->dtype,
                       {update.parts * second->shape[0], times * second->shape[1]},
                       made.emplace_back(std::move(b))});
  }
  nlohmann::json config{{"peft_type", form->type}, {"base_model_name_or_path", base.model}, {"inference_mode", true}};
  std::vector<std::byte> rows;
  if (!form->joined) config["target_modules"] = target;
  else {
    const auto& layer = spec.layers.layer;
    const auto all = names.columns(columns);
    const bool keys = form->tensors.size() > 1;  // and values, of each layer
    config["token_dim"] = all.count / std::ssize(columns);
    config["num_layers"] = spec.layers.count;
    config["num_attention_heads"] = keys && layer.key_heads ? layer.key_heads : layer.heads;
    config["num_transformer_submodules"] = 1;
    if (keys) config["encoder_hidden_size"] = all.count / std::ssize(columns), config["prefix_projection"] = false;
    else config["prompt_tuning_init"] = "RANDOM";
    std::string dtype;
    std::int64_t count = 0;
    for (const auto& [name, width] : columns) {
      const auto& entry = trained.find(name, where);
      dtype = entry.dtype, count = entry.shape[0];
      const auto one = io::dtype_bytes(dtype), part = static_cast<std::size_t>(width) * one;
      rows.resize(static_cast<std::size_t>(count * all.count) * one);
      for (std::int64_t row = 0; row < count; ++row)
        std::memcpy(rows.data() + static_cast<std::size_t>(row * all.count + all.first.at(name)) * one,
                    entry.bytes.data() + static_cast<std::size_t>(row) * part, part);
    }
    tensors.push_back({names.joined, dtype, {count, all.count}, rows});
  }
  config["task_type"] = base.task.empty() ? nlohmann::json() : nlohmann::json(base.task);
  if (base.task.empty() && !base.architecture.empty())
    config["auto_mapping"] = {{"base_model_class", base.architecture}, {"parent_library", "transformers"}};
  config["modules_to_save"] = whole.empty() ? nlohmann::json() : nlohmann::json(whole);
  if (!feedforward.empty()) config["feedforward_modules"] = feedforward;
  for_peft_numbers(method, [&](const char* name, const auto& value) {
    config[name] = detail::number_of(static_cast<double>(value) * static_cast<double>(times));  // rank and factor
  });
  io::write_safetensors(folder + "/" + peft_model, std::move(tensors), {{"format", "pt"}}, where);
  io::write_atomically(folder + "/" + peft_config, config.dump(2) + "\n", where);
}

/// The method of an adapter_config.json, with its numbers. Throws for a type that none has, and for what it is not able
/// to.
inline AnyMethod peft_method(const io::Config& config, Where where = Where::current()) {
  const auto type = config.text("peft_type", {}, where);
  std::string types;
  for (auto& method : all_methods()) {
    const auto* form = peft_form(method);
    if (!form) continue;
    if (form->type != type) {
      types += (types.empty() ? "" : " or ") + std::string(form->type);
      continue;
    }
    for (const auto key : form->without) {
      const auto at = config.tree().find(std::string(key));
      if (at == config.tree().end() || at->is_null() || *at == false || *at == "none" ||
          (at->is_structured() && at->empty()))
        continue;
      config.wrong(key, "nothing of the kind: meft's " + std::string(method_name(method)) + " has none", where);
    }
    const auto start = config.tree().find(std::string(form->start));
    if (start != config.tree().end() && start->is_string() &&
        std::find(form->starts.begin(), form->starts.end(), start->get<std::string>()) == form->starts.end())
      config.wrong(form->start,
                   "a start that leaves the checkpoint's weights as they are (peft's save_pretrained makes it one by "
                   "path_initial_model_for_weight_conversion)",
                   where);
    for_peft_numbers(method, [&]<class V>(const char* name, V& value) {
      if constexpr (std::is_integral_v<V>) value = config.integer(name, {1, 65536}, where);
      else value = config.number(name, {0.0, 1e9}, where);
    });
    for_peft_flags(method, [&](const char* name) { return config.flag(name, false, where); });
    return method;
  }
  config.wrong("peft_type", types, where);
}

/// A folder that peft wrote.
struct PeftAdapter {
  io::Config config;
  io::Weights weights;

  /// Whether a folder is one.
  static bool is_there(const std::string& folder) { return meft::is_there(folder + "/" + peft_config); }
  explicit PeftAdapter(const std::string& folder, Where where = Where::current())
      : config(folder + "/" + peft_config, where),
        weights(
            folder + (meft::is_there(folder + "/" + peft_model) ? std::string("/") + peft_model : "/adapter_model.bin"),
            where) {}

  /// That of the configuration, with what the tensors of such a model say of it.
  AnyMethod method(const model::TransformerSpec& spec, Where where = Where::current()) const {
    auto out = peft_method(config, where);
    const auto there = weights.names();
    const auto end = meft::peft_form(out)->tensors[0].theirs;
    for_peft_changed(out, [&](Projection projection) {
      const auto module = detail::name_of(spec, projection, false), before = detail::name_of(spec, projection, true);
      return std::any_of(there.begin(), there.end(), [&](const std::string& name) {
        return detail::of_layer(name, module, end) || detail::of_layer(name, before, end);
      });
    });
    return out;
  }

  /// Throws when the file has fewer numbers than the configured method adds to the model: before these are made.
  void check_size(const model::TransformerSpec& spec, Where where = Where::current()) const {
    const auto of = method(spec, where);
    const auto added = [&](const model::LayersSpec& l) { return added_weights(of, StepSizes::of(l.layer)) * l.count; };
    std::size_t found = 0;
    for (const auto& name : weights.names()) {
      const auto& entry = weights.find(name, where);
      found += entry.bytes.size() / std::max<std::size_t>(io::dtype_bytes(entry.dtype), 1);
    }
    // Half: what reads a layer's input is as wide as it, what is written may be narrower.
    if (const auto expected = (added(spec.layers) + (spec.decoder ? added(*spec.decoder) : 0)) / 2;
        found < static_cast<std::size_t>(expected))
      fail({"load: " + weights.path() + ": " + config.path() + " tells of at least " + std::to_string(expected) +
                " numbers, found " + std::to_string(found),
            where});
  }
  /// The rows of a head's last layer, of classes; 0 where it is not there.
  Index classes(const model::TransformerSpec& spec, Where where = Where::current()) const {
    const auto* form = peft_form(method(spec, where), spec);
    require(form != nullptr, {"peft: has no such method for the model", where}, config.path(), spec.family);
    const std::string name = detail::PeftNames(spec, *form, {}).lead() + std::string(spec.head.output_name) + ".weight";
    if (!weights.contains(name)) return 0;
    const auto& entry = weights.find(name, where);
    if (entry.shape.size() != 2 || entry.shape[0] < 1 || entry.shape[1] < 1)
      fail({"load: " + weights.path() + ": tensor " + name + " has the wrong shape", where},
           "expected [classes, width]", "found " + io::detail::shape_text(entry.shape));
    return entry.shape[0];
  }

  /// Reads what trains under the method; parameters of a head that are not in the file stay as they are, but those in
  /// `anew`; an update of one, as `all-linear` has it of BERT's pooler, is taken into it. `rows` are those of the
  /// head's last layer for the classes in order; none: as they are. Throws, having changed nothing, for tensors that
  /// are missing, are left, or have another shape.
  template <Real T, Backend B>
  void load(nn::Named<T, B> trained, const model::TransformerSpec& spec, const AnyMethod& method,
            const std::vector<std::string>& anew = {}, const std::vector<std::size_t>& rows = {},
            Where where = Where::current()) const {
    const auto& form = *meft::peft_form(method);
    const auto product = peft_product(method);
    const detail::PeftNames names(spec, form, {}), before(spec, form, {.before = true});
    std::set<std::string> left;
    for (const auto& name : weights.names()) left.insert(name);
    const auto take = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
      const auto& entry = weights.find(name, where);
      left.erase(name);
      if (entry.shape != shape)
        fail({"load: " + weights.path() + ": tensor " + name + " has the wrong shape", where},
             "expected " + io::detail::shape_text(shape), "found " + io::detail::shape_text(entry.shape));
      return &entry;
    };
    const auto factor = [&](const std::string& weight, std::size_t i) {
      return weight.substr(0, weight.size() - std::strlen("weight")) + std::string(form.tensors[i].theirs);
    };
    const auto updated = [&](const std::string& name) {
      return product && name.ends_with(".weight") && weights.contains(factor(name, 0));
    };
    // A model without a head has no prefix.
    const auto theirs_of = [&](const std::string& ours) {
      for (const auto* by : {&names, &before}) {
        const std::string all = by->theirs(ours), lead = by->lead();
        if (weights.contains(all) || updated(all)) return all;
        if (!all.starts_with(lead + spec.prefix)) continue;
        const std::string bare = lead + all.substr(lead.size() + std::string_view(spec.prefix).size());
        if (weights.contains(bare) || updated(bare)) return bare;
      }
      return names.theirs(ours);
    };
    struct Found {
      const io::Entry *whole = nullptr, *first = nullptr, *second = nullptr;  // its value; factors of its update
      Index part = 0, parts = 1;                                              // of the value
    };
    std::vector<Found> found;
    std::vector<std::pair<std::string, std::int64_t>> widths;
    if (form.joined)
      for (const auto& [ours, p] : trained)
        if (names.place(ours)) widths.emplace_back(ours, p.shape()[1]);
    const auto columns = names.columns(std::move(widths));
    for (const auto& [ours, p] : trained) {
      const auto place = names.place(ours);
      const std::string theirs = theirs_of(ours);
      auto& of = found.emplace_back();
      std::vector<std::int64_t> shape(p.shape().begin(), p.shape().end());
      if (!place && shape.size() == 2 && updated(theirs)) {
        of.first = take(factor(theirs, 0), {product->rank, shape.back()});
        of.second = take(factor(theirs, 1), {shape.front(), product->rank});
      }
      if (!weights.contains(theirs)) {
        if (place || std::find(anew.begin(), anew.end(), ours) != anew.end())
          fail({"load: " + weights.path() + ": tensor " + names.theirs(ours) + " is missing", where});
        continue;
      }
      if (place) shape = place->shape(std::move(shape));
      if (place && place->parts() > 1) of.part = place->part->part, of.parts = place->parts();
      if (place && form.joined) shape[1] = columns.count;
      of.whole = take(theirs, shape);
    }
    if (!left.empty())
      fail({"load: " + weights.path() + ": a tensor that this method does not train", where}, *left.begin());
    const auto read = [&](const io::Entry& entry, Index size) {
      std::vector<T> out(static_cast<std::size_t>(size));
      io::copy_finite_to(entry, std::span<T>(out), where);
      return out;
    };
    std::vector<std::vector<T>> values;
    for (std::size_t i = 0; i < trained.size(); ++i) {
      const auto& [ours, p] = trained[i];
      const auto [whole, first, second, part, parts] = found[i];
      auto& out = values.emplace_back();
      if (const auto at = columns.first.find(ours); at != columns.first.end()) {
        const auto all = read(*whole, p.shape()[0] * columns.count);
        for (Index row = 0, width = p.shape()[1]; row < p.shape()[0]; ++row)
          out.insert(out.end(), all.begin() + row * columns.count + at->second,
                     all.begin() + row * columns.count + at->second + width);
        continue;
      }
      const bool classes = !rows.empty() && ours.starts_with(std::string(spec.head.output_name) + ".");
      if (whole) {
        const auto all = read(*whole, parts * p.size());
        out.assign(all.begin() + part * p.size(), all.begin() + (part + 1) * p.size());
      }
      if (whole && classes) detail::take_rows(std::span(out), rows);
      if (!first) continue;
      if (!whole) out = p.value().values();
      const auto tensor = [&](const io::Entry& e, bool order) {
        const Shape shape{e.shape[0], e.shape[1]};
        auto numbers = read(e, shape.size());
        if (order) detail::take_rows(std::span(numbers), rows);
        return Parameter<T, B>(Tensor<T, B>::from(shape, numbers));
      };
      std::vector<double> w(out.begin(), out.end());
      nn::Lora<T, B>{tensor(*first, false), tensor(*second, classes), product->factor}.merge(w, out);
      std::copy(w.begin(), w.end(), out.begin());
    }
    for (std::size_t i = 0; i < trained.size(); ++i)
      if (auto& p = trained[i].second; !values[i].empty()) p.value() = Tensor<T, B>::from(p.shape(), values[i]);
  }
};

}  // namespace meft::checkpoints
