#include <meft/model/vit.hpp>

#include "run.hpp"

template bool finetune::run_as<meft::model::Vit<float>>(Flags, const Stop&);
