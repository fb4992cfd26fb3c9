// manifest.json of a checkpoint: what was saved, of which model and mesh, in which files, and where
// each piece lies. Written last, so a folder with a manifest is whole; its content carries its own
// SHA-256. Plain data; docs/formats/checkpoint.md lists the keys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/parallel/mesh.h"
#include "exec/checkpoint/shard_file.h"

namespace tandem::exec {

// What training carries from step to step beside tensors. The random state is (seed, step): every
// draw is counter-based; so are the schedule and the position in the data.
struct TrainingState {
  int step = 0;       // steps done = the step that comes next
  double tokens = 0;  // that entered the loss
  std::optional<double> best_loss;
  int best_step = 0;
  std::vector<double> recent_losses;  // oldest first; for the spike ratio
  bool operator==(const TrainingState&) const = default;
};

struct ShardEntry {
  std::string name;  // inside the checkpoint's folder
  std::int64_t bytes = 0;
  std::string sha256;
  bool operator==(const ShardEntry&) const = default;
};

struct CheckpointManifest {
  TrainingState state;
  std::uint64_t seed = 1;
  std::string scenario_digest, plan_id, model_digest;
  std::string optimizer = "adamw", precision;  // fp64 | fp32 | bf16
  int global_batch = 0, sequence = 0;
  Mesh mesh;
  int zero = 0;
  std::vector<ShardEntry> files;
  std::vector<SavedPiece> pieces;  // sorted by name, start and flat range
  bool operator==(const CheckpointManifest&) const = default;
};

[[nodiscard]] std::string to_json(const CheckpointManifest& manifest);
// Any bytes. E-CKPT-003 names `file` and what is wrong.
[[nodiscard]] Result<CheckpointManifest> manifest_from_json(const std::string& text,
                                                            const std::string& file);

// RUN/ranks/K.shard.json: how ranks tell rank 0 what they have written. E-CKPT-011.
[[nodiscard]] std::string to_json(const ShardReceipt& receipt);
[[nodiscard]] Result<ShardReceipt> receipt_from_json(const std::string& text,
                                                     const std::string& file);

}  // namespace tandem::exec
