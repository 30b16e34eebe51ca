#include "session.hpp"

#include <meft/train/family.hpp>

namespace finetune {

using namespace meft;

extern template bool run_as<model::Bert<float>>(Flags, const std::function<bool()>&);
extern template bool run_as<model::Opt<float>>(Flags, const std::function<bool()>&);
extern template bool run_as<model::Bart<float>>(Flags, const std::function<bool()>&);
extern template bool run_as<model::Vit<float>>(Flags, const std::function<bool()>&);

bool run(Flags flags, const std::function<bool()>& stop) {
  if (flags.threads > 0) set_threads(static_cast<int>(flags.threads));
  if (!flags.given.contains("readout"))
    flags.method.readout = train::default_readout(io::Config(flags.model).text("model_type", std::string("bert")));
  const std::string folder = flags.model;
  return train::with_family<float>(folder, [&]<class Model>() { return run_as<Model>(std::move(flags), stop); });
}

}  // namespace finetune
