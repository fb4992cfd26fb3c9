// Ranks and axes: rank = tp + t*(cp + c*(dp + d*pp)) for the default order (models.md 3.1).
// A group of axes = the ranks equal in all other axes, ordered by rank. Pure and thread-safe.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/model/dtype.h"

namespace tandem {

struct Mesh {
  std::array<Axis, kNumAxes> order = {Axis::tp, Axis::cp, Axis::dp, Axis::pp};  // fastest first
  std::array<int, kNumAxes> size = {1, 1, 1, 1};                                // by Axis
  [[nodiscard]] int of(Axis a) const { return size[static_cast<std::size_t>(a)]; }
  [[nodiscard]] int world() const { return size[0] * size[1] * size[2] * size[3]; }
  [[nodiscard]] int coordinate(Rank rank, Axis a) const;
  // The rank with `coordinate` on `a` and this rank's coordinates elsewhere.
  [[nodiscard]] Rank with(Rank rank, Axis a, int coordinate) const;
  // The ranks that differ from `rank` only on `axes`, ascending.
  [[nodiscard]] std::vector<Rank> group_of(Rank rank, AxisSet axes) const;
  // All groups of `axes`, by first member.
  [[nodiscard]] std::vector<std::vector<Rank>> groups(AxisSet axes) const;
  bool operator==(const Mesh&) const = default;
};

}  // namespace tandem
