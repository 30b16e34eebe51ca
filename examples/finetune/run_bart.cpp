#include <meft/backend/device.hpp>
#include <meft/model/bart.hpp>

#include "run.hpp"

template bool finetune::run_as<meft::model::Bart<float>>(Flags, const Stop&);
#ifdef MEFT_CUDA
template bool finetune::run_as<meft::model::Bart<float, meft::Cuda>>(Flags, const Stop&);
#endif
