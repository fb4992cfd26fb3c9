// Cuts the step of a rank along its compute stream into parts that sum to it exactly: where did
// the time go? docs/learn/ch08_compare.md tells what the parts are for.
//
//   compute CLASS     kernel calls of the compute stream, by cost class (matmul, attention, ...)
//   transfer COMM     the compute stream is idle and the communication it waits for is moving data
//   waiting COMM      the same, but that communication still waits for its other members
//   host              the compute stream is idle because the host has not issued the next op, or
//                     between ready and the first kernel, or between the kernel calls of an op
//   idle              nothing above: other streams (copies), and time outside the rank's own step
//
//   Method  Time is whole ns (a tick is rounded down, everywhere, before any difference). A gap
//           before compute op X is walked from left to right. At each instant the blame goes down
//           the chain of what X waits for: of the waits that have not ended the one that ends last;
//           if that one is not ready yet, what it waits for in its turn, including the op before it
//           on its stream. Where an op is not issued yet, the host is asked: it may stand in a
//           host_wait, or wait for a free. After the last compute op, X is the end of the step.
//   Exact   the parts are differences of one increasing sequence of cut points, so they sum.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "common/plan/plan.h"
#include "common/timeline/timeline.h"

namespace tandem {

enum class PartKind : std::uint8_t { compute, transfer, waiting, host, idle };
inline constexpr int kNumPartKinds = 5;
[[nodiscard]] std::string_view name_of(PartKind k);

struct PartKey {
  PartKind kind = PartKind::idle;
  std::int32_t index = -1;  // compute: CostClass; transfer, waiting: CommId; else -1
  auto operator<=>(const PartKey&) const = default;
};
// "compute matmul", "waiting edge:0->1", "host", "idle"
[[nodiscard]] std::string part_name(const Plan& plan, PartKey key);

using Parts = std::map<PartKey, std::int64_t>;  // ns

// Spans and calls of one rank and one step of a timeline, sorted by op.
struct RankStep {
  std::span<const Span> spans;
  std::span<const CallSpan> calls;
  std::int64_t started_ns = 0, ended_ns = 0;  // of its step mark; of its spans if it has none
};
[[nodiscard]] RankStep rank_step(const Timeline& timeline, int rank, int step);

// Rounds down; the one conversion of ticks that reports use.
[[nodiscard]] std::int64_t to_ns(const Timeline& timeline, std::int64_t ticks);

// The parts sum to ended_ns - started_ns of `rank`.
[[nodiscard]] Parts cut_into_parts(const Plan& plan, const Timeline& timeline,
                                   const RankStep& rank);

}  // namespace tandem
