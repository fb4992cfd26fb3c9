// What is told about each step of training: values that are cheap and exact, and alerts where one
// of them passes a threshold. Pure; the files are metrics_files.h. models.md 8.3.
//
//   perplexity    exp(loss), of the validation loss too
//   spike ratio   loss / median of the losses of the last 32 steps; none before 5 of them
//   clip coef     min(1, clip / (norm + 1e-6)); 1 without clipping
//   alert         warning    severe
//     loss spike        3        10      spike ratio
//     gradient norm   100     1,000      before clipping
//     data wait       0.3       0.5      of the step: rank 0 had nothing else to wait for. Below
//                                        1 ms it is no alert: threads wake up no faster
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/diagnostic.h"
#include "common/base/units.h"
#include "common/plan/training.h"
#include "exec/checkpoint/manifest.h"

namespace tandem::exec {

enum class AlertLevel { none, warning, severe };
[[nodiscard]] std::string_view name_of(AlertLevel level);

struct Alert {
  std::string_view name;  // "loss_spike"
  AlertLevel level = AlertLevel::none;
  double value = 0, limit = 0;  // the threshold that was reached
};

struct StepMetrics {
  int step = 0;  // of training, from 0
  bool timed = false;
  double loss = 0, perplexity = 1;
  std::optional<double> spike_ratio;
  double grad_norm = 0, clip_coef = 1, lr = 0;  // norm: before clipping
  // Of models with experts: losses of the routers; assignments beyond a capacity.
  std::optional<double> balance, dropped;
  double tokens = 0, tokens_seen = 0;  // of the step; since the start of training
  double step_s = 0, data_wait_s = 0, tokens_per_s = 0;
  double checkpoint_s = 0;  // that the run has spent on checkpoints so far
  Bytes peak_bytes = 0;     // of the plan's buffers on rank 0 so far
  struct Evaluation {
    double loss = 0, perplexity = 1;
    double seconds = 0;  // that it took
  };
  std::optional<Evaluation> evaluation;  // of the parameters that the step has left
};

// What the interpreter says about a step, without its clock.
struct StepValues {
  double loss = 0, norm = 0, lr = 0, tokens = 0;
  Nanoseconds duration = 0, data_wait = 0;
  double balance = 0, dropped = 0;
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
