// Owns: which special tokens and token types a tokenizer puts around one text or a pair, and cutting to a length.
// Must not know: how text becomes tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/text/encoding.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

/// What stands around the tokens of one text and of a pair.
class Template {
 public:
  struct Piece {
    std::int32_t id = -1;  ///< a special token; −1: a text
    int text = 0;          ///< which text, 0 or 1
    std::int32_t type = 0;
  };
  using Pieces = std::vector<Piece>;

  /// The texts alone, of types 0 and 1.
  Template() : single_{{-1, 0, 0}}, pair_{{-1, 0, 0}, {-1, 1, 1}} {}
  /// Each text must stand once in `single` (text 0) and in `pair` (texts 0 and 1).
  Template(Pieces single, Pieces pair) : single_(std::move(single)), pair_(std::move(pair)) {}

  /// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, from B on of type 1.
  static Template bert(std::int32_t cls, std::int32_t sep) {
    const Piece first{cls}, last{sep}, a{-1, 0}, b{-1, 1, 1}, end{sep, 0, 1};
    return {{first, a, last}, {first, a, last, b, end}};
  }
  /// `<s> A </s>` and `<s> A </s></s> B </s>`, all of type 0.
  static Template roberta(std::int32_t cls, std::int32_t sep) {
    const Piece first{cls}, last{sep}, a{-1, 0}, b{-1, 1};
    return {{first, a, last}, {first, a, last, last, b, last}};
  }
  /// Each text between `bos` and `eos`, of which −1 stands for none; the second of type 1.
  static Template gpt2(std::int32_t bos, std::int32_t eos) {
    Pieces pair;
    for (const int text : {0, 1}) {
      if (bos >= 0) pair.push_back({bos, 0, text});
      pair.push_back({-1, text, text});
      if (eos >= 0) pair.push_back({eos, 0, text});
    }
    return {Pieces(pair.begin(), pair.begin() + static_cast<std::ptrdiff_t>(pair.size() / 2)), pair};
  }

  const Pieces& single() const { return single_; }
  const Pieces& pair() const { return pair_; }
  /// The number of special tokens.
  static std::size_t specials(const Pieces& pieces) {
    std::size_t count = 0;
    for (const Piece& piece : pieces) count += piece.id >= 0;
    return count;
  }

  /// Puts `texts` (token ids) in their places.
  static Encoding fill(const Pieces& pieces, const std::vector<std::int32_t>& first,
                       const std::vector<std::int32_t>& second = {}) {
    Encoding out;
    out.ids.reserve(first.size() + second.size() + pieces.size());
    for (const Piece& piece : pieces) {
      const auto& text = piece.text == 0 ? first : second;
      if (piece.id >= 0) out.ids.push_back(piece.id);
      else out.ids.insert(out.ids.end(), text.begin(), text.end());
      out.types.resize(out.ids.size(), piece.type);
    }
    return out;
  }

 private:
  Pieces single_, pair_;
};

namespace detail {

/// An id that `vocab` has.
inline std::int32_t known_id(const JsonField& field, const Vocab& vocab) {
  return static_cast<std::int32_t>(field.integer(0, static_cast<std::int64_t>(vocab.size()) - 1));
}

/// `["</s>", 2]`, as the vocabulary has it.
inline std::int32_t token_and_id(const JsonField& field, const Vocab& vocab) {
  const JsonField name = field.at(std::size_t{0}), id = field.at(std::size_t{1});
  const std::int32_t found = vocab.find(name.string());
  if (found < 0) name.wrong("a token of the vocabulary");
  id.integer(found, found);
  return found;
}

inline Template::Pieces read_pieces(const JsonField& field, const JsonField& specials, std::string_view texts,
                                    const Vocab& vocab) {
  Template::Pieces pieces;
  std::string found;
  for (std::size_t i = 0; i < field.array().size(); ++i) {
    const JsonField part = field.at(i);
    if (const auto sequence = part.find("Sequence")) {
      const std::string& name = sequence->at("id").string();
      if (name != "A" && name != "B") sequence->at("id").wrong("\"A\" or \"B\"");
      found += name;
      pieces.push_back({-1, name == "A" ? 0 : 1, static_cast<std::int32_t>(sequence->at("type_id").integer(0, 1))});
      continue;
    }
    const JsonField special = part.at("SpecialToken");
    const auto type = static_cast<std::int32_t>(special.at("type_id").integer(0, 1));
    const JsonField ids = specials.at(special.at("id").string()).at("ids");
    for (std::size_t k = 0; k < ids.array().size(); ++k) pieces.push_back({known_id(ids.at(k), vocab), 0, type});
  }
  if (found != texts) field.wrong("the texts " + std::string(texts) + " in this order, each once");
  return pieces;
}

}  // namespace detail

/// The member `post_processor` of a tokenizer.json: BertProcessing, RobertaProcessing, TemplateProcessing, ByteLevel
/// (which adds nothing) or a Sequence of these with at most one that adds something. Throws Error, with the field, for
/// another.
inline Template read_template(const JsonField& field, const Vocab& vocab) {
  Template out;
  bool is_set = false;
  auto read = [&](const JsonField& part) {
    const JsonField type = part.at("type");
    if (type.string() == "ByteLevel") return;
    if (is_set) type.wrong("\"ByteLevel\", as one before it adds tokens already");
    is_set = true;
    if (type.string() == "RobertaProcessing" || type.string() == "BertProcessing") {
      const auto cls = detail::token_and_id(part.at("cls"), vocab), sep = detail::token_and_id(part.at("sep"), vocab);
      out = type.string() == "BertProcessing" ? Template::bert(cls, sep) : Template::roberta(cls, sep);
    } else if (type.string() == "TemplateProcessing") {
      const JsonField specials = part.at("special_tokens");
      specials.object();
      out = Template(detail::read_pieces(part.at("single"), specials, "A", vocab),
                     detail::read_pieces(part.at("pair"), specials, "AB", vocab));
    } else {
      type.wrong("\"BertProcessing\", \"RobertaProcessing\", \"TemplateProcessing\", \"ByteLevel\" or \"Sequence\"");
    }
  };
  if (field.at("type").string() != "Sequence") {
    read(field);
    return out;
  }
  const JsonField list = field.at("processors");
  for (std::size_t i = 0; i < list.array().size(); ++i) read(list.at(i));
  return out;
}

}  // namespace meft::text
