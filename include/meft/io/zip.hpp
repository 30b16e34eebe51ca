// Owns: reading a zip file by mapping it. Only stored entries, one disk, no encryption, no comments; zip64 where
// needed. https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT. Must not know: what the entries mean. Every
// record is checked, and local headers against the central directory, before the constructor returns.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/io/file.hpp>

namespace meft::io {

/// An entry of an open Zip, which owns the bytes.
struct ZipEntry {
  std::span<const std::byte> bytes;
  std::uint32_t crc = 0;
};

namespace detail {

inline constexpr std::size_t max_zip_entries = 100'000, max_zip_name = 4096;
inline constexpr std::uint64_t saturated16 = 0xffff, saturated32 = 0xffffffff;

/// Table k takes a byte that is followed by k zero bytes.
inline constexpr auto crc_tables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> out{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0xedb88320u : 0u);
    out[0][i] = c;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::size_t i = 0; i < 256; ++i) out[k][i] = (out[k - 1][i] >> 8) ^ out[0][out[k - 1][i] & 255];
  return out;
}();

/// The CRC-32 of zip (and of Ethernet).
inline std::uint32_t crc32(std::span<const std::byte> bytes) {
  const auto& t = crc_tables;
  std::uint32_t c = 0xffffffffu;
  while (bytes.size() >= 8) {
    std::uint32_t low, high;
    std::memcpy(&low, bytes.data(), 4);
    std::memcpy(&high, bytes.data() + 4, 4);
    low ^= c;
    c = t[7][low & 255] ^ t[6][(low >> 8) & 255] ^ t[5][(low >> 16) & 255] ^ t[4][low >> 24] ^ t[3][high & 255] ^
        t[2][(high >> 8) & 255] ^ t[1][(high >> 16) & 255] ^ t[0][high >> 24];
    bytes = bytes.subspan(8);
  }
  for (const std::byte b : bytes) c = (c >> 8) ^ t[0][(c ^ static_cast<std::uint32_t>(b)) & 255];
  return ~c;
}

/// Bytes that are read from the front. Throws `what: ends within …` rather than reading past the end.
class Bytes {
 public:
  Bytes(std::span<const std::byte> left, const std::string& what, Where where)
      : left_(left), what_(&what), where_(where) {}

  std::size_t size() const { return left_.size(); }
  std::span<const std::byte> take(std::size_t count) {
    require(count <= left_.size(), {*what_ + ": ends too early: " + std::to_string(count) + " bytes expected, " +
                                        std::to_string(left_.size()) + " left",
                                    where_});
    const auto out = left_.first(count);
    left_ = left_.subspan(count);
    return out;
  }
  /// A little-endian number.
  template <std::unsigned_integral T>
  T number() {
    T out;
    std::memcpy(&out, take(sizeof out).data(), sizeof out);
    return out;
  }
  std::string_view text(std::size_t count) {
    const auto bytes = take(count);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> left_;
  const std::string* what_;
  Where where_;
};

}  // namespace detail

