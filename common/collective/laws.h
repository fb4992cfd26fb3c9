// Steps and bytes of collectives in closed form, for any count; the tests compare them with the
// step programs, and the transport's counters with them. n members, X elements in the buffer, x_c
// elements in chunk c of n (step.h, or any sizes); all numbers are what ONE member does.
//
//   algorithm          all_reduce                     reduce_scatter   all_gather
//   ring               2X - x_i - x_(i+1)             X - x_i          X - x_(i+1)
//   direct             (X - x_i) + (n-1) x_i          X - x_i          (n-1) x_i
//   halving_doubling   (X - x_i) + sum over d = 1, 2, 4, .. n/2 of the block of d chunks around i
//   tree               X (children + (0 if root else 1))
//   broadcast          tree: X * children; ring: X, the last 0; direct: the root (n-1) X
//   When n divides X all but tree are 2 (n-1)/n X, and (n-1)/n X for each half.
#pragma once

#include <cstdint>
#include <span>

#include "common/collective/step.h"

namespace tandem {

// Elements that `member` sends. `count`: elements of the whole buffer.
[[nodiscard]] std::int64_t elements_sent(Collective collective, CollectiveAlgorithm algorithm,
                                         int members, int member, std::int64_t count, int root = 0);
// The same where chunk c is [starts[c], starts[c + 1]): parts of unequal size. `starts`: one more
// than members, from 0, ascending. all_reduce, all_gather and reduce_scatter.
[[nodiscard]] std::int64_t elements_sent(Collective collective, CollectiveAlgorithm algorithm,
                                         std::span<const std::int64_t> starts, int member);

// Latencies one behind the other on the longest path, each chunk sent at once (pipelining left
// out): ring 2(n-1), direct 2, halving_doubling 2 log2 n, tree 2 floor(log2 n) for an all_reduce.
[[nodiscard]] int latency_steps(Collective collective, CollectiveAlgorithm algorithm, int members);

// nccl-tests' factor from algbw to busbw: all_reduce 2(n-1)/n, all_gather and
// reduce_scatter (n-1)/n, broadcast 1. algbw = bytes of the whole buffer / time.
[[nodiscard]] double bus_factor(Collective collective, int members);

}  // namespace tandem
