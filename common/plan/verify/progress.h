// How far a plan gets, by the rules of schedules.md 5.1. Used by deadlock.cpp for V4 and V6.
//
//   unit      an op; a group of sends and receives (exposed together, leaves when all are done); a
//             gate, which stands for "the host waits here"
//   exposed   at the head of every queue it uses and everything it depends on is done. A queue is a
//             chain of dependencies on the unit before, so: all dependencies are done
//   done      compute, copy, host_wait, gate: when exposed. Communications: by the level
//
//   level         queues of a rank            a send is done          a receive, a collective
//   buffered      one for each stream         when exposed            its send / all exposed
//   rendezvous    one for each stream         both ends are exposed   the same
//   blocking      one for everything          as rendezvous
//   serial        streams of compute, copies; as rendezvous
//                 one for all communications
//   memory        as rendezvous; an op that allocates, and all after it, depend on every op before
//                 it that frees: the host issues it only when those have ended. A group's
//                 memory is taken when the group is issued
//
// At every level ops after a host_wait depend on it. Finishing a unit never disables another, so
// the order of visits has no influence: a work list, O(ops + waits), and it always ends.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/plan/verify/passes.h"

namespace tandem::verify {

enum class Level { buffered, rendezvous, blocking_host, serial_launch, memory_order };

// What a unit that is not done waits for, to follow until it comes round.
struct Step {
  OpId op;          // the unit's op (of a group: the one that waits)
  OpId next;        // the op it waits for
  const char* why;  // "waits for", "comes after", "needs the other end"
};

struct ProgressResult {
  std::int64_t undone = 0;  // ops
  std::vector<OpId> heads;  // per program: the first op that is not done; none where all are
  std::vector<Step> cycle;  // empty if all is done
};

[[nodiscard]] ProgressResult progress(const Plan& plan, const Matches& matches, Level level);

}  // namespace tandem::verify
