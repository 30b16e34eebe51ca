// Owns: a table of which only some rows are in memory: those that were used, read when they first were. Dynamic
// embedding pruning, arXiv 2309.08708, there by new token ids. Must not know: files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/autodiff/parameter.hpp>
#include <meft/base/mutex.hpp>

namespace meft::nn {

/// Which rows of a table a parameter holds; ids stay as they are.
template <Real T, Backend B = Cpu>
class TableRows {
 public:
  /// Reads a row, or several from it on.
  using Read = std::function<void(std::int32_t row, std::span<T> to)>;

  /// Of a table of `count` rows, of which `table` has room for the first, which is read. `name` is the numbers'.
  TableRows(Parameter<T, B> table, std::string name, Index count, Read read)
      : table_(std::move(table)),
        name_(std::move(name)),
        read_(std::move(read)),
        places_(static_cast<std::size_t>(count), -1) {
    table_.value().fill([&](std::span<T> to) { read_(0, to); });
    numbers() = Tensor<std::int32_t, B>::zeros({1});
    places_.at(0) = 0;
  }

  Index count() const { return std::ssize(places_); }
  /// The name of the rows' numbers in files; a parameter that does not change has none.
  const char* name() const { return name_.c_str(); }
  bool changes() const { return table_.trainable() || table_.probed(); }
  /// The rows that the parameter has, in its order. [n]
  Tensor<std::int32_t, B>& numbers() { return table_.numbers(); }

  /// Takes up those that are not there, in ascending order, or `as_listed`. Errors: an id outside the table; gradients
  /// are there already.
  void use(std::span<const std::int32_t> ids, bool as_listed = false, Where where = Where::current()) {
    const Lock lock(mutex_);
    std::vector<std::int32_t> more;
    std::set<std::int32_t> seen;
    for (const std::int32_t id : ids)
      if (id < 0 || id >= count())
        fail({name_ + ": an id outside the table of " + std::to_string(count()) + " rows, found", where}, id);
    for (const std::int32_t id : ids)
      if (places_[static_cast<std::size_t>(id)] < 0 && seen.insert(id).second) more.push_back(id);
    if (more.empty()) return;
    if (!as_listed) std::sort(more.begin(), more.end());
    if (table_.gradient().defined())
      fail({name_ + ": a row is used for the first time after an optimizer was made, so that it could not train: row",
            where},
           more[0]);
    const UseScope scope(Use::parameter);
    const Index before = table_.shape()[0], width = table_.shape()[1], all = before + std::ssize(more);
    Tensor<T, B> grown({all, width});
    B::copy(grown.data(), std::as_const(table_).value().data(), std::as_const(table_).value().bytes());
    auto fresh = grown.rows(before, all);
    fresh.fill([&](std::span<T> to) {
      for (std::size_t i = 0; i < more.size(); ++i)
        read_(more[i], to.subspan(i * static_cast<std::size_t>(width), static_cast<std::size_t>(width)));
    });
    table_.value() = std::move(grown);
    auto held = numbers().values();
    for (const auto id : more) {
      places_[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(held.size());
      held.push_back(id);
    }
    numbers() = Tensor<std::int32_t, B>::from({all}, held);
  }

  /// The parameter's row of each id; rows that are not there are read.
  Tensor<std::int32_t, B> places(const Tensor<std::int32_t, B>& ids, Where where = Where::current()) {
    auto out = ids.values();
    use(out, false, where);
    for (auto& id : out) id = places_[static_cast<std::size_t>(id)];
    return Tensor<std::int32_t, B>::from(ids.shape(), out);
  }

  /// The table as a whole: the file's rows, in place of those that are here these.
  Tensor<T, B> whole() {
    const auto width = static_cast<std::size_t>(table_.shape()[1]);
    Tensor<T, B> out({count(), table_.shape()[1]});
    const auto rows = std::as_const(table_).value().values();
    out.fill([&](std::span<T> to) {
      read_(0, to);
      for (std::size_t id = 0; id < places_.size(); ++id)
        if (places_[id] >= 0)
          std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(places_[id]) * width), width,
                      to.begin() + static_cast<std::ptrdiff_t>(id * width));
    });
    return out;
  }

 private:
  Parameter<T, B> table_;
  std::string name_;
  Read read_;
  Mutex mutex_;
  std::vector<std::int32_t> places_;  // of each row in the parameter; −1: not there
};

}  // namespace meft::nn
