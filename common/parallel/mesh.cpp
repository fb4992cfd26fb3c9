#include "common/parallel/mesh.h"

#include <algorithm>

namespace tandem {

int Mesh::coordinate(Rank rank, Axis a) const {
  int rest = rank.value;
  for (Axis axis : order) {
    if (axis == a) return rest % of(axis);
    rest /= of(axis);
  }
  return 0;
}

Rank Mesh::with(Rank rank, Axis a, int coordinate_on_a) const {
  int stride = 1;
  for (Axis axis : order) {
    if (axis == a) break;
    stride *= of(axis);
  }
  return Rank{rank.value + (coordinate_on_a - coordinate(rank, a)) * stride};
}

std::vector<Rank> Mesh::group_of(Rank rank, AxisSet axes) const {
  std::vector<Rank> members = {rank};
  for (Axis axis : order) {
    if (!axes.has(axis)) continue;
    std::vector<Rank> next;
    for (Rank r : members)
      for (int i = 0; i < of(axis); ++i) next.push_back(with(r, axis, i));
    members = std::move(next);
  }
  std::sort(members.begin(), members.end());
  return members;
}

std::vector<std::vector<Rank>> Mesh::groups(AxisSet axes) const {
  std::vector<std::vector<Rank>> all;
  for (int r = 0; r < world(); ++r) {
    std::vector<Rank> group = group_of(Rank{r}, axes);
    if (group.front().value == r) all.push_back(std::move(group));
  }
  return all;
}

}  // namespace tandem
