#include "sim/network/flow.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "sim/engine/event_queue.h"

namespace tandem::sim {
namespace {
std::size_t slot(int flow) { return static_cast<std::size_t>(flow); }
}  // namespace

Picoseconds transfer_ps(double bytes, double rate) {
  if (bytes <= 0) return 0;
  return seconds_to_ps(bytes / rate);
}

FlowNetwork::FlowNetwork(std::vector<double> capacity)
    : capacity_(std::move(capacity)), on_link_(capacity_.size()), link_seen_(capacity_.size()) {}

void FlowNetwork::touch(std::span<const PathEntry> path) {
  for (const PathEntry& e : path) dirty_.push_back(e.link.value);
}

int FlowNetwork::start(Picoseconds now, std::span<const PathEntry> path, double bytes) {
  int id = static_cast<int>(flows_.size());
  if (free_.empty()) {
    flows_.emplace_back();
  } else {
    id = free_.back();
    free_.pop_back();
  }
  flows_[index(id)] = Flow{path, bytes, 0, now, now, true, false};
  for (const PathEntry& e : path) on_link_[e.link.index()].push_back(id);
  touch(path);
  return id;
}

void FlowNetwork::end(int flow) {
  Flow& f = flows_[index(flow)];
  TANDEM_CHECK(f.active, "flow {} ends twice", flow);
  f.active = false;
  for (const PathEntry& e : f.path) {
    std::vector<int>& list = on_link_[e.link.index()];
    list.erase(std::find(list.begin(), list.end(), flow));
  }
  touch(f.path);
  free_.push_back(flow);
}

// All flows joined to the dirty links.
void FlowNetwork::collect_component() {
  component_.clear();
  for (std::size_t i = 0; i < dirty_.size(); ++i) {
    const auto l = static_cast<std::size_t>(dirty_[i]);
    if (link_seen_[l]) continue;
    link_seen_[l] = true;
    seen_links_.push_back(dirty_[i]);
    for (int id : on_link_[l]) {
      Flow& f = flows_[index(id)];
      if (f.seen) continue;
      f.seen = true;
      component_.push_back(id);
      for (const PathEntry& e : f.path)
        if (!link_seen_[e.link.index()]) dirty_.push_back(e.link.value);
    }
  }
  dirty_.clear();
  for (std::int32_t l : seen_links_) link_seen_[static_cast<std::size_t>(l)] = false;
  seen_links_.clear();
  std::sort(component_.begin(), component_.end());
}

void FlowNetwork::update(Flow& f, double rate, Picoseconds now) {
  f.left = std::max(0.0, f.left - f.rate * ps_to_seconds(now - f.since));
  f.since = now;
  f.rate = rate;
  f.finish = now + transfer_ps(f.left, rate);
}

void FlowNetwork::settle(Picoseconds now) {
  changed_.clear();
  if (dirty_.empty()) return;
  collect_component();
  demands_.clear();
  for (int id : component_) {
    flows_[index(id)].seen = false;
    demands_.push_back({flows_[index(id)].path, 1});
  }
  rates_.resize(demands_.size());
  solver_.solve(capacity_, demands_, rates_);
  for (std::size_t i = 0; i < component_.size(); ++i) {
    Flow& f = flows_[index(component_[i])];
    if (f.rate == rates_[i]) continue;
    update(f, rates_[i], now);
    changed_.push_back(component_[i]);
  }
}

std::vector<Picoseconds> finish_times(std::span<const double> capacity,
                                      std::span<const TimedFlow> flows) {
  // Event numbers: a flow begins to send (2 f), or may have finished (2 f + 1, with the time).
  FlowNetwork network({capacity.begin(), capacity.end()});
  EventQueue queue;
  std::vector<Picoseconds> finish(flows.size(), -1);
  std::vector<int> number(flows.size(), -1), flow_of;
  for (std::size_t i = 0; i < flows.size(); ++i)
    queue.push({flows[i].start + flows[i].latency, static_cast<std::uint32_t>(2 * i), 0});
  while (!queue.empty()) {
    const Event e = queue.pop();
    const std::size_t f = e.what / 2;
    if (e.what % 2 == 0) {
      number[f] = network.start(e.time, flows[f].path, flows[f].bytes);
      if (slot(number[f]) >= flow_of.size()) flow_of.resize(slot(number[f]) + 1);
      flow_of[slot(number[f])] = static_cast<int>(f);
    } else if (finish[f] < 0 && network.finish(number[f]) == e.time) {
      finish[f] = e.time;
      network.end(number[f]);
    }
    if (queue.more_now()) continue;
    network.settle(e.time);
    for (int id : network.changed())
      queue.push({network.finish(id), static_cast<std::uint32_t>(2 * flow_of[slot(id)] + 1), 0});
  }
  return finish;
}

}  // namespace tandem::sim
