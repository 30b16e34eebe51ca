#include <meft/backend/device.hpp>
#include <meft/model/bert.hpp>

#include "run.hpp"

template bool finetune::run_as<meft::model::Bert<float>>(Flags, const Stop&);
#ifdef MEFT_CUDA
template bool finetune::run_as<meft::model::Bert<float, meft::Cuda>>(Flags, const Stop&);
#endif
