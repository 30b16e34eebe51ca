// Owns: FPT+. Huang et al., "FPT+: A Parameter and Memory Efficient Transfer Learning Method for High-resolution
// Medical Image Classification", arXiv 2408.02426. A frozen ViT reads the image, and a narrow one beside it, of as many
// layers as the frozen one's last that it learns from, a smaller one. Of each of those each head gives the keys that
// are attended to most, with their values, K̂ and V̂. With m prompts P_i [m, d]: c_i = softmax(LN(P_i)·K̂_iᵀ/√head)·V̂_i +
// P_i, g_i = drop(W_o·c_i + b), s_i = side_i([s_{i−1}; g_i]) without g_i's rows. The class token is h_L's + U·LN(s)'s:
// theirs is classified as s has it. LN and W_o are shared.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include <meft/method/ladder.hpp>
#include <meft/method/virtual_tokens.hpp>
#include <meft/nn/patches.hpp>
#include <meft/ops/attention.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/softmax.hpp>

namespace meft {

/// A narrow ViT beside a frozen one, for models that read images.
struct Fpt {
  Index prompts = 16;                     // m
  Index image = 128;                      // the smaller image's height and width
  Index reduction = 8;                    // how many times narrower
  Index layers = 6;                       // or all of a model that has fewer
  double kept = 0.2;                      // share of the tokens
  double dropout = 0.5;                   // of g
  SideStart start = SideStart::backbone;  // random: the side's class token alone
};

namespace detail {

/// Of queries, whose scores exist at a time.
inline constexpr Index score_rows = 64;

/// Keys and values [tokens, width] of one sequence → those of the ⌊share·tokens⌋ tokens that each head's queries
/// attend to most on average, ties by number, in their order: another token in a row for each head.
template <Real T, Backend B>
std::pair<Tensor<T, B>, Tensor<T, B>> most_attended(const Var<T, B>& q, const Var<T, B>& k, const Var<T, B>& v,
                                                    Index heads, double scale, double share) {
  const Index n = q.dim(0), width = q.dim(1) / heads;
  const auto by_head = [&](const Var<T, B>& x) { return reshape(x, {x.dim(0), heads, width}); };
  const auto keys = permute(by_head(k), {1, 2, 0});
  Var<T, B> total;
  for (Index at = 0; at < n; at += score_rows) {
    const auto some = permute(by_head(slice(q, 0, at, std::min(at + score_rows, n))), {1, 0, 2});
    const auto one = sum(softmax(matmul(some * static_cast<T>(scale), keys)), {.axes = {1}});
    total = at ? total + one : one;
  }
  const auto sums = total.value().values();
  const auto count = std::max<Index>(1, static_cast<Index>(share * static_cast<double>(n)));
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(heads * count));  // rows of [tokens · heads, head width]
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  for (Index h = 0; h < heads; ++h) {
    const T* of = sums.data() + h * n;
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + count, order.end(),
                      [&](std::int32_t a, std::int32_t b) { return of[a] != of[b] ? of[a] > of[b] : a < b; });
    std::sort(order.begin(), order.begin() + count);
    for (Index i = 0; i < count; ++i)
      chosen[static_cast<std::size_t>(i * heads + h)] =
          static_cast<std::int32_t>(order[static_cast<std::size_t>(i)] * heads + h);
  }
  const auto ids = Tensor<std::int32_t, B>::from({heads * count}, chosen);
  const auto take = [&](const Var<T, B>& x) {
    return reshape(gather(reshape(x, {n * heads, width}), ids), {count, heads * width}).value();
  };
  return {take(k), take(v)};
}

}  // namespace detail

template <Real T, Backend B = Cpu>
struct FptNetwork {
  using Taps = typename SideNetwork<T, B>::Taps;
  using Next = typename SideNetwork<T, B>::Next;

  std::vector<nn::TransformerLayer<T, B>> frozen;  // the last ones
  double kept = 0.2;
  float dropout = 0.5f;
  bool residual = true;
  std::uint32_t site = 0;

  nn::Linear<T, B> patches;               // of the smaller image
  Parameter<T, B> class_token, position;  // [1, width/r], [1 + patches, width/r]
  Parameter<T, B> prompts;                // P, [layers · m, width]
  nn::Norm<T, B> prompt_norm;             // LN
  nn::Linear<T, B> prompt_down;           // W_o
  std::vector<nn::TransformerLayer<T, B>> layers;
  nn::Norm<T, B> norm;
  nn::Linear<T, B> up;  // U

