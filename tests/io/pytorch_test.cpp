// Owns: the tests of PyTorch checkpoints: files of torch.save (golden/pytorch, made by golden/make_pytorch.py, whose
// opening says what they hold), and hand-built zip files and pickles with every part wrong in turn.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/io/pytorch.hpp>
#include <meft/io/weights.hpp>

#include "folder.hpp"
#include "golden.hpp"
#include "torch_files.hpp"

namespace {

using namespace meft;
using namespace meft::io;
using namespace meft::test;
namespace p = meft::test::pickled;

std::string torch_golden(const std::string& name) { return golden() + "/pytorch/" + name; }

template <class T, class File>
std::vector<T> read_as(const File& file, const std::string& name) {
  const auto& entry = file.find(name);
  std::vector<T> out(entry.bytes.size() / dtype_bytes(entry.dtype));
  copy_to(entry, std::span<T>(out));
  return out;
}

std::string file_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// The message of opening these bytes as a checkpoint.
std::string refusal(const std::string& bytes) {
  const Folder folder;
  const auto path = folder.put("m.bin", bytes);
  return message_of([&] { Pytorch file(path); }, &folder);
}

/// The message of reading a pickle of this body. The bytes lie in memory of their own, to catch a read past their end.
std::string pickle_refusal(const std::string& body, bool framed = true) {
  const std::string all = framed ? p::whole(body) : body;
  const std::unique_ptr<std::byte[]> exact(new std::byte[all.size()]);
  std::memcpy(exact.get(), all.data(), all.size());
  return message_of([&] { Pickle({exact.get(), all.size()}, "m.bin"); });
}

/// Empty when `text` holds every part; otherwise the missing part and the text.
std::string lacks(const std::string& text, std::initializer_list<std::string> parts) {
  for (const auto& part : parts)
    if (!contains(text, part)) return "no <" + part + "> in <" + text + ">";
  return "";
}
#define CHECK_HAS(text, ...) CHECK(lacks(text, {__VA_ARGS__}) == "")

/// Two tensors, `w` [2, 3] and `b` [2], in a small valid checkpoint.
ZipWriter small() {
  const std::vector<float> w = {1, 2, 3, 4, 5, 6}, b = {7, 8};
  return checkpoint(
      p::whole(p::dict({{"w", p::tensor("FloatStorage", "0", {2, 3})}, {"b", p::tensor("FloatStorage", "1", {2})}})),
      {{"0", bytes_of(w)}, {"1", bytes_of(b)}});
}

/// The message of a checkpoint with one tensor `w`, and six floats as storage 0.
std::string tensor_refusal(const std::string& tensor) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  return refusal(checkpoint(p::whole(p::dict({{"w", tensor}})), {{"0", bytes_of(values)}}).bytes());
}

}  // namespace

TEST_SUITE_BEGIN("pytorch");

TEST_CASE("golden: every dtype") {
  const Pytorch file(torch_golden("dtypes.bin"));
  CHECK(file.path() == torch_golden("dtypes.bin"));
  CHECK(file.size() == 13);
  CHECK(file.names() == std::vector<std::string>{"BF16", "BOOL", "F16", "F32", "F64", "I16", "I32", "I64", "I8", "U8",
                                                 "empty", "row", "scalar"});
  const std::vector<double> reals = {-0.75, -0.5, -0.25, 0, 0.25, 0.5};
  const std::vector<std::int64_t> integers = {-3, -2, -1, 0, 1, 2};
  for (const char* dtype : {"F64", "F32", "F16", "BF16"}) {
    CHECK(file.find(dtype).dtype == dtype);
    CHECK(file.find(dtype).shape == std::vector<std::int64_t>{2, 3});
    CHECK(read_as<double>(file, dtype) == reals);
    CHECK(read_as<float>(file, dtype) == std::vector<float>(reals.begin(), reals.end()));
    for (std::size_t i = 0; i < reals.size(); ++i) {
      CHECK(static_cast<double>(read_as<half>(file, dtype)[i]) == reals[i]);
      CHECK(static_cast<double>(read_as<bf16>(file, dtype)[i]) == reals[i]);
    }
    CHECK_HAS(message_of([&] { read_as<std::int64_t>(file, dtype); }), "dtypes.bin", std::string("holds ") + dtype);
  }
  for (const char* dtype : {"I64", "I32", "I16", "I8"}) {
    CHECK(file.find(dtype).dtype == dtype);
    CHECK(read_as<std::int64_t>(file, dtype) == integers);
  }
  CHECK(read_as<std::int64_t>(file, "U8") == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5});
  CHECK(read_as<std::int64_t>(file, "BOOL") == std::vector<std::int64_t>{0, 1, 0, 1, 0, 1});
  CHECK(file.find("scalar").shape.empty());
  CHECK(read_as<float>(file, "scalar") == std::vector<float>{-0.75f});
  CHECK(file.find("empty").shape == std::vector<std::int64_t>{0, 4});
  CHECK(read_as<float>(file, "empty").empty());
  CHECK(read_as<float>(file, "row") == std::vector<float>{0, 0.25f, 0.5f});
  CHECK_FALSE(file.contains("F8"));
  CHECK_HAS(message_of([&] { (void)file.find("F8"); }), "dtypes.bin", "no tensor 'F8' among 13");
  file.verify();
  file.forget();
  CHECK(read_as<double>(file, "F64") == reals);
}

TEST_CASE("golden: modules, parameters, tied and nested tensors, protocol 4, shards") {
  const std::vector<float> a = {-0.75f, -0.5f, -0.25f, 0, 0.25f, 0.5f}, b = {-0.75f, -0.5f}, row = {0, 0.25f, 0.5f};
  {
    const Pytorch file(torch_golden("module.bin"));
    CHECK(file.names() == std::vector<std::string>{"0.bias", "0.weight", "1.bias", "1.weight"});
    CHECK(read_as<float>(file, "0.weight") == a);
    for (const char* name : {"0.bias", "1.bias", "1.weight"}) CHECK(read_as<float>(file, name) == b);
  }
  for (const char* name : {"parameters.bin", "protocol4.bin", "sharded", "sharded/pytorch_model.bin.index.json"}) {
    CAPTURE(name);
    const Pytorch file(torch_golden(name));
    CHECK(file.names() == std::vector<std::string>{"a", "b"});
    CHECK(file.find("a").shape == std::vector<std::int64_t>{2, 3});
    CHECK(read_as<float>(file, "a") == a);
    CHECK(read_as<float>(file, "b") == b);
    file.verify();
  }
  CHECK(Pytorch(torch_golden("sharded")).find("b").file == torch_golden("sharded/pytorch_model-00002-of-00002.bin"));
  {
    const Pytorch file(torch_golden("tied.bin"));
    CHECK(read_as<float>(file, "a") == a);
    CHECK(file.find("a").bytes.data() == file.find("b").bytes.data());
    CHECK(file.find("a").bytes.data() == file.find("d").bytes.data());
    CHECK(read_as<float>(file, "c") == row);
    CHECK(file.find("c").bytes.data() == file.find("a").bytes.data() + 12);
  }
  {
    const Pytorch file(torch_golden("nested.bin"));
    CHECK(file.names() == std::vector<std::string>{"a"});
    CHECK(read_as<float>(file, "a") == a);
  }
}

TEST_CASE("golden: a tensor whose dimensions lie in another order is the same tensor") {
  const Pytorch file(torch_golden("transposed.bin"));
  CHECK(file.find("a").shape == std::vector<std::int64_t>{3, 2});
  CHECK(read_as<float>(file, "a") == std::vector<float>{-0.75f, 0, -0.5f, 0.25f, -0.25f, 0.5f});
}

TEST_CASE("golden: what is refused says why") {
  CHECK_HAS(message_of([] { Pytorch file(torch_golden("whole.bin")); }), "whole.bin", "data.pkl: byte",
            "'torch.nn.modules.container.Sequential'", "refused");
  CHECK_HAS(message_of([] { Pytorch file(torch_golden("unchecked.bin")); }), "unchecked.bin", "CRC-32",
            "without checksums");
}

