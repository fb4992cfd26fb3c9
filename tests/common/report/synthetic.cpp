#include "tests/common/report/synthetic.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "common/base/rng.h"

namespace tandem::synthetic {
namespace {

// Builds the programs one after another; ops are named by what they do.
class Builder {
 public:
  explicit Builder(const Shape& shape) : shape_(shape) {
    plan_.header.mesh.size[static_cast<std::size_t>(Axis::pp)] = shape.pp;
    plan_.header.mesh.size[static_cast<std::size_t>(Axis::tp)] = shape.tp;
    plan_.header.digest = "0123456789abcdef", plan_.header.schedule = "1f1b";
    plan_.header.microbatches = shape.microbatches;
    plan_.header.micro_batch = 1, plan_.header.sequence = 128;
    for (int s = 0; s < shape.pp; ++s) plan_.header.stage_rank.push_back(s);
    const auto kernel = [&](KernelKind kind, KernelDims dims) {
      Kernel k;
      k.kind = kind, k.dims = dims;
      plan_.kernels.push_back(k);
    };
    kernel(KernelKind::layernorm_fwd, {128, 64});
    kernel(KernelKind::linear_fwd, {128, 64, 256});
    kernel(KernelKind::linear_bwd_input, {128, 64, 256});
    kernel(KernelKind::linear_bwd_weight, {128, 64, 256});
    kernel(KernelKind::adamw, {4096});
    compute_ = stream("compute"), host_ = stream("host");
    tp_ = communicator("tp", -1, -1, shape.tp);
    world_ = communicator("world", -1, -1, shape.tp * shape.pp);
    for (Axis a : {Axis::tp}) plan_.communicators[tp_.index()].axes.add(a);
    for (Axis a : {Axis::tp, Axis::pp}) plan_.communicators[world_.index()].axes.add(a);
    for (int p = 0; p + 1 < shape.pp; ++p) {
      down_.push_back(edge(p, p + 1));
      up_.push_back(edge(p + 1, p));
    }
    for (int p = 0; p < shape.pp; ++p) program(p);
  }
  Plan take() { return std::move(plan_); }

 private:
  std::uint32_t text(const std::string& s) {
    plan_.names.push_back(s);
    return static_cast<std::uint32_t>(plan_.names.size() - 1);
  }
  StreamId stream(const std::string& s) {
    plan_.streams.push_back(s);
    return StreamId{static_cast<std::int64_t>(plan_.streams.size()) - 1};
  }
  CommId communicator(const std::string& s, int first, int second, int size) {
    Communicator c;
    c.name = text(s), c.pair_first = first, c.pair_second = second, c.size = size;
    plan_.communicators.push_back(c);
    comm_stream_.push_back(stream("comm:" + s));
    return CommId{static_cast<std::int64_t>(plan_.communicators.size()) - 1};
  }
  CommId edge(int from, int to) {
    const CommId id =
        communicator("edge:" + std::to_string(from) + "->" + std::to_string(to), from, to, 2);
    plan_.communicators[id.index()].axes.add(Axis::pp);
    return id;
  }

  Op& add(OpKind kind, Phase phase, int microbatch, StreamId on, std::vector<OpId> waits) {
    Op op;
    op.kind = kind, op.phase = phase, op.microbatch = microbatch, op.stream = on, op.stage = p_;
    op.waits = {static_cast<std::uint32_t>(plan_.op_refs.size()),
                static_cast<std::uint32_t>(waits.size())};
    plan_.op_refs.insert(plan_.op_refs.end(), waits.begin(), waits.end());
    plan_.ops.push_back(op);
    return plan_.ops.back();
  }
  [[nodiscard]] OpId last() const { return OpId{static_cast<std::int64_t>(plan_.ops.size()) - 1}; }

