// Owns: a network beside frozen layers, as the chain that runs them sees it. It reads what goes into the first layer
// and what comes out of each, the taps h_0 … h_L, and its output takes the place of h_L, or goes into late layers.
// Gradients go through these, and through a decoder's layers to the network that is beside its encoder's; through no
// others. Must not know: which networks there are.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <meft/base/function_ref.hpp>
#include <meft/method/feature_cache.hpp>
#include <meft/method/option.hpp>
#include <meft/nn/batch.hpp>
#include <meft/nn/linear.hpp>
#include <meft/nn/norm.hpp>

namespace meft {

/// The first site of what a network draws; each list of layers has its own, with room for 64 times as many as its
/// layers have.
constexpr std::uint32_t side_site(std::uint32_t layer_site) { return 0x60000000u + 64 * layer_site; }

/// The most tokens that go through layers and network at once while it trains, in whole sequences: its taps are kept.
template <Backend B>
inline constexpr Index side_tokens = B::slice_tokens / 2;

/// The facts of a method that puts a network there.
inline constexpr MethodFacts side_facts{.beside = true,
                                        .recomputes = false,
                                        .trains_layers = false,
                                        .starts_as_is = true,
                                        .apart = "its network stands beside the layers"};

/// What takes the place of h_L before the first step.
enum class SideStart {
  backbone,  // h_L: the network's output is added to it, and zero
  random     // the network's output alone
};
inline constexpr Option side_start_option{"start", "of the network: at the model as it was, or in place of its output"};
inline constexpr auto side_starts = one_of<SideStart>("backbone|random");

inline constexpr Option projection_option{"projection", "width of the projected outputs of layers"};
inline constexpr Whole projections{1, 65536};

/// What a network makes of a tap: norm(h·Wᵀ + b), [tokens, width] → [tokens, projection].
template <Real T, Backend B = Cpu>
struct SideProjection {
  nn::Linear<T, B> linear;
  nn::Norm<T, B> norm;

  Var<T, B> operator()(const Var<T, B>& h) const { return norm(linear(h)); }

  static void parts(auto& self, auto&& visit) {
    visit("dense", self.linear);
    visit("norm", self.norm);
  }
};

/// What is beside a list of layers.
template <Real T, Backend B = Cpu>
struct SideNetwork {
  /// h_0 … h_L, each [tokens, width]: whole sequences, with their context → [tokens, width].
  using Taps = std::vector<Var<T, B>>;

  /// What the i-th frozen layer makes of h.
  using Next = FunctionRef<Var<T, B>(std::size_t i, const Var<T, B>& h, const Context<T, B>&)>;

  std::function<Var<T, B>(const Taps&, const Context<T, B>&)> run{};
  /// What `run` gets in place of taps, from h_0 and that many layers; none: taps.
  std::function<Taps(const Var<T, B>&, const Context<T, B>&, const Next&, std::size_t)> watch{};
  nn::Named<T, B> parameters{};
  std::shared_ptr<FeatureCache<T, B>> cache{};  // or none; of layers that read nothing besides
  std::size_t late = 0;  // how many of the highest layers read the network's output; h_L is then what goes into them

  /// A module with parts that is called with taps and context; it may have members `late` and `watch`.
  template <class Network>
  static SideNetwork of(Network network) {
    const auto shared = std::make_shared<Network>(std::move(network));
    SideNetwork out{[shared](const Taps& taps, const Context<T, B>& c) { return (*shared)(taps, c); }, {}};
    if constexpr (requires { shared->late; }) out.late = shared->late;
    if constexpr (requires { &Network::watch; })
      out.watch = [shared](const Var<T, B>& x, const Context<T, B>& c, const Next& next, std::size_t count) {
        return shared->watch(x, c, next, count);
      };
    nn::for_each_parameter(*shared, [&](const std::string& name, auto& p) { out.parameters.push_back({name, p}); });
    return out;
  }

  static void parts(auto& self, auto&& visit) {
    for (auto& named : self.parameters) visit(named.first.c_str(), named.second);
  }
};

}  // namespace meft
