#include "exec/launch/launcher.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>

#include "common/timeline/rank_file.h"
#include "exec/device/clock.h"
#include "exec/launch/child.h"
#include "exec/launch/rank_log.h"
#include "exec/launch/signals.h"
#include "exec/rendezvous/server.h"
#include "exec/runtime/recorder.h"

namespace tandem::exec {
namespace asio = boost::asio;
using boost::system::error_code;

namespace {

using std::chrono::milliseconds;

// Of the stop sequence, after the first fault.
constexpr milliseconds kTerminateAfter{1000}, kKillAfter{4000}, kGiveUpAfter{5000};
// A rank that is gone may still have a message on its way, and a rank whose connection broke may be
// about to be reaped.
constexpr milliseconds kJudgeAfter{250};

double seconds(Nanoseconds ns) { return static_cast<double>(ns) * 1e-9; }

Error system_error(const char* what, int error) {
  return make_error(Failure::peer_lost, "E-EXEC-001", "a rank cannot be started",
                    fmt::format("{}: {}", what, std::strerror(error)), "a process for every rank",
                    "check the limits on processes and open files (ulimit -a)");
}

// A pipe end or another descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

struct Pipe {
  Descriptor read, write;
};
Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return system_error("pipe", errno);
  return Pipe{Descriptor(ends[0]), Descriptor(ends[1])};
}

// One pipe of a rank's output.
struct Output {
  Output(asio::io_context& context, int fd, RankLog l) : pipe(context, fd), log(std::move(l)) {}
  asio::posix::stream_descriptor pipe;
  RankLog log;
  std::array<char, 4096> buffer;
};

struct RankProcess {
  explicit RankProcess(asio::io_context& context) : judge_timer(context), stop_timer(context) {}
  pid_t pid = -1;
  RankEnd end;
  std::unique_ptr<Output> out, err;
  bool disconnected = false;  // it had joined, and its connection is gone
  std::string why;
  bool reported = false;  // a fault, by itself
  bool judged = false;    // its end has been looked at
  bool judge_now = false;
  Nanoseconds stopped_since = 0;
  int stop_signal = 0;
  std::uint64_t ops_done = 0;
  int step = -1, op = -1;  // last heartbeat
  asio::steady_timer judge_timer, stop_timer;
};

class Launcher {
 public:
  Launcher(LaunchOptions options, const LaunchSink& sink)
      : options_(std::move(options)),
        sink_(sink),
        signals_(context_),
        sequence_timer_(context_),
        progress_timer_(context_),
        start_(now_ns()) {}

  ~Launcher() {
    for (auto& rank : ranks_) {
      if (rank->pid <= 0 || rank->end.reaped) continue;
      ::kill(-rank->pid, SIGKILL);
      ::waitpid(rank->pid, nullptr, WNOHANG);
    }
    close_data();
  }

  Status start() {
    Result<Token> token = random_token();
    if (!token) return token.error();
    raise_descriptor_limit();
    HubConfig config;
    config.world = options_.world;
    config.version = options_.version;
    config.plan_id = options_.plan_id;
    config.token = *token;
    config.timeout_s = options_.timeout_s;
    Result<std::unique_ptr<Server>> server = Server::open(
        context_, std::move(config),
        [this](const HubEvent& e) {
          take(e);
          finish_if_over();
        },
        options_.listen);
    if (!server) return server.error();
    server_ = std::move(*server);
    for (int rank = 0; rank < options_.world; ++rank)
      if (Status s = start_rank(rank, *token); !s) {
        for (auto& r : ranks_) kill_now(*r);
        return s;
      }
    close_data();
    return Ok{};
  }

  LaunchOutcome run() {
    error_code failed;
    for (int signal : {SIGINT, SIGTERM, SIGCHLD}) signals_.add(signal, failed);
    wait_for_signal();
    for (int rank = 0; rank < options_.world; ++rank) {
      RankProcess& r = *ranks_[static_cast<std::size_t>(rank)];
      read(*r.out);
      read(*r.err);
    }
    server_->start();
    progressed();
    watch_progress();
    reap();  // what ended before the handler was there
    context_.run();
    return outcome();
  }

