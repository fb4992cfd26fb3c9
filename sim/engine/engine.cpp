#include "sim/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "common/plan/print.h"
#include "common/plan/totals.h"

namespace tandem::sim {
namespace {

// A job of the cores is a compute or copy op (its instance) or the CPU work of a member of a
// communication (its rendezvous, with this bit).
constexpr std::uint32_t kCommunicationJob = 1U << 31;

std::span<const Picoseconds> one(const Picoseconds& work) { return {&work, 1}; }

}  // namespace

void ReplayDurations::set(const Plan& plan, Rank rank, OpId op, Picoseconds duration) {
  if (by_rank.size() <= rank.index()) by_rank.resize(rank.index() + 1);
  const Program& program = plan.programs[plan.program_of(rank).index()];
  std::vector<Picoseconds>& table = by_rank[rank.index()];
  if (table.empty()) table.assign(program.num_ops, -1);
  table.at(op.index() - program.first_op) = duration;
}

Picoseconds ReplayDurations::find(Rank rank, std::size_t local_op) const {
  if (rank.index() >= by_rank.size() || local_op >= by_rank[rank.index()].size()) return -1;
  return by_rank[rank.index()][local_op];
}

// --- once ----------------------------------------------------------------------------------------

Engine::Engine(const Plan& plan, const Cluster& cluster, const Folding& folding, Charges& charges,
               const ComputeCost& cost, const Options& options)
    : plan_(plan),
      cluster_(cluster),
      folding_(folding),
      charges_(charges),
      cost_(cost),
      options_(options),
      flows_({}) {
  frees_hold_host_ = cluster.local;
  comm_in_order_ = !cluster.local && cluster.spec.library == CollectiveLibrary::nccl;
  make_actors();
  make_groups();
  make_order();
  make_rendezvous();
  charges_.prepare();
  flows_ = FlowNetwork(charges_.capacity());
  if (cluster.local) {
    cores_.assign(static_cast<std::size_t>(cluster.nodes), Cores(cluster.cores_per_node));
    cores_stamp_.assign(cores_.size(), 0);
  }
}

void Engine::make_actors() {
  std::uint32_t base = 0;
  for (std::size_t c = 0; c < folding_.representative.size(); ++c) {
    Actor a;
    a.rank = folding_.representative[c];
    const Program& program = plan_.programs[plan_.program_of(a.rank).index()];
    a.first_op = program.first_op;
    a.num_ops = program.num_ops;
    a.base = base;
    a.multiplicity = folding_.multiplicity[c];
    a.slow = cluster_.slow_factor(a.rank);
    a.step = -options_.lead_in;
    base += a.num_ops;
    actors_.push_back(a);
  }
  TANDEM_CHECK(base < (1U << kIndexBits), "{} op instances", base);
  blockers_.resize(base);
  times_.resize(base);
  actor_of_.resize(base);
  rendezvous_of_.assign(base, -1);
  for (std::size_t i = 0; i < actors_.size(); ++i)
    std::fill_n(actor_of_.begin() + actors_[i].base, actors_[i].num_ops,
                static_cast<std::uint32_t>(i));
}

// Group ids of the plan become dense within each program.
void Engine::make_groups() {
  group_of_.assign(plan_.ops.size(), -1);
  for (const Program& program : plan_.programs) {
    std::map<std::int32_t, std::int32_t> dense;
    groups_.emplace_back();
    for (std::uint32_t i = 0; i < program.num_ops; ++i) {
      const Op& op = plan_.ops[program.first_op + i];
      if (op.group < 0 || !is_communication(op.kind)) continue;
      const auto [it, fresh] = dense.emplace(op.group, static_cast<std::int32_t>(dense.size()));
      if (fresh) groups_.back().emplace_back();
      groups_.back()[static_cast<std::size_t>(it->second)].push_back(i);
      group_of_[program.first_op + i] = it->second;
    }
  }
  std::uint32_t total = 0;
  for (Actor& a : actors_) {
    a.first_group = total;
    total += static_cast<std::uint32_t>(groups_[plan_.program_of(a.rank).index()].size());
  }
  group_ready_.assign(total, 0);
  group_left_.assign(total, 0);
}

// What each op has to wait for, and who waits for it.
void Engine::make_order() {
  const std::size_t n = plan_.ops.size();
  blockers_at_start_.assign(n, 0);
  next_on_stream_.assign(n, -1);
  next_communication_.assign(n, -1);
  first_dependent_.assign(n + 1, 0);
  for (const Op& op : plan_.ops)
    for (OpId w : plan_.waits_of(op)) ++first_dependent_[w.index() + 1];
  for (std::size_t i = 0; i < n; ++i) first_dependent_[i + 1] += first_dependent_[i];
  dependents_.resize(first_dependent_[n]);
  std::vector<std::uint32_t> fill(first_dependent_.begin(), first_dependent_.end() - 1);
  const auto levels = static_cast<std::size_t>(cost_.num_levels());
  work_.assign(n * levels, 0);
  std::vector<std::int32_t> last(plan_.streams.size());
  for (const Program& program : plan_.programs) {
    std::fill(last.begin(), last.end(), -1);
    std::int32_t last_communication = -1;
    for (std::uint32_t i = 0; i < program.num_ops; ++i) {
      const std::size_t id = program.first_op + i;
      const Op& op = plan_.ops[id];
      std::int32_t& blockers = blockers_at_start_[id];
      blockers = 1 + static_cast<std::int32_t>(op.waits.count);
      for (OpId w : plan_.waits_of(op)) dependents_[fill[w.index()]++] = i;
      std::int32_t& before = last[op.stream.index()];
      const bool same_group =
          before >= 0 && group_of_[id] >= 0 &&
          group_of_[program.first_op + static_cast<std::uint32_t>(before)] == group_of_[id];
      if (before >= 0 && !holds_host(op.kind)) {
        next_on_stream_[program.first_op + static_cast<std::uint32_t>(before)] =
            static_cast<std::int32_t>(i);
        blockers += same_group ? 0 : 1;  // members of a group are at the head together
      }
      before = static_cast<std::int32_t>(i);
      if (is_communication(op.kind) && comm_in_order_) {
        const bool with_it =
            last_communication >= 0 && group_of_[id] >= 0 &&
            group_of_[program.first_op + static_cast<std::uint32_t>(last_communication)] ==
                group_of_[id];
        if (last_communication >= 0 && !with_it) {
          next_communication_[program.first_op + static_cast<std::uint32_t>(last_communication)] =
              static_cast<std::int32_t>(i);
          ++blockers;
        }
        last_communication = static_cast<std::int32_t>(i);
      }
      if (op.kind == OpKind::copy)
        for (std::size_t l = 0; l < levels; ++l)
          work_[id * levels + l] = cost_.copy(Plan::bytes_in(op));
      for (const Call& c : plan_.calls_of(op)) {
        const auto work = cost_.work(c.kernel, call_accumulates(plan_, c));
        for (std::size_t l = 0; l < levels; ++l) work_[id * levels + l] += work[l];
      }
    }
  }
}

// Matches the communications of the actors: the k-th op of a group class on each of its members
// (of a pair of programs, for messages). Verification has shown that they agree.
void Engine::make_rendezvous() {
  using Channel = std::tuple<int, int, int>;  // group class, from, to (-1: collective)
  struct Matched {
    std::vector<std::uint32_t> order;         // rendezvous
    std::map<std::size_t, std::size_t> next;  // by actor
  };
  std::map<Channel, Matched> channels;
  std::vector<std::vector<std::uint32_t>> members;
  for (std::size_t a = 0; a < actors_.size(); ++a) {
    const Actor& actor = actors_[a];
    const int here = plan_.program_of(actor.rank).value;
    for (std::uint32_t i = 0; i < actor.num_ops; ++i) {
      const Op& op = plan_.ops[actor.first_op + i];
      if (!is_communication(op.kind)) continue;
      const int group = folding_.group_of[a][op.comm.index()];
      TANDEM_CHECK(group >= 0, "op {} communicates in a group that its rank is not in",
                   actor.first_op + i);
      const int from = op.kind == OpKind::send ? here : op.kind == OpKind::recv ? op.peer : -1;
      const int to = op.kind == OpKind::send ? op.peer : op.kind == OpKind::recv ? here : -1;
      Matched& m = channels[{group, from, to}];
      const std::size_t k = m.next[a]++;
      if (k == m.order.size()) {
        m.order.push_back(static_cast<std::uint32_t>(rendezvous_.size()));
        rendezvous_.emplace_back();
        add_charge(rendezvous_.back(), group, OpId{actor.first_op + i}, from, to);
        members.emplace_back();
      }
      const std::uint32_t r = m.order[k];
      members[r].push_back(actor.base + i);
      rendezvous_of_[actor.base + i] = static_cast<std::int32_t>(r);
    }
  }
  for (std::size_t r = 0; r < rendezvous_.size(); ++r) {
    rendezvous_[r].first_member = static_cast<std::uint32_t>(members_.size());
    rendezvous_[r].num_members = static_cast<std::uint32_t>(members[r].size());
    members_.insert(members_.end(), members[r].begin(), members[r].end());
  }
  for (const auto& [channel, m] : channels) {
    const auto& [group, from, to] = channel;
    const std::size_t needed =
        from >= 0 ? 2 : folding_.groups[static_cast<std::size_t>(group)].classes.size();
    for (std::uint32_t r : m.order)
      TANDEM_CHECK(
          rendezvous_[r].num_members == needed,
          "a communication of {} has {} of {} members; the plan was not verified",
          plan_.name(
              plan_.communicators[folding_.groups[static_cast<std::size_t>(group)].comm.index()]
                  .name),
          rendezvous_[r].num_members, needed);
  }
}

// What it costs: always the same, or another thing in each step.
void Engine::add_charge(Rendezvous& r, int group, OpId op, int from, int to) {
  const Rank first = folding_.groups[static_cast<std::size_t>(group)].groups[0].front();
  if (!options_.routed || options_.routed->charge(0, op, first) < 0) {
    r.charge = charges_.add(group, plan_.op(op), from, to);
    return;
  }
  r.routed = static_cast<std::int32_t>(routed_charges_.size());
  for (int step = 0; step < options_.steps; ++step)
    routed_charges_.push_back(options_.routed->charge(step, op, first));
}

// --- events --------------------------------------------------------------------------------------

Status Engine::run(const std::function<void(const StepReport&)>& on_step) {
  on_step_ = &on_step;
  running_ = actors_.size();
  for (std::size_t a = 0; a < actors_.size(); ++a) run_step(a);
  while (!queue_.empty()) {
    const Event e = queue_.pop();
    now_ = e.time;
    ++num_events_;
    handle(e);
    if (!queue_.more_now()) settle();
  }
  if (running_ > 0) return stuck();
  return Ok{};
}

void Engine::handle(const Event& e) {
  const std::uint32_t index = e.what & ((1U << kIndexBits) - 1);
  switch (static_cast<What>(e.what >> kIndexBits)) {
    case What::host:
      return run_host(index);
    case What::start:
      return run_op(actor_of_[index], index);
    case What::end:
      return end_op(index);
    case What::comm_end:
      return end_transfer(index);
    case What::comm_cpu:
      return start_cpu_work(index);
    case What::comm_phase:
      return start_flow(index);
    case What::comm_flow: {
      Rendezvous& r = rendezvous_[index];
      if (e.stamp != r.stamp) return;  // its rate has changed since
      flows_.end(r.flow);
      r.flow = -1;
      ++r.phase;
      return start_phase(index);
    }
    case What::cores:
      if (e.stamp != cores_stamp_[index]) return;
      for (std::uint32_t owner : cores_[index].take_finished(now_)) {
        if (!(owner & kCommunicationJob)) {
          end_op(owner);
        } else if (Rendezvous& r = rendezvous_[owner & ~kCommunicationJob]; --r.left == 0) {
          end_transfer(owner & ~kCommunicationJob);
        }
      }
      return;
  }
}

// Shared resources are divided anew once all that happens at this moment has happened.
void Engine::settle() {
  flows_.settle(now_);
  for (int flow : flows_.changed()) {
    const std::uint32_t owner = flow_owner_[static_cast<std::size_t>(flow)];
    at(flows_.finish(flow), What::comm_flow, owner, ++rendezvous_[owner].stamp);
  }
  for (std::size_t n = 0; n < cores_.size(); ++n)
    if (cores_[n].settle(now_)) at(cores_[n].next_end(), What::cores, n, ++cores_stamp_[n]);
}

// --- the host ------------------------------------------------------------------------------------

void Engine::run_step(std::size_t actor) {
  Actor& a = actors_[actor];
  std::copy_n(blockers_at_start_.begin() + a.first_op, a.num_ops, blockers_.begin() + a.base);
  const std::size_t num_groups = groups_[plan_.program_of(a.rank).index()].size();
  std::fill_n(group_ready_.begin() + a.first_group, num_groups, 0U);
  std::fill_n(group_left_.begin() + a.first_group, num_groups, 0U);
  a.next_issue = a.pending_frees = 0;
  a.unfinished = a.num_ops;
  a.host = a.step_started = now_;
  free_host(actor, StreamId{});
}

// Issues ops until one holds the host. Issue times may lie ahead of now_: a host runs ahead of its
// streams, and only waiting makes it meet them.
void Engine::run_host(std::size_t actor) {
  Actor& a = actors_[actor];
  a.host = std::max(a.host, now_);
  a.host_state = HostState::issuing;
  while (a.next_issue < a.num_ops) {
    const std::uint32_t instance = a.base + a.next_issue;
    const Op& op = op_of(a, instance);
    if (op.allocates.count && a.pending_frees > 0) {
      a.host_state = HostState::waits_for_frees;
      return;
    }
    ++a.next_issue;
    a.host += options_.issue_ps;
    times_[instance].issued = a.host;
    if (op.frees.count && frees_hold_host_) ++a.pending_frees;
    const bool holds = holds_host(op.kind);
    if (holds) a.host_state = HostState::waits_for_value;
    release(actor, instance, a.awake);
    if (holds) return;
  }
  a.host_state = HostState::done;
  if (a.num_ops == 0) end_step(actor);
}

void Engine::host_wait(std::size_t actor, std::uint32_t instance) {
  end_op(instance);
  free_host(actor, actors_[actor].awake);
}

// Whoever set the host free goes on issuing: an op of its own stream needs no thread to wake up.
void Engine::free_host(std::size_t actor, StreamId awake) {
  actors_[actor].host_state = HostState::issuing;
  actors_[actor].awake = awake;
  at(now_, What::host, actor);
}

void Engine::end_step(std::size_t actor) {
  Actor& a = actors_[actor];
  if (a.step >= 0)
    (*on_step_)({static_cast<int>(actor),
                 a.step,
                 a.step_started,
                 now_,
                 {times_.data() + a.base, a.num_ops}});
  if (++a.step < options_.steps)
    run_step(actor);
  else
    --running_;
}

// --- the streams ---------------------------------------------------------------------------------

// One thing less that the op waits for, done by the thread of stream `awake`. If the op is another
// stream's, that one's thread sleeps until this happens.
void Engine::release(std::size_t actor, std::uint32_t instance, StreamId awake) {
  if (--blockers_[instance] > 0) return;
  OpTimes& t = times_[instance];
  t.ready = std::max(now_, t.issued);
  const Op& op = op_of(actors_[actor], instance);
  if (holds_host(op.kind)) actors_[actor].awake = awake;
  const bool sleeps = !holds_host(op.kind) && op.stream != awake;
  const Picoseconds start = t.ready + (sleeps ? options_.wake_ps : 0);
  if (start > now_)
    at(start, What::start, instance);
  else
    run_op(actor, instance);
}

// The next of the same stream, or of a rank's communications: nobody sleeps.
void Engine::release_next(std::size_t actor, std::uint32_t local) {
  const std::uint32_t instance = actors_[actor].base + local;
  release(actor, instance, op_of(actors_[actor], instance).stream);
}

void Engine::run_op(std::size_t actor, std::uint32_t instance) {
  times_[instance].started = now_;
  switch (op_of(actors_[actor], instance).kind) {
    case OpKind::compute:
      return run_calls(actor, instance);
    case OpKind::all_reduce:
    case OpKind::all_gather:
    case OpKind::reduce_scatter:
    case OpKind::all_to_all:
    case OpKind::broadcast:
    case OpKind::send:
    case OpKind::recv:
    case OpKind::shift:
      return run_communication(actor, instance);
    case OpKind::copy:
      return run_copy(actor, instance);
    case OpKind::host_wait:
    case OpKind::post_validate:  // which finds no fault
      return host_wait(actor, instance);
  }
}

void Engine::run_calls(std::size_t actor, std::uint32_t instance) {
  const Actor& a = actors_[actor];
  const std::uint32_t local = instance - a.base;
  if (options_.replay)
    if (const Picoseconds d = options_.replay->find(a.rank, local); d >= 0)
      return at(now_ + d, What::end, instance);
  const auto levels = static_cast<std::size_t>(cost_.num_levels());
  std::span<const Picoseconds> work{work_.data() + (a.first_op + local) * levels, levels};
  if (options_.routed)
    if (const auto routed = options_.routed->work(routed_step(a), a.rank, OpId{a.first_op + local});
        !routed.empty())
      work = routed;
  if (!cores_.empty())
    return cores_[static_cast<std::size_t>(cluster_.node_of(a.rank))].start(now_, instance, work,
                                                                            a.multiplicity, a.slow);
  const Picoseconds time =
      a.slow == 1.0 ? work[0]
                    : static_cast<Picoseconds>(std::ceil(static_cast<double>(work[0]) * a.slow));
  at(now_ + time, What::end, instance);
}

void Engine::run_copy(std::size_t actor, std::uint32_t instance) { run_calls(actor, instance); }

// Exposes the op; the members of a group wait for each other.
void Engine::run_communication(std::size_t actor, std::uint32_t instance) {
  const Actor& a = actors_[actor];
  const std::size_t id = a.first_op + (instance - a.base);
  if (group_of_[id] < 0) {
    arrive(instance);
    if (const std::int32_t next = next_communication_[id]; next >= 0)
      release_next(actor, static_cast<std::uint32_t>(next));
    return;
  }
  const std::uint32_t g = a.first_group + static_cast<std::uint32_t>(group_of_[id]);
  const auto& ops =
      groups_[plan_.program_of(a.rank).index()][static_cast<std::size_t>(group_of_[id])];
  if (++group_ready_[g] < ops.size()) return;
  group_left_[g] = group_ready_[g];
  for (std::uint32_t local : ops) arrive(a.base + local);
  if (const std::int32_t next = next_communication_[a.first_op + ops.back()]; next >= 0)
    release_next(actor, static_cast<std::uint32_t>(next));
}

void Engine::end_op(std::uint32_t instance) {
  const std::size_t actor = actor_of_[instance];
  Actor& a = actors_[actor];
  const std::size_t id = a.first_op + (instance - a.base);
  const Op& op = plan_.ops[id];
  times_[instance].ended = now_;
  if (op.frees.count && frees_hold_host_) free_buffers(actor, op.stream);
  leave_stream(actor, instance);
  for (std::uint32_t d = first_dependent_[id]; d < first_dependent_[id + 1]; ++d)
    release(actor, a.base + dependents_[d], op.stream);
  if (--a.unfinished == 0) end_step(actor);
}

void Engine::free_buffers(std::size_t actor, StreamId stream) {
  Actor& a = actors_[actor];
  if (--a.pending_frees == 0 && a.host_state == HostState::waits_for_frees)
    free_host(actor, stream);
}

// The next op of the stream is its head; a group leaves its streams as a whole.
void Engine::leave_stream(std::size_t actor, std::uint32_t instance) {
  const Actor& a = actors_[actor];
  const std::size_t id = a.first_op + (instance - a.base);
  const auto next_of = [&](std::size_t op) {
    const std::int32_t next = next_on_stream_[op];
    if (next < 0) return;
    const std::size_t next_id = a.first_op + static_cast<std::uint32_t>(next);
    if (group_of_[op] >= 0 && group_of_[next_id] == group_of_[op]) return;
    release_next(actor, static_cast<std::uint32_t>(next));
    // The rest of a group that has reached the head needs no release: see make_order().
  };
  if (group_of_[id] < 0) return next_of(id);
  const std::uint32_t g = a.first_group + static_cast<std::uint32_t>(group_of_[id]);
  if (--group_left_[g] > 0) return;
  for (std::uint32_t local :
       groups_[plan_.program_of(a.rank).index()][static_cast<std::size_t>(group_of_[id])])
    next_of(a.first_op + local);
}

// --- communications ------------------------------------------------------------------------------

void Engine::arrive(std::uint32_t instance) {
  const auto r = static_cast<std::uint32_t>(rendezvous_of_[instance]);
  if (++rendezvous_[r].arrived == rendezvous_[r].num_members) start_transfer(r);
}

void Engine::start_transfer(std::uint32_t index) {
  Rendezvous& r = rendezvous_[index];
  if (r.routed >= 0)  // its members are in one step: none can have gone on
    r.charge = routed_charges_[static_cast<std::size_t>(
        r.routed + routed_step(actors_[actor_of_[members_[r.first_member]]]))];
  const Charge& c = charges_.charge(r.charge);
  bool replayed = true;
  for (std::uint32_t m = 0; m < r.num_members; ++m) {
    const std::uint32_t instance = members_[r.first_member + m];
    times_[instance].started = now_;
    const Actor& a = actors_[actor_of_[instance]];
    replayed &= options_.replay && options_.replay->find(a.rank, instance - a.base) >= 0;
  }
  if (replayed) {  // each member ends by its own measured duration
    r.arrived = 0;
    for (std::uint32_t m = 0; m < r.num_members; ++m) {
      const std::uint32_t instance = members_[r.first_member + m];
      const Actor& a = actors_[actor_of_[instance]];
      at(now_ + options_.replay->find(a.rank, instance - a.base), What::end, instance);
    }
    return;
  }
  r.phase = 0;
  if (cluster_.local) return at(now_ + c.delay, What::comm_cpu, index);
  if (c.closed) return at(now_ + c.fixed, What::comm_end, index);
  start_phase(index);
}

void Engine::start_phase(std::uint32_t index) {
  const Rendezvous& r = rendezvous_[index];
  const Charge& c = charges_.charge(r.charge);
  if (r.phase == c.num_phases) return end_transfer(index);
  at(now_ + charges_.phases(c)[r.phase].latency, What::comm_phase, index);
}

// The latency of the phase is over; its bytes share the links from here.
void Engine::start_flow(std::uint32_t index) {
  Rendezvous& r = rendezvous_[index];
  const ChargedPhase& phase = charges_.phases(charges_.charge(r.charge))[r.phase];
  r.flow = flows_.start(now_, charges_.path(phase.pattern), phase.bytes);
  if (flow_owner_.size() <= static_cast<std::size_t>(r.flow))
    flow_owner_.resize(static_cast<std::size_t>(r.flow) + 1);
  flow_owner_[static_cast<std::size_t>(r.flow)] = index;
}

// Local: every member copies and sums on the shared cores.
void Engine::start_cpu_work(std::uint32_t index) {
  Rendezvous& r = rendezvous_[index];
  const Charge& c = charges_.charge(r.charge);
  if (c.cpu == 0) return end_transfer(index);
  r.left = r.num_members;
  for (std::uint32_t m = 0; m < r.num_members; ++m) {
    const Actor& a = actors_[actor_of_[members_[r.first_member + m]]];
    cores_[static_cast<std::size_t>(cluster_.node_of(a.rank))].start(
        now_, index | kCommunicationJob, one(charges_.cpu_of(c, m)), a.multiplicity, 1.0);
  }
}

void Engine::end_transfer(std::uint32_t index) {
  Rendezvous& r = rendezvous_[index];
  r.arrived = 0;
  const std::uint32_t first = r.first_member, count = r.num_members;
  for (std::uint32_t m = 0; m < count; ++m) end_op(members_[first + m]);
}

// The heads of the streams that cannot go on, at most four.
Error Engine::stuck() const {
  std::string found;
  int shown = 0;
  for (const Actor& a : actors_) {
    for (std::uint32_t i = 0; i < a.num_ops && shown < 4; ++i) {
      const std::uint32_t instance = a.base + i;
      if (a.step >= options_.steps || blockers_[instance] > 0 || rendezvous_of_[instance] < 0)
        continue;
      const Rendezvous& r = rendezvous_[static_cast<std::size_t>(rendezvous_of_[instance])];
      if (r.arrived == 0) continue;
      found += fmt::format("{}rank {} waits in op {} {}", shown++ ? "; " : "", a.rank.value,
                           a.first_op + i, describe(plan_, OpId{a.first_op + i}));
      break;
    }
  }
  return make_error(Failure::infeasible, "E-PLAN-081", "the plan cannot finish",
                    found.empty() ? "ops that wait for each other" : found,
                    "an order in which every communication meets its partners",
                    "run `tandem plan` to verify it; change receive or communicators");
}

}  // namespace tandem::sim
