// Owns: methods as the tests of other things take them, and small BERTs for methods.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <meft/method/any.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/transformer.hpp>

/// Sizes of a BERT, for its config.
struct SmallBert {
  meft::Index layers, width, heads, inner, words = 20;
  meft::model::BertConfig config() const {
    meft::model::BertConfig out;
    out.vocab_size = words;
    out.hidden_size = width;
    out.num_hidden_layers = layers;
    out.num_attention_heads = heads;
    out.intermediate_size = inner;
    return out;
  }
};

/// A model with weights away from their start.
template <meft::Real T>
meft::model::Transformer<T> away(const meft::model::TransformerSpec& spec) {
  meft::model::Transformer<T> model(spec);
  model.initialise(4);
  std::uint32_t site = 500;
  meft::nn::for_each_parameter(model, [&](const std::string&, meft::Parameter<T>& p) {
    meft::Tensor<T> noise(p.shape());
    fill_normal(noise, {4, site++, 0}, 0.3);
    map(meft::Cpu{}, meft::Add{}, p.size(), p.value().data(), std::as_const(p).value().data(), noise.data());
  });
  return model;
}

/// The method of a name, with adapters, if it has any, of width 3, and a network beside the layers, if it has one, of
/// width 5 or half the layers', and with weights that are not zero; three virtual tokens, if it has such; elements of
/// weights, if it chooses such, are a tenth, by the weights alone.
inline meft::AnyMethod narrow(std::string_view name) {
  auto method = meft::method_named(name);
  (void)meft::set_option(method, "bottleneck", "3");
  (void)meft::set_option(method, "projection", "5");
  (void)meft::set_option(method, "reduction", "2");
  (void)meft::set_option(method, "virtual-tokens", "3");
  (void)meft::set_option(method, "start", "random");
  (void)meft::set_option(method, "adapter-start", "paper");
  (void)meft::set_option(method, "density", "0.1");
  (void)meft::set_option(method, "salience", "magnitude");
  return method;
}
