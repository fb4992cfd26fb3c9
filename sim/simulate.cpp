#include "sim/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "common/plan/late_validation.h"
#include "common/plan/live_bytes.h"
#include "common/plan/print.h"
#include "common/plan/totals.h"
#include "sim/memory/tracker.h"

namespace tandem::sim {
namespace {

using StepReport = Engine::StepReport;

// --- where the time of a step goes -------------------------------------------------------------

class Accountant {
 public:
  // `routed`: null where all ranks and steps have the plan's rows.
  Accountant(const Plan& plan, const ComputeCost& cost, const RoutedWork* routed)
      : plan_(plan), cost_(cost), routed_(routed) {
    std::vector<std::int32_t> last(plan.streams.size());
    before_.assign(plan.ops.size(), -1);
    for (const Program& program : plan.programs) {
      std::fill(last.begin(), last.end(), -1);
      for (std::uint32_t i = 0; i < program.num_ops; ++i) {
        std::int32_t& l = last[plan.ops[program.first_op + i].stream.index()];
        before_[program.first_op + i] = l;
        l = static_cast<std::int32_t>(i);
      }
    }
  }

  // The time of a compute op of a rank in a step, cut in proportion to the work of its calls; the
  // last takes the rest.
  template <class Visit>
  void each_call(int step, Rank rank, OpId op, Picoseconds begin, Picoseconds end,
                 Visit&& visit) const {
    const auto calls = plan_.calls_of(plan_.op(op));
    const auto routed =
        routed_ ? routed_->work_of_calls(step, rank, op) : std::span<const Picoseconds>();
    const auto work = [&](std::size_t i) {
      return static_cast<double>(
          routed.empty() ? cost_.work(calls[i].kernel, call_accumulates(plan_, calls[i]))[0]
                         : routed[i]);
    };
    double total = 0, sum = 0;
    for (std::size_t i = 0; i < calls.size(); ++i) total += work(i);
    Picoseconds at = begin;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      sum += work(i);
      Picoseconds next = end;
      if (i + 1 < calls.size() && total > 0)
        next = begin + static_cast<Picoseconds>(static_cast<double>(end - begin) * (sum / total));
      visit(i, calls[i], at, next);
      at = next;
    }
  }

  RankSummary account(const StepReport& r, Rank rank, int multiplicity) const {
    RankSummary out;
    out.rank = rank;
    out.multiplicity = multiplicity;
    out.step = r.ended - r.started;
    out.transfer.assign(plan_.communicators.size(), 0);
    out.waiting.assign(plan_.communicators.size(), 0);
    const Program& program = plan_.programs[plan_.program_of(rank).index()];
    Picoseconds done = r.started;  // the compute stream is accounted for up to here
    std::size_t last = 0;
    for (std::size_t i = 0; i < program.num_ops; ++i) {
      const Op& op = plan_.ops[program.first_op + i];
      if (r.times[i].ended >= r.times[last].ended) last = i;
      if (op.kind != OpKind::compute) continue;
      gap(r, program, i, done, r.times[i].started, out);
      each_call(r.step, rank, OpId{program.first_op + static_cast<std::int64_t>(i)},
                r.times[i].started, r.times[i].ended,
                [&](std::size_t, const Call& c, Picoseconds b, Picoseconds e) {
                  const CostClass cls = catalogue(plan_.kernel(c.kernel).kind).cost_class;
                  out.compute[static_cast<std::size_t>(cls)] += e - b;
                });
      done = r.times[i].ended;
    }
    if (program.num_ops && done < r.ended) charge(r, program, last, done, r.ended, out);
    Picoseconds known = 0;
    for (Picoseconds p : out.compute) known += p;
    for (Picoseconds p : out.transfer) known += p;
    for (Picoseconds p : out.waiting) known += p;
    out.idle = out.step - known;
    return out;
  }

 private:
  // [begin, end) before compute op `op`: its waits say what it was for.
  void gap(const StepReport& r, const Program& program, std::size_t op, Picoseconds begin,
           Picoseconds end, RankSummary& out) const {
    if (begin >= end) return;
    const std::int32_t cause = latest_wait(r, program, op, end);
    if (cause >= 0) charge(r, program, static_cast<std::size_t>(cause), begin, end, out);
  }

