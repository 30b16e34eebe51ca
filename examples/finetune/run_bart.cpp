#include <meft/model/bart.hpp>

#include "run.hpp"

template bool finetune::run_as<meft::model::Bart<float>>(Flags, const Stop&);
