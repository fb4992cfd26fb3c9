// Flows in time: who sends at which rate from when to when. Rates are max-min fair (max_min.h) and
// solved again when a flow starts or ends, but only for the flows that can feel it: those joined
// to it by shared links. Not here: latency (the caller starts a flow when its latency is over) and
// events (the caller schedules `finish` and comes back).
//
//   between changes  left(t) = left(t0) - x (t - t0);  finish = t0 + ceil(left / x), in ps
// A rate that stays the same leaves a flow untouched, so a flow that nothing disturbs ends exactly
// at start + transfer_ps(bytes, rate).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/units.h"
#include "sim/network/max_min.h"

namespace tandem::sim {

// Time of `bytes` at `rate`, rounded up: the one rounding of transfers.
[[nodiscard]] Picoseconds transfer_ps(double bytes, double rate);

// One object is used by one thread at a time.
class FlowNetwork {
 public:
  explicit FlowNetwork(std::vector<double> capacity);

  // Returns the flow's number, reused after end(). `path` must stay alive until then.
  int start(Picoseconds now, std::span<const PathEntry> path, double bytes);
  // The flow leaves the network, finished or not.
  void end(int flow);
  // Solves again what starts and ends since the last call touched. Call it before time goes on.
  void settle(Picoseconds now);
  // Flows whose finish time the last settle() set, ascending.
  [[nodiscard]] std::span<const int> changed() const { return changed_; }
  [[nodiscard]] Picoseconds finish(int flow) const { return flows_[index(flow)].finish; }
  [[nodiscard]] double rate(int flow) const { return flows_[index(flow)].rate; }

 private:
  struct Flow {
    std::span<const PathEntry> path;
    double left = 0, rate = 0;
    Picoseconds since = 0, finish = 0;
    bool active = false, seen = false;
  };
  static std::size_t index(int flow) { return static_cast<std::size_t>(flow); }
  void touch(std::span<const PathEntry> path);
  void collect_component();
  void update(Flow& flow, double rate, Picoseconds now);

  std::vector<double> capacity_;
  std::vector<std::vector<int>> on_link_;  // active flows
  std::vector<Flow> flows_;
  std::vector<int> free_, component_, changed_;
  std::vector<std::int32_t> dirty_, seen_links_;
  std::vector<bool> link_seen_;
  std::vector<Demand> demands_;
  std::vector<double> rates_;
  MaxMinSolver solver_;
};

// A whole case: each flow starts its latency at `start` and then sends. For checks and tests.
struct TimedFlow {
  Picoseconds start = 0, latency = 0;
  double bytes = 0;
  std::vector<PathEntry> path;
};
[[nodiscard]] std::vector<Picoseconds> finish_times(std::span<const double> capacity,
                                                    std::span<const TimedFlow> flows);

}  // namespace tandem::sim
