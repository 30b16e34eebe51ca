#include <meft/backend/device.hpp>
#include <meft/model/opt.hpp>

#include "run.hpp"

template bool finetune::run_as<meft::model::Opt<float>>(Flags, const Stop&);
#ifdef MEFT_CUDA
template bool finetune::run_as<meft::model::Opt<float, meft::Cuda>>(Flags, const Stop&);
#endif
