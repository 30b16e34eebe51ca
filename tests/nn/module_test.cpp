// Walking modules: which parts are found, in which order, under which names.
#include <doctest/doctest.h>

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <meft/nn/linear.hpp>
#include <meft/optim/adamw.hpp>

using namespace meft;

namespace {

nn::Linear<float> layer() { return nn::Linear<float>::normal(2, 2, {1, 0, 0}); }

/// Layers in all that a module may hold them in.
struct Holder {
  std::unique_ptr<nn::Linear<float>> owned = std::make_unique<nn::Linear<float>>(layer()), none{};
  std::shared_ptr<nn::Linear<float>> shared = std::make_shared<nn::Linear<float>>(layer());
  std::optional<nn::Linear<float>> some = layer(), nothing{};
  std::variant<std::monostate, nn::Linear<float>> either = layer();
  std::deque<nn::Linear<float>> list{layer(), layer()};
  std::array<nn::Linear<float>, 1> fixed{layer()};
  nn::Linear<float> plain[2] = {layer(), layer()};
  float factor = 1;

  static void parts(auto& self, auto&& visit) {
    visit("owned", self.owned);
    visit("none", self.none);
    visit("shared", self.shared);
    visit("some", self.some);
    visit("nothing", self.nothing);
    visit("either", self.either);
    visit("list", self.list);
    visit("fixed", self.fixed);
    visit("plain", self.plain);
    visit("factor", self.factor);
  }
};

}  // namespace

TEST_CASE("module: what is behind a pointer, in an optional, a variant or a list is walked and trains") {
  Holder holder;
  const std::vector<std::string> layers{"owned",  "shared",  "some",    "either", "list.0",
                                        "list.1", "fixed.0", "plain.0", "plain.1"};
  std::vector<std::string> names, found;
  for (const auto& name : layers) names.insert(names.end(), {name + ".weight", name + ".bias"});
  for (const auto& one : nn::trainable<float, Cpu>(holder)) found.push_back(one.first);
  CHECK(found == names);
  found.clear();
  nn::walk(std::as_const(holder), [&](const std::string& name, const nn::Linear<float>&) { found.push_back(name); });
  CHECK(found == layers);
  CHECK(optim::AdamW{}.over(holder).parameters() == 6 * 9);
}
