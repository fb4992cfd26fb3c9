// Which ranks behave alike. Ranks of one class have the same program, the same speed, and in every
// communicator a group whose members have the same classes and lie alike on the machine; so they
// do the same things at the same times, and one of them is simulated for all.
//
//   Method  refine a colouring until it is stable: start with (program, slow factor); the colour
//           of a group = (communicator, how it lies, colours of its members in order); the colour
//           of a rank = (its colour, the colours of its groups). docs/simulator_model.md,
//           "Folding".
//   Not     where a level is a ring or a mesh: places differ, every rank is simulated.
#pragma once

#include <vector>

#include "common/plan/plan.h"
#include "sim/cluster/cluster.h"

namespace tandem::sim {

// Groups of one communicator that behave alike. groups[0] is simulated.
struct GroupClass {
  CommId comm;
  std::vector<std::vector<Rank>> groups;
  std::vector<int> classes;  // of the members: ascending, each once
};

struct Folding {
  std::vector<int> class_of;         // by rank
  std::vector<Rank> representative;  // by class: its lowest rank; classes ascend with it
  std::vector<int> multiplicity;     // ranks of the class
  std::vector<GroupClass> groups;
  std::vector<std::vector<int>> group_of;  // [class][communicator]: entry of `groups`, or -1
};

[[nodiscard]] Folding fold_ranks(const Plan& plan, const Cluster& cluster, bool enabled);

}  // namespace tandem::sim
