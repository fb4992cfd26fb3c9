#include "exec/train/reference_moe.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "common/base/check.h"

namespace tandem::exec {

using at::Tensor;

namespace {

// Indices of the `count` largest of the last dimension, best first; ties to the lower index.
Tensor largest(const Tensor& x, std::int64_t count) {
  const auto [values, order] = at::sort(x, /*stable=*/true, /*dim=*/-1, /*descending=*/true);
  return order.slice(-1, 0, count);
}

// chosen[b, S, K, E]: 1 where slot k took expert i.
Tensor one_hot(const Tensor& choice, const MoeSpec& moe) {
  return at::one_hot(choice, moe.experts);
}

}  // namespace

Tensor router_scores(const Tensor& logits, const MoeSpec& moe) {
  return moe.router == RouterKind::softmax ? at::softmax(logits, -1) : at::sigmoid(logits);
}

Tensor choose_experts(const Tensor& scores, const Tensor& bias, const MoeSpec& moe) {
  Tensor biased = scores.detach() + bias;
  if (moe.groups > 1) {
    const std::int64_t width = moe.experts / moe.groups;
    const Tensor grouped = biased.unflatten(-1, {moe.groups, width});
    const std::int64_t counted = moe.group_max ? 1 : std::min<std::int64_t>(2, width);
    const Tensor best = grouped.gather(-1, largest(grouped, counted));
    const Tensor kept = largest(best.sum(-1), moe.groups_kept);  // [b, S, groups_kept]
    const Tensor outside = at::one_hot(kept, moe.groups).sum(-2).eq(0);
    biased = grouped.masked_fill(outside.unsqueeze(-1), -std::numeric_limits<double>::infinity())
                 .flatten(-2);
  }
  return largest(biased, moe.top_k);
}

Tensor routing_weights(const Tensor& scores, const Tensor& choice, const MoeSpec& moe) {
  const Tensor chosen = scores.gather(-1, choice);
  const Tensor sum = chosen.sum(-1, true);
  if (moe.router == RouterKind::softmax) return chosen / sum;
  return moe.scale * chosen / (sum + 1e-20);
}

std::vector<int> drop_slices(int sequence, int drop_groups, int cp) {
  TANDEM_CHECK(drop_groups % cp == 0 && sequence % drop_groups == 0,
               "check() let {} slices of {} positions over cp {} through", drop_groups, sequence,
               cp);
  std::vector<int> out(static_cast<std::size_t>(sequence));
  const int width = sequence / drop_groups, runs = drop_groups / cp;
  if (cp == 1) {
    for (int p = 0; p < sequence; ++p) out[static_cast<std::size_t>(p)] = p / width;
    return out;
  }
  const int chunk = sequence / (2 * cp);
  for (int p = 0; p < sequence; ++p) {
    const int c = p / chunk, part = std::min(c, 2 * cp - 1 - c);
    const int local = (c < cp ? 0 : chunk) + p % chunk;  // position among those of the part
    out[static_cast<std::size_t>(p)] = part * runs + local / width;
  }
  return out;
}

Tensor kept_assignments(const Tensor& choice, const Tensor& weights, const MoeSpec& moe, int cp) {
  Tensor kept = at::ones(choice.sizes(), at::kBool);
  if (!moe.capacity_factor) return kept;
  const std::int64_t b = choice.size(0), sequence = choice.size(1), k = choice.size(2);
  const std::vector<int> slice = drop_slices(static_cast<int>(sequence), moe.drop_groups, cp);
  const double tokens = static_cast<double>(b * sequence) / moe.drop_groups;
  const auto capacity = static_cast<std::size_t>(
      std::max(1.0, std::ceil(*moe.capacity_factor * tokens * static_cast<double>(k) /
                              static_cast<double>(moe.experts))));
  struct Assignment {
    double weight;
    std::int64_t row, element;  // of [b, S, K]
  };
  std::vector<std::vector<Assignment>> rows(static_cast<std::size_t>(moe.drop_groups) *
                                            static_cast<std::size_t>(moe.experts));
  const Tensor c = choice.contiguous(), w = weights.detach().to(at::kDouble).contiguous();
  const std::int64_t* expert = c.const_data_ptr<std::int64_t>();
  const double* weight = w.const_data_ptr<double>();
  for (std::int64_t i = 0; i < c.numel(); ++i) {
    const std::int64_t sample = i / (sequence * k), position = i / k % sequence;
    const std::int64_t cell = slice[static_cast<std::size_t>(position)] * moe.experts + expert[i];
    rows[static_cast<std::size_t>(cell)].push_back({weight[i], position * b + sample, i});
  }
  bool* keep = kept.mutable_data_ptr<bool>();
  for (std::vector<Assignment>& list : rows) {
    std::sort(list.begin(), list.end(), [](const Assignment& x, const Assignment& y) {
      return std::tuple(-x.weight, x.row) < std::tuple(-y.weight, y.row);
    });
    for (std::size_t i = capacity; i < list.size(); ++i) keep[list[i].element] = false;
  }
  return kept;
}

Tensor balance_loss(const Tensor& scores, const Tensor& choice, const MoeSpec& moe) {
  const Tensor prob = moe.router == RouterKind::softmax ? scores : scores / scores.sum(-1, true);
  const Tensor chosen = one_hot(choice, moe).sum(2).to(scores.scalar_type());  // [b, S, E]
  const bool by_sequence = moe.scope == BalanceScope::sequence;
  // [scopes, T, E]
  const Tensor p = by_sequence ? prob : prob.reshape({1, -1, moe.experts});
  const Tensor count = by_sequence ? chosen : chosen.reshape({1, -1, moe.experts});
  const auto tokens = static_cast<double>(p.size(1));
  const Tensor f = count.sum(1) * (moe.experts / (moe.top_k * tokens)), mean_p = p.sum(1) / tokens;
  Tensor loss = moe.expert_loss * (f * mean_p).sum();
  if (moe.device_loss != 0) {
    const std::int64_t groups = moe.device_groups, width = moe.experts / groups;
    const Tensor f_group = f.unflatten(-1, {groups, width}).mean(-1),
                 p_group = mean_p.unflatten(-1, {groups, width}).sum(-1);
    loss = loss + moe.device_loss * (f_group * p_group).sum();
  }
  return loss;
}

Tensor choice_counts(const Tensor& choice, const MoeSpec& moe) {
  return at::bincount(choice.flatten(), {}, moe.experts);
}

void update_router_bias(Tensor& bias, const std::vector<std::int64_t>& counts, double rate) {
  const auto experts = static_cast<std::int64_t>(counts.size());
  std::int64_t sum = 0;
  for (std::int64_t n : counts) sum += n;
  double* b = bias.mutable_data_ptr<double>();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const std::int64_t missing = sum - experts * counts[i];  // E * (mean - count)
    if (missing != 0) b[i] += missing > 0 ? rate : -rate;
  }
}

}  // namespace tandem::exec
