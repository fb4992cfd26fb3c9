#include "exec/launch/run_child.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>

#include "exec/device/clock.h"
#include "exec/launch/child.h"
#include "exec/launch/rank_log.h"

namespace tandem::exec {
namespace {

constexpr int kLookEveryMs = 20;  // at a child that has closed its output but lives

struct Stream {
  int fd = -1;
  std::optional<RankLog> log;
};

// True: the pipe has ended.
bool pass_on(Stream& stream) {
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t count = ::read(stream.fd, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    if (count == 0) return true;
    stream.log->add({buffer.data(), static_cast<std::size_t>(count)});
  }
}

}  // namespace

Result<ChildEnd> run_child(const std::string& program, const std::vector<std::string>& arguments,
                           const std::string& log_prefix, double timeout_s,
                           const std::function<void(bool, std::string_view)>& line) {
  std::array<Stream, 2> streams;
  std::array<int, 2> ends{-1, -1};
  ChildSpec spec{program, arguments, -1, -1, {}, {}};
  std::optional<Error> failed;
  for (std::size_t i = 0; i < 2 && !failed; ++i) {
    Result<RankLog> log =
        RankLog::create(log_prefix + (i == 0 ? ".out" : ".err"), [&line, i](std::string_view text) {
          if (line) line(i == 1, text);
        });
    int pipe[2] = {-1, -1};
    if (!log)
      failed = log.error();
    else if (::pipe2(pipe, O_CLOEXEC) != 0)
      failed = make_error(Failure::peer_lost, "E-EXEC-001", "a rank cannot be started",
                          std::string("pipe: ") + std::strerror(errno), "a process",
                          "check the limits on open files (ulimit -n)");
    if (failed) break;
    ::fcntl(pipe[0], F_SETFL, O_NONBLOCK);
    streams[i].fd = pipe[0];
    ends[i] = pipe[1];
    streams[i].log.emplace(std::move(*log));
  }
  spec.out = ends[0];
  spec.err = ends[1];
  pid_t child = -1;
  if (!failed) {
    Result<pid_t> pid = start_child(spec);
    if (pid)
      child = *pid;
    else
      failed = pid.error();
  }
  for (int fd : ends)
    if (fd >= 0) ::close(fd);
  ChildEnd end;
  const Nanoseconds deadline = now_ns() + static_cast<Nanoseconds>(timeout_s * 1e9);
  for (int status = 0; child > 0;) {
    pollfd polls[2];
    for (std::size_t i = 0; i < 2; ++i) polls[i] = {streams[i].fd, POLLIN, 0};
    ::poll(polls, 2, kLookEveryMs);
    for (Stream& s : streams) {
      if (s.fd < 0 || !pass_on(s)) continue;
      ::close(s.fd);
      s.fd = -1;
    }
    if (::waitpid(child, &status, WNOHANG) == child) {
      end.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      end.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
      break;
    }
    if (now_ns() >= deadline + 1'000'000'000) break;  // not even SIGKILL
    if (now_ns() >= deadline) {
      end.timed_out = true;
      ::kill(-child, SIGKILL);
    }
  }
  for (Stream& s : streams) {
    if (s.fd >= 0) {
      pass_on(s);
      ::close(s.fd);
    }
    if (s.log) s.log->finish();
  }
  if (failed) return *failed;
  end.own_words = own_words(streams[1].log->last_lines());
  return end;
}

}  // namespace tandem::exec
