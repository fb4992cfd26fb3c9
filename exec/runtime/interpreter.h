// Runs one rank's program of a plan on the streams of a device; sim/engine/engine.cpp is the other
// answer to the same question. What an op means: architecture.md 3.2 and common/plan/plan.h.
//
//   host     issues ops in the order of the program; an op that allocates is issued when all
//            earlier frees have been carried out; `host_wait` blocks it until its waits have ended.
//            A role, not a thread: whoever ends what the host waits for goes on issuing, so the
//            next op of a worker's own stream needs no other thread to wake up
//   stream   a worker thread takes its ops in order; an op runs when its `waits` have ended; its
//            frees are carried out when it has ended
//   step     ends when every op has; steps of a rank do not overlap
//   check    optimizer_barrier post_validated (common/plan/late_validation.h): where post_validate
//            finds that the update of the step before must be clipped, the step is given up: what
//            has been issued ends, what is under way to this rank is taken and thrown away, the
//            update is settled, and the step begins again
//
// Everything that can be done once is done in create(): buffers have fixed addresses and kernels
// are bound to them, so a step runs closures. What an op does and how long it takes is the device's
// (exec/device/device.h); no LibTorch here.
//
// A plan of evaluation has an interpreter of its own, with threads, backend and buffers of its own
// but the parameters of the one that trains. The two run one after the other, never at once.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "common/plan/live_bytes.h"
#include "common/plan/plan.h"
#include "common/plan/routing_trace.h"
#include "common/plan/training.h"
#include "common/report/parts.h"
#include "common/timeline/timeline.h"
#include "exec/device/device.h"
#include "exec/device/stream.h"
#include "exec/kernels/kernel.h"
#include "exec/runtime/comm.h"

namespace tandem::exec {

struct StepResult {
  double loss = 0, norm = 0, lr = 0;  // norm: of the gradient, before clipping
  double balance = 0, dropped = 0;    // losses of the routers; assignments beyond a capacity
  double tokens = 0, non_finite = 0;
  Nanoseconds started = 0, ended = 0;
  Nanoseconds data_wait = 0;  // ops waited for tokens and for nothing else
  // Of a plan whose update is checked in the next step: loss, norm, balance, dropped, tokens and
  // non_finite are those of the step before, which was settled anew if `rolled_back`.
  bool rolled_back = false;
};

// The plan, configuration, backend and observer outlive the interpreter. One thread calls it.
class Interpreter {
 public:
  // Binds the ops to the device and starts its streams. `observer` may be null. On the CPU:
  // on_cpu.h. E-EXEC-035.
  [[nodiscard]] static Result<std::unique_ptr<Interpreter>> create(const Plan& plan, Rank rank,
                                                                   const TrainingConfig& config,
                                                                   CommBackend& comm,
                                                                   OpObserver* observer,
                                                                   std::unique_ptr<Device> device);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // Steps config.first_step, ...; recorded in the timeline if `timed`. After a failure every call
  // fails.
  [[nodiscard]] Result<StepResult> run_step(bool timed);
  // Of an evaluation: its batch number `batch`; others are told of the step of training `step`. The
  // result has a loss and tokens only.
  [[nodiscard]] Result<StepResult> run_batch(int batch, int step);

  // Of a plan of settling (build.h): once more the update of the step of training `step`, whose
  // values the result has.
  [[nodiscard]] Result<StepResult> run_settling(int step);
  // Of a plan that is checked late: how a step that is given up settles the update of step `step`.
  void settle_with(std::function<Result<StepResult>(int step)> settle) {
    settle_ = std::move(settle);
  }
  // The update of the last step has been settled: the next step finds nothing to check.
  void is_settled() { settled_ = true; }

  // Memory of a buffer: between steps those that live for the run hold their values.
  [[nodiscard]] View view(BufferId id) const { return device_->view(id); }
  [[nodiscard]] Rank rank() const { return rank_; }
  [[nodiscard]] const Plan& plan() const { return plan_; }