/// The entries of a zip file. Throws Error naming the file, and the entry where there is one. CRCs are not compared
/// when opening, which would read the whole file: see check().
class Zip {
 public:
  explicit Zip(MappedFile file, Where where = Where::current()) : file_(std::move(file)) {
    const Directory directory = find_directory(where);
    std::vector<Extent> extents;
    const std::string what = "zip: " + path() + ": central directory";
    detail::Bytes left(file_.bytes().subspan(directory.begin, directory.size), what, where);
    for (std::uint64_t i = 0; i < directory.entries; ++i) extents.push_back(read_entry(left, directory.begin, where));
    require(left.size() == 0, {what + ": " + std::to_string(left.size()) + " bytes follow its last entry", where});
    std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < extents.size(); ++i)
      if (extents[i].begin < extents[i - 1].end)
        fail({"zip: " + path() + ": entries " + show_name(extents[i - 1].name) + " and " + show_name(extents[i].name) +
                  " overlap",
              where});
  }

  const MappedFile& file() const { return file_; }
  const std::string& path() const { return file_.path(); }
  const std::map<std::string, ZipEntry, std::less<>>& entries() const { return entries_; }

  /// Null when there is no such entry.
  const ZipEntry* find(std::string_view name) const {
    const auto at = entries_.find(name);
    return at == entries_.end() ? nullptr : &at->second;
  }

  /// Reads the entry and throws Error when its CRC-32 is not the one in the file, or there is no such entry.
  void check(std::string_view name, Where where = Where::current()) const {
    const auto* entry = find(name);
    require(entry, {"zip: " + path() + ": no entry " + show_name(name), where});
    const std::uint32_t found = detail::crc32(entry->bytes);
    require(found == entry->crc,
            {"zip: " + path() + ": entry " + show_name(name) + ": CRC-32 is " + std::to_string(found) + ", expected " +
                 std::to_string(entry->crc) + ": the file is damaged, or was written without checksums",
             where});
  }

 private:
  struct Directory {
    std::uint64_t begin = 0, size = 0, entries = 0;
  };
  /// From the local header to the end of the data descriptor.
  struct Extent {
    std::uint64_t begin = 0, end = 0;
    std::string_view name;
  };
  /// What the central directory says of an entry.
  struct Header {
    std::uint16_t flags = 0;
    std::uint32_t crc = 0, stored32 = 0, size32 = 0;
    std::uint64_t size = 0;
    std::string_view name;
  };
  static constexpr std::size_t end_bytes = 22, locator_bytes = 20, end64_bytes = 56, central_bytes = 46;
  static constexpr std::uint16_t has_descriptor = 1u << 3;

  Directory find_directory(Where where) const {
    const auto bytes = file_.bytes();
    const std::string what = "zip: " + path() + ": end of central directory";
    require(bytes.size() >= end_bytes,
            {"zip: " + path() + ": " + std::to_string(bytes.size()) + " bytes are too few for a zip file", where});
    std::uint64_t end = bytes.size() - end_bytes;
    detail::Bytes record(bytes.subspan(end), what, where);
    require(record.text(4) == "PK\5\6",
            {what + ": is not in the last 22 bytes: truncated, with a comment, or not a zip file", where});
    const auto disk = record.number<std::uint16_t>(), directory_disk = record.number<std::uint16_t>();
    const auto here = record.number<std::uint16_t>(), total = record.number<std::uint16_t>();
    const auto size = record.number<std::uint32_t>(), begin = record.number<std::uint32_t>();
    require(record.number<std::uint16_t>() == 0, {what + ": has a comment, which is not supported", where});
    require(disk == 0 && directory_disk == 0 && here == total, {what + ": spans several disks", where});
    Directory out{begin, size, total};
    if (end >= locator_bytes && std::memcmp(bytes.data() + end - locator_bytes, "PK\6\7", 4) == 0) {
      end -= locator_bytes;
      const Directory wide = read_end64(end, end, where);
      const auto agrees = [](std::uint64_t narrow, std::uint64_t value, std::uint64_t saturated) {
        return narrow == value || narrow == saturated;
      };
      require(agrees(begin, wide.begin, detail::saturated32) && agrees(size, wide.size, detail::saturated32) &&
                  agrees(total, wide.entries, detail::saturated16),
              {what + ": differs from the zip64 one", where});
      out = wide;
    }
    // What a directory of such a size cannot hold need not be looked for.
    require(out.entries <= detail::max_zip_entries && out.entries <= out.size / central_bytes,
            {what + ": " + std::to_string(out.entries) + " entries do not fit a directory of " +
                 std::to_string(out.size) + " bytes, or exceed the limit of " + std::to_string(detail::max_zip_entries),
             where});
    require(out.size <= end && out.begin == end - out.size,
            {what + ": puts the directory at bytes [" + std::to_string(out.begin) + ", +" + std::to_string(out.size) +
                 "), expected it to end at " + std::to_string(end),
             where});
    return out;
  }

  /// The zip64 record that the locator at `locator` points to; moves `end` to its begin.
  Directory read_end64(std::uint64_t locator, std::uint64_t& end, Where where) const {
    const std::string what = "zip: " + path() + ": zip64 end of central directory";
    detail::Bytes at(file_.bytes().subspan(locator + 4, locator_bytes - 4), what, where);
    const auto disk = at.number<std::uint32_t>();
    const auto begin = at.number<std::uint64_t>();
    require(disk == 0 && at.number<std::uint32_t>() == 1, {what + ": spans several disks", where});
    require(locator >= end64_bytes && begin == locator - end64_bytes,
            {what + ": expected it at byte " +
                 (locator >= end64_bytes ? std::to_string(locator - end64_bytes) : std::string("0 or later")) +
                 ", found " + std::to_string(begin),
             where});
    detail::Bytes record(file_.bytes().subspan(begin, end64_bytes), what, where);
    require(record.text(4) == "PK\6\6", {what + ": is not where its locator says", where});
    require(record.number<std::uint64_t>() == end64_bytes - 12, {what + ": expected a size of 44", where});
    record.take(4);  // the versions that made it and are needed
    const auto own_disk = record.number<std::uint32_t>(), directory_disk = record.number<std::uint32_t>();
    const auto here = record.number<std::uint64_t>(), total = record.number<std::uint64_t>();
    require(own_disk == 0 && directory_disk == 0 && here == total, {what + ": spans several disks", where});
    end = begin;
    const auto size = record.number<std::uint64_t>();
    return {record.number<std::uint64_t>(), size, total};
  }

  /// The zip64 field among the extra fields; nothing when it is absent.
  static std::optional<std::span<const std::byte>> find_wide(std::span<const std::byte> extra, const std::string& what,
                                                             Where where) {
    std::optional<std::span<const std::byte>> out;
    for (detail::Bytes left(extra, what, where); left.size() > 0;) {
      const auto id = left.number<std::uint16_t>();
      const auto field = left.take(left.number<std::uint16_t>());
      if (id != 1) continue;
      require(!out, {what + ": two zip64 fields", where});
      out = field;
    }
    return out;
  }

  /// A name that stays below its folder, whoever unpacks it.
  static void check_name(std::string_view name, const std::string& what, Where where) {
    bool good = !name.empty() && name.size() <= detail::max_zip_name;
    for (const char c : name) good &= static_cast<unsigned char>(c) >= 0x20 && c != '\\' && c != 0x7f && c != ':';
    for (std::size_t at = 0; good;) {
      const auto slash = name.find('/', at);
      const auto part = name.substr(at, slash == name.npos ? name.npos : slash - at);
      good = !part.empty() && part != "." && part != "..";
      if (slash == name.npos) break;
      at = slash + 1;
    }
    require(good, {what + ": the name is absolute, leaves its folder, is a folder, or has odd characters", where});
  }

  Extent read_entry(detail::Bytes& left, std::uint64_t data_end, Where where) {
    const std::string outer = "zip: " + path() + ": central directory";
    require(left.text(4) == "PK\1\2", {outer + ": expected the header of an entry", where});
    left.take(4);  // versions
    Header header;
    header.flags = left.number<std::uint16_t>();
    const auto method = left.number<std::uint16_t>();
    left.take(4);  // time
    header.crc = left.number<std::uint32_t>();
    header.stored32 = left.number<std::uint32_t>();
    header.size32 = left.number<std::uint32_t>();
    const auto name_bytes = left.number<std::uint16_t>(), extra_bytes = left.number<std::uint16_t>(),
               comment_bytes = left.number<std::uint16_t>(), disk = left.number<std::uint16_t>();
    left.take(6);  // attributes
    const auto begin32 = left.number<std::uint32_t>();
    header.name = left.text(name_bytes);
    const std::string what = "zip: " + path() + ": entry " + show_name(header.name);
    check_name(header.name, what, where);
    const auto wide_field = find_wide(left.take(extra_bytes), what, where);
    require((header.flags & 0x2041u) == 0, {what + ": is encrypted", where});
    // Bits 1 and 2 are options of compression, 3 a data descriptor, 11 UTF-8 names.
    require((header.flags & ~0x080eu) == 0, {what + ": unknown flags " + std::to_string(header.flags), where});
    require(method == 0, {what + ": compression method " + std::to_string(method) + ", expected 0 (stored)", where});
    require(comment_bytes == 0, {what + ": has a comment, which is not supported", where});
    require(disk == 0, {what + ": is on another disk", where});

    // The zip64 field holds those of size, stored size and begin that do not fit 32 bits, in this order.
    detail::Bytes wide(wide_field.value_or(std::span<const std::byte>()), what, where);
    const auto widened = [&](std::uint32_t narrow) {
      return narrow == detail::saturated32 ? wide.number<std::uint64_t>() : narrow;
    };
    header.size = widened(header.size32);
    const std::uint64_t stored = widened(header.stored32), begin = widened(begin32);
    require(wide.size() == 0,
            {what + ": the zip64 field has " + std::to_string(wide.size()) + " bytes too many", where});
    require(header.size == stored,
            {what + ": stored, but " + std::to_string(header.size) + " bytes take " + std::to_string(stored), where});
    require(begin <= data_end, {what + ": begins at byte " + std::to_string(begin) + ", after the entries' end at " +
                                    std::to_string(data_end),
                                where});
    return read_local(header, begin, data_end, what, where);
  }

  Extent read_local(const Header& header, std::uint64_t begin, std::uint64_t data_end, const std::string& what,
                    Where where) {
    const std::string local = what + ": local header";
    detail::Bytes left(file_.bytes().subspan(begin, data_end - begin), local, where);
    require(left.text(4) == "PK\3\4", {local + ": expected at byte " + std::to_string(begin), where});
    const auto agree = [&](bool same, const char* field) {
      require(same, {local + ": " + field + " differs from the central directory", where});
    };
    left.take(2);  // version
    agree(left.number<std::uint16_t>() == header.flags, "flags");
    agree(left.number<std::uint16_t>() == 0, "method");
    left.take(4);  // time
    const auto crc = left.number<std::uint32_t>(), stored32 = left.number<std::uint32_t>(),
               size32 = left.number<std::uint32_t>();
    const auto name_bytes = left.number<std::uint16_t>(), extra_bytes = left.number<std::uint16_t>();
    agree(left.text(name_bytes) == header.name, "name");
    const auto wide_field = find_wide(left.take(extra_bytes), local, where);
    // What a data descriptor tells is zero here.
    const bool later = (header.flags & has_descriptor) != 0;
    if (!(later && crc == 0 && stored32 == 0 && size32 == 0)) {
      agree(crc == header.crc, "CRC-32");
      agree(stored32 == header.stored32 && size32 == header.size32, "size");
      if (size32 == detail::saturated32 || stored32 == detail::saturated32) {
        detail::Bytes wide(wide_field.value_or(std::span<const std::byte>()), local, where);
        for (const auto narrow : {size32, stored32})
          if (narrow == detail::saturated32) agree(wide.number<std::uint64_t>() == header.size, "size");
      }
    }
    require(header.size <= left.size(), {what + ": " + std::to_string(header.size) + " bytes, but only " +
                                             std::to_string(left.size()) + " before the central directory",
                                         where});
    const auto bytes = left.take(static_cast<std::size_t>(header.size));
    if (later) {
      require(left.text(4) == "PK\7\10", {what + ": no data descriptor after its bytes", where});
      agree(left.number<std::uint32_t>() == header.crc, "CRC-32 of the data descriptor");
      for (int i = 0; i < 2; ++i)
        agree((wide_field ? left.number<std::uint64_t>() : left.number<std::uint32_t>()) == header.size,
              "size of the data descriptor");
    }
    const auto [at, fresh] = entries_.emplace(std::string(header.name), ZipEntry{bytes, header.crc});
    require(fresh, {what + ": the name is given twice", where});
    return {begin, data_end - left.size(), at->first};
  }

  MappedFile file_;
  std::map<std::string, ZipEntry, std::less<>> entries_;
};

}  // namespace meft::io
