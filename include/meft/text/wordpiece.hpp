// Owns: BERT's and MPNet's tokenizer: text to WordPiece ids, the same as Hugging Face's, from tokenizer.json or
// vocab.txt. Must not know: models and batches. WordPiece: a word is cut greedily into the longest pieces that the
// vocabulary has (Wu et al. 2016, arXiv 1609.08144).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/text/bert_normalizer.hpp>
#include <meft/text/encoder.hpp>
#include <meft/text/template.hpp>
#include <meft/text/tokenizer_files.hpp>
#include <meft/text/unicode.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

/// Immutable after construction: any number of threads may encode with one.
class WordPiece : public Encoder<WordPiece> {
 public:
  /// Reads `folder`: tokenizer.json where there is one (model WordPiece), else vocab.txt. The normalizer, the special
  /// tokens and what stands around texts are those that transformers makes of the folder's files (TokenizerFiles).
  /// Throws Error that names the file and the field or line at fault.
  explicit WordPiece(const std::filesystem::path& folder) : WordPiece(TokenizerFiles(folder)) {}
  explicit WordPiece(const TokenizerFiles& files) {
    const bool plain = files.kind == TokenizerFiles::Kind::plain;
    source_ = files.path(files.json ? "tokenizer.json" : "vocab.txt");
    std::string unknown = "[UNK]";
    if (files.json) read_json(files.root(), unknown);
    else vocab_ = read_vocab(files.folder / "vocab.txt");
    index_pieces();
    if (plain) {
      missing_ = vocab_.find(unknown);
      if (missing_ < 0) files.root().at("model").at("unk_token").wrong("a token of the vocabulary");
    } else {
      normalizes_ = true;
      normalizer_ = BertNormalizer({.handle_chinese_chars = files.chinese_characters,
                                    .strip_accents = files.strip_accents.value_or(files.lowercase),
                                    .lowercase = files.lowercase});
      bos_ = required(files, "cls_token", source_);
      eos_ = required(files, "sep_token", source_);
      missing_ = named(files, {"unk_token"});
      template_ =
          files.kind == TokenizerFiles::Kind::mpnet ? Template::roberta(bos_, eos_) : Template::bert(bos_, eos_);
    }
    add_tokens(files);
    unk_ = missing_;
    if (plain) read_plain(files);
  }

  /// The text of `ids`, without special tokens if `skip_special`: pieces joined to words, a space between words but
  /// none before English punctuation and contractions. Throws Error for an id that is not in the vocabulary. Source:
  /// Hugging Face tokenizers, decoder WordPiece with cleanup.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true,
                     Where where = Where::current()) const {
    std::string out;
    bool first = true;
    for (const std::int32_t id : ids) {
      const std::string& token = vocab_.token(id, where);
      if (skip_special && special_[static_cast<std::size_t>(id)]) continue;
      const bool continues = !first && token.starts_with(prefix_);
      append_clean(continues ? token.substr(prefix_.size()) : first ? token : " " + token, out);
      first = false;
    }
    return out;
  }

  /// What BERT calls bos() and eos().
  std::int32_t cls() const { return bos_; }
  std::int32_t sep() const { return eos_; }

 private:
  friend class Encoder<WordPiece>;

  // ---- reading

  void read_json(const JsonField& root, std::string& unknown) {
    const JsonField model = root.at("model");
    if (const auto type = model.find("type")) expect(*type, "WordPiece");
    vocab_ = read_vocab(model.at("vocab"));
    if (const auto field = model.find("unk_token")) unknown = field->string();
    if (const auto field = model.find("continuing_subword_prefix")) prefix_ = field->string();
    if (const auto field = model.find("max_input_chars_per_word"))
      max_word_ = static_cast<std::size_t>(field->integer(1, 1 << 20));
    expect(root.at("pre_tokenizer").at("type"), "BertPreTokenizer");
    const auto field = root.find("normalizer");
    normalizes_ = field.has_value();
    if (!field) return;
    expect(field->at("type"), "BertNormalizer");
    auto flag = [&](std::string_view key, bool otherwise) {
      const auto found = field->find(key);
      return found ? found->boolean() : otherwise;
    };
    BertNormalizerOptions options;
    options.clean_text = flag("clean_text", true);
    options.handle_chinese_chars = flag("handle_chinese_chars", true);
    options.lowercase = flag("lowercase", true);
    options.strip_accents = flag("strip_accents", options.lowercase);
    normalizer_ = BertNormalizer(options);
  }

  static void expect(const JsonField& field, std::string_view value) {
    if (field.string() != value) field.wrong("\"" + std::string(value) + "\"");
  }

  void index_pieces() {
    for (std::size_t id = 0; id < vocab_.size(); ++id) {
      const std::string& token = vocab_.tokens()[id];
      longest_ = std::max(longest_, token.size());
      if (token.size() > prefix_.size() && token.starts_with(prefix_))
        pieces_.insert_or_assign(token.substr(prefix_.size()), static_cast<std::int32_t>(id));
    }
  }

  // ---- decoding

  static void append_clean(std::string token, std::string& out) {
    constexpr std::pair<std::string_view, std::string_view> rules[] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [from, to] : rules)
      for (std::size_t at = 0; (at = token.find(from, at)) != std::string::npos; at += to.size())
        token.replace(at, from.size(), to);
    out += token;
  }

  // ---- encoding

  std::string_view normalized(std::string_view text, std::string& room, std::size_t&) const {
    if (!normalizes_) return text;
    room.clear();
    normalizer_.append(text, room);
    return room;
  }

  bool append_words(std::string_view text, std::size_t limit, std::vector<std::int32_t>& ids, std::size_t) const {
    return each_bert_word(text, [&](std::string_view word, std::size_t points) {
      append_word(word, points, ids);
      return ids.size() < limit;
    });
  }

  void append_word(std::string_view word, std::size_t points, std::vector<std::int32_t>& ids) const {
    const std::size_t before = ids.size();
    bool known = points <= max_word_;
    for (std::size_t begin = 0; begin < word.size() && known;) {
      std::int32_t found = -1;
      std::size_t end = std::min(word.size(), begin + longest_);
      while (end < word.size() && end > begin && (static_cast<unsigned char>(word[end]) & 0xC0) == 0x80) --end;
      for (; end > begin; end = previous(word, end)) {
        const std::string_view piece = word.substr(begin, end - begin);
        if (begin == 0) {
          found = vocab_.find_own(piece);
        } else if (const auto at = pieces_.find(piece); at != pieces_.end()) {
          found = at->second;
        }
        if (found >= 0) break;
      }
      known = found >= 0;
      ids.push_back(found);
      begin = end;
    }
    if (known) return;
    if (missing_ < 0)
      throw Error(source_ + ": no token for the word " + in_quotes(word) + ", and none that stands for unknown words");
    ids.resize(before);
    ids.push_back(missing_);
  }

  std::string source_;  // of the vocabulary
  TokenMap pieces_;     // tokens that continue a word, without their prefix
  std::string prefix_ = "##";
  std::size_t max_word_ = 100, longest_ = 0;  // code points of a word; bytes of a token
  bool normalizes_ = true;
  BertNormalizer normalizer_;
  std::int32_t missing_ = -1;  // for an unknown word; −1: it is an error
};

}  // namespace meft::text
