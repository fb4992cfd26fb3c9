// What is told about each step of training: values that are cheap and exact, and alerts where one
// of them passes a threshold. Pure; the files are metrics_files.h. models.md 8.3.
//
//   perplexity    exp(loss), of the validation loss too
//   spike ratio   loss / median of the losses of the last 32 steps; none before 5 of them
//   clip coef     min(1, clip / (norm + 1e-6)); 1 without clipping
//   clipped share of the last 32 steps of this process: those with a coef below 1
//   rates         of the time of rank 0's step: sequences; model FLOPs (common/model/flops.h) of
//   all
//                 ranks; MFU = these / peak of the devices that the ranks share, where it is known
//   memory share  largest peak that is known / memory of a device
//   alert         warning    severe
//     loss spike        3        10      spike ratio
//     gradient norm   100     1,000      before clipping
//     data wait       0.3       0.5      of the step: rank 0 had nothing else to wait for. Below
//                                        1 ms it is no alert: threads wake up no faster
//     memory          0.9       0.95     memory share
//     update ratio   1e-1         -      and below 1e-7: only of steps that are measured
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/diagnostic.h"
#include "common/base/units.h"
#include "common/plan/training.h"
#include "exec/checkpoint/manifest.h"
#include "exec/train/measure.h"

namespace tandem::exec {

enum class AlertLevel { none, warning, severe };
[[nodiscard]] std::string_view name_of(AlertLevel level);

struct Alert {
  std::string_view name;  // "loss_spike"
  AlertLevel level = AlertLevel::none;
  double value = 0, limit = 0;  // the threshold that was reached
  bool is_low = false;          // from above: the value is too small
};

struct StepMetrics {
  int step = 0;  // of training, from 0
  bool timed = false;
  double loss = 0, perplexity = 1;
  std::optional<double> spike_ratio;
  double grad_norm = 0, clip_coef = 1, lr = 0;  // norm: before clipping
  // Of models with experts: losses of the routers; assignments beyond a capacity.
  std::optional<double> balance, dropped, dropped_share;
  double tokens = 0, tokens_seen = 0;  // of the step; since the start of training
  double step_s = 0, data_wait_s = 0, tokens_per_s = 0;
  double checkpoint_s = 0;  // that the run has spent on checkpoints so far
  Bytes peak_bytes = 0;     // of the plan's buffers on rank 0 so far
  struct Evaluation {
    double loss = 0, perplexity = 1;
    double seconds = 0;  // that it took
  };
  std::optional<Evaluation> evaluation;  // of the parameters that the step has left
  bool non_finite = false;               // the loss; such a step is the run's last
  std::optional<double> clipped_share;   // none without clipping
  double sequences_per_s = 0, model_flops_per_s = 0;
  std::optional<double> mfu, memory_share;
  std::optional<bool> replicas_equal;  // where they were compared
  std::optional<Measures> measures;    // where the step was measured
};

// What the interpreter says about a step, without its clock.
struct StepValues {
  double loss = 0, norm = 0, lr = 0, tokens = 0;
  Nanoseconds duration = 0, data_wait = 0;
  double balance = 0, dropped = 0;
  double non_finite = 0;  // how many ranks said so
};

// Steps with a clip coefficient below 1, of the last 32 of this process.
class ClippedShare {
 public:
  // With the step of this coefficient.
  double add(double coef);

 private:
  std::deque<bool> clipped_;
};

// `before`: the state of training before the step.
[[nodiscard]] StepMetrics metrics_of(const StepValues& step, const TrainingState& before,
                                     const TrainingConfig& config);

// The state behind a step.
void advance(TrainingState& state, const StepValues& step);

// At most one for each name, of the highest level that is reached.
[[nodiscard]] std::vector<Alert> alerts_of(const StepMetrics& metrics);

// W-EXEC-001, for the log.
[[nodiscard]] Diagnostic to_diagnostic(const Alert& alert, int step);

// One line of metrics.jsonl, with its newline. A value that is not finite is written as null.
[[nodiscard]] std::string to_json_line(const StepMetrics& metrics);

}  // namespace tandem::exec