  /// Beside a model's layers, for images of spec.channels cut into patches as the model's are.
  static FptNetwork make(const Fpt& method, const std::vector<nn::TransformerLayer<T, B>>& beside,
                         const nn::PatchSpec& spec, std::uint64_t seed) {
    constexpr double deviation = Ladder<T, B>::deviation, prompt_deviation = 1e-6;
    const auto count = std::min<Index>(method.layers, std::ssize(beside)), grid = method.image / spec.patch;
    const auto& first = beside.front();
    const Index width = first.width(), inner = std::max<Index>(width / method.reduction, 1);
    FptNetwork net;
    net.frozen = {beside.end() - count, beside.end()};
    net.kept = method.kept;
    net.dropout = static_cast<float>(method.dropout);
    net.residual = method.start == SideStart::backbone;
    std::uint32_t site = side_site(first.site);
    const auto linear = [&](Index in, Index out) {
      return nn::Linear<T, B>::normal(in, out, {seed, site++, 0}, deviation);
    };
    const auto normal = [&](const Shape& shape, double by) {
      auto out = Parameter<T, B>::empty(shape);
      fill_normal(out.value(), {seed, site++, 0}, by);
      return out;
    };
    const auto norm = [&](Index of) {
      return nn::Norm<T, B>::identity(of, first.mlp_norm.epsilon, first.mlp_norm.kind);
    };
    net.patches = linear(spec.channels * spec.patch * spec.patch, inner);
    net.class_token = normal({1, inner}, deviation);
    net.position = normal({1 + grid * grid, inner}, deviation);
    net.prompts = normal({count * method.prompts, width}, prompt_deviation);
    net.prompt_norm = norm(width);
    net.prompt_down = linear(width, inner);
    for (const auto& layer : net.frozen)
      net.layers.push_back(Ladder<T, B>::narrow(layer, {.reduction = method.reduction}, inner, seed, site));
    net.norm = norm(inner);
    net.up = linear(inner, width);
    if (net.residual) net.up.weight.value().zero();
    net.site = site;
    return net;
  }

  /// K̂ and V̂ of each layer it learns from and h_L, of images one after the other: nothing else is kept.
  Taps watch(const Var<T, B>& x, const Context<T, B>& context, const Next& next, std::size_t count) const {
    const NoTape none;
    std::vector<Taps> features(2 * frozen.size() + 1);
    for (Index s = 0; s < context.offsets.sequences(); ++s) {
      const auto own = of_image(x.value().rows(context.offsets.begin(s), context.offsets.end(s)),
                                context.part(s, s + 1), next, count);
      for (std::size_t i = 0; i < own.size(); ++i) features[i].push_back(own[i]);
    }
    Taps out;
    for (auto& of : features) {
      out.push_back(of.size() == 1 ? of.front() : concat(of, 0));
      of.clear();
    }
    return out;
  }

  Var<T, B> operator()(const Taps& taps, const Context<T, B>& context) const {
    require(!context.sides.empty(), "fpt: the smaller images are not beside the tokens");
    const auto& cells = context.sides.front();
    const Index images = context.offsets.sequences(), each = position.shape()[0],
                m = prompts.shape()[0] / std::ssize(layers);
    const auto offsets = [&](Index length) {
      return Offsets::of_lengths(
          std::vector<std::int32_t>(static_cast<std::size_t>(images), static_cast<std::int32_t>(length)));
    };
    const auto rows = [](Index n, const auto& number) {  // number(i) of each row i of the result
      std::vector<std::int32_t> out;
      for (Index i = 0; i < n; ++i) out.push_back(static_cast<std::int32_t>(number(i)));
      return Tensor<std::int32_t, B>::from({n}, out);
    };
    auto s =
        gather(concat({as_var(class_token), patches(cells.value)}, 0),
               rows(images * each, [&](Index i) { return i % each ? 1 + i / each * (each - 1) + i % each - 1 : 0; })) +
        gather(position, rows(images * each, [&](Index i) { return i % each; }));

    const Context<T, B> own{offsets(each + m), context.run, context.first_row / context.offsets.length(0) * (each + m)};
    const auto repeated = rows(images * m, [&](Index i) { return i % m; });
    const auto joined = rows(images * (each + m), [&](Index i) {
      const Index image = i / (each + m), at = i % (each + m);
      return at < each ? image * each + at : images * each + image * m + at - each;
    });
    const auto tokens = rows(images * each, [&](Index i) { return i / each * (each + m) + i % each; });
    const auto all = as_var(prompts);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto at = static_cast<Index>(i) * m;
      const auto p = slice(all, 0, at, at + m);
      const auto& k = taps[2 * i];
      const auto c = attention(gather(prompt_norm(p), repeated), k, taps[2 * i + 1],
                               Attention{.queries = offsets(m),
                                         .keys = offsets(k.dim(0) / images),
                                         .heads = frozen[i].attention.heads,
                                         .scale = frozen[i].attention.scale}) +
                     gather(p, repeated);
      auto g = prompt_down(c);
      if (context.run.training)
        g = meft::dropout(g, dropout, context.run.key(site + static_cast<std::uint32_t>(i)),
                          static_cast<std::uint64_t>(own.first_row / (each + m) * m * g.dim(1)));
      s = gather(layers[i](gather(concat({s, g}, 0), joined), own), tokens);
    }
    const auto& h = taps.back();
    const auto classes = rows(images, [&](Index i) { return context.offsets.begin(i); });
    auto z = up(norm(gather(s, rows(images, [&](Index i) { return i * each; }))));
    if (residual) z = gather(h, classes) + z;
    return gather(concat({h, z}, 0), rows(h.dim(0), [&](Index i) {
                    const Index image = i / context.offsets.length(0);
                    return i == context.offsets.begin(image) ? h.dim(0) + image : i;
                  }));
  }

  static void parts(auto& self, auto&& visit) {
    visit("patches", self.patches);
    visit("class_token", self.class_token);
    visit("position", self.position);
    visit("prompts", self.prompts);
    visit("prompt_norm", self.prompt_norm);
    visit("prompt_down", self.prompt_down);
    visit("layer", self.layers);
    visit("norm", self.norm);
    visit("up", self.up);
  }

 private:
  std::vector<Tensor<T, B>> of_image(const Tensor<T, B>& x, const Context<T, B>& context, const Next& next,
                                     std::size_t count) const {
    std::vector<Tensor<T, B>> out;
    Var<T, B> h = x;
    for (std::size_t i = 0; i < count; ++i) {
      if (i + frozen.size() >= count) {
        const auto& layer = frozen[i + frozen.size() - count];
        const auto& a = layer.attention;
        const auto in = layer.attention_norm(h);
        const auto q = a.queries(in, context.offsets);
        const double scale = a.scale != 0 ? a.scale : 1 / std::sqrt(static_cast<double>(q.dim(1) / a.heads));
        auto [k, v] = detail::most_attended(q, a.keys(in, context.offsets), a.value(in), a.heads, scale, kept);
        out.push_back(std::move(k));
        out.push_back(std::move(v));
      }
      h = next(i, h, context);
    }
    out.push_back(h.value());
    return out;
  }
};

