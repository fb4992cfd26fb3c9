#include "sim/calibrate/probe.h"

#include <algorithm>
#include <array>
#include <map>

#include "common/base/check.h"

namespace tandem::sim {
namespace {

// Half a millisecond: long enough for the threads that wait to be asleep, as in a step.
constexpr std::int64_t kTurnElements = 1 << 20;

class Builder {
 public:
  Builder(int dp, int pp) {
    plan_.header.digest = "0000000000000000";
    plan_.header.schedule = "probe";
    plan_.header.microbatches = plan_.header.micro_batch = plan_.header.sequence = 1;
    plan_.header.mesh.size = {1, 1, dp, pp};
    for (int p = 0; p < pp; ++p) plan_.header.stage_rank.push_back(p);
    plan_.streams = {"compute"};
  }
  CommId axis(const std::string& name, Axis axis, int size) {
    Communicator c;
    c.name = this->name(name);
    c.axes.add(axis);
    c.size = size;
    plan_.communicators.push_back(c);
    return add_stream(name);
  }
  CommId edge(int from, int to) {
    const std::string text = "edge:" + std::to_string(from) + "->" + std::to_string(to);
    Communicator c;
    c.name = name(text);
    c.axes.add(Axis::pp);
    c.pair_first = from;
    c.pair_second = to;
    c.size = 2;
    plan_.communicators.push_back(c);
    return add_stream(text);
  }
  void begin_program() {
    plan_.programs.push_back({static_cast<std::uint32_t>(plan_.ops.size()), 0});
  }
  // Lives for the run.
  BufferId buffer(const std::string& text, std::int64_t elements) {
    Buffer b;
    b.program = ProgramId{static_cast<std::int64_t>(plan_.programs.size()) - 1};
    b.cls = BufferClass::comm;
    b.shape = {elements};
    b.name = name(text);
    plan_.buffers.push_back(b);
    return BufferId{static_cast<std::int64_t>(plan_.buffers.size()) - 1};
  }
  OpId communicate(OpKind kind, CommId comm, std::int64_t count, BufferId buffer, int peer,
                   int match, const std::vector<OpId>& waits) {
    Op op;
    op.kind = kind;
    op.comm = comm;
    op.stream = StreamId{comm.value + 1};
    op.count = count;
    op.reduction = kind == OpKind::all_reduce || kind == OpKind::reduce_scatter ? Reduction::sum
                                                                                : Reduction::none;
    op.peer = peer;
    op.match = match;
    op.tag = name("probe");
    op.buffer = buffer;
    return add(op, waits);
  }
  StreamId stream(const std::string& text) {
    plan_.streams.push_back(text);
    return StreamId{static_cast<std::int64_t>(plan_.streams.size()) - 1};
  }
  OpId gelu(StreamId stream, BufferId from, BufferId to, const std::vector<OpId>& waits) {
    if (plan_.kernels.empty()) {
      Kernel k;
      k.kind = KernelKind::gelu_fwd;
      k.dims[0] = kTurnElements;
      k.flags = kErf;
      plan_.kernels.push_back(k);
    }
    Op op;
    op.stream = stream;
    op.calls = {static_cast<std::uint32_t>(plan_.calls.size()), 1};
    const auto first = static_cast<std::uint32_t>(plan_.operands.size());
    plan_.operands.push_back({from, false});
    plan_.operands.push_back({to, false});
    plan_.calls.push_back({KernelId{0}, {first, 1}, {first + 1, 1}, {first + 2, 0}});
    return add(op, waits);
  }
  Plan take() { return std::move(plan_); }

