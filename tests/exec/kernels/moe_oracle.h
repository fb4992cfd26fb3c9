// The choice of experts and what is dropped (models.md 2.5, 4.5), slow and obvious: sorts instead
// of selections. For the tests of router.cpp.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

namespace tandem::exec {

// Positions of values in descending order; equal ones in their own order.
inline std::vector<std::int64_t> descending(const std::vector<double>& values) {
  std::vector<std::int64_t> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  return order;
}

inline std::vector<double> values_of(const at::Tensor& t) {
  const at::Tensor flat = t.to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

// K experts of each row of rank[n,E] (the scores with their bias), in slot order.
inline std::vector<std::int64_t> oracle_choice(const at::Tensor& rank, std::int64_t groups,
                                               std::int64_t kept, std::int64_t top_k) {
  const std::int64_t n = rank.size(0), experts = rank.size(1), size = experts / groups;
  const at::Tensor best =
      std::get<0>(rank.reshape({n, groups, size}).topk(std::min<std::int64_t>(2, size), -1));
  const at::Tensor group_score = best.sum(-1);
  std::vector<std::int64_t> out;
  for (std::int64_t t = 0; t < n; ++t) {
    std::vector<std::int64_t> open = descending(values_of(group_score[t]));
    open.resize(static_cast<std::size_t>(kept));
    for (std::int64_t k = 0; const std::int64_t e : descending(values_of(rank[t]))) {
      if (std::find(open.begin(), open.end(), e / size) == open.end()) continue;
      if (k++ < top_k) out.push_back(e);
    }
  }
  return out;
}

// Marks what an expert cannot take of each slice of `length` tokens. weights[n,K].
inline void oracle_drop(std::vector<std::int64_t>& choice, const at::Tensor& weights,
                        std::int64_t experts, std::int64_t capacity, std::int64_t length) {
  const std::vector<double> weight = values_of(weights);
  const auto slice = static_cast<std::size_t>(length * weights.size(1));
  for (std::size_t begin = 0; begin < choice.size(); begin += slice)
    for (std::int64_t e = 0; e < experts; ++e) {
      std::vector<std::size_t> of;
      std::vector<double> by;
      for (std::size_t i = begin; i < begin + slice; ++i)
        if (choice[i] == e) of.push_back(i), by.push_back(weight[i]);
      const std::vector<std::int64_t> order = descending(by);
      for (std::size_t i = static_cast<std::size_t>(capacity); i < order.size(); ++i)
        choice[of[static_cast<std::size_t>(order[i])]] = -1 - e;
    }
}

}  // namespace tandem::exec
