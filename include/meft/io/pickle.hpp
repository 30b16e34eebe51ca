// Owns: the part of Python's pickle format (protocols 2 to 5) that PyTorch's state dicts use, read into a tree of
// values. Nothing is executed: the few callables that state dicts name are known by name, everything else is refused by
// name. https://docs.python.org/3/library/pickletools.html. Must not know: zip files, what the tensors are for.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/io/pickle_value.hpp>

namespace meft::io {

/// The values of a pickle. Texts point into the bytes, which must outlive it. Throws Error, `what: byte N: …`, for
/// anything that is not a plain state dict, for a dict with the same key twice, and beyond fixed bounds on the number
/// of values, stack, memo, text length and nesting.
class Pickle {
 public:
  using Kind = PickleValue::Kind;
  enum class Behind { nothing, more };  // what may follow its end

  explicit Pickle(std::span<const std::byte> bytes, std::string what, Where where = Where::current(),
                  Behind behind = Behind::nothing)
      : bytes_(reinterpret_cast<const char*>(bytes.data()), bytes.size()), what_(std::move(what)), where_(where) {
    if (next(1)[0] != '\x80') refuse("does not begin with a protocol from 2 to 5");
    const auto protocol = number(1);
    if (protocol < 2 || protocol > 5) refuse("protocol " + std::to_string(protocol) + ", expected 2 to 5");
    while (step()) {
    }
    if (stack_.size() != 1 || !marks_.empty())
      refuse("ends with " + std::to_string(stack_.size()) + " values on the stack, expected one");
    if (at_ != bytes_.size() && behind == Behind::nothing)
      refuse(std::to_string(bytes_.size() - at_) + " bytes follow its end");
    root_ = stack_.back();
    for (const auto& value : values_)
      if (value.kind == Kind::dict) check_keys(value);
    memo_ = {};
    stack_ = {};
  }

  /// The number of its bytes.
  std::size_t size() const { return at_; }
  /// All values, in no order that means anything.
  const std::vector<PickleValue>& values() const { return values_; }
  const PickleValue& root() const { return values_[root_]; }
  /// The value at a place of `items`.
  const PickleValue& at(std::uint32_t place) const { return values_[place]; }

  /// The value of a dict's text key; null when it is not there.
  const PickleValue* find(const PickleValue& dict, std::string_view key) const {
    for (std::size_t i = 0; dict.kind == Kind::dict && i < dict.items.size(); i += 2)
      if (at(dict.items[i]).kind == Kind::text && at(dict.items[i]).text == key) return &at(dict.items[i + 1]);
    return nullptr;
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    fail({what_ + ": byte " + std::to_string(opcode_at_) + ": " + why, where_});
  }

  std::string_view next(std::uint64_t count) {
    if (count > bytes_.size() - at_)
      refuse("ends too early: " + std::to_string(count) + " bytes expected, " + std::to_string(bytes_.size() - at_) +
             " left");
    const auto out = bytes_.substr(at_, static_cast<std::size_t>(count));
    at_ += out.size();
    return out;
  }
  /// A little-endian number without sign.
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t out = 0;
    const auto text = next(bytes);
    for (std::size_t i = bytes; i-- > 0;) out = out << 8 | static_cast<unsigned char>(text[i]);
    return out;
  }
  std::string_view line() {
    const auto end = bytes_.substr(at_, detail::max_pickle_line + 1).find('\n');
    if (end == std::string_view::npos)
      refuse("no end of line within " + std::to_string(detail::max_pickle_line) + " bytes");
    return next(end + 1).substr(0, end);
  }
  std::string_view text(std::uint64_t length) {
    if (length > detail::max_pickle_text)
      refuse("a text of " + std::to_string(length) + " bytes, at most " + std::to_string(detail::max_pickle_text));
    return next(length);
  }

  /// So many more places in the values.
  void count(std::size_t more) {
    pushed_ += more;
    if (pushed_ > detail::max_pickle_values)
      refuse("more than " + std::to_string(detail::max_pickle_values) + " values");
  }
  void push(std::uint32_t place) {
    if (stack_.size() >= detail::max_pickle_stack)
      refuse("more than " + std::to_string(detail::max_pickle_stack) + " values on the stack");
    count(1);
    stack_.push_back(place);
  }
  void push(PickleValue value) {
    push(static_cast<std::uint32_t>(values_.size()));  // counts first: places fit 32 bits
    for (const auto place : value.items) put_inside(value, place);
    values_.push_back(std::move(value));
  }
  /// Values already inside another never change, so there are no cycles, and depths are known.
  void put_inside(PickleValue& outer, std::uint32_t place) {
    auto& inner = values_[place];
    inner.inside = true;
    if (inner.depth >= detail::max_pickle_depth)
      refuse("nested deeper than " + std::to_string(detail::max_pickle_depth) + " levels");
    outer.depth = std::max(outer.depth, static_cast<std::uint8_t>(inner.depth + 1));
  }

