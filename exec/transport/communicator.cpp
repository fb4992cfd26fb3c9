#include "exec/transport/communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "common/base/check.h"
#include "common/plan/print.h"
#include "exec/device/clock.h"
#include "exec/transport/reduce.h"

namespace tandem::exec {
namespace {

// A first message up to this size travels with the header: it fits the peer's read buffer.
constexpr std::size_t kEagerBytes = 8 * 1024;

Arrival arrival_of(StepAction action) {
  switch (action) {
    case StepAction::copy:
      return Arrival::copy;
    case StepAction::reduce:
      return Arrival::combine;
    case StepAction::reduce_in_rank_order:
      return Arrival::in_order;
  }
  return Arrival::copy;
}

std::span<const std::byte> bytes_of(const MessageHeader& h) {
  return std::as_bytes(std::span<const MessageHeader, 1>(&h, 1));
}

// First element of each member's rows, and the end.
std::vector<std::int64_t> first_elements(std::span<const std::int32_t> rows, int members,
                                         std::int64_t elements_of_row) {
  const auto n = static_cast<std::size_t>(members);
  const std::size_t each = rows.size() / n;
  std::vector<std::int64_t> at(n + 1, 0);
  for (std::size_t i = 0; i < rows.size(); ++i)
    at[i / each + 1] += std::int64_t{rows[i]} * elements_of_row;
  for (std::size_t i = 1; i < at.size(); ++i) at[i] += at[i - 1];
  return at;
}

void add(Traffic& to, const Traffic& more) {
  to.operations += more.operations;
  to.sent += more.sent;
  to.received += more.received;
  to.lawful_sent += more.lawful_sent;
  to.handed_over += more.handed_over;
  to.headers_sent += more.headers_sent;
  to.waiting += more.waiting;
  to.transferring += more.transferring;
}

}  // namespace

struct GroupEnd::Call {
  OpId id;
  int step = 0;
  // Where the chunks of the step program lie: what is sent, and what arrives. The same memory for
  // an op in place.
  std::span<std::byte> from, to;
  bool in_place = true;
  // Of rows: first element of each member's, and the end. In place one list is both.
  std::vector<std::int64_t> send_at, recv_at;
  const OpProgram* program = nullptr;
  Nanoseconds started = 0, deadline = 0, ready = 0;
  std::vector<int> peers;
  std::vector<MessageHeader> mine, theirs;  // by index of `peers`
  std::vector<bool> sent_early;             // the first round's message went with the header
  const char* what = "the headers of";      // what is waited for

