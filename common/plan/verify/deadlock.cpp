// V4 and V6: the plan ends.
// V4 proves: waits, the order of streams, send before receive and "nothing is issued before an
// earlier host_wait is done" have no cycle; that is level (a), with sends that never block. A wait
// points back in the issue order: an event that is not recorded yet orders nothing on a GPU.
// V6 proves: the plan ends at level (b) and under the memory rule of plan.h, and at level (d) where
// it is demanded; the other levels are reported. Levels: progress.h.
// Not: that the backend keeps these rules; faults; time-outs.
#include <fmt/format.h>

#include "common/plan/verify/passes.h"
#include "common/plan/verify/progress.h"

namespace tandem::verify {
namespace {

constexpr std::size_t kShownSteps = 12;  // of a cycle, in the title

// "rank 1 op 5 send(...) needs the other end rank 0 op 3 recv(...); ..."
std::string text_of(const Plan& plan, const std::vector<Step>& cycle) {
  std::string out;
  for (std::size_t i = 0; i < cycle.size() && i < kShownSteps; ++i) {
    const Step& s = cycle[i];
    out += fmt::format("{}rank {} {} {} rank {} {}", i ? "; " : "", program_of(plan, s.op).value,
                       verify::text_of(plan, s.op), s.why, program_of(plan, s.next).value,
                       verify::text_of(plan, s.next));
  }
  if (cycle.size() > kShownSteps) out += fmt::format("; and {} more", cycle.size() - kShownSteps);
  return out;
}

std::string heads_of(const Plan& plan, const std::vector<OpId>& heads) {
  std::string out;
  for (std::size_t p = 0; p < heads.size() && p < 8; ++p)
    out += fmt::format("{}rank {}: {}", p ? "; " : "", p,
                       heads[p].valid() ? verify::text_of(plan, heads[p]) : "all done");
  return out;
}

void waits_point_back(const Plan& plan, Report& report) {
  for (std::size_t i = 0; i < plan.ops.size() && !report.full(); ++i)
    for (OpId w : plan.waits_of(plan.ops[i]))
      if (w.index() >= i) {
        const OpId id{static_cast<std::int64_t>(i)};
        report.add({kAcyclic,
                    fmt::format("V4 rank {} {} waits for {}, which is issued after it",
                                program_of(plan, id).value, verify::text_of(plan, id),
                                verify::text_of(plan, w)),
                    id,
                    fmt::format("op {}", w.value),
                    fmt::format("an op below {}", id.value),
                    "move the op behind what it waits for",
                    {w}});
      }
}

void stuck(const Plan& plan, const char* code, const std::string& title, const ProgressResult& r,
           const std::string& hint, Report& report) {
  std::vector<OpId> notes;
  for (std::size_t i = 1; i < r.cycle.size(); ++i) notes.push_back(r.cycle[i].op);
  report.add({code, title + text_of(plan, r.cycle), r.cycle[0].op,
              fmt::format("{} ops never end; {}", r.undone, heads_of(plan, r.heads)),
              "an order in which every op ends", hint, notes});
}

}  // namespace

void check_progress(const Plan& plan, const Matches& matches, const VerifyOptions& options,
                    Verification& result, Report& report) {
  const bool had_errors = report.has(kAcyclic);
  waits_point_back(plan, report);
  const auto level = [&](Level l) { return progress(plan, matches, l); };
  const ProgressResult a = level(Level::buffered), b = level(Level::rendezvous),
                       c = level(Level::blocking_host), d = level(Level::serial_launch),
                       m = level(Level::memory_order);
  result.buffered = a.cycle.empty() && !report.has(kAcyclic);
  result.rendezvous = b.cycle.empty() && result.buffered;
  result.blocking_host = c.cycle.empty() && result.buffered;
  result.serial_launch = d.cycle.empty() && result.buffered;
  result.memory_order = m.cycle.empty() && result.buffered;
  result.deadlock_free =
      result.rendezvous && result.memory_order && (result.serial_launch || !options.serial_launch);
  if (!a.cycle.empty()) {
    if (!report.has(kAcyclic) || had_errors)
      stuck(plan, kAcyclic, fmt::format("V4 cycle of {}: ", a.cycle.size()), a,
            "compare the orders of these ranks: `tandem plan --grid`", report);
    return;
  }
  if (!b.cycle.empty()) {
    stuck(plan, kDeadlock, "V6.b stuck. ", b,
          "use receive=early, communicators=edge or grouping=runs", report);
    return;
  }
  if (!m.cycle.empty())
    stuck(plan, kDeadlock, "V6.m stuck under the memory rule. ", m,
          "use receive=early: a receive that allocates late waits for the sends before it", report);
  if (options.serial_launch && !d.cycle.empty())
    stuck(plan, kDeadlock, fmt::format("V6.d cycle of {}: ", d.cycle.size()), d,
          "use receive=early", report);
}

}  // namespace tandem::verify