TEST_CASE("before 1.6: golden, and every form of that time") {
  const std::vector<float> a = {-0.75f, -0.5f, -0.25f, 0, 0.25f, 0.5f};
  {
    const Pytorch file(torch_golden("legacy.bin"));
    CHECK(file.names() == std::vector<std::string>{"a"});
    CHECK(file.find("a").shape == std::vector<std::int64_t>{2, 3});
    CHECK(file.find("a").file == torch_golden("legacy.bin"));
    CHECK(read_as<float>(file, "a") == a);
    file.verify();
    file.forget();
    CHECK(read_as<float>(file, "a") == a);
  }
  const Folder folder;
  const auto open = [&](const std::string& bytes) { return Pytorch(folder.put("m.bin", bytes)); };
  const std::vector<half> f16(a.begin(), a.end());
  const std::vector<bf16> b16(a.begin(), a.end());
  const std::vector<std::int64_t> i64 = {-3, -2, -1, 0, 1, 2};
  // Storages in the order of their keys, not of the dict; two tensors of one; a part of one, as PyTorch 0.3 wrote.
  const auto part = p::tuple({p::text("storage"), p::global("torch", "FloatStorage"), p::text("9"), p::text("cuda:0"),
                              p::integer(6), p::tuple({p::text("7"), p::integer(2), p::integer(3)})}) +
                    "Q";
  const auto none = p::tuple({p::text("storage"), p::global("torch", "FloatStorage"), p::text("9"), p::text("cpu"),
                              p::integer(6), "N"}) +
                    "Q";
  const auto old = [&](const std::string& storage, std::int64_t offset) {
    return p::global("torch._utils", "_rebuild_tensor") +
           p::tuple({storage, p::integer(offset), p::sizes({2}), p::sizes({1})}) + "R";
  };
  const std::string bytes =
      legacy(p::whole(p::dict({{"long", p::tensor("LongStorage", "2", {6})},
                               {"half", p::tensor("HalfStorage", "10", {3, 2})},
                               {"brain", p::tensor("BFloat16Storage", "11", {6})},
                               {"whole", p::tensor(none, 0, {2, 3}, {3, 1})},
                               {"row", p::tensor(none, 3, {3}, {1})},
                               {"part", p::tensor(part, 1, {2}, {1})},
                               {"old", old(part, 0)}})),
             {{"10", 6, bytes_of(f16)}, {"11", 6, bytes_of(b16)}, {"2", 6, bytes_of(i64)}, {"9", 6, bytes_of(a)}});
  const auto file = open(bytes);
  CHECK(file.size() == 7);
  CHECK(read_as<std::int64_t>(file, "long") == i64);
  CHECK(read_as<float>(file, "half") == a);
  CHECK(read_as<float>(file, "brain") == a);
  CHECK(read_as<float>(file, "whole") == a);
  CHECK(read_as<float>(file, "row") == std::vector<float>{0, 0.25f, 0.5f});
  CHECK(read_as<float>(file, "part") == std::vector<float>{0, 0.25f});
  CHECK(read_as<float>(file, "old") == std::vector<float>{-0.25f, 0});
  CHECK(file.find("whole").bytes.data() + 12 == file.find("row").bytes.data());

  // Python 2: texts are bytes, an OrderedDict is made of pairs.
  const auto storage2 = p::tuple({p::text2("storage"), p::global("torch", "FloatStorage"), p::text2("1"),
                                  p::text2("cpu"), p::integer(6), "N"}) +
                        "Q";
  const auto file2 = open(legacy(p::whole(p::ordered_of({"](" + p::text2("x") + p::tensor(storage2, 0, {6}, {1}) + "e",
                                                         p::tuple({p::text2("y"), p::tensor(storage2, 2, {1}, {1})})})),
                                 {{"1", 6, bytes_of(a)}}));
  CHECK(read_as<float>(file2, "x") == a);
  CHECK(read_as<float>(file2, "y") == std::vector<float>{-0.25f});

  // Protocol 4 frames its pickles.
  auto framed = bytes.substr(15);
  framed = std::string("\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 24) + framed;
  CHECK(read_as<float>(open(framed), "whole") == a);
}

TEST_CASE("before 1.6: each part wrong in turn") {
  const std::vector<float> six = {1, 2, 3, 4, 5, 6};
  const auto w = p::tensor("FloatStorage", "0", {2, 3});
  const auto pickle = p::whole(p::dict({{"w", w}}));
  const LegacyStorage good{"0", 6, bytes_of(six)};
  CHECK(refusal(legacy(pickle, {good})) == "no error");
  const auto machine = [&](const std::string& m) { return refusal(legacy(pickle, {good}, p::whole(m))); };
  CHECK_HAS(machine(p::dict({{"little_endian", "\x89"}})), "m.bin: was not written by a little-endian machine");
  CHECK_HAS(machine("}"), "little-endian");
  CHECK_HAS(machine("N"), "little-endian");
  CHECK_HAS(refusal(legacy(pickle, {good}, p::whole("}"), p::whole("M\xea\x03"))), "protocol is the integer 1002");
  CHECK_HAS(refusal(legacy(pickle, {{"1", 6, bytes_of(six)}})), "storage keys: the text '1' is no storage");
  CHECK_HAS(refusal(legacy(pickle, {good, good})), "'0' is there twice");
  CHECK_HAS(refusal(legacy(pickle, {})), "there is no entry for storage '0'");
  CHECK_HAS(refusal(legacy(pickle, {{"0", 5, bytes_of(six)}})), "4 bytes follow the last storage");
  CHECK_HAS(refusal(legacy(pickle, {{"0", 5, bytes_of(std::vector<float>(5))}})), "tensor 'w'", "has 20 bytes");
  CHECK_HAS(refusal(legacy(pickle, {{"0", 7, bytes_of(six)}})), "storage '0' ends too early: 7 elements of F32");
  for (const std::uint64_t count : {std::uint64_t{1} << 62, std::uint64_t{1} << 63, ~std::uint64_t{0}})
    CHECK_HAS(refusal(legacy(pickle, {{"0", count, bytes_of(six)}})), "storage '0' ends too early");
  CHECK_HAS(refusal(legacy(pickle, {good}) + "x"), "1 bytes follow the last storage");
  CHECK_HAS(refusal(legacy(p::whole(p::global("os", "system") + p::tuple({p::text("true")}) + "R"), {})),
            "m.bin: object: byte 2", "'os.system'", "refused");
  CHECK_HAS(refusal(legacy(p::whole("]"), {})), "holds a list of 0, expected a state dict");
  const auto part = [&](const std::string& view) {
    const auto storage = p::tuple({p::text("storage"), p::global("torch", "FloatStorage"), p::text("0"), p::text("cpu"),
                                   p::integer(6), view}) +
                         "Q";
    return refusal(legacy(p::whole(p::dict({{"w", p::tensor(storage, 0, {2}, {1})}})), {good}));
  };
  CHECK(part(p::tuple({p::text("k"), p::integer(4), p::integer(2)})) == "no error");
  CHECK_HAS(part(p::tuple({p::text("k"), p::integer(4), p::integer(3)})), "3 elements from 4 on exceeds its 6");
  CHECK_HAS(part(p::tuple({p::text("k"), p::integer(7), p::integer(0)})), "exceeds its 6");
  CHECK_HAS(part(p::tuple({p::text("k"), p::integer(INT64_MAX), p::integer(INT64_MAX)})), "exceeds its 6");
  CHECK_HAS(part(p::tuple({p::text("k"), p::integer(0), p::integer(1)})), "but the storage has 1");
  for (const auto& view : {p::tuple({p::text("k"), p::integer(-1), p::integer(2)}), p::tuple({p::text("k")}),
                           p::text("k"), p::tuple({"N", p::integer(0), p::integer(2)})})
    CHECK_HAS(part(view), "BINPERSID of a part of a storage");

  // Cut anywhere, and with any byte changed: read or refused.
  for (const auto& bytes : {legacy(pickle, {good}), file_bytes(torch_golden("legacy.bin"))}) {
    for (std::size_t n = 0; n < bytes.size(); ++n)
      if (const auto found = refusal(bytes.substr(0, n)); !contains(found, "m.bin"))
        FAIL_CHECK("cut at ", n, ": ", found);
    for (std::size_t at = 0; at < bytes.size(); ++at)
      for (const int flip : {0x01, 0x10, 0x80, 0xff}) {
        auto changed = bytes;
        changed[at] = static_cast<char>(changed[at] ^ flip);
        (void)refusal(changed);
      }
  }
}

TEST_CASE("a training program's dict, and TorchScript") {
  const auto w = p::tensor("FloatStorage", "0", {6});
  for (const std::string name : {"state_dict", "model_state_dict", "model", "module", "net"}) {
    const Folder folder;
    const auto path =
        folder.put("m.bin", checkpoint(p::whole(p::dict({{"epoch", p::integer(3)}, {name, p::dict({{"a", w}})}})),
                                       {{"0", std::string(24, 'x')}})
                                .bytes());
    CHECK(Pytorch(path).names() == std::vector<std::string>{"a"});
  }
  auto script = small();
  script.add("m/constants.pkl", "x");
  CHECK_HAS(refusal(script.bytes()), "m.bin: is a TorchScript program", "state_dict()");
}

TEST_CASE("what lies in the place of weights is named") {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '0') + "\nsize 440473133\n";
  const std::pair<std::string, std::string> cases[] = {
      {pointer, "is a Git LFS pointer to 440473133 bytes: the file itself was not downloaded"},
      {"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer: the file"},
      {"", "is empty"},
      {"<!DOCTYPE html>\n<html><head>", "is a web page"},
      {"\xef\xbb\xbf \n<html>", "is a web page"},
      {"Repository not found", "is a text that begins with 'Repository not found'"},
      {"{\"error\": \"Access denied\"}", "is a text that begins with"},
      {"\x89HDF\r\n\x1a\n....", "is an HDF5 file"},
      {"GGUF\3\0\0\0....", "is a GGUF file"},
      {"\x1f\x8b\x08.......", "is compressed with gzip"},
      {std::string(257, '\0') + "ustar" + std::string(200, '\0'), "is a tar archive"}};
  for (const auto& one : cases)
    for (const char* name : {"model.safetensors", "pytorch_model.bin", "shard"}) {
      const auto& bytes = one.first;
      const auto& part = one.second;
      CAPTURE(part);
      const Folder folder;
      std::string path = folder.put(std::string(name) == "shard" ? "a.safetensors" : name, bytes);
      if (std::string(name) == "shard")
        path = folder.put("model.safetensors.index.json", R"({"weight_map": {"x": "a.safetensors"}})");
      const auto found = message_of([&] { Weights file(path); });
      CHECK_HAS(found, part, std::string(name) == "shard" ? "a.safetensors" : name);
    }
  const Folder folder;
  CHECK_HAS(message_of([&] { read_json(folder.put("config.json", pointer)); }), "config.json", "Git LFS pointer");
  CHECK_HAS(message_of([&] { Weights file(folder.put("pytorch_model.bin.index.json", pointer)); }), "Git LFS pointer");
  CHECK_HAS(message_of([&] { Weights file(folder.put("x.safetensors", small().bytes())); }), "is a zip file",
            "pytorch_model.bin");
  CHECK_HAS(refusal(p::whole("}")), "is a bare pickle");
  const std::vector<float> one = {1};
  write_safetensors((folder.path / "y.safetensors").string(), {{"a", "F32", {1}, std::as_bytes(std::span(one))}});
  CHECK_HAS(refusal(file_bytes((folder.path / "y.safetensors").string())), "is a safetensors file");
  CHECK_HAS(message_of([&] { Zip zip(MappedFile(folder.put("z.bin", pointer))); }), "Git LFS pointer");
}

