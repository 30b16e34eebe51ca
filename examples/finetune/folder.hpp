// Owns: the folder of a run: the one process that writes it, what is refused or removed there, what a run left.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <meft/checkpoints/peft.hpp>
#include <meft/io/file.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/train/options.hpp>

#include "flags.hpp"

namespace finetune {

/// The one process that writes a folder. Ends with it.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);

 private:
  meft::Descriptor fd_;
};

/// What a run writes, peft's files too.
std::vector<std::string> files_of(const Flags& flags);
/// Refuses a folder that holds another run than that of `options`, or this one and neither --resume nor --overwrite.
void check_folder(const Flags& flags, const meft::train::TrainOptions& options);
/// With --overwrite removes what the run that was there left besides the trainer's files, which that removes itself.
void remove_leavings(const Flags& flags);
/// Where the model lies, links of its folder followed; a file keeps its name, which may be that of a link.
std::string place_of_model(const Flags& flags);
/// Where peft has the method, writes what the run left as peft's files too, a head's rows for the labels as the
/// checkpoint's config.json has them.
void write_peft(const Flags& flags, const meft::model::TransformerSpec& spec,
                const meft::checkpoints::LoadReport& loaded, const std::vector<std::string>& labels);

/// Sets the model and checks it: a folder. Of a run that is read back, without --model, the one it was trained on.
void find_model(Flags& flags);

/// What an earlier run left in the output folder; its options are taken over into `flags`. Or what PyPI's peft left
/// there, which says the method; what it was trained for is what flags say.
struct Earlier {
  std::optional<meft::io::Safetensors> saved{};
  std::optional<meft::checkpoints::PeftAdapter> peft{};
  std::vector<std::string> labels{};
  bool pair = false;
};
Earlier earlier_run(Flags& flags);

}  // namespace finetune
