// Ring: member i sends to i+1 and receives from i-1; every link carries the same bytes all the
// time.
//
//   reduce_scatter, n = 3: chunk c starts at member c+1 and picks up one summand a step
//     step 0   0 sends c2   1 sends c0   2 sends c1
//     step 1   0 sends c1   1 sends c2   2 sends c0      then member i holds the sum of chunk i
//   all_gather: step s: member i passes on chunk i-s
//   all_reduce = reduce_scatter, then all_gather
//   Law     n-1 steps of X/n for each half. Order of summands: c+1, c+2, ..., c: fixed, but another
//           one for each chunk.
//   broadcast: a chain from the root, pipelined in kPipelineChunks chunks.
#include "common/collective/builders.h"

namespace tandem::collective {
namespace {

int modulo(int a, int n) { return (a % n + n) % n; }

MemberProgram chain(int n, int i, int root) {
  MemberProgram p{n, kPipelineChunks, {}};
  const int place = modulo(i - root, n);
  const int from = place == 0 ? -1 : modulo(i - 1, n);
  const int to = place == n - 1 ? -1 : modulo(i + 1, n);
  // Round c: pass on chunk c-1 while chunk c arrives. The root has nothing to wait for.
  for (int c = 0; c <= kPipelineChunks; ++c) {
    const int out = from < 0 ? c : c - 1;
    Step s{.round = c};
    if (to >= 0 && out >= 0 && out < kPipelineChunks) s.send_to = to, s.send = {out, 1};
    if (from >= 0 && c < kPipelineChunks) s.recv_from = from, s.recv = {c, 1};
    if (s.send_to >= 0 || s.recv_from >= 0) p.steps.push_back(s);
  }
  return p;
}

}  // namespace

MemberProgram ring(Collective collective, int n, int i, int root) {
  if (collective == Collective::broadcast) return chain(n, i, root);
  MemberProgram p{n, n, {}};
  const int next = modulo(i + 1, n), previous = modulo(i - 1, n);
  int round = 0;
  if (collective != Collective::all_gather)
    for (int s = 0; s < n - 1; ++s)
      p.steps.push_back({round++,
                         next,
                         {modulo(i - 1 - s, n), 1},
                         previous,
                         {modulo(i - 2 - s, n), 1},
                         StepAction::reduce});
  if (collective != Collective::reduce_scatter)
    for (int s = 0; s < n - 1; ++s)
      p.steps.push_back({round++,
                         next,
                         {modulo(i - s, n), 1},
                         previous,
                         {modulo(i - 1 - s, n), 1},
                         StepAction::copy});
  return p;
}

}  // namespace tandem::collective