  void calls(Op& op, std::vector<int> kernels) {
    op.calls = {static_cast<std::uint32_t>(plan_.calls.size()),
                static_cast<std::uint32_t>(kernels.size())};
    for (int k : kernels) plan_.calls.push_back({KernelId{k}, {}, {}, {}});
  }
  Range one_buffer(BufferId id) {
    plan_.buffer_refs.push_back(id);
    return {static_cast<std::uint32_t>(plan_.buffer_refs.size() - 1), 1};
  }
  BufferId buffer(BufferClass cls, std::int64_t elements, int microbatch) {
    Buffer b;
    b.program = ProgramId{p_}, b.cls = cls, b.shape = tandem::Shape{elements},
    b.microbatch = microbatch;
    plan_.buffers.push_back(b);
    return BufferId{static_cast<std::int64_t>(plan_.buffers.size()) - 1};
  }
  OpId communicate(OpKind kind, Phase phase, int microbatch, CommId comm, int match, int peer,
                   const std::string& tag, std::vector<OpId> waits) {
    const std::uint32_t tag_name = text(tag);
    Op& op = add(kind, phase, microbatch, comm_stream_[comm.index()], std::move(waits));
    op.comm = comm, op.match = match, op.peer = peer, op.count = 8192, op.tag = tag_name;
    return last();
  }

  // recv | layers of (compute, tp all-reduce) | send
  void visit(bool forward, int mb) {
    const Phase phase = forward ? Phase::F : Phase::B;
    const int from = forward ? p_ - 1 : p_ + 1, to = forward ? p_ + 1 : p_ - 1;
    std::vector<OpId> waits;
    if (from >= 0 && from < shape_.pp)
      waits = {communicate(OpKind::recv, phase, mb, forward ? down_[from] : up_[p_],
                           (forward ? 0 : 1000) + mb, from, forward ? "act" : "grad", {})};
    for (int l = 0; l < shape_.layers; ++l) {
      Op& op = add(OpKind::compute, phase, mb, compute_, waits);
      op.layer = p_ * shape_.layers + l;
      calls(op, forward ? std::vector{0, 1} : std::vector{2, 3});
      if (forward) {
        saved_[{mb, l}] =
            buffer(l % 2 ? BufferClass::saved_weight : BufferClass::saved_input, 32768, mb);
        op.allocates = one_buffer(saved_[{mb, l}]);
      } else {
        op.frees = one_buffer(saved_[{mb, l}]);
      }
      waits.clear();
      if (shape_.tp > 1)
        waits = {communicate(OpKind::all_reduce, phase, mb, tp_, -1, -1, "mlp.out", {last()})};
    }
    if (to < 0 || to >= shape_.pp) return;
    communicate(OpKind::send, phase, mb, forward ? down_[p_] : up_[to], (forward ? 0 : 1000) + mb,
                to, forward ? "act" : "grad", {last()});
  }

  void program(int p) {
    p_ = p;
    saved_.clear();
    const auto first = static_cast<std::uint32_t>(plan_.ops.size());
    buffer(BufferClass::param, 65536, -1);
    buffer(BufferClass::optim, 131072, -1);
    buffer(BufferClass::grad, 65536, -1);
    const int warm_up = std::min(shape_.pp - 1 - p, shape_.microbatches);
    for (int k = 0; k < warm_up; ++k) visit(true, k);
    for (int k = warm_up; k < shape_.microbatches; ++k) visit(true, k), visit(false, k - warm_up);
    for (int k = shape_.microbatches - warm_up; k < shape_.microbatches; ++k) visit(false, k);
    std::vector<OpId> waits = {last()};
    if (plan_.ops.back().stream == compute_) waits.clear();
    Op& update = add(OpKind::compute, Phase::O, -1, compute_, waits);
    calls(update, {4});
    communicate(OpKind::all_reduce, Phase::O, -1, world_, 5000, -1, "metrics", {last()});
    plan_.programs.push_back({first, static_cast<std::uint32_t>(plan_.ops.size()) - first});
  }

