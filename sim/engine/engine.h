// Runs a plan on a modelled machine: when is each op issued, ready, started and ended? The twin of
// exec/runtime/interpreter: the same op kinds in the same order, the same names.
//
//   issue   the host of a rank issues its ops in program order, `issue_ps` apart. On a local
//           cluster it issues an allocating op only when all earlier frees have been carried out;
//           on devices stream order does that without waiting. host_wait holds it.
//   start   the op is issued, the head of its stream, and its waits have ended. A communication
//           then waits for its partners (rendezvous: both ends exposed). The members of a group
//           are exposed together. Library nccl: a rank exposes its communications in issue order.
//   wake    the thread of a stream that sleeps takes wake_ps to go on: where an op was released by
//           another stream's op (a wait, or the issue of the host that it set free) and not by the
//           op before it on its own. The host itself never sleeps: who sets it free goes on issuing
//   end     compute: after its work, on the device or on a share of the host's cores;
//           communication: after its phases (network/charges.h), at the same moment on all members
//   Only representatives are run (fold.h); one event queue, one thread, integer picoseconds.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "sim/cluster/cluster.h"
#include "sim/compute/compute_cost.h"
#include "sim/engine/cores.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/fold.h"
#include "sim/engine/routed_work.h"
#include "sim/network/charges.h"
#include "sim/network/flow.h"

namespace tandem::sim {

// Measured durations that replace the cost model: [rank][op - first op of its program], ps; -1: not
// given. Compute and copy: the whole op. Communication: from the arrival of all to the member's
// end.
struct ReplayDurations {
  std::vector<std::vector<Picoseconds>> by_rank;
  // Fills in a rank's table on first use.
  void set(const Plan& plan, Rank rank, OpId op, Picoseconds duration);
  [[nodiscard]] Picoseconds find(Rank rank, std::size_t local_op) const;
};

struct OpTimes {
  Picoseconds issued = 0, ready = 0, started = 0, ended = 0;
};

class Engine {
 public:
  struct Options {
    int steps = 1;
    // Steps before these, which are not reported: where steps of ranks overlap they fill the
    // pipeline. Rows known only at run time are those of step 0.
    int lead_in = 0;
    Picoseconds issue_ps = 0, wake_ps = 0;
    const ReplayDurations* replay = nullptr;
    // Rows that differ between ranks and steps; null: those of the plan. With it nothing is folded.
    const RoutedWork* routed = nullptr;
  };
  // A step of a class of ranks, reported when its last op has ended. `times` is by op of the
  // program; valid during the call.
  struct StepReport {
    int class_index = 0, step = 0;
    Picoseconds started = 0, ended = 0;
    std::span<const OpTimes> times;
  };

  Engine(const Plan& plan, const Cluster& cluster, const Folding& folding, Charges& charges,
         const ComputeCost& cost, const Options& options);

  // E-PLAN-081: ops that can never start (a plan that verification would have refused).
  [[nodiscard]] Status run(const std::function<void(const StepReport&)>& on_step);
  [[nodiscard]] std::uint64_t num_events() const { return num_events_; }

 private:
  enum class HostState : std::uint8_t { issuing, waits_for_frees, waits_for_value, done };
  enum class What : std::uint32_t {  // of an event; the rest of Event::what is the index
    host,
    start,
    end,
    comm_end,
    comm_cpu,
    comm_phase,
    comm_flow,
    cores
  };
  struct Actor {  // a simulated rank
    Rank rank;
    std::uint32_t base = 0;  // its first op instance
    std::uint32_t first_op = 0, num_ops = 0;
    std::uint32_t next_issue = 0, unfinished = 0, pending_frees = 0;
    std::uint32_t first_group = 0;
    int multiplicity = 1, step = 0;  // below 0: of the lead-in
    double slow = 1;
    StreamId awake;  // the stream whose op has set the host free; invalid: none
    HostState host_state = HostState::issuing;
    Picoseconds host = 0, step_started = 0;
  };
  struct Rendezvous {
    int charge = -1;           // of the step that it is in
    std::int32_t routed = -1;  // into routed_charges_, by step; -1: every step costs the same
    std::uint32_t first_member = 0, num_members = 0;  // into members_
    std::uint32_t arrived = 0, left = 0, phase = 0, stamp = 0;
    int flow = -1;
  };

