#include "exec/launch/child.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "exec/launch/signals.h"

namespace tandem::exec {
namespace {

Error cannot_start(const std::string& program, const char* call, int error) {
  return make_error(Failure::peer_lost, "E-EXEC-001", "a rank cannot be started",
                    std::string(call) + ": " + std::strerror(error), "a process for every rank",
                    "check the limits on processes and open files (ulimit -a)", Location{program});
}

// Everything the child needs, made before the fork: no memory is taken after it.
struct Prepared {
  const char* program = nullptr;
  std::vector<char*> arguments;
  std::vector<int> from;  // becomes 0, 1, 2, 3, ...
  cpu_set_t cores;
  bool pinned = false;
  pid_t parent = 0;
  int status_fd = -1;
  sigset_t mask;
};

[[noreturn]] void give_up(int status_fd) {
  const int error = errno;
  if (::write(status_fd, &error, sizeof error) < 0) {
    // The parent sees the end of the pipe, and then the exit code.
  }
  ::_exit(127);
}

// Async-signal-safe calls only.
[[noreturn]] void run_child(Prepared& p) {
  if (::setpgid(0, 0) != 0) give_up(p.status_fd);
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) give_up(p.status_fd);
  if (::getppid() != p.parent) ::_exit(127);  // it died before the death signal was set
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &standard, nullptr);
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);  // a core file would hold the token
  if (p.pinned) ::sched_setaffinity(0, sizeof p.cores, &p.cores);
  // First out of the way of the targets, then onto them: dup2 clears close-on-exec.
  const int count = static_cast<int>(p.from.size());
  const int status = ::fcntl(p.status_fd, F_DUPFD_CLOEXEC, count);
  if (status < 0) give_up(p.status_fd);
  for (int& fd : p.from)
    if ((fd = ::fcntl(fd, F_DUPFD_CLOEXEC, count)) < 0) give_up(status);
  for (int target = 0; target < count; ++target)
    if (::dup2(p.from[static_cast<std::size_t>(target)], target) < 0) give_up(status);
  ::close_range(static_cast<unsigned>(count), UINT_MAX, CLOSE_RANGE_CLOEXEC);
  ::pthread_sigmask(SIG_SETMASK, &p.mask, nullptr);
  ::execv(p.program, p.arguments.data());
  give_up(status);
}

}  // namespace

Result<pid_t> start_child(const ChildSpec& spec) {
  std::vector<std::string> words = spec.arguments;
  Prepared p;
  p.program = spec.program.c_str();
  for (std::string& word : words) p.arguments.push_back(word.data());
  p.arguments.push_back(nullptr);
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0) return cannot_start("/dev/null", "open", errno);
  p.from = {null, spec.out, spec.err};
  p.from.insert(p.from.end(), spec.descriptors.begin(), spec.descriptors.end());
  CPU_ZERO(&p.cores);
  for (int core : spec.cores) CPU_SET(static_cast<std::size_t>(core), &p.cores);
  p.pinned = !spec.cores.empty();
  p.parent = ::getpid();
  int status[2];
  if (::pipe2(status, O_CLOEXEC) != 0) {
    const int error = errno;
    ::close(null);
    return cannot_start(spec.program, "pipe", error);
  }
  p.status_fd = status[1];
  pid_t pid = -1;
  int error = 0;
  {
    const BlockedSignals blocked;
    p.mask = blocked.previous();
    pid = ::fork();
    if (pid == 0) run_child(p);
    if (pid < 0) error = errno;
  }
  ::close(null);
  ::close(status[1]);
  if (pid < 0) {
    ::close(status[0]);
    return cannot_start(spec.program, "fork", error);
  }
  ::setpgid(pid, pid);  // also here: whichever side comes first
  ssize_t got = 0;      // the pipe ends with a successful exec
  do {
    got = ::read(status[0], &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  ::close(status[0]);
  if (got == 0) return pid;
  ::waitpid(pid, nullptr, 0);
  return cannot_start(spec.program, "exec", got == sizeof error ? error : EIO);
}

}  // namespace tandem::exec