 private:
  [[nodiscard]] Nanoseconds elapsed() const { return now_ns() - start_; }
  [[nodiscard]] std::string file(int rank, const char* suffix) const {
    return rank_path(options_.run_dir, rank, suffix);
  }

  // --- start ---------------------------------------------------------------------------------

  static void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }

  void close_data() {
    for (const std::vector<int>& list : options_.data)
      for (int fd : list) ::close(fd);
    options_.data.clear();
  }

  Status start_rank(int rank, const Token& token) {
    const auto at = static_cast<std::size_t>(rank);
    const auto line = [this, rank](bool error) {
      return [this, rank, error](std::string_view text) {
        if (sink_.line) sink_.line(rank, error, text);
      };
    };
    Result<RankLog> out = RankLog::create(file(rank, "out"), line(false));
    if (!out) return out.error();
    Result<RankLog> err = RankLog::create(file(rank, "err"), line(true));
    if (!err) return err.error();
    Result<Pipe> out_pipe = make_pipe(), err_pipe = make_pipe(), token_pipe = make_pipe();
    for (const Result<Pipe>* p : {&out_pipe, &err_pipe, &token_pipe})
      if (!*p) return p->error();
    // 32 bytes always fit an empty pipe.
    const std::string_view secret = token.bytes();
    if (::write(token_pipe->write.get(), secret.data(), secret.size()) !=
        static_cast<ssize_t>(secret.size()))
      return system_error("write of the token", errno);

    ChildSpec spec;
    spec.program = options_.program;
    spec.arguments = options_.arguments;
    spec.out = out_pipe->write.get();
    spec.err = err_pipe->write.get();
    spec.descriptors = {token_pipe->read.get()};
    std::size_t num_data = 0;
    if (at < options_.data.size()) {
      num_data = options_.data[at].size();
      spec.descriptors.insert(spec.descriptors.end(), options_.data[at].begin(),
                              options_.data[at].end());
    }
    const auto add = [&](std::string a, std::string b) {
      spec.arguments.push_back(std::move(a));
      spec.arguments.push_back(std::move(b));
    };
    add(options_.run_dir, std::to_string(rank));
    add("--port", std::to_string(server_->port()));
    add("--token-fd", "3");
    add("--data-fd", "4");
    add("--num-data", std::to_string(num_data));
    if (at < options_.cores.size() && !options_.cores[at].empty())
      add("--cores", fmt::format("{}", fmt::join(options_.cores[at], ",")));
    spec.arguments.insert(spec.arguments.end(), options_.options.begin(), options_.options.end());

    Result<pid_t> pid = start_child(spec);
    if (!pid) return pid.error();
    auto process = std::make_unique<RankProcess>(context_);
    process->pid = *pid;
    for (const Pipe* p : {&*out_pipe, &*err_pipe}) ::fcntl(p->read.get(), F_SETFL, O_NONBLOCK);
    process->out = std::make_unique<Output>(context_, out_pipe->read.release(), std::move(*out));
    process->err = std::make_unique<Output>(context_, err_pipe->read.release(), std::move(*err));
    ranks_.push_back(std::move(process));
    return Ok{};
  }

  // --- output --------------------------------------------------------------------------------

  void read(Output& output) {
    output.pipe.async_read_some(asio::buffer(output.buffer),
                                [this, &output](error_code failed, std::size_t count) {
                                  if (failed) return;
                                  output.log.add({output.buffer.data(), count});
                                  read(output);
                                });
  }

  // What is still in the pipe; a child of the rank may hold its other end for ever.
  static void drain(Output& output) {
    for (;;) {
      const ssize_t count =
          ::read(output.pipe.native_handle(), output.buffer.data(), output.buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) break;
      output.log.add({output.buffer.data(), static_cast<std::size_t>(count)});
    }
    output.log.finish();
  }

  // --- what happens --------------------------------------------------------------------------

  void wait_for_signal() {
    signals_.async_wait([this](error_code failed, int signal) {
      if (failed) return;
      if (signal == SIGCHLD)
        reap();
      else
        interrupt(signal);
      wait_for_signal();
    });
  }

