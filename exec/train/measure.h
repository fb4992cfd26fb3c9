// What is measured of a step when it has ended (training.metrics.every; models.md 8.3): sums over
// the gradients and parameters that a rank owns, where its time went, its experts and its memory;
// and how rank 0 puts those of all ranks together. Nothing of it runs inside a step.
//
//   counts once   each element is summed by the rank that saves it in a checkpoint: coordinate 0
//                 on every axis over which it is replicated (checkpoint/held.h; models.md 4.9)
//   gradient      reduced, before clipping: what stays in its buffer behind the step
//   step          d = p' - p of AdamW, in fp64 from what it has left: moments m, v and p'
//                   d = ((keep - 1) p' - u) / keep,   u = step_size m / (sqrt(v) / root + eps)
//                 so no copy of the parameters is kept. Main parameters, not their bf16 copies
//   ratio         sqrt(sum d^2) / sqrt(sum p'^2): of all, of a layer, of each tensor
//   p50, p95, max of the ratios of tensors (their full ones, whoever holds them): the smallest that
//                 at least 50 % or 95 % do not exceed. Tensors that are all 0 have no ratio
//   time          parts of the step along the compute stream (common/report/parts.h), mean over
//                 ranks: compute + exposed + waiting + host + idle = the mean step
//   pipeline idle waiting for the communicators that carry sends and receives
//   memory        of the rank whose peak is largest: live now, and the peaks so far in this run,
//                 beside those that the plan has with balanced experts
// Ranks write RUN/ranks/K.measures.json and meet; rank 0 reads the files. No LibTorch.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/plan/live_bytes.h"
#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "common/report/expert_load.h"
#include "common/report/parts.h"
#include "exec/checkpoint/save.h"
#include "exec/train/activations.h"

namespace tandem::exec {

// Over elements of one tensor.
struct TensorSums {
  double elements = 0, zeros = 0;                // of the gradient; counts
  double gradient = 0, step = 0, parameter = 0;  // sums of squares
  TensorSums& operator+=(const TensorSums& other);
};

// What one rank knows of a step.
struct RankMeasures {
  int rank = 0, step = 0;
  std::map<std::string, TensorSums> tensors;         // that it owns elements of
  std::map<std::string, double> seconds;             // "compute", "exposed tp", "waiting tp", ...
  std::map<int, std::vector<std::int64_t>> choices;  // by layer, of this step
  std::map<int, double> bias_spread;                 // by layer: largest - smallest router bias
  Activations activations;                           // with training.metrics.activations
  Bytes peak_bytes = 0;                              // most of the plan's buffers, so far
  ClassBytes live{}, peak_by_class{};
  Bytes kernel_scratch_bytes = 0;  // most that LibTorch held beside them
  Bytes slab_bytes = 0;            // address space of the plan's buffers
};

// Put together.
struct Measures {
  std::vector<double> norm_by_layer;           // of gradients
  std::map<std::string, double> norm_outside;  // of layers: "embed", "final_norm", "head", ...
  std::optional<double> first_over_last;       // norms of the first and the last layer
  double zero_share = 0;                       // of gradient elements
  double parameter_norm = 0;
  double update_ratio = 0, update_p50 = 0, update_p95 = 0, update_max = 0;
  std::string update_max_tensor;
  std::vector<double> update_by_layer;
  std::vector<ExpertLoad> experts;  // of this step
  std::map<int, double> bias_spread;
  Activations activations;  // of all ranks
  double compute_s = 0, host_s = 0, idle_s = 0, pipeline_idle_s = 0;
  std::map<std::string, double> exposed_s, waiting_s;  // by communicator
  int fullest_rank = 0;
  Bytes peak_bytes = 0, predicted_peak_bytes = 0;
  ClassBytes live{}, peak_by_class{}, predicted_by_class{};
  Bytes kernel_scratch_bytes = 0, slab_bytes = 0;
  double seconds = 0;  // that rank 0 spent on it
};

// The sums of the tensors that `rank` owns elements of, behind step `step` of training.
[[nodiscard]] std::map<std::string, TensorSums> tensor_sums(const Plan& plan, Rank rank,
                                                            const TrainingConfig& config, int step,
                                                            const BufferMemory& memory);
// E-EXEC-031: the optimizer has left a value that is not finite.
[[nodiscard]] Status check_finite(const std::map<std::string, TensorSums>& tensors, int step);

// Largest - smallest bias of each sigmoid router that the rank holds.
[[nodiscard]] std::map<int, double> bias_spreads(const Plan& plan, Rank rank,
                                                 const BufferMemory& memory);

// Names of the parts as RankMeasures::seconds has them.
[[nodiscard]] std::map<std::string, double> seconds_of(const Plan& plan, const Parts& parts);

// `ranks`: of all ranks of the plan. Tensors are added in the order of ranks.
[[nodiscard]] Measures combine(const Plan& plan, std::span<const RankMeasures> ranks);

// RUN/ranks/K.measures.json. E-IO-010.
[[nodiscard]] Status write_measures(const RankMeasures& measures, const std::string& run_dir);
// Rank 0, when every rank has written. E-EXEC-034.
[[nodiscard]] Result<std::vector<RankMeasures>> read_measures(int world, int step,
                                                              const std::string& run_dir);

}  // namespace tandem::exec
