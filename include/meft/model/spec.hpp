// Owns: the description of a model, which is all by which one family differs from another: parts, sizes, names in
// checkpoints, facts. A family makes it of a config.json; model/transformer.hpp builds the model from it.
// Must not know: the families, files, tensors.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <meft/nn/classifier.hpp>
#include <meft/nn/embeddings.hpp>
#include <meft/nn/language.hpp>
#include <meft/nn/patches.hpp>
#include <meft/nn/transformer.hpp>

namespace meft::model {

/// A tensor whose name ends with `name` may be called `other` in its place.
struct Spelling {
  enum class Kind {
    same,    // the tensor under another name; where both are there they are equal
    wins,    // the same, but where both are there and differ the other one is meant
    output,  // the output embeddings, which are these unless the config unties them or both are there and differ
    part     // rows of it: share number `part` of `parts` equal ones
  };
  std::string_view name, other;
  Kind kind = Kind::same;
  int part = 0, parts = 1;

  /// Whether it is of a tensor with this name.
  bool of(std::string_view tensor) const {
    return tensor.ends_with(name) && (tensor.size() == name.size() || tensor[tensor.size() - name.size() - 1] == '.');
  }
  /// The other name of that tensor.
  std::string spelled(std::string_view tensor) const {
    return std::string(tensor.substr(0, tensor.size() - name.size())) + std::string(other);
  }
};

/// The names of a model's parts; of those that it lacks they are not read.
struct PartNames {
  nn::EmbeddingNames embeddings{}, decoder_embeddings{};
  const char *layers = "encoder.layer", *decoder_layers = "", *norm = "", *project_out = "";
  const char *relative = "", *decoder_relative = "", *encoder_norm = "";
  bool norm_before_layers = false;  // the order of the modules in Hugging Face's model
};

/// A list of layers: equal ones, but for those that are named local, of the same sizes.
struct LayersSpec {
  nn::LayerSpec layer{};
  Index count = 0;
  std::optional<nn::LayerSpec> local{};
  std::vector<bool> is_local{};  // of each layer; none: no layer
  bool first_normed = true;      // what the first layer's attention reads

  nn::LayerSpec at(Index i) const {
    const auto place = static_cast<std::size_t>(i);
    auto out = place < is_local.size() && is_local[place] ? *local : layer;
    if (i == 0 && !first_normed) out.attention_norm = false;
    return out;
  }
};

/// A part of a module's name in checkpoints, and what it is in transformers 5.
struct Renamed {
  std::string_view from, to;
};

/// Tokens or images to hidden states: embeddings, layers, then what is there of a second list of layers that read the
/// first's output, norm and projection.
struct TransformerSpec {
  const char* family = "";                // as errors call it
  const char* prefix = "";                // of the names in checkpoints of models with a head
  std::span<const Spelling> spellings{};  // other names of its tensors
  std::span<const Renamed> modules{};     // names that transformers has for modules, and checkpoints do not
  bool bare_language = false;             // its language model has no such prefix there
  PartNames names{};
  const nn::LayerNames* layer_names = nullptr;
  const nn::LayerNames* decoder_layer_names = nullptr;  // null: the same

  bool causal = false;  // each token sees those before it alone, and predicts the next one
  bool tied = true;     // the language head's table is the word embeddings'

  Index width = 0, word_width = 0;         // of the layers, and of words where that is another: projected in and out
  nn::EmbeddingSpec embeddings{};          // of tokens
  std::optional<nn::PatchSpec> patches{};  // in their place: of images
  LayersSpec layers{};
  std::optional<LayersSpec> decoder{};
  Index decoder_start = 0;       // the token before a text's first in the decoder
  std::optional<double> norm{};  // behind the last layer, of the layers' kind: its epsilon
  bool encoder_norm = false;     // the same before the decoder's layers read the encoder's output
  float dropout = 0;             // of what is behind these norms
  Index context = 0;             // the most tokens of a sequence where no table of positions bounds it

  nn::HeadSpec head{};
  std::optional<nn::LanguageSpec> language{};

  bool projects() const { return word_width != 0 && word_width != width; }
  /// The width of what the model gives.
  Index hidden() const { return projects() ? word_width : width; }
  /// Whether checkpoints have several of its matrices as one.
  bool fused() const {
    for (const auto& s : spellings)
      if (s.kind == Spelling::Kind::part) return true;
    return false;
  }
  /// The most tokens of a sequence.
  Index longest() const { return embeddings.positions ? embeddings.positions - embeddings.first_position : context; }
};

}  // namespace meft::model
