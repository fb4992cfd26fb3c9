// Scenario -> training.json: what ranks need beside the plan (common/plan/training.h), and the text
// they train on.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/plan/training.h"
#include "common/scenario/scenario.h"

namespace tandem::tools {

// training_config() of common/plan/training.h, and with `verify` no warm-up steps, gradients kept.
// data_path stays "builtin" where the scenario says so; else it is the file as seen from the
// working folder.
[[nodiscard]] TrainingConfig training_config(const Scenario& scenario, bool verify);

// The shipped text (scenarios/data/corpus.txt), compiled into the program.
[[nodiscard]] std::string_view shipped_text();

// Writes RUN/training.json, with paths as seen from RUN; the built-in text becomes
// RUN/corpus.txt. E-IO-010, E-EXEC-016 where the named text is not there.
[[nodiscard]] Status write_training(const std::string& run_dir, TrainingConfig& config);

}  // namespace tandem::tools
