// Goal    a transport of tokens (LocalOptions::tokens) orders and checks ops as one that moves
// data,
//         needs no memory, and tells every member when the last of its partners was ready.
#include <doctest/doctest.h>

#include <algorithm>

#include "tests/exec/transport/plans.h"
#include "tests/exec/transport/run_ranks.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

constexpr Nanoseconds kMs = 1'000'000;
const LocalOptions kTokens{5'000 * kMs, {}, true, true};

// Each rank runs op 0 of its program, ready at `ready[rank]`; what run() returns.
std::vector<Nanoseconds> meet(const Plan& plan, const std::vector<Nanoseconds>& ready) {
  const Transports ranks = make_transports(plan, kTokens);
  std::vector<Nanoseconds> out(ranks.size());
  on_threads(static_cast<int>(ranks.size()), [&](int r) {
    const auto i = static_cast<std::size_t>(r);
    CommOperands operands;
    operands.ready = ready[i];
    const OpId op{
        static_cast<std::int64_t>(plan.programs[plan.program_of(Rank{r}).index()].first_op)};
    const auto met = ranks[i]->run(op, 0, operands);
    REQUIRE_MESSAGE(met.ok(), code_of(met));
    out[i] = *met;
    CHECK(ranks[i]->moved(op).sent == 0);
    CHECK(ranks[i]->traffic(op).operations == 1);
  });
  return out;
}

}  // namespace

TEST_CASE("tokens: all members of a collective know the latest; without memory, of any size") {
  for (const OpKind kind :
       {OpKind::all_reduce, OpKind::all_gather, OpKind::reduce_scatter, OpKind::all_to_all}) {
    CAPTURE(static_cast<int>(kind));
    const Plan plan = group_plan(4, {{kind, 1LL << 30}});
    const std::vector<Nanoseconds> met = meet(plan, {30, 10, 70, 50});
    CHECK(met == std::vector<Nanoseconds>(4, 70));
  }
}

TEST_CASE("tokens: both ends of a message know the later one") {
  CHECK(meet(edge_plan({{OpKind::send, 1LL << 30}}), {5, 9}) == std::vector<Nanoseconds>{9, 9});
  CHECK(meet(edge_plan({{OpKind::send, 1LL << 30}}), {9, 5}) == std::vector<Nanoseconds>{9, 9});
}

TEST_CASE("tokens: a broadcast's members wait for its root, a shift's for their neighbours") {
  const auto met = meet(group_plan(4, {{OpKind::broadcast, 64}}), {20, 10, 90, 30});
  CHECK(met == std::vector<Nanoseconds>{90, 20, 90, 30});  // the root sends to all
  CHECK(meet(group_plan(4, {{OpKind::shift, 64}}), {20, 10, 90, 30}) ==
        std::vector<Nanoseconds>{30, 90, 90, 90});
}

TEST_CASE("tokens: a member that is alone is ready when it is") {
  CHECK(meet(group_plan(1, {{OpKind::all_reduce, 64}}), {42}) == std::vector<Nanoseconds>{42});
}

TEST_CASE("tokens: ops that members see differently are refused at both ends") {
  const Plan first = group_plan(2, {{OpKind::all_reduce, 100}});
  const Plan second = group_plan(2, {{OpKind::all_reduce, 60}});
  auto ends = make_pairs(first, kTokens);
  auto a = LocalTransport::create(first, Rank{0}, ends[0], kTokens);
  auto b = LocalTransport::create(second, Rank{1}, ends[1], kTokens);
  REQUIRE(a.ok());
  REQUIRE(b.ok());
  std::string codes[2];
  on_threads(2, [&](int i) { codes[i] = code_of((i == 0 ? *a : *b)->run(OpId{0}, 0, {})); });
  CHECK(codes[0] == "E-EXEC-040");
  CHECK(codes[1] == "E-EXEC-040");
}
