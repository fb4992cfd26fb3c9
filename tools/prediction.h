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

// The calibration that the scenario names, if it names one; its file goes into input.inputs.
[[nodiscard]] Result<std::optional<Calibration>> calibration_of(PlanInput& input);

// Reads the calibration that the scenario names, builds the cluster and simulates one step; with a
// trace of routing (in input.inputs too) all of its steps. Warnings go to the context. Codes:
// sim/simulate.h, common/model/calibration.h, common/plan/routing_trace.h.
[[nodiscard]] Result<Prediction> predict(Context& context, PlanInput& input);

// The two halves of predict(): calibration and cluster; steps simulated with `options`.
[[nodiscard]] Result<Prediction> open_prediction(PlanInput& input);
[[nodiscard]] Status simulate_step(Context& context, const PlanInput& input,
                                   const sim::SimOptions& options, Prediction& p);
// What the scenario asks of the simulator, but its routing; `p` outlives the options.
[[nodiscard]] sim::SimOptions sim_options(const Scenario& scenario, const Prediction& p);

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