  void interrupt(int signal) {
    if (user_signal_ != 0) {
      for (auto& r : ranks_) kill_now(*r);
      return;
    }
    user_signal_ = signal;
    stop({-1, fmt::format("stopped by {}", signal_name(signal))});
  }

  void reap() {
    for (int rank = 0; rank < options_.world; ++rank) {
      RankProcess& r = *ranks_[static_cast<std::size_t>(rank)];
      int status = 0;
      while (!r.end.reaped &&
             ::waitpid(r.pid, &status, WNOHANG | WUNTRACED | WCONTINUED) == r.pid) {
        if (WIFSTOPPED(status)) {
          r.stopped_since = elapsed();
          r.stop_signal = WSTOPSIG(status);
          r.stop_timer.expires_after(std::chrono::duration_cast<std::chrono::nanoseconds>(
              std::chrono::duration<double>(options_.timeout_s)));
          r.stop_timer.async_wait([this, rank](error_code cancelled) {
            if (!cancelled && !stopping_) add_stopped(rank);
          });
        } else if (WIFCONTINUED(status)) {
          if (!stopping_) r.stopped_since = 0;
          r.stop_timer.cancel();
        } else {
          r.end.reaped = true;
          r.end.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
          r.end.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
          r.stop_timer.cancel();
          progressed();
          judge(rank);
        }
      }
    }
    finish_if_over();
  }

  void take(const HubEvent& event) {
    RankProcess* r = event.rank < 0 ? nullptr : ranks_[static_cast<std::size_t>(event.rank)].get();
    switch (event.kind) {
      case HubEvent::Kind::joined:
        r->end.joined = true;
        return progressed();
      case HubEvent::Kind::running:
        return progressed();
      case HubEvent::Kind::incomplete:
        for (int rank : server_->hub().missing()) {
          Fault fault = make_fault(Cause::never_joined, rank);
          add(std::move(fault));
        }
        return;
      case HubEvent::Kind::heartbeat:
        if (event.heartbeat.ops_done > r->ops_done) progressed();
        r->ops_done = event.heartbeat.ops_done;
        r->step = event.heartbeat.step;
        r->op = event.heartbeat.op;
        return;
      case HubEvent::Kind::report:
        if (event.report.kind == ReportKind::progress) {
          progressed();
          if (sink_.progress) sink_.progress(event.rank, event.report);
          return;
        }
        return take_fault(event.rank, event.report);
      case HubEvent::Kind::abort:  // its REPORT came before
        if (!r->reported) {
          Fault fault = make_fault(Cause::failed, event.rank);
          fault.text = event.text;
          r->reported = true;
          add(std::move(fault));
        }
        return;
      case HubEvent::Kind::bye:
        r->end.said_bye = true;
        return progressed();
      case HubEvent::Kind::lost:
        r->disconnected = true;
        r->why = event.text;
        return judge(event.rank);
      case HubEvent::Kind::stranger:
        if (sink_.note) sink_.note("rendezvous: a stranger " + event.text);
        return;
    }
  }

  void take_fault(int rank, const Report& report) {
    static constexpr Cause kCauses[] = {Cause::failed, Cause::late, Cause::peer_lost,
                                        Cause::aborted};
    RankProcess& r = *ranks_[static_cast<std::size_t>(rank)];
    r.reported = true;
    Fault fault = make_fault(kCauses[static_cast<int>(report.fault) - 1], rank);
    fault.step = report.step;
    fault.op = report.op;
    fault.exit_class = report.exit_class;
    fault.code = report.code;
    fault.text = report.text;
    add(std::move(fault));
  }

