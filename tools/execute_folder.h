// Executes a plan inside an open run folder (run_dir.h) and shows what happens: what `execute`
// and `run` share beside execute_run().
#pragma once

#include <string>

#include "common/base/result.h"
#include "common/scenario/scenario.h"
#include "tools/checkpoints.h"
#include "tools/context.h"
#include "tools/execute_run.h"
#include "tools/inputs.h"
#include "tools/run_dir.h"

namespace tandem::tools {

// Whether this build and machine can execute the scenario: precision, number of ranks, device,
// the executor's library, which a rehearsal does without. E-SCEN-06x, E-EXEC-017, E-EXEC-060. Asked
// before anything is written.
[[nodiscard]] Status check_executable_here(const Scenario& scenario);

struct ExecuteFlags {
  bool verify = false;
  double predicted_step_s = 0;  // 0: not known
  Checkpoints checkpoints;      // of open_checkpoints()
  int check_replicas = 0;       // steps; 0: never
  bool rehearsal = false;       // rehearsal.json is in the folder
};

// Writes training.json, ranks/, metrics.jsonl, measured.pftrace, verify.json and the section
// "measured" of summary.json. Output of ranks goes to stderr with [K] in front, progress to the
// terminal. An error of execute_run() comes back as it is.
[[nodiscard]] Result<ExecuteSummary> execute_in_folder(Context& context, const PlanInput& in,
                                                       const std::string& folder,
                                                       const ExecuteFlags& flags);

// Takes what an execution left in the folder, complete or not, into its manifest.
[[nodiscard]] Status adopt_results(RunDir& dir);

// Keys of `execute --json`; the lines that people read.
[[nodiscard]] Json to_json(const ExecuteSummary& summary);
[[nodiscard]] std::string to_text(const ExecuteSummary& summary);

}  // namespace tandem::tools
