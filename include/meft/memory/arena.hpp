// Owns: blocks cut from segments: best fit, split, joined with their neighbours when they come back.
// Must not know: where segments come from, and what blocks are for.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace meft {

/// Holds segments of memory and cuts blocks from them. Its tables lie beside the memory, which may be a device's.
class Arena {
 public:
  struct Span {
    char* data = nullptr;
    std::size_t size = 0;
    char* end() const { return data + size; }
  };

  /// The smallest free place of at least `size` bytes, of equals the first; null when there is none.
  [[gnu::cold, gnu::noinline]] void* take(std::size_t size) {
    std::size_t best = free_.size();
    for (std::size_t i = 0; i < free_.size(); ++i)
      if (free_[i].size >= size && (best == free_.size() || free_[i].size < free_[best].size)) {
        best = i;
        if (free_[i].size == size) break;
      }
    if (best == free_.size()) return nullptr;
    make_room(blocks_ + 1);
    ++blocks_;
    Span& from = free_[best];
    char* const data = from.data;
    from.data += size;
    from.size -= size;
    if (!from.size) erase(free_, best);
    used_ += size;
    return data;
  }

  /// Takes back what `take(size)` gave. Does not throw: there is a place for each block's span.
  [[gnu::cold, gnu::noinline]] void give(void* block, std::size_t size) noexcept {
    used_ -= size;
    --blocks_;
    add_free({static_cast<char*>(block), size});
  }

  /// A segment more.
  [[gnu::cold, gnu::noinline]] void add(void* data, std::size_t size) {
    const Span segment{static_cast<char*>(data), size};
    make_room(blocks_ + 1);
    insert(segments_, place_of(segments_, segment.data), segment);
    held_ += size;
    add_free(segment);
  }

  /// Gives up the segments in which nothing is used, each to free(data, size); their bytes.
  template <class Free>
  std::size_t release(const Free& free) {
    std::size_t bytes = 0;
    for (std::size_t i = segments_.size(); i-- > 0;) {
      const Span segment = segments_[i];
      const std::size_t at = place_of(free_, segment.data);
      if (at == free_.size() || free_[at].data != segment.data || free_[at].size != segment.size) continue;
      erase(free_, at);
      erase(segments_, i);
      held_ -= segment.size;
      bytes += segment.size;
      free(segment.data, segment.size);
    }
    return bytes;
  }

  bool holds(const void* block) const {
    const std::size_t after = place_of(segments_, static_cast<const char*>(block) + 1);
    return after > 0 && block < segments_[after - 1].end();
  }
  std::size_t segments() const { return segments_.size(); }
  std::size_t held() const { return held_; }
  std::size_t used() const { return used_; }

 private:
  using Spans = std::vector<Span>;  // by address

  /// The first span at `data` or above.
  static std::size_t place_of(const Spans& spans, const char* data) {
    std::size_t low = 0, high = spans.size();
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      if (spans[middle].data < data) low = middle + 1;
      else high = middle;
    }
    return low;
  }
  [[gnu::cold, gnu::noinline]] static void insert(Spans& spans, std::size_t at, Span span) {
    spans.insert(spans.begin() + static_cast<std::ptrdiff_t>(at), span);
  }
  static void erase(Spans& spans, std::size_t at) { spans.erase(spans.begin() + static_cast<std::ptrdiff_t>(at)); }

  /// Places for so many free spans more.
  void make_room(std::size_t more) {
    if (const std::size_t needed = free_.size() + more; needed > free_.capacity())
      free_.reserve(std::max(needed, 2 * free_.capacity()));
  }

  /// No span reaches over the border of two segments, even where they touch.
  bool starts_segment(const char* data) const {
    const std::size_t at = place_of(segments_, data);
    return at < segments_.size() && segments_[at].data == data;
  }
  void add_free(Span span) {
    const std::size_t at = place_of(free_, span.data);
    const bool joins_next = at < free_.size() && span.end() == free_[at].data && !starts_segment(free_[at].data),
               joins_last = at > 0 && free_[at - 1].end() == span.data && !starts_segment(span.data);
    if (joins_next) {
      free_[at].data = span.data;
      free_[at].size += span.size;
      if (joins_last) {
        free_[at - 1].size += free_[at].size;
        erase(free_, at);
      }
    } else if (joins_last) free_[at - 1].size += span.size;
    else insert(free_, at, span);
  }

  Spans segments_, free_;
  std::size_t held_ = 0, used_ = 0, blocks_ = 0;
};

}  // namespace meft
