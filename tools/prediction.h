// A plan on its cluster, simulated: what `simulate` and `run` print and write. The numbers and
// their formulas: docs/cli.md, "What simulate prints".
#pragma once

#include <optional>
#include <string>

#include "common/base/result.h"
#include "common/model/calibration.h"
#include "sim/simulate.h"
#include "tools/inputs.h"
#include "tools/run_dir.h"

namespace tandem::tools {

struct Prediction {
  sim::Cluster cluster;
  std::optional<Calibration> calibration;
  sim::SimResult sim;
  double wall_s = 0;       // of building the cluster and simulating; never written to a file
  double tokens = 0;       // of a step
  double model_flops = 0;  // of a step (common/model/flops.h); 0: not known (a plan file)
  double peak_flops = 0;   // flop/s of all devices together; local: of the cores that they share
};

// The calibration that the scenario names, if it names one; its file goes into input.inputs.
[[nodiscard]] Result<std::optional<Calibration>> calibration_of(PlanInput& input);

// Reads the calibration, builds the cluster and simulates one step. Warnings go to the context.
// Codes: sim/simulate.h, common/model/calibration.h.
[[nodiscard]] Result<Prediction> predict(Context& context, PlanInput& input);

// Step error that is left when every op takes as long as in `measured`: iteration / measured - 1.
// `measured_ns`: the step it is compared with. nullopt: the plan cannot be simulated this way.
[[nodiscard]] std::optional<double> replay_error(const Plan& plan, const Prediction& prediction,
                                                 const SimulateSpec& spec, const Timeline& measured,
                                                 std::int64_t measured_ns);

// Keys of cli.md; without wall_s.
[[nodiscard]] Json to_json(const PlanInput& input, const Prediction& p);
[[nodiscard]] std::string to_text(const PlanInput& input, const Prediction& p);

// predicted.pftrace (and predicted.json or .csv where output.timeline says so) and the section
// "predicted" of summary.json.
[[nodiscard]] Status write_prediction(RunDir& dir, const PlanInput& input, const Prediction& p);

}  // namespace tandem::tools
