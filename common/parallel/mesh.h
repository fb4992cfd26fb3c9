// Ranks and axes (models.md 3). A grid lists its axes, fastest first; a rank's coordinate on an
// axis is rank / stride mod size. All ranks are seen through two grids:
//
//   order          everything but routed experts: tp, cp, dp, pp (mapping nano_train: cp, ep, tp,
//                  pp, dp, and then there is no second grid)
//   expert_order   routed experts: etp, ep, edp, pp; empty where the model has none, or they lie on
//                  axes of `order`. pp has the same coordinate in both.
//
// A group of axes = the ranks equal in all other axes of the same grid, ordered by rank. Pure and
// thread-safe.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/model/dtype.h"

namespace tandem {

struct Mesh {
  std::vector<Axis> order = {Axis::tp, Axis::cp, Axis::dp, Axis::pp};
  std::vector<Axis> expert_order;
  std::array<int, kNumAxes> size = {1, 1, 1, 1, 1, 1, 1};  // by Axis; 1 where no grid has it
  [[nodiscard]] int of(Axis a) const {
    return size[static_cast<std::size_t>(a)] > 1 ? size[static_cast<std::size_t>(a)] : 1;
  }
  [[nodiscard]] int world() const;
  // Members of a group of `axes`: the product of their sizes.
  [[nodiscard]] int size_of_group(AxisSet axes) const;
  [[nodiscard]] int coordinate(Rank rank, Axis a) const;
  // The rank with `coordinate` on `a` and this rank's coordinates elsewhere in the grid of `a`.
  [[nodiscard]] Rank with(Rank rank, Axis a, int coordinate) const;
  // The ranks that differ from `rank` only on `axes` (all of one grid), ascending.
  [[nodiscard]] std::vector<Rank> group_of(Rank rank, AxisSet axes) const;
  // All groups of `axes`, by first member.
  [[nodiscard]] std::vector<std::vector<Rank>> groups(AxisSet axes) const;
  bool operator==(const Mesh&) const = default;

 private:
  // Distance of neighbours on `a`; 1 where no grid has it (its size is 1).
  [[nodiscard]] int stride(Axis a) const;
};

}  // namespace tandem
