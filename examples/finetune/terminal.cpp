#include "terminal.hpp"

#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdio>

namespace finetune {

namespace {

/// A code point at the beginning of `text`, and its bytes: 1 and a negative code where there is none.
struct Character {
  utf8proc_int32_t code = -1;
  std::size_t bytes = 1;
};
Character first_of(std::string_view text) {
  Character out;
  const auto count = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                      static_cast<utf8proc_ssize_t>(text.size()), &out.code);
  if (count > 0) out.bytes = static_cast<std::size_t>(count);
  else out.code = -1;
  return out;
}

bool is_hidden(utf8proc_int32_t code) {
  const auto within = [code](utf8proc_int32_t low, utf8proc_int32_t high) { return code >= low && code <= high; };
  return code < 0x20 || within(0x7F, 0x9F) || within(0x200E, 0x200F) || within(0x2028, 0x202E) ||
         within(0x2066, 0x2069);
}

void append_escaped(std::string& out, const Character& c, std::string_view bytes) {
  char text[16];
  if (c.code == '\n') out += "\\n";
  else if (c.code == '\r') out += "\\r";
  else if (c.code == '\t') out += "\\t";
  else if (c.code >= 0x80) out.append(text, static_cast<std::size_t>(std::snprintf(text, 16, "\\u%04x", c.code)));
  else
    for (const char byte : bytes)
      out.append(text, static_cast<std::size_t>(std::snprintf(text, 16, "\\x%02x", static_cast<unsigned char>(byte))));
}

std::size_t columns_of(utf8proc_int32_t code) {
  return code < 0 ? 1 : static_cast<std::size_t>(std::max(0, utf8proc_charwidth(code)));
}

}  // namespace

bool on_terminal() { return isatty(STDOUT_FILENO) == 1; }

std::size_t terminal_width() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Character c = first_of(text);
    const auto bytes = text.substr(0, c.bytes);
    if (is_hidden(c.code)) append_escaped(out, c, bytes);
    else out += bytes;
    text.remove_prefix(c.bytes);
  }
  return out;
}

std::string shown(std::string_view text) {
  const std::string out = printable(text);
  const bool bare = !text.empty() && text.front() != ' ' && text.back() != ' ' && out.size() == text.size();
  return bare ? out : "`" + out + "`";
}

std::size_t columns(std::string_view text) {
  std::size_t out = 0;
  while (!text.empty()) {
    const Character c = first_of(text);
    out += columns_of(c.code);
    text.remove_prefix(c.bytes);
  }
  return out;
}

std::string cut(std::string_view text, std::size_t most) {
  std::size_t bytes = 0, used = 0;
  while (bytes < text.size()) {
    const Character c = first_of(text.substr(bytes));
    used += columns_of(c.code);
    if (used > most) break;
    bytes += c.bytes;
  }
  return std::string(text.substr(0, bytes));
}

std::vector<std::string> wrapped(std::string_view text, std::size_t width, std::size_t indent) {
  width = std::max<std::size_t>(width, 2);
  indent = std::min(indent, width / 2);
  std::vector<std::string> lines;
  while (columns(text) > width - (lines.empty() ? 0 : indent)) {
    const std::size_t room = width - (lines.empty() ? 0 : indent);
    std::size_t end = std::max(cut(text, room).size(), first_of(text).bytes);
    if (end < text.size() && text[end] != ' ') {
      const auto head = text.substr(0, end);
      const std::size_t blank = head.find_last_not_of(' ', head.rfind(' ')), bar = head.find_last_of("|/");
      if (head.rfind(' ') != head.npos && blank != head.npos) end = blank + 1;
      else if (bar != head.npos && bar > 0) end = bar + 1;
    }
    lines.push_back(std::string(lines.empty() ? 0 : indent, ' ') + std::string(text.substr(0, end)));
    text.remove_prefix(end);
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  }
  if (!text.empty() || lines.empty()) lines.push_back(std::string(lines.empty() ? 0 : indent, ' ') + std::string(text));
  return lines;
}

void say(const std::string& line) {
  std::string out;
  if (on_terminal()) {
    for (const auto& part : wrapped(printable(line), terminal_width(), 2)) out += part + "\n";
  } else {
    out = printable(line) + "\n";
  }
  std::fputs(out.c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace finetune