  // What ended last of that which the op waited for, at most at `until`; -1: nothing.
  std::int32_t latest_wait(const StepReport& r, const Program& program, std::size_t op,
                           Picoseconds until) const {
    std::int32_t best = -1;
    for (OpId w : plan_.waits_of(plan_.ops[program.first_op + op])) {
      const auto i = static_cast<std::int32_t>(w.index() - program.first_op);
      if (r.times[static_cast<std::size_t>(i)].ended > until) continue;
      if (best < 0 || r.times[static_cast<std::size_t>(i)].ended >=
                          r.times[static_cast<std::size_t>(best)].ended)
        best = i;
    }
    return best;
  }

  // Walks back from `op` along what it waited for, cutting [begin, end) into transfer and waiting.
  void charge(const StepReport& r, const Program& program, std::size_t op, Picoseconds begin,
              Picoseconds end, RankSummary& out) const {
    while (end > begin) {
      const Op& o = plan_.ops[program.first_op + op];
      const OpTimes& t = r.times[op];
      const auto overlap = [&](Picoseconds a, Picoseconds b) {
        return std::max<Picoseconds>(0, std::min(b, end) - std::max(a, begin));
      };
      if (is_communication(o.kind)) {
        out.transfer[o.comm.index()] += overlap(t.started, t.ended);
        out.waiting[o.comm.index()] += overlap(t.ready, t.started);
      }
      end = std::min(end, t.ready);
      const std::int32_t wait = latest_wait(r, program, op, t.ready);
      const std::int32_t before = before_[program.first_op + op];
      std::int32_t cause = wait;
      if (before >= 0 && (wait < 0 || r.times[static_cast<std::size_t>(before)].ended >
                                          r.times[static_cast<std::size_t>(wait)].ended))
        cause = before;
      if (cause < 0) return;
      op = static_cast<std::size_t>(cause);
    }
  }

  const Plan& plan_;
  const ComputeCost& cost_;
  const RoutedWork* routed_;
  std::vector<std::int32_t> before_;  // op before it on its stream
};

// --- memory ------------------------------------------------------------------------------------

// Of each program, or of each rank where their rows differ.
class Memory {
 public:
  Memory(const Plan& plan, const RoutedWork* routed) : plan_(plan), by_rank_(routed != nullptr) {
    if (!by_rank_) {
      list_ = track_memory(plan);
      return;
    }
    for (int r = 0; r < plan.header.mesh.world(); ++r) {
      std::vector<const RunTimeRows*> steps;
      for (int step = 0; step < routed->steps(); ++step)
        steps.push_back(&routed->rows(step, Rank{r}));
      list_.push_back(track_memory(plan, plan.program_of(Rank{r}), steps));
    }
  }
  [[nodiscard]] const ProgramMemory& of(Rank rank) const {
    return list_[by_rank_ ? rank.index() : plan_.program_of(rank).index()];
  }

 private:
  const Plan& plan_;
  const bool by_rank_;
  std::vector<ProgramMemory> list_;
};

// --- the timeline ------------------------------------------------------------------------------

class Recorder {
 public:
  Recorder(const Plan& plan, const Cluster& cluster, const Folding& folding,
           const SimOptions& options, const Memory& memory, const RoutedWork* routed,
           const Accountant& accountant)
      : plan_(plan),
        cluster_(cluster),
        options_(options),
        memory_(memory),
        routed_(routed),
        accountant_(accountant),
        ranks_of_class_(folding.representative.size()) {
    std::vector<bool> seen(plan.programs.size(), false);
    std::vector<bool> listed(static_cast<std::size_t>(cluster.world), false);
    for (int r : options.rank_list)
      if (r >= 0 && r < cluster.world) listed[static_cast<std::size_t>(r)] = true;
    for (int r = 0; r < cluster.world; ++r) {
      const std::size_t program = plan.program_of(Rank{r}).index();
      const bool wanted =
          options.ranks == RankSelection::all ||
          (options.ranks == RankSelection::listed && listed[static_cast<std::size_t>(r)]) ||
          (options.ranks == RankSelection::representatives && !seen[program]);
      seen[program] = true;
      if (wanted)
        ranks_of_class_[static_cast<std::size_t>(folding.class_of[static_cast<std::size_t>(r)])]
            .push_back(r);
    }
  }

