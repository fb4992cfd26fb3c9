// Closed forms of collectives by hand, and the bytes that each member sends.
#include "sim/network/alpha_beta.h"

#include <doctest/doctest.h>

#include "sim/network/flow.h"
#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

std::vector<Rank> ranks(int n) {
  std::vector<Rank> out;
  for (int i = 0; i < n; ++i) out.push_back(Rank{i});
  return out;
}

// Bytes that member 0 sends.
double sent(OpKind kind, Algorithm a, Bytes x, int g) {
  double sum = 0;
  for (const StepPhase& p : phases_of(kind, a, x, g))
    for (const auto& [from, to] : p.hops) {
      CHECK(from != to);
      if (from == 0) sum += p.bytes;
    }
  return sum;
}

TEST_CASE("collectives: bytes of a member follow the laws") {
  for (int g : {2, 3, 4, 7, 8, 16, 64}) {
    CAPTURE(g);
    const Bytes x = 6720 * 64;
    const double part = static_cast<double>(x) / g;
    CHECK(sent(OpKind::all_reduce, Algorithm::ring, x, g) == doctest::Approx(2 * (g - 1) * part));
    CHECK(sent(OpKind::all_reduce, Algorithm::direct, x, g) == doctest::Approx(2 * (g - 1) * part));
    CHECK(sent(OpKind::all_reduce, Algorithm::halving_doubling, x, g) ==
          doctest::Approx(2 * (g - 1) * part));
    CHECK(sent(OpKind::all_gather, Algorithm::ring, x, g) == doctest::Approx((g - 1.0) * x));
    CHECK(sent(OpKind::all_gather, Algorithm::direct, x, g) == doctest::Approx((g - 1.0) * x));
    CHECK(sent(OpKind::reduce_scatter, Algorithm::ring, x, g) == doctest::Approx((g - 1) * part));
    CHECK(sent(OpKind::all_to_all, Algorithm::ring, x, g) == doctest::Approx((g - 1) * part));
    CHECK(sent(OpKind::shift, Algorithm::ring, x, g) == static_cast<double>(x));
  }
  CHECK(phases_of(OpKind::all_reduce, Algorithm::ring, 100, 1).empty());
}

// 8 devices on a switch of 100 GB/s and 1 us: 2 * 7 steps; each moves 1/8 of 8 MB over every link.
//   14 us + 14 * 1 MB / 100 GB/s = 14 us + 140 us
TEST_CASE("collectives: a ring all-reduce inside a node") {
  const Cluster c = cluster_of(device_spec(1, 8, 1e-6), 8);
  CHECK(closed_form(c, OpKind::all_reduce, Algorithm::ring, 8'000'000, ranks(8)) == 154'000'000);
  // Direct: two steps; each link up carries 7 messages at once: 2 us + 14 MB / 100 GB/s.
  CHECK(closed_form(c, OpKind::all_reduce, Algorithm::direct, 8'000'000, ranks(8)) == 142'000'000);
  CHECK(closed_form(c, OpKind::send, Algorithm::direct, 1'000'000, ranks(2)) == 11'000'000);
  // One step of a ring: every member's link up and link down carry one block, at the same time.
  CHECK(closed_form(c, OpKind::shift, Algorithm::ring, 1'000'000, ranks(8)) == 11'000'000);
}

// 2 nodes of 2: the ring 0 1 2 3 crosses between nodes twice, each on a link of its own.
TEST_CASE("collectives: the slowest hop sets the pace across nodes") {
  const Cluster c = cluster_of(device_spec(2, 2), 4);
  CHECK(closed_form(c, OpKind::all_reduce, Algorithm::ring, 4'000'000, ranks(4)) ==
        transfer_ps(6e6, 10e9));
}

TEST_CASE("collectives: the algorithm is the cluster's, or the faster of ring and tree") {
  ClusterSpec spec = device_spec(1, 8, 1e-6);
  const auto choice = [&](Bytes bytes) {
    return choose_algorithm(cluster_of(spec, 8), OpKind::all_reduce, bytes, ranks(8));
  };
  CHECK(choice(64) == Algorithm::tree);             // 6 latencies against 14
  CHECK(choice(1'000'000'000) == Algorithm::ring);  // 2 X against 1.75 X over the slowest link
  spec.all_reduce = "halving_doubling";
  CHECK(choice(64) == Algorithm::halving_doubling);
  CHECK(choose_algorithm(cluster_of(local_spec(2), 4), OpKind::all_reduce, 64, ranks(4)) ==
        Algorithm::direct);
}

}  // namespace
}  // namespace tandem::sim
