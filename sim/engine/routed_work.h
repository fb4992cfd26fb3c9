// What routing changes in a simulation: the work of calls whose rows are known only at run time,
// the bytes that cross each pair of members, and the rows that memory is taken for; of every rank
// and step. docs/simulator_model.md, "Routing".
//
//   work      cost of the kernel with this rank's rows in the place of the balanced ones; no rows
//             cost what one does
//   charge    of an exchange of rows: bytes[i][j] that member i hands to member j in an all_to_all;
//             all_gather of unequal parts: member i's to everybody; reduce_scatter: member j's from
//             everybody (network/charges.h)
//   rows      of the buffers that follow counts (live_bytes.h)
// Immutable after make(); any thread may read it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "common/plan/live_bytes.h"
#include "common/plan/routing.h"
#include "sim/compute/compute_cost.h"
#include "sim/network/charges.h"

namespace tandem::sim {

class RoutedWork {
 public:
  // Steps 0..steps-1 of the source. Nothing of the plan may be folded.
  [[nodiscard]] static RoutedWork make(const Plan& plan, const ComputeCost& cost, Charges& charges,
                                       const RoutingSource& source, int steps);

  [[nodiscard]] int steps() const { return steps_; }
  // Of the whole op, by level; empty where its work is that of the plan.
  [[nodiscard]] std::span<const Picoseconds> work(int step, Rank rank, OpId op) const {
    return entry(step, rank, op, 0, levels_);
  }
  // Of each call at level 0; empty likewise.
  [[nodiscard]] std::span<const Picoseconds> work_of_calls(int step, Rank rank, OpId op) const {
    return entry(step, rank, op, levels_, calls_[op.index()]);
  }
  // Number of the charge of an op that moves rows, by the first member of its group; -1: it moves
  // none.
  [[nodiscard]] int charge(int step, OpId op, Rank first) const {
    const auto it = charges_.find({step, op, first});
    return it == charges_.end() ? -1 : it->second;
  }
  [[nodiscard]] const RunTimeRows& rows(int step, Rank rank) const {
    return rows_[block(step, rank)];
  }
  // Work of all ranks' routed ops in step 0, by where its cost came from, in seconds; and what the
  // plan's own costs say of the same calls.
  [[nodiscard]] const std::array<double, kNumCostSources>& seconds_by_source() const {
    return by_source_;
  }
  [[nodiscard]] const std::array<double, kNumCostSources>& balanced_seconds_by_source() const {
    return balanced_by_source_;
  }

 private:
  [[nodiscard]] std::size_t block(int step, Rank rank) const {
    return static_cast<std::size_t>(step) * world_ + rank.index();
  }
  [[nodiscard]] std::span<const Picoseconds> entry(int step, Rank rank, OpId op, std::size_t from,
                                                   std::size_t count) const {
    if (place_[op.index()] < 0) return {};
    return {work_[block(step, rank)].data() + place_[op.index()] + from, count};
  }

  int steps_ = 0;
  std::size_t world_ = 0, levels_ = 1;
  std::vector<std::int64_t> place_;             // by op: in a rank's block of work; -1: not routed
  std::vector<std::uint32_t> calls_;            // by op
  std::vector<std::vector<Picoseconds>> work_;  // by step and rank
  std::vector<RunTimeRows> rows_;               // likewise
  std::map<std::tuple<int, OpId, Rank>, int> charges_;
  std::array<double, kNumCostSources> by_source_{}, balanced_by_source_{};
};

}  // namespace tandem::sim
