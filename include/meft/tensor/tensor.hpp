// Owns: the tensor: a typed, shaped, contiguous row-major view of a shared buffer on one backend. No gradients here.
#pragma once

#include <concepts>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/bf16.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

namespace detail {
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_empty(std::string_view op, Where where) {
  throw Error(joined({op, ": the tensor is empty: it was default-made and never given a value"}), where);
}
}  // namespace detail

/// In what a result is handed on where tensors keep elements rounded to bf16 (Tensor::rounds), as products read them:
/// in T; in T and rounded; rounded alone, which is for a result that nobody reads in another way.
enum class Hand { in_full, both, rounded };

/// A handle: copies share elements; `clone` copies them. A default-made tensor is empty (`defined()` is false), of size
/// 0, and what needs elements is an Error.
template <Scalar T, Backend B = Cpu>
class Tensor {
 public:
  using value_type = T;
  using backend = B;

  Tensor() = default;

  /// Uninitialised elements from the backend's pool.
  [[gnu::cold, gnu::noinline]] explicit Tensor(const Shape& shape, Where where = Where::current())
      : buffer_(B::pool(), shape.bytes(sizeof(T), where), where), shape_(shape) {}

  /// Whether elements may be kept rounded to bf16 too, or alone.
  static constexpr bool rounds = !B::on_host && std::same_as<T, float>;
  /// Uninitialised elements: as they are to be handed on.
  static Tensor handed(const Shape& shape, Hand hand) {
    if constexpr (rounds)
      if (hand == Hand::rounded) {
        Tensor out;
        out.shape_ = shape;
        out.buffer_ = Buffer::unclaimed(B::pool(), shape.bytes(sizeof(T)));
        out.make_room();
        return out;
      }
    return Tensor(shape);
  }

  static Tensor zeros(const Shape& shape) {
    Tensor out(shape);
    out.zero();
    return out;
  }
  static Tensor full(const Shape& shape, T value) {
    const Index n = shape.size();
    const Buffer host(Cpu::pool(), shape.bytes(sizeof(T)));
    T* const values = static_cast<T*>(host.data());
    for (Index i = 0; i < n; ++i) values[i] = value;
    return from(shape, std::span<const T>(values, static_cast<std::size_t>(n)));
  }
  /// Copies row-major host values; their number must be the shape's size.
  static Tensor from(const Shape& shape, std::span<const T> values, Where where = Where::current()) {
    require(static_cast<Index>(values.size()) == shape.size(),
            {"tensor: the number of values differs from the shape's size", where}, shape, values.size());
    Tensor out(shape, where);
    B::upload(out.data(), values.data(), values.size_bytes());
    return out;
  }
  static Tensor from(const Shape& shape, std::initializer_list<T> values, Where where = Where::current()) {
    return from(shape, std::span<const T>(values.begin(), values.size()), where);
  }
  static Tensor from(const Shape& shape, const std::vector<T>& values, Where where = Where::current()) {
    return from(shape, std::span<const T>(values), where);
  }

  /// What fill(elements) writes on the host: where work is recorded, what it writes before each run of it.
  template <class F>
  static Tensor following(const Shape& shape, F fill, Where where = Where::current()) {
    Tensor out(shape, where);
    B::follow(out.data(), out.bytes(), [fill = std::move(fill)](void* to) { fill(static_cast<T*>(to)); });
    return out;
  }

  /// An empty tensor that keeps the shape.
  Tensor outline() const {
    Tensor out;
    out.shape_ = shape_;
    return out;
  }

