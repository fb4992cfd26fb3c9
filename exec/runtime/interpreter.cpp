#include "exec/runtime/interpreter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <thread>
#include <utility>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/plan/late_validation.h"
#include "common/plan/print.h"
#include "common/plan/uses.h"
#include "exec/device/clock.h"

namespace tandem::exec {
namespace {

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

Result<std::unique_ptr<Interpreter>> Interpreter::create(const Plan& plan, Rank rank,
                                                         const TrainingConfig& config,
                                                         CommBackend& comm, OpObserver* observer,
                                                         std::unique_ptr<Device> device) {
  std::unique_ptr<Interpreter> out(
      new Interpreter(plan, rank, config, comm, observer, std::move(device)));
  if (Status bound = out->bind(); !bound) return bound.error();
  out->start_streams();
  out->device_->reset_scratch_peak();
  return out;
}

Interpreter::Interpreter(const Plan& plan, Rank rank, const TrainingConfig& config,
                         CommBackend& comm, OpObserver* observer, std::unique_ptr<Device> device)
    : plan_(plan),
      rank_(rank),
      config_(config),
      comm_(comm),
      observer_(observer),
      device_(std::move(device)),
      ops_(plan.ops_of(plan.program_of(rank))),
      latches_(ops_.size()),
      comm_calls_(ops_.size(), 0),
      host_awaits_(ops_.size(), 0),
      before_(ops_.size(), -1),
      taken_(plan.buffers.size(), 0) {
  if (const std::int64_t counts = routing_counts(plan); counts > 0)
    routing_steps_ = static_cast<int>(limits::kRoutingCounts / counts);
  timeline_.clock = Clock::monotonic_ns;
  peak_.rank = rank.value;
  for (BufferId id : plan.persistent(plan.program_of(rank))) {
    const Bytes bytes = Plan::own_bytes(plan.buffer(id));
    live_[static_cast<std::size_t>(plan.buffer(id).cls)] += bytes;
    live_total_ += bytes;
  }
  peak_.by_class = peak_.at_peak = live_;
  peak_.total = live_total_;
}

Interpreter::~Interpreter() {
  // A worker may still wait for something that never comes.
  for (Latch& latch : latches_) latch.abort();
  device_->abort();
  streams_.clear();
}

Status Interpreter::bind() {
  const std::int32_t first =
      static_cast<std::int32_t>(plan_.programs[plan_.program_of(rank_).index()].first_op);
  for (const Op& op : ops_) {
    PreparedOp p;
    for (OpId w : plan_.waits_of(op)) {
      p.waits.push_back(w.value - first);
      if (holds_host(op.kind)) host_awaits_[static_cast<std::size_t>(w.value - first)] = 1;
    }
    if (op.kind == OpKind::post_validate) {
      check_ = static_cast<std::int32_t>(prepared_.size());
      for (OpId id : under_way_at_cut(plan_, plan_.program_of(rank_)))
        under_way_.push_back(id.value - first);
    }
    if (op.kind == OpKind::compute) {
      Result<std::vector<Prepared>> calls = device_->prepare(op);
      if (!calls) return calls.error();
      p.calls = std::move(*calls);
      bind_values(op, p);
    } else if (op.buffer.valid()) {
      p.buffer = view(op.buffer);
      if (is_communication(op.kind)) p.comm = operands_of(op);
    }
    if (is_collective(op.kind) && op.tag && plan_.name(op.tag) == "metrics") p.metrics = p.buffer;
    first_call_.push_back(calls_per_step_);
    calls_per_step_ += p.calls.size();
    prepared_.push_back(std::move(p));
  }
  return Ok{};
}

// What kernels leave that the interpreter reads itself.
void Interpreter::bind_values(const Op& op, PreparedOp& prepared) {
  for (const Call& c : plan_.calls_of(op)) {
    const Kernel& kernel = plan_.kernel(c.kernel);
    const KernelKind kind = kernel.kind;
    const auto outputs = plan_.operands_of(c.outputs);
    // One rank alone has no all-reduce after it; else that overwrites these values. What is packed
    // for the next step (post_validated) comes from there, by a snapshot.
    const bool packs =
        kind == KernelKind::metrics_pack && plan_.buffer(outputs[0].id).cls != BufferClass::optim;
    if (packs || (kind == KernelKind::snapshot && (kernel.flags & kValues)))
      prepared.metrics = view(outputs[0].id);
    if (kind != KernelKind::route_fwd || !view(outputs[4].id).data) continue;
    const BufferId choices = outputs[4].id;
    std::vector<BufferId>& list = choices_[root_of(plan_, choices)];
    if (std::find(list.begin(), list.end(), choices) == list.end()) list.push_back(choices);
    if (!plan_.header.evaluation) prepared.kept_rows.push_back(view(outputs[2].id));
  }
}

CommOperands Interpreter::operands_of(const Op& op) const {
  CommOperands out{.data = view(op.buffer).data, .bytes = plan_.buffer(op.buffer).capacity()};
  if (op.source.valid()) {
    out.source = view(op.source).data;
    out.source_bytes = plan_.buffer(op.source).capacity();
  }
  if (op.send_rows.valid() || op.recv_rows.valid()) {
    const auto counts = [&](BufferId id) -> std::span<const std::int32_t> {
      if (!id.valid()) return {};
      return {view(id).as<std::int32_t>(),
              static_cast<std::size_t>(plan_.buffer(id).shape.elements())};
    };
    out.send_rows = counts(op.send_rows);
    out.recv_rows = counts(op.recv_rows);
    out.row_bytes = plan_.buffer(op.buffer).row_bytes();
  }
  return out;
}

void Interpreter::start_streams() {
  std::vector<std::vector<std::int32_t>> lists(plan_.streams.size());
  for (std::size_t i = 0; i < ops_.size(); ++i)
    lists[ops_[i].stream.index()].push_back(static_cast<std::int32_t>(i));
  stream_of_.assign(ops_.size(), nullptr);
  for (std::size_t s = 0; s < lists.size(); ++s) {
    if (lists[s].empty()) continue;
    last_ops_.push_back(lists[s].back());
    for (std::size_t i = 1; i < lists[s].size(); ++i)
      before_[static_cast<std::size_t>(lists[s][i])] = lists[s][i - 1];
    if (holds_host(ops_[static_cast<std::size_t>(lists[s][0])].kind)) continue;
    streams_.push_back(std::make_unique<Stream>(
        plan_.streams[s], lists[s], [this] { device_->begin_thread(); },
        [this](std::int32_t op, std::int32_t step) { run_op(op, step); }));
    for (std::int32_t op : lists[s])
      stream_of_[static_cast<std::size_t>(op)] = streams_.back().get();
  }
}

OpId Interpreter::id_of(std::int32_t op) const {
  return OpId{static_cast<std::int64_t>(plan_.programs[plan_.program_of(rank_).index()].first_op) +
              op};
}

Span& Interpreter::span_of(std::int32_t op) {
  const auto i = static_cast<std::size_t>(op);
  if (timed_step_ < 0) return untimed_[i];
  return timeline_.spans[static_cast<std::size_t>(timed_step_) * ops_.size() + i];
}

// --- the host ------------------------------------------------------------------------------------

Result<StepResult> Interpreter::run_step(bool timed) {
  {
    const std::lock_guard lock(failure_mutex_);
    if (failure_) return *failure_;
  }
  if (timed) {
    timed_step_ = static_cast<int>(timeline_.steps.size());
    timeline_.spans.resize(timeline_.spans.size() + ops_.size());
    timeline_.calls.resize(timeline_.calls.size() + calls_per_step_);
    timeline_.memory.reserve(timeline_.memory.size() + 2 * ops_.size());
  } else {
    timed_step_ = -1;
    untimed_.resize(ops_.size());
    untimed_calls_.resize(calls_per_step_);
  }
  const Restart restart = check_ < 0 ? Restart{} : restart_point();
  const Nanoseconds started = now_ns();
  std::optional<StepResult> settled;
  for (;;) {
    device_->begin_step(of_training(step_));
    begin_issuing(started);
    run_host();
    if (check_ < 0 || !latches_[static_cast<std::size_t>(check_)].wait_above(step_) ||
        !given_up_.load(std::memory_order_acquire))
      break;
    Result<StepResult> anew = give_up(restart);
    if (!anew) {
      fail(anew.error());  // those who wait for this rank end too
      return anew;
    }
    settled = std::move(*anew);
  }
  Result<StepResult> result = end_step(started);
  settled_ = false;
  if (result && settled) {
    const StepResult own = *result;
    result = *settled;
    result->rolled_back = true;
    result->lr = own.lr, result->data_wait = own.data_wait;
    result->started = own.started, result->ended = own.ended;
  }
  return result;
}

void Interpreter::begin_issuing(Nanoseconds started) {
  const std::lock_guard host(host_mutex_);
  next_issue_ = 0;
  host_in_wait_ = given_up_ = false;
  host_free_ = started;
  last_free_ = 0;
}

Result<StepResult> Interpreter::run_settling(int step) {
  TANDEM_CHECK(plan_.header.settling, "a plan that trains has steps");
  told_step_ = step;
  return run_step(/*timed=*/false);
}

// --- a step that is given up ---------------------------------------------------------------------

Interpreter::Restart Interpreter::restart_point() {
  const std::lock_guard lock(memory_mutex_);
  return {live_, live_total_, peak_, routing_.size(), timeline_.memory.size(), expert_choices_};
}

// The senders have sent these inside their cuts. Each communicator's on a thread of its own, behind
// what this rank has issued there: nothing waits for another rank's order.
void Interpreter::throw_away_under_way() {
  std::map<StreamId, std::vector<std::int32_t>> by_stream;
  for (std::int32_t op : under_way_)
    by_stream[ops_[static_cast<std::size_t>(op)].stream].push_back(op);
  std::vector<std::jthread> threads;
  for (const auto& [stream, receives] : by_stream)
    threads.emplace_back([this, &receives = receives] {
      std::int32_t before = receives.front();
      do before = before_[static_cast<std::size_t>(before)];
      while (before > check_);
      if (before >= 0 && !latches_[static_cast<std::size_t>(before)].wait_above(step_)) return;
      std::vector<std::byte> nowhere;
      for (std::int32_t op : receives) {
        CommOperands operands = prepared_[static_cast<std::size_t>(op)].comm;
        if (operands.data) {
          nowhere.resize(static_cast<std::size_t>(operands.bytes));
          operands.data = nowhere.data();
        }
        operands.ready = now_ns();
        const Result<Nanoseconds> taken = comm_.run(id_of(op), of_training(step_), operands);
        if (!taken) return fail(taken.error());
        ++comm_calls_[static_cast<std::size_t>(op)];
      }
    });
}

Result<StepResult> Interpreter::give_up(const Restart& restart) {
  throw_away_under_way();
  for (std::int32_t op = 0; op < check_; ++op)
    if (!latches_[static_cast<std::size_t>(op)].wait_above(step_)) break;
  {
    const std::lock_guard lock(failure_mutex_);
    if (failure_) return *failure_;
  }
  // Workers set an op's latch before they count its frees.
  while (pending_frees_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
  {
    const std::lock_guard lock(memory_mutex_);
    live_ = restart.live;
    live_total_ = restart.live_total;
    peak_given_up_ = std::max(peak_given_up_, peak_.total);
    peak_ = restart.peak;
    routing_.resize(restart.routing);
    timeline_.memory.resize(restart.memory_samples);
    expert_choices_ = restart.expert_choices;
    step_rows_.clear();
  }
  TANDEM_CHECK(settle_, "a step is given up, and nobody settles the one before");
  Result<StepResult> settled = settle_(of_training(step_) - 1);
  if (!settled) return settled;
  settled_ = true;
  ++step_, ++steps_given_up_;
  for (const auto& stream : streams_) stream->restart(step_);
  return settled;
}

Result<StepResult> Interpreter::run_batch(int batch, int step) {
  TANDEM_CHECK(plan_.header.evaluation, "a plan that trains has steps");
  batch_ = batch;
  told_step_ = step;
  device_->reset_scratch_peak();
  Result<StepResult> result = run_step(/*timed=*/false);
  device_->reset_scratch_peak();  // the next step of training counts its own
  return result;
}

// Called when a step begins, and by a worker that has carried out the last free or ended an op that
// a host_wait names. It looks anew with the mutex held, so no call is lost and none is too many.
void Interpreter::run_host() {
  const std::lock_guard host(host_mutex_);
  while (next_issue_ < std::ssize(ops_) && !given_up_.load(std::memory_order_relaxed)) {
    const std::int32_t op = next_issue_;
    if (latches_[static_cast<std::size_t>(op)].is_above(INT32_MAX - 1)) return;  // aborted
    if (!may_issue(ops_[static_cast<std::size_t>(op)])) return;
    if (!host_in_wait_) issue(op);
    if (holds_host(ops_[static_cast<std::size_t>(op)].kind)) {
      host_in_wait_ = true;
      if (!host_wait(op)) return;
      host_in_wait_ = false;
    }
    ++next_issue_;
  }
}

bool Interpreter::may_issue(const Op& op) const {
  return host_in_wait_ || op.allocates.count == 0 ||
         pending_frees_.load(std::memory_order_acquire) == 0;
}

void Interpreter::issue(std::int32_t op) {
  const Op& o = ops_[static_cast<std::size_t>(op)];
  if (o.allocates.count) {
    host_free_ = std::max(host_free_, last_free_.load(std::memory_order_acquire));
    allocate(op);
  }
  if (o.frees.count) pending_frees_.fetch_add(1, std::memory_order_relaxed);
  Span& span = span_of(op);
  host_free_ = device_->begin(host_free_);
  span = {id_of(op), rank_.value, timed_step_, host_free_, 0, 0, 0, 0};
  if (observer_) observer_->queued(span.op, of_training(step_));
  if (holds_host(o.kind)) {
    if (observer_) observer_->started(span.op, of_training(step_));
  } else {
    stream_of_[static_cast<std::size_t>(op)]->issue();
  }
}

// The counts that a buffer's rows are of stand behind a host_wait that has ended. Without values:
// as the plan has them, balanced.
Bytes Interpreter::bytes_now(BufferId id) {
  const Buffer& b = plan_.buffer(id);
  if (!b.rows_of.valid() || !view(b.rows_of).data) return Plan::own_bytes(b);
  std::int64_t rows = 0;
  const View counts = view(b.rows_of);
  for (std::int64_t i = 0; i < counts.shape.elements(); ++i) rows += counts.as<std::int32_t>()[i];
  if (rows < 0 || rows > b.max_rows)
    fail(make_error(Failure::execution, "E-EXEC-037", "more rows than the plan has room for",
                    fmt::format("{} rows of {} in step {}", rows, plan_.name(b.name), step_),
                    fmt::format("0 to {} rows", b.max_rows),
                    "the bound covers every routing: report this with the run folder"));
  step_rows_[b.rows_of] = rows;
  return std::clamp<std::int64_t>(rows, 0, b.max_rows) * b.row_bytes();
}

void Interpreter::allocate(std::int32_t op) {
  const std::lock_guard lock(memory_mutex_);
  for (BufferId id : plan_.allocates_of(ops_[static_cast<std::size_t>(op)])) {
    const Bytes bytes = bytes_now(id);
    live_[static_cast<std::size_t>(plan_.buffer(id).cls)] += bytes;
    live_total_ += bytes;
    taken_[id.index()] = bytes;
  }
  for (std::size_t c = 0; c < live_.size(); ++c)
    peak_.by_class[c] = std::max(peak_.by_class[c], live_[c]);
  if (live_total_ > peak_.total) {
    peak_.total = live_total_;
    peak_.at_peak = live_;
    peak_.op_at_peak = id_of(op);
  }
  sample(op, now_ns());
}

bool Interpreter::host_wait(std::int32_t op) {
  for (std::int32_t w : prepared_[static_cast<std::size_t>(op)].waits) {
    const Latch& latch = latches_[static_cast<std::size_t>(w)];
    if (!latch.is_above(step_) || !latch.wait_above(step_)) return false;  // not ended, or aborted
  }
  Span& span = span_of(op);
  span.ready = span.started = device_->begin(cause_of(op));
  if (!holds(op)) return false;
  end_op(op, step_, span);
  host_free_ = span.ended;
  if (ops_[static_cast<std::size_t>(op)].frees.count) (void)carry_out_free(span.ended);
  return !given_up_.load(std::memory_order_relaxed);
}

// Of post_validate: an update that has to be clipped is given up. A failed run never writes what
// such an update has changed.
bool Interpreter::holds(std::int32_t op) {
  const Op& o = ops_[static_cast<std::size_t>(op)];
  const bool late = o.kind == OpKind::post_validate;
  const View& waited = prepared_[static_cast<std::size_t>(op)].buffer;
  const double value =
      waited.data && waited.dtype == DType::f64 ? *waited.as<double>() : 0.0;  // else row counts
  if (late && settled_) return true;
  if (!std::isfinite(value)) {
    fail(make_error(Failure::execution, "E-EXEC-031", "a value that must be finite is not",
                    fmt::format("{} = {} in step {}", plan_.name(plan_.buffer(o.buffer).name),
                                value, of_training(step_) - (late ? 1 : 0)),
                    "a finite value",
                    late ? "lower training.optimizer.lr; --resume goes on from the last checkpoint"
                         : "lower training.optimizer.lr; nothing was updated"));
    return false;
  }
  // As the kernel clip_coef: below 1 every gradient shrinks.
  if (late && config_.clip && *config_.clip / (std::sqrt(value) + 1e-6) < 1)
    given_up_.store(true, std::memory_order_release);
  return true;
}

// When all that the op waits for was over: its issue, its waits, and the op before it on its
// stream.
Nanoseconds Interpreter::cause_of(std::int32_t op) {
  Nanoseconds last = span_of(op).issued;
  for (std::int32_t w : prepared_[static_cast<std::size_t>(op)].waits)
    last = std::max(last, span_of(w).ended);
  if (const std::int32_t before = before_[static_cast<std::size_t>(op)]; before >= 0)
    last = std::max(last, span_of(before).ended);
  return last;
}

// True: no other issued op has frees to carry out.
bool Interpreter::carry_out_free(Nanoseconds ended) {
  Nanoseconds seen = last_free_.load(std::memory_order_relaxed);
  while (seen < ended &&
         !last_free_.compare_exchange_weak(seen, ended, std::memory_order_release)) {
  }
  return pending_frees_.fetch_sub(1, std::memory_order_acq_rel) == 1;
}

Result<StepResult> Interpreter::end_step(Nanoseconds started) {
  for (std::int32_t op : last_ops_)
    if (!latches_[static_cast<std::size_t>(op)].wait_above(step_)) break;
  {
    const std::lock_guard lock(failure_mutex_);
    if (failure_) return *failure_;
  }
  StepResult result;
  result.started = started;
  result.ended = now_ns();
  result.loss = metrics_[kMetricLoss];
  result.balance = metrics_[kMetricBalance];
  result.dropped = metrics_[kMetricDropped];
  result.tokens = metrics_[kMetricTokens];
  result.non_finite = metrics_[kMetricNonFinite];
  result.norm = std::sqrt(metrics_[kMetricNormSquared]);
  result.lr = learning_rate(config_, of_training(step_));
  result.data_wait = data_wait();
  last_started_ = result.started, last_ended_ = result.ended;
  if (timed_step_ >= 0)
    timeline_.steps.push_back({rank_.value, timed_step_, result.started, result.ended});
  kernel_scratch_peak_ = std::max(kernel_scratch_peak_, device_->scratch_peak());
  if (!step_rows_.empty()) seen_rows_.push_back(std::exchange(step_rows_, {}));
  ++step_;
  return result;
}

// For each op that waits for a copy of tokens: from when all else was there until the copy had
// ended.
Nanoseconds Interpreter::data_wait() {
  Nanoseconds total = 0;
  std::vector<Nanoseconds> stream_end(plan_.streams.size(), 0);  // of the op before on the stream
  for (std::size_t i = 0; i < ops_.size(); ++i) {
    const Span& span = span_of(static_cast<std::int32_t>(i));
    Nanoseconds data = 0, rest = std::max(stream_end[ops_[i].stream.index()], span.issued);
    for (std::int32_t w : prepared_[i].waits) {
      const bool is_data = ops_[static_cast<std::size_t>(w)].kind == OpKind::copy;
      Nanoseconds& last = is_data ? data : rest;
      last = std::max(last, span_of(w).ended);
    }
    total += std::max<Nanoseconds>(0, data - rest);
    stream_end[ops_[i].stream.index()] = span.ended;
  }
  return total;
}

ClassBytes Interpreter::live_bytes() {
  const std::lock_guard lock(memory_mutex_);
  return live_;
}

Parts Interpreter::last_parts() const {
  std::span<const Span> spans = untimed_;
  std::span<const CallSpan> calls = untimed_calls_;
  if (timed_step_ >= 0) {
    spans = std::span(timeline_.spans).last(ops_.size());
    calls = std::span(timeline_.calls).last(calls_per_step_);
  }
  return cut_into_parts(plan_, timeline_, {spans, calls, last_started_, last_ended_});
}

void Interpreter::fail(Error error) {
  {
    const std::lock_guard lock(failure_mutex_);
    if (failure_) return;
    failure_ = std::move(error);
  }
  for (Latch& latch : latches_) latch.abort();
  device_->abort();
  comm_.abort();
}

// --- the workers ---------------------------------------------------------------------------------

void Interpreter::run_op(std::int32_t op, std::int32_t step) {
  const Op& o = ops_[static_cast<std::size_t>(op)];
  const PreparedOp& p = prepared_[static_cast<std::size_t>(op)];
  for (std::int32_t w : p.waits)
    if (!latches_[static_cast<std::size_t>(w)].wait_above(step)) return;
  Span& span = span_of(op);
  const Nanoseconds cpu = thread_cpu_ns();
  span.ready = span.started = device_->begin(cause_of(op));
  if (observer_) observer_->started(span.op, of_training(step));
  try {
    switch (o.kind) {
      case OpKind::compute:
        run_calls(op, step);
        break;
      case OpKind::all_reduce:
      case OpKind::all_gather:
      case OpKind::reduce_scatter:
      case OpKind::all_to_all:
      case OpKind::broadcast:
      case OpKind::send:
      case OpKind::recv:
      case OpKind::shift:
        if (!run_communication(op, step, span)) return;
        break;
      case OpKind::copy:
        device_->copy(p.buffer, plan_.header.evaluation ? batch_ : of_training(step), o);
        break;
      case OpKind::host_wait:  // the host's
      case OpKind::post_validate:
        break;
    }
  } catch (const std::exception& e) {
    fail(make_error(Failure::execution, "E-EXEC-032", "a kernel failed",
                    describe(plan_, id_of(op)) + ": " + first_line(e.what()), "a kernel that runs",
                    "look for memory with `tandem model`; else report it"));
    return;
  }
  span.cpu = thread_cpu_ns() - cpu;
  end_op(op, step, span);
  const bool last_free = o.frees.count && carry_out_free(span.ended);
  if (last_free || host_awaits_[static_cast<std::size_t>(op)]) run_host();
}

void Interpreter::run_calls(std::int32_t op, std::int32_t step) {
  const PreparedOp& p = prepared_[static_cast<std::size_t>(op)];
  const std::size_t first = first_call_[static_cast<std::size_t>(op)];
  CallSpan* spans = timed_step_ < 0
                        ? untimed_calls_.data() + first
                        : timeline_.calls.data() +
                              static_cast<std::size_t>(timed_step_) * calls_per_step_ + first;
  Nanoseconds begin = now_ns(), cpu = thread_cpu_ns();
  for (std::size_t i = 0; i < p.calls.size(); ++i) {
    p.calls[i]();
    const Nanoseconds end = now_ns(), cpu_end = thread_cpu_ns();
    spans[i] = {id_of(op), rank_.value, timed_step_,  static_cast<std::int32_t>(i),
                begin,     end,         cpu_end - cpu};
    begin = end;
    cpu = cpu_end;
  }
  keep_metrics(p);
  if (!p.kept_rows.empty() && step - steps_given_up_ < routing_steps_) keep_routing(op, step);
}

// Before the op's frees, as keep_metrics().
void Interpreter::keep_routing(std::int32_t op, std::int32_t step) {
  const Op& o = ops_[static_cast<std::size_t>(op)];
  for (const View& v : prepared_[static_cast<std::size_t>(op)].kept_rows) {
    const auto* rows = v.as<std::int32_t>();
    routing_.push_back({of_training(step),
                        o.layer,
                        o.microbatch,
                        std::max(0, o.seq_slice),
                        rank_.value,
                        {rows, rows + v.shape.elements()}});
  }
}

bool Interpreter::run_communication(std::int32_t op, std::int32_t step, Span& span) {
  const PreparedOp& p = prepared_[static_cast<std::size_t>(op)];
  CommOperands operands = p.comm;
  operands.ready = span.ready;
  const Result<Nanoseconds> started = comm_.run(span.op, of_training(step), operands);
  if (!started) {
    fail(started.error());
    return false;
  }
  span.started = std::max(device_->meet(*started), span.ready);
  ++comm_calls_[static_cast<std::size_t>(op)];
  keep_metrics(p);
  return true;
}

// Before the op's frees.
void Interpreter::keep_metrics(const PreparedOp& p) {
  if (!p.metrics.data) return;
  std::copy_n(p.metrics.as<double>(),
              std::min<std::int64_t>(p.metrics.shape.elements(), std::ssize(metrics_)),
              metrics_.begin());
}

void Interpreter::end_op(std::int32_t op, std::int32_t step, Span& span) {
  span.ended = device_->end(span.op, span.started);
  if (observer_) observer_->done(span.op, of_training(step));
  if (ops_[static_cast<std::size_t>(op)].frees.count) free_buffers(op);
  latches_[static_cast<std::size_t>(op)].set(step + 1);
}

void Interpreter::free_buffers(std::int32_t op) {
  const std::lock_guard lock(memory_mutex_);
  for (BufferId id : plan_.frees_of(ops_[static_cast<std::size_t>(op)])) {
    live_[static_cast<std::size_t>(plan_.buffer(id).cls)] -= taken_[id.index()];
    live_total_ -= taken_[id.index()];
    count_choices(id);
  }
  sample(op, now_ns());
}

// Their memory is used again behind this op.
void Interpreter::count_choices(BufferId freed) {
  const auto it = choices_.find(freed);
  if (it == choices_.end()) return;
  for (BufferId id : it->second) {
    const View v = view(id);
    std::vector<std::int64_t>& sums = expert_choices_[plan_.buffer(id).layer];
    sums.resize(static_cast<std::size_t>(v.shape.elements()));
    for (std::size_t e = 0; e < sums.size(); ++e) sums[e] += v.as<std::int32_t>()[e];
  }
}

void Interpreter::sample(std::int32_t op, Nanoseconds time) {
  if (timed_step_ >= 0)
    timeline_.memory.push_back({id_of(op), rank_.value, timed_step_, time, live_});
}

Timeline Interpreter::take_timeline() {
  timeline_.peaks = {peak_};
  timeline_.meta["kind"] = "measured";
  return std::move(timeline_);
}

}  // namespace tandem::exec
