// Owns: predictions as a table of tab-separated values, a row an input, the input last; and its file.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <meft/data/choice.hpp>
#include <meft/data/task.hpp>
#include <meft/task/learner.hpp>
#include <meft/task/line_likelihood.hpp>

#include "flags.hpp"

namespace finetune {

/// Refuses to predict where the file would be written over, or could not be.
void check_predictions(const Flags& flags);
/// True.
bool write_predictions(const Flags& flags, const std::string& table, std::size_t rows);

/// `label`, then a probability a class, or `value` of a regression; then the text, or both of a pair.
std::string table_of(const meft::task::Predictions& predictions, const std::vector<std::string>& labels,
                     const std::vector<meft::data::Example>& inputs, bool pair);
/// The same of images: `image` is each one's name.
std::string table_of(const meft::task::Predictions& predictions, const std::vector<std::string>& labels,
                     const std::vector<std::string>& images);
/// The number of the chosen option from 0, its text, the score of each option, the question's id and text.
std::string table_of(const std::vector<double>& scores, const std::vector<meft::data::Choice>& questions);
/// The texts that were written for the inputs.
std::string table_of(const std::vector<std::string>& written, const std::vector<meft::data::Example>& inputs);
/// `log_likelihood` (the sum), `tokens`, `perplexity`, the line.
std::string table_of(const std::vector<meft::task::LineLikelihood>& found, const std::vector<std::string>& lines);

}  // namespace finetune
