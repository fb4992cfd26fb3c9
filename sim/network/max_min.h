// Fair rates for flows that share links (docs/simulator_model.md, "Network"). Not here: latency.
//
//   Given   links l with capacity c(l) > 0 [bytes/s]; flows f with weight w(f) > 0, each with
//           loads a(f,l) > 0 on the links of its path: bytes that cross l for one byte of f
//           (1 for a message; k for a variable that stands for k equal flows)
//   Find    rates x(f) >= 0 with
//             (C) on every link: sum of a(f,l) x(f) <= c(l)
//             (M) no x(f) can grow unless an x(g) with x(g)/w(g) <= x(f)/w(f) shrinks
//   Proof   x is weighted max-min fair <=> (C), and every flow has a bottleneck: a full link on its
//           path where no flow has a greater x/w. The property tests check this certificate.
//   Method  progressive filling of a common level p: x(f) = w(f) p while f rises.
//             n(l) = sum of a w over the rising flows of l;  r(l) = c(l) - what is frozen on l
//             repeat: p = the smallest r(l)/n(l); freeze the rising flows of all links that have it
//           Each round closes a link: O(sum of path lengths * log L) with a heap.
//           Equal flows freeze in one round and are charged as one product, so k equal flows and
//           one variable of load k get the same bits (folding relies on it).
//   Source  Bertsekas and Gallager, Data Networks: max-min flow control.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/ids.h"

namespace tandem::sim {

struct PathEntry {
  LinkId link;
  double load = 1;
};

struct Demand {
  std::span<const PathEntry> path;  // not empty, no link twice (checked); the caller's storage
  double weight = 1;
};

// Keeps its work space between calls. One object is used by one thread at a time.
class MaxMinSolver {
 public:
  // rates[i] of flows[i]. Same arguments, same bits: ties go by the index of the link.
  void solve(std::span<const double> capacity, std::span<const Demand> flows,
             std::span<double> rates);

 private:
  struct LinkState {
    double room = 0, rising = 0, level = 0, delta = 0;
    std::uint32_t first = 0, count = 0;  // flows of the link in flows_of_
    std::uint32_t num_rising = 0;
    bool touched = false, closed = false, changed = false;
  };
  struct Entry {
    double level;
    std::int32_t link;
  };
  void prepare(std::span<const double> capacity, std::span<const Demand> flows);
  void push(std::int32_t link);
  bool pop(Entry& out);
  void freeze(std::span<const Demand> flows, std::size_t flow, double level,
              std::span<double> rates);
  void charge(double level);

  std::vector<LinkState> links_;
  std::vector<std::int32_t> touched_, changed_;
  std::vector<std::uint32_t> flows_of_;
  std::vector<bool> frozen_;
  std::vector<Entry> heap_;
};

[[nodiscard]] std::vector<double> max_min_rates(std::span<const double> capacity,
                                                std::span<const Demand> flows);

// The certificate above, slow and obvious, for tests. `slack` is relative.
[[nodiscard]] bool is_max_min_fair(std::span<const double> capacity, std::span<const Demand> flows,
                                   std::span<const double> rates, double slack);

}  // namespace tandem::sim
