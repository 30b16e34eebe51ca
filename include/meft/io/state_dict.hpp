// Owns: the tensors of a pickled state dict, each a view of one of the storages that lie beside the pickle, or, where
// its dimensions lie there in another order, a copy that is row-major. Must not know: how pickle and storages lie in a
// file, models and tensor types.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/io/entry.hpp>
#include <meft/io/json.hpp>
#include <meft/io/pickle.hpp>
#include <meft/io/tensors.hpp>

namespace meft::io::detail {

inline constexpr std::size_t max_pickle_bytes = std::size_t{64} << 20;

inline void check_pickle_size(std::size_t bytes, const std::string& what, Where where) {
  require(bytes <= max_pickle_bytes,
          {what + " has " + std::to_string(bytes) + " bytes, at most " + std::to_string(max_pickle_bytes), where});
}

/// The bytes of each storage by its key.
using Storages = std::map<std::string, std::span<const std::byte>, std::less<>>;
/// Bytes of tensors that are none of a file's.
using MadeBytes = std::deque<std::vector<std::byte>>;

/// Reads the pickle of a file called `path`. Training programs keep the state dict in a dict, under a usual name.
class StateDict {
 public:
  /// What is made goes into `made`, which lives as long as the entries.
  StateDict(const Pickle& pickle, const Storages& storages, const std::string& path, MadeBytes& made, Where where)
      : pickle_(pickle), storages_(storages), path_(path), what_("pytorch: " + path), made_(made), where_(where) {
    for (const auto& [key, bytes] : storages) left_ += bytes.size();
  }

  Tensors::Entries entries() {
    const PickleValue* dict = &pickle_.root();
    require(is_dict(dict), {what_ + ": holds " + show(*dict) + ", expected a state dict", where_});
    while (const auto* inner = nested(*dict)) dict = inner;
    Tensors::Entries out;
    for (std::size_t i = 0; i < dict->items.size(); i += 2) {
      const auto &key = pickle_.at(dict->items[i]), &value = pickle_.at(dict->items[i + 1]);
      require(key.kind == PickleValue::Kind::text,
              {what_ + ": the state dict has the key " + show(key) + ", expected a text", where_});
      const std::string which = what_ + ": tensor " + show_name(key.text);
      if (value.kind != PickleValue::Kind::tensor)
        fail({which + ": is " + show(value) + ", expected a tensor" +
                  (is_dict(&value) ? "; nested dicts are looked into only when called `state_dict`, "
                                     "`model_state_dict`, `model`, `module` or `net`"
                                   : ""),
              where_});
      out.emplace(std::string(key.text), entry(std::string(key.text), value, which));
    }
    return out;
  }

 private:
  static bool is_dict(const PickleValue* value) { return value && value->kind == PickleValue::Kind::dict; }

  /// The dict that holds the tensors in a dict without any.
  const PickleValue* nested(const PickleValue& dict) const {
    for (const char* name : {"state_dict", "model_state_dict", "model", "module", "net"})
      if (const auto* inner = pickle_.find(dict, name); is_dict(inner)) return inner;
    return nullptr;
  }

  std::vector<std::int64_t> sizes(std::uint32_t place) const {
    std::vector<std::int64_t> out;
    for (const auto item : pickle_.at(place).items) out.push_back(pickle_.at(item).integer);
    return out;
  }

  Entry entry(std::string name, const PickleValue& tensor, const std::string& which) {
    const auto& storage = pickle_.at(tensor.items[0]);
    const auto offset = pickle_.at(tensor.items[1]).integer;
    Entry out{std::move(name),
              std::string(find_global(pickle_.at(storage.items[0]).text)->dtype),
              sizes(tensor.items[2]),
              {},
              path_};
    const auto strides = sizes(tensor.items[3]);
    const std::size_t unit = dtype_bytes(out.dtype), bytes = checked_bytes(out.dtype, out.shape, which, where_);
    const auto order = order_of(out.shape, strides, which);
    const auto all = storage_bytes(storage, out.dtype, which);
    const std::size_t held = all.size() / unit, count = bytes / unit;
    const bool fits =
        offset >= 0 && static_cast<std::uint64_t>(offset) <= held && count <= held - static_cast<std::size_t>(offset);
    require(fits, {which + ": " + std::to_string(count) + " elements from " + std::to_string(offset) +
                       " on, but the storage has " + std::to_string(held),
                   where_});
    out.bytes = all.subspan(static_cast<std::size_t>(offset) * unit, bytes);
    if (!std::is_sorted(order.rbegin(), order.rend())) out.bytes = row_major(out, strides, unit, which);
    return out;
  }

