#include "sim/network/alpha_beta.h"

#include <algorithm>
#include <bit>
#include <map>

#include "common/base/check.h"
#include "sim/network/flow.h"

namespace tandem::sim {
namespace {

using Hops = std::vector<std::pair<int, int>>;

constexpr int kDirectMembers = 64;  // all pairs of more are no sensible algorithm, and many hops
// Groups up to this size exchange (all_to_all) step by step.
constexpr int kSteppedMembers = 16;

Hops ring_hops(int g, int distance = 1) {
  Hops out;
  for (int i = 0; i < g; ++i) out.emplace_back(i, (i + distance) % g);
  return out;
}

Hops all_pairs(int g) {
  Hops out;
  for (int i = 0; i < g; ++i)
    for (int k = 1; k < g; ++k) out.emplace_back(i, (i + k) % g);
  return out;
}

Hops tree_hops(int g, bool down) {
  Hops out;
  for (int i = 1; i < g; ++i) {
    const int parent = (i - 1) / 2;
    out.push_back(down ? std::pair{parent, i} : std::pair{i, parent});
  }
  return out;
}

int tree_depth(int g) { return std::bit_width(static_cast<unsigned>(g)) - 1; }

// Vector halving with distance doubling: round k exchanges X / 2^(k+1) with the member 2^k away.
void add_halving(std::vector<StepPhase>& out, double x, int g) {
  const int rounds = std::bit_width(static_cast<unsigned>(g)) - 1;
  const auto exchange = [&](int k) {
    StepPhase p{1, x / static_cast<double>(2LL << k), {}};
    for (int i = 0; i < g; ++i) p.hops.emplace_back(i, i ^ (1 << k));
    out.push_back(std::move(p));
  };
  for (int k = 0; k < rounds; ++k) exchange(k);
  for (int k = rounds; k-- > 0;) exchange(k);
}

}  // namespace

std::string_view name_of(Algorithm a) {
  constexpr std::array<std::string_view, 4> kNames = {"ring", "direct", "halving_doubling", "tree"};
  return kNames[static_cast<std::size_t>(a)];
}

std::vector<StepPhase> phases_of(OpKind kind, Algorithm algorithm, Bytes bytes, int g) {
  const double x = static_cast<double>(bytes);
  if (g < 2) return {};
  if (algorithm == Algorithm::direct && g > kDirectMembers) algorithm = Algorithm::ring;
  if (algorithm == Algorithm::halving_doubling && !std::has_single_bit(static_cast<unsigned>(g)))
    algorithm = Algorithm::ring;
  const bool direct = algorithm == Algorithm::direct;
  switch (kind) {
    case OpKind::send:
    case OpKind::recv:
      return {{1, x, {{0, 1}}}};
    case OpKind::all_reduce:
      if (direct) return {{2, 2 * x / g, all_pairs(g)}};
      if (algorithm == Algorithm::tree)
        return {{tree_depth(g), x, tree_hops(g, false)}, {tree_depth(g), x, tree_hops(g, true)}};
      if (algorithm == Algorithm::halving_doubling) {
        std::vector<StepPhase> out;
        add_halving(out, x, g);
        return out;
      }
      return {{2 * (g - 1), 2 * (g - 1) * x / g, ring_hops(g)}};
    case OpKind::all_gather:
      if (direct) return {{1, x, all_pairs(g)}};
      return {{g - 1, (g - 1) * x, ring_hops(g)}};
    case OpKind::reduce_scatter:
      if (direct) return {{1, x / g, all_pairs(g)}};
      return {{g - 1, (g - 1) * x / g, ring_hops(g)}};
    case OpKind::all_to_all: {
      // In large groups one phase with the links' loads of all steps: the same bytes and latencies,
      // an event instead of g-1.
      if (g > kSteppedMembers) return {{g - 1, x / g, all_pairs(g)}};
      std::vector<StepPhase> out;
      for (int k = 1; k < g; ++k) out.push_back({1, x / g, ring_hops(g, k)});
      return out;
    }
    case OpKind::broadcast:
      return {{tree_depth(g), x, tree_hops(g, true)}};
    case OpKind::shift:
      return {{1, x, ring_hops(g)}};
    default:
      TANDEM_CHECK(false, "{} is no communication", name_of(kind));
      return {};
  }
}

PhaseCost phase_cost(const Cluster& cluster, const StepPhase& phase,
                     std::span<const Rank> members) {
  PhaseCost out;
  std::map<LinkId, double> load;
  std::vector<LinkId> path;
  for (const auto& [from, to] : phase.hops) {
    path.clear();
    cluster.route(members[static_cast<std::size_t>(from)], members[static_cast<std::size_t>(to)],
                  path);
    Picoseconds latency = 0;
    for (LinkId l : path) {
      latency += cluster.links[l.index()].latency;
      load[l] += 1;
    }
    out.latency = std::max(out.latency, latency);
  }
  for (const auto& [link, hops] : load) {
    const double rate = cluster.links[link.index()].capacity / hops;
    if (out.rate == 0 || rate < out.rate) out.rate = rate;
  }
  return out;
}

Picoseconds closed_form(const Cluster& cluster, OpKind kind, Algorithm algorithm, Bytes bytes,
                        std::span<const Rank> members) {
  Picoseconds sum = 0;
  for (const StepPhase& p : phases_of(kind, algorithm, bytes, static_cast<int>(members.size()))) {
    const PhaseCost cost = phase_cost(cluster, p, members);
    sum += p.steps * cost.latency + transfer_ps(p.bytes, cost.rate);
  }
  return sum;
}

Algorithm choose_algorithm(const Cluster& cluster, OpKind kind, Bytes bytes,
                           std::span<const Rank> members) {
  const std::string& wanted = cluster.spec.all_reduce;
  if (cluster.local) {
    if (kind != OpKind::all_reduce || wanted == "auto" || wanted.empty()) return Algorithm::direct;
  }
  if (kind != OpKind::all_reduce) return Algorithm::ring;
  for (Algorithm a :
       {Algorithm::ring, Algorithm::direct, Algorithm::halving_doubling, Algorithm::tree})
    if (wanted == name_of(a)) return a;
  const Picoseconds ring = closed_form(cluster, kind, Algorithm::ring, bytes, members);
  const Picoseconds tree = closed_form(cluster, kind, Algorithm::tree, bytes, members);
  return tree < ring ? Algorithm::tree : Algorithm::ring;
}

}  // namespace tandem::sim
