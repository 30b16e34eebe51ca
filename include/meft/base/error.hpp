// Owns: the one exception type of the library, and `require`, which throws it.
// A message reads `op: what differs: a is [32, 768], b is [512, 768]`, then the caller's place.
#pragma once

#include <cstddef>
#include <cstdio>
#include <exception>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

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

namespace detail {
/// The decimal digits of a number: one function for all integers, to compile fast.
[[gnu::cold, gnu::noinline]] inline std::string decimal(long long value, bool is_signed) {
  char text[24];
  std::snprintf(text, sizeof text, is_signed ? "%lld" : "%llu", value);
  return text;
}

/// The parts one behind the other: one function for all messages, to compile fast.
[[gnu::cold, gnu::noinline]] inline std::string joined(std::initializer_list<std::string_view> parts) {
  std::string out;
  for (const auto part : parts) out.append(part.data(), part.size());
  return out;
}

/// `text` with control characters as `\n`, `\r`, `\t` or `\x1b`: names come from files and must not break the line.
[[gnu::cold, gnu::noinline]] inline std::string on_one_line(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]),
               next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    const bool two = c == 0xc2 && next >= 0x80 && next < 0xa0;  // U+0080 to U+009F
    char shown[12] = {text[i]};
    if (c == '\n' || c == '\r' || c == '\t')
      std::snprintf(shown, sizeof shown, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (c < 0x20 || c == 0x7f || two)
      std::snprintf(shown, sizeof shown, two ? "\\u%04x" : "\\x%02x", two ? next : c);
    out.append(shown, std::char_traits<char>::length(shown));
    i += two;
  }
  return out;
}
}  // namespace detail

/// The library's exception. A message is one line: control characters in it are shown as `\n` or `\x1b`. `what()`
/// is the message followed by ` (file:line)`; `message()` leaves the place out.
class Error : public std::exception {
 public:
  explicit Error(std::string_view message, Where where = Where::current()) : message_(detail::on_one_line(message)) {
    at(where);
  }

  const char* what() const noexcept override { return full_.c_str(); }
  const std::string& message() const noexcept { return message_; }

  /// Points the error at another place: ops use it to name their caller's line instead of their own.
  [[gnu::cold, gnu::noinline]] void at(Where where) {
    const std::string_view file = where.file;
    const auto line = detail::decimal(where.line, false);
    full_ = detail::joined({message_, " (", file.substr(file.rfind('/') + 1), ":", line, ")"});
  }

  /// Puts the name of what was being done in front: `layer 3: shear: …`.
  [[gnu::cold, gnu::noinline]] void within(std::string_view outer, Where where = Where::current()) {
    message_ = detail::joined({detail::on_one_line(outer), ": ", message_});
    at(where);
  }

 private:
  std::string message_, full_;
};

/// A number that went where no gradient is: not finite, or outside a stream's range. For a trainer, which tells it
/// apart from what no learning rate causes.
class NumberError : public Error {
 public:
  explicit NumberError(std::string_view message, Where where = Where::current()) : Error(message, where) {}
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
  else if constexpr (std::is_integral_v<X>) return decimal(static_cast<long long>(x), std::is_signed_v<X>);
  else return std::to_string(x);
}

/// An argument of a message: turned into text only when the message is needed.
struct Argument {
  constexpr Argument() = default;
  template <class X>
  Argument(const X& x)  // NOLINT: whatever has a text is an argument
      : value(&x), text([](const void* p) { return describe(*static_cast<const X*>(p)); }), shaped(Shaped<X>) {}
  Argument(const char* x)  // NOLINT: one function for literals of every length
      : value(x), text([](const void* p) { return std::string(static_cast<const char*>(p)); }) {}

  const void* value = nullptr;
  std::string (*text)(const void*) = nullptr;
  bool shaped = false;
};

inline constexpr Argument none{};

/// A message together with the place it was written, so that `require` can stay variadic.
struct Message {
  std::string_view text;
  Where where;
  Message(const char* t, Where w = Where::current()) : text(t), where(w) {}
  Message(const std::string& t, Where w = Where::current()) : text(t), where(w) {}
  Message(std::string_view t, Where w = Where::current()) : text(t), where(w) {}
};

}  // namespace detail

// Not variadic: templates for each list of argument types would be a tenth of a small program's compile time.

/// Throws Error with the message built from its parts, as `require` does.
[[noreturn, gnu::cold, gnu::noinline]] inline void fail(const detail::Message& message,
                                                        const detail::Argument& x0 = detail::none,
                                                        const detail::Argument& x1 = detail::none,
                                                        const detail::Argument& x2 = detail::none,
                                                        const detail::Argument& x3 = detail::none,
                                                        const detail::Argument& x4 = detail::none) {
  std::string out(message.text);
  char name = 'a';  // shaped arguments are named a, b, c …; everything else stands for itself
  const char* separator = ": ";
  for (const detail::Argument* x : {&x0, &x1, &x2, &x3, &x4}) {
    if (!x->text) break;
    out = detail::joined({out, separator, {&name, x->shaped ? 1u : 0u}, x->shaped ? " is " : "", x->text(x->value)});
    name = static_cast<char>(name + x->shaped);
    separator = ", ";
  }
  throw Error(out, message.where);
}

/// Throws Error unless `ok`: `require(x.dim(-1) == w.dim(-2), "matmul: inner dimensions differ", x, w)`.
inline void require(bool ok, const detail::Message& message, const detail::Argument& x0 = detail::none,
                    const detail::Argument& x1 = detail::none, const detail::Argument& x2 = detail::none,
                    const detail::Argument& x3 = detail::none, const detail::Argument& x4 = detail::none) {
  if (!ok) [[unlikely]]
    fail(message, x0, x1, x2, x3, x4);
}

}  // namespace meft
