// Owns: the values that a pickle of a state dict consists of, the names it may contain, and the bounds on it.
// Must not know: how a pickle is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/json.hpp>

namespace meft::io {

/// A value of a Pickle. `items` are places of other values there: the elements of a list or tuple; key, value, key,
/// value … of a dict; type, key, location and element count of a storage, and of a part of one its first element and
/// their number; storage, offset, shape, strides of a tensor.
struct PickleValue {
  enum class Kind : std::uint8_t { none, boolean, integer, real, text, list, tuple, dict, global, storage, tensor };

  Kind kind = Kind::none;
  bool ordered = false;      // a dict that is an OrderedDict
  bool inside = false;       // in another value: it changes no more
  std::uint8_t depth = 0;    // levels of values below
  std::int64_t integer = 0;  // also of a boolean
  double real = 0;
  std::string_view text = {};  // also of a global: `torch.FloatStorage`
  std::vector<std::uint32_t> items = {};
};

namespace detail {

inline constexpr std::size_t max_pickle_values = std::size_t{1} << 20;  // those pushed, at most about 100 bytes each
inline constexpr std::size_t max_pickle_stack = std::size_t{1} << 16, max_pickle_memo = std::size_t{1} << 20;
inline constexpr std::size_t max_pickle_text = std::size_t{1} << 20, max_pickle_line = 256;
inline constexpr std::size_t max_pickle_depth = 64, max_pickle_rank = 64;

/// A global that a state dict may name; a storage's type has the dtype of its elements.
struct PickleGlobal {
  std::string_view name, dtype;
};
inline constexpr PickleGlobal pickle_globals[] = {{"collections.OrderedDict", ""},
                                                  {"torch._utils._rebuild_tensor", ""},
                                                  {"torch._utils._rebuild_tensor_v2", ""},
                                                  {"torch._utils._rebuild_parameter", ""},
                                                  {"torch.Size", ""},
                                                  {"torch.DoubleStorage", "F64"},
                                                  {"torch.FloatStorage", "F32"},
                                                  {"torch.HalfStorage", "F16"},
                                                  {"torch.BFloat16Storage", "BF16"},
                                                  {"torch.LongStorage", "I64"},
                                                  {"torch.IntStorage", "I32"},
                                                  {"torch.ShortStorage", "I16"},
                                                  {"torch.CharStorage", "I8"},
                                                  {"torch.ByteStorage", "U8"},
                                                  {"torch.BoolStorage", "BOOL"},
                                                  {"torch.storage.UntypedStorage", "U8"},
                                                  {"torch.float64", ""},
                                                  {"torch.float32", ""},
                                                  {"torch.float16", ""},
                                                  {"torch.bfloat16", ""},
                                                  {"torch.int64", ""},
                                                  {"torch.int32", ""},
                                                  {"torch.int16", ""},
                                                  {"torch.int8", ""},
                                                  {"torch.uint8", ""},
                                                  {"torch.bool", ""}};

/// Null for a name that is not among them.
inline const PickleGlobal* find_global(std::string_view name) {
  for (const auto& global : pickle_globals)
    if (global.name == name) return &global;
  return nullptr;
}

/// Names of opcodes that are refused, for the message; `opcode 0x..` otherwise.
inline std::string opcode_name(unsigned char op) {
  constexpr std::pair<unsigned char, const char*> names[] = {{'i', "INST"},
                                                             {'o', "OBJ"},
                                                             {0x81, "NEWOBJ"},
                                                             {0x92, "NEWOBJ_EX"},
                                                             {0x82, "EXT1"},
                                                             {0x83, "EXT2"},
                                                             {0x84, "EXT4"},
                                                             {'P', "PERSID"},
                                                             {'R', "REDUCE"},
                                                             {'b', "BUILD"},
                                                             {'I', "INT"},
                                                             {'L', "LONG"},
                                                             {'F', "FLOAT"},
                                                             {'S', "STRING"},
                                                             {'V', "UNICODE"},
                                                             {'B', "BINBYTES"},
                                                             {'C', "SHORT_BINBYTES"},
                                                             {0x8e, "BINBYTES8"},
                                                             {0x96, "BYTEARRAY8"},
                                                             {0x97, "NEXT_BUFFER"},
                                                             {0x98, "READONLY_BUFFER"},
                                                             {0x8b, "LONG4"},
                                                             {0x8f, "EMPTY_SET"},
                                                             {0x90, "ADDITEMS"},
                                                             {0x91, "FROZENSET"},
                                                             {'p', "PUT"},
                                                             {'g', "GET"},
                                                             {'0', "POP"},
                                                             {'1', "POP_MARK"},
                                                             {'2', "DUP"},
                                                             {'l', "LIST"},
                                                             {'d', "DICT"}};
  for (const auto& [code, name] : names)
    if (code == op) return name;
  return "opcode " + meft::detail::show_byte(static_cast<char>(op));
}

/// A value for a message: `the text 'a'`, `a list of 3`, `torch.Size`.
inline std::string show(const PickleValue& value) {
  switch (value.kind) {
    case PickleValue::Kind::none: return "None";
    case PickleValue::Kind::boolean: return value.integer ? "True" : "False";
    case PickleValue::Kind::integer: return "the integer " + std::to_string(value.integer);
    case PickleValue::Kind::real: return "a float";
    case PickleValue::Kind::text: return "the text " + show_name(value.text);
    case PickleValue::Kind::list: return "a list of " + std::to_string(value.items.size());
    case PickleValue::Kind::tuple: return "a tuple of " + std::to_string(value.items.size());
    case PickleValue::Kind::dict: return "a dict of " + std::to_string(value.items.size() / 2);
    case PickleValue::Kind::global: return std::string(value.text);
    case PickleValue::Kind::storage: return "a storage";
    case PickleValue::Kind::tensor: break;
  }
  return "a tensor";
}

}  // namespace detail

}  // namespace meft::io
