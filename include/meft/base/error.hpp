// Owns: the one exception type of the library, and `require`, which throws it.
// A message reads `op: what differs: a is [32, 768], b is [512, 768]`, then the caller's place.
#pragma once

#include <cstddef>
#include <exception>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace meft {

/// The place in the caller's source to which an error points. Public functions take `Where where = Where::current()` as
/// their last argument. (clang 14 has no std::source_location.)
struct Where {
  const char* file = "";
  unsigned line = 0;
  static constexpr Where current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
    return {file, line};
  }
};

/// The library's only exception. `what()` is the message followed by ` (file:line)`; `message()` leaves the place out.
class Error : public std::exception {
 public:
  explicit Error(std::string message, Where where = Where::current()) : message_(std::move(message)) { at(where); }

  const char* what() const noexcept override { return full_.c_str(); }
  const std::string& message() const noexcept { return message_; }

  /// Points the error at another place: ops use it to name their caller's line instead of their own.
  [[gnu::cold, gnu::noinline]] void at(Where where) {
    const std::string_view file = where.file;
    full_ = message_;
    full_ += " (";
    full_ += file.substr(file.rfind('/') + 1);
    full_ += ':';
    full_ += std::to_string(where.line);
    full_ += ')';
  }

  /// Puts the name of what was being done in front: `layer 3: shear: …`.
  [[gnu::cold, gnu::noinline]] void within(std::string_view outer, Where where = Where::current()) {
    message_ = std::string(outer) + ": " + message_;
    at(where);
  }

 private:
  std::string message_, full_;
};

namespace detail {

template <class X>
concept Shaped = requires(const X& x) {
  x.shape().text();
};

template <class X>
[[gnu::cold, gnu::noinline]] std::string describe(const X& x) {
  if constexpr (std::is_convertible_v<X, std::string_view>) return std::string(std::string_view(x));
  else if constexpr (Shaped<X>) return x.shape().text();
  else if constexpr (requires { x.text(); }) return x.text();
  else return std::to_string(x);
}

/// An argument of a message: turned into text only when the message is needed.
struct Argument {
  const void* value;
  std::string (*text)(const void*);
  bool shaped;
  template <class X>
  static Argument of(const X& x) {
    return {&x, [](const void* p) { return describe(*static_cast<const X*>(p)); }, Shaped<X>};
  }
};

/// A message together with the place it was written, so that `require` can stay variadic.
struct Message {
  std::string_view text;
  Where where;
  template <class Text>
  requires std::is_convertible_v<const Text&, std::string_view> Message(const Text& t, Where w = Where::current())
      : text(t), where(w) {}
};

/// Shaped arguments are named a, b, c …; everything else stands for itself.
[[noreturn, gnu::cold, gnu::noinline]] inline void raise(const Message& message, const Argument* arguments,
                                                         std::size_t count) {
  std::string out(message.text);
  char name = 'a';
  for (std::size_t i = 0; i < count; ++i) {
    out += i ? ", " : ": ";
    if (arguments[i].shaped) {
      out += name++;
      out += " is ";
    }
    out += arguments[i].text(arguments[i].value);
  }
  throw Error(std::move(out), message.where);
}

}  // namespace detail

/// Throws Error with the message built from its parts, as `require` does.
template <class... Args>
[[noreturn, gnu::cold, gnu::noinline]] void fail(detail::Message message, const Args&... args) {
  const detail::Argument list[] = {detail::Argument::of(args)..., {}};
  detail::raise(message, list, sizeof...(Args));
}

/// Throws Error unless `ok`: `require(x.dim(-1) == w.dim(-2), "matmul: inner dimensions differ", x, w)`.
template <class... Args>
void require(bool ok, detail::Message message, const Args&... args) {
  if (!ok) [[unlikely]]
    fail(message, args...);
}

}  // namespace meft
