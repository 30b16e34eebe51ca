// Owns: parsing and checking the flags, one at a time and together.
#include "flags.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>

#include <meft/backend/device.hpp>
#include <meft/data/choice.hpp>

#include "help.hpp"

namespace finetune {

namespace {

constexpr std::array schedules{"linear", "constant"};
std::vector<std::string> tasks() {
  auto out = meft::data::label_tasks();
  out.insert(out.end(), {"tsv", "lm", "text2text"});
  for (auto& name : meft::data::choice_tasks()) out.push_back(std::move(name));
  out.push_back("images");
  return out;
}

/// Adds flags that check their own values.
class Adder {
 public:
  explicit Adder(CLI::App& app) : app_(app) {}

  /// Of the flags that follow.
  void group(const char* name) { group_ = name; }
  void flag(const char* name, bool& to, const std::string& help) { app_.add_flag(name, to, help)->group(group_); }

  CLI::Option* text(const char* name, std::string& to, const std::string& help, const char* shown = "TEXT") {
    return value(name, help, shown, [&to, name, shown](const std::string& s) {
      if (s.empty()) throw FlagError(name, shown, "an empty name");
      to = s;
    });
  }
  template <class Int>
  CLI::Option* integer(const char* name, Int& to, std::type_identity_t<Int> low, std::type_identity_t<Int> high,
                       const std::string& help) {
    const auto expected = "an integer from " + std::to_string(low) + " to " + std::to_string(high);
    return value(name, help + " [" + std::to_string(to) + "]", "N",
                 [&to, low, high, name, expected](const std::string& s) {
                   Int found{};
                   const auto [end, code] = std::from_chars(s.data(), s.data() + s.size(), found);
                   if (code != std::errc() || end != s.data() + s.size() || found < low || found > high)
                     throw FlagError(name, expected, "`" + s + "`");
                   to = found;
                 });
  }
  template <class Ok>
  CLI::Option* real(const char* name, double& to, const std::string& expected, const std::string& help, const Ok& ok,
                    const std::string& otherwise = "") {
    std::string shown = nlohmann::json(to).dump() + otherwise;
    return value(name, help + " [" + shown + "]", "X", [&to, name, expected, ok](const std::string& s) {
      double found{};
      const auto [end, code] = std::from_chars(s.data(), s.data() + s.size(), found);
      if (code != std::errc() || end != s.data() + s.size() || !std::isfinite(found) || !ok(found))
        throw FlagError(name, expected, "`" + s + "`");
      to = found;
    });
  }
  template <class Names, class Take>
  CLI::Option* choice(const char* name, const Names& names, const std::string& help, const Take& take) {
    std::string expected;
    for (const auto& n : names) expected += (expected.empty() ? "" : "|") + std::string(n);
    const std::string first = name;
    const auto said = first.substr(0, first.find(','));  // another name may follow
    return value(name, help, expected, [=](const std::string& s) {
      for (const auto& n : names)
        if (s == n) return take(s);
      throw FlagError(said, expected, "`" + s + "`");
    });
  }
  template <class Take>
  CLI::Option* value(const std::string& name, const std::string& help, const std::string& shown, const Take& take) {
    return app_.add_option_function<std::string>(name, take, help)->type_name(shown)->group(group_);
  }

