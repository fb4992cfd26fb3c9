// Goal    V9.2: no op has rows that are counted at run time before a host_wait has made the counts
//         known to the host (models.md 8a, "run-time sizes").
// Method  plans of layouts with experts: each host_wait for counts is dropped, then moved behind
// the
//         first op that needs it; every mutant must be refused, by that op and that sub-code. The
//         scenarios of the project must pass.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/plan/build.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/read.h"
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

// The plan with its ops in this order; ops that are left out are gone, and so are waits for them.
Plan in_order(const Plan& plan, const std::vector<OpId>& order) {
  Plan out = plan;
  std::vector<OpId> now(plan.ops.size());
  for (std::size_t i = 0; i < order.size(); ++i)
    now[order[i].index()] = OpId{static_cast<std::int64_t>(i)};
  out.ops.clear();
  out.op_refs.clear();
  std::size_t at = 0;
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    const Program& program = plan.programs[p];
    out.programs[p].first_op = static_cast<std::uint32_t>(out.ops.size());
    for (; at < order.size() && order[at].index() < program.first_op + program.num_ops; ++at) {
      Op op = plan.op(order[at]);
      const auto first = static_cast<std::uint32_t>(out.op_refs.size());
      for (OpId w : plan.waits_of(plan.op(order[at])))
        if (now[w.index()].valid()) out.op_refs.push_back(now[w.index()]);
      op.waits = {first, static_cast<std::uint32_t>(out.op_refs.size()) - first};
      out.ops.push_back(op);
    }
    out.programs[p].num_ops = static_cast<std::uint32_t>(out.ops.size()) - out.programs[p].first_op;
  }
  return out;
}

bool has_counted_rows(const Plan& plan, const Op& op) {
  if (op.send_rows.valid() || op.recv_rows.valid()) return true;
  for (BufferId b : plan.allocates_of(op))
    if (plan.buffer(b).rows_of.valid()) return true;
  return false;
}

std::vector<OpId> all_ops(const Plan& plan) {
  std::vector<OpId> order;
  for (std::size_t i = 0; i < plan.ops.size(); ++i)
    order.push_back(OpId{static_cast<std::int64_t>(i)});
  return order;
}

// Of the messages those of V9.2.
std::vector<std::string> unknown_counts(const Plan& plan) {
  std::vector<std::string> titles;
  for (const Diagnostic& d : verify_plan(plan).errors)
    if (d.title.starts_with("V9.2 ")) {
      CHECK(d.code == "E-PLAN-028");
      CHECK(d.hint == "wait for the counts on the host before ops of these rows are issued");
      titles.push_back(d.title);
    }
  return titles;
}

}  // namespace

TEST_CASE("V9.2: counts that the host does not wait for are refused") {
  int mutants = 0;
  for (const char* text :
       {"model: mixtral-tiny\nparallel: {dp: 2, ep: 2}\ntraining: {global_batch: 4}\n",
        "model: deepseek-tiny\nparallel: {tp: 2, dp: 4, ep: 2, etp: 2}\n"
        "training: {global_batch: 8}\n",
        "model: mixtral-tiny\nparallel: {tp: 2, ep: 2}\n"
        "training: {global_batch: 2, recompute: full}\n",
        "model: mixtral-tiny\nparallel: {dp: 2, ep: 2, pp: 2}\ntraining: {global_batch: 4}\n",
        "model: {preset: nano-train, mla: {q_rank: 64}}\ntraining: {global_batch: 4}\n"
        "parallel: {ep: 2, mapping: nano_train, style: nano_train, ep_data: replicate, "
        "vocab_parallel: false}\n"}) {
    CAPTURE(text);
    const Plan plan = plan_of(scenario(text));
    REQUIRE(verify_plan(plan).errors.empty());
    for (std::size_t i = 0; i < plan.ops.size(); ++i) {
      if (plan.ops[i].kind != OpKind::host_wait ||
          plan.buffer(plan.ops[i].buffer).dtype != DType::i32)
        continue;
      CAPTURE(i);
      std::size_t user = i + 1;  // the first op that the wait is for
      while (!has_counted_rows(plan, plan.ops[user])) ++user;

      std::vector<OpId> dropped = all_ops(plan);
      dropped.erase(dropped.begin() + static_cast<std::ptrdiff_t>(i));
      const Plan without = in_order(plan, dropped);
      const auto first = unknown_counts(without);
      REQUIRE_FALSE(first.empty());  // the op moved up by one
      CHECK(first[0].find(fmt::format("op {} ", user - 1)) != std::string::npos);

      std::vector<OpId> moved = all_ops(plan);
      std::rotate(moved.begin() + static_cast<std::ptrdiff_t>(i),
                  moved.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                  moved.begin() + static_cast<std::ptrdiff_t>(user) + 1);
      const auto late = unknown_counts(in_order(plan, moved));
      REQUIRE_FALSE(late.empty());
      CHECK(late[0].find(fmt::format("op {} ", user - 1)) != std::string::npos);
      ++mutants;
    }
  }
  CHECK(mutants > 50);
}

// A wait for something else of an earlier time makes nothing known.
TEST_CASE("V9.2: a wait for other counts is none") {
  const Plan plan =
      plan_of(scenario("model: mixtral-tiny\nparallel: {dp: 2, ep: 2}\n"
                       "training: {global_batch: 4}\n"));
  std::optional<BufferId> before;
  int seen = 0;
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    if (op.kind != OpKind::host_wait || plan.buffer(op.buffer).dtype != DType::i32) continue;
    if (before && op.microbatch == plan.buffer(*before).microbatch) {
      Plan other = plan;
      other.ops[i].buffer = *before;
      other.ops[i].waits.count = 0;
      CHECK_FALSE(unknown_counts(other).empty());
      ++seen;
    }
    before = op.buffer;
  }
  CHECK(seen > 4);
}

TEST_CASE("V9.2: every scenario of the project passes") {
  int counted = 0, plans = 0;
  for (const char* folder : {"scenarios", "scenarios/learn"})
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() != ".yaml") continue;
      CAPTURE(entry.path().string());
      const auto s = read_scenario(entry.path().string());
      REQUIRE(s.ok());
      const auto plan = build_plan(*s);
      REQUIRE(plan.ok());
      CHECK(verify_plan(*plan).errors.empty());
      ++plans;
      counted += std::any_of(plan->ops.begin(), plan->ops.end(),
                             [&](const Op& op) { return has_counted_rows(*plan, op); });
    }
  CHECK(plans > 10);
  CHECK(counted > 2);
}

}  // namespace tandem
