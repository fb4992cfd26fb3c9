// Direct: every member talks to every other at once; two rounds whatever n is, with the ring's
// bytes.
//
//   round 0   member i sends chunk p to each member p and receives everybody's chunk i;
//             it adds them in rank order 0, 1, ..., n-1, its own at its place
//   round 1   member i sends the finished chunk i to everybody
//   Law       all_reduce: (X - x_i) + (n-1) x_i bytes from member i, x_i = bytes of chunk i;
//             2 (n-1)/n X when n divides the count
//
// The sum of an element does not depend on which member owns its chunk, on n's divisors or on time:
// bitwise the same as a serial loop over the ranks. That is why deterministic runs use it.
// all_gather is round 1, reduce_scatter is round 0, broadcast is the root sending to everybody.
#include "common/collective/builders.h"

namespace tandem::collective {

MemberProgram direct(Collective collective, int n, int i, int root) {
  MemberProgram p{n, collective == Collective::broadcast ? 1 : n, {}};
  if (collective == Collective::broadcast) {
    for (int k = 1; k < n && i == root; ++k)
      p.steps.push_back({0, (i + k) % n, {0, 1}, -1, {}, StepAction::copy});
    if (i != root) p.steps.push_back({0, -1, {}, root, {0, 1}, StepAction::copy});
    return p;
  }
  int round = 0;
  if (collective != Collective::all_gather) {
    for (int k = 1; k < n; ++k)
      p.steps.push_back({round,
                         (i + k) % n,
                         {(i + k) % n, 1},
                         (i + n - k) % n,
                         {i, 1},
                         StepAction::reduce_in_rank_order});
    ++round;
  }
  if (collective != Collective::reduce_scatter)
    for (int k = 1; k < n; ++k)
      p.steps.push_back(
          {round, (i + k) % n, {i, 1}, (i + n - k) % n, {(i + n - k) % n, 1}, StepAction::copy});
  return p;
}

}  // namespace tandem::collective