  /// Values above the last mark, or all.
  std::size_t available() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }
  std::uint32_t top() const {
    if (available() == 0) refuse("the stack is empty");
    return stack_.back();
  }
  std::uint32_t pop() {
    const auto out = top();
    stack_.pop_back();
    return out;
  }
  std::vector<std::uint32_t> pop_last(std::size_t count) {
    if (available() < count) refuse("the stack is empty");
    std::vector<std::uint32_t> out(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return out;
  }
  std::vector<std::uint32_t> pop_to_mark() {
    if (marks_.empty()) refuse("there is no mark on the stack");
    auto out = pop_last(available());
    marks_.pop_back();
    return out;
  }

  /// One opcode; false at STOP.
  bool step() {
    opcode_at_ = at_;
    const auto op = static_cast<unsigned char>(next(1)[0]);
    switch (op) {
      case '.': return false;
      case 0x95:  // FRAME
        if (number(8) > bytes_.size() - at_) refuse("a frame that ends after the pickle");
        break;
      case '(':
        if (marks_.size() >= detail::max_pickle_stack) refuse("too many marks");
        marks_.push_back(stack_.size());
        break;
      case 'N': push({.kind = Kind::none}); break;
      case 0x88: push({.kind = Kind::boolean, .integer = 1}); break;
      case 0x89: push({.kind = Kind::boolean}); break;
      case 'J':
        push({.kind = Kind::integer, .integer = static_cast<std::int32_t>(static_cast<std::uint32_t>(number(4)))});
        break;
      case 'K': push({.kind = Kind::integer, .integer = static_cast<std::int64_t>(number(1))}); break;
      case 'M': push({.kind = Kind::integer, .integer = static_cast<std::int64_t>(number(2))}); break;
      case 0x8a: push({.kind = Kind::integer, .integer = long_integer()}); break;
      case 'G': push({.kind = Kind::real, .real = big_endian_real()}); break;
      case 'T':
      case 'X': push({.kind = Kind::text, .text = text(number(4))}); break;
      case 'U':  // Python 2's texts
      case 0x8c: push({.kind = Kind::text, .text = text(number(1))}); break;
      case 0x8d: push({.kind = Kind::text, .text = text(number(8))}); break;
      case ']': push({.kind = Kind::list}); break;
      case '}': push({.kind = Kind::dict}); break;
      case ')': push({.kind = Kind::tuple}); break;
      case 't': push({.kind = Kind::tuple, .items = pop_to_mark()}); break;
      case 0x85: push({.kind = Kind::tuple, .items = pop_last(1)}); break;
      case 0x86: push({.kind = Kind::tuple, .items = pop_last(2)}); break;
      case 0x87: push({.kind = Kind::tuple, .items = pop_last(3)}); break;
      case 'a': extend(Kind::list, pop_last(1)); break;
      case 'e': extend(Kind::list, pop_to_mark()); break;
      case 's': extend(Kind::dict, pop_last(2)); break;
      case 'u': extend(Kind::dict, pop_to_mark()); break;
      case 'q': remember(number(1)); break;
      case 'r': remember(number(4)); break;
      case 0x94: remember(memo_count_); break;
      case 'h': push(recall(number(1))); break;
      case 'j': push(recall(number(4))); break;
      case 'c': {
        const auto module = line();
        push_global(module, line());
        break;
      }
      case 0x93: {  // STACK_GLOBAL
        const auto &name = at(pop()), &module = at(pop());
        if (name.kind != Kind::text || module.kind != Kind::text)
          refuse("STACK_GLOBAL of " + detail::show(module) + " and " + detail::show(name) + ", expected two texts");
        push_global(module.text, name.text);
        break;
      }
      case 'Q': push_storage(pop()); break;
      case 'R': {
        const auto arguments = pop();
        reduce(pop(), arguments);
        break;
      }
      case 'b': build(pop()); break;
      default: refuse_opcode(op);
    }
    return true;
  }

  std::int64_t long_integer() {
    const auto count = number(1);
    if (count > 8) refuse("an integer of " + std::to_string(count) + " bytes, at most 8");
    if (count == 0) return 0;
    const auto unused = 64 - 8 * static_cast<int>(count);
    return static_cast<std::int64_t>(number(static_cast<std::size_t>(count)) << unused) >> unused;
  }
  double big_endian_real() { return std::bit_cast<double>(__builtin_bswap64(number(8))); }

  void remember(std::uint64_t index) {
    if (index >= detail::max_pickle_memo)
      refuse("memo " + std::to_string(index) + ", at most " + std::to_string(detail::max_pickle_memo));
    if (index >= memo_.size()) memo_.resize(static_cast<std::size_t>(index) + 1);
    auto& place = memo_[static_cast<std::size_t>(index)];
    if (!place) ++memo_count_;
    place = top();
  }
  std::uint32_t recall(std::uint64_t index) const {
    if (index >= memo_.size() || !memo_[static_cast<std::size_t>(index)])
      refuse("memo " + std::to_string(index) + " was never set");
    return *memo_[static_cast<std::size_t>(index)];
  }

  void extend(Kind kind, const std::vector<std::uint32_t>& items) {
    const auto place = top();
    auto& outer = values_[place];
    if (outer.kind != kind)
      refuse(std::string("expected a ") + (kind == Kind::list ? "list" : "dict") + " to add to, found " +
             detail::show(outer));
    if (kind == Kind::dict && items.size() % 2 != 0) refuse("a key without a value");
    if (outer.inside) refuse("adds to " + detail::show(outer) + " that is already inside another value");
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (items[i] == place) refuse("puts " + detail::show(outer) + " into itself");
      const auto key = at(items[i]).kind;
      if (kind == Kind::dict && i % 2 == 0 && key != Kind::text && key != Kind::integer)
        refuse("a key is " + detail::show(at(items[i])) + ", expected a text or an integer");
      put_inside(outer, items[i]);
    }
    outer.items.insert(outer.items.end(), items.begin(), items.end());
  }

  void check_keys(const PickleValue& dict) const {
    std::vector<std::tuple<Kind, std::string_view, std::int64_t>> keys;
    for (std::size_t i = 0; i < dict.items.size(); i += 2) {
      const auto& key = at(dict.items[i]);
      keys.emplace_back(key.kind, key.text, key.integer);
    }
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice == keys.end()) return;
    const auto& [kind, text, integer] = *twice;
    fail({what_ + ": a dict has the key " + (kind == Kind::text ? show_name(text) : std::to_string(integer)) + " twice",
          where_});
  }

  void push_global(std::string_view module, std::string_view name) {
    const std::string full = std::string(module) + "." + std::string(name);
    const auto* known = detail::find_global(full);
    // `torch` with `_utils.x` reads the same as `torch._utils` with `x`, and is something else.
    if (!known || name.find('.') != name.npos)
      refuse("names " + show_name(full) + ", which is no part of a plain state dict: refused");
    push({.kind = Kind::global, .text = known->name});
  }

  /// BINPERSID: ('storage', type, key, location, number of elements), and before 1.6 a sixth: None, or for a part of a
  /// storage (its key, first element, number of elements).
  void push_storage(std::uint32_t place) {
    const auto id = values_[place];
    const auto is = [&](std::size_t i, Kind kind) { return at(id.items[i]).kind == kind; };
    const bool good = id.kind == Kind::tuple && (id.items.size() == 5 || id.items.size() == 6) && is(0, Kind::text) &&
                      at(id.items[0]).text == "storage" && is(1, Kind::global) &&
                      !detail::find_global(at(id.items[1]).text)->dtype.empty() && is(2, Kind::text) &&
                      is(3, Kind::text) && is(4, Kind::integer) && at(id.items[4]).integer >= 0;
    if (!good)
      refuse("BINPERSID of " + detail::show(id) + ", expected ('storage', type, key, location, number of elements)");
    std::vector<std::uint32_t> items(id.items.begin() + 1, id.items.begin() + 5);
    if (id.items.size() == 6 && !is(5, Kind::none)) {
      const auto& part = at(id.items[5]);
      const auto counts = [&](std::size_t i) {
        return at(part.items[i]).kind == Kind::integer && at(part.items[i]).integer >= 0;
      };
      if (part.kind != Kind::tuple || part.items.size() != 3 || at(part.items[0]).kind != Kind::text || !counts(1) ||
          !counts(2))
        refuse("BINPERSID of a part of a storage: expected (key, first element, number of elements)");
      items.insert(items.end(), {part.items[1], part.items[2]});
    }
    push({.kind = Kind::storage, .items = std::move(items)});
  }

  bool is_sizes(std::uint32_t place) const {
    const auto& tuple = at(place);
    return tuple.kind == Kind::tuple && tuple.items.size() <= detail::max_pickle_rank &&
           std::all_of(tuple.items.begin(), tuple.items.end(),
                       [&](std::uint32_t item) { return at(item).kind == Kind::integer; });
  }
  bool is_empty_ordered(std::uint32_t place) const { return at(place).ordered && at(place).items.empty(); }

  void reduce(std::uint32_t callable, std::uint32_t arguments) {
    const auto call = at(callable);
    const auto given = at(arguments);
    if (call.kind != Kind::global) refuse("REDUCE calls " + detail::show(call) + ": refused");
    if (given.kind != Kind::tuple)
      refuse("REDUCE of " + detail::show(call) + ": expected a tuple, found " + detail::show(given));
    const auto& x = given.items;
    const auto expect = [&](bool good, const char* expected) {
      if (!good) refuse("REDUCE of " + detail::show(call) + ": expected " + expected);
    };
    const auto is = [&](std::size_t i, Kind kind) { return at(x[i]).kind == kind; };
    if (call.text == "collections.OrderedDict") {
      expect(x.empty() || (x.size() == 1 && is(0, Kind::list)), "no arguments, or (Python 2) a list of pairs");
      push({.kind = Kind::dict, .ordered = true});
      if (!x.empty()) count(at(x[0]).items.size());
      for (const auto pair : x.empty() ? std::vector<std::uint32_t>{} : at(x[0]).items) {
        const auto items = at(pair).items;
        expect((at(pair).kind == Kind::list || at(pair).kind == Kind::tuple) && items.size() == 2, "a list of pairs");
        extend(Kind::dict, items);
      }
    } else if (call.text == "torch.Size") {
      expect(x.size() == 1 && is_sizes(x[0]), "one tuple of at most 64 integers");
      push(x[0]);
    } else if (call.text == "torch._utils._rebuild_tensor") {  // PyTorch before 0.4
      expect(x.size() == 4 && is(0, Kind::storage) && is(1, Kind::integer) && is_sizes(x[2]) && is_sizes(x[3]),
             "storage, offset, shape and strides");
      push({.kind = Kind::tensor, .items = x});
    } else if (call.text == "torch._utils._rebuild_tensor_v2") {
      expect((x.size() == 6 || x.size() == 7) && is(0, Kind::storage) && is(1, Kind::integer) && is_sizes(x[2]) &&
                 is_sizes(x[3]) && is(4, Kind::boolean) && is_empty_ordered(x[5]),
             "storage, offset, shape, strides, requires_grad and an empty OrderedDict");
      // Python's metadata holds flags that change the values, as for a negated view.
      expect(x.size() == 6 || is(6, Kind::none) || (is(6, Kind::dict) && at(x[6]).items.empty()), "no metadata");
      push({.kind = Kind::tensor, .items = {x.begin(), x.begin() + 4}});
    } else if (call.text == "torch._utils._rebuild_parameter") {
      expect(x.size() == 3 && is(0, Kind::tensor) && is(1, Kind::boolean) && is_empty_ordered(x[2]),
             "a tensor, requires_grad and an empty OrderedDict");
      push(x[0]);
    } else {
      refuse("REDUCE calls " + detail::show(call) + ": refused");
    }
  }

  /// BUILD sets attributes. Those of an OrderedDict (`_metadata` of a module) say nothing about tensors: dropped.
  void build(std::uint32_t state) {
    const auto& target = at(top());
    const auto& attributes = at(state);
    if (!target.ordered) refuse("BUILD of " + detail::show(target) + ": refused");
    if (attributes.kind != Kind::dict)
      refuse("BUILD of an OrderedDict: expected a dict, found " + detail::show(attributes));
    for (std::size_t i = 0; i < attributes.items.size(); i += 2)
      if (const auto& key = at(attributes.items[i]); key.kind != Kind::text || key.text.starts_with("__"))
        refuse("BUILD of an OrderedDict: sets " + detail::show(key) + ": refused");
  }

  [[noreturn]] void refuse_opcode(unsigned char op) {
    std::string of;
    if (op == 'i') {
      const auto module = line();
      of = " of " + show_name(std::string(module) + "." + std::string(line()));
    } else if (op == 'o' && !marks_.empty() && available() > 0) {
      of = " of " + detail::show(at(stack_[marks_.back()]));
    } else if ((op == 0x81 && available() > 1) || (op == 0x92 && available() > 2)) {
      of = " of " + detail::show(at(stack_[stack_.size() - (op == 0x81 ? 2 : 3)]));
    } else if (op >= 0x82 && op <= 0x84) {
      of = " of code " + std::to_string(number(std::size_t{1} << (op - 0x82)));
    }
    refuse(detail::opcode_name(op) + of + ": is no part of a plain state dict: refused");
  }

  std::string_view bytes_;
  std::string what_;
  Where where_;
  std::size_t at_ = 0, opcode_at_ = 0, pushed_ = 0, memo_count_ = 0;
  std::vector<PickleValue> values_;
  std::vector<std::uint32_t> stack_;
  std::vector<std::size_t> marks_;
  std::vector<std::optional<std::uint32_t>> memo_;
  std::uint32_t root_ = 0;
};

}  // namespace meft::io