  Shape shape_;
  Plan plan_;
  StreamId compute_, host_;
  CommId tp_, world_;
  std::vector<CommId> down_, up_;
  std::vector<StreamId> comm_stream_;
  std::map<std::pair<int, int>, BufferId> saved_;
  int p_ = 0;
};

class Scheduler {
 public:
  Scheduler(const Plan& plan, const Speed& speed) : plan_(plan), speed_(speed) {
    t_.clock = speed.clock;
  }

  Timeline take() {
    for (int step = 0; step < speed_.steps; ++step) one_step(step);
    finish();
    return std::move(t_);
  }

 private:
  std::int64_t duration(std::int64_t ns, std::uint64_t a, std::uint64_t b, std::uint64_t c) const {
    const PhiloxWords w = philox4x32({static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b),
                                      static_cast<std::uint32_t>(c), 7},
                                     {static_cast<std::uint32_t>(speed_.seed), 0});
    const double u = static_cast<double>(w[0]) / 4294967296.0 * 2 - 1;
    const double ticks = static_cast<double>(ns * t_.ticks_per_ns()) * (1 + speed_.jitter * u);
    return static_cast<std::int64_t>(ticks);
  }

  void one_step(int step) {
    const int world = plan_.header.mesh.world();
    std::map<std::pair<int, int>, Span> spans;  // (rank, op)
    std::map<std::pair<int, int>, std::int64_t> stream_end;
    std::size_t wanted = 0;
    for (int r = 0; r < world; ++r) wanted += plan_.ops_of(plan_.program_of(Rank{r})).size();
    std::size_t last_count = 0;
    std::map<std::tuple<int, int, int>, std::map<int, Span>> waiting;  // meetings, by member
    while (spans.size() < wanted) {
      for (int r = 0; r < world; ++r) {
        const ProgramId program = plan_.program_of(Rank{r});
        std::map<int, bool> blocked;
        for (std::uint32_t i = 0; i < plan_.programs[program.index()].num_ops; ++i) {
          const OpId id{plan_.programs[program.index()].first_op + i};
          const Op& op = plan_.op(id);
          if (spans.contains({r, id.value})) continue;
          if (std::exchange(blocked[op.stream.value], true)) continue;
          Span s{id, r, step};
          s.issued = clock_ + duration(speed_.issue_ns, 0, 0, 0) * static_cast<std::int64_t>(i);
          s.ready = std::max(s.issued, stream_end[{r, op.stream.value}]);
          bool missing = false;
          for (OpId w : plan_.waits_of(op)) {
            const auto done = spans.find({r, w.value});
            missing |= done == spans.end();
            if (!missing) s.ready = std::max(s.ready, done->second.ended);
          }
          if (missing) continue;
          if (!is_communication(op.kind)) {
            run_compute(s, op);
            stream_end[{r, op.stream.value}] = s.ended;
            spans[{r, id.value}] = s;
            blocked[op.stream.value] = false;
            continue;
          }
          const std::vector<Rank> group = plan_.members(op.comm, Rank{r});
          auto& meeting = waiting[{op.comm.value, op.match >= 0 ? op.match : -id.value - 2,
                                   group.front().value}];
          meeting[r] = s;
          if (meeting.size() < group.size()) continue;
          std::int64_t start = 0;
          for (const auto& [member, span] : meeting) start = std::max(start, span.ready);
          const std::int64_t end =
              start + duration(speed_.transfer_ns, static_cast<std::uint64_t>(id.value), 99,
                               static_cast<std::uint64_t>(step));
          for (auto& [member, span] : meeting) {
            span.started = start, span.ended = end;
            stream_end[{member, plan_.op(span.op).stream.value}] = end;
            spans[{member, span.op.value}] = span;
          }
          blocked[op.stream.value] = false;
        }
      }
      if (spans.size() == last_count) TANDEM_CHECK(false, "the synthetic plan deadlocks");
      last_count = spans.size();
    }
    std::int64_t latest = 0;
    for (int r = 0; r < world; ++r) {
      StepMark mark{r, step, clock_, 0};
      for (const auto& [key, s] : spans)
        if (key.first == r) mark.ended = std::max(mark.ended, s.ended);
      latest = std::max(latest, mark.ended);
      t_.steps.push_back(mark);
    }
    for (const auto& [key, s] : spans) t_.spans.push_back(s);
    clock_ = latest;
  }

