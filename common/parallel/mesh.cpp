#include "common/parallel/mesh.h"

#include <algorithm>

namespace tandem {

int Mesh::world() const {
  int product = 1;
  for (Axis axis : order) product *= of(axis);
  return product;
}

int Mesh::size_of_group(AxisSet axes) const {
  int product = 1;
  for (int a = 0; a < kNumAxes; ++a)
    if (axes.has(static_cast<Axis>(a))) product *= of(static_cast<Axis>(a));
  return product;
}

int Mesh::stride(Axis a) const {
  for (const std::vector<Axis>* grid : {&order, &expert_order}) {
    int product = 1;
    for (Axis axis : *grid) {
      if (axis == a) return product;
      product *= of(axis);
    }
  }
  return 1;
}

int Mesh::coordinate(Rank rank, Axis a) const { return rank.value / stride(a) % of(a); }

Rank Mesh::with(Rank rank, Axis a, int coordinate_on_a) const {
  return Rank{rank.value + (coordinate_on_a - coordinate(rank, a)) * stride(a)};
}

std::vector<Rank> Mesh::group_of(Rank rank, AxisSet axes) const {
  std::vector<Rank> members = {rank};
  for (int a = 0; a < kNumAxes; ++a) {
    const auto axis = static_cast<Axis>(a);
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
