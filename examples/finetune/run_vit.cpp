#include <meft/backend/device.hpp>
#include <meft/model/vit.hpp>

#include "run.hpp"

template bool finetune::run_as<meft::model::Vit<float>>(Flags, const Stop&);
#ifdef MEFT_CUDA
template bool finetune::run_as<meft::model::Vit<float, meft::Cuda>>(Flags, const Stop&);
#endif