  void record(const StepReport& report) {
    for (int rank : ranks_of_class_[static_cast<std::size_t>(report.class_index)]) {
      const Program& program = plan_.programs[plan_.program_of(Rank{rank}).index()];
      out_.steps.push_back({rank, report.step, report.started, report.ended});
      for (std::uint32_t i = 0; i < program.num_ops; ++i) {
        const OpId id{program.first_op + i};
        const OpTimes& t = report.times[i];
        out_.spans.push_back({id, rank, report.step, t.issued, t.ready, t.started, t.ended, 0});
        if (options_.record_calls && plan_.op(id).kind == OpKind::compute)
          accountant_.each_call(
              report.step, Rank{rank}, id, t.started, t.ended,
              [&](std::size_t k, const Call&, Picoseconds b, Picoseconds e) {
                out_.calls.push_back({id, rank, report.step, static_cast<int>(k), b, e, 0});
              });
      }
      if (options_.record_memory) record_memory(report, rank, program);
    }
  }

  Timeline take() {
    const auto by_step = [](const auto& a, const auto& b) {
      return std::tie(a.step, a.rank) < std::tie(b.step, b.rank);
    };
    std::stable_sort(out_.spans.begin(), out_.spans.end(), by_step);
    std::stable_sort(out_.calls.begin(), out_.calls.end(), by_step);
    std::stable_sort(out_.steps.begin(), out_.steps.end(), by_step);
    std::stable_sort(out_.memory.begin(), out_.memory.end(),
                     [](const auto& a, const auto& b) { return a.rank < b.rank; });
    for (const auto& ranks : ranks_of_class_)
      for (int r : ranks) out_.peaks.push_back(peak_of(r));
    std::sort(out_.peaks.begin(), out_.peaks.end(),
              [](const auto& a, const auto& b) { return a.rank < b.rank; });
    from_first_start();
    out_.clock = Clock::simulated_ps;
    out_.meta["kind"] = "predicted";
    return std::move(out_);
  }

  PeakMemory peak_of(int rank) const {
    PeakMemory p = memory_.of(Rank{rank}).peak;
    p.rank = rank;
    return p;
  }

 private:
  // Steps behind a lead-in count from the first start of a rank.
  void from_first_start() {
    Picoseconds first = out_.steps.empty() ? 0 : out_.steps[0].started;
    for (const StepMark& s : out_.steps) first = std::min(first, s.started);
    if (first == 0) return;
    for (StepMark& s : out_.steps) s.started -= first, s.ended -= first;
    for (Span& s : out_.spans)
      s.issued -= first, s.ready -= first, s.started -= first, s.ended -= first;
    for (CallSpan& c : out_.calls) c.started -= first, c.ended -= first;
    for (MemorySample& m : out_.memory) m.time -= first;
  }

  // Local: a buffer is freed when its last op has ended. Devices: in issue order, as a stream-
  // ordered allocator sees it.
  void record_memory(const StepReport& report, int rank, const Program& program) {
    struct Change {
      Picoseconds time;
      bool allocates;
      std::uint32_t op;
    };
    std::vector<Change> changes;
    for (std::uint32_t i = 0; i < program.num_ops; ++i) {
      const Op& op = plan_.ops[program.first_op + i];
      const OpTimes& t = report.times[i];
      if (op.allocates.count) changes.push_back({t.issued, true, i});
      if (op.frees.count) changes.push_back({cluster_.local ? t.ended : t.issued, false, i});
    }
    if (cluster_.local)  // frees of a moment come before the allocation that waited for them
      std::stable_sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) {
        return a.time != b.time ? a.time < b.time : a.allocates < b.allocates;
      });
    const RunTimeRows* rows = routed_ ? &routed_->rows(report.step, Rank{rank}) : nullptr;
    ClassBytes live = memory_.of(Rank{rank}).persistent;
    for (const Change& c : changes) {
      const Op& op = plan_.ops[program.first_op + c.op];
      add_bytes(plan_, c.allocates ? plan_.allocates_of(op) : plan_.frees_of(op),
                c.allocates ? 1 : -1, live, rows);
      out_.memory.push_back({OpId{program.first_op + c.op}, rank, report.step, c.time, live});
    }
  }

  const Plan& plan_;
  const Cluster& cluster_;
  const SimOptions& options_;
  const Memory& memory_;
  const RoutedWork* routed_;
  const Accountant& accountant_;
  std::vector<std::vector<int>> ranks_of_class_;
  Timeline out_;
};