  // once
  void make_actors();
  void make_order();
  void make_groups();
  void make_rendezvous();
  void add_charge(Rendezvous& r, int group, OpId op, int from, int to);
  // the host
  void run_step(std::size_t actor);
  void run_host(std::size_t actor);
  void host_wait(std::size_t actor, std::uint32_t instance);
  void end_step(std::size_t actor);
  // streams
  void release(std::size_t actor, std::uint32_t instance, StreamId awake);
  void release_next(std::size_t actor, std::uint32_t local);
  void run_op(std::size_t actor, std::uint32_t instance);
  void run_calls(std::size_t actor, std::uint32_t instance);
  void run_copy(std::size_t actor, std::uint32_t instance);
  void run_communication(std::size_t actor, std::uint32_t instance);
  void end_op(std::uint32_t instance);
  void free_buffers(std::size_t actor, StreamId stream);
  void free_host(std::size_t actor, StreamId awake);
  void leave_stream(std::size_t actor, std::uint32_t instance);
  // communication
  void arrive(std::uint32_t instance);
  void start_transfer(std::uint32_t rendezvous);
  void start_phase(std::uint32_t rendezvous);
  void start_flow(std::uint32_t rendezvous);
  void start_cpu_work(std::uint32_t rendezvous);
  void end_transfer(std::uint32_t rendezvous);
  // events
  void handle(const Event& e);
  void settle();
  void at(Picoseconds time, What what, std::size_t index, std::uint32_t stamp = 0) {
    queue_.push({time,
                 static_cast<std::uint32_t>(what) << kIndexBits | static_cast<std::uint32_t>(index),
                 stamp});
  }
  [[nodiscard]] Error stuck() const;
  // Steps of the lead-in are routed as the first.
  [[nodiscard]] static int routed_step(const Actor& a) { return std::max(0, a.step); }
  [[nodiscard]] const Op& op_of(const Actor& a, std::uint32_t instance) const {
    return plan_.ops[a.first_op + (instance - a.base)];
  }

  static constexpr int kIndexBits = 29;

  const Plan& plan_;
  const Cluster& cluster_;
  const Folding& folding_;
  Charges& charges_;
  const ComputeCost& cost_;
  Options options_;
  bool frees_hold_host_ = false, comm_in_order_ = false;

  std::vector<Actor> actors_;
  // by op of the plan
  std::vector<std::int32_t> blockers_at_start_;   // issue, head, waits, order: that many to go
  std::vector<std::uint32_t> first_dependent_;    // into dependents_; one more than ops
  std::vector<std::uint32_t> dependents_;         // ops (local to the program) that wait for it
  std::vector<std::int32_t> next_on_stream_;      // local op, -1: last
  std::vector<std::int32_t> next_communication_;  // in issue order; -1: none
  std::vector<std::int32_t> group_of_;            // dense over the program; -1: none
  std::vector<std::vector<std::vector<std::uint32_t>>> groups_;  // [program][group]: local ops
  std::vector<Picoseconds> work_;                                // [op][level]
  // by op instance
  std::vector<std::int32_t> blockers_;
  std::vector<std::uint32_t> actor_of_;
  std::vector<std::int32_t> rendezvous_of_;
  std::vector<OpTimes> times_;
  // communications
  std::vector<Rendezvous> rendezvous_;
  std::vector<std::uint32_t> members_;  // instances
  std::vector<int> routed_charges_;
  std::vector<std::uint32_t> group_ready_, group_left_;
  FlowNetwork flows_;
  std::vector<std::uint32_t> flow_owner_;
  std::vector<Cores> cores_;  // by node, local only
  std::vector<std::uint32_t> cores_stamp_;
  EventQueue queue_;
  Picoseconds now_ = 0;
  std::uint64_t num_events_ = 0;
  std::size_t running_ = 0;  // actors that have steps left
  const std::function<void(const StepReport&)>* on_step_ = nullptr;
};

}  // namespace tandem::sim
