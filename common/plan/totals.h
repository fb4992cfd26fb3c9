// What one rank of a program does in a step, summed from the plan: kernels with their FLOPs and
// bytes, communications by tag with the bytes handed over and the bytes a ring sends. Measures of
// the plan itself; the closed forms they must agree with are common/model/flops.h and models.md 4.
//
//   ring bytes   what one rank sends with the ring algorithm, mean over the group of size g, X
//   bytes in:
//                all_reduce 2 (g-1)/g X, reduce_scatter (g-1)/g X, all_gather (g-1) X, send X, recv
//                0
//   Source  models.md 1 (bytes), 2.7 (executed FLOPs: the catalogue, common/model/kernels.h).
// Pure and thread-safe; order of results: first appearance in the program.
#pragma once

#include <cstdint>
#include <vector>

#include "common/plan/plan.h"

namespace tandem {

// Does any output of the call accumulate?
[[nodiscard]] bool call_accumulates(const Plan& plan, const Call& call);

// Bytes one member hands over, by what it sends with the ring algorithm.
[[nodiscard]] double ring_bytes(OpKind kind, int group_size, Bytes bytes_in);

struct KernelTotal {
  KernelId kernel;
  bool accumulates = false;
  std::int64_t calls = 0;
  KernelCost cost;  // of one call
};
[[nodiscard]] std::vector<KernelTotal> kernel_totals(const Plan& plan, ProgramId program);
[[nodiscard]] double executed_flops(const Plan& plan, ProgramId program);

// All calls of one tag, kind, communicator and size.
struct TagTotal {
  std::uint32_t tag = 0;  // Plan::name
  OpKind kind = OpKind::all_reduce;
  CommId comm;
  int group_size = 1;
  Bytes bytes_in = 0;  // of one call
  std::int64_t calls = 0;
  [[nodiscard]] Bytes total_in() const { return calls * bytes_in; }
  [[nodiscard]] double total_ring() const {
    return static_cast<double>(calls) * ring_bytes(kind, group_size, bytes_in);
  }
};
[[nodiscard]] std::vector<TagTotal> tag_totals(const Plan& plan, ProgramId program);

}  // namespace tandem