  [[nodiscard]] std::span<std::byte> outgoing(ChunkSpan chunks, std::int64_t element) const {
    return part(from, send_at, chunks, element);
  }
  [[nodiscard]] std::span<std::byte> incoming(ChunkSpan chunks, std::int64_t element) const {
    return part(to, recv_at, chunks, element);
  }
  [[nodiscard]] std::span<std::byte> part(std::span<std::byte> memory,
                                          const std::vector<std::int64_t>& at, ChunkSpan chunks,
                                          std::int64_t element) const {
    ElementSpan e;
    if (at.empty()) {
      e = elements_of(chunks, program->steps.chunks, program->count);
    } else {
      const auto first = static_cast<std::size_t>(chunks.first);
      e = {at[first], at[first + static_cast<std::size_t>(chunks.count)] - at[first]};
    }
    return memory.subspan(static_cast<std::size_t>(e.begin * element),
                          static_cast<std::size_t>(e.count * element));
  }
  [[nodiscard]] std::size_t index_of(int peer) const {
    return static_cast<std::size_t>(std::find(peers.begin(), peers.end(), peer) - peers.begin());
  }
};

GroupEnd::GroupEnd(const Plan& plan, CommId comm, Rank rank, std::vector<Rank> members,
                   std::vector<std::unique_ptr<Channel>> channels, int abort_fd,
                   const LocalOptions& options)
    : plan_(plan),
      comm_(comm),
      rank_(rank),
      members_(std::move(members)),
      options_(options),
      self_(static_cast<int>(std::find(members_.begin(), members_.end(), rank) - members_.begin())),
      channels_(std::move(channels)),
      transfers_(abort_fd, static_cast<int>(members_.size()), self_),
      sequence_(members_.size(), 0) {}

Traffic GroupEnd::traffic() const {
  const std::lock_guard lock(traffic_mutex_);
  return total_;
}

Traffic GroupEnd::traffic(OpId op) const {
  const std::lock_guard lock(traffic_mutex_);
  const auto it = by_op_.find(op);
  return it == by_op_.end() ? Traffic{} : it->second;
}

const OpProgram& GroupEnd::program(const Op& op) {
  const int n = static_cast<int>(members_.size());
  const auto key = std::tuple(op.kind, algorithm_of(op, n, options_.algorithms), op.peer);
  auto it = programs_.find(key);
  if (it == programs_.end())
    it = programs_.emplace(key, program_of(plan_, op, self_, options_.algorithms)).first;
  it->second.count = buffer_elements(op, n);  // steps do not depend on it
  return it->second;
}

Result<Nanoseconds> GroupEnd::run(OpId op, int step, const CommOperands& operands) {
  const std::lock_guard lock(running_);
  if (failed_) return *failed_;
  Result<Nanoseconds> result = run_checked(op, step, operands);
  if (!result) failed_ = result.error();
  return result;
}

// Where the op's chunks lie; copies this member's own part where it does not lie at its place.
Status GroupEnd::place(Call& call, const CommOperands& o) {
  const Op& op = plan_.op(call.id);
  const std::int64_t element = size_of(op.dtype), count = call.program->count;
  const int n = static_cast<int>(members_.size());
  const std::span<std::byte> data{o.data, static_cast<std::size_t>(o.bytes)};
  const std::span<std::byte> source{o.source, static_cast<std::size_t>(o.source_bytes)};
  const auto too_small = [&](std::int64_t needed, std::size_t found, const char* what) -> Status {
    return make_error(
        Failure::infeasible, "E-EXEC-045", "the transport cannot run this operation",
        fmt::format("{}: {} of {}, a {} of {} bytes", name_of(call), tandem::name_of(op.reduction),
                    tandem::name_of(op.dtype), what, found),
        fmt::format("sum or max of f64, f32, bf16, i64 or i32 where values are added; {} bytes",
                    needed),
        "verify the plan: tandem validate reads a plan file");
  };
  const bool reduces = op.kind == OpKind::all_reduce || op.kind == OpKind::reduce_scatter;
  const std::int64_t whole = checked_mul(count, element);
  if (reduces && !can_reduce(op.dtype, op.reduction))
    return too_small(whole, data.size(), "buffer");
  if (!o.send_rows.empty() || !o.recv_rows.empty()) {
    // A gather's parts lie in the buffer, a scatter's in the source, where the sums are made.
    const bool gathers = op.kind == OpKind::all_gather;
    call.send_at = first_elements(gathers ? o.recv_rows : o.send_rows, n, o.row_bytes / element);
    call.recv_at = first_elements(reduces ? o.send_rows : o.recv_rows, n, o.row_bytes / element);
    const auto self = static_cast<std::size_t>(self_);
    const auto bytes = [&](const std::vector<std::int64_t>& at, bool own) {
      return element * (own ? at[self + 1] - at[self] : at.back());
    };
    const Bytes leaves = bytes(call.send_at, gathers), comes = bytes(call.recv_at, reduces);
    if (std::ssize(source) < leaves) return too_small(leaves, source.size(), "source");
    if (std::ssize(data) < comes) return too_small(comes, data.size(), "buffer");
    call.from = gathers ? data : source;
    call.to = reduces ? source : data;
    call.in_place = gathers || reduces;
  } else if (o.source == nullptr || op.kind == OpKind::all_gather) {
    if (std::ssize(data) < whole) return too_small(whole, data.size(), "buffer");
    call.from = call.to = data.first(static_cast<std::size_t>(whole));
  } else {
    if (std::ssize(source) < whole) return too_small(whole, source.size(), "source");
    const bool exchanges = op.kind != OpKind::reduce_scatter;  // else sums are made in the source
    const std::int64_t arrives = exchanges ? whole : whole / n;
    if (std::ssize(data) < arrives) return too_small(arrives, data.size(), "buffer");
    call.from = source.first(static_cast<std::size_t>(whole));
    call.to = exchanges ? data.first(static_cast<std::size_t>(whole)) : call.from;
    call.in_place = !exchanges;
  }
  if (o.source == nullptr || op.kind == OpKind::reduce_scatter || op.kind == OpKind::shift)
    return Ok{};
  const std::span<std::byte> own = call.incoming({self_, 1}, element);
  std::span<const std::byte> mine =
      op.kind == OpKind::all_gather ? source : call.outgoing({self_, 1}, element);
  if (op.kind == OpKind::all_gather && !call.recv_at.empty())
    mine = mine.first(own.size());  // its memory has room for more rows
  if (mine.size() != own.size()) return too_small(std::ssize(own), mine.size(), "own part");
  std::copy(mine.begin(), mine.end(), own.begin());
  return Ok{};
}

Result<Nanoseconds> GroupEnd::run_checked(OpId id, int step, const CommOperands& operands) {
  const Op& op = plan_.op(id);
  Call call;
  call.id = id;
  call.step = step;
  call.program = &program(op);
  call.started = now_ns();
  call.deadline = call.started + options_.timeout;
  call.ready = operands.ready;
  if (!options_.tokens)
    if (Status s = place(call, operands); !s) return s.error();
  call.peers = peers_of(call.program->steps);
  transfers_.sent = transfers_.received_bytes = 0;

  if (Status s = meet(call); !s) return s.error();
  const Nanoseconds together = now_ns();
  for (int peer : call.peers) ++sequence_[static_cast<std::size_t>(peer)];
  if (options_.tokens) return end_of_token(call);
  for (std::size_t at = 0; at < call.program->steps.steps.size();)
    if (Status s = round(call, at); !s) return s.error();
  const std::int64_t element = size_of(op.dtype);
  if (op.kind == OpKind::reduce_scatter && operands.source) {
    const std::span<std::byte> sums = call.outgoing({self_, 1}, element);
    std::copy(sums.begin(), sums.end(), operands.data);
  }

  const int n = static_cast<int>(members_.size());
  Bytes lawful = 0, handed_over = op.kind == OpKind::recv ? 0 : Plan::bytes_in(op);
  if (call.send_at.empty()) {
    lawful = element * lawful_elements_sent(op, n, self_, options_.algorithms);
  } else {
    const auto self = static_cast<std::size_t>(self_);
    lawful = element * lawful_elements_sent(op, n, self_, options_.algorithms, call.send_at);
    handed_over =
        element * (op.kind == OpKind::all_gather ? call.send_at[self + 1] - call.send_at[self]
                                                 : call.send_at.back());
  }
  const Traffic traffic{
      1,           transfers_.sent,        transfers_.received_bytes, lawful,
      handed_over, std::ssize(call.peers), together - call.started,   now_ns() - together};
  const std::lock_guard lock(traffic_mutex_);
  add(total_, traffic);
  add(by_op_[id], traffic);
  return together;
}

// No payload: all that members learn is when each of them was ready.
Nanoseconds GroupEnd::end_of_token(const Call& call) {
  Nanoseconds last = call.ready;
  for (const MessageHeader& h : call.theirs) last = std::max(last, h.ready);
  const Traffic traffic{
      .operations = 1, .headers_sent = std::ssize(call.peers), .waiting = now_ns() - call.started};
  const std::lock_guard lock(traffic_mutex_);
  add(total_, traffic);
  add(by_op_[call.id], traffic);
  return last;
}

Channel& GroupEnd::channel(const Call& call, int peer) const {
  Channel* c = channels_[static_cast<std::size_t>(peer)].get();
  TANDEM_CHECK(c, "{}: no socket pair with member {}", name_of(call), peer);
  return *c;
}

// Of rows, what goes to and comes from the peer in all rounds: so members whose counts differ see
// it before they wait for bytes that nobody sends.
void GroupEnd::between(const Call& call, int peer, MessageHeader& mine) const {
  mine.count = mine.expects = 0;
  for (const Step& s : call.program->steps.steps) {
    if (s.send_to == peer) mine.count += std::ssize(call.outgoing(s.send, 1));
    if (s.recv_from == peer) mine.expects += std::ssize(call.incoming(s.recv, 1));
  }
}

Status GroupEnd::meet(Call& call) {
  const std::size_t n = call.peers.size();
  call.mine.resize(n);
  call.theirs.resize(n);
  call.sent_early.assign(n, false);
  transfers_.begin_round(DType::f32, Reduction::none);
  transfers_.tolerate_closed_sends = true;
  std::vector<std::size_t> receives(n);
  for (std::size_t k = 0; k < n; ++k) {
    const int peer = call.peers[k];
    call.mine[k] =
        make_header(plan_, call.id, *call.program, sequence_[static_cast<std::size_t>(peer)],
                    call.step, rank_, members_[static_cast<std::size_t>(peer)]);
    call.mine[k].ready = call.ready;
    if (!call.send_at.empty()) between(call, peer, call.mine[k]);
    std::span<const std::byte> early;
    for (const Step& s : call.program->steps.steps) {
      if (options_.strict || options_.tokens || s.round != 0) break;
      if (s.send_to != peer) continue;
      const auto message = call.outgoing(s.send, size_of(plan_.op(call.id).dtype));
      if (message.size() <= kEagerBytes) early = message, call.sent_early[k] = true;
    }
    transfers_.send(peer, channel(call, peer), bytes_of(call.mine[k]), early);
    receives[k] = transfers_.receive(
        peer, channel(call, peer),
        std::as_writable_bytes(std::span<MessageHeader, 1>(&call.theirs[k], 1)), Arrival::copy);
  }
  std::vector<bool> checked(n, false);
  while (true) {
    const std::optional<Fault> fault = transfers_.advance();
    for (std::size_t k = 0; k < n; ++k) {
      if (checked[k] || !transfers_.received(receives[k])) continue;
      checked[k] = true;
      if (const Mismatch m = compare(call.mine[k], call.theirs[k]); !m.field.empty())
        return disagree(call, call.peers[k], m, call.theirs[k]);
    }
    if (fault) return fault_error(call, *fault);
    if (transfers_.done()) break;
    if (const auto end = transfers_.wait(call.deadline)) return fault_error(call, *end);
  }
  if (transfers_.gone) return fault_error(call, {Fault::Kind::closed, *transfers_.gone});
  // Headers are counted by themselves.
  transfers_.received_bytes = 0;
  return Ok{};
}

Status GroupEnd::round(Call& call, std::size_t& at) {
  const std::vector<Step>& steps = call.program->steps.steps;
  const Op& op = plan_.op(call.id);
  const std::int64_t element = size_of(op.dtype);
  call.what = "data of";
  transfers_.begin_round(op.dtype, op.reduction);
  for (const int round = steps[at].round; at < steps.size() && steps[at].round == round; ++at) {
    const Step& s = steps[at];
    std::optional<std::size_t> behind;
    if (s.send_to >= 0 && !(round == 0 && call.sent_early[call.index_of(s.send_to)])) {
      const std::size_t sent =
          transfers_.send(s.send_to, channel(call, s.send_to), {}, call.outgoing(s.send, element));
      if (call.program->exchange && call.in_place) behind = sent;
    }
    if (s.recv_from >= 0)
      transfers_.receive(s.recv_from, channel(call, s.recv_from), call.incoming(s.recv, element),
                         arrival_of(s.action), behind);
  }
  while (true) {
    if (const auto fault = transfers_.advance()) return fault_error(call, *fault);
    if (transfers_.done()) return Ok{};
    if (const auto fault = transfers_.wait(call.deadline)) return fault_error(call, *fault);
  }
}

// --- messages ------------------------------------------------------------------------------------

std::string GroupEnd::name_of(const Call& call) const {
  return fmt::format("rank {}, step {}, op {} {} on {}", rank_.value, call.step, call.id.value,
                     tandem::name_of(plan_.op(call.id).kind),
                     plan_.name(plan_.communicators[comm_.index()].name));
}

Error GroupEnd::disagree(const Call& call, int peer, const Mismatch& m,
                         const MessageHeader& theirs) const {
  const int other = members_[static_cast<std::size_t>(peer)].value;
  return make_error(
      Failure::execution, "E-EXEC-040", "members disagree about an operation",
      fmt::format("{}: {} is {} here and {} at rank {}, which runs its op {} in step {}",
                  name_of(call), m.field, m.mine, m.theirs, other, theirs.op, theirs.step),
      "the same operation at all members of a communicator, in the same order",
      fmt::format("compare the programs of ranks {} and {} in plan.txt; a verified plan that all "
                  "ranks read cannot do this",
                  rank_.value, other));
}

Error GroupEnd::fault_error(const Call& call, const Fault& fault) const {
  const std::string here = name_of(call);
  const std::string peer =
      fault.peer < 0 ? "its peers"
                     : fmt::format("rank {}", members_[static_cast<std::size_t>(fault.peer)].value);
  switch (fault.kind) {
    case Fault::Kind::closed:
      return make_error(Failure::peer_lost, "E-EXEC-041", "a peer has gone",
                        fmt::format("{}: {} closed its end", here, peer),
                        "every member to stay until the run ends",
                        "see what " + peer + " reported: the first failure is the cause");
    case Fault::Kind::aborted:
      return make_error(Failure::peer_lost, "E-EXEC-043", "the run was aborted",
                        here + ": waited for " + call.what + " its peers",
                        "no abort while an operation runs",
                        "see the failure that caused the abort");
    case Fault::Kind::deadline: {
      std::vector<int> late;
      for (int m : transfers_.missing())
        late.push_back(members_[static_cast<std::size_t>(m)].value);
      return make_error(Failure::peer_lost, "E-EXEC-042", "a peer did not answer in time",
                        fmt::format("{}: waited {:.1f} s for {} {} {}", here,
                                    static_cast<double>(options_.timeout) * 1e-9, call.what,
                                    late.size() == 1 ? "rank" : "ranks", fmt::join(late, ", ")),
                        "every member to run the operation within the timeout",
                        "see where these ranks are (tandem diagnose); raise execute.timeout if "
                        "they are only slow");
    }
    case Fault::Kind::io:
      break;
  }
  return make_error(Failure::execution, "E-EXEC-047", "a system call of the transport failed",
                    fmt::format("{}: {} with {}", here, std::strerror(fault.error), peer),
                    "working sockets", "check memory and limits of this host");
}

}  // namespace tandem::exec
