// Batches: a pure function of (seed, step, microbatch, data index), so every rank of the first and
// the last stage reads its own and nobody sends any (models.md 2.8 random, 8.2 text).
//   q = microbatch*Dn*b + D*b + row      sequence of the step; the set does not depend on the mesh
//   gidx = step*B + q                    sequence of the run
#pragma once

#include <cstdint>
#include <string>

#include "common/base/result.h"
#include "common/plan/training.h"

namespace tandem::exec {

class BatchSource {
 public:
  // Reads the text where data_kind is text; its last tenth is for validation and never trained on.
  [[nodiscard]] static Result<BatchSource> open(const TrainingConfig& config);

  // i64[b, S+1]: inputs are columns 0..S-1, labels 1..S.
  void fill(std::int64_t* batch, int step, int microbatch, int data_index, int num_data) const;

  // Where sequence `gidx` of a run begins in a text of `bytes` training bytes.
  [[nodiscard]] static std::uint64_t offset(const TrainingConfig& config, std::uint64_t gidx,
                                            std::uint64_t bytes);

 private:
  explicit BatchSource(const TrainingConfig& config) : config_(config) {}
  TrainingConfig config_;
  std::string text_;  // training part
};

}  // namespace tandem::exec