  /// The elements of `tensor`, which lie by `strides`, in the order of its dimensions: the same bytes for tensors that
  /// are one.
  std::span<const std::byte> row_major(const Entry& tensor, std::vector<std::int64_t> strides, std::size_t unit,
                                       const std::string& which) {
    for (std::size_t i = 0; i < strides.size(); ++i)
      if (tensor.shape[i] == 1) strides[i] = 0;
    auto& before = ordered_[{tensor.bytes.data(), unit, tensor.shape, strides}];
    if (!before.empty()) return before;
    require(tensor.bytes.size() <= left_,
            {which + ": tensors whose dimensions are not in order have more elements than the storages", where_});
    left_ -= tensor.bytes.size();
    auto& out = made_.emplace_back(tensor.bytes.size());
    before = out;
    std::vector<std::int64_t> at(tensor.shape.size());
    std::int64_t from = 0;
    for (std::size_t to = 0; to < out.size(); to += unit) {
      std::memcpy(out.data() + to, tensor.bytes.data() + static_cast<std::size_t>(from) * unit, unit);
      for (std::size_t i = at.size(); i-- > 0;) {
        from += strides[i];
        if (++at[i] < tensor.shape[i]) break;
        from -= strides[i] * tensor.shape[i];
        at[i] = 0;
      }
    }
    return out;
  }

  /// The dimensions of more than one element from the one whose elements lie next to each other on: row-major where
  /// they descend. Strides of the others, and of tensors without elements, mean nothing. Throws where elements overlap
  /// or there is something between them.
  std::vector<std::size_t> order_of(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides,
                                    const std::string& which) const {
    require(
        shape.size() == strides.size(),
        {which + ": shape " + shape_text(shape) + " and strides " + shape_text(strides) + " differ in length", where_});
    for (const auto stride : strides)
      require(stride >= 0, {which + ": negative stride in " + shape_text(strides), where_});
    std::vector<std::size_t> order;
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return order;
    for (std::size_t i = shape.size(); i-- > 0;)
      if (shape[i] != 1) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return strides[a] < strides[b]; });
    std::int64_t expected = 1;
    for (const auto i : order) {
      require(strides[i] == expected,
              {which + ": strides " + shape_text(strides) + " of shape " + shape_text(shape) +
                   ": its elements overlap, or are not next to each other; save it after .contiguous()",
               where_});
      expected *= shape[i];
    }
    return order;
  }

  /// All of a storage; tensors that share one must agree on what it is.
  std::span<const std::byte> storage_bytes(const PickleValue& storage, const std::string& dtype,
                                           const std::string& which) {
    const std::string key(pickle_.at(storage.items[1]).text);
    const auto count = pickle_.at(storage.items[3]).integer;
    const auto& first = known_.emplace(key, std::pair(dtype, count)).first->second;
    require(first == std::pair(dtype, count),
            {which + ": storage " + show_name(key) + " is " + std::to_string(count) + " of " + dtype + " here, " +
                 std::to_string(first.second) + " of " + first.first + " before",
             where_});
    const auto at = storages_.find(key);
    require(at != storages_.end(), {which + ": there is no entry for storage " + show_name(key), where_});
    const auto bytes = at->second;
    const std::size_t unit = dtype_bytes(dtype);
    require(bytes.size() % unit == 0 && bytes.size() / unit == static_cast<std::uint64_t>(count),
            {which + ": storage " + show_name(key) + " has " + std::to_string(bytes.size()) + " bytes, expected " +
                 std::to_string(count) + " elements of " + dtype,
             where_});
    if (storage.items.size() == 4) return bytes;
    const auto begin = static_cast<std::uint64_t>(pickle_.at(storage.items[4]).integer),
               part = static_cast<std::uint64_t>(pickle_.at(storage.items[5]).integer), all = bytes.size() / unit;
    require(begin <= all && part <= all - begin,
            {which + ": the part of storage " + show_name(key) + " with " + std::to_string(part) + " elements from " +
                 std::to_string(begin) + " on exceeds its " + std::to_string(all),
             where_});
    return bytes.subspan(static_cast<std::size_t>(begin) * unit, static_cast<std::size_t>(part) * unit);
  }

  const Pickle& pickle_;
  const Storages& storages_;
  const std::string& path_;
  std::string what_;
  MadeBytes& made_;
  Where where_;
  using Place = std::tuple<const std::byte*, std::size_t, std::vector<std::int64_t>, std::vector<std::int64_t>>;
  std::map<Place, std::span<const std::byte>> ordered_;  // by where, bytes an element, shape and strides
  std::size_t left_ = 0;                                 // bytes that may be made: many tensors may share a storage
  std::map<std::string, std::pair<std::string, std::int64_t>> known_;  // storages met so far
};

}  // namespace meft::io::detail
