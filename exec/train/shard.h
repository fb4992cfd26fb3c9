// Which part of a full tensor a local buffer holds (the slice rule of a plan, made explicit). Used
// to fill initial values and to put gradients of all ranks together.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "common/plan/plan.h"

namespace tandem::exec {

// A block of a full [full_rows, full_columns] tensor; a vector has one column. Local element
// (r, c) of the block stands at local_begin + r * local_columns + c of the buffer.
struct Shard {
  std::string name;  // of the parameter: layers.0.attn.q.weight
  std::int64_t full_rows = 0, full_columns = 1;
  std::int64_t row_begin = 0, rows = 0, column_begin = 0, columns = 1;
  std::int64_t local_begin = 0, local_columns = 1;
};

// One shard, or one for each part of a fused buffer. Rows that only pad the full tensor are left
// out. `coordinate`: of the rank, by Axis.
[[nodiscard]] std::vector<Shard> shards_of(const Plan& plan, const Buffer& buffer,
                                           const std::array<int, kNumAxes>& coordinate);

// Buffers of `program` that are tensors of class `cls` (param or grad), not buckets of others.
[[nodiscard]] std::vector<BufferId> tensors(const Plan& plan, ProgramId program, BufferClass cls);

[[nodiscard]] std::array<int, kNumAxes> coordinates(const Plan& plan, Rank rank);

}  // namespace tandem::exec
