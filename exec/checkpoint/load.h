// Loading a checkpoint into any mesh of its model. The tool checks the whole folder before a rank
// starts; a rank then reads the records that hold something of what it needs. No LibTorch.
#pragma once

#include <string>
#include <string_view>

#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "exec/checkpoint/manifest.h"
#include "exec/checkpoint/save.h"

namespace tandem::exec {

// CHECKPOINT/manifest.json. E-CKPT-002 where there is none, E-CKPT-003.
[[nodiscard]] Result<CheckpointManifest> read_manifest(const std::string& checkpoint);

// Every file is there with its size and SHA-256, and they hold every element once. Reads all
// bytes. E-CKPT-003, E-CKPT-004.
[[nodiscard]] Status check_files(const CheckpointManifest& manifest, const std::string& checkpoint);

// Whether `plan` and `config` continue that training: same parameters (E-CKPT-005), precision and
// optimizer (E-CKPT-006), seed (E-CKPT-007; at step 0 a warning). `warnings`: also another batch or
// sequence, which changes what is read from here on.
[[nodiscard]] Status check_continues(const CheckpointManifest& manifest,
                                     const std::string& checkpoint, const Plan& plan,
                                     const TrainingConfig& config, Diagnostics& warnings);

// Fills main parameters, m, v and the copies of the compute type of one rank. E-CKPT-004.
[[nodiscard]] Status load_rank(const CheckpointManifest& manifest, const std::string& checkpoint,
                               const Plan& plan, Rank rank, const BufferMemory& memory);

}  // namespace tandem::exec
