// How evenly routers choose experts: loads of one layer from the number of times that each expert
// was chosen, before drops. Pure.
//
//   max over mean        most chosen expert / mean: 1 is balanced, E where one gets everything
//   rank max over mean   the same of the ranks of expert parallelism, each with E / ep experts in
//                        order: 1.2 means that the fullest rank has 20 % more rows than balanced
//   entropy              - sum f ln f / ln E of the shares f: 1 balanced, 0 where one gets
//                        everything. Of the choices, not of the routers' scores
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "common/plan/plan.h"

namespace tandem {

struct ExpertLoad {
  int layer = 0;
  std::vector<std::int64_t> choices;  // of each expert
  double max_over_mean = 0, rank_max_over_mean = 0;
  double entropy = 0;
};
[[nodiscard]] ExpertLoad expert_load(int layer, std::vector<std::int64_t> choices, int ep);

// Choices of all layers, put together from those that each rank has counted: of its own tokens, or,
// where the plan sums them over the stage (tag `bias`), already those of all tokens. Where ep ranks
// read the same batches (ep_data: replicate), each token counts once.
class ExpertChoices {
 public:
  explicit ExpertChoices(const Plan& plan);  // which outlives it
  // Once a rank and layer.
  void add(Rank rank, int layer, std::span<const std::int64_t> choices);
  [[nodiscard]] std::vector<ExpertLoad> loads() const;  // by layer
  [[nodiscard]] std::int64_t total() const;

 private:
  const Plan& plan_;
  int ep_;
  bool summed_ = false;
  std::int64_t copies_ = 1;  // of each choice in what is summed
  std::map<int, std::vector<std::int64_t>> choices_;
};

}  // namespace tandem
