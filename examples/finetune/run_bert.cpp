#include <meft/model/bert.hpp>

#include "run.hpp"

template bool finetune::run_as<meft::model::Bert<float>>(Flags, const Stop&);
