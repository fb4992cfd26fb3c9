// The cores of one host, shared by everything that runs on it (processor sharing).
//
//   J jobs on C cores: every job gets min(1, C / J) of a core.
//   A job's work may depend on how many cores are busy (memory bandwidth, clock): work[b] is its
//   whole work when b are. When that number changes, what is left scales with it.
//   Integers only: what is left rounds up and progress rounds down, so no job ends early; a job
//   that starts and ends among unchanged neighbours is exact where C / J divides.
// O(J) per start or end; a host runs tens of jobs. One object is used by one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/units.h"

namespace tandem::sim {

class Cores {
 public:
  explicit Cores(int cores) : cores_(cores) {}

  // `work` by level (busy cores 1..size), in ps of one core; alive until the job ends. `owner` is
  // handed back; the job counts `multiplicity` times (folded ranks). `slow` stretches the work.
  void start(Picoseconds now, std::uint32_t owner, std::span<const Picoseconds> work,
             int multiplicity, double slow);
  // Owners of the jobs that have ended by now, in order of their start, removed.
  [[nodiscard]] std::span<const std::uint32_t> take_finished(Picoseconds now);
  // After the starts and ends of a moment: true if the next end has changed.
  [[nodiscard]] bool settle(Picoseconds now);
  [[nodiscard]] bool idle() const { return jobs_.empty(); }
  // When the next job ends if nothing else happens.
  [[nodiscard]] Picoseconds next_end() const { return next_end_; }

 private:
  struct Job {
    std::span<const Picoseconds> work;
    Picoseconds left = 0;
    std::uint32_t owner = 0;
    int multiplicity = 1;
  };
  void advance(Picoseconds now);
  static Picoseconds at_level(std::span<const Picoseconds> work, int level);

  int cores_;
  int num_running_ = 0;  // jobs, with their multiplicity
  int level_ = 0;        // the number that `left` of the jobs refers to
  bool dirty_ = false;
  Picoseconds since_ = 0, next_end_ = 0;
  std::vector<Job> jobs_;
  std::vector<std::uint32_t> finished_;
};

}  // namespace tandem::sim
