#include "session.hpp"

#include <meft/backend/device.hpp>
#include <meft/checkpoints/family.hpp>

#include "folder.hpp"

namespace finetune {

using namespace meft;

bool run(Flags flags, const std::function<bool()>& stop) {
  find_model(flags);
  if (flags.threads > 0) set_threads(static_cast<int>(flags.threads));
  if (!flags.loads()) {
    const auto config = checkpoints::read_config(flags.model);
    const auto type = config.text("model_type", std::string("bert"));
    suit_family(flags.method, {type, checkpoints::read_spec(config).patches.has_value()});
    set_method_options(flags);
  }
  return with_device(flags.device, [&]<Backend B>() { return run_on<B>(std::move(flags), stop); });
}

}  // namespace finetune
