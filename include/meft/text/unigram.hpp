// Owns: the unigram tokenizer, as that of T5 and XLM-R: text to ids, the same as Hugging Face's, and back. Must not
// know: models and batches. Of all ways to cut a word into tokens the one with the highest sum of scores counts (Kudo,
// arXiv 1804.10959; Viterbi 1967).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/text/charsmap.hpp>
#include <meft/text/encoder.hpp>
#include <meft/text/pieces.hpp>
#include <meft/text/tokenizer_files.hpp>
#include <meft/text/unicode.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

namespace detail {

/// Tokens by their bytes: finds all that a text begins with.
class TokenTrie {
 public:
  TokenTrie() = default;
  /// Of a token that is there twice the later id counts.
  explicit TokenTrie(const std::vector<std::string>& tokens) {
    std::vector<std::int32_t> order;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      if (!tokens[i].empty()) order.push_back(static_cast<std::int32_t>(i));
    const auto token = [&](std::int32_t id) -> const std::string& { return tokens[static_cast<std::size_t>(id)]; };
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return token(a) < token(b); });
    struct Range {
      std::size_t node, begin, end, depth;
    };
    nodes_.emplace_back();
    std::vector<Range> open{{0, 0, order.size(), 0}};
    for (std::size_t next = 0; next < open.size(); ++next) {
      auto [node, begin, end, depth] = open[next];
      for (; begin < end && token(order[begin]).size() == depth; ++begin) nodes_[node].id = order[begin];
      nodes_[node].first = static_cast<std::uint32_t>(nodes_.size());
      for (std::size_t to = begin; begin < end; begin = to) {
        const char byte = token(order[begin])[depth];
        while (to < end && token(order[to])[depth] == byte) ++to;
        open.push_back({nodes_.size(), begin, to, depth + 1});
        nodes_.push_back({static_cast<unsigned char>(byte), 0, 0, -1});
        ++nodes_[node].count;
      }
    }
    for (std::uint32_t i = 0; !nodes_.empty() && i < nodes_[0].count; ++i) roots_[nodes_[1 + i].byte] = 1 + i;
  }

  /// visit(length, id) for each token at the beginning of `text`, the shortest first.
  template <class Visit>
  void each_start(std::string_view text, const Visit& visit) const {
    std::uint32_t at = text.empty() ? 0 : roots_[static_cast<unsigned char>(text[0])];
    for (std::size_t length = 1; at != 0; ++length) {
      const Node& node = nodes_[at];
      if (node.id >= 0) visit(length, node.id);
      at = 0;
      if (length == text.size()) return;
      const auto byte = static_cast<unsigned char>(text[length]);
      std::uint32_t low = node.first, high = node.first + node.count;
      while (high - low > 4) {
        const std::uint32_t middle = (low + high) / 2;
        (nodes_[middle].byte <= byte ? low : high) = middle;
      }
      for (; low < high; ++low)
        if (nodes_[low].byte == byte) at = low;
    }
  }

 private:
  struct Node {
    unsigned char byte = 0;
    std::uint16_t count = 0;  // of its children, which lie side by side, sorted
    std::uint32_t first = 0;
    std::int32_t id = -1;
  };
  std::vector<Node> nodes_;
  std::array<std::uint32_t, 256> roots_{};  // the root's child of a byte; 0: none
};

}  // namespace detail

/// Immutable after construction: any number of threads may encode with one.
class Unigram : public Encoder<Unigram> {
 public:
  /// Reads `folder`'s tokenizer.json (model Unigram). Throws Error that names the file and the field at fault.
  explicit Unigram(const std::filesystem::path& folder) : Unigram(TokenizerFiles(folder)) {}
  explicit Unigram(const TokenizerFiles& files) {
    const JsonField root = files.root(), model = root.at("model");
    if (const auto type = model.find("type"); type && type->string() != "Unigram") type->wrong("\"Unigram\"");
    read_vocabulary(model.at("vocab"));
    if (const auto field = model.find("unk_id"))
      missing_ = static_cast<std::int32_t>(field->integer(0, static_cast<std::int64_t>(vocab_.size()) - 1));
    if (const auto field = model.find("byte_fallback")) fallback_ = field->boolean();
    source_ = files.path("tokenizer.json");
    trie_ = std::make_shared<const detail::TokenTrie>(vocab_.tokens());
    if (const auto field = root.find("normalizer")) read_normalizer(*field);
    pieces_ = Pieces::read_words(root);
    pieces_.find_tokens(vocab_, true);
    add_tokens(files);
    read_plain(files);
    if (unk_ < 0) unk_ = missing_;
  }

