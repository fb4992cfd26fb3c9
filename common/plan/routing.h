// How many rows each rank sends to each expert, and what follows from it: a walk over the values of
// all buffers that count rows (models.md 4.5). The simulator takes sizes from it; the executor's
// kernels compute the same values from tokens.
//
//   Given   for each routing (layer, microbatch, slice, rank): kept rows by expert, from a
//   RoutingSource Find    for each op and rank the counts its operands hold: those of `route_fwd`;
//   of an
//           all-to-all of counts (member i gets the i-th part of everybody's); of an all-gather of
//           counts (everybody's, in order of members); of the labels of style nano_train
//           (kernels.h: label_rows_fwd, narrow_counts, count_rows)
//   Source  the order of counts: models.md 4.5, common/plan/lower/visit_expert_rows.cpp
// Pure and thread-safe; deterministic: ranks and ops in ascending order.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "common/plan/plan.h"

namespace tandem {

// One call of route_fwd by one rank. Its extents: tokens = dims[0] * dims[1], experts dims[2],
// top_k dims[3]; at most `most_rows` for each expert.
struct RoutedPlace {
  int step = 0;  // 0..
  int layer = 0, microbatch = 0;
  int slice = 0;  // of sequences that are cut
  Rank rank;
  const Kernel* kernel = nullptr;
  [[nodiscard]] std::int64_t tokens() const { return kernel->dims[0] * kernel->dims[1]; }
  [[nodiscard]] std::int64_t experts() const { return kernel->dims[2]; }
  [[nodiscard]] std::int64_t assignments() const { return tokens() * kernel->dims[3]; }
  // A token chooses an expert at most once, and a capacity (of each slice) bounds it further.
  [[nodiscard]] std::int64_t most_rows() const;
};

// Fills in the kept rows of each expert (size experts(), zeros before). Called in the order of ops,
// then of ranks; the same place gives the same counts.
using RoutingSource = std::function<void(const RoutedPlace& place, std::span<std::int32_t> kept)>;

// Every routing of the plan on every rank, by (layer, microbatch, slice, rank), ascending; step 0.
[[nodiscard]] std::vector<RoutedPlace> routed_places(const Plan& plan);

// Counts of all routings of a step: the sum of their experts.
[[nodiscard]] std::int64_t routing_counts(const Plan& plan);

// Counts of the buffers that are alive at an op, by rank.
class RowCounts {
 public:
  // Empty where the buffer holds no counts. `rank` is one of the program that has the buffer.
  [[nodiscard]] std::span<const std::int32_t> of(BufferId buffer, Rank rank) const;
  [[nodiscard]] std::optional<std::int64_t> sum(BufferId buffer, Rank rank) const;

 private:
  friend class RoutingWalk;
  std::map<BufferId, std::map<Rank, std::vector<std::int32_t>>> values_;
};

// Calls f(op, counts) for each op of each program, in order, after the op has written its counts
// and before its frees.
void walk_routing(const Plan& plan, const RoutingSource& source, int step,
                  const std::function<void(OpId, const RowCounts&)>& f);

// Rows of a call whose number is known only at run time: the sum of the counts that are among its
// inputs, where the first dimension of its kernel is rows. nullopt: any other call.
[[nodiscard]] std::optional<std::int64_t> rows_of_call(const Plan& plan, const Call& call,
                                                       const RowCounts& counts, Rank rank);

}  // namespace tandem
