#include "merge.hpp"

#include <filesystem>

#include <meft/io/gguf_model.hpp>

#include "terminal.hpp"

namespace finetune {

void check_merge(Flags& flags) {
  const auto facts = meft::method_facts(flags.method);
  if (!facts.merges())
    throw FlagError("--merge", "a run of --method " + meft::method_names([](const meft::AnyMethod& m) {
                                 return meft::method_facts(m).merges();
                               }),
                    "--method " + meft::method_title(flags.method) + ": " + std::string(facts.apart));
  if (meft::io::is_gguf(flags.model))
    throw FlagError("--merge", "a run on a checkpoint in Hugging Face's form", flags.model + ", a GGUF file");
  std::error_code ignored;
  if (std::filesystem::equivalent(flags.merge, flags.output, ignored))
    throw FlagError("--merge", "another folder than the run's", flags.merge);
  flags.adapt.precision = meft::Precision::f32;
}

void say_merged(const Flags& flags, const std::vector<std::string>& files) {
  std::string names;
  for (const auto& file : files) names += (names.empty() ? "" : ", ") + file;
  say("wrote " + flags.merge + ": " + names);
}

}  // namespace finetune