TEST_CASE("a folder without weights that can be read says what it has") {
  const auto found = [](const std::vector<std::string>& files) {
    const Folder folder;
    for (const auto& file : files) folder.put(file, "x");
    return message_of([&] { Weights file(folder.text()); });
  };
  CHECK_HAS(found({"config.json", "vocab.txt"}), "expected model.safetensors", "found none of them");
  CHECK_HAS(found({"tf_model.h5"}), "found 'tf_model.h5' (TensorFlow's");
  CHECK_HAS(found({"flax_model.msgpack"}), "'flax_model.msgpack' (Flax's");
  CHECK_HAS(found({"m.Q4_K.gguf"}), "'m.Q4_K.gguf' (llama.cpp's");
  CHECK_HAS(found({"consolidated.00.pth"}), "'consolidated.00.pth' (under a name that is not looked for)");
  CHECK_HAS(found({"model.safetensors.crdownload"}), "(a download that did not end)");
  CHECK_HAS(found({"adapter_model.safetensors"}), "PEFT's adapter alone");
  CHECK_HAS(found({"a.bin", "b.bin", "c.bin", "d.bin", "training_args.bin"}), "'a.bin'", "'c.bin'", "and 1 more");
}

TEST_CASE("pickle: of all 256 opcodes only those of plain state dicts are known") {
  const std::string known = ".(NJKMGXTU]}ttaesuqrhjcQRb)";
  const std::set<int> wide = {0x80, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x8d, 0x93, 0x94, 0x95};
  for (int op = 0; op < 256; ++op) {
    CAPTURE(op);
    const bool expected = op < 128 ? known.find(static_cast<char>(op)) != known.npos : wide.contains(op) && op != 0x80;
    // Enough values and a mark below, enough bytes behind.
    const auto found = pickle_refusal("N(NN" + std::string(1, static_cast<char>(op)) + std::string(300, '\n'));
    CHECK((contains(found, "byte 6: ") && contains(found, ": is no part of a plain state dict: refused")) == !expected);
  }
}

TEST_CASE("reals become any real type, rounded to the nearest") {
  // 1 + 2^-8 and 1 + 3·2^-8 are ties between two bf16; 1e-6 is subnormal in half; 70000 overflows it.
  const std::vector<double> f64 = {0.1, -3, 1.00390625, 1.01171875, 1e-6, 70000, 1e300, -1e-300};
  std::vector<float> f32(f64.begin(), f64.end());
  std::vector<half> f16;
  std::vector<bf16> b16;
  for (const float v : f32) f16.emplace_back(v), b16.emplace_back(v);
  const Folder folder;
  const auto path = folder.put(
      "m.bin", checkpoint(p::whole(p::dict({{"F64", p::tensor("DoubleStorage", "0", {8})},
                                            {"F32", p::tensor("FloatStorage", "1", {8})},
                                            {"F16", p::tensor("HalfStorage", "2", {8})},
                                            {"BF16", p::tensor("BFloat16Storage", "3", {8})}})),
                          {{"0", bytes_of(f64)}, {"1", bytes_of(f32)}, {"2", bytes_of(f16)}, {"3", bytes_of(b16)}})
                   .bytes());
  const Weights file(path);
  const auto check = [&]<class From>(const char* dtype, const std::vector<From>& values) {
    CAPTURE(dtype);
    const auto wide = read_as<double>(file, dtype);
    const auto single = read_as<float>(file, dtype);
    const auto narrow = read_as<half>(file, dtype);
    const auto brain = read_as<bf16>(file, dtype);
    for (std::size_t i = 0; i < values.size(); ++i) {
      CHECK(wide[i] == static_cast<double>(values[i]));
      CHECK(single[i] == static_cast<float>(values[i]));
      CHECK(narrow[i] == half(static_cast<float>(values[i])));
      CHECK(brain[i] == bf16(static_cast<float>(values[i])));
    }
  };
  check("F64", f64);
  check("F32", f32);
  check("F16", f16);
  check("BF16", b16);
  CHECK(read_as<bf16>(file, "F32")[2].bits == 0x3f80);
  CHECK(read_as<bf16>(file, "F64")[3].bits == 0x3f82);
  CHECK(read_as<half>(file, "F64")[4].bits == 17);
  CHECK(std::isinf(static_cast<float>(read_as<half>(file, "F32")[5])));
}

TEST_CASE("a folder's weights: safetensors first, then PyTorch, whole before sharded") {
  const Folder folder;
  CHECK_HAS(message_of([&] { Weights file(folder.text()); }), folder.text(), "model.safetensors,",
            "model.safetensors.index.json", "pytorch_model.bin ", "pytorch_model.bin.index.json");
  CHECK_HAS(message_of([&] { Pytorch file(folder.text()); }), folder.text(), "neither pytorch_model.bin");
  CHECK_HAS(message_of([&] { Weights file(folder.text() + "/no.bin"); }), "no.bin", "No such file");
  const std::vector<float> value = {5};
  const auto one = [&](const std::string& name) {
    return checkpoint(p::whole(p::dict({{name, p::tensor("FloatStorage", "0", {1})}})), {{"0", bytes_of(value)}})
        .bytes();
  };
  const auto found = [&] { return Weights(folder.text()).names().at(0); };
  const auto index = [](const std::string& name, const std::string& file) {
    return R"({"weight_map": {")" + name + R"(": ")" + file + R"("}})";
  };
  folder.put("shard.bin", one("torch shard"));
  folder.put("pytorch_model.bin.index.json", index("torch shard", "shard.bin"));
  CHECK(found() == "torch shard");
  folder.put("pytorch_model.bin", one("torch"));
  CHECK(found() == "torch");
  const auto put_safetensors = [&](const std::string& file, const std::string& name) {
    write_safetensors(folder.text() + "/" + file, {{name, "F32", {1}, std::as_bytes(std::span(value))}});
  };
  put_safetensors("shard.safetensors", "safe shard");
  folder.put("model.safetensors.index.json", index("safe shard", "shard.safetensors"));
  CHECK(found() == "safe shard");
  put_safetensors("model.safetensors", "safe");
  CHECK(found() == "safe");

  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors"}) {
    const Weights file(folder.text() + "/" + name);
    CHECK(file.path() == folder.text() + "/" + name);
    CHECK(file.size() == 1);
    CHECK(file.contains(file.names()[0]));
    CHECK(read_as<float>(file, file.names()[0]) == value);
    file.forget();
    CHECK_HAS(message_of([&] { (void)file.find("x"); }), name, "no tensor 'x' among 1");
  }

  const auto sharded = [&](const std::string& text) {
    folder.put("pytorch_model.bin.index.json", text);
    return message_of([&] { Pytorch file(folder.text() + "/pytorch_model.bin.index.json"); });
  };
  CHECK_HAS(sharded(index("x", "shard.bin")), "index.json", "puts tensor 'x' in", "shard.bin, which lacks it");
  CHECK_HAS(sharded(index("x", "../shard.bin")), "a file name without a folder");
  CHECK_HAS(sharded(index("x", "other.bin")), "other.bin", "No such file");
  CHECK_HAS(sharded(R"({"weight_map": []})"), "object weight_map");
}

