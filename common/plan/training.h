// training.json: what a rank needs beside the plan (learning rate, data, initial values). Written
// by the tools from a scenario, read by the executor, which knows no YAML. Plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/base/result.h"
#include "common/model/parameters.h"
#include "common/scenario/scenario.h"

namespace tandem {

struct TrainingConfig {
  std::uint64_t seed = 1;
  int steps = 3, warmup_steps = 1;  // warm-up steps are real, in losses, and untimed
  int threads_per_rank = 1;
  double timeout_s = 60;
  bool deterministic = true;
  bool verify = false;  // write every step's reduced gradients to RUN/ranks/K.grads
  // model, for initial values, data and the autograd reference (models.md 2)
  std::string family = "gpt";  // gpt | llama | mixtral | deepseek_v3
  int layers = 0, hidden = 0, heads = 0, ffn_hidden = 0, vocab = 0, max_sequence = 0;
  int kv_heads = 0;  // 0: as many as heads
  int head_dim = 0;  // 0: hidden / heads
  bool tied_embeddings = true, gelu_tanh = false;
  double norm_eps = 1e-5, rope_base = 10000;
  MoeSpec moe;  // mixtral, deepseek_v3; drop_groups (of all slices) and device_groups resolved
  MlaSpec mla;  // deepseek_v3
  // Parts of a sequence in zig-zag order: with moe.drop_groups they say which tokens share a limit
  // of capacity (models.md 8a), so the reference drops what the run drops.
  int cp = 1;
  std::string init = "normal";     // normal | test
  std::string precision = "fp32";  // fp64 | fp32 | bf16
  int sequence = 0, global_batch = 0, micro_batch = 0;
  // optimizer (models.md 5)
  double lr = 3e-4, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  std::optional<double> clip = 1.0;
  bool decay_all = false;  // vectors decay too
  int lr_warmup_steps = 0, decay_steps = 0;
  bool cosine = false;
  double min_lr = 0;
  // data (models.md 8.2, random: 2.8)
  std::string data_kind = "text";  // text | random
  // In training.json relative to its folder; "builtin" becomes a file there (tools/run_files.h).
  std::string data_path = "builtin";
  std::string sampler = "random";  // random | sequential
  // checkpoints (models.md 8.1). Folders in training.json are seen from its own; empty: none
  std::string checkpoint_directory;
  int checkpoint_every = 0;  // steps; 0: only at the end
  std::string resume_from;   // the folder of one checkpoint
  int first_step = 0;        // of this run: the steps that the checkpoint has done
  int check_replicas = 0;    // steps between two comparisons of all replicas; 0: never
  // Losses of validation data, by RUN/plan_evaluation.txt: after step k where evaluates_after(k).
  int evaluation_every = 0;    // steps; 0: never
  int evaluation_batches = 1;  // global batches of one evaluation
  // What is measured between steps (models.md 8.3): after step k where measures_after(k).
  int metrics_every = 0;    // steps; 0: never
  double peak_flops = 0;    // flop/s of all devices together, for MFU; 0: not known
  double device_bytes = 0;  // memory of one device, for alerts; 0: not known
};

// Training has warmup_steps + steps steps; this run does those from first_step on.
[[nodiscard]] inline int total_steps(const TrainingConfig& c) { return c.warmup_steps + c.steps; }
// Of these the first ones are not timed: every process has to warm up.
[[nodiscard]] inline int untimed_steps(const TrainingConfig& c) {
  const int left = total_steps(c) - c.first_step;
  return c.warmup_steps < left ? c.warmup_steps : left - 1;
}

[[nodiscard]] inline bool evaluates_after(const TrainingConfig& c, int step) {
  return c.evaluation_every > 0 && (step + 1) % c.evaluation_every == 0;
}

[[nodiscard]] inline bool measures_after(const TrainingConfig& c, int step) {
  return c.metrics_every > 0 && (step + 1) % c.metrics_every == 0;
}

// Key/value heads, and the width of a head, with the zeros above resolved.
[[nodiscard]] inline int kv_heads_of(const TrainingConfig& c) {
  return c.kv_heads > 0 ? c.kv_heads : c.heads;
}
[[nodiscard]] inline int head_dim_of(const TrainingConfig& c) {
  return c.head_dim > 0 ? c.head_dim : c.hidden / c.heads;
}

// The model's shape, for its parameters by name (common/model/parameters.h).
[[nodiscard]] ModelShape model_shape(const TrainingConfig& config);

// What the scenario asks for; data_path as the scenario has it.
[[nodiscard]] TrainingConfig training_config(const Scenario& scenario);

[[nodiscard]] std::string to_json(const TrainingConfig& config);
[[nodiscard]] Result<TrainingConfig> training_from_json(const std::string& text,
                                                        const std::string& file);

// Learning rate of step k = 0.. (models.md 5, "schedule").
[[nodiscard]] double learning_rate(const TrainingConfig& config, int step);

}  // namespace tandem
