// Owns: zip files and pickles as torch.save writes them, built by hand, so that a test can make any part of them wrong.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/io/zip.hpp>

namespace meft::test {

/// The lowest `bytes` bytes of a number, the lowest first.
inline std::string little(std::uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

/// A zip file; every field is right until a test changes it.
struct ZipWriter {
  struct Header {
    std::string name;
    std::uint16_t flags = 0, method = 0, disk = 0;
    std::uint32_t crc = 0, stored = 0, size = 0, begin = 0;
    std::string extra, comment;
  };
  struct Part {
    Header local, central;
    std::string data, descriptor;
  };
  struct End {
    std::uint16_t disk = 0, directory_disk = 0, here = 0, total = 0;
    std::uint32_t size = 0, begin = 0;
    std::string comment;
    bool wide = false;  // with the zip64 record and its locator
    std::uint64_t record_size = 44, here64 = 0, total64 = 0, size64 = 0, begin64 = 0, record_begin = 0;
    std::uint32_t disks = 1;
  };

  std::vector<Part> parts;

  Part& add(const std::string& name, const std::string& data) {
    Header header;
    header.name = name;
    header.crc = io::detail::crc32(std::as_bytes(std::span(data.data(), data.size())));
    header.stored = header.size = static_cast<std::uint32_t>(data.size());
    return parts.emplace_back(Part{header, header, data, ""});
  }
  Part& part(const std::string& name) {
    for (auto& p : parts)
      if (p.central.name.ends_with(name)) return p;
    fail({"no part " + name});
  }

  static std::string local(const Header& h) {
    return "PK\3\4" + little(0, 2) + little(h.flags, 2) + little(h.method, 2) + little(0, 4) + little(h.crc, 4) +
           little(h.stored, 4) + little(h.size, 4) + little(h.name.size(), 2) + little(h.extra.size(), 2) + h.name +
           h.extra;
  }
  static std::string central(const Header& h) {
    return "PK\1\2" + little(0, 4) + little(h.flags, 2) + little(h.method, 2) + little(0, 4) + little(h.crc, 4) +
           little(h.stored, 4) + little(h.size, 4) + little(h.name.size(), 2) + little(h.extra.size(), 2) +
           little(h.comment.size(), 2) + little(h.disk, 2) + little(0, 6) + little(h.begin, 4) + h.name + h.extra +
           h.comment;
  }
  static std::string end_of(const End& e) {
    std::string out;
    if (e.wide)
      out = "PK\6\6" + little(e.record_size, 8) + little(0, 4) + little(0, 8) + little(e.here64, 8) +
            little(e.total64, 8) + little(e.size64, 8) + little(e.begin64, 8) + "PK\6\7" + little(0, 4) +
            little(e.record_begin, 8) + little(e.disks, 4);
    return out + "PK\5\6" + little(e.disk, 2) + little(e.directory_disk, 2) + little(e.here, 2) + little(e.total, 2) +
           little(e.size, 4) + little(e.begin, 4) + little(e.comment.size(), 2) + e.comment;
  }

  /// `change` may alter what the central directory says, `change_end` the records after it.
  std::string bytes(const std::function<void(std::vector<Part>&)>& change = {},
                    const std::function<void(End&)>& change_end = {}) const {
    std::string out, directory;
    auto all = parts;
    for (auto& p : all) {
      p.central.begin = static_cast<std::uint32_t>(out.size());
      out += local(p.local) + p.data + p.descriptor;
    }
    if (change) change(all);
    for (const auto& p : all) directory += central(p.central);
    End end;
    end.here64 = end.total64 = end.here = end.total = static_cast<std::uint16_t>(all.size());
    end.size64 = end.size = static_cast<std::uint32_t>(directory.size());
    end.begin64 = end.begin = static_cast<std::uint32_t>(out.size());
    end.record_begin = out.size() + directory.size();
    if (change_end) change_end(end);
    return out + directory + end_of(end);
  }
};

/// Pieces of a pickle.
namespace pickled {

inline std::string text(const std::string& s) { return "X" + little(s.size(), 4) + s; }
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string integer(std::int64_t value) { return "\x8a\x08" + little(static_cast<std::uint64_t>(value), 8); }
inline std::string tuple(const std::vector<std::string>& items) {
  std::string out = "(";
  for (const auto& item : items) out += item;
  return out + "t";
}
inline std::string sizes(const std::vector<std::int64_t>& values) {
  std::vector<std::string> items;
  for (const auto v : values) items.push_back(integer(v));
  return tuple(items);
}
inline std::string ordered() { return global("collections", "OrderedDict") + ")R"; }
/// Python 2's OrderedDict, made of a list of pairs.
inline std::string ordered_of(const std::vector<std::string>& pairs) {
  std::string out = global("collections", "OrderedDict") + "(](";
  for (const auto& pair : pairs) out += pair;
  return out + "etR";
}
/// Python 2's text.
inline std::string text2(const std::string& s) { return "U" + little(s.size(), 1) + s; }
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string out = "}(";
  for (const auto& [key, value] : items) out += text(key) + value;
  return out + "u";
}
inline std::string storage(const std::string& type, const std::string& key, std::int64_t count) {
  return tuple({text("storage"), global("torch", type), text(key), text("cpu"), integer(count)}) + "Q";
}
inline std::string tensor(const std::string& storage, std::int64_t offset, const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple({storage, integer(offset), sizes(shape), sizes(strides), "\x89", ordered()}) + "R";
}
/// Row-major, from the storage's begin.
inline std::string tensor(const std::string& type, const std::string& key, const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size(), 1);
  std::int64_t count = 1;
  for (std::size_t i = shape.size(); i-- > 0; count *= shape[i]) strides[i] = count;
  return tensor(storage(type, key, count), 0, shape, strides);
}
inline std::string whole(const std::string& body) { return "\x80\x02" + body + "."; }

}  // namespace pickled

/// A file in the format before PyTorch 1.6; `storages` are key, number of elements, bytes in the order of the file.
struct LegacyStorage {
  std::string key;
  std::uint64_t count;
  std::string bytes;
};
inline std::string legacy(const std::string& pickle, const std::vector<LegacyStorage>& storages,
                          const std::string& machine = pickled::whole(pickled::dict({{"little_endian", "\x88"}})),
                          const std::string& protocol = pickled::whole("M\xe9\x03")) {
  std::string keys = "](", data;
  for (const auto& s : storages) {
    keys += pickled::text(s.key);
    data += little(s.count, 8) + s.bytes;
  }
  return "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + protocol + machine + pickle +
         pickled::whole(keys + "e") + data;
}

/// A checkpoint of a pickle and the bytes of its storages.
inline ZipWriter checkpoint(const std::string& pickle, const std::map<std::string, std::string>& storages) {
  ZipWriter out;
  out.add("m/data.pkl", pickle);
  out.add("m/byteorder", "little");
  for (const auto& [key, bytes] : storages) out.add("m/data/" + key, bytes);
  out.add("m/version", "3\n");
  return out;
}

}  // namespace meft::test
