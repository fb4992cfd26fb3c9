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

// Buffers of `program` that hold tensors of class `cls` (param or grad) for the run: buckets,
// shards of buckets (ZeRO), and tensors that are in none. No views.
[[nodiscard]] std::vector<BufferId> holders(const Plan& plan, ProgramId program, BufferClass cls);

// A run of elements of one tensor's local slice, counted row by row, and where it stands.
struct HeldRange {
  Shard shard;
  int dims = 2;                     // of the tensor: 1 or 2
  SliceRule slice;                  // of the buffer that holds it
  std::int64_t begin = 0, end = 0;  // of the slice
  std::int64_t element = 0;         // of `begin` in the buffer that was asked for
};
// All of it for a whole buffer, the own part for a shard. Padding is left out.
[[nodiscard]] std::vector<HeldRange> ranges_in(const Plan& plan, BufferId buffer, Rank rank);
// Of elements [begin, end) of a whole buffer; `element` counts from its start.
[[nodiscard]] std::vector<HeldRange> ranges_in(const Plan& plan, BufferId buffer, Rank rank,
                                               std::int64_t begin, std::int64_t end);

// Place of the rank in its group of `axes`: which of equal parts it owns (ZeRO).
[[nodiscard]] std::int64_t part_of(const Plan& plan, Rank rank, AxisSet axes);

[[nodiscard]] std::array<int, kNumAxes> coordinates(const Plan& plan, Rank rank);

}  // namespace tandem::exec
