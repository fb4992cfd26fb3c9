#include "exec/transport/program.h"

#include "common/base/check.h"
#include "common/collective/laws.h"

namespace tandem::exec {
namespace {

Collective collective_of(OpKind kind) {
  switch (kind) {
    case OpKind::all_gather:
      return Collective::all_gather;
    case OpKind::reduce_scatter:
      return Collective::reduce_scatter;
    case OpKind::broadcast:
      return Collective::broadcast;
    default:
      TANDEM_CHECK(kind == OpKind::all_reduce, "{} has no step program", name_of(kind));
      return Collective::all_reduce;
  }
}

bool has_algorithm(OpKind kind) { return is_collective(kind) && kind != OpKind::all_to_all; }

}  // namespace

std::int64_t buffer_elements(const Op& op, int members) {
  return op.kind == OpKind::all_gather ? checked_mul(op.count, members) : op.count;
}

CollectiveAlgorithm algorithm_of(const Op& op, int members, const AlgorithmSetting& setting) {
  if (!has_algorithm(op.kind)) return CollectiveAlgorithm::direct;
  return choose_collective(collective_of(op.kind),
                           checked_mul(buffer_elements(op, members), size_of(op.dtype)), members,
                           setting);
}

std::int64_t lawful_elements_sent(const Op& op, int n, int i, const AlgorithmSetting& setting,
                                  std::span<const std::int64_t> starts) {
  const std::int64_t count = buffer_elements(op, n);
  const auto self = static_cast<std::size_t>(i);
  if (n == 1 || op.kind == OpKind::recv) return 0;
  if (op.kind == OpKind::all_to_all)  // all but its own part
    return starts.empty() ? count - elements_of({i, 1}, n, count).count
                          : starts.back() - (starts[self + 1] - starts[self]);
  if (!has_algorithm(op.kind)) return count;  // send, shift
  if (!starts.empty())
    return elements_sent(collective_of(op.kind), algorithm_of(op, n, setting), starts, i);
  return elements_sent(collective_of(op.kind), algorithm_of(op, n, setting), n, i, count);
}

int member_of(const Communicator& comm, int pp) {
  if (comm.pair_first >= 0) {
    TANDEM_CHECK(pp == comm.pair_first || pp == comm.pair_second,
                 "coordinate {} of the pair {}, {}", pp, comm.pair_first, comm.pair_second);
    return pp == comm.pair_first ? 0 : 1;
  }
  TANDEM_CHECK(comm.axes == AxisSet{}.add(Axis::pp) && pp >= 0 && pp < comm.size,
               "coordinate {} of {} members", pp, comm.size);
  return pp;  // groups are ordered by rank, and it grows with the coordinate
}

OpProgram program_of(const Plan& plan, const Op& op, int i, const AlgorithmSetting& setting) {
  const Communicator& comm = plan.communicators[op.comm.index()];
  const int n = comm.size;
  OpProgram out;
  out.count = buffer_elements(op, n);
  if (has_algorithm(op.kind)) {
    out.algorithm = algorithm_of(op, n, setting);
    out.steps = build_steps(collective_of(op.kind), out.algorithm, n, i);
    return out;
  }
  MemberProgram& p = out.steps;
  p.members = n;
  p.chunks = 1;
  if (n == 1) return out;
  const ChunkSpan all{0, 1};
  switch (op.kind) {
    case OpKind::send:
      p.steps.push_back({.send_to = member_of(comm, op.peer), .send = all});
      break;
    case OpKind::recv:
      p.steps.push_back({.recv_from = member_of(comm, op.peer), .recv = all});
      break;
    case OpKind::shift:
      out.exchange = true;
      p.steps.push_back(
          {.send_to = (i + 1) % n, .send = all, .recv_from = (i + n - 1) % n, .recv = all});
      break;
    default:
      TANDEM_CHECK(op.kind == OpKind::all_to_all, "{} is no communication", name_of(op.kind));
      out.exchange = true;
      p.chunks = n;
      for (int k = 1; k < n; ++k) {
        const int peer = (i + k) % n;
        p.steps.push_back(
            {.send_to = peer, .send = {peer, 1}, .recv_from = peer, .recv = {peer, 1}});
      }
  }
  return out;
}

}  // namespace tandem::exec
