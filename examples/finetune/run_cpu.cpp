#include "run.hpp"

template bool finetune::run_on<meft::Cpu>(Flags, const Stop&);
