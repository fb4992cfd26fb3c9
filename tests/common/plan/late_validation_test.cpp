// Goal    a step that checks the update of the step before can be given up at its check, with every
//         schedule and every kind of message: the cut is clean and consistent, as late as it can
//         be, and what is under way at it is known.
// Method  plans of every kind through the verifier; cuts of 1f1b and zb_h2 by hand; plans made
// wrong
//         by hand against V10; the plan of settling against the step that it repeats.
#include "common/plan/late_validation.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/plan/build.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "common/plan/verify/verify.h"
#include "tests/common/plan/plan_equal.h"
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

constexpr const char* kModel = "model: {preset: gpt-tiny, layers: 16}\n";

std::string job(const std::string& kind, int pp, int microbatches, const std::string& more = "") {
  return fmt::format(
      "{}training: {{global_batch: {}, micro_batch: 1}}\nparallel: {{pp: {}}}\n"
      "schedule: {{kind: {}, optimizer_barrier: post_validated{}}}\n",
      kModel, microbatches, pp, kind, more);
}

Plan settling_of(const Scenario& s) {
  auto p = build_settling_plan(s);
  REQUIRE(p.ok());
  return std::move(p).value();
}

// Forwards that a rank has begun when it comes to its check.
int forwards_before_check(const Plan& plan, int program) {
  std::vector<std::pair<int, int>> seen;
  const OpId check = validations(plan)[static_cast<std::size_t>(program)];
  for (std::int64_t i = plan.programs[static_cast<std::size_t>(program)].first_op; i < check.value;
       ++i) {
    const Op& o = plan.op(OpId{i});
    const std::pair visit{int{o.stage}, int{o.microbatch}};
    if (o.kind == OpKind::compute && o.phase == Phase::F &&
        std::find(seen.begin(), seen.end(), visit) == seen.end())
      seen.push_back(visit);
  }
  return static_cast<int>(seen.size());
}

bool has_code(const Verification& v, const std::string& title) {
  return std::any_of(v.errors.begin(), v.errors.end(), [&](const Diagnostic& d) {
    return d.code == "E-PLAN-029" && d.title.starts_with(title);
  });
}

// Moves the op at `from` of a program to place `to`, both counted from the program's first; ids
// stay dense. Only for ops that nothing waits for.
Plan moved(Plan plan, int program, std::int64_t from, std::int64_t to) {
  const Program& p = plan.programs[static_cast<std::size_t>(program)];
  const auto begin = plan.ops.begin() + p.first_op;
  const auto place = [&](OpId id) {
    std::int64_t at = std::int64_t{id.value} - p.first_op;
    if (at == from) return OpId{p.first_op + to};
    if (from < to && at > from && at <= to) --at;
    if (to < from && at >= to && at < from) ++at;
    return OpId{p.first_op + at};
  };
  for (std::uint32_t i = 0; i < p.num_ops; ++i)
    for (std::uint32_t k = 0; k < plan.ops[p.first_op + i].waits.count; ++k) {
      OpId& w = plan.op_refs[plan.ops[p.first_op + i].waits.begin + k];
      w = place(w);
    }
  if (from < to)
    std::rotate(begin + from, begin + from + 1, begin + to + 1);
  else
    std::rotate(begin + to, begin + from, begin + from + 1);
  return plan;
}

}  // namespace