  bool defined() const { return static_cast<bool>(buffer_); }
  const Shape& shape() const { return shape_; }
  Index dim(int axis) const { return shape_[axis]; }
  int rank() const { return shape_.rank(); }
  Index size() const { return defined() ? shape_.size() : 0; }
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * sizeof(T); }
  /// True when no other handle sees the elements, so they may be overwritten.
  bool unique() const { return buffer_.unique(); }
  bool same(const Tensor& other) const { return data() == other.data() && shape_ == other.shape_; }

  /// The elements, to be written to, and to be read. Those that are there rounded alone are widened.
  T* data() {
    if constexpr (rounds) widen();
    return static_cast<T*>(buffer_.writable()) + offset_;
  }
  const T* data() const {
    if constexpr (rounds) widen();
    return static_cast<const T*>(buffer_.data()) + offset_;
  }
  /// Where there are such: the elements rounded, made when they are first asked for and kept until the elements are
  /// written to. A recording makes its own, which nobody else reads: it runs when elements may be others.
  const bf16* rounded() const requires rounds {
    if (!beside() || (!narrow() && buffer_.beside_made_in() != B::recording_number())) {
      make_room();
      to_bf16(B{}, size(), data(), beside());
    }
    return beside();
  }
  /// Whether they are there rounded alone.
  bool narrow() const { return defined() && !buffer_.data(); }
  /// Where a new tensor's elements are put: in T, or null where they are rounded alone; and rounded, or null. The first
  /// is asked for first.
  T* fill_full() { return narrow() ? nullptr : data(); }
  bf16* fill_rounded(Hand hand) {
    if constexpr (rounds)
      if (hand != Hand::in_full) {
        if (!beside()) make_room();
        return beside();
      }
    return nullptr;
  }
  /// When the elements were last asked for to be written to (detail::clock), from the first `keep_time` on; else 0.
  std::uint64_t written() const { return buffer_.written(); }
  void keep_time() const { buffer_.keep_time(); }

  /// The same elements under another shape of equal size; one extent may be -1, and is then found from the others.
  Tensor reshape(std::initializer_list<Index> dims, Where where = Where::current()) const {
    return reshape(fitting(dims, size(), where), where);
  }
  Tensor reshape(const Shape& shape, Where where = Where::current()) const {
    filled("reshape", where);
    require(shape.size() == size(), {"reshape: sizes differ", where}, shape_, shape);
    Tensor out = *this;
    out.shape_ = shape;
    return out;
  }

  /// Rows [begin, end) of the first axis, sharing elements.
  Tensor rows(Index begin, Index end, Where where = Where::current()) const {
    require(rank() > 0 && 0 <= begin && begin <= end && end <= dim(0), {"rows: outside the first axis", where}, shape_,
            begin, end);
    Tensor out = *this;
    out.shape_[0] = end - begin;
    out.offset_ += begin * shape_.inner(0);
    return out;
  }

  Tensor clone(Where where = Where::current()) const {
    filled("clone", where);
    Tensor out(shape_);
    B::copy(out.data(), data(), bytes());
    return out;
  }
  void zero(Where where = Where::current()) {
    filled("zero", where);
    B::zero(data(), bytes());
  }

  /// The same elements on the host: shared where they lie there, else a copy.
  Tensor<T> host(Where where = Where::current()) const {
    filled("host", where);
    if constexpr (B::on_host) return *this;
    else {
      Tensor<T> out(shape_);
      B::download(out.data(), data(), bytes());
      return out;
    }
  }
  /// Overwrites every element: f(span) fills row-major host memory.
  template <class F>
  void fill(const F& f, Where where = Where::current()) {
    filled("fill", where);
    if constexpr (B::on_host) f(std::span<T>(data(), static_cast<std::size_t>(size())));
    else {
      Tensor<T> staged(shape_);
      staged.fill(f);
      B::upload(data(), staged.data(), bytes());
    }
  }

  /// Copies the elements to the host.
  std::vector<T> values(Where where = Where::current()) const {
    filled("values", where);
    std::vector<T> out(static_cast<std::size_t>(size()));
    B::download(out.data(), data(), bytes());
    return out;
  }
  /// The one element of a tensor of size 1.
  T item(Where where = Where::current()) const {
    require(defined() && size() == 1, {"item: not a single element", where}, shape_);
    T out;
    B::download(&out, data(), sizeof(T));
    return out;
  }

 private:
  void filled(const char* op, Where where) const {
    if (!defined()) [[unlikely]]
      detail::refuse_empty(op, where);
  }

  bf16* beside() const {
    return static_cast<bf16*>(
        buffer_.beside(static_cast<std::size_t>(offset_), static_cast<std::size_t>(size()), sizeof(bf16)));
  }
  [[gnu::cold, gnu::noinline]] void make_room() const {
    const auto count = static_cast<std::size_t>(size());
    buffer_.keep_beside(Buffer(B::pool(), count * sizeof(bf16)), static_cast<std::size_t>(offset_), count,
                        B::recording_number());
  }
  void widen() const {
    if (narrow()) [[unlikely]]
      widen_all();
  }
  [[gnu::cold, gnu::noinline]] void widen_all() const {
    const auto count = buffer_.capacity() / sizeof(T);  // of all elements: this may be a handle on some
    buffer_.claim();
    from_bf16(B{}, static_cast<Index>(count), static_cast<const bf16*>(buffer_.beside(0, count, sizeof(bf16))),
              static_cast<T*>(buffer_.data()));
  }

  Buffer buffer_;
  Shape shape_;
  Index offset_ = 0;
};

}  // namespace meft
