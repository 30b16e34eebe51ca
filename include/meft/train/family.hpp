// Owns: which model a Hugging Face folder holds, known only when the program runs.
#pragma once

#include <string>
#include <utility>

#include <meft/io/config.hpp>
#include <meft/model/bart.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/opt.hpp>
#include <meft/model/vit.hpp>

namespace meft::train {

/// Calls f.operator()<Model>() with the model that `folder`/config.json names, and gives what it gives. Throws for a
/// model_type that no family has, naming those that there are.
template <Real T, Backend B = Cpu, class F>
decltype(auto) with_family(const std::string& folder, F&& f, Where where = Where::current()) {
  const io::Config config(io::model_folder(folder, where), where);
  const std::string type = config.text("model_type", std::string("bert"));
  if (type == "bert" || type == "roberta" || type == "xlm-roberta" || type == "camembert")
    return std::forward<F>(f).template operator()<model::Bert<T, B>>();
  if (type == "opt") return std::forward<F>(f).template operator()<model::Opt<T, B>>();
  if (type == "bart") return std::forward<F>(f).template operator()<model::Bart<T, B>>();
  if (type == "vit" || type == "deit" || type == "dinov2")
    return std::forward<F>(f).template operator()<model::Vit<T, B>>();
  fail({config.path() +
            ": model_type: expected bert, roberta, xlm-roberta, camembert, opt, bart, vit, deit or dinov2, found",
        where},
       type);
}

}  // namespace meft::train