TEST_CASE("every kind, every policy of messages: a plan that is checked late verifies") {
  struct Kind {
    const char* name;
    const char* more;
  };
  const std::vector<Kind> kinds = {
      {"gpipe", ""},     {"1f1b", ""},    {"eager_1f1b", ""}, {"interleaved_1f1b", ""},
      {"bfs", ""},       {"zb_h1", ""},   {"zb_h2", ""},      {"interleaved_zb", ""},
      {"zbv", ""},       {"v_half", ""},  {"v_min", ""},      {"dualpipe", ""},
      {"dualpipev", ""}, {"chimera", ""}, {"hanayo", ""},     {"seq1f1b", ", slices: 2"},
      {"zb_greedy", ""}};
  for (const Kind& kind : kinds)
    for (const char* policy : {"", ", communicators: pair", ", communicators: world",
                               ", grouping: runs", ", receive: deferred_parity"})
      for (const int pp : {1, 2, 4, 8}) {
        const bool two =
            std::string(kind.name) == "dualpipe" || kind.name == std::string("chimera");
        if (pp == 1 && two) continue;
        const std::string text = job(kind.name, pp, 16, std::string(kind.more) + policy);
        CAPTURE(text);
        const Scenario late = scenario(text);
        Scenario waits = late;
        waits.schedule.optimizer_barrier = OptimizerBarrier::synchronous;
        const bool sound = verify_plan(plan_of(waits)).ok();
        const Plan plan = plan_of(late);
        CHECK(validates_late(plan));
        const Verification v = verify_plan(plan);
        // Not every policy suits every kind; checking late costs none of what works.
        if (sound) CHECK_MESSAGE(v.ok(), to_text(v.errors));
        for (OpId id : validations(plan)) CHECK(id.valid());
      }
}

TEST_CASE("the check stands before the first backward, and before the receive posted for it") {
  const int p = 4;
  const Plan one = plan_of(scenario(job("1f1b", p, 8))),
             two = plan_of(scenario(job("zb_h2", p, 8)));
  for (int r = 0; r < p; ++r) {
    CHECK(forwards_before_check(one, r) == p - r);  // of the warm-up and the steady one
    // Of 2(p - r) - 1; the gradient's receive is posted before the last, but on the last rank.
    CHECK(forwards_before_check(two, r) == (r == p - 1 ? 1 : 2 * (p - r) - 2));
  }
}

TEST_CASE("under way is what an edge has carried in and not yet handed out, in its order") {
  for (const char* kind : {"1f1b", "zb_h2", "zbv", "dualpipe", "interleaved_1f1b", "gpipe"}) {
    CAPTURE(kind);
    const Plan plan = plan_of(scenario(job(kind, 4, 16)));
    const std::vector<OpId> check = validations(plan);
    int total = 0;
    for (int r = 0; r < 4; ++r) {
      std::map<int, std::vector<std::pair<int, OpId>>> sent, taken;  // by sender: (match, op)
      for (std::size_t i = 0; i < plan.ops.size(); ++i) {
        const OpId id{static_cast<std::int64_t>(i)};
        const Op& o = plan.op(id);
        int at = 0;
        while (at < 3 && id.index() >= plan.programs[static_cast<std::size_t>(at) + 1].first_op)
          ++at;
        const bool inside = id < check[static_cast<std::size_t>(at)];
        if (o.kind == OpKind::send && o.peer == r && inside) sent[at].emplace_back(o.match, id);
        if (o.kind == OpKind::recv && at == r) taken[o.peer].emplace_back(o.match, id);
      }
      std::vector<OpId> expected;
      for (const auto& [from, messages] : sent)
        for (std::size_t k = 0; k < messages.size(); ++k) {
          CHECK(messages[k].first == taken[from][k].first);  // first in, first out
          if (!(taken[from][k].second < check[static_cast<std::size_t>(r)]))
            expected.push_back(taken[from][k].second);
        }
      std::sort(expected.begin(), expected.end());
      CHECK(under_way_at_cut(plan, ProgramId{r}) == expected);
      total += static_cast<int>(expected.size());
    }
    if (kind == std::string("1f1b")) CHECK(total == 2);  // the last rank has posted its receive
  }
}

TEST_CASE("a plan that waits has no check, and is what it was before there was a choice") {
  const std::string text = "model: gpt-tiny\nparallel: {pp: 2}\nschedule: {kind: 1f1b";
  const Plan plan = plan_of(scenario(text + "}\n"));
  CHECK_FALSE(validates_late(plan));
  CHECK(print(plan) == print(plan_of(scenario(text + ", optimizer_barrier: synchronous}\n"))));
  for (OpId id : validations(plan)) CHECK_FALSE(id.valid());
  CHECK(under_way_at_cut(plan, ProgramId{1}).empty());
}

