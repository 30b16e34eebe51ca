// Owns: a GGUF file as what Hugging Face keeps in a folder: config.json, and the tensors under their names there.
// Source: llama.cpp's convert_hf_to_gguf.py, read backwards. Must not know: models.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/io/gguf.hpp>

namespace meft::io {

/// Whether a path names a GGUF file.
inline bool is_gguf(std::string_view path) { return path.ends_with(".gguf"); }

namespace detail {

/// Hugging Face's name of a tensor, in layers between norms (`sandwich`) too; one that it has no other name for stays
/// as it is.
inline std::string name_of_gguf(std::string_view name, bool sandwich = false) {
  constexpr std::pair<std::string_view, std::string_view> whole[] = {{"token_embd.weight", "model.embed_tokens.weight"},
                                                                     {"output_norm.weight", "model.norm.weight"},
                                                                     {"output.weight", "lm_head.weight"}};
  constexpr std::pair<std::string_view, std::string_view> parts[] = {
      {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
      {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
      {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
      {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"}};
  constexpr std::pair<std::string_view, std::string_view> between[] = {
      {"post_attention_norm", "post_attention_layernorm"},
      {"ffn_norm", "pre_feedforward_layernorm"},
      {"post_ffw_norm", "post_feedforward_layernorm"}};
  for (const auto& [from, to] : whole)
    if (name == from) return std::string(to);
  const std::size_t dot = name.find('.', 4), last = name.rfind('.');
  if (!name.starts_with("blk.") || dot == name.npos || dot >= last) return std::string(name);
  const auto part = name.substr(dot + 1, last - dot - 1);
  std::string_view to;
  for (const auto& [from, found] : parts)
    if (part == from) to = found;
  for (const auto& [from, found] : between)
    if (sandwich && part == from) to = found;
  if (to.empty()) return std::string(name);
  return "model.layers." + std::string(name.substr(4, dot - 4)) + "." + std::string(to) +
         std::string(name.substr(last));
}

}  // namespace detail

/// Of the architectures llama (Mistral too), qwen2, qwen3 and gemma3.
class GgufModel final : public Tensors {
 public:
  explicit GgufModel(const std::string& path, Where where = Where::current())
      : Tensors("gguf", path), file_(path, where) {
    architecture_ = text("general.architecture", where);
    constexpr std::string_view known_here[] = {"llama", "mistral", "qwen2", "qwen3", "gemma3"};
    if (std::find(std::begin(known_here), std::end(known_here), architecture_) == std::end(known_here))
      file_.wrong("general.architecture", "llama, mistral, qwen2, qwen3 or gemma3", where);
    const bool gemma = architecture_ == "gemma3";
    paired_ = architecture_ == "llama" || architecture_ == "mistral";
    if (const auto parts = file_.integer("split.count", where).value_or(1); parts > 1)
      file_.wrong("split.count", "1: llama.cpp's `llama-gguf-split --merge` makes one file of several", where);
    const auto heads = integer("attention.head_count", where), keys = integer("attention.head_count_kv", heads, where);
    for (const auto& name : file_.names()) {
      if (name == frequencies) continue;
      Entry entry = file_.find(name, where);
      auto known = detail::name_of_gguf(name, gemma);
      if (gemma && known.ends_with("norm.weight")) entry.less = 1;  // there they are as they multiply
      if (paired_ && (known.find(".q_proj.") != known.npos || known.find(".k_proj.") != known.npos)) {
        entry.paired = known.find(".q_proj.") != known.npos ? heads : keys;
        if (entry.paired < 1 || entry.shape[0] % entry.paired || entry.shape[0] / entry.paired % 2)
          fail({"gguf: " + file_.path() + ": tensor " + show_name(name) + ": shape " + detail::shape_text(entry.shape) +
                    " is none of " + std::to_string(entry.paired) + " even heads",
                where});
      }
      if (!entries_.emplace(std::move(known), std::move(entry)).second)
        fail({"gguf: " + file_.path() + ": tensor " + show_name(name) + " is there under two names", where});
    }
  }

  void forget() const override { file_.forget(); }
  void require_unchanged(Where where) const override { file_.require_unchanged(where); }

  /// What config.json would say.
  nlohmann::json config(Where where = Where::current()) const {
    nlohmann::json out{{"model_type", architecture_ == "gemma3"                                     ? "gemma3_text"
                                      : architecture_ == "llama" && has("attention.sliding_window") ? "mistral"
                                                                                                    : architecture_},
                       {"tie_word_embeddings", !contains("lm_head.weight")},
                       {"attention_bias", contains("model.layers.0.self_attn.q_proj.bias")},
                       {"mlp_bias", contains("model.layers.0.mlp.up_proj.bias")}};
    const std::pair<const char*, const char*> integers[] = {{"hidden_size", "embedding_length"},
                                                            {"num_hidden_layers", "block_count"},
                                                            {"intermediate_size", "feed_forward_length"},
                                                            {"num_attention_heads", "attention.head_count"},
                                                            {"max_position_embeddings", "context_length"}};
    for (const auto& [to, from] : integers) out[to] = integer(from, where);
    out["num_key_value_heads"] = integer("attention.head_count_kv", out["num_attention_heads"], where);
    out["rms_norm_eps"] = number("attention.layer_norm_rms_epsilon", where);
    const auto table = entries_.find("model.embed_tokens.weight");
    if (table == entries_.end()) fail({"gguf: " + path() + ": there is no tensor token_embd.weight", where});
    out["vocab_size"] = table->second.shape[0];
    if (integer("expert_count", 0, where) > 0)
      file_.wrong(key("expert_count"), "none: mixtures of experts are not supported", where);
    refuse_others(where);
    if (has("attention.sliding_window")) {
      if (architecture_.starts_with("qwen")) file_.wrong(key("attention.sliding_window"), "none, as Qwen has", where);
      out["sliding_window"] = integer("attention.sliding_window", where);
    }
    const auto hidden = out["hidden_size"].get<std::int64_t>(), heads = out["num_attention_heads"].get<std::int64_t>();
    const auto width = integer("attention.key_length", heads > 0 ? hidden / heads : 0, where);
    if (integer("attention.value_length", width, where) != width)
      file_.wrong(key("attention.value_length"), std::to_string(width) + ", as attention.key_length", where);
    out["head_dim"] = width;
    add_position(out, width, where);
    if (architecture_ == "gemma3") add_gemma3(out, where);
    return out;
  }

 private:
  static constexpr std::string_view frequencies = "rope_freqs.weight";

  std::string key(std::string_view name) const { return architecture_ + "." + std::string(name); }
  bool has(std::string_view name) const { return file_.has(key(name)); }
  std::int64_t integer(std::string_view name, Where where) const {
    const auto found = file_.integer(key(name), where);
    if (!found) file_.wrong(key(name), "", where);
    return *found;
  }
  std::int64_t integer(std::string_view name, std::int64_t otherwise, Where where) const {
    return file_.integer(key(name), where).value_or(otherwise);
  }
  double number(std::string_view name, Where where) const {
    const auto found = file_.number(key(name), where);
    if (!found) file_.wrong(key(name), "", where);
    return *found;
  }
  double number(std::string_view name, double otherwise, Where where) const {
    return file_.number(key(name), where).value_or(otherwise);
  }
  std::string text(std::string_view name, Where where) const {
    const auto found = file_.text(name, where);
    if (!found) file_.wrong(name, "", where);
    return std::string(*found);
  }

  /// What llama.cpp computes with, and nothing here does.
  void refuse_others(Where where) const {
    if (!file_.flag(key("attention.causal"), where).value_or(true))
      file_.wrong(key("attention.causal"), "true: attention to both sides is not supported", where);
    constexpr std::pair<const char*, double> usual[] = {
        {"rope.scaling.attn_factor", 1},     {"rope.scaling.yarn_attn_factor", 1},
        {"rope.scaling.yarn_ext_factor", 1}, {"rope.scaling.yarn_log_multiplier", 0},
        {"attn_logit_softcapping", 0},       {"final_logit_softcapping", 0}};
    for (const auto& [name, value] : usual)
      if (number(name, value, where) != value)
        file_.wrong(key(name), std::to_string(value) + " or nothing: another is not supported", where);
  }

  void add_position(nlohmann::json& out, std::int64_t width, Where where) const {
    // Gemma 3's has no default: a file without it turns by what nothing here knows.
    out["rope_theta"] =
        architecture_ == "gemma3" ? number("rope.freq_base", where) : number("rope.freq_base", 10000, where);
    const auto rotated = integer("rope.dimension_count", width, where);
    if (rotated != width && paired_)
      file_.wrong(key("rope.dimension_count"), std::to_string(width) + ", as attention.key_length", where);
    if (rotated != width) out["rope_dimension_count"] = rotated;  // which no config.json has
    // llama.cpp's: linear where the file names no kind, by a factor under two names, where 0 is none.
    const std::string kind(file_.text(key("rope.scaling.type"), where).value_or("linear"));
    const double told = number("rope.scaling.factor", number("rope.scale_linear", 0, where), where);
    const double factor = told == 0 ? 1 : told;
    const bool plain = kind == "none" || (kind == "linear" && factor == 1);
    if (file_.contains(frequencies)) {
      if (!plain)
        fail({"gguf: " + path() + ": rope.scaling " + show_name(kind) + " beside the tensor rope_freqs.weight is not " +
                  "supported",
              where});
      out["rope_scaling"] = llama3(out["rope_theta"], rotated, where);
      return;
    }
    if (plain) return;
    nlohmann::json rope{{"rope_type", kind}, {"factor", factor}};
    if (has("rope.scaling.original_context_length"))
      rope["original_max_position_embeddings"] = integer("rope.scaling.original_context_length", where);
    if (has("rope.scaling.yarn_beta_fast")) rope["beta_fast"] = number("rope.scaling.yarn_beta_fast", 0, where);
    if (has("rope.scaling.yarn_beta_slow")) rope["beta_slow"] = number("rope.scaling.yarn_beta_slow", 0, where);
    out["rope_scaling"] = rope;
  }

  /// What llama.cpp knows of Gemma 3: which layers slide and by what they turn, and the scale of the largest one's
  /// scores.
  void add_gemma3(nlohmann::json& out, Where where) const {
    nlohmann::json full{{"rope_type", "default"}};
    if (const auto scaling = out.find("rope_scaling"); scaling != out.end()) full = *scaling;
    full["rope_theta"] = out["rope_theta"];
    out["rope_parameters"] = {
        {"full_attention", full},
        {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", number("rope.freq_base_swa", 10000, where)}}}};
    for (const char* key : {"rope_theta", "rope_scaling"}) out.erase(key);
    out["sliding_window"] = integer("attention.sliding_window", where);
    if (const auto local = file_.flags(key("attention.sliding_window_pattern"), where); !local.empty())
      for (const bool slides : local) out["layer_types"].push_back(slides ? "sliding_attention" : "full_attention");
    else out["sliding_window_pattern"] = integer("attention.sliding_window_pattern", 6, where);
    const auto heads = out["num_attention_heads"].get<std::int64_t>();
    const bool largest = out["num_hidden_layers"] == 62 && heads > 0;
    out["query_pre_attn_scalar"] =
        largest ? out["hidden_size"].get<std::int64_t>() / heads : out["head_dim"].get<std::int64_t>();
  }

  /// Llama 3.1's scaling is there as what each frequency is divided by. Its converter knows these numbers, but for the
  /// factor.
  nlohmann::json llama3(double theta, std::int64_t rotated, Where where) const {
    const auto& entry = file_.find(frequencies, where);
    if (rotated < 2 || entry.shape != std::vector<std::int64_t>{rotated / 2})
      fail({"gguf: " + path() + ": tensor rope_freqs.weight has the wrong shape: expected [" +
                std::to_string(rotated / 2) + "], found " + detail::shape_text(entry.shape),
            where});
    std::vector<float> by(static_cast<std::size_t>(rotated / 2));
    copy_finite_to(entry, std::span<float>(by), where);
    constexpr double low = 1, high = 4, original = 8192;
    const double factor = static_cast<double>(*std::max_element(by.begin(), by.end())), turn = 2 * std::acos(-1.0);
    for (std::size_t i = 0; i < by.size(); ++i) {
      const double f = std::pow(theta, -2 * static_cast<double>(i) / static_cast<double>(rotated));
      const double kept = std::clamp((original * f / turn - low) / (high - low), 0.0, 1.0);
      const double expected = 1 / (kept + (1 - kept) / factor);
      if (!(std::fabs(static_cast<double>(by[i]) - expected) <= 1e-3 * expected))
        fail({"gguf: " + path() + ": tensor rope_freqs.weight: element " + std::to_string(i) + " is " +
                  std::to_string(by[i]) + ", expected " + std::to_string(expected) + ", as Llama 3.1's are",
              where});
    }
    return {{"rope_type", "llama3"},
            {"factor", factor},
            {"low_freq_factor", low},
            {"high_freq_factor", high},
            {"original_max_position_embeddings", static_cast<std::int64_t>(original)}};
  }

  Gguf file_;
  std::string architecture_;
  bool paired_ = false;  // rows of queries and keys that turn together lie beside each other
};

}  // namespace meft::io
