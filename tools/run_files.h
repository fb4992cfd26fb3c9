// The files of a run that come from its plan and scenario alone: plan.txt, scenario.yaml,
// training.json and copies of what these name, so that the folder is enough to run or explain it
// again. `plan -o`, `simulate`, `execute` and `run` write them.
#pragma once

#include "tools/inputs.h"
#include "tools/run_dir.h"

namespace tandem::tools {

// Of a plan file: plan.txt alone. Else also
//   scenario.yaml    full form; paths of files are as seen from the folder
//   training.json    with data "builtin": corpus.txt beside it
//   calibration.cal.json   a copy, where the scenario names a calibration
[[nodiscard]] Status write_plan_files(RunDir& dir, const PlanInput& input);

// The manifest's facts about the input.
[[nodiscard]] Manifest manifest_of(const Context& context, const PlanInput& input);

// -o, else output.directory of the scenario.
[[nodiscard]] std::string run_folder(const Context& context, const PlanInput& input);

}  // namespace tandem::tools
