// What a communication asks of the network: phases of equal steps, each with a latency and bytes
// over hops. The closed form of an uncontended communication follows from them, and the flow model
// runs the same phases with shared rates. docs/simulator_model.md, "Collectives".
//
//   A phase of n steps: every hop carries `bytes` in all, in n equal parts, each after a latency.
//   closed form  sum over phases of  n * alpha + bytes / min over links of (capacity / load)
//                alpha = the slowest hop's latency; load = hops of the phase that cross the link
//
//   kind, algorithm        phases (g members, X bytes handed over by one member)
//   send / recv            1 step, X
//   all_reduce ring        2 (g-1) steps of X/g to the next member
//   all_reduce direct      2 steps: X/g to each other member, twice
//   all_reduce halving     log2 g steps of X/2, X/4, ...; then back. g a power of two, else ring
//   all_reduce tree        2 depth latencies; X up and X down a binary tree, pipelined
//   all_gather ring        g-1 steps of X          direct: 1 step of X to each
//   reduce_scatter ring    g-1 steps of X/g        direct: 1 step of X/g to each
//   all_to_all             g-1 steps of X/g: in step k to the member k further; above 16
//                          members all steps at once, with their latencies
//   broadcast              X down a binary tree, depth latencies, pipelined
//   shift                  1 step of X to the next member
#pragma once

#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/ids.h"
#include "common/plan/plan.h"
#include "sim/cluster/cluster.h"

namespace tandem::sim {

enum class Algorithm : std::uint8_t { ring, direct, halving_doubling, tree };
[[nodiscard]] std::string_view name_of(Algorithm a);

struct StepPhase {
  int steps = 1;
  double bytes = 0;                       // over each hop, all steps together
  std::vector<std::pair<int, int>> hops;  // member index to member index
};

// The algorithm a cluster uses: its all_reduce field; auto: direct on a local host, else the
// faster of ring and tree by the closed form. Other collectives: direct on a local host, else ring.
[[nodiscard]] Algorithm choose_algorithm(const Cluster& cluster, OpKind kind, Bytes bytes,
                                         std::span<const Rank> members);

[[nodiscard]] std::vector<StepPhase> phases_of(OpKind kind, Algorithm algorithm, Bytes bytes,
                                               int members);

// Slowest hop's latency, and bytes per second through the most loaded link, of one phase alone.
struct PhaseCost {
  Picoseconds latency = 0;  // of one step
  double rate = 0;          // of every hop
};
[[nodiscard]] PhaseCost phase_cost(const Cluster& cluster, const StepPhase& phase,
                                   std::span<const Rank> members);

// The closed form. Rounded up once per latency and once per phase.
[[nodiscard]] Picoseconds closed_form(const Cluster& cluster, OpKind kind, Algorithm algorithm,
                                      Bytes bytes, std::span<const Rank> members);

}  // namespace tandem::sim
