#include "exec/transport/local_transport.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "common/base/check.h"
#include "exec/transport/communicator.h"
#include "exec/transport/wiring.h"

namespace tandem::exec {
namespace {

Error wrong_descriptors(Rank rank, std::string found, std::string expected) {
  return make_error(Failure::internal, "E-EXEC-044",
                    "the sockets of a rank are not those of its plan",
                    fmt::format("rank {}: {}", rank.value, found), std::move(expected),
                    "the launcher and the rank must use the same plan and the same algorithms");
}

bool is_stream_socket(int fd) {
  int domain = 0, type = 0;
  socklen_t size = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) return false;
  size = sizeof type;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0) return false;
  return domain == AF_UNIX && type == SOCK_STREAM;
}

using Channels = std::vector<std::unique_ptr<Channel>>;

}  // namespace

struct LocalTransport::State {
  const Plan& plan;
  Rank rank;
  int abort_fd = -1;
  std::atomic<bool> aborted = false;
  std::vector<std::unique_ptr<GroupEnd>> groups;  // by communicator; null: not a member

  State(const Plan& p, Rank r) : plan(p), rank(r) {}
  ~State() {
    if (abort_fd >= 0) ::close(abort_fd);
  }
};

LocalTransport::LocalTransport(std::unique_ptr<State> state) : state_(std::move(state)) {}
LocalTransport::~LocalTransport() = default;

Result<std::unique_ptr<LocalTransport>> LocalTransport::create(const Plan& plan, Rank rank,
                                                               std::vector<int> descriptors,
                                                               const LocalOptions& options) {
  Channels ends;  // owns them from here
  for (int fd : descriptors) ends.push_back(std::make_unique<Channel>(fd));
  const std::vector<Wire> wires = wires_of_rank(wires_of(plan, options.algorithms), rank);
  if (wires.size() != ends.size())
    return wrong_descriptors(rank, fmt::format("{} descriptors", ends.size()),
                             fmt::format("{}", wires.size()));
  for (const auto& c : ends) {
    if (!is_stream_socket(c->fd()))
      return wrong_descriptors(rank,
                               fmt::format("descriptor {} is no local stream socket", c->fd()),
                               "one end of a socket pair");
    ::fcntl(c->fd(), F_SETFD, FD_CLOEXEC);
  }
  auto state = std::make_unique<State>(plan, rank);
  state->abort_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (state->abort_fd < 0)
    return make_error(Failure::execution, "E-EXEC-047", "a system call of the transport failed",
                      fmt::format("rank {}: eventfd: {}", rank.value, std::strerror(errno)),
                      "a free descriptor", "raise ulimit -n");
  std::size_t next = 0;
  for (std::size_t c = 0; c < plan.communicators.size(); ++c) {
    const CommId comm{static_cast<int>(c)};
    std::vector<Rank> members = plan.members(comm, rank);
    state->groups.emplace_back();
    if (members.empty()) continue;
    Channels channels(members.size());
    for (; next < wires.size() && wires[next].comm == comm; ++next) {
      const Rank peer = wires[next].a == rank ? wires[next].b : wires[next].a;
      const auto member = std::find(members.begin(), members.end(), peer) - members.begin();
      channels[static_cast<std::size_t>(member)] = std::move(ends[next]);
    }
    state->groups.back() = std::make_unique<GroupEnd>(
        plan, comm, rank, std::move(members), std::move(channels), state->abort_fd, options);
  }
  return std::unique_ptr<LocalTransport>(new LocalTransport(std::move(state)));
}

Result<Nanoseconds> LocalTransport::run(OpId op, int step, const CommOperands& operands) {
  const Op& o = state_->plan.op(op);
  TANDEM_CHECK(is_communication(o.kind) && state_->groups[o.comm.index()],
               "op {} is no communication of rank {}", op.value, state_->rank.value);
  if (state_->aborted)
    return make_error(
        Failure::peer_lost, "E-EXEC-043", "the run was aborted",
        fmt::format("rank {}, step {}, op {}: not begun", state_->rank.value, step, op.value),
        "no abort before an operation runs", "see the failure that caused the abort");
  return state_->groups[o.comm.index()]->run(op, step, operands);
}

void LocalTransport::abort() {
  state_->aborted = true;
  const std::uint64_t one = 1;
  // Fails only when the counter is full, and then it is readable already.
  [[maybe_unused]] const auto written = ::write(state_->abort_fd, &one, sizeof one);
}

Traffic LocalTransport::traffic(CommId comm) const {
  const auto& group = state_->groups[comm.index()];
  return group ? group->traffic() : Traffic{};
}

Traffic LocalTransport::traffic(OpId op) const {
  const auto& group = state_->groups[state_->plan.op(op).comm.index()];
  return group ? group->traffic(op) : Traffic{};
}

MovedBytes LocalTransport::moved(OpId op) const {
  const Traffic t = traffic(op);
  return {t.sent, t.received, t.lawful_sent, t.handed_over};
}

}  // namespace tandem::exec
