// Goal: root cause, not loudest. Method: faults by hand in every order; the exit class of each.
#include "exec/launch/verdict.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <vector>

#include "common/base/diagnostic_codes.h"

using namespace tandem;
using namespace tandem::exec;

namespace {
Fault fault(Cause cause, int rank, Nanoseconds time) {
  Fault f;
  f.cause = cause;
  f.rank = rank;
  f.time = time;
  return f;
}
}  // namespace

TEST_CASE("verdict: own end, then silence, then lost peers, then who was told to stop") {
  std::vector<Fault> faults = {fault(Cause::aborted, 0, 1), fault(Cause::peer_lost, 1, 2),
                               fault(Cause::silent, 2, 3), fault(Cause::killed, 3, 4),
                               fault(Cause::crashed, 4, 5)};
  const int expected[] = {3, 4, 2, 1, 0};
  for (int rank : expected) {
    std::sort(faults.begin(), faults.end(),
              [](const Fault& a, const Fault& b) { return a.rank < b.rank; });
    do {
      CHECK(first_cause(faults)->rank == rank);
    } while (std::next_permutation(faults.begin(), faults.end(),
                                   [](const Fault& a, const Fault& b) { return a.rank < b.rank; }));
    std::erase_if(faults, [&](const Fault& f) { return f.rank == rank; });
  }
  CHECK(first_cause(faults) == nullptr);
}

TEST_CASE("verdict: among equals the earliest, then the lower rank") {
  const std::vector<Fault> faults = {fault(Cause::left, 5, 9), fault(Cause::stopped, 7, 3),
                                     fault(Cause::late, 2, 3)};
  CHECK(first_cause(faults)->rank == 2);
}

TEST_CASE("verdict: every cause has a code of the table, with place, hint and exit class") {
  for (int c = 0; c <= static_cast<int>(Cause::aborted); ++c) {
    Fault f = fault(static_cast<Cause>(c), 2, 0);
    f.step = 4;
    f.op = 117;
    f.signal = SIGKILL;
    f.phase = "started";
    f.text = "x";
    const Error error = to_error(f, 60, [](int) { return std::string("recv.act"); });
    const Diagnostic& d = error.diagnostics[0];
    const CodeInfo* row = find_code(d.code);
    REQUIRE(row != nullptr);
    CHECK(row->title == d.title);
    CHECK(row->failure == error.failure);
    CHECK(d.found.starts_with("rank 2, step 4, op 117 recv.act (started): "));
    CHECK(!d.hint.empty());
    CHECK(!d.expected.empty());
  }
}

TEST_CASE("verdict: a failed rank gives its own exit class") {
  for (const auto& [code, failure] :
       std::vector<std::pair<int, Failure>>{{1, Failure::execution},
                                            {3, Failure::bad_input},
                                            {4, Failure::infeasible},
                                            {5, Failure::execution},
                                            {7, Failure::output},
                                            {70, Failure::internal},
                                            {99, Failure::execution}}) {
    Fault f = fault(Cause::failed, 0, 0);
    f.exit_class = code;
    CHECK(failure_of(f) == failure);
  }
}
