// Prints the ids, or the decoded text, of each line (or pair of lines) of the standard input, for tokenizer_peer.py and
// bpe_peer.py.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <meft/text/tokenizer.hpp>

namespace {

constexpr const char* usage =
    "usage: tokenizer_peer MODEL_FOLDER [--max-length N] [--pair] [--types] [--escaped] [--tokens | --decode | "
    "--decode-all]\n"
    "       tokenizer_peer MODEL_FOLDER --speed\n"
    "  --pair        lines 1 and 2 are a pair, lines 3 and 4 the next\n"
    "  --types       after the ids: a bar and the token types\n"
    "  --escaped     \\n and \\\\ in a line stand for a newline and a backslash, in the output too\n"
    "  --tokens      without special tokens\n"
    "  --decode      the text of the ids; --decode-all: special tokens too\n"
    "  --speed       prints nothing but MB/s, of the best of five rounds over all lines\n";

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

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n' || c == '\\') out += '\\';
    out += c == '\n' ? 'n' : c;
  }
  return out;
}

int speed(const meft::text::Tokenizer& tokenizer) {
  std::vector<std::string> lines(1);
  std::size_t bytes = 0, ids = 0;
  for (; read_line(lines.back()); lines.emplace_back()) bytes += lines.back().size();
  double best = 1e9;
  for (int round = 0; round < 5; ++round) {
    const auto began = std::chrono::steady_clock::now();
    for (const auto& line : lines) ids += tokenizer.encode(line, 1 << 20).ids.size();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
  }
  std::printf("%.1f\n", ids == 0 ? 0.0 : static_cast<double>(bytes) / best / 1e6);
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  std::size_t max_length = 512;
  bool pair = false, types = false, escape = false, alone = false, text = false, all = false, timed = false;
  for (int i = 2; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--max-length" && i + 1 < argc) max_length = std::strtoull(argv[++i], nullptr, 10);
    else if (option == "--pair") pair = true;
    else if (option == "--types") types = true;
    else if (option == "--escaped") escape = true;
    else if (option == "--tokens") alone = true;
    else if (option == "--decode") text = true;
    else if (option == "--decode-all") text = all = true;
    else if (option == "--speed") timed = true;
    else argc = 0;
  }
  if (argc < 2) {
    std::fputs(usage, stderr);
    return 2;
  }
  const meft::text::Tokenizer tokenizer{std::filesystem::path(argv[1])};
  if (timed) return speed(tokenizer);
  std::string line, second, out;
  while (read_line(line)) {
    if (escape) line = unescaped(line);
    if (pair) {
      if (!read_line(second)) meft::fail("tokenizer_peer: --pair: the last line has no second");
      if (escape) second = unescaped(second);
    }
    meft::text::Encoding encoding;
    if (alone) encoding.ids = tokenizer.tokens(line);
    else encoding = pair ? tokenizer.encode(line, second, max_length) : tokenizer.encode(line, max_length);
    out.clear();
    if (text) {
      out = tokenizer.decode(encoding.ids, !all);
      if (escape) out = escaped(out);
    } else {
      for (const auto id : encoding.ids) out += (out.empty() ? "" : " ") + std::to_string(id);
      if (types) out += " | ";
      const std::size_t before = out.size();
      for (const auto type : encoding.types)
        if (types) out += (out.size() == before ? "" : " ") + std::to_string(type);
    }
    out += '\n';
    std::fwrite(out.data(), 1, out.size(), stdout);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