// Where steps overlap the first begins on all ranks at once, as no other does.
constexpr int kLeadIn = 2;

Status check(const SimOptions& options) {
  if (options.fidelity == Fidelity::message)
    return make_error(Failure::infeasible, "E-SCEN-020", "not available in this version",
                      "simulate.fidelity: message", "auto, closed_form or flow",
                      "use flow: it charges every link that messages would share");
  return Ok{};
}

// Work by where its cost came from, over all ranks; of routed calls in the first step.
std::array<double, kNumCostSources> source_shares(const Plan& plan, const ComputeCost& cost,
                                                  const Folding& folding,
                                                  const RoutedWork* routed) {
  std::vector<double> ranks(plan.programs.size(), 0);
  for (std::size_t c = 0; c < folding.representative.size(); ++c)
    ranks[plan.program_of(folding.representative[c]).index()] += folding.multiplicity[c];
  std::array<double, kNumCostSources> out{};
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    for (const Op& op : plan.ops_of(ProgramId{static_cast<int>(p)}))
      for (const Call& c : plan.calls_of(op)) {
        const bool acc = call_accumulates(plan, c);
        out[static_cast<std::size_t>(cost.source(c.kernel, acc))] +=
            ranks[p] * ps_to_seconds(cost.work(c.kernel, acc)[0]);
      }
  if (routed)
    for (std::size_t s = 0; s < out.size(); ++s)
      out[s] = std::max(0.0, out[s] - routed->balanced_seconds_by_source()[s]) +
               routed->seconds_by_source()[s];
  double total = 0;
  for (double s : out) total += s;
  for (double& s : out) s = total > 0 ? s / total : 0;
  return out;
}

// Over all layers and microbatches of a step: rows of the rank that gets most over the mean.
double max_over_mean(const Plan& plan, const RoutedWork& routed) {
  double worst = 1;
  const auto ranks =
      static_cast<double>(plan.header.mesh.world()) / static_cast<double>(plan.programs.size());
  for (int step = 0; step < routed.steps(); ++step) {
    RunTimeRows largest, sum;  // over the ranks that have the buffer
    for (int r = 0; r < plan.header.mesh.world(); ++r)
      for (const auto& [counts, rows] : routed.rows(step, Rank{r})) {
        largest[counts] = std::max(largest[counts], rows);
        sum[counts] += rows;
      }
    double of_largest = 0, of_mean = 0;
    for (const auto& [counts, rows] : largest) of_largest += static_cast<double>(rows);
    for (const auto& [counts, rows] : sum) of_mean += static_cast<double>(rows) / ranks;
    if (of_mean > 0) worst = std::max(worst, of_largest / of_mean);
  }
  return worst;
}

void summarise(SimResult& out, std::vector<Picoseconds> slowest_step) {
  std::sort(slowest_step.begin(), slowest_step.end());
  const std::size_t n = slowest_step.size();
  out.iteration_ps = n == 0 ? 0 : (slowest_step[(n - 1) / 2] + slowest_step[n / 2]) / 2;
  double useful = 0, exposed = 0, ranks = 0;
  for (const RankSummary& r : out.ranks) {
    Picoseconds compute = 0, transfer = 0;
    for (Picoseconds p : r.compute) compute += p;
    for (Picoseconds p : r.transfer) transfer += p;
    useful += r.multiplicity * ps_to_seconds(compute + transfer);
    exposed += r.multiplicity * ps_to_seconds(transfer);
    ranks += r.multiplicity;
  }
  if (ranks == 0 || out.iteration_ps == 0) return;
  out.exposed_comm_s = exposed / ranks;
  out.bubble = 1 - useful / ranks / ps_to_seconds(out.iteration_ps);
}

}  // namespace