  // What the timed steps recorded, in steps from 0; peaks over all steps. Moves it out.
  [[nodiscard]] Timeline take_timeline();
  // Most that LibTorch held beside the plan's buffers.
  [[nodiscard]] Bytes kernel_scratch_peak() const { return kernel_scratch_peak_; }
  // Most bytes of the plan's buffers that were alive at once, over all steps so far.
  [[nodiscard]] Bytes peak_bytes() const { return peak_.total; }
  [[nodiscard]] const PeakMemory& peak() const { return peak_; }
  // The same up to the last step that was given up, with what was computed of it, which peak()
  // leaves out: with parameters not yet clipped, experts get other rows than in the step that
  // counts.
  [[nodiscard]] Bytes peak_bytes_given_up() const { return peak_given_up_; }
  // Bytes by class that are alive now: between steps what lives for the run.
  [[nodiscard]] ClassBytes live_bytes();
  // Between steps: where the time of the last one went, timed or not. It sums to its duration.
  [[nodiscard]] Parts last_parts() const;
  [[nodiscard]] Bytes slab_bytes() const { return device_->slab_bytes(); }
  // Between steps: gives the memory of buffers that do not live for the run back to the system.
  // Only where all others are lent.
  void drop_pages() { device_->drop_pages(); }
  // Of each step the rows whose number was known only then.
  [[nodiscard]] const std::vector<RunTimeRows>& rows_seen() const { return seen_rows_; }
  // By layer with experts, how often each expert was chosen in all steps so far, before drops: by
  // the own tokens, or by those of the whole stage where the plan sums them (tag `bias`).
  [[nodiscard]] const std::map<int, std::vector<std::int64_t>>& expert_choices() const {
    return expert_choices_;
  }
  // What the routers chose in each step so far, as rows for each expert after drops: in the first
  // steps, so that all ranks' records together stay within limits::kRoutingCounts. Not of an
  // evaluation.
  [[nodiscard]] const std::vector<RoutingRecord>& routing() const { return routing_; }
  // How often each op of the program has communicated, over all steps.
  [[nodiscard]] const std::vector<std::int64_t>& communication_calls() const { return comm_calls_; }

 private:
  struct PreparedOp {
    std::vector<std::int32_t> waits;  // ops of this program
    std::vector<Prepared> calls;
    View buffer;  // of copy, host_wait
    CommOperands comm;
    View metrics;                 // holds the step's values when the op has run; else no data
    std::vector<View> kept_rows;  // by expert: of the routings among the calls
  };
  Interpreter(const Plan& plan, Rank rank, const TrainingConfig& config, CommBackend& comm,
              OpObserver* observer, std::unique_ptr<Device> device);
  [[nodiscard]] Status bind();
  [[nodiscard]] CommOperands operands_of(const Op& op) const;
  void bind_values(const Op& op, PreparedOp& prepared);
  void start_streams();
  void run_host();                                   // any thread: issues all that can be
  [[nodiscard]] bool may_issue(const Op& op) const;  // host
  void issue(std::int32_t op);                       // host
  void allocate(std::int32_t op);                    // host
  [[nodiscard]] Bytes bytes_now(BufferId id);        // host: rows known at run time are counted
  [[nodiscard]] bool host_wait(std::int32_t op);     // host; false: not yet, or given up
  [[nodiscard]] bool holds(std::int32_t op);         // host: the value is as it must be
  void begin_issuing(Nanoseconds started);
  // What a step adds to, as it was when it began.
  struct Restart {
    ClassBytes live{};
    std::int64_t live_total = 0;
    PeakMemory peak;
    std::size_t routing = 0, memory_samples = 0;
    std::map<int, std::vector<std::int64_t>> expert_choices;
  };
  [[nodiscard]] Restart restart_point();
  // Ends what the step has begun and settles the update before it; the step can begin again.
  [[nodiscard]] Result<StepResult> give_up(const Restart& restart);
  void throw_away_under_way();
  [[nodiscard]] Nanoseconds cause_of(std::int32_t op);
  [[nodiscard]] bool carry_out_free(Nanoseconds ended);
  void run_op(std::int32_t op, std::int32_t step);  // worker
  void run_calls(std::int32_t op, std::int32_t step);
  bool run_communication(std::int32_t op, std::int32_t step, Span& span);
  void keep_metrics(const PreparedOp& prepared);
  void keep_routing(std::int32_t op, std::int32_t step);  // worker
  void free_buffers(std::int32_t op);                     // worker
  void count_choices(BufferId freed);                     // with memory_mutex_ held
  void end_op(std::int32_t op, std::int32_t step, Span& span);
  void fail(Error error);
  void sample(std::int32_t op, Nanoseconds time);  // with memory_mutex_ held
  Span& span_of(std::int32_t op);
  [[nodiscard]] OpId id_of(std::int32_t op) const;
  // What others call the step: of training, where the latches count those of this process.
  [[nodiscard]] int of_training(int step) const {
    if (plan_.header.evaluation || plan_.header.settling) return told_step_;
    return config_.first_step + step - steps_given_up_;
  }
  [[nodiscard]] Result<StepResult> end_step(Nanoseconds started);
  [[nodiscard]] Nanoseconds data_wait();

