// Owns: what every tokenizer does alike: special and added tokens, the template around texts, cutting to a length.
// Must not know: what a word is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/text/added_tokens.hpp>
#include <meft/text/encoding.hpp>
#include <meft/text/template.hpp>
#include <meft/text/tokenizer_files.hpp>
#include <meft/text/unicode.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

/// The base of a tokenizer `Words`, which has
/// - `normalized(text, room, head)`: the view of the normalized text, perhaps in the string `room`. `head` says how
///   many bytes at the beginning of `text` come from the first character of what is encoded, thereafter how many of the
///   normalized text do, as tokenizers has it; it may stay as it is where no word depends on it;
/// - `append_words(text, limit, ids, head)`: appends the ids of a normalized text; false once there are `limit`.
template <class Words>
class Encoder {
 public:
  /// The ids of `text` with the special tokens of one text, cut to `max_length` with these. Broken UTF-8 counts as
  /// U+FFFD. Throws Error if `max_length` is less than the number of special tokens.
  Encoding encode(std::string_view text, std::size_t max_length = 512, Where where = Where::current()) const {
    const std::size_t room = room_for(template_.single(), max_length, "", where);
    std::vector<std::int32_t> ids;
    append(text, cuts_left_ || room == everything ? everything : room + 1, ids);
    const bool cut = ids.size() > room;
    keep(ids, std::min(ids.size(), room));
    return finish(template_.single(), ids, {}, cut);
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
    keep(first, a);
    keep(second, b);
    return finish(template_.pair(), first, second, cut);
  }

  /// The ids of `text` alone: no special tokens around it, nothing cut.
  std::vector<std::int32_t> tokens(std::string_view text) const {
    std::vector<std::int32_t> ids;
    append(text, everything, ids);
    return ids;
  }

  /// The id of `token`, as the vocabulary writes it; unk() if there is no such token.
  std::int32_t id(std::string_view token) const {
    const std::int32_t found = vocab_.find(token);
    return found < 0 ? unk_ : found;
  }
  /// The token of `id`. Throws Error if there is none.
  const std::string& token(std::int32_t id, Where where = Where::current()) const { return vocab_.token(id, where); }
  /// The number of ids, added tokens too.
  std::size_t size() const { return vocab_.size(); }
  /// The length that the checkpoint's files allow (model_max_length); SIZE_MAX if they do not say.
  std::size_t longest() const { return longest_; }
  /// How many token types a pair has: 1 where all are 0.
  std::int32_t types() const {
    std::int32_t most = 0;
    for (const auto& piece : template_.pair()) most = std::max(most, piece.type);
    return gives_types_ ? most + 1 : 1;
  }

  /// The special tokens; −1 where there is none. What stands first and last is bos() and eos(), whatever a model calls
  /// it: BERT's [CLS] and [SEP], RoBERTa's <s> and </s>.
  std::int32_t bos() const { return bos_; }
  std::int32_t eos() const { return eos_; }
  std::int32_t pad() const { return pad_; }
  std::int32_t unk() const { return unk_; }
  std::int32_t mask() const { return mask_; }

 protected:
  static constexpr std::size_t everything = SIZE_MAX;
  using Keys = std::initializer_list<std::string_view>;

  /// Adds what `files` adds to the vocabulary, which must be there, and looks for it in texts. A special token that the
  /// vocabulary lacks gets the next id; if the model has no row for it, it is left out. Throws Error for an id that is
  /// not the token's in the vocabulary, or else not the next one.
  void add_tokens(const TokenizerFiles& files) {
    cuts_left_ = files.cut_left;
    gives_types_ = files.types;
    longest_ = files.longest;
    vocab_.end_own();
    std::vector<AddedToken> special, other;
    for (const auto& [given, source] : files.added) {
      AddedToken token = given;
      const std::int32_t present = vocab_.find(token.content);
      const std::int32_t expected = present >= 0 ? present : static_cast<std::int32_t>(vocab_.size());
      if (present < 0 && token.special && files.rows && vocab_.size() >= *files.rows) continue;
      if (token.id >= 0 && token.id != expected)
        throw Error(source + ": token " + in_quotes(token.content) + " has the id " + std::to_string(token.id) +
                    ", expected " + std::to_string(expected) +
                    (present >= 0 ? ", its id in the vocabulary" : ", the next free id"));
      if (present < 0) vocab_.put(token.content);
      token.id = expected;
      (token.special ? special : other).push_back(std::move(token));
    }
    special_.assign(vocab_.size(), false);
    for (const AddedToken& token : special) special_[static_cast<std::size_t>(token.id)] = true;
    special.insert(special.end(), other.begin(), other.end());
    for (const AddedToken& token : special) {
      std::string room;
      std::size_t head = 0;
      if (token.normalized) normalized_.add(std::string(words().normalized(token.content, room, head)), token);
      else raw_.add(token.content, token);
    }
    if (files.split_special) raw_.leave_special(), normalized_.leave_special();
    pad_ = named(files, {"pad_token"});
    unk_ = named(files, {"unk_token"});
    mask_ = named(files, {"mask_token"});
  }

