// Owns: BERT's tokenizer: text to WordPiece ids, the same as Hugging Face's, from tokenizer.json or vocab.txt.
// Must not know: models and batches.
// WordPiece: a word is cut greedily into the longest pieces that the vocabulary has (Wu et al. 2016, arXiv 1609.08144).
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
#include <meft/base/file.hpp>
#include <meft/base/json.hpp>
#include <meft/text/added_tokens.hpp>
#include <meft/text/bert_normalizer.hpp>
#include <meft/text/encoding.hpp>
#include <meft/text/unicode.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

/// Immutable after construction: any number of threads may encode with one.
class WordPiece {
 public:
  /// Reads `folder`: tokenizer.json where there is one (model WordPiece; its normalizer, added tokens, unknown token,
  /// prefix and longest word are taken, its truncation and padding are not), else vocab.txt. tokenizer_config.json, if
  /// there, names the special tokens and, for vocab.txt, says do_lower_case, strip_accents and
  /// tokenize_chinese_chars. Throws Error that names the file and the field or line at fault.
  explicit WordPiece(const std::filesystem::path& folder) {
    namespace fs = std::filesystem;
    const fs::path json = folder / "tokenizer.json", list = folder / "vocab.txt";
    const fs::path config = folder / "tokenizer_config.json";
    Names names;
    BertNormalizerOptions options;
    if (is_there(config.string())) read_config(config, names, options);
    if (is_there(json.string())) {
      load_json(json, names);
    } else {
      require(is_there(list.string()),
              folder.string() + ": expected tokenizer.json or vocab.txt in this folder, found neither");
      vocab_ = read_vocab(list);
      normalizer_ = BertNormalizer(options);
      source_ = list.string();
      for (const std::string* name : {&names.cls, &names.sep, &names.pad, &names.unk, &names.mask})
        look_for(*name, {.content = *name, .id = special(*name)}, raw_);
    }
    cls_ = special(names.cls);
    sep_ = special(names.sep);
    pad_ = special(names.pad);
    unk_ = special(names.unk);
    mask_ = special(names.mask);
    index_pieces();
  }

  /// [CLS] text [SEP], cut to `max_length` tokens with these two. Broken UTF-8 counts as U+FFFD.
  /// Throws Error if `max_length` < 2.
  Encoding encode(std::string_view text, std::size_t max_length = 512, Where where = Where::current()) const {
    if (max_length < 2)
      throw Error("encode: max_length is " + std::to_string(max_length) + ", expected at least 2", where);
    Encoding out;
    out.ids.push_back(cls_);
    append(text, max_length - 1, out.ids);
    out.cut = out.ids.size() > max_length - 1;
    if (out.cut) out.ids.resize(max_length - 1);
    out.ids.push_back(sep_);
    out.types.assign(out.ids.size(), 0);
    return out;
  }

  /// [CLS] text [SEP] pair [SEP], cut to `max_length` tokens with these three, the longer text first.
  /// Types are 0 up to the first [SEP] and 1 after it. Throws Error if `max_length` < 3.
  Encoding encode(std::string_view text, std::string_view pair, std::size_t max_length = 512,
                  Where where = Where::current()) const {
    if (max_length < 3)
      throw Error("encode: max_length is " + std::to_string(max_length) + ", expected at least 3 for a pair", where);
    Encoding out;
    std::vector<std::int32_t> second;
    out.ids.push_back(cls_);
    append(text, everything, out.ids);  // which of the two is longer decides where to cut
    append(pair, everything, second);
    out.cut = out.ids.size() - 1 + second.size() > max_length - 3;
    const auto [a, b] = longest_first(out.ids.size() - 1, second.size(), max_length - 3);
    out.ids.resize(a + 1);
    out.ids.push_back(sep_);
    out.types.assign(out.ids.size(), 0);
    out.ids.insert(out.ids.end(), second.begin(), second.begin() + static_cast<std::ptrdiff_t>(b));
    out.ids.push_back(sep_);
    out.types.resize(out.ids.size(), 1);
    return out;
  }

