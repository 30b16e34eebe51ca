// Owns: one training step of a randomly initialised BERT under a method named by text, and its measurement: seconds,
// memory by use, the gradient of the lowest trained layer; the arithmetic it needs. Shared by the benches; step.cpp
// compiles it once for every backend that is linked. Must not know: flags, tables, files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <meft/memory/resident.hpp>
#include <meft/method/any.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/transformer.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/optim/optimizer.hpp>

namespace bench {

using namespace meft;

struct Setup {
  model::BertConfig config{};
  Index batch = 16, seq = 128;
  std::string method{method_name(DefaultMethod{})};
  StackOptions stack{};                  // of the reversible methods
  Precision precision = Precision::f32;  // of frozen weights, and of full fine-tuning's products
  std::uint64_t seed = 1;
  bool ragged = false;  // each step's sequences have lengths of their own, from 1 to seq
};

/// A method of the registry by the name that benches give it: its title, that with `+recompute` where it recomputes, or
/// `recompute` for the reference method's. Any other is an Error.
struct Named {
  AnyMethod method;
  bool recompute = false;

  static Named of(std::string_view name);
};
inline bool reversible(std::string_view name) { return method_facts(Named::of(name).method).reversible; }
/// Whether its gradients are taken from losses of forward passes: a step has no parts to tell apart.
inline bool probes(std::string_view name) { return method_recipe(Named::of(name).method).epsilon > 0; }
/// Every name, the reversible methods last.
std::vector<std::string> every_method();

/// bert-base, bert-large or minilm6: the shape alone.
model::BertConfig config_of(std::string_view name);

/// Floating-point operations of the layers' matrix products in one step of the method: README.md says which.
double operations(const Setup& setup);

/// Seconds of a step and of its parts.
struct Times {
  double step = 0, forward = 0, backward = 0, update = 0;
  double undo = 0;  // part of backward: inputs brought back, by the share of the workers' time; reversible methods
};

/// Model, head, optimizer and batches of random tokens, all determined by the setup. Ready to step: gradients and
/// moments are allocated. The pool's cache is returned to the system, so that `reserved` counts what steps use.
template <Backend B = Cpu>
class Step {
 public:
  explicit Step(const Setup& setup);

  /// Forward and backward, their seconds on request: gradients are added to the parameters'. Of a method without
  /// gradients its forward passes. Gives the loss.
  float differentiate(Times* times = nullptr);

  /// Applies the gradients and makes them zero; the next step draws other dropout masks, and where ragged another
  /// batch. False, with the weights as they were, when a gradient is not finite: `rounded` streams come to that in deep
  /// models.
  bool update();

  /// The gradients of the lowest layer with trained parameters, one after the other; empty when none has.
  std::vector<float> lowest_gradient();

  Index trained() const { return optimizer_->parameters(); }

 private:
  void draw_batch(std::uint32_t step);

  Setup setup_;
  model::Transformer<float, B> bert_;
  Body<float, B> body_;
  nn::Classifier<float, B> head_;
  std::unique_ptr<optim::State<float, B>> optimizer_;
  std::vector<nn::Batch<B>> parts_;  // of the batch, as the body takes it; most bodies take it as a whole
};

/// The heap meter of bench/peers, where it was preloaded: an outside count of the same steps.
struct HeapMeter {
  HeapMeter();
  std::int64_t (*live)();
  std::int64_t (*peak)();
  void (*reset)();
  explicit operator bool() const { return live && peak && reset; }
};

/// What steps cost. Bytes of parameters, gradients and moments are those alive between steps.
struct Cost {
  std::size_t activation = 0;  // the highest of the warm steps: peak of everything alive less what lived before
  std::size_t parameter = 0, gradient = 0, optimizer = 0;
  Index trained = 0;                  // parameters that train
  std::size_t needed = 0;             // the highest of everything alive
  std::size_t reserved = 0;           // what the pool holds from the system after a step, at most, free blocks included
  Resident resident{};                // of the process, where its own pages were most after a step
  std::optional<std::size_t> heap{};  // as `activation`, counted by the heap meter
  std::vector<Times> times{};         // of each warm step
  std::vector<float> gradient_values{};    // lowest trained layer's, in the first step
  std::optional<double> gradient_error{};  // of these, against stored activations, where a bench asks for it
  bool finite = true;                      // every gradient of every step

  /// Of the fastest step.
  const Times& least() const;
  /// Seconds of a step.
  double median() const;
};

/// Builds the setup and runs a cold step and `warm` measured ones.
template <Backend B = Cpu>
Cost measure(const Setup& setup, int warm);

/// The setup with all activations stored, whose gradient the setup's is held against; none where that is the setup
/// itself.
std::optional<Setup> stored(const Setup& setup);

/// The gradient of the lowest trained layer in the first step.
template <Backend B = Cpu>
std::vector<float> first_gradient(const Setup& setup);

/// |g − reference| / |reference|; 0 only when every bit is equal, infinite when g is not finite; nothing where both are
/// empty.
std::optional<double> relative_error(const std::vector<float>& g, const std::vector<float>& reference);

}  // namespace bench
