// Goal    parallel.parameter_gather.overlap (docs/decisions.md D-043): without it no gather of
//         ZeRO-3 runs beside computing, in any order of the ops, and it is made where it is used;
//         with it some do. Nothing else changes: the same gathers, the same kernels.
// Method  "ended before it starts" from the order of streams and the waits alone, as a relation of
//         all ops of a program; each gather against each compute op, over families, schedules and
//         residencies.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "sim/memory/tracker.h"
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

bool is_gather(const Plan& plan, const Op& op) {
  return op.kind == OpKind::all_gather && plan.buffer(op.buffer).cls == BufferClass::param_full;
}

// [later][earlier]: `earlier` has ended before `later` starts, both counted in the program.
using Before = std::vector<std::vector<bool>>;
Before ended_before(const Plan& plan, const Program& program) {
  Before before(program.num_ops, std::vector<bool>(program.num_ops, false));
  std::map<int, std::uint32_t> tail;  // by stream
  for (std::uint32_t i = 0; i < program.num_ops; ++i) {
    const Op& op = plan.ops[program.first_op + i];
    const auto behind = [&](std::uint32_t j) {
      for (std::uint32_t k = 0; k < j; ++k) before[i][k] = before[i][k] || before[j][k];
      before[i][j] = true;
    };
    if (const auto last = tail.find(op.stream.value); last != tail.end()) behind(last->second);
    for (OpId w : plan.waits_of(op)) behind(static_cast<std::uint32_t>(w.value) - program.first_op);
    tail[op.stream.value] = i;
  }
  return before;
}

struct Seen {
  std::map<std::string, int> gathers;  // by label of communicator and size
  std::map<std::int32_t, int> calls;   // by kernel
  int beside = 0;    // pairs of a gather and a compute op that may run at one time
  int far_away = 0;  // gathers whose next compute op does not read them
};

Seen look(const Plan& plan) {
  Seen seen;
  for (const Program& program : plan.programs) {
    const Before before = ended_before(plan, program);
    for (std::uint32_t g = 0; g < program.num_ops; ++g) {
      const Op& gather = plan.ops[program.first_op + g];
      for (const Call& call : plan.calls_of(gather)) ++seen.calls[call.kernel.value];
      if (!is_gather(plan, gather)) continue;
      ++seen.gathers[fmt::format("{} {}", gather.comm.value, gather.count)];
      bool next = true;
      for (std::uint32_t c = 0; c < program.num_ops; ++c) {
        const Op& op = plan.ops[program.first_op + c];
        if (op.kind != OpKind::compute) continue;
        seen.beside += c < g ? !before[g][c] : !before[c][g];
        if (c < g || !std::exchange(next, false)) continue;
        bool reads = false;
        for (const Call& call : plan.calls_of(op))
          for (const OperandRef& o : plan.operands_of(call.inputs)) {
            const Buffer& b = plan.buffer(o.id);
            reads |= o.id == gather.buffer || b.alias_of == gather.buffer;
          }
        seen.far_away += !reads;
      }
    }
  }
  return seen;
}

Scenario job(const std::string& model, const std::string& parallel, const std::string& gather,
             const std::string& schedule) {
  return scenario(
      fmt::format("model: {}\ntraining: {{micro_batch: 1, global_batch: 16}}\n"
                  "parallel: {{{}, zero: 3, parameter_gather: {{{}}}}}\nschedule: {{{}}}\n",
                  model, parallel, gather, schedule));
}

}  // namespace

TEST_CASE("a gather without overlap is beside no computing") {
  for (const char* model : {"gpt-tiny", "llama-tiny", "mixtral-tiny", "deepseek-tiny"})
    for (const char* parallel : {"dp: 2, pp: 2", "dp: 2, tp: 2, sequence_parallel: true"})
      for (const char* residency : {"residency: visit", "residency: window, window: 1"})
        for (const char* schedule : {"kind: 1f1b", "kind: zbv", "kind: interleaved_1f1b",
                                     "kind: dualpipev", "kind: dualpipe"}) {
          const std::string mesh = parallel, kind = schedule;
          const bool piped = mesh.find("pp") != std::string::npos;
          if (!piped && kind != "kind: 1f1b") continue;
          CAPTURE(model);
          CAPTURE(parallel);
          CAPTURE(residency);
          CAPTURE(schedule);
          const std::string keep = residency;
          const Plan off = plan_of(job(model, mesh, keep + ", overlap: false", kind));
          const Plan on = plan_of(job(model, mesh, keep, kind));
          const Seen unhidden = look(off), hidden = look(on);
          CHECK(!unhidden.gathers.empty());
          CHECK(unhidden.beside == 0);
          CHECK(hidden.beside > 0);
          CHECK(unhidden.gathers == hidden.gathers);
          CHECK(unhidden.calls == hidden.calls);
          // Where ops of one visit follow each other, and stages are not gathered as a whole.
          const bool visit = keep == "residency: visit" && kind.find("dual") == std::string::npos;
          if (visit) CHECK(unhidden.far_away == 0);
          if (visit) CHECK(hidden.far_away > 0);
          const auto peak = [](const Plan& plan) {
            Bytes most = 0;
            for (const auto& m : sim::track_memory(plan))
              most = std::max(most,
                              m.peak.by_class[static_cast<std::size_t>(BufferClass::param_full)]);
            return most;
          };
          if (visit) CHECK(peak(off) < peak(on));
        }
}

TEST_CASE("a gather with experts: two groups, each bucket where it is used") {
  const std::string mesh = "dp: 2, ep: 2, pp: 2", model = "mixtral-tiny", kind = "kind: 1f1b";
  const Seen off = look(plan_of(job(model, mesh, "overlap: false", kind)));
  CHECK(off.gathers.size() > 2);
  CHECK(off.beside == 0);
  CHECK(off.far_away == 0);
}

TEST_CASE("overlap without ZeRO-3, and prefetch without overlap, have no effect") {
  const auto titles = [](const std::string& parallel) {
    std::vector<std::string> out;
    Diagnostics warnings;
    const auto s = read_scenario_text(
        "t.yaml", "tandem: 1\nmodel: gpt-tiny\nparallel: {dp: 2, " + parallel + "}\n", {},
        &warnings);
    REQUIRE(s.ok());
    for (const Diagnostic& d : warnings) out.push_back(d.title);
    return out;
  };
  using List = std::vector<std::string>;
  CHECK(titles("zero: 3, parameter_gather: {overlap: false}") == List{});
  CHECK(titles("zero: 2, parameter_gather: {overlap: false}") ==
        List{"parallel.parameter_gather.overlap has no effect"});
  CHECK(titles("zero: 3, parameter_gather: {overlap: false, prefetch: 2}") ==
        List{"parallel.parameter_gather.prefetch has no effect"});
}

}  // namespace tandem
