// Owns: the list of methods. A new one is an include and a row here, or in inserted.hpp where it only changes layers;
// names, flags, help, estimates and benches walk it.
#pragma once

#include <meft/method/bitfit.hpp>
#include <meft/method/coupled.hpp>
#include <meft/method/fpt.hpp>
#include <meft/method/full.hpp>
#include <meft/method/head.hpp>
#include <meft/method/houlsby.hpp>
#include <meft/method/inserted.hpp>
#include <meft/method/losa.hpp>
#include <meft/method/lst.hpp>
#include <meft/method/mezo.hpp>
#include <meft/method/prompt.hpp>
#include <meft/method/qst.hpp>
#include <meft/method/sherl.hpp>
#include <meft/method/unipt.hpp>
#include <meft/method/zofo.hpp>

namespace meft {

namespace detail {

template <class... List>
struct Joined;
template <class... A, class... B, class... C>
struct Joined<MethodList<A...>, MethodList<B...>, MethodList<C...>> {
  using type = MethodList<A..., B..., C...>;
};

}  // namespace detail

using Methods = detail::Joined<
    MethodList<Full, HeadOnly, BitFit, Houlsby>, InsertedMethods,
    MethodList<PromptTuning, Unipt, Lst, Qst, Sherl, Losa, Fpt, Meft1, Meft2, Meft3, Mezo<Full>, Mezo<LowRank>,
               Mezo<PrefixTuning>, Zofo<LowRank>, Zofo<PrefixTuning>, Zofo<PromptTuning>, Zofo<Meft1>>>::type;

/// What the program does without --method, and what it compares methods with.
using DefaultMethod = Meft1;
using ReferenceMethod = Full;

}  // namespace meft
