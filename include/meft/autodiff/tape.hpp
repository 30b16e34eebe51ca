// Owns: the variable and the tape: a flat vector of nodes, walked backwards, each destroyed as soon as it was used.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <meft/tensor/math.hpp>

namespace meft {

class Tape;

/// A tensor together with the tape node that made it, if any. Without a tape it is the tensor alone.
template <Real T, Backend B = Cpu>
class Var {
 public:
  using value_type = T;
  using backend = B;

  Var() = default;
  Var(Tensor<T, B> value) : value_(std::move(value)) {}  // NOLINT: a tensor is a constant variable

  const Tensor<T, B>& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  Index dim(int axis) const { return value_.dim(axis); }
  Index size() const { return value_.size(); }
  bool defined() const { return value_.defined(); }
  /// True when a tape recorded it, so that gradients reach it.
  bool recorded() const { return node_ >= 0; }

 private:
  friend class Tape;
  Tensor<T, B> value_;
  std::uint64_t tape_ = 0;
  int node_ = -1;
  const char* op_ = "a constant";
};

namespace detail {

struct Node {
  explicit Node(const char* op) : name(op) {}
  virtual ~Node() = default;
  virtual bool reached() const = 0;  // has a gradient arrived
  virtual void backward(Tape&) = 0;  // hands it on
  virtual bool leaf() const { return false; }
  const char* name;
};

template <class T, class B>
struct Slot : Node {
  using Node::Node;
  bool reached() const override { return gradient.defined(); }
  Tensor<T, B> gradient;
};

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse(const char* op, const char* maker, const char* what,
                                                          Argument x, Where where) {
  std::string text(op);
  text += ": its input, the result of `";
  text += maker;
  text += "`, was ";
  text += what;
  fail({text, where}, x);
}

/// What a parameter's handles share.
template <class T, class B>
struct Stored {
  Tensor<T, B> value, gradient;
  bool trainable = true;

  /// gradient += g, counted as gradient memory.
  [[gnu::cold, gnu::noinline]] void add(const Tensor<T, B>& g) {
    const UseScope use(Use::gradient);
    if (!gradient.defined()) gradient = g.clone();
    else map(B{}, Add{}, g.size(), gradient.data(), std::as_const(gradient).data(), g.data());
  }
};

}  // namespace detail

/// A gradient that a tape collected for a parameter instead of adding it there (see Tape::collect).
template <Real T, Backend B>
struct Collected {
  std::shared_ptr<detail::Stored<T, B>> parameter;
  Tensor<T, B> gradient;
};

/// Records every op of its thread while it lives; tapes nest, the innermost records. No tape means inference.
class Tape {
 public:
  Tape() : outer_(current()), serial_(next_serial()) { current() = this; }
  ~Tape() { pause(); }
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// The tape that records on this thread, or null.
  static Tape*& current() {
    thread_local Tape* tape = nullptr;
    return tape;
  }

  /// Stops recording for good; what was recorded stays, and may be walked on any thread.
  void pause() {
    if (current() == this) current() = outer_;
  }

  /// Parameter gradients stay on the tape, for `collected`, instead of being added to the parameters.
  void collect() { collect_ = true; }

  /// A leaf whose gradient is asked for by `gradient`.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] Var<T, B> watch(Tensor<T, B> value) {
    return attach<T, B>(std::move(value), std::unique_ptr<detail::Slot<T, B>>(new Leaf<T, B>("watch")));
  }

