// Owns: the list of methods. A new one is an include and a row here; names, flags, help, estimates and benches walk it.
#pragma once

#include <meft/method/bitfit.hpp>
#include <meft/method/coupled.hpp>
#include <meft/method/full.hpp>
#include <meft/method/head.hpp>
#include <meft/method/houlsby.hpp>
#include <meft/method/ia3.hpp>
#include <meft/method/low_rank.hpp>
#include <meft/method/lst.hpp>
#include <meft/method/mezo.hpp>
#include <meft/method/qst.hpp>
#include <meft/method/sherl.hpp>
#include <meft/method/speft.hpp>
#include <meft/method/unipt.hpp>

namespace meft {

template <class... M>
struct MethodList {};

using Methods = MethodList<Full, HeadOnly, BitFit, Houlsby, LowRank, Ia3, Speft, Unipt, Lst, Qst, Sherl, Meft1, Meft2,
                           Meft3, Mezo<Full>, Mezo<LowRank>>;

/// What the program does without --method, and what it compares methods with.
using DefaultMethod = Meft1;
using ReferenceMethod = Full;

}  // namespace meft