  /// The ids of `text` alone: no special tokens around it, nothing cut.
  std::vector<std::int32_t> tokens(std::string_view text) const {
    std::vector<std::int32_t> ids;
    append(text, everything, ids);
    return ids;
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

  /// The id of `token`, or unk() if there is no such token.
  std::int32_t id(std::string_view token) const {
    const std::int32_t found = vocab_.find(token);
    return found < 0 ? unk_ : found;
  }
  /// The token of `id`. Throws Error if there is none.
  const std::string& token(std::int32_t id, Where where = Where::current()) const { return vocab_.token(id, where); }
  /// The number of ids, added tokens too.
  std::size_t size() const { return vocab_.size(); }

  std::int32_t cls() const { return cls_; }
  std::int32_t sep() const { return sep_; }
  /// What other models call cls() and sep().
  std::int32_t bos() const { return cls_; }
  std::int32_t eos() const { return sep_; }
  std::int32_t pad() const { return pad_; }
  std::int32_t unk() const { return unk_; }
  std::int32_t mask() const { return mask_; }

 private:
  static constexpr std::size_t everything = SIZE_MAX;

  struct Names {
    std::string cls = "[CLS]", sep = "[SEP]", pad = "[PAD]", unk = "[UNK]", mask = "[MASK]";
  };

  std::int32_t special(const std::string& name) const {
    const std::int32_t found = vocab_.find(name);
    if (found < 0)
      throw Error(source_ + ": special token " + in_quotes(name) + " is missing among " +
                  std::to_string(vocab_.size()) + " tokens");
    return found;
  }

  // ---- reading

  static void read_config(const std::filesystem::path& path, Names& names, BertNormalizerOptions& options) {
    const auto tree = parse_json(read_file(path), path.string());
    const JsonField root(tree, path.string());
    for (auto [key, name] :
         {std::pair{"cls_token", &names.cls}, std::pair{"sep_token", &names.sep}, std::pair{"pad_token", &names.pad},
          std::pair{"unk_token", &names.unk}, std::pair{"mask_token", &names.mask}}) {
      if (const auto field = root.find(key))
        *name = field->value().is_object() ? field->at("content").string() : field->string();
    }
    if (const auto field = root.find("do_lower_case")) options.lowercase = field->boolean();
    options.strip_accents = options.lowercase;
    if (const auto field = root.find("strip_accents")) options.strip_accents = field->boolean();
    if (const auto field = root.find("tokenize_chinese_chars")) options.handle_chinese_chars = field->boolean();
  }

  void load_json(const std::filesystem::path& path, Names& names) {
    source_ = path.string();
    const auto tree = parse_json(read_file(path), source_);
    const JsonField root(tree, source_);
    const JsonField model = root.at("model");
    if (const auto type = model.find("type")) expect(*type, "WordPiece");
    vocab_ = read_vocab(model.at("vocab"));
    if (const auto field = model.find("unk_token")) names.unk = field->string();
    if (const auto field = model.find("continuing_subword_prefix")) prefix_ = field->string();
    if (const auto field = model.find("max_input_chars_per_word"))
      max_word_ = static_cast<std::size_t>(field->integer(1, 1 << 20));
    const auto added = read_added_tokens(root, vocab_);
    read_normalizer(root);
    expect(root.at("pre_tokenizer").at("type"), "BertPreTokenizer");
    if (const auto processor = root.find("post_processor")) read_processor(*processor, names);
    for (const AddedToken& token : added) {
      if (token.normalized) {
        std::string pattern;
        normalize(token.content, pattern);
        look_for(pattern, token, normalized_);
      } else {
        look_for(token.content, token, raw_);
      }
    }
  }

  void read_normalizer(const JsonField& root) {
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

  /// The names of [CLS] and [SEP]; the rest of a post-processor must be what BERT's does.
  static void read_processor(const JsonField& field, Names& names) {
    const JsonField type = field.at("type");
    if (type.string() == "BertProcessing") {
      names.cls = field.at("cls").at(std::size_t{0}).string();
      names.sep = field.at("sep").at(std::size_t{0}).string();
      return;
    }
    expect(type, "TemplateProcessing");
    std::vector<std::string> tokens;
    auto follow = [&](std::string_view key, std::string_view parts, std::string_view types) {
      const JsonField list = field.at(key);
      if (list.array().size() != parts.size()) list.wrong(std::to_string(parts.size()) + " parts, as BERT has");
      for (std::size_t i = 0; i < parts.size(); ++i) {
        const bool is_special = parts[i] == 'S';
        const JsonField part = list.at(i).at(is_special ? "SpecialToken" : "Sequence"), id = part.at("id");
        if (is_special) tokens.push_back(id.string());
        else expect(id, std::string(1, parts[i]));
        part.at("type_id").integer(types[i] - '0', types[i] - '0');
      }
    };
    follow("single", "SAS", "000");
    follow("pair", "SASBS", "00011");
    for (const std::size_t i : {std::size_t{3}, std::size_t{4}})
      if (tokens[i] != tokens[i - 2] && tokens[i] != tokens[1]) field.at("pair").wrong("the separator " + tokens[1]);
    names.cls = tokens[0];
    names.sep = tokens[1];
  }

  static void expect(const JsonField& field, std::string_view value) {
    if (field.string() != value) field.wrong("\"" + std::string(value) + "\"");
  }

  void look_for(const std::string& pattern, const AddedToken& token, AddedTokens& among) {
    among.add(pattern, token);
    special_.resize(vocab_.size());
    if (token.special) special_[static_cast<std::size_t>(token.id)] = true;
  }

  void index_pieces() {
    special_.resize(vocab_.size());
    for (std::size_t id = 0; id < vocab_.size(); ++id) {
      const std::string& token = vocab_.tokens()[id];
      longest_ = std::max(longest_, token.size());
      if (token.size() > prefix_.size() && token.starts_with(prefix_))
        pieces_.emplace(token.substr(prefix_.size()), static_cast<std::int32_t>(id));
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

  void normalize(std::string_view text, std::string& out) const {
    if (normalizes_) normalizer_.append(text, out);
    else out.append(text);
  }

  /// Appends the ids of `text`. May stop once there are `limit` of them.
  void append(std::string_view text, std::size_t limit, std::vector<std::int32_t>& ids) const {
    std::string whole, normal;
    if (!is_utf8(text)) text = whole = repaired(text);
    const std::size_t before = ids.size();
    ids.reserve(before + std::min(limit, text.size() / 3) + 8);
    raw_.split(text, [&](std::string_view part, std::int32_t added) {
      if (added >= 0) {
        ids.push_back(added);
        return true;
      }
      normal.clear();
      normalize(part, normal);
      return normalized_.split(normal, [&](std::string_view words, std::int32_t known) {
        if (known >= 0) {
          ids.push_back(known);
          return true;
        }
        return each_bert_word(words, [&](std::string_view word, std::size_t points) {
          append_word(word, points, ids);
          return ids.size() - before < limit;
        });
      });
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
          found = vocab_.find(piece);
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
    ids.resize(before);
    ids.push_back(unk_);
  }

  std::string source_;
  Vocab vocab_;
  TokenMap pieces_;  // tokens that continue a word, without their prefix
  std::string prefix_ = "##";
  std::size_t max_word_ = 100, longest_ = 0;  // code points of a word; bytes of a token
  bool normalizes_ = true;
  BertNormalizer normalizer_;
  AddedTokens raw_, normalized_;
  std::vector<bool> special_;  // by id
  std::int32_t cls_ = 0, sep_ = 0, pad_ = 0, unk_ = 0, mask_ = 0;
};

}  // namespace meft::text
