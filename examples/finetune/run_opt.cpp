#include <meft/model/opt.hpp>

#include "run.hpp"

template bool finetune::run_as<meft::model::Opt<float>>(Flags, const Stop&);
