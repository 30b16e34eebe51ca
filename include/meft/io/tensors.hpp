// Owns: the tensors of a file by name, in one file or in several with an index: what the readers of all formats share.
// Must not know: the formats.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/io/entry.hpp>
#include <meft/io/file.hpp>
#include <meft/io/index.hpp>

namespace meft::io {

/// The tensors of an open file, or of several with an index, by name: what Safetensors, Pytorch and Gguf share.
class Tensors {
 public:
  using Entries = std::map<std::string, Entry, std::less<>>;

  virtual ~Tensors() = default;

  /// The file that was opened: for a folder, the one found in it.
  const std::string& path() const { return path_; }
  std::size_t size() const { return entries_.size(); }
  bool contains(std::string_view name) const { return entries_.find(name) != entries_.end(); }

  /// All names, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& [name, entry] : entries_) out.push_back(name);
    return out;
  }

  /// Throws Error when there is no such tensor, or a file has changed since it was opened. The entry lives as long as
  /// this object.
  const Entry& find(std::string_view name, Where where = Where::current()) const {
    const auto at = entries_.find(name);
    if (at == entries_.end())
      fail({kind_ + ": " + path_ + ": no tensor " + show_name(name) + " among " + std::to_string(size()), where});
    require_unchanged(where);
    return at->second;
  }

  /// Gives the memory of what was read so far back; a tensor comes from its file again when it is looked at.
  virtual void forget() const = 0;
  /// Throws Error when a file is not as it was when it was opened.
  virtual void require_unchanged(Where where) const = 0;

 protected:
  /// `kind`: the format, with which messages begin.
  Tensors(std::string kind, std::string path) : kind_(std::move(kind)), path_(std::move(path)) {}
  Tensors(Tensors&&) = default;
  Tensors& operator=(Tensors&&) = default;

  /// In place of a folder the path is that of `name` in it or, where that is not there, of its index.
  void look_into_folder(const std::string& name, Where where) {
    struct stat info {};
    if (::stat(path_.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) return;
    const std::string whole = path_ + "/" + name, index = whole + ".index.json";
    if (!is_there(whole) && !is_there(index))
      fail({kind_ + ": " + path_ + ": neither " + name + " nor " + name + ".index.json is there", where});
    path_ = is_there(whole) ? whole : index;
  }

  /// The tensors that an index puts into files beside it: open(path) gives the entries of one.
  template <class Open>
  void add_shards(const nlohmann::json& index, const Open& open, Where where) {
    const std::string what = kind_ + ": " + path_;
    for (const auto& [file, names] : detail::read_weight_map(index, what, where)) {
      const std::string path = detail::folder_of(path_) + "/" + file;
      Entries entries = open(path);
      for (const auto& name : names) {
        const auto at = entries.find(name);
        if (at == entries.end())
          fail({what + ": weight_map puts tensor " + show_name(name) + " in " + path + ", which lacks it", where});
        entries_.insert(entries.extract(at));
      }
    }
  }

  std::string kind_, path_;
  Entries entries_;
};

}  // namespace meft::io
