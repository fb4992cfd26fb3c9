#include "sim/cluster/cluster.h"

#include <fmt/format.h>

namespace tandem::sim {
namespace {

// A full mesh has a link for each pair and direction; beyond this it is no machine.
constexpr int kMeshSize = 1024;

Error cannot_build(std::string found, std::string expected, std::string hint) {
  return make_error(Failure::infeasible, "E-CLUS-016", "a level of the network cannot be simulated",
                    std::move(found), std::move(expected), std::move(hint));
}

void add(Cluster& c, LinkKind kind, std::int64_t count, double capacity, double latency) {
  c.links.insert(c.links.end(), static_cast<std::size_t>(count),
                 Link{kind, capacity, seconds_to_ps(latency)});
}

LinkId next_link(const Cluster& c) { return LinkId{static_cast<std::int64_t>(c.links.size())}; }

// Links of a ring (clockwise, then counter-clockwise) or of a full mesh, `groups` times.
Status add_direct(Cluster& c, Level& level, int groups, int size, double bandwidth) {
  const bool ring = level.spec.kind == "ring";
  if (!ring && size > kMeshSize)
    return cannot_build(fmt::format("a full mesh of {}", size),
                        fmt::format("at most {} devices or nodes", kMeshSize),
                        "use kind: switch or fat_tree");
  if (size < 2) return Ok{};
  const std::int64_t per_group = ring ? 2LL * size : std::int64_t{size} * size;
  add(c, LinkKind::direct, groups * per_group, ring ? bandwidth / 2 : bandwidth / (size - 1),
      level.spec.latency);
  return Ok{};
}

Status add_inner(Cluster& c) {
  c.inner.first_link = next_link(c);
  const NetworkLevel& s = c.inner.spec;
  if (s.kind == "ring" || s.kind == "full_mesh")
    return add_direct(c, c.inner, c.nodes, c.devices_per_node, s.bandwidth);
  const std::int64_t devices = std::int64_t{c.nodes} * c.devices_per_node;
  add(c, LinkKind::device_up, devices, s.bandwidth, s.latency);
  add(c, LinkKind::device_down, devices, s.bandwidth, 0);
  return Ok{};
}

Status add_outer(Cluster& c) {
  c.outer.first_link = next_link(c);
  const NetworkLevel& s = c.outer.spec;
  if (s.kind == "ring" || s.kind == "full_mesh")
    return add_direct(c, c.outer, 1, c.nodes, s.bandwidth * s.nics_per_node);
  const std::int64_t nics = std::int64_t{c.nodes} * s.nics_per_node;
  add(c, LinkKind::nic_up, nics, s.bandwidth, s.latency);
  add(c, LinkKind::nic_down, nics, s.bandwidth, 0);
  if (s.kind != "fat_tree") return Ok{};
  c.outer.first_trunk = next_link(c);
  const int trunks = s.rail_optimised ? s.nics_per_node : c.nodes;
  const int nics_each = s.rail_optimised ? c.nodes : s.nics_per_node;
  const double capacity = nics_each * s.bandwidth / s.oversubscription;
  add(c, LinkKind::trunk_up, trunks, capacity, 0);
  add(c, LinkKind::trunk_down, trunks, capacity, 0);
  return Ok{};
}

LinkId operator+(LinkId first, std::int64_t offset) { return LinkId{first.value + offset}; }

bool is_direct(const Level& level) {
  return level.present && (level.spec.kind == "ring" || level.spec.kind == "full_mesh");
}

}  // namespace

bool Cluster::symmetric() const { return !is_direct(inner) && !is_direct(outer); }

// `from` and `to` count devices of one node, or nodes.
void Cluster::route_direct(const Level& level, int size, int from, int to,
                           std::vector<LinkId>& out) const {
  const int group = &level == &inner ? from / size : 0;
  const int a = from % size, b = to % size;
  if (level.spec.kind == "full_mesh") {
    out.push_back(level.first_link + (std::int64_t{group} * size * size + a * size + b));
    return;
  }
  const std::int64_t base = std::int64_t{group} * 2 * size;
  const int forward = (b - a + size) % size;  // hops clockwise; the shorter way, ties clockwise
  if (2 * forward <= size) {
    for (int i = 0; i < forward; ++i) out.push_back(level.first_link + (base + (a + i) % size));
  } else {
    for (int i = 0; i < size - forward; ++i)
      out.push_back(level.first_link + (base + size + (a - i + size) % size));
  }
}

void Cluster::route(Rank from, Rank to, std::vector<LinkId>& out) const {
  if (from == to) return;
  const int a = node_of(from), b = node_of(to);
  if (a == b) {
    if (is_direct(inner)) return route_direct(inner, devices_per_node, from.value, to.value, out);
    const std::int64_t devices = std::int64_t{nodes} * devices_per_node;
    out.push_back(inner.first_link + from.value);
    out.push_back(inner.first_link + (devices + to.value));
    return;
  }
  if (is_direct(outer)) return route_direct(outer, nodes, a, b, out);
  const NetworkLevel& s = outer.spec;
  const std::int64_t nics = std::int64_t{nodes} * s.nics_per_node;
  const int nic_a = nic_of(from), nic_b = nic_of(to);
  out.push_back(outer.first_link + (std::int64_t{a} * s.nics_per_node + nic_a));
  if (s.kind == "fat_tree" && (!s.rail_optimised || nic_a != nic_b)) {
    const int trunks = s.rail_optimised ? s.nics_per_node : nodes;
    out.push_back(outer.first_trunk + (s.rail_optimised ? nic_a : a));
    out.push_back(outer.first_trunk + (trunks + (s.rail_optimised ? nic_b : b)));
  }
  out.push_back(outer.first_link + (nics + std::int64_t{b} * s.nics_per_node + nic_b));
}

Picoseconds Cluster::latency(Rank from, Rank to) const {
  std::vector<LinkId> path;
  route(from, to, path);
  Picoseconds sum = 0;
  for (LinkId l : path) sum += links[l.index()].latency;
  return sum;
}

Result<Cluster> make_cluster(const ClusterSpec& spec, int world) {
  Cluster c;
  c.spec = spec;
  c.world = world;
  c.local = spec.local;
  c.nodes = spec.local ? 1 : spec.nodes;
  c.devices_per_node = spec.local ? world : spec.devices_per_node;
  c.cores_per_node = spec.cores_per_node > 0 ? spec.cores_per_node : c.devices_per_node;
  if (const std::int64_t devices = std::int64_t{c.nodes} * c.devices_per_node; world > devices)
    return make_error(
        Failure::infeasible, "E-CLUS-015", "the plan has more ranks than the cluster",
        fmt::format("{} ranks, {} nodes of {} devices", world, c.nodes, c.devices_per_node),
        fmt::format("at most {} ranks", devices), "add nodes or lower a degree");
  c.nodes = (world + c.devices_per_node - 1) / c.devices_per_node;  // the others stay idle
  for (const NetworkLevel& level : spec.network) {
    Level& mine = level.scope == "cluster" ? c.outer : c.inner;
    if (mine.present)
      return cannot_build(
          fmt::format("{} and {}, both of scope {}", mine.spec.name, level.name, level.scope),
          "at most one level of scope node and one of scope cluster",
          "join the two levels into one");
    if (level.kind != "switch" && level.kind != "fat_tree" && level.kind != "ring" &&
        level.kind != "full_mesh")
      return cannot_build("kind " + level.kind, "switch, fat_tree, ring or full_mesh",
                          "use the nearest of these");
    mine.spec = level;
    mine.present = true;
  }
  if ((!c.inner.present && c.devices_per_node > 1 && world > 1) ||
      (!c.outer.present && c.nodes > 1))
    return cannot_build(fmt::format("{} nodes of {} devices", c.nodes, c.devices_per_node),
                        "a level of scope node for several devices, of scope cluster for several "
                        "nodes",
                        "add the level to cluster.network");
  if (c.inner.present)
    if (Status s = add_inner(c); !s) return s.error();
  if (c.outer.present && c.nodes > 1)
    if (Status s = add_outer(c); !s) return s.error();
  if (!spec.slow_devices.empty()) {
    c.slow.assign(static_cast<std::size_t>(world), 1.0);
    for (const auto& [rank, factor] : spec.slow_devices)
      if (rank >= 0 && rank < world) c.slow[static_cast<std::size_t>(rank)] = factor;
  }
  return c;
}

}  // namespace tandem::sim
