// Batches: a pure function of (seed, step, microbatch, data index), so every rank of the first and
// the last stage reads its own and nobody sends any (models.md 2.8 random, 8.2 text).
//   q = microbatch*Dn*b + D*b + row      sequence of the step; the set does not depend on the mesh
//   gidx = step*B + q                    sequence of the run
// Validation: `step` is the number of the batch in its evaluation, so that every evaluation reads
// the same sequences. Text: the last tenth of the bytes, by the same sampler under the name
// "validation". Random: the counter's word of the step has its highest bit set, which no step has.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/result.h"
#include "common/plan/training.h"

namespace tandem::exec {

enum class DataPart { training, validation };

class BatchSource {
 public:
  // Reads the text where data_kind is text; its last tenth is for validation and never trained on.
  [[nodiscard]] static Result<BatchSource> open(const TrainingConfig& config,
                                                DataPart part = DataPart::training);

  // i64[b, S+1]: inputs are columns 0..S-1, labels 1..S.
  void fill(std::int64_t* batch, int step, int microbatch, int data_index, int num_data) const;

  // Where sequence `gidx` of the part begins in the `bytes` bytes of its text.
  [[nodiscard]] static std::uint64_t offset(const TrainingConfig& config, std::uint64_t gidx,
                                            std::uint64_t bytes,
                                            DataPart part = DataPart::training);

 private:
  BatchSource(const TrainingConfig& config, DataPart part) : config_(config), part_(part) {}
  TrainingConfig config_;
  DataPart part_;
  std::string text_;  // of the part
};

}  // namespace tandem::exec
