// Sums and maxima of message elements on the host. Not here: who sends what (common/collective).
//   sum   f64, f32: one rounding an addition; bf16: added in f32; combine() rounds to bf16 after
//         each message, combine_in_order() once, after the last member (models.md 2.1)
//         i64, i32: modulo 2^64, 2^32
//   max   the first of equal values; a NaN that comes first stays, a later one is passed over
// Pure functions; safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/model/dtype.h"
#include "common/plan/plan.h"

namespace tandem::exec {

// f16 has no arithmetic here: it is a type of simulated plans only.
[[nodiscard]] bool can_reduce(DType dtype, Reduction reduction);

// own[e] = received[e] (+) own[e] for `count` elements. Needs can_reduce().
void combine(DType dtype, Reduction reduction, std::byte* own, const std::byte* received,
             std::int64_t count);

// into[e] = ((values[0][e] (+) values[1][e]) (+) values[2][e]) ...: the order of the ranks.
// `into` may be one of `values`, and does not overlap the others otherwise.
void combine_in_order(DType dtype, Reduction reduction, std::byte* into,
                      std::span<const std::byte* const> values, std::int64_t count);

}  // namespace tandem::exec
