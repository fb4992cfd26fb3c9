// Made-up plans and timelines for tests of timeline files and reports: a 1F1B pipeline with tensor
// parallelism, run by a tiny list scheduler of its own, so that these tests need no simulator.
// Deterministic; every duration is a round number unless `jitter` is set.
#pragma once

#include "common/plan/plan.h"
#include "common/timeline/timeline.h"

namespace tandem::synthetic {

struct Shape {
  int pp = 2, tp = 1, microbatches = 4, layers = 1;  // layers: of each stage
};

[[nodiscard]] Plan make_plan(const Shape& shape);

struct Speed {
  Clock clock = Clock::simulated_ps;
  int steps = 1;
  std::int64_t forward_ns = 10'000;  // of one layer, in two kernel calls: 3/10 and 7/10
  std::int64_t backward_ns = 20'000;
  std::int64_t transfer_ns = 2'000;  // of any communication
  std::int64_t issue_ns = 100;       // host time between two ops
  std::int64_t launch_ns = 0;        // from ready to the first kernel
  double jitter = 0;                 // +- this part of every duration
  int seed = 1;
  int slow_rank = -1;  // computes at half speed
};

[[nodiscard]] Timeline run(const Plan& plan, const Speed& speed);

}  // namespace tandem::synthetic
