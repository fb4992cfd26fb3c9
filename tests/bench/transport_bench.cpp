// Speed of the local transport: latency and bandwidth of point to point and of collectives, ranks
// as processes. Built with TANDEM_BENCH. Times are those of rank 0; every op is a rendezvous, so
// it does not run ahead. bytes_per_second: bytes of the op's buffer / time (algbw of nccl-tests).
// Arguments: members, elements of f32, strict (0: a small first message travels with its header).
#include <benchmark/benchmark.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "exec/transport/local_transport.h"
#include "exec/transport/wiring.h"
#include "tests/exec/transport/plans.h"

namespace tandem::exec {
namespace {

LocalOptions options_of(const benchmark::State& state, CollectiveAlgorithm a) {
  return {20'000'000'000, {true, a}, state.range(2) != 0};
}

// Rank 0's transport; the other ranks are processes that run `ops` of their program over and over
// until rank 0 has gone.
class Ranks {
 public:
  Ranks(const Plan& plan, const LocalOptions& options) {
    const auto world = static_cast<std::size_t>(plan.header.mesh.world());
    std::vector<std::vector<int>> ends(world);
    for (const Wire& w : wires_of(plan, options.algorithms)) {
      int pair[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) std::abort();
      ends[w.a.index()].push_back(pair[0]);
      ends[w.b.index()].push_back(pair[1]);
    }
    for (std::size_t r = 1; r < world; ++r) {
      const pid_t pid = ::fork();
      if (pid == 0) {
        for (std::size_t k = 0; k < world; ++k)
          if (k != r)
            for (int fd : ends[k]) ::close(fd);
        loop(plan, Rank{static_cast<int>(r)}, ends[r], options);
        ::_exit(0);
      }
      children_.push_back(pid);
    }
    for (std::size_t r = 1; r < world; ++r)
      for (int fd : ends[r]) ::close(fd);
    own_ = std::move(LocalTransport::create(plan, Rank{0}, ends[0], options).value());
  }
  ~Ranks() {
    own_.reset();
    for (pid_t pid : children_) ::waitpid(pid, nullptr, 0);
  }
  LocalTransport& own() { return *own_; }

 private:
  static void loop(const Plan& plan, Rank rank, std::vector<int> fds, const LocalOptions& options) {
    auto t = LocalTransport::create(plan, rank, std::move(fds), options);
    const Program& program = plan.programs[plan.program_of(rank).index()];
    std::vector<float> data(static_cast<std::size_t>(plan.ops[0].count));
    while (true)
      for (std::uint32_t k = 0; k < program.num_ops; ++k)
        if (!(*t)->run(OpId{program.first_op + k}, 0,
                       {reinterpret_cast<std::byte*>(data.data()), std::ssize(data) * 4}))
          return;
  }
  std::unique_ptr<LocalTransport> own_;
  std::vector<pid_t> children_;
};

void run_op(benchmark::State& state, const Plan& plan, CollectiveAlgorithm a, int ops,
            Bytes bytes) {
  Ranks ranks(plan, options_of(state, a));
  std::vector<float> data(static_cast<std::size_t>(bytes) / 4);
  const auto once = [&] {
    for (int k = 0; k < ops; ++k)
      if (!ranks.own().run(OpId{k}, 0, {reinterpret_cast<std::byte*>(data.data()), bytes}))
        state.SkipWithError("failed");
  };
  once();  // the other processes have started and touched their memory
  for (auto _ : state) once();
  state.SetBytesProcessed(state.iterations() * ops * bytes);
}

// There and back over two edges: an iteration is two messages.
void ping_pong(benchmark::State& state) {
  const std::int64_t count = state.range(1);
  Plan plan = edge_plan({{OpKind::send, count}, {OpKind::send, count}});
  Communicator back = plan.communicators[0];
  std::swap(back.pair_first, back.pair_second);
  plan.communicators.push_back(back);
  plan.ops[1].comm = plan.ops[3].comm = CommId{1};
  plan.ops[1].kind = OpKind::recv;
  plan.ops[3].kind = OpKind::send;
  run_op(state, plan, CollectiveAlgorithm::direct, 2, count * 4);
}

// One direction, one message behind the other.
void stream(benchmark::State& state) {
  const std::int64_t count = state.range(1);
  run_op(state, edge_plan({{OpKind::send, count}}), CollectiveAlgorithm::direct, 1, count * 4);
}

void all_reduce(benchmark::State& state, CollectiveAlgorithm a) {
  const std::int64_t count = state.range(1);
  run_op(state, group_plan(static_cast<int>(state.range(0)), {{OpKind::all_reduce, count}}), a, 1,
         count * 4);
}

void sizes(benchmark::internal::Benchmark* b) {
  for (int strict : {0, 1})
    for (std::int64_t count : {2, 1024, 16'384, 262'144, 4'194'304}) b->Args({2, count, strict});
  b->UseRealTime();
}
void groups(benchmark::internal::Benchmark* b) {
  for (int strict : {0, 1})
    for (int n : {2, 4, 8})
      for (std::int64_t count : {8, 16'384, 1'048'576}) b->Args({n, count, strict});
  b->UseRealTime();
}

BENCHMARK(ping_pong)->Apply(sizes);
BENCHMARK(stream)->Apply(sizes);
BENCHMARK_CAPTURE(all_reduce, direct, CollectiveAlgorithm::direct)->Apply(groups);
BENCHMARK_CAPTURE(all_reduce, ring, CollectiveAlgorithm::ring)->Apply(groups);
BENCHMARK_CAPTURE(all_reduce, halving_doubling, CollectiveAlgorithm::halving_doubling)
    ->Apply(groups);
BENCHMARK_CAPTURE(all_reduce, tree, CollectiveAlgorithm::tree)->Apply(groups);

}  // namespace
}  // namespace tandem::exec

BENCHMARK_MAIN();
