#include "sim/engine/cores.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/check.h"

namespace tandem::sim {
namespace {

using Wide = __int128;

Picoseconds scale_down(Picoseconds a, Picoseconds b, Picoseconds c) {  // floor(a b / c)
  return static_cast<Picoseconds>(Wide{a} * b / c);
}
Picoseconds scale_up(Picoseconds a, Picoseconds b, Picoseconds c) {  // ceil(a b / c)
  return static_cast<Picoseconds>((Wide{a} * b + c - 1) / c);
}

}  // namespace

Picoseconds Cores::at_level(std::span<const Picoseconds> work, int level) {
  const auto top = static_cast<int>(work.size());
  return work[static_cast<std::size_t>(std::clamp(level, 1, top) - 1)];
}

void Cores::advance(Picoseconds now) {
  const Picoseconds dt = now - since_;
  since_ = now;
  if (dt == 0 || jobs_.empty()) return;
  const Picoseconds done = num_running_ <= cores_ ? dt : scale_down(dt, cores_, num_running_);
  for (Job& j : jobs_) j.left = std::max<Picoseconds>(0, j.left - done);
}

void Cores::start(Picoseconds now, std::uint32_t owner, std::span<const Picoseconds> work,
                  int multiplicity, double slow) {
  TANDEM_CHECK(!work.empty() && multiplicity > 0, "a job without work or ranks");
  advance(now);
  Picoseconds left = at_level(work, level_);
  if (slow != 1.0) left = static_cast<Picoseconds>(std::ceil(static_cast<double>(left) * slow));
  jobs_.push_back({work, left, owner, multiplicity});
  num_running_ += multiplicity;
  dirty_ = true;
}

std::span<const std::uint32_t> Cores::take_finished(Picoseconds now) {
  advance(now);
  finished_.clear();
  std::size_t kept = 0;
  for (const Job& j : jobs_) {
    if (j.left > 0) {
      jobs_[kept++] = j;
      continue;
    }
    finished_.push_back(j.owner);
    num_running_ -= j.multiplicity;
    dirty_ = true;
  }
  jobs_.resize(kept);
  return finished_;
}

bool Cores::settle(Picoseconds now) {
  if (!dirty_) return false;
  dirty_ = false;
  advance(now);
  if (jobs_.empty()) return false;
  if (num_running_ != level_) {
    for (Job& j : jobs_) {
      const Picoseconds before = at_level(j.work, level_), after = at_level(j.work, num_running_);
      if (before != after && before > 0) j.left = scale_up(j.left, after, before);
    }
    level_ = num_running_;
  }
  Picoseconds least = std::numeric_limits<Picoseconds>::max();
  for (const Job& j : jobs_) least = std::min(least, j.left);
  next_end_ = now + (num_running_ <= cores_ ? least : scale_up(least, num_running_, cores_));
  return true;
}

}  // namespace tandem::sim
