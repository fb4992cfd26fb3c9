// The machine a plan is charged to: nodes, devices, links with capacity and latency, and the one
// route between two ranks. Figures come from the scenario; docs/simulator_model.md, "Cluster".
//
//   Placement  rank r is device r % d of node r / d, d = devices_per_node. A local cluster is one
//              node that holds every rank.
//   Node       switch: a link up and a link down a device.   full_mesh: a link a pair and direction
//              with bandwidth / (d - 1).   ring: a link to each neighbour with bandwidth / 2.
//   Cluster    NIC of device i: i * nics_per_node / d; a link up and a link down a NIC.
//              fat_tree, rail_optimised: NICs of one index share a rail switch. Traffic between
//                two rails also crosses the trunk up of one and the trunk down of the other, each
//                nodes * bandwidth / oversubscription.
//              fat_tree otherwise: the NICs of a node share a leaf switch; traffic between nodes
//                crosses the trunk up of one and down of the other, nics * bandwidth / oversub.
//              switch: no trunk.   ring, full_mesh: as inside a node, between nodes, with
//                nics_per_node * bandwidth in place of bandwidth, and no NIC link.
//   Latency    of a level: paid once on each route that uses it (once a hop on a ring).
#pragma once

#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/base/result.h"
#include "common/base/units.h"
#include "common/scenario/scenario.h"

namespace tandem::sim {

enum class LinkKind : std::uint8_t {
  device_up,
  device_down,
  nic_up,
  nic_down,
  trunk_up,
  trunk_down,
  direct
};

struct Link {
  LinkKind kind = LinkKind::direct;
  double capacity = 0;  // bytes/s
  Picoseconds latency = 0;
};

struct Level {  // one level of the network, its links at first_link..
  NetworkLevel spec;
  LinkId first_link;
  LinkId first_trunk;  // fat_tree
  bool present = false;
};

struct Cluster {
  ClusterSpec spec;
  int world = 0, nodes = 1, devices_per_node = 1;
  bool local = true;
  int cores_per_node = 1;  // local: shared by the ranks of the node
  Level inner, outer;      // scope node, scope cluster
  std::vector<Link> links;
  std::vector<double> slow;  // factor of each rank's computing; empty: all 1

  [[nodiscard]] int node_of(Rank r) const { return r.value / devices_per_node; }
  [[nodiscard]] int device_of(Rank r) const { return r.value % devices_per_node; }
  [[nodiscard]] int nic_of(Rank r) const {
    return outer.present ? static_cast<int>(std::int64_t{device_of(r)} * outer.spec.nics_per_node /
                                            devices_per_node)
                         : 0;
  }
  [[nodiscard]] double slow_factor(Rank r) const { return slow.empty() ? 1.0 : slow[r.index()]; }
  // Every level treats its devices or nodes alike: what folding needs.
  [[nodiscard]] bool symmetric() const;
  // Appends the links from one rank to another; none for a rank to itself.
  void route(Rank from, Rank to, std::vector<LinkId>& out) const;
  [[nodiscard]] Picoseconds latency(Rank from, Rank to) const;

 private:
  void route_direct(const Level& level, int size, int from, int to, std::vector<LinkId>& out) const;
};

// E-CLUS-015: more ranks than devices. E-CLUS-016: a level that cannot be built.
[[nodiscard]] Result<Cluster> make_cluster(const ClusterSpec& spec, int world);

}  // namespace tandem::sim
