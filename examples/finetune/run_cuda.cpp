#include <meft/backend/device.hpp>

#include "run.hpp"

#ifdef MEFT_CUDA
template bool finetune::run_on<meft::Cuda>(Flags, const Stop&);
#endif
