// Owns: the words in which a method describes itself: facts, and options by name with their ranges.
// Must not know: the methods, how a command line or a file writes an option.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace meft {

/// What others must know of a method, whatever it is.
struct MethodFacts {
  bool reversible = false;      // layers run as a stack of streams
  bool beside = false;          // what trains stands beside frozen layers: a step takes a batch in parts
  bool recomputes = true;       // a layer's input can be all that it keeps
  bool trains_all = false;      // nothing is frozen, so that no weight is packed
  bool narrows = false;         // weights that train may be multiplied in bf16, on a host
  bool trains_layers = true;    // gradients go through the layers, not only the latest or a decoder's
  bool writes = false;          // elements of frozen weights train where they lie: these are kept by element
  bool reads_images = false;    // it is for models that read images alone
  bool starts_as_is = false;    // before the first step the frozen model computes what it did, bit for bit
  std::string_view apart = "";  // why nn/merge.hpp can't take it into the model's weights; empty: it can

  bool merges() const { return apart.empty(); }
};

/// What defaults may depend on: a family's name in config.json, and whether it reads images.
struct FamilyFacts {
  std::string_view model_type;
  bool images = false;
};

/// Values a token that a layer keeps for the gradient beside what a frozen one keeps: by its attention blocks, by its
/// feed-forward block; and those that are on their way through that besides.
struct Kept {
  std::int64_t attention = 0, feed = 0, moving = 0;
};

/// How the rate goes behind the warm-up: down to zero at the last step, or not at all.
enum class Schedule { linear, constant };

/// How a method is trained unless it is told otherwise.
struct Recipe {
  double rate = 5e-4, warmup = 0.06, decay = 0.1, clip = 1.0;
  double head_rate = 0;  // of a head of the task's own; 0: rate
  Schedule schedule = Schedule::linear;
  double epsilon = 0;        // gradients are taken from losses at parameters ± ε·noise; 0: from backward passes
  std::int64_t samples = 1;  // draws of the noise a step
  bool log_alone = false;    // a state keeps what steps did in place of the parameters
  std::optional<std::int64_t> inner{};  // steps of a lower level before one of the upper; none: there is one level
  double lambda = 0, module_rate = 0;   // of two levels: the lower loss' weight in the upper, the rate of gradients
};

/// A tensor of a method as PyPI's peft has it: how its name ends here and there, behind the changed layer's name.
struct PeftTensor {
  enum class Shape {
    same,
    outputs,  // of as many rows as the layer has outputs
    column,   // [n, 1] of [n]
    // [1, n] of [n], factors of what a last projection reads, under its name there: of the feed-forward block, of
    // attention, of cross attention
    hidden,
    attended,
    cross_attended
  };
  std::string_view ours, theirs;
  Shape shape = Shape::same;

  bool row() const { return shape >= Shape::hidden; }
};
/// A linear layer of a block.
enum class Projection { query, key, value, output, up, gate, down };
/// Two tensors [rank, in] and [out, rank]: the second times the first times the factor is added to a weight [out, in].
struct PeftProduct {
  std::int64_t rank;
  double factor;
};
/// A method in peft's files: its type in adapter_config.json, tensors, options there that it must not have. Where the
/// option `start` is a name, what trains began otherwise than usual; with another name than `starts` has the
/// checkpoint's own weights were changed with it.
struct PeftForm {
  std::string_view type;
  std::span<const PeftTensor> tensors;
  std::span<const std::string_view> without{};
  /// Its tensors [rows, n] are columns of one, `prompt_embeddings`, layer after layer: of models with one list of
  /// layers that read words.
  bool joined = false;
  std::string_view start{};
  std::span<const std::string_view> starts{};
};

/// A method beside its aggregate M: `name`; `about`, a line for a list of them; `facts`; `options(m, visit)`, below;
/// `added(m, sizes)`, the weights that it adds to a layer; `activation<T, B>(m, sizes)`, the most elements of T that a
/// training step has alive at once beside what lives between steps. Optional: `suit(m, FamilyFacts)` sets what is
/// another by default under a family; `in_front(m)`, tokens that it puts before every sequence; `recipe(m)` is how it
/// is trained; `renews(m)`, after how many steps what was chosen by examples is chosen anew. A method that only changes
/// layers, whose `insert(layers, m, options)` is all that it does to a model, has `kept(m, sizes)`, perhaps `below(m,
/// sizes)`, `passing(m, sizes)`, values a token alive in a block that keeps nothing (mezo.hpp reads it), and
/// `activation` only where more follows. What peft has too says so: `peft`, a PeftForm, and peft_numbers(m, visit),
/// which calls visit(their name, member); optional: peft_flags(m, has), which does what follows where has(their name);
/// peft_changed(m, has), where has(Projection) says whether a file has the first tensor of one, in whichever layer;
/// peft_product(m), where its two tensors are the factors of what is added to a weight.
template <class M>
struct Described;

/// Whether what a run saves states an option.
enum class Stated {
  always,  // what lacks it is not of this program
  since,   // always, but earlier versions had no such option: its default then
  changed  // only where it is not the default, so that a run of an earlier version goes on; usual for a new option
};

/// An option by the name of its flag, without dashes. Methods whose options have one name share the flag.
struct Option {
  std::string_view name, help;
  std::string_view shown = "";  // behind the help, in place of the default
  Stated stated = Stated::always;
  std::string_view before = "";             // what it is in a file that lacks it, and is not stated; empty: the default
  std::string_view needs = "", found = "";  // not read as the others are: what it needs, and what was found
};

// Kinds of values. Described<M>::options(m, visit) calls visit(Option, kind, member) for each of the options.

/// An integer.
struct Whole {
  std::int64_t low, high;
};
/// How many of the model's layers; −1: all.
struct LayerCount {};
/// A number in [0, 1).
struct Share {};
/// A number from 0 to 1.
struct Part {};
/// A number above 0.
struct Positive {};
/// A Lambda.
struct Factor {};
/// One of `names`, a|b|c: from(name) is the value, to(value) its name.
template <class From, class To>
struct OneOf {
  std::string_view names;
  From from;
  To to;
};
template <class From, class To>
OneOf(std::string_view, From, To) -> OneOf<From, To>;

/// A set, whose values are bits: names of `all` with commas between them; sets with a name of their own come first.
template <class Value>
struct SomeOf {
  std::span<const std::pair<std::string_view, Value>> all;
};

/// The name at place `at` of a|b|c; empty behind the last.
constexpr std::string_view name_at(std::string_view names, std::size_t at) {
  for (; at > 0 && !names.empty(); --at) names.remove_prefix(std::min(names.find('|'), names.size() - 1) + 1);
  return names.substr(0, names.find('|'));
}
/// One of an enumeration, or a bool, whose values have these names in their order.
template <class Value>
constexpr auto one_of(std::string_view names) {
  return OneOf{names,
               [names](std::string_view name) {
                 std::size_t at = 0;
                 for (auto one = name_at(names, at); one != name && !one.empty(); one = name_at(names, at)) ++at;
                 return static_cast<Value>(at);
               },
               [names](Value value) { return name_at(names, static_cast<std::size_t>(value)); }};
}

}  // namespace meft