TEST_CASE("a BERT from pytorch_model.bin has the bits of the one from model.safetensors") {
  const Safetensors source(golden() + "/bert");
  const Folder folder;
  std::ofstream(folder.path / "config.json") << std::ifstream(golden() + "/bert/config.json").rdbuf();
  const std::map<std::string, std::string> types = {
      {"F64", "DoubleStorage"}, {"F32", "FloatStorage"}, {"I64", "LongStorage"}};
  std::vector<std::pair<std::string, std::string>> items;
  std::map<std::string, std::string> storages;
  for (const auto& name : source.names()) {
    const auto& entry = source.find(name);
    const auto key = std::to_string(storages.size());
    items.emplace_back(name, p::tensor(types.at(entry.dtype), key, entry.shape));
    storages[key] = {reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size()};
  }
  folder.put("pytorch_model.bin", checkpoint(p::whole(p::dict(items)), storages).bytes());

  const auto bits = [](const std::string& from, std::optional<Precision> frozen) {
    checkpoints::LoadReport report;
    auto bert = checkpoints::hf(from, &report, frozen);
    std::string out;
    const auto add = [&](const std::string& name, const auto& parameter) {
      out += name + ":" + bytes_of(parameter.value().values());
    };
    nn::for_each_parameter(bert, add);
    nn::walk(bert, [&](const std::string&, const nn::Linear<float>& layer) {
      if (layer.packed.defined()) out += bytes_of(layer.packed.unpack().values());
    });
    auto head = checkpoints::load_head(from, bert, 2, {}, 0, &report);
    nn::for_each_parameter(head, add);
    for (const auto& name : report.unused) out += "unused " + name;
    for (const auto& name : report.initialised) out += "initialised " + name;
    return out;
  };
  for (const std::optional<Precision> frozen : {std::optional<Precision>(), std::optional(Precision::f32)}) {
    const auto expected = bits(golden() + "/bert", frozen);
    CHECK(expected.size() > 50000);
    CHECK(bits(folder.text(), frozen) == expected);
  }
}

TEST_CASE("crc32 of every length is that of bits one by one") {
  std::string text = "123456789";
  CHECK(io::detail::crc32(std::as_bytes(std::span(text.data(), 9))) == 0xcbf43926u);
  for (int i = 0; i < 40; ++i) text += static_cast<char>(37 * i);
  for (std::size_t n = 0; n <= text.size(); ++n) {
    std::uint32_t c = ~0u;
    for (std::size_t i = 0; i < n; ++i) {
      c ^= static_cast<unsigned char>(text[i]);
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0xedb88320u : 0u);
    }
    CHECK(io::detail::crc32(std::as_bytes(std::span(text.data(), n))) == ~c);
  }
}

TEST_CASE("zip: what is allowed") {
  auto zip = small();
  CHECK(refusal(zip.bytes()) == "no error");
  CHECK(refusal(zip.bytes({}, [](auto& end) { end.wide = true; })) == "no error");
  CHECK(refusal(zip.bytes({}, [](auto& end) {
          end.wide = true;
          end.here = end.total = 0xffff;
          end.size = end.begin = 0xffffffff;
        })) == "no error");
  auto& pickle = zip.part("data.pkl");
  pickle.local.extra = "FB" + little(6, 2) + "ZZZZZZ";  // padding
  CHECK(refusal(zip.bytes()) == "no error");
  pickle.local.flags = pickle.central.flags = 0x0808;
  pickle.descriptor =
      "PK\7\10" + little(pickle.local.crc, 4) + little(pickle.local.size, 4) + little(pickle.local.size, 4);
  CHECK(refusal(zip.bytes()) == "no error");
  pickle.local.crc = pickle.local.size = pickle.local.stored = 0;
  CHECK(refusal(zip.bytes()) == "no error");
  // The order of the directory is free.
  CHECK(refusal(zip.bytes([](auto& parts) { std::swap(parts.front(), parts.back()); })) == "no error");
}

TEST_CASE("zip: sizes beyond 4 GiB") {
  const Folder folder;
  const auto path = folder.put("m.bin", "");
  const std::uint64_t huge = (std::uint64_t{1} << 32) + 40;
  auto zip = checkpoint(p::whole(p::dict({{"big", p::tensor("ByteStorage", "0", {static_cast<std::int64_t>(huge)})},
                                          {"w", p::tensor("FloatStorage", "1", {2})}})),
                        {{"0", ""}, {"1", bytes_of(std::vector<float>{7, 8})}});
  for (auto* header : {&zip.part("data/0").local, &zip.part("data/0").central}) {
    header->size = header->stored = 0xffffffff;
    header->extra = little(1, 2) + little(16, 2) + little(huge, 8) + little(huge, 8);
  }
  // The big storage is a hole in the file.
  std::string before, after, directory;
  for (auto& part : zip.parts) {
    auto& out = after.empty() && part.central.name != "m/data/1" ? before : after;
    const std::uint64_t begin = &out == &before ? out.size() : before.size() + huge + out.size();
    out += ZipWriter::local(part.local) + part.data;
    part.central.begin = begin < 0xffffffff ? static_cast<std::uint32_t>(begin) : 0xffffffff;
    if (begin >= 0xffffffff) part.central.extra += little(1, 2) + little(8, 2) + little(begin, 8);
    directory += ZipWriter::central(part.central);
  }
  const std::uint64_t begin = before.size() + huge + after.size(), count = zip.parts.size();
  ZipWriter::End end;
  end.wide = true;
  end.here = end.total = static_cast<std::uint16_t>(count);
  end.here64 = end.total64 = count;
  end.size64 = end.size = static_cast<std::uint32_t>(directory.size());
  end.begin = 0xffffffff;
  end.begin64 = begin;
  end.record_begin = begin + directory.size();
  std::ofstream(path, std::ios::binary) << before;
  fs::resize_file(path, before.size() + huge);
  std::ofstream(path, std::ios::binary | std::ios::app) << after + directory + ZipWriter::end_of(end);

  const Pytorch file(path);
  CHECK(file.find("big").shape == std::vector<std::int64_t>{static_cast<std::int64_t>(huge)});
  CHECK(file.find("big").bytes.size() == huge);
  CHECK(static_cast<char>(file.find("big").bytes.back()) == 0);
  CHECK(read_as<float>(file, "w") == std::vector<float>{7, 8});
}