  /// The gradient that arrived at a watched variable; empty when none did.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] Tensor<T, B> gradient(const Var<T, B>& x, Where where = Where::current()) const {
    require(owns(x) && nodes_[static_cast<std::size_t>(x.node_)] && nodes_[static_cast<std::size_t>(x.node_)]->leaf(),
            {"gradient: the variable was not watched by this tape", where}, x);
    return static_cast<const detail::Slot<T, B>&>(*nodes_[static_cast<std::size_t>(x.node_)]).gradient;
  }

  /// Gradients of a scalar with respect to everything recorded below it. Frees the nodes it walks.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] void backward(const Var<T, B>& loss, Where where = Where::current()) {
    require(loss.size() == 1, {"backward: a loss is a single element", where}, loss);
    backward(loss, Tensor<T, B>::full(loss.shape(), T(1)), where);
  }

  /// The same from a given gradient `dy` of `y`.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] void backward(const Var<T, B>& y, Tensor<T, B> dy, Where where = Where::current()) {
    require(y.shape() == dy.shape(), {"backward: the gradient's shape differs", where}, y, dy);
    require(wants(y, "backward", where), {"backward: nothing that needs a gradient was recorded", where}, y);
    add(y.node_, std::move(dy));
    for (int i = y.node_; i >= 0; --i) {
      auto& slot = nodes_[static_cast<std::size_t>(i)];
      if (!slot || !slot->reached()) continue;
      if (slot->leaf()) slot->backward(*this);
      else std::exchange(slot, nullptr)->backward(*this);
    }
  }

  /// Whether x was recorded here. Throws when it was recorded on another tape or its node is used up.
  template <Real T, Backend B>
  bool wants(const Var<T, B>& x, const char* op, Where where) const {
    if (!x.recorded()) return false;
    if (x.tape_ != serial_) detail::refuse(op, x.op_, "recorded on another tape", x, where);
    if (!nodes_[static_cast<std::size_t>(x.node_)]) detail::refuse(op, x.op_, "freed by an earlier backward", x, where);
    return true;
  }

  /// Adds a gradient to the node of x; nodes call it from their backward.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] void add(int node, Tensor<T, B> gradient) {
    auto& slot = nodes_[static_cast<std::size_t>(node)];
    require(slot != nullptr, "backward: a node was freed by an earlier backward");
    accumulate(static_cast<detail::Slot<T, B>&>(*slot).gradient, std::move(gradient));
  }

  /// Hands a parameter's gradient on: to the parameter, or to `collected`.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] void deliver(const std::shared_ptr<detail::Stored<T, B>>& parameter,
                                            Tensor<T, B> gradient) {
    if (!collect_) return parameter->add(gradient);
    accumulate(static_cast<Leaf<T, B>&>(*nodes_[static_cast<std::size_t>(leaf_of(parameter))]).gradient,
               std::move(gradient));
  }

  /// The gradients collected so far, in the order in which the parameters were first used; they leave the tape.
  template <Real T, Backend B>
  std::vector<Collected<T, B>> collected() {
    std::vector<Collected<T, B>> out;
    for (const auto& [key, index] : leaves_) {
      auto* leaf = dynamic_cast<Leaf<T, B>*>(nodes_[static_cast<std::size_t>(index)].get());
      if (leaf && leaf->gradient.defined()) out.push_back({leaf->parameter, std::exchange(leaf->gradient, {})});
    }
    return out;
  }

  /// The variable of a parameter, one leaf for all its uses on this tape.
  template <Real T, Backend B>
  Var<T, B> parameter(const std::shared_ptr<detail::Stored<T, B>>& stored) {
    Var<T, B> out(stored->value);
    out.node_ = leaf_of(stored);
    out.tape_ = serial_;
    out.op_ = "parameter";
    return out;
  }

  /// Records a node and gives its variable.
  template <class T, class B>
  [[gnu::cold, gnu::noinline]] Var<T, B> attach(Tensor<T, B> value, std::unique_ptr<detail::Slot<T, B>> node) {
    Var<T, B> out(std::move(value));
    out.tape_ = serial_;
    out.op_ = node->name;
    out.node_ = static_cast<int>(nodes_.size());
    nodes_.push_back(std::move(node));
    return out;
  }

  template <Real T, Backend B>
  static int node(const Var<T, B>& x) {
    return x.node_;
  }

 private:
  template <class T, class B>
  struct Leaf final : detail::Slot<T, B> {
    using detail::Slot<T, B>::Slot;
    bool leaf() const override { return true; }
    [[gnu::cold]] void backward(Tape& tape) override {
      if (parameter && !tape.collect_) parameter->add(std::exchange(this->gradient, {}));
    }
    std::shared_ptr<detail::Stored<T, B>> parameter;
  };

  template <Real T, Backend B>
  bool owns(const Var<T, B>& x) const {
    return x.recorded() && x.tape_ == serial_;
  }

  template <class T, class B>
  int leaf_of(const std::shared_ptr<detail::Stored<T, B>>& stored) {
    for (const auto& [key, index] : leaves_)
      if (key == stored.get()) return index;
    auto leaf = std::make_unique<Leaf<T, B>>("parameter");
    leaf->parameter = stored;
    const int index = static_cast<int>(nodes_.size());
    leaves_.push_back({stored.get(), index});
    nodes_.push_back(std::move(leaf));
    return index;
  }

  static std::uint64_t next_serial() {
    static std::atomic<std::uint64_t> serial{0};
    return ++serial;
  }

  std::vector<std::unique_ptr<detail::Node>> nodes_;
  std::vector<std::pair<const void*, int>> leaves_;
  Tape* outer_;
  std::uint64_t serial_;
  bool collect_ = false;
};

/// While it lives, this thread records nothing.
class NoTape {
 public:
  NoTape() : before_(Tape::current()) { Tape::current() = nullptr; }
  ~NoTape() { Tape::current() = before_; }
  NoTape(const NoTape&) = delete;
  NoTape& operator=(const NoTape&) = delete;

 private:
  Tape* before_;
};

}  // namespace meft
