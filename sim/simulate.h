// simulate(plan, cluster): when each op runs, how long a step takes and why, how much memory each
// rank holds. Deterministic: same arguments, same bytes. docs/simulator_model.md.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/model/calibration.h"
#include "common/plan/plan.h"
#include "common/plan/routing.h"
#include "common/timeline/timeline.h"
#include "sim/cluster/cluster.h"
#include "sim/compute/compute_cost.h"
#include "sim/engine/engine.h"

namespace tandem::sim {

struct SimOptions {
  int steps = 1;
  Fidelity fidelity = Fidelity::automatic;
  bool fold = true;
  const Calibration* calibration = nullptr;
  const ReplayDurations* replay = nullptr;  // switches folding off
  // How tokens choose experts in steps 0..steps-1; null: evenly, as the plan says. Where the plan
  // has routing it switches folding off, and peaks are those of each rank.
  const RoutingSource* routing = nullptr;
  // What the timeline holds: one rank of each program, all, or those of `rank_list`.
  RankSelection ranks = RankSelection::representatives;
  std::vector<int> rank_list;
  bool record_calls = true, record_memory = true;
  bool check_capacity = true;
};

// Where a rank's step goes, cut along its compute stream. The parts sum to `step`, exactly.
struct RankSummary {
  Rank rank;             // the lowest of its class
  int multiplicity = 1;  // ranks that behave like it
  Picoseconds step = 0;  // from its first issue to its last end
  std::array<Picoseconds, kNumCostClasses> compute{};
  std::vector<Picoseconds> transfer;  // by communicator: nothing to compute while it transfers
  std::vector<Picoseconds> waiting;   // by communicator: ... while it waits for its partners
  Picoseconds idle = 0;               // host, copies, and the end of the step
};

struct SimResult {
  Timeline timeline;               // simulated_ps
  Picoseconds iteration_ps = 0;    // median over steps of the slowest rank's step
  std::vector<RankSummary> ranks;  // of the last step, by class
  double bubble = 0;               // 1 - (compute + exposed transfer) / iteration, mean over ranks
  double exposed_comm_s = 0;       // exposed transfer, mean over ranks
  std::vector<PeakMemory> peaks;   // by class, of plan buffers; also in the timeline for its ranks
  Bytes kernel_scratch = 0;        // most that a kernel takes beside the plan's buffers
  Bytes needed_bytes = 0;          // largest sum of both on any rank: what a device must hold
  std::array<double, kNumCostSources> source_share{};  // of compute work, by where it came from
  // With routing: rows of the rank that gets most, layer by layer and microbatch by microbatch,
  // over the mean of the ranks; of the worst step. 1: even, or the plan moves no rows.
  double routed_rows_max_over_mean = 1;
  std::uint64_t simulated_events = 0;
  int simulated_ranks = 0;
};

// E-SCEN-020: fidelity message. E-PLAN-080: a rank needs more memory than a device has.
// E-PLAN-081: the plan cannot finish. Codes of ComputeCost::create. The plan must have passed
// verification.
[[nodiscard]] Result<SimResult> simulate(const Plan& plan, const Cluster& cluster,
                                         const SimOptions& options);

// Durations of a measured timeline: the median over its steps of each op of each rank.
[[nodiscard]] ReplayDurations replay_of(const Plan& plan, const Timeline& measured);

}  // namespace tandem::sim
