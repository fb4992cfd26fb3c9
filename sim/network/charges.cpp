#include "sim/network/charges.h"

#include <algorithm>

#include "common/base/check.h"
#include "sim/network/flow.h"

namespace tandem::sim {

// Both ends of a message, or the whole group.
std::vector<Rank> Charges::members_of(const std::vector<Rank>& group, int from, int to) const {
  if (from < 0) return group;
  std::vector<Rank> out(2);
  for (Rank r : group) {
    const int p = plan_.program_of(r).value;
    if (p == from) out[0] = r;
    if (p == to) out[1] = r;
  }
  TANDEM_CHECK(out[0].valid() && out[1].valid(), "a message from {} to {} outside its group", from,
               to);
  return out;
}

int Charges::add(int group, const Op& op, int from, int to) {
  const OpKind kind = op.kind == OpKind::recv ? OpKind::send : op.kind;
  const Bytes bytes = Plan::bytes_in(op);
  const auto [it, fresh] =
      ids_.emplace(std::tuple{group, kind, bytes, from, to}, static_cast<int>(charges_.size()));
  if (!fresh) return it->second;
  const std::vector<Rank> members =
      members_of(folding_.groups[static_cast<std::size_t>(group)].groups[0], from, to);
  const Algorithm algorithm =
      kind == OpKind::send ? Algorithm::direct : choose_algorithm(cluster_, kind, bytes, members);
  std::vector<StepPhase> steps =
      phases_of(kind, algorithm, bytes, static_cast<int>(members.size()));
  Charge c;
  if (cluster_.local) return add_local(c, kind, bytes, members, steps);
  c.first_phase = static_cast<std::uint32_t>(phases_.size());
  c.num_phases = static_cast<std::uint32_t>(steps.size());
  for (StepPhase& step : steps) {
    const Picoseconds latency = step.steps * phase_cost(cluster_, step, members).latency;
    const double all = step.bytes;
    phases_.push_back({latency, all, add_pattern(group, std::move(step), from, to)});
  }
  charges_.push_back(c);
  return it->second;
}

int Charges::add_local(Charge c, OpKind kind, Bytes bytes, std::span<const Rank> members,
                       const std::vector<StepPhase>& steps) {
  const int n = static_cast<int>(members.size());
  const TransportCurve* curve = calibration_ ? calibration_->transport(name_of(kind), n) : nullptr;
  if (curve) {
    const double seconds = seconds_of(*curve, bytes), cpu = seconds * curve->cpu_share;
    const double queueing =
        std::max(1.0, static_cast<double>(curve->members) / calibration_->machine.cores);
    c.cpu = seconds_to_ps(cpu);
    c.delay = seconds_to_ps(std::max(0.0, seconds - cpu * queueing));
  } else {
    for (const StepPhase& step : steps) {
      const PhaseCost cost = phase_cost(cluster_, step, members);
      c.delay += step.steps * cost.latency;
      c.cpu += transfer_ps(step.bytes, cost.rate);
    }
  }
  charges_.push_back(c);
  return static_cast<int>(charges_.size()) - 1;
}

namespace {

// The largest part that a member hands over, or gets.
Bytes largest_part(OpKind kind, const Exchange& x) {
  Bytes most = 0;
  for (std::size_t i = 0; i < x.members; ++i)
    most = std::max(most, kind == OpKind::all_gather ? x.of(i, i) : x.of(0, i));
  return most;
}

// Both halves of what a member does: what it hands over, and what it gets.
double mean_bytes(double handed_over, double got) { return (handed_over + got) / 2; }

}  // namespace

int Charges::add(const Op& op, Rank first, const Exchange& x) {
  const int group =
      folding_
          .group_of[static_cast<std::size_t>(folding_.class_of[first.index()])][op.comm.index()];
  const GroupClass& g = folding_.groups[static_cast<std::size_t>(group)];
  TANDEM_CHECK(g.groups.size() == 1 && g.groups[0].size() == x.members,
               "rows of rank {} are exchanged in a folded group", first.value);
  const std::vector<Rank>& members = g.groups[0];
  const auto n = static_cast<Bytes>(x.members);
  // all_to_all: the sizes of hops are put in below.
  const Bytes even = op.kind == OpKind::all_gather       ? largest_part(op.kind, x)
                     : op.kind == OpKind::reduce_scatter ? n * largest_part(op.kind, x)
                                                         : n;
  std::vector<StepPhase> steps = phases_of(
      op.kind, choose_algorithm(cluster_, op.kind, even, members), even, static_cast<int>(n));
  Charge c;
  if (cluster_.local) return add_uneven_local(c, op.kind, x, members, steps);
  c.first_phase = static_cast<std::uint32_t>(phases_.size());
  c.num_phases = static_cast<std::uint32_t>(steps.size());
  for (StepPhase& step : steps) {
    if (op.kind == OpKind::all_to_all) step.bytes = slowest_bytes(step, members, x);
    const Picoseconds latency = step.steps * phase_cost(cluster_, step, members).latency;
    const double bytes = step.bytes;
    phases_.push_back({latency, bytes, add_pattern(group, std::move(step), -1, -1)});
  }
  charges_.push_back(c);
  return static_cast<int>(charges_.size()) - 1;
}

// What every hop of the phase would carry if the most loaded link took as long as it does.
double Charges::slowest_bytes(const StepPhase& phase, std::span<const Rank> members,
                              const Exchange& x) const {
  std::map<LinkId, double> load;
  std::vector<LinkId> path;
  double most = 0, least = -1;
  for (const auto& [from, to] : phase.hops) {
    const auto f = static_cast<std::size_t>(from), t = static_cast<std::size_t>(to);
    const auto bytes = static_cast<double>(x.of(f, t));
    most = std::max(most, bytes);
    least = least < 0 ? bytes : std::min(least, bytes);
    path.clear();
    cluster_.route(members[f], members[t], path);
    for (LinkId l : path) load[l] += bytes;
  }
  if (most == least) return most;  // even: exactly what the plan says
  double seconds = 0;
  for (const auto& [link, bytes] : load)
    seconds = std::max(seconds, bytes / cluster_.links[link.index()].capacity);
  return seconds * phase_cost(cluster_, phase, members).rate;
}

int Charges::add_uneven_local(Charge c, OpKind kind, const Exchange& x,
                              std::span<const Rank> members, const std::vector<StepPhase>& steps) {
  const std::size_t n = x.members;
  const TransportCurve* curve =
      calibration_ ? calibration_->transport(name_of(kind), static_cast<int>(n)) : nullptr;
  std::vector<std::pair<Rank, Picoseconds>> cpu;
  for (std::size_t i = 0; i < n; ++i) {
    // As the plan counts: all_gather its own part, the others all they have, also for themselves.
    double handed_over = 0, got = 0;
    for (std::size_t j = 0; j < n; ++j)
      handed_over += static_cast<double>(x.of(i, j)), got += static_cast<double>(x.of(j, i));
    const double parts = kind == OpKind::all_gather ? static_cast<double>(n) : 1;
    const double bytes = mean_bytes(handed_over, got) / parts;
    Picoseconds own = 0;
    if (curve) {
      const double seconds = seconds_of(*curve, static_cast<Bytes>(bytes)),
                   work = seconds * curve->cpu_share;
      const double queueing =
          std::max(1.0, static_cast<double>(curve->members) / calibration_->machine.cores);
      own = seconds_to_ps(work);
      c.delay = std::max(c.delay, seconds_to_ps(std::max(0.0, seconds - work * queueing)));
    } else {
      for (const StepPhase& step : steps) {
        double sent = 0, received = 0;
        for (const auto& [from, to] : step.hops) {
          const auto f = static_cast<std::size_t>(from), t = static_cast<std::size_t>(to);
          if (f == i) sent = std::max(sent, static_cast<double>(x.of(f, t)));
          if (t == i) received = std::max(received, static_cast<double>(x.of(f, t)));
        }
        const int times =
            kind == OpKind::all_to_all ? 1 : step.steps;  // a hop carries so many parts
        own += transfer_ps(times * mean_bytes(sent, received),
                           phase_cost(cluster_, step, members).rate);
      }
    }
    cpu.emplace_back(members[i], own);
    c.cpu = std::max(c.cpu, own);
  }
  if (!curve)
    for (const StepPhase& step : steps)
      c.delay += step.steps * phase_cost(cluster_, step, members).latency;
  std::sort(cpu.begin(), cpu.end());
  c.first_member_cpu = static_cast<std::int64_t>(member_cpu_.size());
  for (const auto& [rank, own] : cpu) member_cpu_.push_back(own);
  charges_.push_back(c);
  return static_cast<int>(charges_.size()) - 1;
}

int Charges::add_pattern(int group, StepPhase&& phase, int from, int to) {
  const auto [it, fresh] = pattern_ids_.emplace(std::tuple{group, from, to, phase.hops},
                                                static_cast<int>(patterns_.size()));
  if (fresh) {
    Pattern p;
    p.group = group;
    p.message = from >= 0;
    p.hops = std::move(phase.hops);
    p.from = from;
    p.to = to;
    patterns_.push_back(std::move(p));
  }
  return it->second;
}

void Charges::prepare() {
  struct Use {
    LinkId link;
    int pattern;
    double own, all;
  };
  std::vector<Use> uses;
  std::vector<LinkId> path;
  for (std::size_t k = 0; k < patterns_.size(); ++k) {
    const Pattern& p = patterns_[k];
    std::map<LinkId, std::pair<double, double>> load;
    bool own = true;
    for (const auto& group : folding_.groups[static_cast<std::size_t>(p.group)].groups) {
      const std::vector<Rank> members = members_of(group, p.from, p.to);
      for (const auto& [from, to] : p.hops) {
        path.clear();
        cluster_.route(members[static_cast<std::size_t>(from)],
                       members[static_cast<std::size_t>(to)], path);
        for (LinkId l : path) {
          auto& [mine, all] = load[l];
          mine += own ? 1 : 0;
          all += 1;
        }
      }
      own = false;
    }
    for (const auto& [link, l] : load)
      uses.push_back({link, static_cast<int>(k), l.first, l.second});
  }
  std::stable_sort(uses.begin(), uses.end(),
                   [](const Use& a, const Use& b) { return a.link < b.link; });

  // Links in order; equal (capacity, loads) are one quotient link.
  std::map<std::pair<double, std::vector<std::pair<int, double>>>, int> quotient;
  for (std::size_t i = 0; i < uses.size();) {
    std::size_t j = i;
    std::vector<std::pair<int, double>> loads;
    for (; j < uses.size() && uses[j].link == uses[i].link; ++j)
      loads.emplace_back(uses[j].pattern, uses[j].all);
    const double capacity = cluster_.links[uses[i].link.index()].capacity;
    bool messages = false, several_groups = false;
    for (std::size_t k = i; k < j; ++k) {
      const Pattern& p = patterns_[static_cast<std::size_t>(uses[k].pattern)];
      messages |= p.message;
      several_groups |= p.group != patterns_[static_cast<std::size_t>(uses[i].pattern)].group;
    }
    for (std::size_t k = i; k < j; ++k) {
      Pattern& p = patterns_[static_cast<std::size_t>(uses[k].pattern)];
      const double all = capacity / uses[k].all;
      if (p.rate == 0 || all < p.rate) p.rate = all;
      if (const double own = capacity / uses[k].own;
          uses[k].own > 0 && (p.own_rate == 0 || own < p.own_rate))
        p.own_rate = own;
      // Collectives of one group queue on one stream and never overlap.
      if (j - i > 1 && (p.message || messages || several_groups)) p.shared = true;
    }
    const auto [it, fresh] =
        quotient.emplace(std::pair{capacity, loads}, static_cast<int>(capacity_.size()));
    if (fresh) {
      capacity_.push_back(capacity);
      for (const auto& [pattern, load] : loads)
        patterns_[static_cast<std::size_t>(pattern)].path.push_back({LinkId{it->second}, load});
    }
    i = j;
  }
  for (Charge& c : charges_) close(c);
}

void Charges::close(Charge& c) {
  if (cluster_.local) return;
  c.closed = fidelity_ != Fidelity::flow;
  for (const ChargedPhase& phase : phases(c)) {
    const Pattern& p = patterns_[static_cast<std::size_t>(phase.pattern)];
    if (fidelity_ == Fidelity::automatic && p.shared) c.closed = false;
    const double rate = fidelity_ == Fidelity::closed_form ? p.own_rate : p.rate;
    c.fixed += phase.latency + transfer_ps(phase.bytes, rate);
  }
}

}  // namespace tandem::sim
