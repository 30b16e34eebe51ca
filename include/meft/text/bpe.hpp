// Owns: the BPE tokenizer, byte-level as that of GPT-2, RoBERTa, BART, OPT, Llama 3, SmolLM2 and Qwen2, or of pieces as
// that of Llama 2 and Mistral: text to ids, the same as Hugging Face's (Llama 2's as its tokenizer.json says), and
// back. Must not know: models and batches. Source: Radford et al. 2019, "Language Models are Unsupervised Multitask
// Learners", section 2.2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/text/byte_level.hpp>
#include <meft/text/encoder.hpp>
#include <meft/text/merges.hpp>
#include <meft/text/pieces.hpp>
#include <meft/text/template.hpp>
#include <meft/text/tokenizer_files.hpp>
#include <meft/text/unicode.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

/// Immutable after construction: any number of threads may encode with one.
class Bpe : public Encoder<Bpe> {
 public:
  /// Reads `folder`: tokenizer.json where there is one (model BPE, of bytes, pre-tokenizer ByteLevel, or of
  /// SentencePiece's pieces, see Pieces::read), else vocab.json and merges.txt. The special tokens and what stands
  /// around texts are those that transformers makes of the folder's files (TokenizerFiles). Throws Error that names the
  /// file and the field or line at fault.
  explicit Bpe(const std::filesystem::path& folder) : Bpe(TokenizerFiles(folder)) {}
  explicit Bpe(const TokenizerFiles& files) {
    using Kind = TokenizerFiles::Kind;
    const std::string source = files.path(files.json ? "tokenizer.json" : "vocab.json");
    if (files.json) read_json(files.root(), files.kind == Kind::plain);
    else if (files.bpe) read_files(files.folder);
    else fail(files.folder.string() + ": vocab.txt, which comes before vocab.json, is WordPiece's");
    if (files.kind != Kind::plain) add_prefix_space_ = files.add_prefix_space;
    if (files.kind == Kind::qwen2) pattern_ = 1, composes_ = true, use_regex_ = false;
    if (files.kind == Kind::roberta) {
      bos_ = required(files, "cls_token", source);
      eos_ = required(files, "sep_token", source);
      template_ = Template::roberta(bos_, eos_);
    }
    add_tokens(files);
    if (files.kind == Kind::gpt2 || files.kind == Kind::qwen2) {
      bos_ = named(files, {"bos_token"});
      eos_ = named(files, {"eos_token"});
      template_ = Template::gpt2(files.add_bos ? required(files, "bos_token", source) : -1,
                                 files.add_eos ? required(files, "eos_token", source) : -1);
      if (files.json)
        if (const auto field = files.root().find("post_processor")) template_ = read_template(*field, vocab_);
    } else if (files.kind == Kind::plain) {
      read_plain(files);
      if (unk_ < 0) unk_ = missing_ >= 0 || !is_special("<unk>") ? missing_ : vocab_.find("<unk>");
    }
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      byte_ids_[byte] = vocab_.find_own(characters_.shown({&c, 1}));
    }
    if (pieces_) pieces_->find_tokens(vocab_, ignore_merges_, missing_ < 0, fallback_);
  }

  /// The text of `ids`, without special tokens if `skip_special`; bytes that are not UTF-8 become U+FFFD.
  /// Throws Error for an id that is not in the vocabulary.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true,
                     Where where = Where::current()) const {
    std::string out, bytes;
    for (const std::int32_t id : ids) {
      const std::string& token = vocab_.token(id, where);
      if (skip_special && special_[static_cast<std::size_t>(id)]) continue;
      if (pieces_) pieces_->append_token(token, bytes, out);
      else characters_.append_bytes(token, out);
    }
    if (pieces_) {
      pieces_->end_bytes(bytes, out);
      if (pieces_->strips() && out.starts_with(' ')) out.erase(0, 1);
    }
    return is_utf8(out) ? out : repaired(out);
  }

 private:
  friend class Encoder<Bpe>;

  // ---- reading

  /// `options`: what it says besides vocabulary and merges counts too, its normalizer and pre-tokenizer among that.
  void read_json(const JsonField& root, bool options) {
    const JsonField model = root.at("model");
    if (const auto type = model.find("type"); type && type->string() != "BPE") type->wrong("\"BPE\"");
    vocab_ = read_vocab(model.at("vocab"));
    if (vocab_.size() == 0) model.at("vocab").wrong("at least one token");
    if (options) pieces_ = Pieces::read(root);
    refuse_options(model);
    if (options) read_options(model);
    read_merges(model.at("merges"));
    if (pieces_ || !options) return;
    if (const auto field = root.find("normalizer")) {
      composes_ = field->at("type").string() == "NFC";
      if (!composes_) field->at("type").wrong("\"NFC\", or no normalizer");
    }
    read_pre_tokenizer(root.at("pre_tokenizer"));
    if (const auto field = root.find("decoder"); field && field->at("type").string() != "ByteLevel")
      field->at("type").wrong("\"ByteLevel\"");
  }

  void refuse_options(const JsonField& model) {
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const auto field = model.find(key); field && !field->string().empty()) field->wrong("none, or an empty one");
    if (const auto field = model.find("dropout"); field && field->value() != 0) field->wrong("none");
    if (const auto field = model.find("byte_fallback"); field && field->boolean()) {
      fallback_ = true;
      if (!pieces_) field->wrong("false");
    }
  }

  void read_options(const JsonField& model) {
    if (const auto field = model.find("fuse_unk")) fuse_unk_ = field->boolean();
    if (const auto field = model.find("ignore_merges")) ignore_merges_ = field->boolean();
    if (const auto field = model.find("unk_token")) {
      missing_ = vocab_.find(field->string());
      if (missing_ < 0) field->wrong("a token of the vocabulary");
    }
  }

  void read_merges(const JsonField& field) {
    const auto& list = field.array();
    for (std::size_t i = 0; i < list.size(); ++i) {
      auto wrong = [&](std::string_view expected) { field.at(i).wrong(expected); };
      if (list[i].is_string()) {
        add_merge(list[i].get_ref<const std::string&>(), wrong);
      } else {
        const bool two = list[i].is_array() && list[i].size() == 2 && list[i][0].is_string() && list[i][1].is_string();
        if (!two) wrong("two tokens");
        add_merge(list[i][0].get_ref<const std::string&>(), list[i][1].get_ref<const std::string&>(), wrong);
      }
    }
  }

  void read_pre_tokenizer(const JsonField& field) {
    const bool is_list = field.at("type").string() == "Sequence";
    const JsonField list = is_list ? field.at("pretokenizers") : field;
    const std::size_t count = is_list ? list.array().size() : 1;
    if (count == 0) list.wrong("ByteLevel, perhaps Digits or Split before it");
    const JsonField level = is_list ? list.at(count - 1) : field;
    if (level.at("type").string() != "ByteLevel") level.at("type").wrong("\"ByteLevel\"");
    for (std::size_t i = 0; i + 1 < count; ++i) read_split(list.at(i));
    auto flag = [&](std::string_view key) {
      const auto found = level.find(key);
      return !found || found->boolean();
    };
    add_prefix_space_ = flag("add_prefix_space");
    use_regex_ = flag("use_regex");
  }

  /// What comes before ByteLevel.
  void read_split(const JsonField& field) {
    const JsonField type = field.at("type");
    if (type.string() == "Digits" && !digits_ && !pattern_) {
      const auto each = field.find("individual_digits");
      digits_ = each && each->boolean() ? 1 : 2;
      return;
    }
    if (type.string() != "Split" || pattern_) type.wrong("\"ByteLevel\", or \"Digits\" or \"Split\" once before it");
    const JsonField regex = field.at("pattern").at("Regex");
    for (const auto& [digits, text] : patterns)
      if (regex.string() == text) pattern_ = digits;
    if (!pattern_) regex.wrong("the pattern of Llama 3 or of Qwen2");
    if (field.at("behavior").string() != "Isolated") field.at("behavior").wrong("\"Isolated\"");
    if (const auto inverted = field.find("invert"); inverted && inverted->boolean()) inverted->wrong("false");
  }

  void read_files(const std::filesystem::path& folder) {
    const std::string source = (folder / "vocab.json").string();
    const auto tree = parse_json(read_file(folder / "vocab.json"), source);
    const JsonField root(tree, source);
    vocab_ = read_vocab(root);
    if (vocab_.size() == 0) root.wrong("at least one token");
    read_merges(folder / "merges.txt");
  }

  void read_merges(const std::filesystem::path& path) {
    const std::string text = read_file(path);
    std::size_t end = text.size(), number = 0;
    while (end > 0 && (text[end - 1] == '\n' || text[end - 1] == '\r')) --end;
    for (std::size_t begin = 0; begin < end;) {
      const std::size_t stop = std::min(text.find('\n', begin), end);
      std::string_view line(text.data() + begin, stop - begin);
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      ++number;
      begin = stop + 1;
      if (line.starts_with("#version")) continue;
      add_merge(line, [&](std::string_view expected) {
        throw Error(path.string() + ": line " + std::to_string(number) + ": " + in_quotes(line) + ", expected " +
                    std::string(expected));
      });
    }
  }

  template <class Wrong>
  void add_merge(std::string_view both, const Wrong& wrong) {
    const std::size_t space = both.find(' ');
    if (space == 0 || space >= both.size() - 1 || both.find(' ', space + 1) != std::string_view::npos)
      wrong("two tokens with a space between");
    add_merge(both.substr(0, space), both.substr(space + 1), wrong);
  }

  template <class Wrong>
  void add_merge(std::string_view left, std::string_view right, const Wrong& wrong) {
    const std::string made = std::string(left) + std::string(right);
    std::array<std::int32_t, 3> ids{};
    const std::array<std::string_view, 3> parts{left, right, made};
    for (std::size_t i = 0; i < 3; ++i) {
      ids[i] = vocab_.find(parts[i]);
      if (ids[i] < 0) wrong("tokens of the vocabulary: " + in_quotes(parts[i]) + " is none");
    }
    merges_.add(ids[0], ids[1], ids[2]);
    if (pieces_) pieces_->look_at_merge(made);
  }

  // ---- encoding

  std::string_view normalized(std::string_view text, std::string& room, std::size_t& head) const {
    if (pieces_) return pieces_->normalized(text, room, head);
    return composes_ ? composed(text, room) : text;
  }

  bool append_words(std::string_view text, std::size_t limit, std::vector<std::int32_t>& ids, std::size_t head) const {
    const auto add = [&](std::string_view word) {
      append_word(word, ids);
      return ids.size() < limit;
    };
    if (pieces_) return pieces_->each_word(text, head, add);
    const auto level = [&](std::string_view part) {
      std::string prefixed;
      if (add_prefix_space_ && part.front() != ' ') part = prefixed.assign(1, ' ').append(part);
      return use_regex_ ? each_gpt2_word(part, add) : add(part);
    };
    const auto split = [&](std::string_view part) {
      return pattern_ ? each_llama3_word(part, pattern_, level) : level(part);
    };
    return digits_ ? each_part_by_digits(text, digits_ == 2, split) : split(text);
  }

  void append_word(std::string_view word, std::vector<std::int32_t>& ids) const {
    const std::size_t begin = ids.size();
    if (ignore_merges_) {
      const auto found = pieces_ ? vocab_.find_own(word) : vocab_.find_own(characters_.shown(word));
      if (found >= 0) return ids.push_back(found);
    }
    if (pieces_) {
      pieces_->append(word, vocab_, fallback_, missing_, fuse_unk_, ids);
      return merges_.apply(ids, begin);
    }
    bool fuses = false;  // the byte before was unknown
    for (const char c : word) {
      const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0) ids.push_back(id);
      else if (missing_ >= 0 && !(fuses && fuse_unk_)) ids.push_back(missing_);
      fuses = id < 0;
    }
    merges_.apply(ids, begin);
  }

  /// Of Llama 3 and Qwen2, by the most numbers of a word (each_llama3_word).
  static constexpr std::pair<std::size_t, std::string_view> patterns[] = {
      {3,
       R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
      {1,
       R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}};

  Merges merges_;
  ByteCharacters characters_;
  std::optional<Pieces> pieces_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::size_t pattern_ = 0;  // the most numbers of a word; 0: words are ByteLevel's alone
  int digits_ = 0;           // 1: each digit is a part of its own, 2: each run of them
  bool composes_ = false;    // NFC
  bool fallback_ = false;    // of pieces: characters without a token as bytes
  bool add_prefix_space_ = false, use_regex_ = true, fuse_unk_ = false, ignore_merges_ = false;
  std::int32_t missing_ = -1;  // for a byte without a token; −1: the byte is dropped
};

}  // namespace meft::text
