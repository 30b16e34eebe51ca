// Owns: the terminal: its width, columns of UTF-8 text, text without control characters, lines wrapped at words.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace finetune {

/// Whether standard output is a terminal, and its columns now; 80 where they are not known.
bool on_terminal();
std::size_t terminal_width();

/// `text` with control characters, marks that turn the direction of writing, and bytes that are no UTF-8 escaped: what
/// comes from files and their names never moves the cursor.
std::string printable(std::string_view text);
/// printable, between backticks where blanks at an end or its being empty would not be seen.
std::string shown(std::string_view text);

/// Columns of printable UTF-8.
std::size_t columns(std::string_view text);
/// The beginning of printable text that has at most `most` columns.
std::string cut(std::string_view text, std::size_t most);
/// Lines of at most `width` columns, broken at blanks, or behind a `|` or `/` or in a word that is too long. Lines
/// after the first are indented.
std::vector<std::string> wrapped(std::string_view text, std::size_t width, std::size_t indent);

/// Prints a line on standard output, printable, on a terminal wrapped at words.
void say(const std::string& line);

}  // namespace finetune
