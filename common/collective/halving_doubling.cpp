// Recursive halving and doubling, n = 2^k: log2 n steps with partners at distance n/2, n/4, ..., 1.
//
//   reduce_scatter, n = 4     0 <-> 2, 1 <-> 3: half of the buffer each way; then 0 <-> 1, 2 <-> 3:
//                             a quarter each way; member i is left with the sum of chunk i
//   all_gather                the same backwards: blocks of 1, 2, 4, ... chunks
//   Law     the ring's bytes in 2 log2 n steps instead of 2 (n-1)
//   Source  Thakur, Rabenseifner, Gropp: Optimization of collective communication operations in
//           MPICH (2005), recursive halving and doubling.
#include "common/collective/builders.h"

namespace tandem::collective {

MemberProgram halving_doubling(Collective collective, int n, int i) {
  MemberProgram p{n, n, {}};
  int round = 0;
  if (collective != Collective::all_gather)
    for (int d = n / 2; d >= 1; d /= 2) {
      const int partner = i ^ d;
      p.steps.push_back({round++,
                         partner,
                         {partner & ~(d - 1), d},
                         partner,
                         {i & ~(d - 1), d},
                         StepAction::reduce});
    }
  if (collective != Collective::reduce_scatter)
    for (int d = 1; d < n; d *= 2) {
      const int partner = i ^ d;
      p.steps.push_back({round++,
                         partner,
                         {i & ~(d - 1), d},
                         partner,
                         {partner & ~(d - 1), d},
                         StepAction::copy});
    }
  return p;
}

}  // namespace tandem::collective
