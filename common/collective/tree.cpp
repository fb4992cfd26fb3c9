// Binary tree: sums go up, results go down, in kPipelineChunks chunks one behind the other.
//
//          0            member i (counted from the root) has children 2i+1, 2i+2
//        /   \          depth d = floor(log2 n)
//       1     2
//      / \             all_reduce: 2 d latencies, X bytes up each edge and X down
//     3   4            broadcast: the way down only
//   Order of summands: own + left subtree + right subtree: fixed by n.
#include "common/collective/builders.h"

namespace tandem::collective {

MemberProgram tree(Collective collective, int n, int i, int root) {
  MemberProgram p{n, kPipelineChunks, {}};
  const int place = (i - root + n) % n;
  const auto member = [&](int at) { return (at + root) % n; };
  const int parent = place == 0 ? -1 : member((place - 1) / 2);
  int round = 0;
  if (collective == Collective::all_reduce)
    for (int c = 0; c < kPipelineChunks; ++c) {
      for (int child = 2 * place + 1; child <= 2 * place + 2 && child < n; ++child)
        p.steps.push_back({round++, -1, {}, member(child), {c, 1}, StepAction::reduce});
      if (parent >= 0) p.steps.push_back({round++, parent, {c, 1}, -1, {}, StepAction::copy});
    }
  for (int c = 0; c < kPipelineChunks; ++c) {
    if (parent >= 0) p.steps.push_back({round++, -1, {}, parent, {c, 1}, StepAction::copy});
    for (int child = 2 * place + 1; child <= 2 * place + 2 && child < n; ++child)
      p.steps.push_back({round, member(child), {c, 1}, -1, {}, StepAction::copy});
    ++round;
  }
  return p;
}

}  // namespace tandem::collective
