// The cost of every communication of a plan on a cluster, prepared once: phases by (group class,
// kind, bytes), and how much of which link each phase takes.
//
//   Folding   one simulated group stands for all groups of its class, which send at the same time
//             at the same rate. So a phase is one variable with load(l) = hops of *all* these
//             groups that cross link l: shared NICs are charged for what is not simulated.
//   Quotient  links with the same capacity and the same loads of the same phases are one link.
//   Closed    a phase whose links no other communication uses needs no solver: its time is the
//             closed form (fidelity auto). closed_form: every phase, with its own group's load.
//   Local     no links: `delay`, then `cpu` on every member's share of the node's cores.
//               calibrated   seconds and cpu_share of the measured curve
//               else         the latencies are delay, the bytes are CPU work
//   Uneven   an exchange of rows has bytes of its own for each pair of members; the slowest ends
//   it.
//               all_to_all   a phase lasts until its last hop has ended: its bytes are those that
//                            would keep the most loaded link as long if all hops had as many
//               all_gather, reduce_scatter   each step lasts as long as the largest part
//               local        a member works for the mean of what it hands over and what it gets;
//                            the delay is the longest of the members'
#pragma once

#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "common/model/calibration.h"
#include "common/plan/plan.h"
#include "sim/cluster/cluster.h"
#include "sim/engine/fold.h"
#include "sim/network/alpha_beta.h"
#include "sim/network/max_min.h"

namespace tandem::sim {

struct ChargedPhase {
  Picoseconds latency = 0;  // all steps
  double bytes = 0;
  int pattern = 0;
};

// Bytes that cross each pair of members of a group.
struct Exchange {
  std::size_t members = 0;
  std::vector<Bytes> bytes;  // [from][to], in the order of the group; also to itself
  [[nodiscard]] Bytes of(std::size_t from, std::size_t to) const {
    return bytes[from * members + to];
  }
};

struct Charge {
  std::uint32_t first_phase = 0, num_phases = 0;
  bool closed = false;  // `fixed` is the whole time
  Picoseconds fixed = 0;
  Picoseconds delay = 0, cpu = 0;      // local; cpu: of every member
  std::int64_t first_member_cpu = -1;  // local, uneven: cpu_of() each member, `cpu` is the largest
};

class Charges {
 public:
  Charges(const Plan& plan, const Cluster& cluster, const Folding& folding, Fidelity fidelity,
          const Calibration* calibration)
      : plan_(plan),
        cluster_(cluster),
        folding_(folding),
        fidelity_(fidelity),
        calibration_(calibration) {}

  // The number of the charge of an op of this group class; `from`, `to`: pipeline coordinates of
  // a message. Before prepare().
  int add(int group, const Op& op, int from, int to);
  // Likewise of an op that moves rows, in the group of which `first` is the first member. Not
  // folded (checked).
  int add(const Op& op, Rank first, const Exchange& exchange);
  // Loads of all links; after the last add().
  void prepare();

  [[nodiscard]] const Charge& charge(int id) const {
    return charges_[static_cast<std::size_t>(id)];
  }
  [[nodiscard]] std::span<const ChargedPhase> phases(const Charge& c) const {
    return {phases_.data() + c.first_phase, c.num_phases};
  }
  // CPU work of the m-th member by rank. Valid after the last add().
  [[nodiscard]] const Picoseconds& cpu_of(const Charge& c, std::size_t m) const {
    return c.first_member_cpu < 0 ? c.cpu
                                  : member_cpu_[static_cast<std::size_t>(c.first_member_cpu) + m];
  }
  // Quotient links of a pattern, and their capacities.
  [[nodiscard]] std::span<const PathEntry> path(int pattern) const {
    return patterns_[static_cast<std::size_t>(pattern)].path;
  }
  [[nodiscard]] const std::vector<double>& capacity() const { return capacity_; }

 private:
  struct Pattern {
    int group = 0;
    bool message = false;
    std::vector<std::pair<int, int>> hops;  // member indices
    int from = -1, to = -1;                 // message
    double own_rate = 0, rate = 0;          // alone: of its own group, of all groups of the class
    bool shared = false;                    // another communication uses one of its links
    std::vector<PathEntry> path;
  };
  int add_local(Charge c, OpKind kind, Bytes bytes, std::span<const Rank> members,
                const std::vector<StepPhase>& steps);
  int add_uneven_local(Charge c, OpKind kind, const Exchange& exchange,
                       std::span<const Rank> members, const std::vector<StepPhase>& steps);
  double slowest_bytes(const StepPhase& phase, std::span<const Rank> members,
                       const Exchange& exchange) const;
  int add_pattern(int group, StepPhase&& phase, int from, int to);
  std::vector<Rank> members_of(const std::vector<Rank>& group, int from, int to) const;
  void close(Charge& c);

  const Plan& plan_;
  const Cluster& cluster_;
  const Folding& folding_;
  Fidelity fidelity_;
  const Calibration* calibration_;
  std::map<std::tuple<int, OpKind, Bytes, int, int>, int> ids_;
  // (group, from, to, steps' hops): equal hops are one pattern
  std::map<std::tuple<int, int, int, std::vector<std::pair<int, int>>>, int> pattern_ids_;
  std::vector<Charge> charges_;
  std::vector<Picoseconds> member_cpu_;
  std::vector<ChargedPhase> phases_;
  std::vector<Pattern> patterns_;
  std::vector<double> capacity_;
};

}  // namespace tandem::sim