TEST_CASE("zip: each part wrong in turn") {
  const auto zip = small();
  using Parts = std::vector<ZipWriter::Part>;
  using Changed = ZipWriter::Part;
  const auto both = [&](const std::string& part, const std::function<void(ZipWriter::Header&)>& change) {
    auto wrong = zip;
    change(wrong.part(part).local);
    change(wrong.part(part).central);
    return refusal(wrong.bytes());
  };
  const auto one = [&](const std::function<void(Changed&)>& change) {
    auto wrong = zip;
    change(wrong.part("data/0"));
    return refusal(wrong.bytes());
  };
  const auto central = [&](const std::function<void(Parts&)>& change) { return refusal(zip.bytes(change)); };
  const auto end = [&](const std::function<void(ZipWriter::End&)>& change) { return refusal(zip.bytes({}, change)); };
  const auto end64 = [&](const std::function<void(ZipWriter::End&)>& change) {
    return end([&](auto& e) {
      e.wide = true;
      change(e);
    });
  };

  SUBCASE("no zip file at all") {
    CHECK_HAS(refusal(""), "m.bin", "is empty");
    CHECK_HAS(refusal("PK\5\6"), "4 bytes are too few");
    CHECK_HAS(refusal(std::string(200, '\1')), "m.bin", "end of central directory", "not a zip file");
    CHECK_HAS(refusal(ZipWriter().bytes()), "m.bin", "no entry NAME/data.pkl");
  }
  SUBCASE("the end of the central directory") {
    CHECK_HAS(refusal(zip.bytes() + "x"), "not in the last 22 bytes");
    CHECK_HAS(end([](auto& e) { e.comment = "hello"; }), "not in the last 22 bytes", "with a comment");
    // A comment that is an end of its own, and an end that announces a comment which is not there.
    CHECK_HAS(end([](auto& e) { e.comment = ZipWriter::end_of({}); }), "expected it to end at");
    std::string lie = zip.bytes();
    lie[lie.size() - 2] = 1;
    CHECK_HAS(refusal(lie), "has a comment, which is not supported");
    CHECK_HAS(end([](auto& e) { e.disk = 1; }), "several disks");
    CHECK_HAS(end([](auto& e) { e.directory_disk = 1; }), "several disks");
    CHECK_HAS(end([](auto& e) { --e.here; }), "several disks");
    CHECK_HAS(end([](auto& e) { e.here = ++e.total; }), "central directory", "ends too early");
    CHECK_HAS(end([](auto& e) { e.here = --e.total; }), "central directory", "bytes follow its last entry");
    CHECK_HAS(end([](auto& e) { e.here = e.total = 0xffff; }), "65535 entries do not fit");
    CHECK_HAS(end([](auto& e) { ++e.begin; }), "expected it to end at");
    CHECK_HAS(end([](auto& e) { --e.size; }), "expected it to end at");
    CHECK_HAS(end([](auto& e) { e.size = 0xfffffff0; }), "expected it to end at");
    CHECK_HAS(end([](auto& e) { e.begin = 0xffffffff; }), "expected it to end at");
  }
  SUBCASE("zip64 ends that lie") {
    CHECK_HAS(end64([](auto& e) { e.disks = 2; }), "zip64", "several disks");
    CHECK_HAS(end64([](auto& e) { ++e.record_begin; }), "zip64", "expected it at byte");
    CHECK_HAS(end64([](auto& e) { e.record_begin = ~0ULL; }), "zip64", "expected it at byte");
    CHECK_HAS(end64([](auto& e) { e.record_size = 45; }), "zip64", "expected a size of 44");
    CHECK_HAS(end64([](auto& e) { --e.here64; }), "zip64", "several disks");
    CHECK_HAS(end64([](auto& e) { ++e.begin64; }), "differs from the zip64 one");
    CHECK_HAS(end64([](auto& e) { e.begin64 = ~0ULL, e.begin = 0xffffffff; }), "expected it to end at");
    CHECK_HAS(end64([](auto& e) { e.size64 = ~0ULL, e.size = 0xffffffff; }), "expected it to end at");
    CHECK_HAS(
        end64([](auto& e) { e.size64 = ~0ULL - 99, e.size = 0xffffffff, e.begin64 += e.size + 100, e.begin = ~0u; }),
        "expected it to end at");
    CHECK_HAS(end64([](auto& e) { e.here64 = e.total64 = ~0ULL, e.here = e.total = 0xffff; }), "do not fit");
    std::string record = zip.bytes({}, [](auto& e) { e.wide = true; });
    record[record.size() - 22 - 20 - 56] = 'Q';
    CHECK_HAS(refusal(record), "not where its locator says");
  }
  SUBCASE("names") {
    for (const std::string name :
         {"/m/x", "../x", "m/../x", "m/..", "m\\x", "m//x", "m/./x", ".", "..", "", "m/x/", "C:x"}) {
      CAPTURE(name);
      CHECK_HAS(both("version", [&](auto& h) { h.name = name; }), "m.bin", "the name is absolute, leaves its folder");
    }
    CHECK_HAS(both("version", [&](auto& h) { h.name = std::string("m/a\0b", 5); }), "the name is absolute");
    CHECK_HAS(both("version", [&](auto& h) { h.name = std::string(5000, 'a'); }), "the name is absolute");
    CHECK_HAS(both("version", [&](auto& h) { h.name = "m/data/0"; }), "entry 'm/data/0'", "given twice");
    CHECK_HAS(both("version", [&](auto& h) { h.name = "n/data.pkl"; }), "two entries are called data.pkl");
    CHECK_HAS(one([](auto& c) { c.local.name = "m/data/9"; }), "'m/data/0'", "name differs");
  }
  SUBCASE("entries") {
    CHECK_HAS(both("data/0", [](auto& h) { h.method = 8; }), "'m/data/0'", "compression method 8", "expected 0");
    CHECK_HAS(both("data/0", [](auto& h) { h.flags = 1; }), "'m/data/0'", "is encrypted");
    CHECK_HAS(both("data/0", [](auto& h) { h.flags = 0x40; }), "'m/data/0'", "is encrypted");
    CHECK_HAS(both("data/0", [](auto& h) { h.flags = 0x10; }), "'m/data/0'", "unknown flags 16");
    CHECK_HAS(both("data/0", [](auto& h) { h.size = 25; }), "'m/data/0'", "stored, but 25 bytes take 24");
    CHECK_HAS(both("data/0", [](auto& h) { h.size = h.stored = 25; }), "'m/data/0'", "overlap");
    CHECK_HAS(both("data/0", [](auto& h) { h.size = h.stored = 0x7fffffff; }), "'m/data/0'", "2147483647 bytes, but");
    CHECK_HAS(both("data/0", [](auto& h) { h.size = h.stored = 0xffffffff; }), "'m/data/0'", "ends too early");
    CHECK_HAS(central([](auto& all) { all[2].central.begin = all[3].central.begin; }), "name differs");
    CHECK_HAS(central([](auto& all) { all[2].central.begin += 1; }), "'m/data/0'", "local header: expected at byte");
    CHECK_HAS(central([](auto& all) { all[2].central.begin = 0x7fffffff; }), "begins at byte 2147483647, after");
    CHECK_HAS(central([](auto& all) { all[2].central.disk = 1; }), "on another disk");
    CHECK_HAS(central([](auto& all) { all[2].central.comment = "x"; }), "'m/data/0'", "has a comment");
    CHECK_HAS(central([](auto& all) { all[2].central.crc ^= 1; }), "'m/data/0'", "CRC-32 differs");
    CHECK_HAS(one([](auto& c) { c.local.size = c.local.stored = 1; }), "'m/data/0'", "size differs");
    CHECK_HAS(one([](auto& c) { c.local.flags = 2; }), "flags differs");
    CHECK_HAS(one([](auto& c) { c.local.method = 8; }), "method differs");
    CHECK_HAS(one([](auto& c) { c.local.flags = c.central.flags = 8; }), "no data descriptor");
    CHECK_HAS(one([](auto& c) {
                c.local.flags = c.central.flags = 8;
                c.descriptor = "PK\7\10" + little(c.local.crc ^ 1, 4) + little(24, 4) + little(24, 4);
              }),
              "CRC-32 of the data descriptor");
    CHECK_HAS(one([](auto& c) {
                c.local.flags = c.central.flags = 8;
                c.descriptor = "PK\7\10" + little(c.local.crc, 4) + little(24, 4) + little(25, 4);
              }),
              "size of the data descriptor");
    // Two entries of the directory, one local header.
    CHECK_HAS(central([](auto& all) { all.push_back(all[2]); }), "given twice");
    auto inside = zip;
    auto& host = inside.part("version");
    ZipWriter::Header guest;
    guest.name = "m/guest";
    host.data = ZipWriter::local(guest);
    host.local.size = host.local.stored = host.central.size = host.central.stored =
        static_cast<std::uint32_t>(host.data.size());
    CHECK_HAS(refusal(inside.bytes([&](auto& all) {
                ZipWriter::Part part{guest, guest, "", ""};
                part.central.begin = all.back().central.begin + 30 + 9;
                all.push_back(part);
              })),
              "'m/version' and 'm/guest' overlap");
  }
  SUBCASE("zip64 fields that lie") {
    const auto extra = [&](const std::string& field, std::uint32_t size) {
      return both("data/0", [&](auto& h) {
        h.extra = field;
        h.size = h.stored = size;
      });
    };
    const auto wide = [](std::uint64_t a, std::uint64_t b) {
      return little(1, 2) + little(16, 2) + little(a, 8) + little(b, 8);
    };
    CHECK(extra(wide(24, 24), 0xffffffff) == "no error");
    CHECK_HAS(extra(wide(24, 24), 24), "'m/data/0'", "16 bytes too many");
    CHECK_HAS(extra(wide(24, 25), 0xffffffff), "stored, but 24 bytes take 25");
    CHECK_HAS(extra(wide(~0ULL, ~0ULL), 0xffffffff), "18446744073709551615 bytes, but");
    CHECK_HAS(extra(wide(~0ULL - 50, ~0ULL - 50), 0xffffffff), "bytes, but only");
    CHECK_HAS(extra(wide(24, 24) + wide(24, 24), 0xffffffff), "two zip64 fields");
    CHECK_HAS(extra(little(1, 2) + little(99, 2), 24), "ends too early");
    CHECK_HAS(extra("abc", 24), "ends too early");
    CHECK_HAS(one([&](auto& c) {
                c.central.extra = wide(24, 24);
                c.local.extra = wide(23, 24);
                c.local.size = c.local.stored = c.central.size = c.central.stored = 0xffffffff;
              }),
              "local header", "size differs");
    CHECK_HAS(central([](auto& all) {
                all[2].central.begin = 0xffffffff;
                all[2].central.extra = little(1, 2) + little(8, 2) + little(~0ULL, 8);
              }),
              "begins at byte 18446744073709551615");
  }
  SUBCASE("checksums") {
    const auto wrong_crc = [&](const std::string& part) { return both(part, [](auto& h) { h.crc ^= 0x100; }); };
    CHECK_HAS(wrong_crc("data.pkl"), "m.bin", "'m/data.pkl'", "CRC-32 is", "damaged");
    CHECK_HAS(wrong_crc("byteorder"), "m.bin", "'m/byteorder'", "CRC-32 is");
    // Those of storages are compared on demand.
    const Folder folder;
    auto bytes = zip.bytes();
    bytes[bytes.find(bytes_of(std::vector<float>{7, 8}))] ^= 1;
    const Pytorch file(folder.put("m.bin", bytes));
    CHECK_HAS(message_of([&] { file.verify(); }), "m.bin", "'m/data/1'", "CRC-32 is");
  }
  SUBCASE("byte order") {
    auto big = checkpoint(p::whole(p::dict({})), {});
    CHECK(refusal(big.bytes()) == "no error");
    big.parts.erase(big.parts.begin() + 1);
    CHECK(refusal(big.bytes()) == "no error");
    big.add("m/byteorder", "big");
    CHECK_HAS(refusal(big.bytes()), "byteorder is 'big', expected 'little'");
  }
}

