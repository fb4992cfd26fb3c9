// Runs a plan for real: launches the ranks of a run directory, merges what they measured, verifies
// it. `execute` and `run` call this. The directory is there already, with plan.txt, training.json
// and nothing of an older run that would be mistaken for this one's (remove_old_results).
//
//   writes   RUN/ranks/*, RUN/metrics.jsonl (rank 0), RUN/measured.pftrace, RUN/verify.json
//   iteration_s   median over the counted (not warm-up) steps of the slowest rank's step
//   verify        fp64: losses, norm, gradients of every step and parameters to 1e-10; fp32: norm
//                 and gradients of step 0 to 1e-5, losses to 1e-4; replicas equal bit by bit
//                 (models.md section 9). Routers: no choice other than the reference's (fp64) or
//                 only near ties (exec/train/replay.h)
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "common/report/expert_load.h"

namespace tandem::tools {

struct ExecuteRequest {
  const Plan* plan = nullptr;        // as in RUN/plan.txt
  const Plan* evaluation = nullptr;  // as in RUN/plan_evaluation.txt; null: the run has none
  const Plan* settling = nullptr;    // as in RUN/plan_settling.txt; likewise
  std::string plan_id;               // of that text
  TrainingConfig config;             // as in RUN/training.json
  bool rehearsal = false;            // by RUN/rehearsal.json: no kernels, no losses
  std::string run_dir;
  double predicted_step_s = 0;  // 0: not known. Only bounds how long an op may take
  std::string listen = "127.0.0.1";
};

// Told while the run goes on; each may be empty.
struct ExecuteSink {
  std::function<void(int rank, bool error, std::string_view line)> line;  // of a rank's output
  std::function<void(std::string_view)> progress;                         // "step 3/5  loss 2.31"
  std::function<void(std::string_view)> note;
};

// How the experts that a run chose differ from the reference's.
struct ChoiceSummary {
  struct Differences {
    std::int64_t count = 0;
    double largest_gap = 0;  // of scores, relative
    std::string largest;     // that one, in words
  };
  std::int64_t routings = 0;   // of one token by one layer
  bool replayed = false;       // fp32, bf16: the reference took the run's choices
  Differences on_its_own;      // from what the reference would have chosen on its own way
  Differences judged;          // from what it would have chosen where the run stood
  double allowed_gap = 0;      // of the latter
  std::int64_t num_wrong = 0;  // of these, choices with a larger one
};

struct VerifySummary {
  double max_rel_loss = 0, max_rel_grad = 0, max_rel_norm = 0, max_abs_parameter = 0;
  double max_rel_evaluation = 0;  // 0 where the run has none
  double max_abs_bias = 0;        // of routers
  std::string worst_tensor, replica_difference;
  bool replicas_equal = true;
  std::optional<ChoiceSummary> choices;  // of models with experts
  bool passed = false;
};

// One kind of communication, summed over ranks and all steps.
struct CommunicationTotal {
  std::int64_t calls = 0, bytes_in = 0;                // by the plan
  std::int64_t bytes_sent = 0, bytes_sent_by_law = 0;  // counted; in closed form
};

struct EvaluationSummary {
  int step = 0;  // of training: after this one
  double loss = 0;
};

struct ExecuteSummary {
  int ranks = 0;
  int first_step = 0;    // of training; above 0 where it resumed
  int warmup_steps = 0;  // of this run
  double iteration_s = 0;
  std::vector<double> step_s;                         // of the slowest rank, counted steps
  std::vector<double> losses;                         // every step of this run, warm-up too
  std::vector<EvaluationSummary> evaluations;         // of this run
  double tokens_per_s = 0;                            // of a step of iteration_s
  std::vector<std::int64_t> peak_bytes;               // by rank
  std::map<std::string, std::int64_t> peak_by_class;  // of the rank with most
  std::vector<std::int64_t> kernel_scratch_bytes;     // by rank: LibTorch's own, beside the plan
  // By communicator and tag: "tp attn.out".
  std::map<std::string, CommunicationTotal> communication;
  std::vector<ExpertLoad> experts;  // by layer, of all steps; empty without
  double dropped_share = 0;         // of all assignments
  int routing_steps = 0;            // steps in routing.csv: all, or as many as its limit allows
  bool pinned = false;              // compute threads had cores of their own
  double wall_s = 0;
  double checkpoint_s = 0;  // rank 0's time between steps for checkpoints
  double evaluation_s = 0;  // rank 0's time between steps for evaluations
  // Steps begun again because the update before had to be clipped; updates checked late only.
  std::optional<int> roll_backs;
  std::optional<VerifySummary> verify;
};

// Files of an older run in the directory that this one will write again. Metrics of the steps
// before `first_step` stay.
[[nodiscard]] Status remove_old_results(const std::string& run_dir, int first_step);

// An error names the first cause; K.json, K.ring and logs of the ranks stay. Must be called from
// the main thread before any other thread exists.
[[nodiscard]] Result<ExecuteSummary> execute_run(const ExecuteRequest& request,
                                                 const ExecuteSink& sink);

}  // namespace tandem::tools
