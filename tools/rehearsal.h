// A rehearsal of a scenario (exec/device/rehearsal.h): how long its ops take, by the simulator, and
// what the simulator predicts for ranks that wait exactly so long. `execute` and `run` use this.
//
//   durations   of each op by itself (sim/durations.h), in whole ns, times --time-scale
//   prediction  the same plan simulated with these durations in place of all costs, on a machine
//               that is like the rehearsal's: every rank has cores of its own, the host issues in
//               no time, an op that allocates waits for all earlier frees, no link is shared
// So both sides are given the same durations, and what differs is when ops start.
#pragma once

#include <string>

#include "common/base/result.h"
#include "common/plan/rehearsal.h"
#include "tools/prediction.h"
#include "tools/stored_run.h"

namespace tandem::tools {

struct RehearsalFlags {
  double time_scale = 1;
  bool verify = false, resume = false, check_replicas = false;
};

// E-EXEC-062: the scenario or a flag asks for values, which a rehearsal does not have.
[[nodiscard]] Status check_rehearsal(const Scenario& scenario, const RehearsalFlags& flags);

struct Rehearsal {
  RehearsalTable table;
  Prediction prediction;
};
// Codes of predict(); E-EXEC-061: an op longer than a day.
[[nodiscard]] Result<Rehearsal> predict_rehearsal(Context& context, PlanInput& input,
                                                  double time_scale);

// The machine of the prediction: `cluster` with cores and issue as above.
[[nodiscard]] sim::Cluster rehearsal_cluster(sim::Cluster cluster);

// rehearsal.json: what the ranks read.
[[nodiscard]] Status write_table(RunDir& dir, const RehearsalTable& table);

// What execute says of a rehearsal against its prediction.
struct RehearsalSummary {
  double time_scale = 1, predicted_s = 0, measured_s = 0;
  double error_rel = 0;                                            // predicted / measured - 1
  double median_start_error_s = 0, median_start_error_visits = 0;  // common/report/compare.h
  double order_correlation = 1;                                    // smallest of the compared ranks
  double late_mean_s = 0, late_worst_s = 0, slipped_s = 0;         // of these: mean, worst, worst
  bool real_time = true;   // all of them got the scheduling class that they ask for
  std::int64_t slips = 0;  // of these, together
};
// Reads what the ranks say of their clocks.
[[nodiscard]] Result<RehearsalSummary> summarise_rehearsal(const std::string& folder,
                                                           const Comparison& comparison,
                                                           double time_scale);
[[nodiscard]] Json to_json(const RehearsalSummary& s);
[[nodiscard]] std::string to_text(const RehearsalSummary& s);

}  // namespace tandem::tools
