// Owns: the byte-level BPE tokenizer of GPT-2, RoBERTa, BART and OPT: text to ids, the same as Hugging Face's, and
// back. Must not know: models and batches. Source: Radford et al. 2019, "Language Models are Unsupervised Multitask
// Learners", section 2.2.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/text/added_tokens.hpp>
#include <meft/text/byte_level.hpp>
#include <meft/text/encoding.hpp>
#include <meft/text/merges.hpp>
#include <meft/text/special_tokens.hpp>
#include <meft/text/template.hpp>
#include <meft/text/unicode.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

/// Immutable after construction: any number of threads may encode with one.
class Bpe {
 public:
  /// Reads `folder`: tokenizer.json where there is one (model BPE, pre-tokenizer ByteLevel; its truncation and padding
  /// are not taken), else vocab.json and merges.txt with added_tokens.json. tokenizer_config.json and
  /// special_tokens_map.json, if there, name the special tokens; without tokenizer.json, tokenizer_class (or else the
  /// model_type of config.json), add_bos_token and add_prefix_space say what stands around a text.
  /// Throws Error that names the file and the field or line at fault.
  explicit Bpe(const std::filesystem::path& folder) {
    const auto specials = SpecialTokens::read(folder);
    if (is_there(folder / "tokenizer.json")) {
      load_json(folder / "tokenizer.json", specials);
    } else {
      require(is_there(folder / "vocab.json") && is_there(folder / "merges.txt"),
              folder.string() + ": expected tokenizer.json, or vocab.json and merges.txt, in this folder");
      load_files(folder, specials);
    }
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      byte_ids_[byte] = vocab_.find(characters_.shown({&c, 1}));
    }
  }

  /// The ids of `text` with the special tokens of one text, cut to `max_length` with these. Broken UTF-8 counts as
  /// U+FFFD. Throws Error if `max_length` is less than the number of special tokens.
  Encoding encode(std::string_view text, std::size_t max_length = 512, Where where = Where::current()) const {
    const std::size_t room = room_for(template_.single(), max_length, "", where);
    std::vector<std::int32_t> ids;
    append(text, room < everything ? room + 1 : room, ids);
    const bool cut = ids.size() > room;
    if (cut) ids.resize(room);
    Encoding out = Template::fill(template_.single(), ids);
    out.cut = cut;
    return out;
  }

  /// The same of a pair, the longer text cut first.
  Encoding encode(std::string_view text, std::string_view pair, std::size_t max_length = 512,
                  Where where = Where::current()) const {
    const std::size_t room = room_for(template_.pair(), max_length, " for a pair", where);
    std::vector<std::int32_t> first, second;
    append(text, everything, first);  // which of the two is longer decides where to cut
    append(pair, everything, second);
    const bool cut = first.size() + second.size() > room;
    const auto [a, b] = longest_first(first.size(), second.size(), room);
    first.resize(a);
    second.resize(b);
    Encoding out = Template::fill(template_.pair(), first, second);
    out.cut = cut;
    return out;
  }

  /// The ids of `text` alone: no special tokens around it, nothing cut.
  std::vector<std::int32_t> tokens(std::string_view text) const {
    std::vector<std::int32_t> ids;
    append(text, everything, ids);
    return ids;
  }

  /// The text of `ids`, without special tokens if `skip_special`; bytes that are not UTF-8 become U+FFFD.
  /// Throws Error for an id that is not in the vocabulary.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true,
                     Where where = Where::current()) const {
    std::string out;
    for (const std::int32_t id : ids) {
      const std::string& token = vocab_.token(id, where);
      if (!skip_special || !special_[static_cast<std::size_t>(id)]) characters_.append_bytes(token, out);
    }
    return is_utf8(out) ? out : repaired(out);
  }

  /// The id of `token`, as the vocabulary writes it ("Ġthe"); unk() if there is no such token.
  std::int32_t id(std::string_view token) const {
    const std::int32_t found = vocab_.find(token);
    return found < 0 ? unk_ : found;
  }
  /// The token of `id`. Throws Error if there is none.
  const std::string& token(std::int32_t id, Where where = Where::current()) const { return vocab_.token(id, where); }
  /// The number of ids, added tokens too.
  std::size_t size() const { return vocab_.size(); }

  /// The special tokens; −1 where there is none. bos() is what BERT calls [CLS], eos() what it calls [SEP].
  std::int32_t bos() const { return bos_; }
  std::int32_t eos() const { return eos_; }
  std::int32_t pad() const { return pad_; }
  std::int32_t unk() const { return unk_; }
  std::int32_t mask() const { return mask_; }

 private:
  static constexpr std::size_t everything = SIZE_MAX;
  using Keys = std::initializer_list<std::string_view>;

  // ---- reading tokenizer.json

  void load_json(const std::filesystem::path& path, const SpecialTokens& specials) {
    const std::string source = path.string();
    const auto tree = parse_json(read_file(path), source);
    const JsonField root(tree, source);
    const JsonField model = root.at("model");
    if (const auto type = model.find("type"); type && type->string() != "BPE") type->wrong("\"BPE\"");
    vocab_ = read_vocab(model.at("vocab"));
    if (vocab_.size() == 0) model.at("vocab").wrong("at least one token");
    read_options(model);
    read_merges(model.at("merges"));
    const auto added = read_added_tokens(root, vocab_);
    look_for(added);
    if (const auto field = root.find("normalizer")) field->at("type").wrong("no normalizer, as byte-level BPE has");
    read_pre_tokenizer(root.at("pre_tokenizer"));
    if (const auto field = root.find("post_processor")) template_ = read_template(*field, vocab_);
    if (const auto field = root.find("decoder"); field && field->at("type").string() != "ByteLevel")
      field->at("type").wrong("\"ByteLevel\"");

    auto special = [&](Keys keys, std::int32_t otherwise, Keys usual) {
      if (const auto* named = specials.find(keys)) return named_id(*named);
      for (const std::string_view name : usual)
        for (const AddedToken& token : added)
          if (otherwise < 0 && token.content == name) otherwise = token.id;
      return otherwise;
    };
    const auto& around = template_.single();
    bos_ = special({"bos_token", "cls_token"}, around.front().id, {"<s>", "<|endoftext|>"});
    eos_ = special({"eos_token", "sep_token"}, around.back().id, {"</s>", "<|endoftext|>"});
    pad_ = special({"pad_token"}, -1, {"<pad>"});
    unk_ = special({"unk_token"}, missing_, {"<unk>"});
    mask_ = special({"mask_token"}, -1, {"<mask>"});
  }

  void read_options(const JsonField& model) {
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const auto field = model.find(key); field && !field->string().empty()) field->wrong("none, or an empty one");
    if (const auto field = model.find("dropout"); field && field->value() != 0) field->wrong("none");
    if (const auto field = model.find("byte_fallback"); field && field->boolean()) field->wrong("false");
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
    if (is_list && list.array().size() != 1) list.wrong("one pre-tokenizer, ByteLevel");
    const JsonField level = is_list ? list.at(std::size_t{0}) : field;
    if (level.at("type").string() != "ByteLevel") level.at("type").wrong("\"ByteLevel\"");
    auto flag = [&](std::string_view key) {
      const auto found = level.find(key);
      return !found || found->boolean();
    };
    add_prefix_space_ = flag("add_prefix_space");
    use_regex_ = flag("use_regex");
  }

  // ---- reading vocab.json and merges.txt

  void load_files(const std::filesystem::path& folder, const SpecialTokens& specials) {
    const std::string source = (folder / "vocab.json").string();
    const auto tree = parse_json(read_file(folder / "vocab.json"), source);
    const JsonField root(tree, source);
    vocab_ = read_vocab(root);
    if (vocab_.size() == 0) root.wrong("at least one token");
    read_merges(folder / "merges.txt");
    const auto added = add_tokens(folder, specials.added, vocab_);
    const auto [roberta, add_bos] = kind(folder, specials);

    std::vector<AddedToken> named;
    auto special = [&](Keys keys, std::string_view usual) {
      AddedToken token{.content = std::string(usual), .lstrip = usual == "<mask>"};
      if (const auto* given = specials.find(keys)) {
        token = given->token;
        token.id = named_id(*given);
      } else {
        token.id = usual.empty() ? -1 : vocab_.find(usual);
      }
      if (token.id >= 0) named.push_back(token);
      return token.id;
    };
    const std::string_view other = "<|endoftext|>";
    if (roberta) {
      bos_ = special({"cls_token", "bos_token"}, "<s>");
      eos_ = special({"sep_token", "eos_token"}, "</s>");
      special({"bos_token"}, "<s>");
      special({"eos_token"}, "</s>");
      if (bos_ < 0 || eos_ < 0)
        throw Error(source + ": '<s>' or '</s>' is missing among " + std::to_string(vocab_.size()) + " tokens");
    } else {
      bos_ = special({"bos_token"}, other);
      eos_ = special({"eos_token"}, other);
    }
    pad_ = special({"pad_token"}, roberta ? "<pad>" : "");
    missing_ = unk_ = special({"unk_token"}, roberta ? "<unk>" : other);
    mask_ = special({"mask_token"}, roberta ? "<mask>" : "");
    if (add_bos && bos_ < 0)
      throw Error(source + ": " + in_quotes(other) + " is missing among " + std::to_string(vocab_.size()) +
                  " tokens, and no bos_token is named");
    if (roberta) template_ = Template::roberta(bos_, eos_);
    else if (add_bos) template_ = Template::opt(bos_);
    add_prefix_space_ = specials.add_prefix_space.value_or(false);
    // What is named special is special, whatever added_tokens.json says; its flags stand in added_tokens_decoder.
    for (const AddedToken& token : added)
      if (!token.special && std::any_of(named.begin(), named.end(), [&](const auto& n) { return n.id == token.id; }))
        continue;
      else look_for({&token, 1});
    look_for(named);
  }

  /// Whether texts stand as RoBERTa's, and if not, whether bos stands in front.
  std::pair<bool, bool> kind(const std::filesystem::path& folder, const SpecialTokens& specials) const {
    const std::string& name = specials.tokenizer_class;
    if (name == "RobertaTokenizer" || name == "BartTokenizer") return {true, false};
    if (name == "GPT2Tokenizer") return {false, specials.add_bos.value_or(false)};
    if (!name.empty() && name != "PreTrainedTokenizer")
      throw Error((folder / "tokenizer_config.json").string() + ": tokenizer_class is " + in_quotes(name) +
                  ", expected RobertaTokenizer, BartTokenizer or GPT2Tokenizer");
    std::string model;
    if (const auto tree = read_json(folder, "config.json"))
      if (const auto type = JsonField(*tree, (folder / "config.json").string()).find("model_type"))
        model = type->string();
    if (model == "opt" || model == "gpt2") return {false, specials.add_bos.value_or(model == "opt")};
    const bool roberta = vocab_.find("<s>") >= 0 && vocab_.find("</s>") >= 0;
    return {roberta, !roberta && specials.add_bos.value_or(false)};
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

  // ---- reading either

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
  }

  std::int32_t named_id(const SpecialTokens::Named& named) const {
    const std::int32_t found = vocab_.find(named.token.content);
    if (found < 0)
      throw Error(named.source + ": " + in_quotes(named.token.content) + " is missing among " +
                  std::to_string(vocab_.size()) + " tokens");
    return found;
  }

  void look_for(std::span<const AddedToken> tokens) {
    special_.resize(vocab_.size());
    for (const AddedToken& token : tokens) {
      (token.normalized ? normalized_ : raw_).add(token.content, token);
      if (token.special) special_[static_cast<std::size_t>(token.id)] = true;
    }
  }

  // ---- encoding

  static std::size_t room_for(const Template::Pieces& pieces, std::size_t max_length, std::string_view what,
                              Where where) {
    const std::size_t specials = Template::specials(pieces);
    if (max_length < specials)
      throw Error("encode: max_length is " + std::to_string(max_length) + ", expected at least " +
                      std::to_string(specials) + std::string(what),
                  where);
    return max_length - specials;
  }

  /// Appends the ids of `text`. May stop once there are `limit` of them.
  void append(std::string_view text, std::size_t limit, std::vector<std::int32_t>& ids) const {
    std::string whole, prefixed;
    if (!is_utf8(text)) text = whole = repaired(text);
    ids.reserve(std::min(limit, text.size() / 3) + 8);
    auto add_word = [&](std::string_view word) {
      append_word(word, ids);
      return ids.size() < limit;
    };
    auto add_words = [&](std::string_view part, std::int32_t added) {
      if (added >= 0) {
        ids.push_back(added);
        return ids.size() < limit;
      }
      if (add_prefix_space_ && part.front() != ' ') part = prefixed.assign(1, ' ').append(part);
      return use_regex_ ? each_gpt2_word(part, add_word) : add_word(part);
    };
    raw_.split(text, [&](std::string_view part, std::int32_t added) {
      return added >= 0 ? add_words(part, added) : normalized_.split(part, add_words);
    });
  }

  void append_word(std::string_view word, std::vector<std::int32_t>& ids) const {
    const std::size_t begin = ids.size();
    if (ignore_merges_) {
      if (const std::int32_t found = vocab_.find(characters_.shown(word)); found >= 0) return ids.push_back(found);
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

  Vocab vocab_;
  Merges merges_;
  ByteCharacters characters_;
  std::array<std::int32_t, 256> byte_ids_{};
  AddedTokens raw_, normalized_;
  std::vector<bool> special_;  // by id
  Template template_;
  bool add_prefix_space_ = false, use_regex_ = true, fuse_unk_ = false, ignore_merges_ = false;
  std::int32_t missing_ = -1;  // for a byte without a token; −1: the byte is dropped
  std::int32_t bos_ = -1, eos_ = -1, pad_ = -1, unk_ = -1, mask_ = -1;
};

}  // namespace meft::text
