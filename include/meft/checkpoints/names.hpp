// Owns: under which name a checkpoint holds a parameter: below which prefix, by which spelling; and what to say of
// those that it lacks. Must not know: families, formats, reading.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/io/weights.hpp>
#include <meft/model/spec.hpp>

namespace meft::checkpoints {

/// The names in a file of weights. The model's parameters lie below one prefix, which is looked for: the family's own,
/// none, or whatever the program that saved it put in front (`module.`, `model.bert.`, `_orig_mod.encoder.`).
class CheckpointNames {
 public:
  /// `parameters` are the model's without prefix, `prefix` the family's in checkpoints with a head. With `tied` the
  /// word embeddings may be there as the output's only. Throws when several models are equally there.
  CheckpointNames(const io::Weights& file, const std::vector<std::string>& parameters, std::string prefix,
                  std::span<const model::Spelling> spellings, bool tied, Where where = Where::current())
      : file_(&file), prefix_(std::move(prefix)), spellings_(spellings), tied_(tied) {
    find_lead(parameters, where);
  }

  /// Throws when parameters are not in the file, naming three of them and what is there instead.
  void check_complete(const std::vector<std::string>& parameters, Where where) const {
    std::vector<std::string> missing;
    for (const auto& name : parameters)
      if (!find(name)) missing.push_back(name);
    if (!missing.empty()) refuse(missing, parameters.size(), where);
  }

  /// What stands in front of the model's names here: `bert.`, `module.bert.`, nothing.
  const std::string& lead() const { return lead_; }
  /// Whether that is neither the family's prefix nor nothing.
  bool wrapped() const { return !lead_.empty() && lead_ != prefix_; }

  /// All names that there are for a parameter in the file, the one that counts first.
  std::vector<std::string> all(const std::string& name) const {
    std::vector<std::string> out;
    for (const auto& [spelled, kind] : variants(name))
      for (const auto& lead : leads_)
        if (file_->contains(lead + spelled) && std::find(out.begin(), out.end(), lead + spelled) == out.end())
          out.push_back(lead + spelled);
    return out;
  }
  /// The parameter's tensor, or null. It lives as long as this object.
  const io::Entry* find(const std::string& name) const {
    const auto found = all(name);
    if (found.empty()) return nullptr;
    const auto& entry = file_->find(found.front());
    const auto* of = part(name);
    if (!of || !found.front().ends_with(of->other) || entry.shape.empty() || entry.shape[0] % of->parts) return &entry;
    auto& out = parts_[name] = entry;
    out.shape[0] /= of->parts;
    const std::size_t bytes = entry.bytes.size() / static_cast<std::size_t>(of->parts);
    out.bytes = entry.bytes.subspan(static_cast<std::size_t>(of->part) * bytes, bytes);
    return &out;
  }
  /// The spelling of a parameter that the checkpoint has within a larger tensor, or null.
  const model::Spelling* part(const std::string& name) const {
    for (const auto& s : spellings_)
      if (s.kind == Kind::part && s.of(name)) return &s;
    return nullptr;
  }
  const io::Weights& file() const { return *file_; }

  /// Throws when the file holds a parameter under several names that say different things of what must be one tensor.
  void check_equal(const std::string& name, Where where) const {
    const io::Entry* first = nullptr;
    for (const auto& [spelled, kind] : variants(name))
      for (const auto& lead : leads_) {
        if (kind != model::Spelling::Kind::same || !file_->contains(lead + spelled)) continue;
        const auto& entry = file_->find(lead + spelled);
        if (!first) first = &entry;
        else if (!same(*first, entry))
          fail({"load: " + file_->path() + ": tensors " + first->name + " and " + entry.name +
                    " differ, but the model has one for both",
                where});
      }
  }
  static bool same(const io::Entry& a, const io::Entry& b) {
    return a.dtype == b.dtype && a.shape == b.shape &&
           (a.bytes.data() == b.bytes.data() || std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin()));
  }

 private:
  using Kind = model::Spelling::Kind;

