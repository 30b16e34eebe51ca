// Owns: the text of --help, the version, and which flag an unknown one may mean.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace finetune {

#ifdef FINETUNE_VERSION
inline constexpr const char* version = FINETUNE_VERSION;
#else
inline constexpr const char* version = "of no release";
#endif

/// Prints the flags by group, wrapped at words to the terminal's width.
void print_help(const CLI::App& app);

/// The flag of `known` (without dashes) that `name` may mean: by another spelling, by its name in Hugging Face's and
/// other trainers, or by few letters that differ; empty: none.
std::string nearest(std::string name, const std::vector<std::string>& known);

/// A message of the library that says `option header` and the like, with `--header`.
std::string in_flags(std::string message);

/// Throws FlagError for arguments that no flag took.
void refuse_extras(const CLI::App& app);

}  // namespace finetune