  // Looks at how a rank ended, once what it may have sent before has been read.
  void judge(int rank) {
    RankProcess& r = *ranks_[static_cast<std::size_t>(rank)];
    const bool settled = r.end.reaped && (r.disconnected || r.end.said_bye || !r.end.joined);
    if (r.judged) return;
    if (!settled && !r.judge_now) {
      r.judge_timer.expires_after(kJudgeAfter);
      r.judge_timer.async_wait([this, rank](error_code cancelled) {
        if (cancelled) return;
        ranks_[static_cast<std::size_t>(rank)]->judge_now = true;
        judge(rank);
        finish_if_over();
      });
      return;
    }
    r.judged = r.end.reaped;
    r.judge_timer.cancel();
    if (r.reported) return;
    if (!r.end.reaped) {
      if (stopping_) return;  // it closes because it was told to
      Fault fault = make_fault(Cause::silent, rank);
      fault.text = r.why;
      return add(std::move(fault));
    }
    if (r.end.exit_code == 0 && (r.end.said_bye || stopping_)) return;
    if (r.end.signal != 0) {
      if (sent_ == SIGKILL && (r.end.signal == SIGKILL || r.end.signal == SIGTERM)) return;
      if (sent_ == SIGTERM && r.end.signal == SIGTERM) return;
      Fault fault = make_fault(is_crash(r.end.signal) ? Cause::crashed : Cause::killed, rank);
      fault.signal = r.end.signal;
      return add(std::move(fault));
    }
    if (r.end.exit_code == 0) return add(make_fault(Cause::left, rank));
    const bool lost = r.end.exit_code == static_cast<int>(Failure::peer_lost);
    Fault fault = make_fault(!lost       ? Cause::failed
                             : stopping_ ? Cause::aborted
                                         : Cause::peer_lost,
                             rank);
    fault.exit_class = r.end.exit_code;
    drain(*r.err);
    fault.text = own_words(r.err->log.last_lines());
    add(std::move(fault));
  }

  // --- faults --------------------------------------------------------------------------------

  [[nodiscard]] Fault make_fault(Cause cause, int rank) const {
    Fault fault;
    fault.cause = cause;
    fault.rank = rank;
    fault.time = elapsed();
    return fault;
  }

  void add_stopped(int rank) {
    RankProcess& r = *ranks_[static_cast<std::size_t>(rank)];
    Fault fault = make_fault(Cause::stopped, rank);
    fault.time = r.stopped_since;
    fault.signal = r.stop_signal;
    r.reported = true;
    add(std::move(fault));
  }

  void add(Fault fault) {
    const int rank = fault.rank;
    const std::string text = fmt::format("rank {}: {}", rank, name_of(fault.cause));
    faults_.push_back(std::move(fault));
    if (!stopping_) stop({rank, text});
  }

  // --- the stop sequence ---------------------------------------------------------------------

  void stop(const Abort& cause) {
    if (stopping_) return;
    stopping_ = true;
    stop_started_ = elapsed();
    // Who is stopped now is a cause, whoever else speaks first.
    for (int rank = 0; rank < options_.world; ++rank)
      if (ranks_[static_cast<std::size_t>(rank)]->stopped_since != 0 && rank != cause.rank)
        add_stopped(rank);
    server_->abort(cause);
    after(kTerminateAfter, [this] {
      signal_all(SIGTERM);
      signal_all(SIGCONT);  // a stopped process takes SIGTERM only when it goes on
      after(kKillAfter - kTerminateAfter, [this] {
        signal_all(SIGKILL);
        after(kGiveUpAfter - kKillAfter, [this] { finish(); });
      });
    });
  }

  void after(milliseconds time, std::function<void()> action) {
    sequence_timer_.expires_after(time);
    sequence_timer_.async_wait([action = std::move(action)](error_code cancelled) {
      if (!cancelled) action();
    });
  }

  void signal_all(int signal) {
    if (signal != SIGCONT) sent_ = signal;
    for (auto& r : ranks_)
      if (!r->end.reaped) ::kill(-r->pid, signal);
  }

  void kill_now(RankProcess& r) {
    sent_ = SIGKILL;
    if (r.pid > 0 && !r.end.reaped) ::kill(-r.pid, SIGKILL);
  }

  void finish_if_over() {
    if (finished_) return;
    for (const auto& r : ranks_)
      if (!r->end.reaped || !r->judged) return;
    finish();
  }

  void finish() {
    finished_ = true;
    context_.stop();
  }

