// Dispatch over the builders.
#include "common/collective/step.h"

#include <algorithm>
#include <array>
#include <bit>

#include "common/base/check.h"
#include "common/collective/builders.h"

namespace tandem {

std::string_view name_of(Collective c) {
  constexpr std::array<std::string_view, 4> names = {"all_reduce", "all_gather", "reduce_scatter",
                                                     "broadcast"};
  return names[static_cast<std::size_t>(c)];
}

std::string_view name_of(CollectiveAlgorithm a) {
  constexpr std::array<std::string_view, 4> names = {"ring", "tree", "halving_doubling", "direct"};
  return names[static_cast<std::size_t>(a)];
}

CollectiveAlgorithm effective_algorithm(Collective collective, CollectiveAlgorithm wanted,
                                        int members) {
  const bool broadcast = collective == Collective::broadcast;
  if (wanted == CollectiveAlgorithm::tree && !broadcast && collective != Collective::all_reduce)
    return CollectiveAlgorithm::ring;
  if (wanted == CollectiveAlgorithm::halving_doubling) {
    if (broadcast) return CollectiveAlgorithm::tree;
    if (!std::has_single_bit(static_cast<unsigned>(members))) return CollectiveAlgorithm::ring;
  }
  return wanted;
}

MemberProgram build_steps(Collective collective, CollectiveAlgorithm wanted, int members,
                          int member, int root) {
  TANDEM_CHECK(members >= 1 && member >= 0 && member < members && root >= 0 && root < members,
               "member {} and root {} of {}", member, root, members);
  if (members == 1) return {1, 1, {}};
  switch (effective_algorithm(collective, wanted, members)) {
    case CollectiveAlgorithm::ring:
      return collective::ring(collective, members, member, root);
    case CollectiveAlgorithm::tree:
      return collective::tree(collective, members, member, root);
    case CollectiveAlgorithm::halving_doubling:
      return collective::halving_doubling(collective, members, member);
    case CollectiveAlgorithm::direct:
      return collective::direct(collective, members, member, root);
  }
  return {};
}

std::vector<int> peers_of(const MemberProgram& program) {
  std::vector<int> peers;
  for (const Step& s : program.steps) {
    if (s.send_to >= 0) peers.push_back(s.send_to);
    if (s.recv_from >= 0) peers.push_back(s.recv_from);
  }
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return peers;
}

}  // namespace tandem
