// Owns: the variable and the tape: a flat vector of nodes, walked backwards, each destroyed as soon as it was used.
#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include <meft/autodiff/stored.hpp>
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
  /// Lets its elements go, which nobody will read: shape and record stay, for a backward pass.
  void let_go() { value_ = value_.outline(); }

 private:
  friend class Tape;
  Tensor<T, B> value_;
  std::uint64_t tape_ = 0;  // its tape; of what nothing recorded though it needs a gradient, when and where it was made
  int node_ = -1;
  const char* op_ = "a constant";
};

namespace detail {

/// A number for each thread, and with the time of its making one for each tape.
inline constexpr int thread_bits = 20;
inline std::uint64_t this_thread() {
  static std::atomic<std::uint64_t> last{0};
  thread_local const std::uint64_t mine = ++last & ((1u << thread_bits) - 1);
  return mine;
}
inline std::uint64_t moment(std::uint64_t time) { return time << thread_bits | this_thread(); }
/// Whether `made` is on another thread than `tape`, and not before it.
inline bool elsewhere(std::uint64_t made, std::uint64_t tape) {
  return (made ^ tape) & ((1u << thread_bits) - 1) && made >> thread_bits >= tape >> thread_bits;
}

/// A link in the chain of what records on a thread, innermost first; without a tape it keeps others from it. Links may
/// go in any order, and on any thread: one that goes elsewhere is only marked, and taken out by its own thread.
class Recorder {
 public:
  explicit Recorder(Tape* tape) : tape_(tape), outer_(top()) { top() = this; }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  /// Ends it, and deletes it.
  [[gnu::cold, gnu::noinline]] void leave() {
    for (Recorder** at = &top(); *at; at = &(*at)->outer_)
      if (*at == this) {
        *at = outer_;
        delete this;
        return;
      }
    gone_ = true;
  }

  static Recorder* current() {
    while (top() && top()->gone_) top()->leave();
    return top();
  }
  Tape* tape() const { return tape_; }

 private:
  ~Recorder() = default;
  static Recorder*& top() {
    thread_local Recorder* recorder = nullptr;
    return recorder;
  }

  Tape* tape_;
  Recorder* outer_;
  std::atomic<bool> gone_{false};
};

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
  Shape shape;            // of its value
  bool in_place = false;  // added to where it is, whoever sees it
};

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse(const char* op, const char* maker, const char* what,
                                                          Argument x, Where where) {
  fail({joined({op, ": its input, the result of `", maker, "`, was ", what}), where}, x);
}

/// Throws when a parameter that an op keeps was written to after that op was made.
inline void check_unchanged(const char* op, std::uint64_t written, std::uint64_t made) {
  if (written >= made) [[unlikely]]
    throw Error(
        joined({op,
                ": a parameter was changed between the forward and the backward pass, which needs it as it was: an "
                "optimizer stepped, or data() was taken of its value while that is not const"}));
}

}  // namespace detail

/// A gradient that a tape collected for a parameter instead of adding it there (see Tape::collect).
template <Real T, Backend B>
struct Collected {
  std::shared_ptr<detail::Stored<T, B>> parameter;
  Tensor<T, B> gradient;
};

/// Records every op of its thread while it lives; tapes nest, the innermost records. No tape means inference. What
/// another thread computes meanwhile from parameters or recorded variables is recorded nowhere; it is an Error to use
/// it here, unless it was computed under a NoTape.
class Tape {
 public:
  Tape() : recorder_(new detail::Recorder(this)), serial_(detail::moment(++detail::clock())) {}
  ~Tape() { pause(); }
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// The tape that records on this thread, or null.
  static Tape* current() {
    const detail::Recorder* recorder = detail::Recorder::current();
    return recorder ? recorder->tape() : nullptr;
  }

  /// Stops recording for good; what was recorded stays, and may be walked on any thread.
  void pause() {
    if (recorder_) std::exchange(recorder_, nullptr)->leave();
  }