TEST_CASE("what a check may not do: V10") {
  const Plan plan = plan_of(scenario(job("zb_h2", 4, 8)));
  REQUIRE(verify_plan(plan).ok());
  const auto local = [&](int p) {
    return std::int64_t{validations(plan)[static_cast<std::size_t>(p)].value} -
           plan.programs[static_cast<std::size_t>(p)].first_op;
  };
  SUBCASE("V10.1: a rank without one") {
    Plan bad = plan;
    const OpId id = validations(plan)[2];
    bad.ops[id.index()].kind = OpKind::host_wait;
    CHECK(has_code(verify_plan(bad), "V10.1 rank 2"));
  }
  SUBCASE("V10.2: behind the first write of a gradient") {
    std::int64_t to = 0;  // behind the first W
    const auto ops = plan.ops_of(ProgramId{3});
    while (ops[static_cast<std::size_t>(to)].phase != Phase::W) ++to;
    CHECK(has_code(verify_plan(moved(plan, 3, local(3), to)), "V10.2 rank 3"));
  }
  SUBCASE("V10.3: takes what is sent behind the sender's check") {
    // Rank 0 checks at once: what its forwards send is behind that, and rank 1 takes it before.
    CHECK(has_code(verify_plan(moved(plan, 0, local(0), 2)), "V10.3 rank 1"));
  }
  SUBCASE("a check that is earlier than it must be is sound at the end of the pipeline") {
    const Verification v = verify_plan(moved(plan, 3, local(3), local(3) - 1));
    CHECK_MESSAGE(v.ok(), to_text(v.errors));
  }
}

TEST_CASE("the plan of settling: the update once more, from what the step has kept") {
  for (const char* text :
       {"model: gpt-tiny\nparallel: {pp: 2}\n",
        "model: llama-tiny\ntraining: {global_batch: 8}\nparallel: {pp: 2, dp: 2, zero: 1}\n",
        "model: llama-tiny\ntraining: {global_batch: 8}\nparallel: {pp: 2, dp: 2, zero: 2}\n",
        "model: llama-tiny\ntraining: {global_batch: 8, precision: bf16}\n"
        "parallel: {tp: 2, dp: 2, zero: 3}\n",
        "model: deepseek-tiny\ntraining: {global_batch: 8}\nparallel: {pp: 2, dp: 2, ep: 2}\n"}) {
    CAPTURE(text);
    const Scenario s =
        scenario(std::string(text) + "schedule: {kind: 1f1b, optimizer_barrier: post_validated}\n");
    const Plan step = plan_of(s), settling = settling_of(s);
    const Verification v = verify_plan(settling);
    CHECK_MESSAGE(v.ok(), to_text(v.errors));
    CHECK(settling.header.settling);
    CHECK_FALSE(validates_late(settling));
    auto again = parse_plan(print(settling), "plan_settling.txt");
    REQUIRE_MESSAGE(again.ok(), to_text(again.error().diagnostics));
    check_equal(settling, *again);
    // Of each plan: how many elements are kept, updated and gathered.
    const auto count = [](const Plan& plan, KernelKind kind) {
      std::int64_t sum = 0;
      for (const Op& o : plan.ops)
        for (const Call& c : plan.calls_of(o))
          if (const Kernel& k = plan.kernel(c.kernel); k.kind == kind && !(k.flags & kValues))
            sum += k.dims[0];
      return sum;
    };
    CHECK(count(settling, KernelKind::adamw) == count(step, KernelKind::adamw));
    CHECK(count(settling, KernelKind::snapshot) == count(step, KernelKind::snapshot));
    CHECK(count(step, KernelKind::snapshot) == 3 * count(step, KernelKind::adamw));
    const auto gathers = [](const Plan& plan) {
      return std::count_if(plan.ops.begin(), plan.ops.end(), [](const Op& o) {
        return o.phase == Phase::O && o.kind == OpKind::all_gather;
      });
    };
    CHECK(gathers(settling) == gathers(step));
  }
}

}  // namespace tandem