  /// The text of `ids`, without special tokens if `skip_special`. Throws Error for an id that is not in the vocabulary.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true,
                     Where where = Where::current()) const {
    std::string out, bytes;
    for (const std::int32_t id : ids) {
      const std::string& token = vocab_.token(id, where);
      if (skip_special && special_[static_cast<std::size_t>(id)]) continue;
      pieces_.append_token(token, bytes, out);
    }
    pieces_.end_bytes(bytes, out);
    if (pieces_.strips() && out.starts_with(' ')) out.erase(0, 1);
    return out;
  }

 private:
  friend class Encoder<Unigram>;

  // ---- reading

  void read_vocabulary(const JsonField& field) {
    const std::size_t count = field.array().size();
    if (count == 0 || count > (std::size_t{1} << 24)) field.wrong("1 to 2^24 tokens with their scores");
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < count; ++i) {
      const auto& one = field.array()[i];
      const bool fits = one.is_array() && one.size() == 2 && one[0].is_string() && one[1].is_number();
      if (!fits) field.at(i).wrong("a token and its score");
      vocab_.put(one[0].get<std::string>());
      scores_.push_back(one[1].get<double>());
      least = std::min(least, scores_.back());
    }
    unknown_ = least - 10;
  }

  /// What is done to a text before it is cut into words.
  struct Step {
    std::shared_ptr<const Charsmap> map{};
    bool strips_left = false, strips_right = false;
    std::string from{}, to{};  // each `from`, or with `runs` two and more of it, becomes `to`
    bool runs = false;
  };

  void read_normalizer(const JsonField& field) {
    const JsonField type = field.at("type");
    const std::string& name = type.string();
    Step step;
    if (name == "Sequence") {
      const JsonField list = field.at("normalizers");
      for (std::size_t i = 0; i < list.array().size(); ++i) read_normalizer(list.at(i));
      return;
    }
    if (name == "Precompiled") {
      const JsonField map = field.at("precompiled_charsmap");
      const auto bytes = from_base64(map.string());
      if (!bytes) map.wrong("base64");
      try {
        step.map = std::make_shared<const Charsmap>(*bytes);
      } catch (const Error&) {
        map.wrong("a trie and the texts behind it");
      }
      growth_ *= static_cast<double>(step.map->growth());
    } else if (name == "Strip") {
      step.strips_left = field.at("strip_left").boolean();
      step.strips_right = field.at("strip_right").boolean();
      if (!step.strips_left && !step.strips_right) return;
    } else if (name == "Replace") {
      const JsonField pattern = field.at("pattern");
      step.to = field.at("content").string();
      if (step.to.size() > 16) field.at("content").wrong("at most 16 bytes");
      if (const auto plain = pattern.find("String")) step.from = plain->string();
      else if (pattern.at("Regex").string() == " {2,}") step.from = " ", step.runs = true;
      else pattern.at("Regex").wrong("\" {2,}\"");
      if (step.from.empty()) pattern.at("String").wrong("one that is not empty");
      growth_ *= std::max(
          1.0, static_cast<double>(step.to.size()) / static_cast<double>(step.from.size() * (step.runs ? 2 : 1)));
    } else {
      type.wrong("\"Precompiled\", \"Strip\", \"Replace\" or \"Sequence\"");
    }
    if (growth_ > Charsmap::longest) field.wrong("steps that together make a text at most 256 times as long");
    steps_.push_back(std::move(step));
  }

  // ---- encoding

  std::string_view normalized(std::string_view text, std::string& room, std::size_t& head) const {
    for (const Step& step : steps_) {
      if (step.strips_left || step.strips_right) {
        while (step.strips_left && !text.empty() && is_space(text::decode(text, 0).code)) {
          const std::size_t length = text::decode(text, 0).length;
          text.remove_prefix(length);
          head -= std::min(head, length);
        }
        while (step.strips_right && !text.empty()) {
          const std::size_t last = previous(text, text.size());
          if (!is_space(text::decode(text, last).code)) break;
          text = text.substr(0, last);
        }
        continue;
      }
      std::string out;
      out.reserve(text.size() + text.size() / 8);
      if (step.map) {
        step.map->append(text, out);
        head = step.map->head(text, head);
      } else {
        append_replaced(text, step, out, head);
      }
      room = std::move(out);
      text = room;
    }
    return text;
  }

  /// What is put in stands where the last byte stood that it takes the place of.
  static void append_replaced(std::string_view text, const Step& step, std::string& out, std::size_t& head) {
    std::size_t now = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t found = std::min(text.find(step.from, at), text.size());
      out += text.substr(at, found - at);
      if (at < head) now += std::min(found, head) - at;
      at = found;
      if (at == text.size()) break;
      std::size_t count = 0;
      do at += step.from.size(), ++count;
      while (step.runs && text.substr(at).starts_with(step.from));
      const std::string& put = step.runs && count == 1 ? step.from : step.to;
      out += put;
      if (at <= head) now += put.size();
    }
    head = now;
  }

  bool append_words(std::string_view text, std::size_t limit, std::vector<std::int32_t>& ids, std::size_t head) const {
    return pieces_.each_word(text, head, [&](std::string_view word) {
      append_word(word, ids);
      return ids.size() < limit;
    });
  }

  /// The best way to a place in a word: from where, and by which token, −1 an unknown character.
  struct Best {
    double score = 0;
    std::size_t from = none;
    std::int32_t id = -1;
  };
  static constexpr std::size_t none = SIZE_MAX;

  void append_word(std::string_view word, std::vector<std::int32_t>& ids) const {
    std::array<Best, 64> few;
    std::vector<Best> many;
    if (word.size() >= few.size()) many.resize(word.size() + 1);
    const std::span<Best> best = many.empty() ? std::span<Best>(few).first(word.size() + 1) : std::span<Best>(many);
    std::fill(best.begin(), best.end(), Best{});
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t length = text::decode(word, at).length;
      const double here = best[at].score;
      bool whole = false;  // a token is this character
      const auto offer = [&](std::size_t to, double score, std::int32_t id) {
        if (best[to].from == none || score > best[to].score) best[to] = {score, at, id};
      };
      trie_->each_start(word.substr(at), [&](std::size_t size, std::int32_t id) {
        offer(at + size, scores_[static_cast<std::size_t>(id)] + here, id);
        whole |= size == length;
      });
      if (!whole) offer(at + length, unknown_ + here, missing_);
      at += length;
    }
    append_path(word, best, ids);
  }

  /// Unknown characters beside each other are one.
  void append_path(std::string_view word, std::span<const Best> best, std::vector<std::int32_t>& ids) const {
    const std::size_t begin = ids.size();
    for (std::size_t at = word.size(); at > 0;) {
      const Best& last = best[at];
      std::size_t from = last.from;
      if (last.id != missing_) {
        ids.push_back(last.id);
        at = from;
        continue;
      }
      while (from > 0 && best[from].id == missing_) from = best[from].from;
      append_unknown(word.substr(from, at - from), ids);
      at = from;
    }
    std::reverse(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end());
  }
  void append_unknown(std::string_view text, std::vector<std::int32_t>& ids) const {
    if (const auto found = vocab_.find_own(text); found >= 0) return ids.push_back(found);
    if (fallback_ && pieces_.has_bytes(text)) {
      const std::size_t begin = ids.size();
      pieces_.append_bytes(text, ids);
      return std::reverse(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end());
    }
    if (missing_ < 0)
      throw Error(source_ + ": no token for " + in_quotes(text) +
                  ", and no unk_id, which stands for unknown characters");
    ids.push_back(missing_);
  }

  std::string source_;
  std::vector<double> scores_;  // of the tokens that were read with one
  std::shared_ptr<const detail::TokenTrie> trie_;
  std::vector<Step> steps_;
  Pieces pieces_;
  double growth_ = 1;          // how many times as long the steps make a text at most
  double unknown_ = 0;         // score of an unknown character
  std::int32_t missing_ = -1;  // the token of unknown characters; −1: they are an error
  bool fallback_ = false;      // to bytes
};

}  // namespace meft::text
