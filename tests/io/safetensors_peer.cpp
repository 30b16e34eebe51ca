// Owns: the program that safetensors_peer.py drives: it rewrites a safetensors file, or prints what it makes of one.
#include <cstdio>
#include <exception>
#include <meft/io/safetensors.hpp>
#include <string>
#include <vector>

using namespace meft;

namespace {

/// IN to OUT, tensors and metadata unchanged.
void copy(const io::Safetensors& in, const std::string& out) {
  std::vector<io::NamedTensor> tensors;
  for (const auto& name : in.names()) {
    const auto& entry = in.find(name);
    tensors.push_back({entry.name, entry.dtype, entry.shape, entry.bytes});
  }
  io::write_safetensors(out, tensors, in.metadata());
}

/// IN to OUT, every tensor converted to T.
template <Scalar T>
void convert(const io::Safetensors& in, const std::string& out) {
  std::vector<std::vector<T>> values;
  std::vector<io::NamedTensor> tensors;
  for (const auto& name : in.names()) {
    const auto& entry = in.find(name);
    auto& value = values.emplace_back(entry.bytes.size() / io::dtype_bytes(entry.dtype));
    io::copy_to(entry, std::span<T>(value));
    tensors.push_back({entry.name, dtype_name<T>(), entry.shape, std::as_bytes(std::span(value))});
  }
  io::write_safetensors(out, tensors);
}

void run(const std::string& task, const std::string& in, const std::string& out) {
  const io::Safetensors file(in);
  if (task == "copy") copy(file, out);
  else if (task == "F32") convert<float>(file, out);
  else if (task == "F64") convert<double>(file, out);
  else if (task == "BF16") convert<bf16>(file, out);
  else if (task == "F16") convert<half>(file, out);
  else if (task == "I64") convert<std::int64_t>(file, out);
  else fail("unknown task", task);
}

}  // namespace

/// safetensors_peer copy|F32|F64|BF16|F16|I64 IN OUT
int main(int argc, char** argv) {
  if (argc != 4) return std::fputs("usage: safetensors_peer copy|F32|F64|BF16|F16|I64 IN OUT\n", stderr), 2;
  try {
    run(argv[1], argv[2], argv[3]);
    return 0;
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "safetensors_peer: %s\n", error.what()), 1;
  }
}