  std::vector<std::pair<std::string, Kind>> variants(const std::string& name) const {
    std::vector<std::pair<std::string, Kind>> out{{name, Kind::same}};
    for (const auto& s : spellings_) {
      if (!s.of(name) || (s.kind == Kind::output && !tied_)) continue;
      std::pair<std::string, Kind> other{s.spelled(name), s.kind};
      if (s.kind == Kind::wins) out.insert(out.begin(), std::move(other));
      else out.push_back(std::move(other));
    }
    return out;
  }

  /// The lead with the most of the model's parameters; of equals the family's prefix, then none.
  void find_lead(const std::vector<std::string>& parameters, Where where) {
    std::set<std::string> known;
    for (const auto& name : parameters)
      for (auto& [spelled, kind] : variants(name))
        if (kind == Kind::same) known.insert(std::move(spelled));
    std::map<std::string, std::size_t> count;
    for (const auto& name : file_->names())
      for (std::size_t at = 0, dot = 0; dot != std::string::npos; at = dot + 1) {
        if (known.contains(name.substr(at))) ++count[name.substr(0, at)];
        dot = name.find('.', at);
      }
    std::size_t most = 0;
    for (const auto& [lead, n] : count) most = std::max(most, n);
    std::vector<std::string> best;
    for (const auto& [lead, n] : count)
      if (n == most) best.push_back(lead);
    const auto among = [&](const std::string& lead) { return std::find(best.begin(), best.end(), lead) != best.end(); };
    if (best.empty() || among(prefix_)) lead_ = prefix_;
    else if (among("")) lead_ = "";
    else if (best.size() == 1) lead_ = best[0];
    else
      fail({"load: " + file_->path() + ": holds " + std::to_string(best.size()) + " models, under `" + best[0] +
                "` and `" + best[1] + "`: expected one; save the one that is meant on its own",
            where});
    // Heads stand beside the model, and their first layer sometimes in it.
    const std::size_t dot = lead_.empty() ? std::string::npos : lead_.find_last_of('.', lead_.size() - 2);
    for (const auto& lead :
         {lead_, dot == std::string::npos ? std::string() : lead_.substr(0, dot + 1), prefix_, std::string()})
      if (std::find(leads_.begin(), leads_.end(), lead) == leads_.end()) leads_.push_back(lead);
  }

  [[noreturn]] void refuse(const std::vector<std::string>& missing, std::size_t parameters, Where where) const {
    std::string text;
    for (std::size_t i = 0; i < missing.size() && i < 3; ++i) text += (i ? ", " : "") + missing[i];
    if (missing.size() > 3) text += " and " + std::to_string(missing.size() - 3) + " more";
    text += " (" + std::to_string(missing.size()) + " of " + std::to_string(parameters) + "); the file has " +
            std::to_string(file_->size()) + " tensors";
    const auto there = near(missing.front());
    for (std::size_t i = 0; i < there.size(); ++i) text += (i ? ", " : ", such as ") + show_name(there[i]);
    fail({"load: " + file_->path() + ": tensors are missing (with or without `" + prefix_ + "`): " + text, where});
  }

  /// Three names of the file, those first that share the most of `name`'s end, then of its parts.
  std::vector<std::string> near(const std::string& name) const {
    const auto likeness = [&](const std::string& other) {
      std::size_t end = 0, parts = 0;
      while (end < std::min(name.size(), other.size()) && name[name.size() - 1 - end] == other[other.size() - 1 - end])
        ++end;
      for (std::size_t at = 0; at < name.size();) {
        const std::size_t dot = std::min(name.find('.', at), name.size());
        if (other.find(name.substr(at, dot - at)) != std::string::npos) ++parts;
        at = dot + 1;
      }
      return end + 4 * parts;
    };
    auto names = file_->names();
    std::stable_sort(names.begin(), names.end(),
                     [&](const std::string& a, const std::string& b) { return likeness(a) > likeness(b); });
    if (names.size() > 3) names.resize(3);
    return names;
  }

  const io::Weights* file_;
  std::string prefix_, lead_;
  std::vector<std::string> leads_;
  std::span<const model::Spelling> spellings_;
  bool tied_;
  mutable std::map<std::string, io::Entry> parts_{};  // those that were found
};

}  // namespace meft::checkpoints