 private:
  CommId add_stream(const std::string& comm) {
    plan_.streams.push_back("comm:" + comm);
    return CommId{static_cast<std::int64_t>(plan_.communicators.size()) - 1};
  }
  std::uint32_t name(const std::string& text) {
    const auto it = std::find(plan_.names.begin(), plan_.names.end(), text);
    if (it != plan_.names.end()) return static_cast<std::uint32_t>(it - plan_.names.begin());
    plan_.names.push_back(text);
    return static_cast<std::uint32_t>(plan_.names.size() - 1);
  }
  OpId add(Op op, const std::vector<OpId>& waits) {
    op.waits = {static_cast<std::uint32_t>(plan_.op_refs.size()),
                static_cast<std::uint32_t>(waits.size())};
    plan_.op_refs.insert(plan_.op_refs.end(), waits.begin(), waits.end());
    plan_.ops.push_back(op);
    ++plan_.programs.back().num_ops;
    return OpId{static_cast<std::int64_t>(plan_.ops.size()) - 1};
  }
  Plan plan_;
};

double median_or_0(std::vector<double> values) {
  return values.empty() ? 0 : median(std::move(values));
}

ProbeFigures::Curve& curve_of(ProbeFigures& figures, OpKind kind, int members) {
  for (ProbeFigures::Curve& c : figures.curves)
    if (c.kind == kind && c.members == members) return c;
  figures.curves.push_back({kind, members, {}, {}});
  return figures.curves.back();
}

}  // namespace

ProbePlan collective_probe(std::span<const OpKind> kinds, int members, std::span<const Bytes> sizes,
                           int repeats) {
  TANDEM_CHECK(members >= 2 && repeats >= 2, "{} members, {} repeats", members, repeats);
  ProbePlan out;
  Builder make(members, 1);
  make.begin_program();
  const CommId dp = make.axis("dp", Axis::dp, members);
  for (Bytes bytes : sizes) {
    // Divisible by the members: so many elements are cut evenly.
    const std::int64_t least = (bytes / 4 + members - 1) / members;
    const std::int64_t whole = std::max<std::int64_t>(1, least) * members;
    const BufferId buffer = make.buffer("data" + std::to_string(whole), whole);
    for (OpKind kind : kinds) {
      TANDEM_CHECK(is_collective(kind), "{} is no collective", name_of(kind));
      const std::int64_t count = kind == OpKind::all_gather ? whole / members : whole;
      Probe probe{kind, members, 4 * count, {{}}};
      for (int r = 0; r <= repeats; ++r)
        probe.streams[0].push_back(make.communicate(kind, dp, count, buffer, -1, -1, {}));
      out.probes.push_back(std::move(probe));
    }
  }
  out.plan = make.take();
  return out;
}

ProbePlan message_probe(std::span<const Bytes> sizes, int repeats) {
  TANDEM_CHECK(repeats >= 2, "{} repeats", repeats);
  ProbePlan out;
  Builder make(1, 2);
  const CommId forth = make.edge(0, 1), back = make.edge(1, 0);
  for (int program = 0; program < 2; ++program) {
    make.begin_program();
    int match = 0;
    std::size_t probe_index = 0;
    for (Bytes bytes : sizes) {
      const std::int64_t count = std::max<std::int64_t>(1, (bytes + 3) / 4);
      const BufferId buffer = make.buffer("data" + std::to_string(count), count);
      if (program == 0) out.probes.push_back({OpKind::send, 2, 4 * count, {}});
      Probe& probe = out.probes[probe_index++];
      for (const bool forward : {true, false}) {
        const bool sends = forward == (program == 0);
        probe.streams.emplace_back();
        for (int r = 0; r <= repeats; ++r)
          probe.streams.back().push_back(make.communicate(sends ? OpKind::send : OpKind::recv,
                                                          forward ? forth : back, count, buffer,
                                                          1 - program, match++, {}));
      }
    }
  }
  out.plan = make.take();
  return out;
}

ProbePlan host_probe(int ranks, int turns) {
  TANDEM_CHECK(ranks >= 1 && turns >= 1, "{} ranks, {} turns", ranks, turns);
  ProbePlan out;
  Builder make(ranks, 1);
  make.begin_program();
  const BufferId a = make.buffer("a", kTurnElements), b = make.buffer("b", kTurnElements);
  const std::array<StreamId, 2> streams = {StreamId{0}, make.stream("side")};
  std::vector<OpId> before;
  for (int i = 0; i <= turns; ++i) {
    const OpId op = make.gelu(streams[static_cast<std::size_t>(i % 2)], a, b, before);
    if (i > 0) out.turns.emplace_back(before[0], op);
    before = {op};
  }
  out.plan = make.take();
  return out;
}

void add_figures(const ProbePlan& probe, const Timeline& measured, ProbeFigures& figures) {
  const int ranks = probe.plan.header.mesh.world();
  const double second = 1e-9 / static_cast<double>(measured.ticks_per_ns());
  std::map<std::tuple<int, int, int>, const Span*> by_op;  // (op, step, rank)
  std::map<std::pair<int, int>, bool> runs;                // (step, rank)
  for (const Span& s : measured.spans) {
    by_op[{s.op.value, s.step, s.rank}] = &s;
    runs[{s.step, s.rank}] = true;
  }
  const auto find = [&](OpId op, const std::pair<int, int>& run) -> const Span* {
    const auto it = by_op.find({op.value, run.first, run.second});
    return it == by_op.end() ? nullptr : it->second;
  };
  for (const Probe& p : probe.probes) {
    std::vector<double> seconds, shares;
    for (const auto& stream : p.streams)
      for (const auto& [run, present] : runs)
        for (std::size_t i = 1; i < stream.size(); ++i) {
          const Span *before = find(stream[i - 1], run), *span = find(stream[i], run);
          if (!before || !span || span->ended <= before->ended) continue;
          const double period = static_cast<double>(span->ended - before->ended) * second;
          seconds.push_back(period);
          shares.push_back(static_cast<double>(span->cpu) * second / period);
        }
    if (seconds.empty()) continue;
    ProbeFigures::Curve& curve = curve_of(figures, p.kind, p.members);
    curve.samples.push_back({p.bytes, median(std::move(seconds))});
    curve.cpu_shares.push_back(std::clamp(median_or_0(std::move(shares)), 0.0, 1.0));
  }
  for (const auto& [before, after] : probe.turns)
    for (const auto& [run, present] : runs) {
      const Span *a = find(before, run), *b = find(after, run);
      if (!a || !b || b->issued >= a->ended || b->started <= a->ended) continue;
      figures.turns_s[ranks].push_back(static_cast<double>(b->started - a->ended) * second);
    }
  for (const auto& [run, present] : runs)
    for (const Program& program : probe.plan.programs)
      for (std::uint32_t i = 1; i < program.num_ops; ++i) {
        const Span* a = find(OpId{program.first_op + i - 1}, run);
        const Span* b = find(OpId{program.first_op + i}, run);
        if (a && b && b->issued >= a->issued)
          figures.issues_s.push_back(static_cast<double>(b->issued - a->issued) * second);
      }
}

}  // namespace tandem::sim
