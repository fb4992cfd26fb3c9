// Runs a plan's ranks over the local transport inside one test: the launcher's part (socket pairs)
// and one thread or one forked process a rank.
#pragma once

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "exec/device/clock.h"
#include "exec/transport/local_transport.h"
#include "exec/transport/wiring.h"

namespace tandem::exec {

// Descriptors of each rank, in its wire order.
inline std::vector<std::vector<int>> make_pairs(const Plan& plan, const LocalOptions& options) {
  std::vector<std::vector<int>> ends(static_cast<std::size_t>(plan.header.mesh.world()));
  for (const Wire& w : wires_of(plan, options.algorithms)) {
    int pair[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    ends[w.a.index()].push_back(pair[0]);
    ends[w.b.index()].push_back(pair[1]);
  }
  return ends;
}

using Transports = std::vector<std::unique_ptr<LocalTransport>>;

// All ranks of a plan in this process.
inline Transports make_transports(const Plan& plan, const LocalOptions& options) {
  Transports out;
  auto ends = make_pairs(plan, options);
  for (std::size_t r = 0; r < ends.size(); ++r) {
    auto t = LocalTransport::create(plan, Rank{static_cast<int>(r)}, ends[r], options);
    REQUIRE(t.ok());
    out.push_back(std::move(*t));
  }
  return out;
}

inline void on_threads(int n, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < n; ++i) threads.emplace_back(body, i);
  for (std::thread& t : threads) t.join();
}

// A rank in a process of its own; `body`'s value is the exit code. It holds only its own ends.
inline pid_t fork_rank(std::vector<std::vector<int>>& ends, std::size_t rank,
                       const std::function<int(std::vector<int>)>& body) {
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    ::alarm(20);  // whatever happens, it ends
    for (std::size_t r = 0; r < ends.size(); ++r)
      if (r != rank)
        for (int fd : ends[r]) ::close(fd);
    ::_exit(body(ends[rank]));
  }
  for (int fd : ends[rank]) ::close(fd);
  ends[rank].clear();
  return pid;
}

inline int wait_for(pid_t pid) {
  int status = 0;
  REQUIRE(::waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

inline std::string code_of(const Result<Nanoseconds>& r) {
  return r.ok() ? "" : r.error().diagnostics[0].code;
}
inline std::string found_of(const Result<Nanoseconds>& r) {
  return r.ok() ? "" : r.error().diagnostics[0].found;
}

}  // namespace tandem::exec
