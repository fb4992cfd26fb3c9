// The folder of a run: who may write there, and the files that every run has. manifest.json is
// written last; a folder without it is an incomplete run.
//
//   manifest.json   format "tandem-run", version, program version, commands that wrote here, plan
//                   id, seed, SHA-256 and size of every file but ranks/
//   scenario.yaml   full form      plan.txt   canonical text      summary.json   figures by command
#pragma once

#include <string>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/scenario/scenario.h"
#include "tools/context.h"

namespace tandem::tools {

// Makes the folder and writes scenario.yaml and plan.txt. A folder of the same plan id (its
// manifest.json, or its plan.txt after a run that did not finish) is updated file by file; any
// other that is not empty needs `force`. E-EXEC-019, E-IO-010, E-IO-011.
[[nodiscard]] Status open_run_folder(const std::string& folder, const Scenario& scenario,
                                     const Plan& plan, bool force);

// summary.json: sets one section ("measured", "predicted"), keeps the others of the same plan.
[[nodiscard]] Status write_summary(const std::string& folder, const Plan& plan,
                                   const std::string& section, const Json& value);

// manifest.json, with `command` added to those it lists.
[[nodiscard]] Status close_run_folder(const std::string& folder, const Scenario& scenario,
                                      const Plan& plan, const std::string& command);

}  // namespace tandem::tools
