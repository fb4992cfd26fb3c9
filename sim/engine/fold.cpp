#include "sim/engine/fold.h"

#include <algorithm>
#include <map>

#include "common/base/check.h"

namespace tandem::sim {
namespace {

using Colour = std::vector<int>;

struct Group {
  CommId comm;
  std::vector<Rank> members;
  int placement = 0;  // equal: lie alike
  int colour = 0;
};

// How the members lie: nodes, NICs and rails by order of first appearance.
Colour placement(const Cluster& c, const std::vector<Rank>& members) {
  std::map<int, int> nodes, nics, rails;
  Colour out;
  for (Rank r : members) {
    const int nic = c.nic_of(r);
    const int nic_id = c.node_of(r) * std::max(1, c.outer.spec.nics_per_node) + nic;
    out.push_back(nodes.emplace(c.node_of(r), static_cast<int>(nodes.size())).first->second);
    out.push_back(nics.emplace(nic_id, static_cast<int>(nics.size())).first->second);
    out.push_back(rails.emplace(nic, static_cast<int>(rails.size())).first->second);
  }
  return out;
}

// Every group of the communicators that ops use.
std::vector<Group> all_groups(const Plan& plan, const Cluster& cluster) {
  std::vector<bool> used(plan.communicators.size(), false);
  for (const Op& op : plan.ops)
    if (is_communication(op.kind)) used[op.comm.index()] = true;
  std::vector<Group> out;
  std::map<Colour, int> placements;
  std::vector<bool> seen;
  for (std::size_t c = 0; c < used.size(); ++c) {
    if (!used[c]) continue;
    seen.assign(static_cast<std::size_t>(cluster.world), false);
    for (int r = 0; r < cluster.world; ++r) {
      if (seen[static_cast<std::size_t>(r)]) continue;
      Group g;
      g.comm = CommId{static_cast<int>(c)};
      g.members = plan.members(g.comm, Rank{r});
      if (g.members.empty()) continue;
      for (Rank m : g.members) seen[m.index()] = true;
      g.placement =
          placements.emplace(placement(cluster, g.members), static_cast<int>(placements.size()))
              .first->second;
      out.push_back(std::move(g));
    }
  }
  return out;
}

// Numbers the values 0.. in order of first appearance; returns how many there are.
int renumber(const std::vector<Colour>& values, std::vector<int>& out) {
  std::map<Colour, int> ids;
  out.resize(values.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    out[i] = ids.emplace(values[i], static_cast<int>(ids.size())).first->second;
  return static_cast<int>(ids.size());
}

std::vector<int> initial_colours(const Plan& plan, const Cluster& cluster, bool enabled) {
  std::map<double, int> speeds;
  std::vector<Colour> values;
  for (int r = 0; r < cluster.world; ++r) {
    const double slow = cluster.slow_factor(Rank{r});
    const int speed = speeds.emplace(slow, static_cast<int>(speeds.size())).first->second;
    values.push_back({plan.program_of(Rank{r}).value, speed, enabled ? 0 : r});
  }
  std::vector<int> out;
  renumber(values, out);
  return out;
}

// One round: colours of groups from ranks, then of ranks from groups.
int refine(std::vector<Group>& groups, std::vector<int>& colour) {
  std::vector<Colour> values;
  for (const Group& g : groups) {
    Colour v = {g.comm.value, g.placement};
    for (Rank r : g.members) v.push_back(colour[r.index()]);
    values.push_back(std::move(v));
  }
  std::vector<int> of_group;
  renumber(values, of_group);
  std::vector<Colour> of_rank(colour.size());
  for (std::size_t r = 0; r < colour.size(); ++r) of_rank[r] = {colour[r]};
  for (std::size_t g = 0; g < groups.size(); ++g) {
    groups[g].colour = of_group[g];
    for (Rank r : groups[g].members) of_rank[r.index()].push_back(of_group[g]);
  }
  return renumber(of_rank, colour);
}

}  // namespace

Folding fold_ranks(const Plan& plan, const Cluster& cluster, bool enabled) {
  TANDEM_CHECK(plan.header.mesh.world() == cluster.world,
               "the cluster was made for {} ranks, not {}", cluster.world,
               plan.header.mesh.world());
  std::vector<Group> groups = all_groups(plan, cluster);
  std::vector<int> colour = initial_colours(plan, cluster, enabled && cluster.symmetric());
  // Stable when a round splits nothing; group colours are then those of the final rank colours.
  for (int before = -1, now = 0; now != before;) {
    before = now;
    now = refine(groups, colour);
  }

  Folding out;
  out.class_of = colour;
  const int num_classes = *std::max_element(colour.begin(), colour.end()) + 1;
  out.representative.assign(static_cast<std::size_t>(num_classes), Rank{});
  out.multiplicity.assign(static_cast<std::size_t>(num_classes), 0);
  for (int r = 0; r < cluster.world; ++r) {
    const auto c = static_cast<std::size_t>(colour[static_cast<std::size_t>(r)]);
    if (!out.representative[c].valid()) out.representative[c] = Rank{r};
    ++out.multiplicity[c];
  }
  out.group_of.assign(static_cast<std::size_t>(num_classes),
                      std::vector<int>(plan.communicators.size(), -1));
  std::map<int, int> index_of_colour;
  for (Group& g : groups) {
    const auto [it, fresh] = index_of_colour.emplace(g.colour, static_cast<int>(out.groups.size()));
    if (fresh) out.groups.push_back({g.comm, {}, {}});
    GroupClass& mine = out.groups[static_cast<std::size_t>(it->second)];
    if (fresh) {
      for (Rank r : g.members) mine.classes.push_back(colour[r.index()]);
      std::sort(mine.classes.begin(), mine.classes.end());
      mine.classes.erase(std::unique(mine.classes.begin(), mine.classes.end()), mine.classes.end());
      for (int c : mine.classes)
        out.group_of[static_cast<std::size_t>(c)][g.comm.index()] = it->second;
    }
    mine.groups.push_back(std::move(g.members));
  }
  return out;
}

}  // namespace tandem::sim
