// Owns: the layout of torch.save's files before PyTorch 1.6 (and later with _use_new_zipfile_serialization=False): five
// pickles, a magic number, the protocol's number, the machine that wrote it, the object, the storages' keys in order;
// then of each storage the number of its elements, 8 bytes, and the elements.
// Must not know: what the object is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include <meft/base/error.hpp>
#include <meft/io/entry.hpp>
#include <meft/io/file.hpp>
#include <meft/io/pickle.hpp>
#include <meft/io/state_dict.hpp>
#include <meft/io/tensors.hpp>
#include <meft/io/zip.hpp>

namespace meft::io::detail {

/// 0x1950a86a20f9469cfc6c as a pickle without its first bytes, which depend on Python's protocol.
inline constexpr std::string_view legacy_magic = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Where the magic number's pickle ends; 0 for other files.
inline std::size_t legacy_begin(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (const std::size_t at : {std::size_t{2}, std::size_t{11}})  // behind PROTO, or behind PROTO and FRAME
    if (text.starts_with('\x80') && text.size() > at && text.substr(at).starts_with(legacy_magic))
      return at + legacy_magic.size();
  return 0;
}
inline bool is_legacy_torch(std::span<const std::byte> bytes) { return legacy_begin(bytes) != 0; }

/// The tensors of such a file. Throws Error naming it for any other layout, and for bytes behind the last storage.
inline Tensors::Entries read_legacy_torch(const MappedFile& file, MadeBytes& made, Where where) {
  const std::string what = "pytorch: " + file.path();
  auto left = file.bytes().subspan(legacy_begin(file.bytes()));
  const auto next = [&](const char* part) {
    Pickle out(left.first(std::min(left.size(), max_pickle_bytes)), what + ": " + part, where, Pickle::Behind::more);
    left = left.subspan(out.size());
    return out;
  };
  const Pickle protocol = next("protocol number");
  require(protocol.root().kind == PickleValue::Kind::integer && protocol.root().integer == 1001,
          {what + ": its protocol is " + show(protocol.root()) + ", expected the integer 1001", where});
  const Pickle machine = next("machine");
  const auto* little = machine.find(machine.root(), "little_endian");
  require(little && little->kind == PickleValue::Kind::boolean && little->integer == 1,
          {what + ": was not written by a little-endian machine", where});
  const Pickle object = next("object"), keys = next("storage keys");

  std::map<std::string_view, std::string_view> dtypes;  // of storages by key
  for (const auto& value : object.values())
    if (value.kind == PickleValue::Kind::storage)
      dtypes.emplace(object.at(value.items[1]).text, find_global(object.at(value.items[0]).text)->dtype);
  require(keys.root().kind == PickleValue::Kind::list,
          {what + ": storage keys: found " + show(keys.root()) + ", expected a list", where});
  Storages storages;
  const std::string ends = what + ": storages";
  Bytes bytes(left, ends, where);
  for (const auto place : keys.root().items) {
    const auto& key = keys.at(place);
    const auto dtype = dtypes.find(key.text);
    require(key.kind == PickleValue::Kind::text && dtype != dtypes.end(),
            {what + ": storage keys: " + show(key) + " is no storage of the object", where});
    const auto count = bytes.number<std::uint64_t>();
    const std::size_t unit = dtype_bytes(dtype->second);
    require(count <= bytes.size() / unit,
            {what + ": storage " + show_name(key.text) + " ends too early: " + std::to_string(count) + " elements of " +
                 std::string(dtype->second) + " expected, " + std::to_string(bytes.size()) + " bytes left",
             where});
    const bool fresh = storages.emplace(key.text, bytes.take(static_cast<std::size_t>(count) * unit)).second;
    require(fresh, {what + ": storage keys: " + show_name(key.text) + " is there twice", where});
  }
  require(bytes.size() == 0, {what + ": " + std::to_string(bytes.size()) + " bytes follow the last storage", where});
  return StateDict(object, storages, file.path(), made, where).entries();
}

}  // namespace meft::io::detail
