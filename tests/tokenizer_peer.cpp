// Prints WordPiece ids, one line for each line (or pair of lines) of the standard input, for tokenizer_peer.py.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <meft/text/wordpiece.hpp>

namespace {

constexpr const char* usage =
    "usage: tokenizer_peer MODEL_FOLDER [--max-length N] [--pair] [--types] [--escaped]\n"
    "  --pair     lines 1 and 2 are a pair, lines 3 and 4 the next\n"
    "  --types    after the ids: a bar and the token types\n"
    "  --escaped  \\n and \\\\ in a line stand for a newline and a backslash\n";

bool read_line(std::string& line) {
  line.clear();
  int c = 0;
  while ((c = std::getchar()) != EOF && c != '\n') line.push_back(static_cast<char>(c));
  return c != EOF || !line.empty();
}

std::string unescaped(std::string_view line) {
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\\' && i + 1 < line.size()) out.push_back(line[++i] == 'n' ? '\n' : line[i]);
    else out.push_back(line[i]);
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) try {
  std::size_t max_length = 512;
  bool pair = false, types = false, escaped = false;
  for (int i = 2; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--max-length" && i + 1 < argc) max_length = std::strtoull(argv[++i], nullptr, 10);
    else if (option == "--pair") pair = true;
    else if (option == "--types") types = true;
    else if (option == "--escaped") escaped = true;
    else argc = 0;
  }
  if (argc < 2) {
    std::fputs(usage, stderr);
    return 2;
  }
  const meft::text::WordPiece tokenizer{std::filesystem::path(argv[1])};
  std::string line, second, out;
  while (read_line(line)) {
    if (escaped) line = unescaped(line);
    if (pair) {
      if (!read_line(second)) meft::fail("tokenizer_peer: --pair: the last line has no second");
      if (escaped) second = unescaped(second);
    }
    const auto encoding = pair ? tokenizer.encode(line, second, max_length) : tokenizer.encode(line, max_length);
    out.clear();
    for (const auto id : encoding.ids) out += std::to_string(id) + ' ';
    if (types) out += '|';
    if (types)
      for (const auto type : encoding.types) out += ' ' + std::to_string(type);
    else out.pop_back();
    out += '\n';
    std::fwrite(out.data(), 1, out.size(), stdout);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
