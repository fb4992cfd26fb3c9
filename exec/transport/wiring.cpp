#include "exec/transport/wiring.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "exec/transport/program.h"

namespace tandem::exec {
namespace {

using Pair = std::pair<int, int>;  // member indices, smaller first

// What the ops of one program need of one communicator: one example of each kind, algorithm, peer.
using Uses = std::map<std::tuple<OpKind, CollectiveAlgorithm, int>, const Op*>;

void add_pairs(const Plan& plan, int program, const Op& op, const AlgorithmSetting& setting,
               std::set<Pair>& out) {
  const Communicator& comm = plan.communicators[op.comm.index()];
  if (is_p2p(op.kind)) {
    out.insert(std::minmax(member_of(comm, program), member_of(comm, op.peer)));
    return;
  }
  for (int i = 0; i < comm.size; ++i)
    for (int peer : peers_of(program_of(plan, op, i, setting).steps))
      out.insert(std::minmax(i, peer));
}

// By communicator, then by program.
std::vector<std::vector<std::set<Pair>>> pairs_of_programs(const Plan& plan,
                                                           const AlgorithmSetting& setting) {
  std::vector<std::vector<std::set<Pair>>> out(plan.communicators.size(),
                                               std::vector<std::set<Pair>>(plan.programs.size()));
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    std::vector<Uses> uses(plan.communicators.size());
    for (const Op& op : plan.ops_of(ProgramId{static_cast<int>(p)})) {
      if (!is_communication(op.kind)) continue;
      const int members = plan.communicators[op.comm.index()].size;
      uses[op.comm.index()].try_emplace({op.kind, algorithm_of(op, members, setting), op.peer},
                                        &op);
    }
    for (std::size_t c = 0; c < uses.size(); ++c)
      for (const auto& [use, op] : uses[c])
        add_pairs(plan, static_cast<int>(p), *op, setting, out[c][p]);
  }
  return out;
}

}  // namespace

std::vector<Wire> wires_of(const Plan& plan, const AlgorithmSetting& setting) {
  const auto pairs = pairs_of_programs(plan, setting);
  std::vector<Wire> out;
  for (std::size_t c = 0; c < plan.communicators.size(); ++c) {
    const CommId comm{static_cast<int>(c)};
    for (int r = 0; r < plan.header.mesh.world(); ++r) {
      const std::vector<Rank> members = plan.members(comm, Rank{r});
      if (members.empty() || *std::min_element(members.begin(), members.end()) != Rank{r}) continue;
      std::set<Pair> ranks;  // of this group, in all programs of its members
      std::set<ProgramId> programs;
      for (Rank m : members) programs.insert(plan.program_of(m));
      for (ProgramId p : programs)
        for (const auto& [i, j] : pairs[c][p.index()])
          ranks.insert(std::minmax(members[static_cast<std::size_t>(i)].value,
                                   members[static_cast<std::size_t>(j)].value));
      for (const auto& [a, b] : ranks) out.push_back({comm, Rank{a}, Rank{b}});
    }
  }
  return out;
}

std::vector<Wire> wires_of_rank(std::span<const Wire> wires, Rank rank) {
  std::vector<Wire> out;
  for (const Wire& w : wires)
    if (w.a == rank || w.b == rank) out.push_back(w);
  return out;
}

DescriptorNeeds descriptor_needs(std::span<const Wire> wires) {
  std::map<Rank, std::int64_t> by_rank;
  for (const Wire& w : wires) ++by_rank[w.a], ++by_rank[w.b];
  std::int64_t most = 0;
  for (const auto& [rank, count] : by_rank) most = std::max(most, count);
  return {2 * std::ssize(wires) + kOtherDescriptors, most + kOtherDescriptors};
}

Status check_descriptors(std::span<const Wire> wires, std::int64_t limit, std::int64_t extra) {
  const DescriptorNeeds needs = descriptor_needs(wires);
  const std::int64_t most = std::max(needs.launcher + extra, needs.rank);
  if (most <= limit) return Ok{};
  return make_error(
      Failure::infeasible, "E-EXEC-046", "the run needs more open files than the system allows",
      fmt::format("{} socket pairs: {} descriptors at the launcher, {} at a rank; the limit is {}",
                  wires.size(), needs.launcher + extra, needs.rank, limit),
      "2 * pairs + " + std::to_string(kOtherDescriptors + extra) + " <= limit",
      fmt::format("ulimit -n {}, or fewer ranks, or execute.deterministic: false with large groups",
                  most));
}

}  // namespace tandem::exec