  /// Parameter gradients stay on the tape, for `collected`, instead of being added to the parameters.
  void collect() { collect_ = true; }

  /// A leaf whose gradient is asked for by `gradient`.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] Var<T, B> watch(Tensor<T, B> value) {
    return attach<T, B>(std::move(value), std::unique_ptr<detail::Slot<T, B>>(new Leaf<T, B>("watch")));
  }

  /// The gradient of a watched variable is added to `into`, in its place.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] void add_into(const Var<T, B>& x, Tensor<T, B> into) {
    auto& leaf = static_cast<detail::Slot<T, B>&>(*nodes_[static_cast<std::size_t>(x.node_)]);
    leaf.gradient = std::move(into);
    leaf.in_place = true;
  }

  /// The gradient that arrived at a watched variable; empty when none did.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] Tensor<T, B> gradient(const Var<T, B>& x, Where where = Where::current()) const {
    require(owns(x) && nodes_[static_cast<std::size_t>(x.node_)] && nodes_[static_cast<std::size_t>(x.node_)]->leaf(),
            {"gradient: the variable was not watched by this tape", where}, x);
    return static_cast<const detail::Slot<T, B>&>(*nodes_[static_cast<std::size_t>(x.node_)]).gradient;
  }

  /// Gradients of a scalar with respect to everything recorded below it. Frees the nodes it walks. Throws when a
  /// trained parameter that an op kept was changed since; of constants nobody looks. When it throws, gradients that had
  /// arrived at parameters stay there, and the tape takes no further pass: `zero_gradient`, and another tape.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] void backward(const Var<T, B>& loss, Where where = Where::current()) {
    require(loss.size() == 1, {"backward: a loss is a single element", where}, loss);
    backward(loss, Tensor<T, B>::full(loss.shape(), T(1)), where);
  }

  /// The same from a given gradient `dy` of `y`.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] void backward(const Var<T, B>& y, Tensor<T, B> dy, Where where = Where::current()) {
    require(y.shape() == dy.shape() && dy.defined(), {"backward: the gradient's shape differs", where}, y, dy);
    require(wants(y, "backward", where), {"backward: nothing that needs a gradient was recorded", where}, y);
    require(!failed_,
            {"backward: an earlier one of this tape threw midway and left gradients in it: record anew", where});
    add(y.node_, std::move(dy));
    failed_ = true;  // until its end
    for (int i = y.node_; i >= 0; --i) {
      auto& slot = nodes_[static_cast<std::size_t>(i)];
      if (!slot || !slot->reached()) continue;
      try {
        if (slot->leaf()) slot->backward(*this);
        else std::exchange(slot, nullptr)->backward(*this);
      } catch (Error& error) {
        error.at(where);
        throw;
      }
    }
    failed_ = false;
  }

  /// Whether x was recorded here. Throws when it was recorded on another tape or its node is used up, and when another
  /// thread made it while this tape lived, and nothing recorded that.
  template <Real T, Backend B>
  bool wants(const Var<T, B>& x, const char* op, Where where) const {
    if (!x.recorded()) {
      if (x.tape_ && detail::elsewhere(x.tape_, serial_)) [[unlikely]]
        detail::refuse(op, x.op_, "computed on another thread, where this tape does not record", x, where);
      return false;
    }
    if (x.tape_ != serial_) detail::refuse(op, x.op_, "recorded on another tape", x, where);
    if (!nodes_[static_cast<std::size_t>(x.node_)]) detail::refuse(op, x.op_, "freed by an earlier backward", x, where);
    return true;
  }

  /// Adds a gradient to the node of x; nodes call it from their backward.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] void add(int node, Tensor<T, B> gradient) {
    auto& slot = nodes_[static_cast<std::size_t>(node)];
    require(slot != nullptr, "backward: a node was freed by an earlier backward");
    auto& to = static_cast<detail::Slot<T, B>&>(*slot);
    require(gradient.shape() == to.shape, "backward: a gradient has another shape than its value", gradient, to.shape);
    if (to.in_place && to.gradient.defined())
      map(B{}, Add{}, to.gradient.size(), to.gradient.data(), std::as_const(to.gradient).data(),
          std::as_const(gradient).data());
    else accumulate(to.gradient, std::move(gradient));
  }

  /// The gradient of a node so far, out of the node, for an op to add its own to and give back; empty where there is
  /// none or others see it. `dy`: the op's, which may be what is there.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] Tensor<T, B> take(int node, const Tensor<T, B>& dy = {}) {
    auto& slot = static_cast<detail::Slot<T, B>&>(*nodes_[static_cast<std::size_t>(node)]);
    const bool same = slot.gradient.defined() && dy.defined() && slot.gradient.same(dy);
    return slot.in_place || slot.gradient.unique() || same ? std::exchange(slot.gradient, {}) : Tensor<T, B>();
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

  /// The variable of a parameter that trains, one leaf for all its uses on the tape that records, if any.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] static Var<T, B> parameter(const std::shared_ptr<detail::Stored<T, B>>& stored) {
    Var<T, B> out(stored->value);
    out.op_ = "parameter";
    stored->value.keep_time();  // also where functions run unrecorded, to be run again
    if (Tape* tape = current()) {
      out.node_ = tape->leaf_of(stored);
      out.tape_ = tape->serial_;
    } else if (!detail::Recorder::current()) out.tape_ = detail::moment(detail::clock());
    return out;
  }

  /// Whether x needs a gradient, though nothing records that.
  template <Real T, Backend B>
  static bool wanting(const Var<T, B>& x) {
    return x.tape_ != 0;
  }
  /// The variable of what `op` made from `inputs`, and with `more` from others that need a gradient, where nothing was
  /// recorded.
  template <Real T, Backend B>
  [[gnu::cold, gnu::noinline]] static Var<T, B> unrecorded(const char* op, Tensor<T, B> value,
                                                           std::initializer_list<const Var<T, B>*> inputs,
                                                           bool more = false) {
    Var<T, B> out(std::move(value));
    if (detail::Recorder::current()) return out;
    if (more) {
      out.tape_ = detail::moment(detail::clock());
      out.op_ = op;
    }
    for (const Var<T, B>* x : inputs)
      if (x->tape_) {
        out.tape_ = x->recorded() ? detail::moment(detail::clock()) : x->tape_;
        out.op_ = op;
      }
    return out;
  }

  /// Records a node and gives its variable.
  template <class T, class B>
  [[gnu::cold, gnu::noinline]] Var<T, B> attach(Tensor<T, B> value, std::unique_ptr<detail::Slot<T, B>> node) {
    Var<T, B> out(std::move(value));
    out.tape_ = serial_;
    out.op_ = node->name;
    out.node_ = static_cast<int>(nodes_.size());
    node->shape = out.shape();
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
    leaf->shape = stored->value.shape();
    const int index = static_cast<int>(nodes_.size());
    leaves_.push_back({stored.get(), index});
    nodes_.push_back(std::move(leaf));
    return index;
  }

  std::vector<std::unique_ptr<detail::Node>> nodes_;
  std::vector<std::pair<const void*, int>> leaves_;
  detail::Recorder* recorder_;
  std::uint64_t serial_;  // ascending in time
  bool collect_ = false, failed_ = false;
};

/// While it lives, this thread records nothing.
class NoTape {
 public:
  NoTape() : recorder_(new detail::Recorder(nullptr)) {}
  ~NoTape() { recorder_->leave(); }
  NoTape(const NoTape&) = delete;
  NoTape& operator=(const NoTape&) = delete;

 private:
  detail::Recorder* recorder_;
};

}  // namespace meft