TEST_CASE("pickle: nothing is called") {
  const auto system = p::global("os", "system");
  CHECK_HAS(pickle_refusal(system + p::tuple({p::text("true")}) + "R"), "m.bin: byte 2: ", "'os.system'", "refused");
  CHECK_HAS(pickle_refusal(p::global("posix", "system") + p::tuple({p::text("true")}) + "R"), "'posix.system'");
  CHECK_HAS(pickle_refusal(p::global("builtins", "eval") + p::tuple({p::text("1")}) + "R"), "'builtins.eval'");
  CHECK_HAS(pickle_refusal(p::global("builtins", "getattr")), "'builtins.getattr'");
  CHECK_HAS(pickle_refusal(p::text("posix") + p::text("system") + "\x93"), "'posix.system'");
  CHECK_HAS(pickle_refusal(p::text("os") + "N\x93"), "STACK_GLOBAL of the text 'os' and None");
  CHECK_HAS(pickle_refusal(p::text("torch") + p::text("_utils._rebuild_tensor_v2") + "\x93"),
            "'torch._utils._rebuild_tensor_v2'", "refused");
  CHECK(pickle_refusal(p::text("torch._utils") + p::text("_rebuild_tensor_v2") + "\x93") == "no error");
  CHECK_HAS(pickle_refusal(p::global("torch._utils", "_rebuild_tensor_v2 ")), "refused");
  CHECK_HAS(pickle_refusal(p::global("torch", "load")), "'torch.load'");
  CHECK_HAS(pickle_refusal(p::global("torch.hub", "load")), "'torch.hub.load'");
  CHECK_HAS(pickle_refusal("(iposix\nsystem\n"), "INST of 'posix.system'", "refused");
  CHECK_HAS(pickle_refusal("(" + p::text("true") + "iposix\nsystem\n"), "INST of 'posix.system'");
  CHECK_HAS(pickle_refusal("(" + p::global("torch", "Size") + "o"), "OBJ of torch.Size");
  CHECK_HAS(pickle_refusal(p::global("collections", "OrderedDict") + ")\x81"), "NEWOBJ of collections.OrderedDict");
  CHECK_HAS(pickle_refusal(p::global("torch", "Size") + ")}\x92"), "NEWOBJ_EX of torch.Size");
  CHECK_HAS(pickle_refusal("\x82\x07"), "EXT1 of code 7");
  CHECK_HAS(pickle_refusal("\x83\x01\x02"), "EXT2 of code 513");
  CHECK_HAS(pickle_refusal(std::string("\x84\1\0\0\0", 5)), "EXT4 of code 1");
  CHECK_HAS(pickle_refusal("o"), "OBJ: is no part");
  CHECK_HAS(pickle_refusal("\x81"), "NEWOBJ: is no part");
  CHECK_HAS(pickle_refusal(p::text("f") + ")R"), "REDUCE calls the text 'f'");
  CHECK_HAS(pickle_refusal(p::global("torch", "FloatStorage") + ")R"), "REDUCE calls torch.FloatStorage");
  CHECK_HAS(pickle_refusal(p::global("torch", "float32") + ")R"), "REDUCE calls torch.float32");
  CHECK_HAS(pickle_refusal(p::ordered() + ")R"), "REDUCE calls a dict of 0");
  CHECK_HAS(pickle_refusal(p::global("torch", "Size") + "]R"), "REDUCE of torch.Size: expected a tuple");
  CHECK_HAS(pickle_refusal(p::ordered() + p::dict({{"__setstate__", p::text("x")}}) + "b"),
            "sets the text '__setstate__'");
  CHECK_HAS(pickle_refusal(p::ordered() + p::dict({{"__class__", p::text("x")}}) + "b"), "'__class__'");
  CHECK_HAS(pickle_refusal(p::ordered() + p::tuple({"N", "N"}) + "b"), "BUILD of an OrderedDict: expected a dict");
  CHECK_HAS(pickle_refusal("}}b"), "BUILD of a dict of 0: refused");
  CHECK_HAS(pickle_refusal(p::global("torch", "FloatStorage") + "}b"), "BUILD of torch.FloatStorage: refused");
  CHECK(pickle_refusal(p::ordered() + p::dict({{"_metadata", p::ordered()}}) + "b") == "no error");
  CHECK_HAS(pickle_refusal(p::ordered_of({p::text("ab")})), "expected a list of pairs");
  CHECK_HAS(pickle_refusal(p::ordered_of({p::tuple({"N", "N"})})), "a key is None");
  CHECK_HAS(pickle_refusal(p::global("collections", "OrderedDict") + p::tuple({p::text("ab")}) + "R"), "no arguments");
  CHECK_HAS(pickle_refusal("Pdata\n"), "PERSID: is no part");
  CHECK_HAS(pickle_refusal("N0N"), "POP: is no part");
  CHECK_HAS(pickle_refusal("B"), "BINBYTES: is no part");
  CHECK_HAS(pickle_refusal("\xff"), "opcode 0xff");
}

TEST_CASE("pickle: what known callables are given") {
  const auto v2 = p::global("torch._utils", "_rebuild_tensor_v2"),
             parameter = p::global("torch._utils", "_rebuild_parameter");
  const auto stored = p::storage("FloatStorage", "0", 6), shape = p::sizes({6}), strides = p::sizes({1});
  const std::vector<std::string> good = {stored, p::integer(0), shape, strides, "\x89", p::ordered()};
  CHECK(pickle_refusal(v2 + p::tuple(good) + "R") == "no error");
  const std::vector<std::string> wrong = {p::text("0"), p::text("0"), p::integer(6), "]", "N", "}"};
  for (std::size_t i = 0; i < good.size(); ++i) {
    auto arguments = good;
    arguments[i] = wrong[i];
    CHECK_HAS(pickle_refusal(v2 + p::tuple(arguments) + "R"),
              "REDUCE of torch._utils._rebuild_tensor_v2: expected storage");
  }
  auto arguments = good;
  arguments.push_back("}");
  CHECK(pickle_refusal(v2 + p::tuple(arguments) + "R") == "no error");
  arguments.back() = "N";
  CHECK(pickle_refusal(v2 + p::tuple(arguments) + "R") == "no error");
  arguments.back() = p::dict({{"neg", "\x88"}});
  CHECK_HAS(pickle_refusal(v2 + p::tuple(arguments) + "R"), "expected no metadata");
  arguments = good;
  arguments[5] = p::ordered() + "(" + p::text("hook") + "Nu";
  CHECK_HAS(pickle_refusal(v2 + p::tuple(arguments) + "R"), "an empty OrderedDict");
  arguments = good;
  arguments[2] = p::sizes(std::vector<std::int64_t>(65, 1));
  CHECK_HAS(pickle_refusal(v2 + p::tuple(arguments) + "R"), "expected storage");
  arguments.pop_back();
  CHECK_HAS(pickle_refusal(v2 + p::tuple(arguments) + "R"), "expected storage");
  CHECK_HAS(pickle_refusal(v2 + ")R"), "expected storage");

  const auto tensor = v2 + p::tuple(good) + "R";
  CHECK(pickle_refusal(parameter + p::tuple({tensor, "\x88", p::ordered()}) + "R") == "no error");
  CHECK_HAS(pickle_refusal(parameter + p::tuple({stored, "\x88", p::ordered()}) + "R"), "expected a tensor");
  CHECK_HAS(pickle_refusal(parameter + p::tuple({tensor, "\x88"}) + "R"), "expected a tensor");
  CHECK_HAS(pickle_refusal(p::global("collections", "OrderedDict") + p::tuple({"}"}) + "R"), "expected no arguments");
  CHECK(pickle_refusal(p::global("torch", "Size") + p::tuple({shape}) + "R") == "no error");
  CHECK_HAS(pickle_refusal(p::global("torch", "Size") + p::tuple({p::tuple({"N"})}) + "R"), "expected one tuple of");

  const auto id = [](const std::string& type, const std::string& key, const std::string& count) {
    return pickle_refusal(p::tuple({p::text("storage"), type, key, p::text("cpu"), count}) + "Q");
  };
  const auto type = p::global("torch", "FloatStorage");
  CHECK(id(type, p::text("0"), p::integer(1)) == "no error");
  CHECK(id(p::global("torch.storage", "UntypedStorage"), p::text("0"), p::integer(1)) == "no error");
  CHECK_HAS(id(type, p::text("0"), p::integer(-1)), "BINPERSID of a tuple of 5");
  CHECK_HAS(id(type, p::integer(0), p::integer(1)), "BINPERSID of");
  CHECK_HAS(id(p::text("FloatStorage"), p::text("0"), p::integer(1)), "BINPERSID of");
  CHECK_HAS(id(p::global("torch", "float32"), p::text("0"), p::integer(1)), "BINPERSID of");
  CHECK_HAS(id(p::global("torch", "ComplexFloatStorage"), p::text("0"), p::integer(1)), "'torch.ComplexFloatStorage'");
  CHECK_HAS(pickle_refusal("NQ"), "BINPERSID of None");
  CHECK_HAS(pickle_refusal(p::tuple({p::text("storage")}) + "Q"), "BINPERSID of a tuple of 1");
  CHECK_HAS(pickle_refusal(p::tuple({p::text("module"), type, p::text("0"), p::text("cpu"), p::integer(1)}) + "Q"),
            "BINPERSID of");
}

