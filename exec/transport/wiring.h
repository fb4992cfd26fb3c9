// Which socket pairs a run on one host needs: one AF_UNIX stream pair for each communicator group
// and each two of its members that its step programs let exchange messages. The launcher makes them
// before it forks, in this order, and every rank inherits its own ends; nothing ever listens.
//
//   launcher   wires = wires_of(plan, setting); one socketpair() each: end [0] to `a`, [1] to `b`
//   rank r     its ends, as a list in the order of wires_of_rank(wires, r): LocalTransport::create
//
//   Descriptors: the launcher holds 2 * wires while it forks, a rank one for each of its wires. For
//   a communicator whose ops run `direct` a group of g members has g (g-1) / 2 wires, g-1 of them
//   at each member; ring 2, tree 3, halving_doubling log2 g at each; an edge of the pipeline 1.
//   Example: tp 2, dp 2, pp 2 (deterministic): tp 4 x 1 + dp 4 x 1 + emb 4 x 1 + two edges 4 x 1
//   each + world 28 = 48 wires, 96 descriptors at the launcher, at most 12 at a rank.
// Pure functions, safe from any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/result.h"
#include "common/collective/choose.h"
#include "common/plan/plan.h"

namespace tandem::exec {

struct Wire {
  CommId comm;
  Rank a, b;  // a < b
  bool operator==(const Wire&) const = default;
};

// Ordered by communicator, then the lowest rank of the group, then a, then b. Every rank and the
// launcher must use the same plan and setting.
[[nodiscard]] std::vector<Wire> wires_of(const Plan& plan, const AlgorithmSetting& setting);

// Those that end at `rank`, in the same order: the order of its descriptors.
[[nodiscard]] std::vector<Wire> wires_of_rank(std::span<const Wire> wires, Rank rank);

// Open descriptors a process needs for the data plane, and kOtherDescriptors for all the rest.
struct DescriptorNeeds {
  std::int64_t launcher = 0;
  std::int64_t rank = 0;  // of the rank with most wires
};
// Standard streams, logs, LibTorch's files, control plane of the process: 64 is twice what a rank
// was seen to hold. The launcher's log files and pipes, a few a rank, are its own to add.
inline constexpr std::int64_t kOtherDescriptors = 64;
[[nodiscard]] DescriptorNeeds descriptor_needs(std::span<const Wire> wires);

// Ok if `limit` (getrlimit RLIMIT_NOFILE, the value that will be in force) suffices for both, else
// E-EXEC-046 with the arithmetic. `extra`: further descriptors of the launcher.
[[nodiscard]] Status check_descriptors(std::span<const Wire> wires, std::int64_t limit,
                                       std::int64_t extra = 0);

}  // namespace tandem::exec
