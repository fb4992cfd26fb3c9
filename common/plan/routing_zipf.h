// Counts of rows where some experts are more popular than others, as Zipf's law says.
//
//   Popularity  the expert in place k = 1..E has weight k^-s; its place is drawn for each layer,
//               the same for all steps, microbatches and ranks
//   Inclusion   pi(e) = min(1, c * weight(e)) with c such that the pi sum to top_k: a token
//               chooses top_k different experts
//   Counts      systematic sampling: with C(e) = tokens * (pi(0) + ... + pi(e)) and one offset u in
//               [0, 1) for each (step, layer, microbatch, slice, rank)
//                 count(e) = floor(C(e) + u) - floor(C(e - 1) + u)
//               so each count is its mean, rounded down or up, and they sum to tokens * top_k
//   Capacity    kept(e) = min(count(e), capacity of all slices)
//   s = 0       every expert alike: where experts divides tokens * top_k, the balanced plan exactly
//   Not         the noise of single tokens (about 1 / sqrt(count)); groups of experts
//   Source      Madow, On the theory of systematic sampling, II (1949); docs/decisions.md D-037
#pragma once

#include <cstdint>

#include "common/plan/routing.h"

namespace tandem {

// Deterministic by seed: each place has random words of its own, so the order of calls is free. One
// thread at a time: it remembers means and places.
[[nodiscard]] RoutingSource zipf_routing(double exponent, std::uint64_t seed);

}  // namespace tandem
