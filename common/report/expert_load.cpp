#include "common/report/expert_load.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace tandem {
namespace {

std::int64_t sum_of(const std::vector<std::int64_t>& list) {
  return std::accumulate(list.begin(), list.end(), std::int64_t{0});
}

double max_over_mean(const std::vector<std::int64_t>& list) {
  const std::int64_t sum = sum_of(list);
  if (sum <= 0) return 0;
  return static_cast<double>(*std::max_element(list.begin(), list.end())) *
         static_cast<double>(list.size()) / static_cast<double>(sum);
}

double entropy(const std::vector<std::int64_t>& list) {
  const auto sum = static_cast<double>(sum_of(list));
  if (!(sum > 0) || list.size() < 2) return 0;
  double out = 0;
  for (std::int64_t n : list)
    if (n > 0) out -= static_cast<double>(n) / sum * std::log(static_cast<double>(n) / sum);
  return out / std::log(static_cast<double>(list.size()));
}

}  // namespace

ExpertLoad expert_load(int layer, std::vector<std::int64_t> choices, int ep) {
  std::vector<std::int64_t> ranks(static_cast<std::size_t>(ep));
  for (std::size_t e = 0; e < choices.size(); ++e)
    ranks[e * ranks.size() / choices.size()] += choices[e];
  ExpertLoad out{layer, std::move(choices), 0, max_over_mean(ranks), 0};
  out.max_over_mean = max_over_mean(out.choices);
  out.entropy = entropy(out.choices);
  return out;
}

ExpertChoices::ExpertChoices(const Plan& plan) : plan_(plan), ep_(plan.header.mesh.of(Axis::ep)) {
  for (const Op& op : plan.ops) {
    if (plan.name(op.tag) != "bias") continue;
    summed_ = true;
    const bool over_ep = plan.communicators[op.comm.index()].axes.has(Axis::ep);
    if (plan.replicates_data() && over_ep) copies_ = ep_;
  }
}

void ExpertChoices::add(Rank rank, int layer, std::span<const std::int64_t> choices) {
  const bool is_copy = plan_.replicates_data() && plan_.header.mesh.coordinate(rank, Axis::ep) != 0;
  if (is_copy && !summed_) return;
  std::vector<std::int64_t>& sum = choices_[layer];
  if (summed_ && !sum.empty()) return;
  sum.resize(std::max(sum.size(), choices.size()));
  for (std::size_t e = 0; e < choices.size(); ++e) sum[e] += choices[e] / copies_;
}

std::vector<ExpertLoad> ExpertChoices::loads() const {
  std::vector<ExpertLoad> out;
  for (const auto& [layer, choices] : choices_) out.push_back(expert_load(layer, choices, ep_));
  return out;
}

std::int64_t ExpertChoices::total() const {
  std::int64_t out = 0;
  for (const auto& [layer, choices] : choices_) out += sum_of(choices);
  return out;
}

}  // namespace tandem