  // --- the net under the ranks' own watchdogs --------------------------------------------------

  void progressed() { last_progress_ = elapsed(); }

  void watch_progress() {
    const Nanoseconds grace = heartbeat_interval(options_.timeout_s) + 2'000'000'000;
    const Nanoseconds end =
        last_progress_ + static_cast<Nanoseconds>(options_.late_s * 1e9) + grace;
    if (elapsed() >= end) {
      if (stopping_) return;
      int slowest = 0;
      for (int rank = 1; rank < options_.world; ++rank)
        if (ranks_[static_cast<std::size_t>(rank)]->ops_done <
            ranks_[static_cast<std::size_t>(slowest)]->ops_done)
          slowest = rank;
      const RankProcess& r = *ranks_[static_cast<std::size_t>(slowest)];
      Fault fault = make_fault(Cause::late, slowest);
      fault.step = r.step;
      fault.op = r.op;
      fault.text = fmt::format("no rank has ended an op for {:.1f} s, and this one the fewest",
                               seconds(elapsed() - last_progress_));
      return add(std::move(fault));
    }
    progress_timer_.expires_after(std::chrono::nanoseconds(end - elapsed()));
    progress_timer_.async_wait([this](error_code cancelled) {
      if (!cancelled) watch_progress();
    });
  }

  // --- the end ---------------------------------------------------------------------------------

  // Where the rank was, from its ring, where its own message does not say.
  void place(Fault& fault) const {
    if (fault.op >= 0 || fault.rank < 0) return;
    const Result<Ring> ring = read_ring(file(fault.rank, "ring"));
    if (!ring) return;
    const bool died = fault.cause == Cause::killed || fault.cause == Cause::crashed ||
                      fault.cause == Cause::failed || fault.cause == Cause::left;
    if (const RingRecord* r = died ? ring->newest_unfinished() : ring->oldest_unfinished()) {
      fault.op = r->op;
      fault.step = r->step;
      fault.phase = name_of(static_cast<OpState>(r->state));
    } else if (const RingRecord* done = ring->last_done()) {
      fault.op = done->op;
      fault.step = done->step;
      fault.phase = "after it had ended";
    }
  }

  LaunchOutcome outcome() {
    LaunchOutcome out;
    for (auto& r : ranks_) {
      drain(*r->out);
      drain(*r->err);
      r->end.last_lines = {r->err->log.last_lines().begin(), r->err->log.last_lines().end()};
      if (r->out->log.write_error() != 0 || r->err->log.write_error() != 0)
        out.log_failure = Failure::output;
      out.ranks.push_back(r->end);
    }
    std::sort(faults_.begin(), faults_.end(),
              [](const Fault& a, const Fault& b) { return a.time < b.time; });
    out.faults = faults_;
    if (user_signal_ != 0) {
      out.failure = user_signal_ == SIGINT ? Failure::interrupted : Failure::terminated;
    } else if (const Fault* first = first_cause(faults_)) {
      out.culprit = *first;
      place(*out.culprit);
      out.failure = failure_of(*first);
    }
    out.wall_s = seconds(elapsed());
    if (stopping_) out.stop_s = seconds(elapsed() - stop_started_);
    return out;
  }

  LaunchOptions options_;
  const LaunchSink& sink_;
  asio::io_context context_{1};
  asio::signal_set signals_;
  asio::steady_timer sequence_timer_, progress_timer_;
  std::unique_ptr<Server> server_;
  std::vector<std::unique_ptr<RankProcess>> ranks_;
  std::vector<Fault> faults_;
  Nanoseconds start_, last_progress_ = 0, stop_started_ = 0;
  bool stopping_ = false, finished_ = false;
  int user_signal_ = 0;
  int sent_ = 0;  // the strongest signal we sent to all
};

}  // namespace

Result<LaunchOutcome> launch(LaunchOptions options, const LaunchSink& sink) {
  Launcher launcher(std::move(options), sink);
  if (Status s = launcher.start(); !s) return s.error();
  return launcher.run();
}

}  // namespace tandem::exec
