// Owns: the form of a family's table of other names for the tensors of its checkpoints.
// Must not know: the families, files.
#pragma once

#include <span>
#include <string_view>

namespace meft::model {

/// A tensor whose name ends with `name` may be called `other` in its place.
struct Spelling {
  enum class Kind {
    same,   // the tensor under another name; where both are there they are equal
    wins,   // the same, but where both are there and differ the other one is meant
    output  // the output embeddings, which are these unless the config unties them or both are there and differ
  };
  std::string_view name, other;
  Kind kind = Kind::same;
};

/// The family's table; most have none.
template <class Model>
constexpr std::span<const Spelling> spellings_of() {
  if constexpr (requires { Model::spellings; }) return Model::spellings;
  else return {};
}

}  // namespace meft::model
