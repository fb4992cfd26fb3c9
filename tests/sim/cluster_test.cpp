// Placement, routes and latencies by hand; what cannot be built is refused.
#include <doctest/doctest.h>

#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

std::vector<LinkKind> kinds(const Cluster& c, int from, int to) {
  std::vector<LinkId> path;
  c.route(Rank{from}, Rank{to}, path);
  std::vector<LinkKind> out;
  for (LinkId l : path) out.push_back(c.links[l.index()].kind);
  return out;
}
std::vector<LinkId> path(const Cluster& c, int from, int to) {
  std::vector<LinkId> out;
  c.route(Rank{from}, Rank{to}, out);
  return out;
}
using K = LinkKind;

TEST_CASE("cluster: inside a node through the switch, between nodes through the NICs of a rail") {
  const Cluster c = cluster_of(device_spec(2, 8, 1e-6), 16);
  CHECK(c.node_of(Rank{7}) == 0);
  CHECK(c.node_of(Rank{8}) == 1);
  CHECK(kinds(c, 0, 5) == std::vector{K::device_up, K::device_down});
  CHECK(kinds(c, 3, 11) == std::vector{K::nic_up, K::nic_down});  // rail 3 to rail 3
  CHECK(kinds(c, 3, 12) == std::vector{K::nic_up, K::trunk_up, K::trunk_down, K::nic_down});
  CHECK(kinds(c, 4, 4).empty());
  CHECK(c.latency(Rank{0}, Rank{5}) == 1'000'000);
  CHECK(c.latency(Rank{3}, Rank{12}) == 1'000'000);
  // Different devices use different links; a link up is no link down.
  CHECK(path(c, 0, 1)[0] != path(c, 1, 0)[1]);
  CHECK(path(c, 0, 2)[0] == path(c, 0, 1)[0]);
  CHECK(path(c, 1, 9)[0] != path(c, 2, 10)[0]);
  for (int r = 0; r < 16; ++r)
    for (int s = 0; s < 16; ++s)
      for (LinkId l : path(c, r, s)) REQUIRE(l.index() < c.links.size());
}

TEST_CASE("cluster: fewer NICs than devices, leaf switches and oversubscription") {
  ClusterSpec spec = device_spec(4, 8);
  spec.network[1].nics_per_node = 2;
  spec.network[1].rail_optimised = false;
  spec.network[1].oversubscription = 4;
  const Cluster c = cluster_of(spec, 32);
  CHECK(c.nic_of(Rank{3}) == 0);
  CHECK(c.nic_of(Rank{4}) == 1);
  const auto p = path(c, 0, 8);
  REQUIRE(p.size() == 4);
  CHECK(c.links[p[1].index()].kind == K::trunk_up);
  CHECK(c.links[p[1].index()].capacity == 2 * 10e9 / 4);
  CHECK(path(c, 0, 8)[0] == path(c, 3, 11)[0]);  // both on NIC 0 of node 0
  CHECK(c.symmetric());
}

TEST_CASE("cluster: rings take the shorter way, meshes have a link a pair") {
  ClusterSpec spec = device_spec(1, 6, 1e-6);
  spec.network[0].kind = "ring";
  const Cluster ring = cluster_of(spec, 6);
  CHECK(path(ring, 0, 2).size() == 2);
  CHECK(path(ring, 0, 5).size() == 1);
  CHECK(ring.latency(Rank{0}, Rank{3}) == 3'000'000);
  CHECK(path(ring, 0, 1)[0] != path(ring, 1, 0)[0]);
  CHECK(ring.links[0].capacity == 50e9);
  CHECK_FALSE(ring.symmetric());
  spec.network[0].kind = "full_mesh";
  const Cluster mesh = cluster_of(spec, 6);
  CHECK(path(mesh, 1, 4).size() == 1);
  CHECK(mesh.links[0].capacity == 20e9);
}

TEST_CASE("cluster: local is one node that holds every rank") {
  const Cluster c = cluster_of(local_spec(2), 4);
  CHECK(c.node_of(Rank{3}) == 0);
  CHECK(c.cores_per_node == 2);
  CHECK(kinds(c, 0, 3) == std::vector{K::device_up, K::device_down});
}

TEST_CASE("cluster: refusals name what is wrong") {
  const auto code = [](const ClusterSpec& s, int world) {
    const auto r = make_cluster(s, world);
    REQUIRE_FALSE(r.ok());
    CHECK(r.error().failure == Failure::infeasible);
    CHECK_FALSE(r.error().diagnostics[0].hint.empty());
    return r.error().diagnostics[0].code;
  };
  CHECK(code(device_spec(1, 8), 9) == "E-CLUS-015");
  ClusterSpec twice = device_spec(1, 8);
  twice.network[1].scope = "node";
  CHECK(code(twice, 8) == "E-CLUS-016");
  ClusterSpec none = device_spec(2, 8);
  none.network.pop_back();
  CHECK(code(none, 16) == "E-CLUS-016");
  ClusterSpec mesh = device_spec(2000, 1);
  mesh.network[1].kind = "full_mesh";
  CHECK(code(mesh, 2000) == "E-CLUS-016");
  ClusterSpec odd = device_spec(1, 2);
  odd.network[0].kind = "torus";
  CHECK(code(odd, 2) == "E-CLUS-016");
}

}  // namespace
}  // namespace tandem::sim
