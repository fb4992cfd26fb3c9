// Goal    a planned fault happens at its rank, op, step and phase, once, and the other rank reports
//         what the transport promises. The launcher's tests build on this.
// Method  rank 1 is a forked process with a faulty transport, rank 0 is this one.
#include "exec/transport/fault.h"

#include <doctest/doctest.h>

#include "tests/exec/transport/plans.h"
#include "tests/exec/transport/run_ranks.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

constexpr Nanoseconds kMs = 1'000'000;

struct Outcome {
  std::vector<std::string> codes;  // of rank 0's ops, "" is good; up to the first failure
  int exit = 0;                    // of rank 1
  Nanoseconds took = 0;
};

// Three all-reduces in each of two steps. Rank 1 exits with the number of ops it finished.
Outcome run_with(const std::string& text, Nanoseconds timeout = 5'000 * kMs) {
  const PlanOp op{OpKind::all_reduce, 100};
  const Plan plan = group_plan(2, {op, op, op});
  const LocalOptions options{timeout, {}, true};
  auto ends = make_pairs(plan, options);
  const auto steps = [&](CommBackend& comm, const std::function<void(std::string)>& report) {
    std::vector<float> data(100);
    for (int step = 0; step < 2; ++step)
      for (int k = 0; k < 3; ++k) {
        const auto r = comm.run(OpId{k}, step, {reinterpret_cast<std::byte*>(data.data()), 400});
        report(code_of(r));
        if (!r) return;
      }
  };
  const pid_t child = fork_rank(ends, 1, [&](std::vector<int> own) {
    auto t = LocalTransport::create(plan, Rank{1}, own, options);
    FaultyTransport faulty(std::move(*t), Rank{1}, *parse_fault(text));
    int finished = 0;
    steps(faulty, [&](const std::string& code) { finished += code.empty() ? 1 : 100; });
    return finished;
  });
  auto t = LocalTransport::create(plan, Rank{0}, ends[0], options);
  REQUIRE(t.ok());
  Outcome out;
  const Nanoseconds started = now_ns();
  steps(**t, [&](const std::string& code) { out.codes.push_back(code); });
  out.took = now_ns() - started;
  if (text.starts_with("stop")) ::kill(child, SIGKILL);
  out.exit = wait_for(child);
  return out;
}

using Codes = std::vector<std::string>;
const Codes kAllGood = {"", "", "", "", "", ""};

}  // namespace

TEST_CASE("fault: kill and exit before an op, and after it") {
  const Outcome before = run_with("kill@1:1:before");
  CHECK(before.codes == Codes{"", "E-EXEC-041"});
  CHECK(before.exit == 128 + SIGKILL);
  const Outcome after = run_with("kill@1:1:after");
  CHECK(after.codes == Codes{"", "", "E-EXEC-041"});
  const Outcome exited = run_with("exit@1:0:before:1");
  CHECK(exited.codes == Codes{"", "", "", "E-EXEC-041"});
  CHECK(exited.exit == 5);
}

TEST_CASE("fault: a stopped rank is a silent peer, a slow one is only slow") {
  const Outcome stopped = run_with("stop@1:2:before", 100 * kMs);
  CHECK(stopped.codes == Codes{"", "", "E-EXEC-042"});
  CHECK(stopped.took >= 100 * kMs);
  const Outcome slow = run_with("delay60@1:1:before");
  CHECK(slow.codes == kAllGood);
  CHECK(slow.exit == 6);
  CHECK(slow.took >= 60 * kMs);
}

TEST_CASE("E-EXEC-048: an op that fails by itself; elsewhere nothing happens") {
  const Outcome failed = run_with("fail@1:1:before");
  CHECK(failed.exit == 101);
  CHECK(failed.codes == Codes{"", "E-EXEC-041"});
  for (const char* other : {"fail@0:1:before", "fail@1:7:before", "fail@1:1:before:2"})
    CHECK(run_with(other).codes == kAllGood);
}

TEST_CASE("E-EXEC-049: the text of a fault, read in full or refused") {
  const auto full = parse_fault("delay250@3:117:after:2");
  REQUIRE(full.ok());
  CHECK(*full == PlannedFault{PlannedFault::Action::delay, PlannedFault::Phase::after, Rank{3},
                              OpId{117}, 2, 250});
  for (const char* bad :
       {"", "kill", "kill@1", "kill@1:2", "kill@1:2:now", "boom@1:2:before", "kill@-1:2:before",
        "kill@1:x:before", "kill@1:2:before:x", "kill@1:2:before:1:", "delay@1:2:before",
        "delay-5@1:2:before", "delay999999@1:2:before", "kill@99999999999:2:before"}) {
    CAPTURE(bad);
    const auto r = parse_fault(bad);
    REQUIRE_FALSE(r.ok());
    CHECK(r.error().diagnostics[0].code == "E-EXEC-049");
  }
}
