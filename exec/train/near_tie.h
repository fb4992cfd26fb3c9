// By how much scores speak against a choice of experts. Where a run chose other experts than the
// oracle would, this tells rounding at a tie from a router that is wrong (docs/decisions.md D-041).
//
//   Given   scores z(e) of a token as they are compared (with the bias), and the K experts chosen
//   gap     max z(refused) - min z(chosen); not above 0: the choice is right
//   groups  refused counts only inside the kept groups; which these were is not known, so the best
//           case counts: the least, over all sets of groups that hold the chosen ones, of
//           max(that gap, (max q(other group) - min q(kept group)) / c), with q(g) the sum of the
//           group's c best, c as in models.md 2.5
//   Law     scores that are off by at most d make no choice with a gap above 2 d: a difference of
//           two scores moves by at most 2 d, one of two sums of c by at most 2 c d. (Without
//           groups also the reverse.) So a larger gap is an error of the router
// Pure and thread-safe. No LibTorch.
#pragma once

#include <cstdint>
#include <span>

#include "common/scenario/scenario.h"

namespace tandem::exec {

// Infinite where no scores make the choice: an expert twice, one that is not there, or experts of
// too many groups.
[[nodiscard]] double choice_gap(std::span<const double> scores,
                                std::span<const std::int32_t> chosen, const MoeSpec& moe);

}  // namespace tandem::exec
