// Goal    the communication of whole plans, as the builder makes them, runs over the transport: the
//         wiring has every pair, every buffer has the size that its op needs, sums and messages are
//         right, and the bytes moved are those that the plan and laws.h say. No kernels, no
//         LibTorch.
// Method  every rank has one thread a communicator, which runs that communicator's ops in order on
//         buffers of ones (messages: of their match id); two steps, all ranks in this process.
#include <doctest/doctest.h>

#include <atomic>

#include "common/collective/laws.h"
#include "common/plan/build.h"
#include "common/scenario/read.h"
#include "exec/transport/program.h"
#include "tests/exec/transport/run_ranks.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

Plan plan_of(const std::string& parallel, const std::string& schedule) {
  Result<Scenario> s = read_scenario_text(
      "test.yaml",
      "tandem: 1\nname: test\n"
      "model: {layers: 4, hidden: 64, heads: 4, vocab: 256, max_sequence: 32}\n"
      "training: {sequence: 32, global_batch: 16, micro_batch: 2, precision: fp32}\n"
      "parallel: " +
          parallel + "\nschedule: " + schedule + "\n");
  if (!s) FAIL(to_text(s.error().diagnostics));
  Result<Plan> plan = build_plan(*s);
  if (!plan) FAIL(to_text(plan.error().diagnostics));
  return std::move(*plan);
}

template <class T>
std::int64_t wrong_values(const std::vector<std::byte>& data, std::int64_t count, double want) {
  const T* values = reinterpret_cast<const T*>(data.data());
  return std::count_if(values, values + count, [&](T v) { return v != static_cast<T>(want); });
}
template <class T>
void fill(std::vector<std::byte>& data, double value) {
  T* values = reinterpret_cast<T*>(data.data());
  std::fill(values, values + data.size() / sizeof(T), static_cast<T>(value));
}

// Runs one op on fresh values; false: an error or a wrong result.
bool run_op(const Plan& plan, LocalTransport& transport, OpId id, int step, int members) {
  const Op& op = plan.op(id);
  const Bytes bytes = plan.buffer(op.buffer).bytes();
  std::vector<std::byte> data(static_cast<std::size_t>(bytes));
  const bool f64 = op.dtype == DType::f64;
  const double own = op.kind == OpKind::send ? op.match + 1 : op.kind == OpKind::recv ? 0 : 1;
  f64 ? fill<double>(data, own) : fill<float>(data, own);
  const auto r = transport.run(id, step, {data.data(), bytes});
  if (!r) return false;
  double want = own;
  if (op.kind == OpKind::recv) want = op.match + 1;
  if (op.kind == OpKind::all_reduce && op.reduction == Reduction::sum) want = members;
  return (f64 ? wrong_values<double>(data, op.count, want)
              : wrong_values<float>(data, op.count, want)) == 0;
}

Bytes bytes_sent_by_law(const Op& op, int members, int member, const AlgorithmSetting& setting) {
  if (op.kind == OpKind::send) return Plan::bytes_in(op);
  if (op.kind == OpKind::recv) return 0;
  REQUIRE(op.kind == OpKind::all_reduce);
  return elements_sent(Collective::all_reduce, algorithm_of(op, members, setting), members, member,
                       op.count) *
         size_of(op.dtype);
}

void check(const Plan& plan, const LocalOptions& options) {
  const int world = plan.header.mesh.world();
  const auto transports = make_transports(plan, options);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  const auto ops_on = [&](Rank rank, CommId comm) {
    std::vector<OpId> ids;
    const Program& p = plan.programs[plan.program_of(rank).index()];
    for (std::uint32_t k = p.first_op; k < p.first_op + p.num_ops; ++k)
      if (is_communication(plan.ops[k].kind) && plan.ops[k].comm == comm) ids.push_back(OpId{k});
    return ids;
  };
  for (int r = 0; r < world; ++r)
    for (std::size_t c = 0; c < plan.communicators.size(); ++c)
      threads.emplace_back([&, r, comm = CommId{static_cast<int>(c)}] {
        for (int step = 0; step < 2; ++step)
          for (OpId id : ops_on(Rank{r}, comm))
            if (!run_op(plan, *transports[static_cast<std::size_t>(r)], id, step,
                        plan.communicators[comm.index()].size))
              ++wrong;
      });
  for (std::thread& t : threads) t.join();
  CHECK(wrong == 0);
  std::int64_t operations = 0;
  for (int r = 0; r < world; ++r)
    for (std::size_t c = 0; c < plan.communicators.size(); ++c) {
      const CommId comm{static_cast<int>(c)};
      const std::vector<Rank> members = plan.members(comm, Rank{r});
      const auto self = std::find(members.begin(), members.end(), Rank{r}) - members.begin();
      Bytes law = 0;
      for (OpId id : ops_on(Rank{r}, comm))
        law += bytes_sent_by_law(plan.op(id), static_cast<int>(members.size()),
                                 static_cast<int>(self), options.algorithms);
      const Traffic t = transports[static_cast<std::size_t>(r)]->traffic(comm);
      CHECK(t.sent == 2 * law);
      operations += t.operations;
    }
  CHECK(operations > 2 * world);  // there was something to run
}

}  // namespace

TEST_CASE("plans: tp 2, pp 2, dp 2; pp 4; dp 4; by each algorithm") {
  const LocalOptions strict{20'000'000'000, {}, true}, quick{20'000'000'000, {}, false};
  check(plan_of("{tp: 2, pp: 2, dp: 2}", "{kind: 1f1b}"), strict);
  check(plan_of("{tp: 2, pp: 2, dp: 2}", "{kind: 1f1b}"), quick);
  check(plan_of("{pp: 4}", "{kind: gpipe}"), strict);
  // One queue for a pair of ranks, and one for all ranks of the pipeline.
  check(plan_of("{pp: 4}", "{kind: 1f1b, communicators: pair}"), strict);
  check(plan_of("{tp: 2, pp: 4}", "{kind: gpipe, communicators: world}"), strict);
  for (CollectiveAlgorithm a : {CollectiveAlgorithm::ring, CollectiveAlgorithm::tree,
                                CollectiveAlgorithm::halving_doubling})
    check(plan_of("{dp: 4}", "{kind: 1f1b}"), {20'000'000'000, {true, a}, true});
}
