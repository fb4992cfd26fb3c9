#include "sim/network/max_min.h"

#include <algorithm>

#include "common/base/check.h"

namespace tandem::sim {
namespace {

// Heap order: the smallest level first, ties by link.
struct Later {
  template <class E>
  bool operator()(const E& a, const E& b) const {
    return a.level != b.level ? a.level > b.level : a.link > b.link;
  }
};

}  // namespace

void MaxMinSolver::push(std::int32_t link) {
  heap_.push_back({links_[static_cast<std::size_t>(link)].level, link});
  std::push_heap(heap_.begin(), heap_.end(), Later{});
}

// The open link with the smallest level; entries that a later push replaced are dropped.
bool MaxMinSolver::pop(Entry& out) {
  while (!heap_.empty()) {
    const Entry top = heap_.front();
    const LinkState& l = links_[static_cast<std::size_t>(top.link)];
    if (!l.closed && l.level == top.level) {
      out = top;
      return true;
    }
    std::pop_heap(heap_.begin(), heap_.end(), Later{});
    heap_.pop_back();
  }
  return false;
}

void MaxMinSolver::prepare(std::span<const double> capacity, std::span<const Demand> flows) {
  if (links_.size() < capacity.size()) links_.resize(capacity.size());
  for (std::int32_t l : touched_) links_[static_cast<std::size_t>(l)] = {};
  touched_.clear();
  heap_.clear();
  frozen_.assign(flows.size(), false);
  std::uint32_t total = 0;
  for (const Demand& f : flows) {
    TANDEM_CHECK(!f.path.empty() && f.weight > 0, "a flow without links or weight");
    for (const PathEntry& e : f.path) {
      LinkState& l = links_[e.link.index()];
      if (!l.touched) {
        TANDEM_CHECK(capacity[e.link.index()] > 0, "link {} has no capacity", e.link.value);
        l.touched = true;
        l.room = capacity[e.link.index()];
        touched_.push_back(e.link.value);
      }
      l.rising += e.load * f.weight;
      ++l.num_rising;
      ++total;
    }
  }
  flows_of_.resize(total);
  std::uint32_t at = 0;
  for (std::int32_t i : touched_) {
    LinkState& l = links_[static_cast<std::size_t>(i)];
    l.first = at;
    at += l.num_rising;
    l.level = l.room / l.rising;
    push(i);
  }
  for (std::size_t f = 0; f < flows.size(); ++f)
    for (const PathEntry& e : flows[f].path) {
      LinkState& l = links_[e.link.index()];
      flows_of_[l.first + l.count++] = static_cast<std::uint32_t>(f);
    }
}

void MaxMinSolver::freeze(std::span<const Demand> flows, std::size_t flow, double level,
                          std::span<double> rates) {
  frozen_[flow] = true;
  rates[flow] = flows[flow].weight * level;
  for (const PathEntry& e : flows[flow].path) {
    LinkState& l = links_[e.link.index()];
    l.delta += e.load * flows[flow].weight;
    --l.num_rising;
    if (!l.changed) changed_.push_back(e.link.value);
    l.changed = true;
  }
}

// Takes what froze in this round off the links.
void MaxMinSolver::charge(double level) {
  for (std::int32_t i : changed_) {
    LinkState& l = links_[static_cast<std::size_t>(i)];
    l.changed = false;
    l.rising -= l.delta;
    l.room -= level * l.delta;
    l.delta = 0;
    if (l.num_rising == 0) l.closed = true;
    if (l.closed) continue;
    l.level = std::max(level, l.room / l.rising);  // rounding must not let the level fall
    push(i);
  }
  changed_.clear();
}

void MaxMinSolver::solve(std::span<const double> capacity, std::span<const Demand> flows,
                         std::span<double> rates) {
  TANDEM_CHECK(rates.size() == flows.size(), "{} rates for {} flows", rates.size(), flows.size());
  prepare(capacity, flows);
  Entry top{};
  while (pop(top)) {
    const double level = top.level;
    do {  // all links of this level
      LinkState& l = links_[static_cast<std::size_t>(top.link)];
      l.closed = true;
      for (std::uint32_t k = 0; k < l.count; ++k) {
        const std::size_t f = flows_of_[l.first + k];
        if (!frozen_[f]) freeze(flows, f, level, rates);
      }
    } while (pop(top) && top.level == level);
    charge(level);
  }
}

std::vector<double> max_min_rates(std::span<const double> capacity, std::span<const Demand> flows) {
  std::vector<double> rates(flows.size());
  MaxMinSolver{}.solve(capacity, flows, rates);
  return rates;
}

bool is_max_min_fair(std::span<const double> capacity, std::span<const Demand> flows,
                     std::span<const double> rates, double slack) {
  std::vector<double> used(capacity.size(), 0), fastest(capacity.size(), 0);
  for (std::size_t f = 0; f < flows.size(); ++f)
    for (const PathEntry& e : flows[f].path) {
      used[e.link.index()] += e.load * rates[f];
      fastest[e.link.index()] = std::max(fastest[e.link.index()], rates[f] / flows[f].weight);
    }
  for (std::size_t l = 0; l < capacity.size(); ++l)
    if (used[l] > capacity[l] * (1 + slack)) return false;
  for (std::size_t f = 0; f < flows.size(); ++f) {
    bool bottleneck = false;
    for (const PathEntry& e : flows[f].path) {
      const std::size_t l = e.link.index();
      bottleneck |= used[l] >= capacity[l] * (1 - slack) &&
                    fastest[l] <= rates[f] / flows[f].weight * (1 + slack);
    }
    if (!bottleneck || !(rates[f] >= 0)) return false;
  }
  return true;
}

}  // namespace tandem::sim