Result<SimResult> simulate(const Plan& plan, const Cluster& cluster, const SimOptions& options) {
  if (Status s = check(options); !s) return s.error();
  Result<ComputeCost> cost = ComputeCost::create(plan, cluster.spec.device, options.calibration);
  if (!cost) return cost.error();
  const bool uneven = options.routing && !routed_places(plan).empty();
  const Folding folding = fold_ranks(plan, cluster, options.fold && !options.replay && !uneven);
  Charges charges(plan, cluster, folding, options.fidelity, options.calibration);
  std::optional<RoutedWork> routed_work;
  if (uneven) routed_work = RoutedWork::make(plan, *cost, charges, *options.routing, options.steps);
  const RoutedWork* routed = routed_work ? &*routed_work : nullptr;
  const Memory memory(plan, routed);

  Engine::Options engine_options;
  engine_options.steps = options.steps;
  if (validates_late(plan)) engine_options.lead_in = kLeadIn;
  engine_options.replay = options.replay;
  engine_options.routed = routed;
  engine_options.issue_ps =
      seconds_to_ps(options.calibration && cluster.local ? options.calibration->issue_s
                                                         : cluster.spec.device.launch_overhead);
  if (options.calibration && cluster.local)
    engine_options.wake_ps =
        seconds_to_ps(wake_seconds(*options.calibration, plan.header.mesh.world()));
  Engine engine(plan, cluster, folding, charges, *cost, engine_options);

  const Accountant accountant(plan, *cost, routed);
  Recorder recorder(plan, cluster, folding, options, memory, routed, accountant);
  SimResult out;
  out.ranks.resize(folding.representative.size());
  std::vector<Picoseconds> slowest(static_cast<std::size_t>(std::max(0, options.steps)), 0);
  std::vector<Picoseconds> time_needed(folding.representative.size(), 0);
  const Status ran = engine.run([&](const StepReport& r) {
    const auto c = static_cast<std::size_t>(r.class_index);
    Picoseconds& step = slowest[static_cast<std::size_t>(r.step)];
    step = std::max(step, r.ended - r.started);
    const Rank rank = folding.representative[c];
    if (const OpId at = memory.of(rank).op_needed; at.valid())
      time_needed[c] =
          r.times[at.index() - plan.programs[plan.program_of(rank).index()].first_op].issued -
          r.started;
    out.ranks[c] = accountant.account(r, folding.representative[c], folding.multiplicity[c]);
    recorder.record(r);
  });
  if (!ran) return ran.error();

  for (std::size_t c = 0; c < folding.representative.size(); ++c) {
    const Rank rank = folding.representative[c];
    const ProgramMemory& m = memory.of(rank);
    if (options.check_capacity && m.needed > cluster.spec.device.memory)
      return over_capacity(plan, m, rank, cluster.spec.device.memory, time_needed[c]);
    out.peaks.push_back(recorder.peak_of(rank.value));
    out.kernel_scratch = std::max(out.kernel_scratch, m.kernel_scratch);
    out.needed_bytes = std::max(out.needed_bytes, m.needed);
  }
  summarise(out, std::move(slowest));
  if (routed) out.routed_rows_max_over_mean = max_over_mean(plan, *routed);
  out.source_share = source_shares(plan, *cost, folding, routed);
  out.simulated_events = engine.num_events();
  out.simulated_ranks = static_cast<int>(folding.representative.size());
  out.timeline = recorder.take();
  return out;
}

ReplayDurations replay_of(const Plan& plan, const Timeline& measured) {
  std::map<std::pair<int, int>, std::vector<std::int64_t>> by_op;  // (rank, op)
  const std::int64_t ps = measured.clock == Clock::simulated_ps ? 1 : kPsPerNs;
  for (const Span& s : measured.spans)
    by_op[{s.rank, s.op.value}].push_back(std::max<std::int64_t>(0, s.ended - s.started) * ps);
  ReplayDurations out;
  for (auto& [key, list] : by_op) {
    std::sort(list.begin(), list.end());
    out.set(plan, Rank{key.first}, OpId{key.second}, list[(list.size() - 1) / 2]);
  }
  return out;
}

}  // namespace tandem::sim
