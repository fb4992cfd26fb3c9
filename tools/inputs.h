// Reading what a command is given: a scenario with the overrides of the command line, or a plan
// file. Both become a verified plan (PlanInput), which is what the backends take.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/scenario.h"
#include "tools/context.h"

namespace tandem::tools {

// --set of the command line, with --seed N as "seed=N" at the end.
[[nodiscard]] std::vector<std::string> sets_of(const CommonOptions& options);

// Reads and checks the scenario; warnings go to the context.
[[nodiscard]] Result<Scenario> load_scenario(Context& context, const std::string& path);

// A file named by a field: relative to the folder of the scenario that names it; by --set or by a
// default, to the working folder. `text` is the field's value.
[[nodiscard]] std::string path_of_field(const Scenario& scenario, const std::string& field,
                                        const std::string& text);

// The file is a regular one whose first line that is neither empty nor a comment starts with
// "plan".
[[nodiscard]] bool is_plan_file(const std::string& path);

// A plan beside that of the steps: of evaluations, or of settling.
struct SidePlan {
  Plan plan;
  std::string text;  // canonical
};

struct PlanInput {
  std::string file;             // as the user gave it
  bool from_plan_file = false;  // then `scenario` says nothing about model, training and schedule
  Scenario scenario;
  Plan plan;
  std::string text, id;  // canonical text of the plan, and its id
  Verification verification;
  std::optional<SidePlan> evaluation;  // where a run evaluates, or looks at activations
  std::optional<SidePlan> settling;    // where updates are checked late
  // Files that the result depends on, with their SHA-256: what manifest.json lists as inputs.
  std::vector<std::pair<std::string, std::string>> inputs;
};

struct PlanRequest {
  std::string file;
  std::string cluster;        // --cluster; empty: not given
  bool needs_cluster = true;  // a plan file needs --cluster
  bool evaluation = false;    // `plan` is that of evaluations, whether the scenario has any or not
  bool settling = false;      // `plan` is that of settling
};

// Builds or reads the plan and verifies it. A plan that does not verify is bad input (3); the
// verdicts on deadlock are in context.result then too.
[[nodiscard]] Result<PlanInput> load_plan(Context& context, const PlanRequest& request);

// "tandem simulate S.yaml --set parallel.tp=2": what the result depends on, without -o, --json, -q
// and --force. For manifest.json.
[[nodiscard]] std::string command_text(const Context& context,
                                       const std::vector<std::string>& arguments);

}  // namespace tandem::tools
