// Placements by name and by rule (schedules.md 1.3).
#include "common/schedule/order.h"

namespace tandem {

std::vector<int> loop_placement(int num_ranks, int stages_per_rank) {
  std::vector<int> out;
  for (int s = 0; s < num_ranks * stages_per_rank; ++s) out.push_back(s % num_ranks);
  return out;
}

std::vector<int> v_placement(int num_ranks, int stages_per_rank) {
  std::vector<int> out;
  for (int s = 0; s < num_ranks * stages_per_rank; ++s) {
    const bool even = s / num_ranks % 2 == 0;
    out.push_back(even ? s % num_ranks : num_ranks - 1 - s % num_ranks);
  }
  return out;
}

std::string placement_name(const Order& order) {
  const int p = order.num_ranks(), stages = order.num_stages();
  if (order.num_dirs == 2) return "bidir";
  const bool whole = p > 0 && stages % p == 0;
  if (whole && order.stage_rank == loop_placement(p, stages / p))
    return stages == p ? "linear" : "loop";
  if (whole && order.stage_rank == v_placement(p, stages / p)) return "v";
  std::string out = "[";
  for (int rank : order.stage_rank) out += (out.size() > 1 ? "," : "") + std::to_string(rank);
  return out + "]";
}

}  // namespace tandem
