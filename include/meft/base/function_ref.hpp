// Owns: a reference to something that can be called, its type erased.
#pragma once

namespace meft {

template <class Signature>
class FunctionRef;

/// Calls an object that outlives it. Costs an indirect call, and nothing of what the object is in the type of its user.
template <class R, class... Arguments>
class FunctionRef<R(Arguments...)> {
 public:
  template <class F>
  explicit FunctionRef(const F& f)
      : object_(&f), call_([](const void* object, Arguments... arguments) -> R {
          return (*static_cast<const F*>(object))(static_cast<Arguments&&>(arguments)...);
        }) {}

  R operator()(Arguments... arguments) const { return call_(object_, static_cast<Arguments&&>(arguments)...); }

 private:
  const void* object_;
  R (*call_)(const void*, Arguments...);
};

}  // namespace meft