  void run_compute(Span& s, const Op& op) {
    const std::int64_t layer = op.phase == Phase::F   ? speed_.forward_ns
                               : op.phase == Phase::B ? speed_.backward_ns
                                                      : speed_.forward_ns;
    s.started = s.ready + duration(speed_.launch_ns, 0, 0, 0);
    std::int64_t at = s.started;
    for (std::uint32_t c = 0; c < op.calls.count; ++c) {
      const std::int64_t tenths = op.calls.count == 1 ? 10 : c == 0 ? 3 : 7;
      std::int64_t d =
          duration(layer * tenths / 10, static_cast<std::uint64_t>(s.op.value),
                   static_cast<std::uint64_t>(s.rank * 16) + c, static_cast<std::uint64_t>(s.step));
      if (s.rank == speed_.slow_rank) d *= 2;
      t_.calls.push_back({s.op, s.rank, s.step, static_cast<std::int32_t>(c), at, at + d, 0});
      at += d;
    }
    s.ended = at;
    if (t_.clock == Clock::monotonic_ns) s.cpu = at - s.started;
  }

  void finish() {
    std::sort(t_.calls.begin(), t_.calls.end(), [](const CallSpan& a, const CallSpan& b) {
      return std::tuple(a.step, a.rank, a.op, a.call) < std::tuple(b.step, b.rank, b.op, b.call);
    });
    for (int r = 0; r < plan_.header.mesh.world(); ++r) {
      std::vector<std::tuple<std::int64_t, OpId, int, BufferId, int>> events;  // time .. sign
      PeakMemory peak;
      peak.rank = r;
      ClassBytes live{};
      for (BufferId b : plan_.persistent(plan_.program_of(Rank{r})))
        live[static_cast<std::size_t>(plan_.buffer(b).cls)] += plan_.buffer(b).bytes();
      for (const Span& s : t_.spans) {
        if (s.rank != r) continue;
        for (BufferId b : plan_.allocates_of(plan_.op(s.op)))
          events.push_back({s.issued, s.op, s.step, b, 1});
        for (BufferId b : plan_.frees_of(plan_.op(s.op)))
          events.push_back({s.ended, s.op, s.step, b, -1});
      }
      std::sort(events.begin(), events.end());
      const auto note = [&](OpId op) {
        std::int64_t total = 0;
        for (std::size_t c = 0; c < live.size(); ++c) {
          total += live[c];
          peak.by_class[c] = std::max(peak.by_class[c], live[c]);
        }
        if (total > peak.total) peak.total = total, peak.at_peak = live, peak.op_at_peak = op;
      };
      note(OpId{});
      for (const auto& [time, op, step, b, sign] : events) {
        live[static_cast<std::size_t>(plan_.buffer(b).cls)] += sign * plan_.buffer(b).bytes();
        t_.memory.push_back({op, r, step, time, live});
        note(op);
      }
      t_.peaks.push_back(peak);
    }
    t_.meta["plan_id"] = "synthetic";
    t_.meta["version"] = "tandem 0.1.0";
    t_.meta["kind"] = t_.clock == Clock::simulated_ps ? "predicted" : "measured";
  }

  const Plan& plan_;
  Speed speed_;
  Timeline t_;
  std::int64_t clock_ = 0;
};

}  // namespace

Plan make_plan(const Shape& shape) { return Builder(shape).take(); }
Timeline run(const Plan& plan, const Speed& speed) { return Scheduler(plan, speed).take(); }

}  // namespace tandem::synthetic