  /// The id of the token that one of `keys` names; −1 if there is none.
  std::int32_t named(const TokenizerFiles& files, Keys keys) const {
    const auto* given = files.find(keys);
    return given ? vocab_.find(given->token.content) : -1;
  }

  /// The same of one that texts cannot do without. Throws Error if the vocabulary lacks it.
  std::int32_t required(const TokenizerFiles& files, std::string_view key, const std::string& vocabulary) const {
    const auto* given = files.find({key});
    if (!given) throw Error(files.folder.string() + ": no " + std::string(key) + ", which stands around every text");
    const std::int32_t id = vocab_.find(given->token.content);
    if (id < 0)
      throw Error(vocabulary + ": special token " + in_quotes(given->token.content) + " (" + std::string(key) +
                  ") is missing among " + std::to_string(vocab_.size()) + " tokens");
    return id;
  }

  /// The template of a plain tokenizer.json, and the special tokens that it shows or that `files` names, or else those
  /// of `usual` names.
  void read_plain(const TokenizerFiles& files) {
    if (const auto field = files.root().find("post_processor")) template_ = read_template(*field, vocab_);
    auto choose = [&](std::int32_t shown, Keys keys, Keys usual) {
      if (shown < 0) shown = named(files, keys);
      for (const std::string_view name : usual)
        if (shown < 0 && is_special(name)) shown = vocab_.find(name);
      return shown;
    };
    bos_ = choose(template_.single().front().id, {"bos_token", "cls_token"}, {"<s>", "[CLS]", "<|endoftext|>"});
    eos_ = choose(template_.single().back().id, {"eos_token", "sep_token"}, {"</s>", "[SEP]", "<|endoftext|>"});
    pad_ = choose(pad_, {}, {"<pad>", "[PAD]"});
    mask_ = choose(mask_, {}, {"<mask>", "[MASK]"});
  }

  bool is_special(std::string_view token) const {
    const std::int32_t id = vocab_.find(token);
    return id >= 0 && special_[static_cast<std::size_t>(id)];
  }

  Vocab vocab_;
  Template template_;
  std::vector<bool> special_;  // by id
  std::int32_t bos_ = -1, eos_ = -1, pad_ = -1, unk_ = -1, mask_ = -1;

 private:
  const Words& words() const { return static_cast<const Words&>(*this); }

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
    std::string whole, room;
    if (!is_utf8(text)) text = whole = repaired(text);
    ids.reserve(std::min(limit, text.size() / 3) + 8);
    auto add = [&](std::int32_t id) {
      ids.push_back(id);
      return ids.size() < limit;
    };
    raw_.split(text, [&](std::string_view part, std::int32_t added) {
      if (added >= 0) return add(added);
      std::size_t head = part.data() == text.data() ? decode(part, 0).length : 0;
      const std::string_view whole_part = words().normalized(part, room, head);
      return normalized_.split(whole_part, [&](std::string_view piece, std::int32_t known) {
        const auto at = static_cast<std::size_t>(piece.data() - whole_part.data());
        return known >= 0 ? add(known) : words().append_words(piece, limit, ids, head - std::min(head, at));
      });
    });
  }

  /// Leaves `count` ids, the first ones or the last ones.
  void keep(std::vector<std::int32_t>& ids, std::size_t count) const {
    if (cuts_left_) ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(count));
    else ids.resize(count);
  }

  Encoding finish(const Template::Pieces& pieces, const std::vector<std::int32_t>& first,
                  const std::vector<std::int32_t>& second, bool cut) const {
    Encoding out = Template::fill(pieces, first, second);
    if (!gives_types_) out.types.assign(out.ids.size(), 0);
    out.cut = cut;
    return out;
  }

  AddedTokens raw_, normalized_;
  std::size_t longest_ = SIZE_MAX;
  bool cuts_left_ = false, gives_types_ = true;
};

}  // namespace meft::text
