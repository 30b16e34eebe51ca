// Owns: the JSON that says which run it is, and the reading back of it.
#include <array>
#include <set>

#include "flags.hpp"

namespace finetune {

namespace {

nlohmann::json json_of(const meft::OptionOf& option) {
  return std::visit([](const auto& value) { return nlohmann::json(value); }, option.value);
}
/// As on the command line.
std::string text_of(const nlohmann::json& value) {
  if (value.empty()) return "none";
  if (!value.is_array()) return value.is_string() ? value.get<std::string>() : value.dump();
  std::string out;
  for (const auto& one : value) out += (out.empty() ? "" : ",") + text_of(one);
  return out;
}

void read(const meft::JsonField& from, std::string& to) { to = from.string(); }
void read(const meft::JsonField& from, bool& to) { to = from.boolean(); }
void read(const meft::JsonField& from, std::int64_t& to) { to = from.integer(1, 1 << 20); }
void read(const meft::JsonField& from, std::uint64_t& to) {
  if (!from.value().is_number_unsigned()) from.wrong("an integer of at least 0");
  to = from.value().get<std::uint64_t>();
}
void read(const meft::JsonField& from, std::vector<std::string>& to) {
  to.clear();
  for (std::size_t i = 0; i < from.array().size(); ++i) to.push_back(from.at(i).string());
}

/// The method of an earlier run with its options; those on the command line must be the same.
void take_method(Flags& f, const meft::JsonField& config, const std::string& path) {
  f.method = meft::method_named(config.at("method").string());
  const auto count = meft::method_options(f.method).size();
  for (std::size_t i = 0; i < count; ++i) {
    const auto o = meft::method_options(f.method)[i];  // what is needed depends on those before it
    const std::string name(o.about.name);
    const bool before = !config.find(name) && o.about.stated != meft::Stated::always;  // the option was there
    if (!o.about.needs.empty() || (before && o.about.before.empty())) continue;
    const auto text = before ? std::string(o.about.before) : text_of(config.at(name).value());
    if (!meft::set_option(f.method, name, text))
      meft::fail(path + ": config: " + name + ": expected " + o.expected + ", found", text);
  }
  require_same_options(f, path);
}

}  // namespace

void require_same_options(Flags& f, const std::string& path) {
  const auto before = meft::method_options(f.method);
  set_method_options(f);
  const auto now = meft::method_options(f.method);
  for (std::size_t i = 0; i < now.size(); ++i)
    if (now[i].value != before[i].value)
      throw FlagError("--" + std::string(now[i].about.name), before[i].text() + ", as in " + path, now[i].text());
}

nlohmann::json describe(const Flags& f) {
  const auto facts = meft::method_facts(f.method);
  nlohmann::json out{{"task", f.task},
                     {"encoding", f.encoding},
                     {"method", meft::method_name(f.method)},
                     {"precision", name_of(*f.adapt.precision)},
                     {"pooling", f.pooling},
                     {"augment", f.augment},
                     {"batch", f.batch},
                     {"accumulate", f.accumulate},
                     {"epochs", f.epochs},
                     {"max-steps", f.max_steps},
                     {"lr", f.recipe.rate},
                     {"warmup", f.recipe.warmup},
                     {"weight-decay", f.recipe.decay},
                     {"clip", f.recipe.clip},
                     {"max-length", f.max_length},
                     {"seed", f.seed}};
  if (f.task == "tsv" || f.kind() == Kind::writing) {
    out["text"] = f.columns.text;
    out["label"] = f.columns.label;
    out["header"] = f.header;
  }
  if (f.max_target_length > 0) out["max-target-length"] = f.max_target_length;
  if (f.task == "tsv") {
    out["regression"] = f.columns.regression;
    if (!f.columns.label_names.empty()) out["label-names"] = f.columns.label_names;
    if (!f.columns.pair.empty()) out["text-pair"] = f.columns.pair;
    if (f.columns.threshold) out["threshold"] = *f.columns.threshold;
  }
  if (facts.recomputes) out["recompute"] = f.adapt.recompute;
  if (f.recipe.head_rate > 0 && f.has_head()) out["head-lr"] = f.recipe.head_rate;
  if (f.recipe.schedule == meft::Schedule::constant) out["schedule"] = "constant";
  if (f.prune_embeddings) out["prune-embeddings"] = true;
  if (f.ranks()) out["losses"] = f.losses;
  if (!f.prompt.empty()) out["template"] = f.prompt;
  if (!f.label_words.empty()) out["label-words"] = f.label_words;
  if (f.device != "cpu") out["device"] = f.device;
  const auto usual = meft::method_options(meft::method_named(meft::method_name(f.method)));
  const auto options = meft::method_options(f.method);
  for (std::size_t i = 0; i < options.size(); ++i) {
    const auto& about = options[i].about;
    if (about.stated == meft::Stated::changed &&
        (about.before.empty() ? options[i].value == usual[i].value : options[i].text() == about.before))
      continue;
    if (about.needs.empty()) out[std::string(about.name)] = json_of(options[i]);
  }
  return out;
}

void take(Flags& f, const nlohmann::json& config, const std::string& path) {
  const meft::JsonField all(config, path + ": config");
  const auto same = [&](const std::string& key, const nlohmann::json& before, const nlohmann::json& now) {
    if (now == before) return;
    throw FlagError("--" + key, text_of(before) + ", as in " + path, now.is_null() ? "another" : text_of(now));
  };
  // The task and the method say which flags there are.
  const std::string method = all.at("method").string();
  if (f.given.contains("task")) same("task", all.at("task").string(), f.task);
  if (f.given.contains("method")) same("method", method, meft::method_name(f.method));
  read(all.at("task"), f.task);
  f.method = meft::method_named(method);
  check_task(f);
  Flags plain;
  plain.task = f.task;
  plain.method = f.method;
  set_method_options(plain);
  const nlohmann::json now = describe(f), usual = describe(plain);
  // How data is found and cut into batches may change between training and prediction; what the adapter fixes may not.
  const std::set<std::string> free{"model", "data",   "encoding", "batch",        "text",
                                   "label", "header", "device",   "feature-cache"};
  for (const std::string& key : f.given) {
    if (free.contains(key) || f.method_options.contains(key)) continue;
    const auto value = now.value(key, nlohmann::json());
    const auto before = config.value(key == "label-names" ? "labels" : key, usual.value(key, nlohmann::json()));
    if (key != "text-pair" || before.is_null()) same(key, before, value);
  }
  const auto if_there = [&](const char* key, auto& to) {
    if (const auto found = all.find(key)) read(*found, to);
  };
  const auto unless_given = [&](const char* key, auto& to) {
    if (!f.given.contains(key)) if_there(key, to);
  };
  if (f.predict.empty()) unless_given("encoding", f.encoding);  // a file to predict is another one
  f.columns.encoding = meft::data::encoding(f.encoding);
  take_method(f, all, path);
  read(all.at("pooling"), f.pooling);
  if_there("augment", f.augment);
  if_there("prune-embeddings", f.prune_embeddings);
  if_there("losses", f.losses);
  if_there("template", f.prompt);
  if_there("label-words", f.label_words);
  std::string precision = "f32";
  if_there("precision", precision);
  f.adapt.precision = meft::precision_from(precision);
  read(all.at("max-length"), f.max_length);
  f.given.insert("max-length");  // by the run
  if_there("max-target-length", f.max_target_length);
  unless_given("batch", f.batch);
  read(all.at("seed"), f.seed);
  f.adapt.seed = f.seed;
  f.adapt.recompute = false;
  unless_given("text", f.columns.text);
  unless_given("text-pair", f.columns.pair);
  unless_given("label", f.columns.label);
  unless_given("header", f.header);
  f.columns.header_of_rows = !f.given.contains("header");
  f.columns.header = f.header == "yes"  ? meft::data::Header::present
                     : f.header == "no" ? meft::data::Header::absent
                                        : meft::data::Header::automatic;
  if_there("regression", f.columns.regression);
  if (const auto threshold = all.find("threshold")) f.columns.threshold = threshold->number();
  if (f.task == "tsv" && !f.columns.regression) read(all.at("labels"), f.columns.label_names);
}

}  // namespace finetune
