// A plan on its cluster, simulated: what `simulate` and `run` print and write. The numbers and
// their formulas: docs/cli.md, "What simulate prints".
#pragma once

#include <optional>
#include <string>

#include "common/base/result.h"
#include "common/model/calibration.h"
#include "common/plan/routing_trace.h"
#include "sim/simulate.h"
#include "tools/inputs.h"
#include "tools/run_dir.h"

namespace tandem::tools {

struct Prediction {
  sim::Cluster cluster;
  std::optional<Calibration> calibration;
  sim::SimResult sim;
  int routed_steps = 0;    // 0: balanced routing; else steps with routing of their own
  double wall_s = 0;       // of building the cluster and simulating; never written to a file
  double tokens = 0;       // of a step
  double model_flops = 0;  // of a step (common/model/flops.h); 0: not known (a plan file)
  double peak_flops = 0;   // flop/s of all devices together; local: of the cores that they share
};

// Reads the calibration that the scenario names (into input.inputs too), builds the cluster and
// simulates one step; with a trace of routing (also in input.inputs) all of its steps. Warnings go
// to the context. Codes: sim/simulate.h, common/model/calibration.h, common/plan/routing_trace.h.
[[nodiscard]] Result<Prediction> predict(Context& context, PlanInput& input);

// The prediction of a stored run again, with the routing that the run has recorded. `base` holds
// cluster and calibration. Codes: sim/simulate.h, E-CAL-010.
[[nodiscard]] Result<sim::SimResult> predict_with_routing(const Plan& plan, const Prediction& base,
                                                          const Scenario& scenario,
                                                          const RoutingTrace& trace);

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
