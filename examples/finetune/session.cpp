#include "session.hpp"

#include <meft/train/family.hpp>

#include "device.hpp"

namespace finetune {

using namespace meft;

namespace {

template <Backend B>
bool run_on(Flags flags, const std::function<bool()>& stop) {
  const std::string folder = flags.model;
  return train::with_family<float, B>(folder, [&]<class Model>() { return run_as<Model>(std::move(flags), stop); });
}

}  // namespace

bool run(Flags flags, const std::function<bool()>& stop) {
  if (flags.threads > 0) set_threads(static_cast<int>(flags.threads));
  if (!flags.given.contains("readout"))
    flags.method.readout = train::default_readout(io::Config(flags.model).text("model_type", std::string("bert")));
  if (flags.device == "cpu") return run_on<Cpu>(std::move(flags), stop);
#ifdef MEFT_CUDA
  return run_on<Cuda>(std::move(flags), stop);
#else
  throw FlagError("--device", "cpu, since this program was built without the target meft::cuda (see MEFT_CUDA)",
                  flags.device);
#endif
}

}  // namespace finetune