  const Plan& plan_;
  const Rank rank_;
  const TrainingConfig config_;
  CommBackend& comm_;
  OpObserver* observer_;
  const std::unique_ptr<Device> device_;
  std::span<const Op> ops_;
  std::vector<PreparedOp> prepared_;
  std::vector<Latch> latches_;            // by op: above the step once it has ended
  std::vector<std::int64_t> comm_calls_;  // by op; written by its worker only
  std::vector<Stream*> stream_of_;        // by op; null for the host
  std::vector<std::int32_t> last_ops_;    // of each stream, the host's too
  std::vector<char> host_awaits_;         // by op: a host_wait waits for it
  std::vector<std::int32_t> before_;      // by op: the one before it on its stream; -1: none

  std::mutex host_mutex_;                       // held by whoever is the host
  std::int32_t next_issue_ = 0;                 // op
  bool host_in_wait_ = false;                   // in the host_wait that is next
  std::atomic<std::int32_t> pending_frees_{0};  // issued ops whose frees are not carried out
  std::atomic<Nanoseconds> last_free_{0};       // latest end, in this step, of an op that frees
  Nanoseconds host_free_ = 0;                   // when the host could go on issuing

  int step_ = 0;  // of this process; one that was given up counts too
  int steps_given_up_ = 0;
  std::int32_t check_ = -1;              // the post_validate op; -1: none
  std::vector<std::int32_t> under_way_;  // receives: late_validation.h
  bool settled_ = true;                  // nothing to check
  std::atomic<bool> given_up_{false};    // set by the host
  std::function<Result<StepResult>(int step)> settle_;
  int timed_step_ = -1;            // of the timeline; -1: not recorded
  int told_step_ = 0, batch_ = 0;  // of an evaluation: see run_batch(), run_settling()
  std::array<double, 8> metrics_{};
  Nanoseconds last_started_ = 0, last_ended_ = 0;  // of the step before

  std::mutex memory_mutex_;
  ClassBytes live_{};
  std::vector<Bytes> taken_;            // by buffer: what it was counted with when it was allocated
  RunTimeRows step_rows_;               // of the step that runs
  std::vector<RunTimeRows> seen_rows_;  // by step
  int routing_steps_ = 0;               // that are recorded, of this process
  std::vector<RoutingRecord> routing_;  // by the worker that computes; read between steps
  std::map<BufferId, std::vector<BufferId>> choices_;  // of a step, by their bucket
  std::map<int, std::vector<std::int64_t>> expert_choices_;
  std::int64_t live_total_ = 0;
  PeakMemory peak_;
  Bytes peak_given_up_ = 0;
  Bytes kernel_scratch_peak_ = 0;

  Timeline timeline_;
  std::vector<Span> untimed_;  // where spans of untimed steps go
  std::vector<CallSpan> untimed_calls_;
  std::vector<std::size_t> first_call_;  // by op: its first entry of a step's calls
  std::size_t calls_per_step_ = 0;

  std::mutex failure_mutex_;
  std::optional<Error> failure_;

  // Last: its threads use everything above.
  std::vector<std::unique_ptr<Stream>> streams_;
};

}  // namespace tandem::exec