 private:
  CLI::App& app_;
  std::string group_;
};

const meft::OptionOf* option_of(const std::vector<meft::OptionOf>& options, std::string_view name) {
  for (const auto& o : options)
    if (o.about.name == name) return &o;
  return nullptr;
}

/// The flags of the methods' options, one for all options of a name, with the methods that have it and its defaults.
void add_method_options(Adder& add, Flags& flags) {
  std::set<std::string_view> added;
  for (const auto& first : meft::all_methods())
    for (const auto& option : meft::method_options(first)) {
      const std::string name(option.about.name);
      if (!added.insert(option.about.name).second) continue;
      std::string owners, usual = option.text(), unusual;
      std::map<std::string, std::string> other;  // default → the methods that have it
      for (const auto& method : meft::all_methods()) {
        const auto options = meft::method_options(method);
        const auto* own = option_of(options, name);
        if (!own) continue;
        const auto also = [&](std::string& list) { (list += list.empty() ? "" : ", ") += meft::method_name(method); };
        also(owners);
        if (own->text() != usual) also(other[own->text()]);
      }
      for (const auto& [value, names] : other) unusual += "; " + names + ": " + value;
      const auto shown = option.about.shown.empty() ? usual + unusual : std::string(option.about.shown);
      add.value("--" + name, owners + ": " + std::string(option.about.help) + " [" + shown + "]", option.shown,
                [&flags, name](const std::string& text) { flags.method_options[name] = text; });
    }
}

/// Where methods are trained otherwise by default: `; mezo: 1e-06`.
std::string otherwise(double meft::Recipe::*value) {
  std::string out;
  for (const auto& method : meft::all_methods())
    if (const double own = meft::method_recipe(method).*value; own != meft::Recipe{}.*value)
      out += "; " + std::string(meft::method_name(method)) + ": " + nlohmann::json(own).dump();
  return out;
}

/// Names with commas between them, and perhaps spaces.
std::vector<std::string> names_in(const std::string& flag, const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    out.emplace_back(meft::data::detail::trimmed(std::string_view(text).substr(at, comma - at)));
    at = comma + 1;
  }
  auto sorted = out;
  std::sort(sorted.begin(), sorted.end());
  if (sorted.size() < 2 || sorted[0].empty() || std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    throw FlagError(flag, "at least two names with commas between them, each once", "`" + text + "`");
  return out;
}

/// `100` steps or `30s`.
void take_save_every(const std::string& text, Flags& flags) {
  double found{};
  const bool seconds = text.ends_with('s');
  const char* end = text.data() + text.size() - (seconds ? 1 : 0);
  const auto [last, code] = std::from_chars(text.data(), end, found);
  if (code != std::errc() || last != end || !(found > 0 && found < 1e9) || (!seconds && found != std::floor(found)))
    throw FlagError("--save-every", "a number of steps or, as `30s`, of seconds", "`" + text + "`");
  flags.save_steps = seconds ? 0 : static_cast<std::int64_t>(found);
  flags.save_seconds = seconds ? found : 0;
}

void require(bool ok, const std::string& flag, const std::string& expected, const std::string& found) {
  if (!ok) throw FlagError(flag, expected, found);
}

/// Flags that exclude or need each other.
void check(Flags& f) {
  const auto given = [&](const char* name) { return f.given.contains(name); };
  require(!f.resume || !f.overwrite, "--overwrite", "no --resume beside it", "both");
  require(f.predictions.empty() || !f.predict.empty(), "--predictions", "--predict beside it", "none");
  if (f.loads()) {
    const char* does = f.eval_only ? "--eval-only" : !f.predict.empty() ? "--predict" : "--merge";
    require(!f.resume, "--resume", "a run that trains", does);
    require(f.merge.empty() || does == std::string_view("--merge"), "--merge",
            "neither --eval-only nor --predict beside it", does);
    require(!f.eval_only || !f.data.empty(), "--data", "a folder or file to score with --eval-only", "nothing");
    require(!f.overwrite || !f.eval_only || !f.predict.empty(), "--overwrite",
            "a run that trains, --predict or --merge", "--eval-only");
  } else {
    require(!f.model.empty(), "--model", "the folder of a checkpoint", "nothing");
    require(!f.task.empty(), "--task", "cola, sst2 or another that --help lists", "nothing");
    require(!f.data.empty(), "--data", "a folder or file", "nothing");
  }
  if (!f.loads() || given("method")) {
    const std::string method = "--method " + std::string(meft::method_name(f.method));
    const auto facts = meft::method_facts(f.method);
    set_method_options(f);
    const bool narrows = facts.narrows && f.adapt.precision == meft::Precision::bf16;
    require(f.adapt.precision == meft::Precision::f32 || !facts.trains_all || narrows, "--weights",
            "a method that freezes weights beside " + std::string(name_of(*f.adapt.precision)), method);
    require(!narrows || f.device == "cpu", "--weights", "f32 on a device beside " + method, "bf16");
    require(f.adapt.precision <= meft::Precision::bf16 || !meft::method_writes(f.method), "--weights",
            "f32 or bf16 for a method that trains elements of the weights", method);
    require(!f.adapt.recompute || facts.recomputes, "--recompute",
            "a method that keeps activations: " +
                meft::method_names([](const meft::AnyMethod& m) { return meft::method_facts(m).recomputes; }),
            method);
    require(!f.adapt.feature_cache || facts.beside, "--feature-cache",
            "a method that trains beside frozen layers: " +
                meft::method_names([](const meft::AnyMethod& m) { return meft::method_facts(m).beside; }),
            method);
    require(!f.gives_head_rate() || (f.recipe.epsilon == 0 && !f.recipe.inner), "--head-lr",
            "a method that trains by gradients alone", method);
    for (const auto& [flag, value] : {std::pair("--weight-decay", f.recipe.decay), {"--clip", f.recipe.clip}})
      require(value == 0 || !f.recipe.inner, flag, "0 beside a method of two levels", method);
  }
  if (!f.task.empty()) check_task(f);
}

}  // namespace

void check_task(const Flags& f) {
  const auto given = [&](const char* name) { return f.given.contains(name); };
  const bool tsv = f.task == "tsv";
  const bool written = f.kind() == Kind::writing;
  const std::string found = "--task " + f.task + (written ? "" : ", which knows its columns");
  for (const char* flag : {"text", "label", "header"})
    require(!given(flag) || tsv || written || (!f.predict.empty() && flag == std::string_view("header")),
            std::string("--") + flag, "--task tsv or text2text", found);
  require(!given("max-target-length") || written, "--max-target-length", "--task text2text", "--task " + f.task);
  for (const char* flag : {"text-pair", "label-names", "threshold", "regression"})
    require(!given(flag) || tsv, std::string("--") + flag, "--task tsv", found);
  if ((tsv || written) && !f.loads())
    for (const auto& [flag, value] : {std::pair("--text", &f.columns.text), {"--label", &f.columns.label}})
      require(!value->empty(), flag, "a column's name or its number from 1, for --task " + f.task, "nothing");
  require(f.columns.label_names.empty() || !f.columns.regression, "--label-names", "classes, not --regression", "both");
  require(!f.columns.regression || !f.columns.threshold, "--regression", "no --threshold beside it", "both");
  require(!given("pooling") || f.kind() == Kind::texts || f.kind() == Kind::images, "--pooling",
          "a task that classifies", "--task " + f.task);
  const std::string headless = f.ranks() ? "--losses" : "--task " + f.task;
  require(!f.prune_embeddings || (f.has_head() && f.kind() != Kind::images), "--prune-embeddings",
          "a task with a head of its own: a language model's reads every row", headless);
  require(!f.gives_head_rate() || f.has_head(), "--head-lr", "a task with a head of its own", headless);
  require(!f.ranks() || f.kind() == Kind::texts || f.kind() == Kind::choices, "--losses",
          "a task of texts with classes, or of questions with options", "--task " + f.task);
  require(!f.ranks() || !f.regresses(), "--losses", "a task with classes",
          f.columns.regression ? "--regression" : "--task stsb");
  require(!f.ranks() || !given("pooling"), "--pooling", "no --losses beside it, which need no head", "both");
  for (const char* flag : {"template", "label-words"}) {
    require(!given(flag) || f.ranks() || f.loads(), std::string("--") + flag, "--losses beside it", "nothing");
    require(!given(flag) || f.kind() == Kind::texts, std::string("--") + flag, "a task of texts with classes",
            "--task " + f.task);
  }
  require(!given("encoding") || (f.kind() != Kind::choices && f.kind() != Kind::images), "--encoding",
          "a task that reads tables or lines", "--task " + f.task);
  require(!f.augment || f.kind() == Kind::images, "--augment", "--task images", "--task " + f.task);
  require(!given("max-length") || f.kind() != Kind::images, "--max-length", "a task of texts", "--task " + f.task);
}

Kind Flags::kind() const {
  if (task == "images") return Kind::images;
  if (task == "lm") return Kind::language;
  if (task == "text2text") return Kind::writing;
  const auto questions = meft::data::choice_tasks();
  return std::find(questions.begin(), questions.end(), task) == questions.end() ? Kind::texts : Kind::choices;
}

void set_method_options(Flags& f) {
  for (const auto& given : f.method_options) {
    const std::string& name = given.first;
    const auto has = [&](const meft::AnyMethod& m) { return option_of(meft::method_options(m), name) != nullptr; };
    if (!has(f.method))
      throw FlagError("--" + name, "--method " + meft::method_names(has),
                      "--method " + std::string(meft::method_name(f.method)));
    if (meft::set_option(f.method, name, given.second)) continue;
    const auto options = meft::method_options(f.method);
    throw FlagError("--" + name, option_of(options, name)->expected, "`" + given.second + "`");
  }
  for (const auto& o : meft::method_options(f.method))
    if (!o.about.needs.empty() && f.method_options.contains(std::string(o.about.name)))
      throw FlagError("--" + std::string(o.about.name), "--" + std::string(o.about.needs),
                      "--" + std::string(o.about.found));
  const auto usual = meft::method_recipe(f.method);
  const auto given = std::exchange(f.recipe, usual);
  const auto if_given = [&](const char* flag, auto meft::Recipe::*value) {
    if (f.given.contains(flag)) f.recipe.*value = given.*value;
  };
  if_given("lr", &meft::Recipe::rate);
  if_given("head-lr", &meft::Recipe::head_rate);
  if_given("warmup", &meft::Recipe::warmup);
  if_given("weight-decay", &meft::Recipe::decay);
  if_given("clip", &meft::Recipe::clip);
  if_given("schedule", &meft::Recipe::schedule);
}

namespace {

/// The program's flags, which write to `f`.
void add_flags(CLI::App& app, Flags& f) {
  app.allow_extras();
  app.set_version_flag("--version", "finetune " + std::string(version), "print the version");
  Adder add(app);
  add.group("What is learned");
  add.text(
      "--model", f.model,
      "checkpoint: config.json, weights (safetensors or pytorch_model.bin), tokenizer; or one GGUF file; --predict "
      "and --eval-only know it from the output folder",
      "DIR|FILE");
  add.choice("--task", tasks(), "what is learned", [&](auto& s) { f.task = s; });
  add.text("--data", f.data, "folder with the task's files, or one file, a tenth of which is held out", "DIR|FILE");
  add.text("--output", f.output, "folder of the run [finetuned]", "DIR");

  add.group("Columns of --task tsv and text2text");
  add.text("--text", f.columns.text, "column of the text: its name, or its number from 1");
  add.text("--text-pair", f.columns.pair, "tsv: column of the second text");
  add.text("--label", f.columns.label, "column of the label; text2text: of the text that is to be written");
  add.value("--threshold", "tsv: labels are numbers, their sign is the class, those nearer to 0 are dropped", "X",
            [&](const std::string& s) {
              double found{};
              const auto [end, code] = std::from_chars(s.data(), s.data() + s.size(), found);
              if (code != std::errc() || end != s.data() + s.size() || !(found >= 0 && std::isfinite(found)))
                throw FlagError("--threshold", "a number of at least 0", "`" + s + "`");
              f.columns.threshold = found;
            });
  add.value("--label-names",
            "tsv: the classes in order; where none is a number, labels may count them from 0 [those found]", "A,B,...",
            [&](const std::string& s) { f.columns.label_names = names_in("--label-names", s); });
  add.flag("--regression", f.columns.regression, "tsv: labels are numbers to be predicted");
  add.choice("--header", std::array{"auto", "yes", "no"}, "line 1 names the columns [auto: if any is given by name]",
             [&](auto& s) {
               f.header = s;
               f.columns.header = s == "yes"  ? meft::data::Header::present
                                  : s == "no" ? meft::data::Header::absent
                                              : meft::data::Header::automatic;
             });
  add.choice("--encoding", std::array{"utf-8", "latin1", "windows-1252"}, "of the files [utf-8]", [&](auto& s) {
    f.encoding = s;
    f.columns.encoding = meft::data::encoding(s);
  });

  add.group("Method");
  std::vector<std::string> names;
  std::string trains = "what trains [" + std::string(meft::method_name(f.method)) + "]";
  for (const auto& method : meft::all_methods()) {
    trains += (names.empty() ? ": " : "; ") + names.emplace_back(meft::method_name(method)) + ": ";
    trains += meft::method_about(method);
  }
  add.choice("--method", names, trains, [&](auto& s) { f.method = meft::method_named(s); });
  add.flag("--recompute", f.adapt.recompute, "keep each layer's input only (methods that keep activations)");
  add.integer("--feature-cache", f.adapt.feature_cache, 0, 1 << 24,
              "MiB of what frozen layers gave for examples seen before, for later epochs (methods that train beside "
              "them); on the CPU results do not depend on it");
  add_method_options(add, f);
  std::vector<std::string_view> kept;
  for (const auto& k : meft::weights::kept) kept.push_back(k.name);
  add.choice("--weights,--precision", kept,
             "how frozen weights are kept [f32]: bf16 halves them, and has --method full multiply in bf16 on a cpu; "
             "q8, q4, nf4: blocks of 8.5, 4.5, 4.25 bits a number; "
             "as-stored: as they lie in the checkpoint, mapped",
             [&](auto& s) { f.adapt.precision = meft::precision_from(s); });
  add.flag("--prune-embeddings", f.prune_embeddings,
           "of the word embeddings only the rows that the task uses are read and trained");
  add.choice("--pooling", std::array{"model", "first", "mean", "last", "first_and_mean"},
             "of tokens for the head [model: as the family does it]", [&](auto& s) { f.pooling = s; });
  add.flag("--augment", f.augment, "images: random crops and flips");

  add.group("Answers that a language model ranks");
  add.choice("--losses", std::array{"likelihood", "ranking", "tfew"},
             "classes as words, and options, by their likelihood, in place of a head: of the right answer, its share "
             "among the answers, or T-Few's three",
             [&](auto& s) { f.losses = s; });
  add.text("--template", f.prompt, "the text with {text}, {pair} and {label} in it [the task's]");
  add.value("--label-words", "a word for each class, in their order [the task's]", "A,B,...",
            [&](const std::string& s) { f.label_words = names_in("--label-words", s); });

  add.group("Training");
  const auto share = [](double x) { return x >= 0 && x < 1; };
  const auto not_negative = [](double x) { return x >= 0; };
  add.integer("--batch", f.batch, 1, 1 << 20, "sequences a batch; scoring takes as many, at most 32");
  add.integer("--accumulate", f.accumulate, 1, 1 << 20, "batches a step");
  add.integer("--epochs", f.epochs, 1, 1 << 20, "passes over the training examples");
  add.integer("--max-steps", f.max_steps, 0, std::int64_t{1} << 40, "stop after so many steps; 0: after the epochs");
  add.real(
      "--lr", f.recipe.rate, "a positive number below 10", "highest learning rate",
      [](double x) { return x > 0 && x < 10; }, otherwise(&meft::Recipe::rate));
  add.real(
      "--head-lr", f.recipe.head_rate, "a number of at least 0 below 10", "that of a head of the task's own; 0: --lr",
      [](double x) { return x >= 0 && x < 10; }, otherwise(&meft::Recipe::head_rate));
  add.choice("--schedule", schedules, "of the rate behind its rise: to zero, or constant [the method's]",
             [&](auto& s) { f.recipe.schedule = s == "linear" ? meft::Schedule::linear : meft::Schedule::constant; });
  add.real("--warmup", f.recipe.warmup, "a share of the steps in [0, 1)", "share of the steps in which the rate rises",
           share, otherwise(&meft::Recipe::warmup));
  add.real("--weight-decay", f.recipe.decay, "a number of at least 0", "decay of matrices", not_negative,
           otherwise(&meft::Recipe::decay));
  add.real("--clip", f.recipe.clip, "a number of at least 0", "clip gradients to this norm; 0: never", not_negative,
           otherwise(&meft::Recipe::clip));
  add.integer("--max-length", f.max_length, 3, 1 << 20, "tokens a sequence is cut to");
  add.integer("--max-target-length", f.max_target_length, 0, 1 << 20,
              "text2text: tokens of what is written; 0: half of --max-length in a causal model, else as many");
  add.integer("--seed", f.seed, 0, ~std::uint64_t{0}, "of batches, dropout and new weights");
  add.choice("--device", meft::device_names, "where the model lives [cpu]", [&](auto& s) { f.device = s; });
  add.integer("--threads", f.threads, 0, 4096, "0: one a core; results do not depend on it");

  add.group("The run and what it left");
  add.flag("--resume", f.resume, "go on with the run in the output folder");
  add.flag("--overwrite", f.overwrite,
           "a new run: remove the files of the one in the output folder; with --predict: replace predictions; with "
           "--merge: replace the folder's files");
  add.value("--save-every", "steps, or seconds as `30s`, between states [60s]", "N|Ns",
            [&](const std::string& s) { take_save_every(s, f); });
  add.integer("--log-every", f.log_every, 1, 1 << 30, "steps a line of the log");
  add.flag("--eval-only", f.eval_only,
           "score what the output folder holds on the dev examples of --data; where it has none, on those held out, or "
           "on all of a file that the run was not of");
  add.text(
      "--predict", f.predict,
      "predict with what the output folder holds: a file of texts, questions or lines, a folder of images, an image "
      "or a file of images; a line an input",
      "FILE|DIR");
  add.text("--predictions", f.predictions, "where predictions go [OUTPUT/predictions.tsv]", "FILE");
  add.text("--merge", f.merge,
           "write the model, with what the output folder holds taken into its weights, as a folder for Hugging Face's "
           "transformers: weights in float32, config.json, tokenizer (" +
               meft::method_names([](const meft::AnyMethod& m) { return meft::method_facts(m).merges(); }) + ")",
           "DIR");
}

}  // namespace

std::vector<std::string> flag_names() {
  CLI::App app;
  Flags f;
  add_flags(app, f);
  std::vector<std::string> out;
  for (const CLI::Option* option : app.get_options())
    out.insert(out.end(), option->get_lnames().begin(), option->get_lnames().end());
  return out;
}

bool parse(int argc, char** argv, Flags& f) {
  CLI::App app;
  add_flags(app, f);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    print_help(app);
    return false;
  } catch (const CLI::CallForVersion& version) {
    std::cout << version.what() << "\n";
    return false;
  } catch (const CLI::ArgumentMismatch& error) {  // `--batch: 1 required N missing`
    const std::string what = error.what();
    throw FlagError(what.substr(0, what.find(':')) + ": expected once, and a value behind it");
  } catch (const CLI::ParseError& error) {
    throw FlagError(error.what());
  }
  refuse_extras(app);
  for (const CLI::Option* option : app.get_options())
    if (option->count() > 0) f.given.insert(option->get_lnames().begin(), option->get_lnames().end());
  f.adapt.seed = f.seed;
  check(f);
  return true;
}

}  // namespace finetune
