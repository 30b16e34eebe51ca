// Owns: the program that dinov2_peer.py drives: the hidden states behind the last norm of a ViT, of given pixels.
#include <cstdio>
#include <exception>
#include <span>
#include <string>

#include <meft/checkpoints/hf.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/method/registry.hpp>

using namespace meft;

namespace {

/// IN holds `pixels` [images, channels, height, width]; OUT gets `features` [images · tokens, width].
void run(const std::string& folder, const std::string& in, const std::string& out) {
  auto vit = checkpoints::hf(folder);
  const io::Safetensors file(in);
  const auto& entry = file.find("pixels");
  nn::Batch<> batch;
  batch.pixels = Tensor<float>(checkpoints::detail::shape_of(entry));
  batch.pixels.fill([&](auto to) { io::copy_to(entry, to); });
  const auto body = adapt(vit, HeadOnly{});
  const auto features = vit.run(batch, body).value.value();
  const auto values = features.values();
  io::write_safetensors(out,
                        {{"features", "F32", {features.dim(0), features.dim(1)}, std::as_bytes(std::span(values))}});
}

}  // namespace

/// dinov2_peer FOLDER IN OUT
int main(int argc, char** argv) {
  if (argc != 4) return std::fputs("usage: dinov2_peer FOLDER IN OUT\n", stderr), 2;
  try {
    run(argv[1], argv[2], argv[3]);
    return 0;
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "dinov2_peer: %s\n", error.what()), 1;
  }
}
