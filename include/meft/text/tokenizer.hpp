// Owns: choosing the tokenizer of a checkpoint by the files of its folder, and using each in the same way.
// Must not know: models and batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/text/bpe.hpp>
#include <meft/text/encoding.hpp>
#include <meft/text/tokenizer_files.hpp>
#include <meft/text/unigram.hpp>
#include <meft/text/wordpiece.hpp>

namespace meft::text {

/// A WordPiece, a Bpe or a Unigram; their documentation holds. Immutable after construction.
class Tokenizer {
 public:
  /// Reads `folder`: the model.type of tokenizer.json decides; without that file, vocab.txt means WordPiece, vocab.json
  /// and merges.txt mean Bpe. Throws Error that names the file and the field or line at fault.
  explicit Tokenizer(const std::filesystem::path& folder) : Tokenizer(TokenizerFiles(folder)) {}
  explicit Tokenizer(const TokenizerFiles& files) : tokenizer_(choose(files)) {}
  Tokenizer(WordPiece tokenizer) : tokenizer_(std::move(tokenizer)) {}  // NOLINT: either is a Tokenizer
  Tokenizer(Bpe tokenizer) : tokenizer_(std::move(tokenizer)) {}        // NOLINT
  Tokenizer(Unigram tokenizer) : tokenizer_(std::move(tokenizer)) {}    // NOLINT

  /// One text with its special tokens, cut to `max_length` tokens.
  Encoding encode(std::string_view text, std::size_t max_length = 512, Where where = Where::current()) const {
    return std::visit([&](const auto& t) { return t.encode(text, max_length, where); }, tokenizer_);
  }
  /// A pair with its special tokens, cut to `max_length` tokens, the longer text first.
  Encoding encode(std::string_view text, std::string_view pair, std::size_t max_length = 512,
                  Where where = Where::current()) const {
    return std::visit([&](const auto& t) { return t.encode(text, pair, max_length, where); }, tokenizer_);
  }
  /// The ids of `text` alone: no special tokens around it, nothing cut.
  std::vector<std::int32_t> tokens(std::string_view text) const {
    return std::visit([&](const auto& t) { return t.tokens(text); }, tokenizer_);
  }
  /// The text of `ids`, without special tokens if `skip_special`. Throws Error for an unknown id.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true,
                     Where where = Where::current()) const {
    return std::visit([&](const auto& t) { return t.decode(ids, skip_special, where); }, tokenizer_);
  }

  /// The id of `token`, or unk() if there is no such token.
  std::int32_t id(std::string_view token) const {
    return std::visit([&](const auto& t) { return t.id(token); }, tokenizer_);
  }
  /// The token of `id`. Throws Error if there is none.
  const std::string& token(std::int32_t id, Where where = Where::current()) const {
    return std::visit([&](const auto& t) -> const std::string& { return t.token(id, where); }, tokenizer_);
  }
  /// The number of ids, added tokens too.
  std::size_t size() const {
    return std::visit([](const auto& t) { return t.size(); }, tokenizer_);
  }

  /// The length that the checkpoint's files allow (model_max_length); SIZE_MAX if they do not say.
  std::size_t longest() const {
    return std::visit([](const auto& t) { return t.longest(); }, tokenizer_);
  }
  /// How many token types a pair has: 1 where all are 0.
  std::int32_t types() const {
    return std::visit([](const auto& t) { return t.types(); }, tokenizer_);
  }

  /// The special tokens; −1 where there is none. BERT's [CLS] is bos(), its [SEP] is eos().
  std::int32_t bos() const {
    return std::visit([](const auto& t) { return t.bos(); }, tokenizer_);
  }
  std::int32_t eos() const {
    return std::visit([](const auto& t) { return t.eos(); }, tokenizer_);
  }
  std::int32_t pad() const {
    return std::visit([](const auto& t) { return t.pad(); }, tokenizer_);
  }
  std::int32_t unk() const {
    return std::visit([](const auto& t) { return t.unk(); }, tokenizer_);
  }
  std::int32_t mask() const {
    return std::visit([](const auto& t) { return t.mask(); }, tokenizer_);
  }

  const std::variant<WordPiece, Bpe, Unigram>& kind() const { return tokenizer_; }

 private:
  using Either = std::variant<WordPiece, Bpe, Unigram>;

  static Either choose(const TokenizerFiles& files) {
    if (files.unigram) return Unigram(files);
    if (files.bpe) return Bpe(files);
    return WordPiece(files);
  }

  Either tokenizer_;
};

}  // namespace meft::text