template <>
struct Described<Fpt> {
  static constexpr std::string_view name = "fpt",
                                    about = "a narrow ViT of small images, and prompts, beside a frozen one";
  static constexpr MethodFacts facts = [] {
    MethodFacts out = side_facts;
    out.reads_images = true;
    return out;
  }();
  static void options(auto& m, auto&& visit) {
    visit(tokens_option, token_counts, m.prompts);
    visit(Option{"side-image", "height and width of the smaller image"}, Whole{1, 1 << 14}, m.image);
    visit(reduction_option, reductions, m.reduction);
    visit(Option{"side-layers", "of the narrow ViT, at most the model's"}, Whole{1, 1024}, m.layers);
    visit(Option{"token-share", "of the frozen layers' tokens that prompts attend to"}, Part{}, m.kept);
    visit(Option{"prompt-dropout", "of what prompts give"}, Share{}, m.dropout);
    visit(side_start_option, side_starts, m.start);
  }
  static Recipe recipe(const Fpt&) { return {.rate = 2e-4}; }  // the authors', the higher of two
  static Index added(const Fpt& m, const StepSizes& s) {
    return s.width * (m.prompts + 12 * s.width / (m.reduction * m.reduction));
  }
  /// What enters the layers; what was kept so far; and of an image what a frozen layer takes, or that layer's queries,
  /// keys, values and the scores of some rows. The narrow ViT reads far fewer tokens.
  template <Real T, Backend B>
  static Index activation(const Fpt& m, const StepSizes& s) {
    const Index image = std::accumulate(s.slices.begin(), s.slices.end(), Index{0}) / std::max<Index>(1, s.sequences);
    const Index layers = std::min(m.layers, s.layers), rows = std::min(detail::score_rows, image);
    const Index kept = static_cast<Index>(m.kept * static_cast<double>(image)) * 2 * s.width;
    const Index running = layers * kept + image * (4 * s.width + s.passing());
    const Index choosing = (layers - 1) * kept + image * (6 * s.width + 2 * s.heads * (rows + 1)) + 4 * rows * s.width;
    return s.tokens * s.width + std::max(running, choosing);
  }
};

template <class Model>
auto adapt(Model& model, const Fpt& method, const AdaptOptions& options = {}, Where where = Where::current()) {
  using Network = FptNetwork<typename Model::value_type, typename Model::backend>;
  detail::require_options(method, where);
  require(model.patches.has_value(), {"fpt: expected a model that reads images, found", where}, model.spec.family);
  require(method.image >= model.patches->spec.patch,
          {"fpt: the smaller image has no whole patch: its side and the patch's", where}, method.image,
          model.patches->spec.patch);
  model.patches->smaller = method.image / model.patches->spec.patch;
  return detail::side_body(model, options, [&](const auto& layers) {
    return Network::make(method, layers, model.patches->spec, options.seed);
  });
}

}  // namespace meft