TEST_CASE("pickle: form and bounds") {
  CHECK_HAS(pickle_refusal("", false), "ends too early");
  CHECK_HAS(pickle_refusal("N.", false), "does not begin with a protocol");
  CHECK_HAS(pickle_refusal("\x80\x01N.", false), "protocol 1");
  CHECK_HAS(pickle_refusal("\x80\x06N.", false), "protocol 6");
  CHECK_HAS(pickle_refusal("\x80\x02N", false), "ends too early");
  CHECK_HAS(pickle_refusal("\x80\x02.", false), "0 values on the stack");
  CHECK_HAS(pickle_refusal("NN"), "2 values on the stack");
  CHECK_HAS(pickle_refusal("N("), "on the stack");
  CHECK_HAS(pickle_refusal("N.N"), "2 bytes follow its end");
  CHECK_HAS(pickle_refusal("N\x80\x02"), "opcode 0x80");
  const std::vector<std::string> short_of_values = {
      "t", "e", "u",    "N\x85(\x85",          "\x86", "N\x87", "a", "]a", "N(a", "s", "}Ns", "R",
      "b", "Q", "\x93", std::string("q\0", 2), "\x94", "]N(a"};
  for (const auto& body : short_of_values) CHECK_HAS(pickle_refusal(body), "stack");
  CHECK_HAS(pickle_refusal("}(Nu"), "a key without a value");
  CHECK_HAS(pickle_refusal("}NNs"), "a key is None");
  CHECK_HAS(pickle_refusal("})Ns"), "a key is a tuple of 0");
  CHECK_HAS(pickle_refusal("}Na"), "expected a list to add to, found a dict");
  CHECK_HAS(pickle_refusal("]NNs"), "expected a dict to add to, found a list");
  CHECK_HAS(pickle_refusal(p::dict({{"a", "N"}, {"b", "N"}, {"a", "N"}})), "m.bin", "the key 'a' twice");
  CHECK_HAS(pickle_refusal("}K\x07NsK\x07Ns"), "the key 7 twice");
  CHECK_HAS(pickle_refusal("X" + little(0xffffffff, 4) + "a"), "a text of 4294967295 bytes");
  CHECK_HAS(pickle_refusal("X" + little(1 << 20, 4) + "a"), "ends too early");
  CHECK_HAS(pickle_refusal("\x8d" + little(~0ULL, 8) + "a"), "a text of 18446744073709551615 bytes");
  CHECK_HAS(pickle_refusal("\x95" + little(~0ULL, 8) + "N"), "a frame that ends after");
  CHECK_HAS(pickle_refusal("\x8a\x09" + little(0, 8) + "1"), "an integer of 9 bytes");
  CHECK_HAS(pickle_refusal("c" + std::string(5000, 'a')), "no end of line");
  CHECK_HAS(pickle_refusal("ctorch\nSize"), "no end of line");
  CHECK_HAS(pickle_refusal("h\x03"), "memo 3 was never set");
  CHECK_HAS(pickle_refusal(std::string("Nq\1h\0", 5)), "memo 0 was never set");
  CHECK_HAS(pickle_refusal("Nr" + little(0xffffffff, 4)), "memo 4294967295, at most");
  CHECK_HAS(pickle_refusal("j" + little(0xffffffff, 4)), "memo 4294967295 was never set");

  const auto repeat = [](const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  CHECK_HAS(pickle_refusal(repeat("N", 70000)), "more than 65536 values on the stack");
  CHECK_HAS(pickle_refusal(repeat("(", 70000)), "too many marks");
  CHECK_HAS(pickle_refusal("]" + repeat("Na", 1 << 20)), "more than 1048576 values");
  CHECK_HAS(pickle_refusal("N\x94]" + repeat(std::string("h\0a", 3), 1 << 20)), "more than 1048576 values");
  // A short list of pairs of which many dicts are made.
  const std::string pair = p::tuple({p::text("ab"), "N"});
  CHECK_HAS(pickle_refusal(p::global("collections", "OrderedDict") + "\x94" + pair + "\x94]\x94(" +
                           repeat("h\1", 60000) + "e\x85\x94" + "]" + repeat(std::string("h\0h\3Ra", 6), 20)),
            "more than 1048576 values");
  CHECK_HAS(pickle_refusal(")" + repeat("\x85", 65)), "nested deeper than 64 levels");
  CHECK(pickle_refusal(")" + repeat("\x85", 64)) == "no error");
  CHECK_HAS(pickle_refusal(repeat("]", 70) + repeat("a", 69)), "nested deeper than 64 levels");
  CHECK_HAS(pickle_refusal(std::string("]q\0h\0a", 6)), "puts a list of 0 into itself");
  CHECK_HAS(pickle_refusal(std::string("]q\0h\0\x85"
                                       "a",
                                       7)),
            "already inside another value");
  CHECK_HAS(pickle_refusal(std::string("]q\0]h\0ah\0Na", 11)), "already inside another value");

  // Ten times the list before, thirty times over: shared, not copied.
  const auto laughs = [&](int levels) {
    std::string out = "]\x94";
    std::string body = "N" + std::string("a");
    out += body;
    for (int i = 0; i < levels; ++i) {
      out += "]\x94(";
      for (int k = 0; k < 10; ++k) out += "h" + little(static_cast<std::uint64_t>(i), 1);
      out += "e";
    }
    return "(" + out + "t";
  };
  CHECK(pickle_refusal(laughs(30)) == "no error");
  CHECK_HAS(pickle_refusal(laughs(100)), "nested deeper than 64 levels");

  const auto value_of = [](const std::string& body) {
    const std::string all = p::whole(body);
    const Pickle pickle(std::as_bytes(std::span(all.data(), all.size())), "m.bin");
    return std::pair(pickle.root().integer, pickle.root().real);
  };
  CHECK(value_of("J" + little(0xfffffffe, 4)).first == -2);
  CHECK(value_of("K\xff").first == 255);
  CHECK(value_of("M\xff\xff").first == 65535);
  CHECK(value_of(std::string("\x8a\0", 2)).first == 0);
  CHECK(value_of("\x8a\x01\xff").first == -1);
  CHECK(value_of("\x8a\x03\xff\xff\x7f").first == 0x7fffff);
  CHECK(value_of("\x8a\x08" + little(1ULL << 63, 8)).first == INT64_MIN);
  CHECK(value_of(std::string("G\xc0\x04\0\0\0\0\0\0", 9)).second == -2.5);
}

TEST_CASE("tensors whose dimensions lie in another order: tied ones are one, others no more than the storages") {
  const auto six = p::storage("FloatStorage", "0", 6);
  const auto bytes = [&](const std::vector<std::pair<std::string, std::string>>& tensors) {
    return legacy(p::whole(p::dict(tensors)), {{"0", 6, bytes_of(std::vector<float>{1, 2, 3, 4, 5, 6})}});
  };
  const auto turned = p::tensor(six, 0, {3, 2}, {1, 3});
  const Folder folder;
  const Pytorch file(folder.put("m.bin", bytes({{"a", turned}, {"b", turned}, {"c", p::tensor(six, 0, {6}, {1})}})));
  CHECK(read_as<float>(file, "b") == std::vector<float>{1, 4, 2, 5, 3, 6});
  CHECK(file.find("a").bytes.data() == file.find("b").bytes.data());
  const auto more = p::tensor(six, 0, {3, 1, 2}, {1, 1, 3}), part = p::tensor(six, 2, {2, 2}, {1, 2});
  for (const auto& other : {more, part})
    CHECK_HAS(refusal(bytes({{"a", turned}, {"b", other}})), "tensor 'b'",
              "tensors whose dimensions are not in order have more elements than the storages");
  const auto first = p::tensor(six, 0, {2, 2}, {1, 2});
  CHECK_HAS(refusal(bytes({{"a", first}, {"b", part}})), "more elements than the storages");
}

TEST_CASE("tensors: shapes, strides and storages that do not fit") {
  const auto six = p::storage("FloatStorage", "0", 6);
  constexpr auto most = INT64_MAX;
  CHECK(tensor_refusal(p::tensor(six, 0, {2, 3}, {3, 1})) == "no error");
  CHECK(tensor_refusal(p::tensor(six, 2, {2, 2}, {2, 1})) == "no error");
  CHECK(tensor_refusal(p::tensor(six, 6, {0, 5}, {7, 9})) == "no error");
  CHECK(tensor_refusal(p::tensor(six, 5, {1, 1}, {77, 88})) == "no error");
  CHECK(tensor_refusal(p::tensor(six, 5, {}, {})) == "no error");
  const auto refused = [&](std::int64_t offset, const std::vector<std::int64_t>& shape,
                           const std::vector<std::int64_t>& strides, const std::string& part) {
    CHECK_HAS(tensor_refusal(p::tensor(six, offset, shape, strides)), "m.bin: tensor 'w'", part);
  };
  CHECK(tensor_refusal(p::tensor(six, 0, {3, 2}, {1, 3})) == "no error");
  CHECK(tensor_refusal(p::tensor(six, 0, {3, 1, 2}, {1, most, 3})) == "no error");
  refused(0, {2, 3}, {0, 1}, "strides [0, 1] of shape [2, 3]: its elements overlap");
  refused(0, {2, 3}, {1, 1}, "elements overlap");
  refused(0, {2}, {2}, "not next to each other");
  refused(0, {2, 2}, {1, 3}, "not next to each other");
  refused(1, {3, 2}, {1, 3}, "6 elements from 1 on");
  refused(0, {2, 3}, {-3, 1}, "negative stride in [-3, 1]");
  refused(0, {0, 3}, {-3, 1}, "negative stride");
  refused(0, {2, 3}, {1}, "differ in length");
  refused(0, {-2, 3}, {3, 1}, "negative dimension in shape [-2, 3]");
  refused(0, {-2, -3}, {3, 1}, "negative dimension");
  refused(0, {most, 3}, {3, 1}, "too large");
  refused(0, {0, most, most}, {1, 1, 1}, "too large");
  refused(0, {7}, {1}, "7 elements from 0 on, but the storage has 6");
  refused(1, {2, 3}, {3, 1}, "6 elements from 1 on");
  refused(7, {0}, {1}, "0 elements from 7 on");
  refused(-1, {2, 3}, {3, 1}, "6 elements from -1 on");
  refused(most, {2, 3}, {3, 1}, "6 elements from 9223372036854775807 on");
  refused(0, {most / 8}, {1}, "elements from 0 on");
  const auto stored = [&](const std::string& storage) { return tensor_refusal(p::tensor(storage, 0, {1}, {1})); };
  CHECK_HAS(stored(p::storage("FloatStorage", "0", 7)), "tensor 'w'", "storage '0' has 24 bytes, expected 7 elements");
  CHECK_HAS(stored(p::storage("FloatStorage", "0", 5)), "expected 5 elements of F32");
  CHECK_HAS(stored(p::storage("FloatStorage", "0", most)), "expected 9223372036854775807 elements");
  CHECK_HAS(stored(p::storage("FloatStorage", "1", 6)), "no entry for storage '1'");
  CHECK_HAS(stored(p::storage("FloatStorage", "../data/0", 6)), "no entry for storage");
  CHECK_HAS(stored(p::storage("FloatStorage", "", 6)), "no entry for storage");
  CHECK(stored(p::storage("ByteStorage", "0", 24)) == "no error");

  const auto dict = [](const std::vector<std::pair<std::string, std::string>>& items) {
    return refusal(checkpoint(p::whole(p::dict(items)), {{"0", std::string(24, 'x')}}).bytes());
  };
  const auto w = p::tensor("FloatStorage", "0", {6});
  CHECK_HAS(dict({{"a", w}, {"b", p::tensor("IntStorage", "0", {6})}}), "tensor 'b'", "6 of I32 here, 6 of F32 before");
  CHECK_HAS(dict({{"a", w}, {"epoch", p::integer(3)}}), "tensor 'epoch'", "is the integer 3, expected a tensor");
  CHECK_HAS(dict({{"weights", p::dict({{"a", w}})}}), "tensor 'weights'", "a dict of 1",
            "nested dicts are looked into only when called `state_dict`");
  CHECK_HAS(dict({{"state_dict", p::dict({{"a", p::text("x")}})}}), "tensor 'a'", "is the text 'x'");
  CHECK_HAS(dict({{"a", w}, {"a", w}}), "the key 'a' twice");
  CHECK_HAS(dict({{"state_dict", p::dict({{"a", w}, {"a", w}})}}), "the key 'a' twice");
  CHECK(dict({{"state_dict", p::dict({{"a", w}})}, {"epoch", p::integer(3)}}) == "no error");
  CHECK_HAS(refusal(checkpoint(p::whole("}K\x01" + w + "s"), {{"0", std::string(24, 'x')}}).bytes()),
            "the key the integer 1");
  CHECK_HAS(refusal(checkpoint(p::whole("]"), {}).bytes()), "holds a list of 0, expected a state dict");
  CHECK_HAS(refusal(checkpoint(p::whole(w), {{"0", std::string(24, 'x')}}).bytes()), "holds a tensor");
  CHECK_HAS(refusal(checkpoint(p::whole(p::global("os", "system")), {}).bytes()), "m.bin: data.pkl: byte 2",
            "'os.system'");
}

TEST_CASE("what is no regular file is refused, not waited for") {
  const Folder folder;
  const auto file = folder.text() + "/pytorch_model.bin", index = file + ".index.json";
  refuses_odd_files(
      file, [&] { Pytorch{file}; }, false);
  refuses_odd_files(file, [&] { Pytorch{folder.text()}; });
  refuses_odd_files(
      file, [&] { Weights{folder.text()}; }, false);
  refuses_odd_files(
      index, [&] { Weights{folder.text()}; }, false);
  folder.put("pytorch_model.bin.index.json", R"({"weight_map": {"w": "shard.bin"}})");
  refuses_odd_files(folder.text() + "/shard.bin", [&] { Weights{folder.text()}; });
}

TEST_CASE("a file that changes under an open checkpoint is named, not read") {
  const Folder folder;
  const std::string name = "full.bin", path = folder.put(name, file_bytes(torch_golden("dtypes.bin")));
  const Pytorch file(path);
  const std::string tensor = file.names().at(0);
  CHECK(message_of([&] { file.find(tensor); }) == "no error");
  REQUIRE(::truncate(path.c_str(), 100) == 0);  // reading on would end the process: SIGBUS
  CHECK(contains(message_of([&] { file.find(tensor); }), path + ": changed while it was read"));
}

TEST_CASE("every truncation is refused") {
  for (const auto& bytes : {small().bytes(), file_bytes(torch_golden("tied.bin"))})
    for (std::size_t n = 0; n < bytes.size(); ++n) {
      const auto found = refusal(bytes.substr(0, n));
      if (!contains(found, "m.bin")) FAIL_CHECK("cut at ", n, ": ", found);
    }
  const auto pickle = small().parts[0].data;
  for (std::size_t n = 0; n < pickle.size(); ++n)
    if (pickle_refusal(pickle.substr(0, n), false) == "no error") FAIL_CHECK("cut at ", n);
}

TEST_CASE("every change of a byte is refused or read") {
  // Whole pages, so that a read past the end is a fault.
  auto zip = small();
  const std::size_t size = zip.bytes().size() + 2 * std::string("m/padding").size() + 30 + 46;
  zip.add("m/padding", std::string((4096 - size % 4096) % 4096, '\0'));
  const auto bytes = zip.bytes();
  REQUIRE(bytes.size() % 4096 == 0);
  const Folder folder;
  std::uint32_t sum = 0;
  const auto open = [&](const std::string& changed) {
    fs::remove(folder.path / "m.bin");  // some file systems flush to the disk when a file is written again
    const auto path = folder.put("m.bin", changed);
    return message_of([&] {
      const Pytorch file(path);
      for (const auto& name : file.names()) {
        const auto& entry = file.find(name);
        // Opening promises that every byte of an entry is there.
        sum += io::detail::crc32(entry.bytes);
      }
    });
  };
  int changes = 0, read = 0;
  const auto count = [&](const std::string& message) {
    ++changes;
    read += message == "no error";
  };
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    if (bytes[at] == '\0' && at > 2000 && at + 700 < bytes.size() && at % 16 != 0) continue;  // the padding
    for (const int flip : {0x01, 0xff, 0x80}) {
      auto changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      count(open(changed));
    }
  }
  // The same of the pickle, with a checksum that is right.
  const auto pickle = zip.parts[0].data;
  for (std::size_t at = 0; at < pickle.size(); ++at)
    for (const int flip : {0x01, 0x04, 0x20, 0x80, 0xff}) {
      auto changed = pickle;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      auto whole = small();
      whole.parts.erase(whole.parts.begin());
      whole.add("m/data.pkl", changed);
      count(open(whole.bytes()));
    }
  // Every byte of a pickle of protocol 4 and of a module's state dict, every value.
  for (const char* name : {"protocol4.bin", "module.bin"}) {
    const Zip golden_zip(MappedFile(torch_golden(name)));
    const auto data = golden_zip.find(std::string(name).substr(0, std::string(name).find('.')) + "/data.pkl")->bytes;
    const std::string text(reinterpret_cast<const char*>(data.data()), data.size());
    REQUIRE(pickle_refusal(text, false) == "no error");
    for (std::size_t at = 0; at < text.size(); ++at)
      for (int value = 0; value < 256; ++value) {
        auto changed = text;
        changed[at] = static_cast<char>(value);
        count(pickle_refusal(changed, false));
      }
  }
  MESSAGE(changes, " changes, ", read, " of them readable, sum ", sum);
  CHECK(changes > 5000);
}

TEST_SUITE_END();
