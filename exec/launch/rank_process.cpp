#include "exec/launch/rank_process.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <optional>
#include <vector>

#include "common/base/file.h"
#include "common/base/text.h"
#include "common/timeline/rank_file.h"
#include "exec/rendezvous/client.h"
#include "exec/runtime/recorder.h"
#include "exec/runtime/watchdog.h"
#include "exec/transport/wiring.h"

namespace tandem::exec {
namespace {

struct RankArguments {
  std::string run_dir, version;
  int rank = -1, port = 0, token_fd = -1, data_fd = -1, num_data = 0;
  double late_s = 60;
  std::vector<int> cores;
};

// Written by our own launcher: any surprise is a fault of ours or a call by hand.
std::optional<RankArguments> parse_arguments(int argc, char** argv) {
  if (argc < 4) return std::nullopt;
  RankArguments out;
  out.run_dir = argv[2];
  const auto to_int = [](std::string_view text, int& value) {
    const auto n = parse_int(text);
    if (!n || *n < 0 || *n > INT32_MAX) return false;
    value = static_cast<int>(*n);
    return true;
  };
  if (!to_int(argv[3], out.rank)) return std::nullopt;
  for (int i = 4; i + 1 < argc; i += 2) {
    const std::string_view key = argv[i], value = argv[i + 1];
    bool good = true;
    if (key == "--port") {
      good = to_int(value, out.port) && out.port < 65536;
    } else if (key == "--token-fd") {
      good = to_int(value, out.token_fd);
    } else if (key == "--data-fd") {
      good = to_int(value, out.data_fd);
    } else if (key == "--num-data") {
      good = to_int(value, out.num_data);
    } else if (key == "--late-s") {
      const auto s = parse_double(value);
      good = s && *s > 0;
      out.late_s = s.value_or(0);
    } else if (key == "--version") {
      out.version = value;
    } else if (key == "--cores") {
      for (std::string_view core : split(value, ','))
        good = good && to_int(core, out.cores.emplace_back());
    } else {
      good = false;
    }
    if (!good) return std::nullopt;
  }
  if (out.port == 0 || out.token_fd < 0) return std::nullopt;
  return out;
}

void print_error(const std::string& text) {
  // The launcher reads this end; what it does not take is lost with it.
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

// Which stream of the plan computes: its worker is pinned at its first op.
std::optional<StreamId> compute_stream(const Plan& plan) {
  for (std::size_t i = 0; i < plan.streams.size(); ++i)
    if (plan.streams[i] == "compute") return StreamId{static_cast<int>(i)};
  return std::nullopt;
}

// The recorder, the launcher's progress line, and the pinning of the compute worker.
class RankObserver final : public OpObserver {
 public:
  RankObserver(const Plan& plan, Recorder& recorder, Client& client, std::vector<int> cores)
      : plan_(plan),
        recorder_(recorder),
        client_(client),
        cores_(std::move(cores)),
        compute_(compute_stream(plan)),
        to_pin_(!cores_.empty() && compute_) {}
  void queued(OpId op, int step) override { recorder_.queued(op, step); }
  void started(OpId op, int step) override {
    if (to_pin_.load(std::memory_order_relaxed) && op.value < std::ssize(plan_.ops) &&
        plan_.op(op).stream == *compute_)
      pin();
    recorder_.started(op, step);
  }
  void done(OpId op, int step) override { recorder_.done(op, step); }
  void step_ended(int step, double loss, double tokens, Nanoseconds duration,
                  std::optional<double> evaluation) override {
    Report report;
    report.step = step;
    report.loss = loss;
    report.step_ns = duration;
    report.evaluation_loss = evaluation;
    report.tokens_per_s = duration > 0 ? tokens * 1e9 / static_cast<double>(duration) : 0;
    client_.report(report);
  }

 private:
  // Threads that LibTorch starts from here inherit the set.
  void pin() {
    to_pin_.store(false, std::memory_order_relaxed);
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int core : cores_) CPU_SET(static_cast<std::size_t>(core), &set);
    (void)::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);  // a wish only
  }
  const Plan& plan_;
  Recorder& recorder_;
  Client& client_;
  const std::vector<int> cores_;
  const std::optional<StreamId> compute_;
  std::atomic<bool> to_pin_;
};

FaultKind kind_of(const Error& error, bool told_to_stop) {
  const std::string& code = error.diagnostics.front().code;
  if (code == "E-EXEC-043") return FaultKind::aborted;
  if (code == "E-EXEC-041" || code == "E-EXEC-042")
    return told_to_stop ? FaultKind::aborted : FaultKind::peer_lost;
  return FaultKind::failed;
}

Report fault_report(const Error& error, const Recorder& recorder, bool told_to_stop) {
  const Diagnostic& d = error.diagnostics.front();
  Report report;
  report.kind = ReportKind::fault;
  report.fault = kind_of(error, told_to_stop);
  report.exit_class = static_cast<std::uint8_t>(error.failure);
  report.code = d.code;
  report.text = d.title + ": " + d.found;
  const auto op = report.fault == FaultKind::failed ? recorder.newest_unfinished()
                                                    : recorder.oldest_unfinished();
  if (op) {
    report.step = op->step;
    report.op = op->op;
  }
  return report;
}

// The launcher names K.json also for failures before run_rank.
void write_failure(const RankArguments& arguments, const Error& error) {
  const Diagnostic& d = error.diagnostics.front();
  const std::string text = fmt::format(
      "{{\"format\": \"tandem-rank\", \"version\": 1, \"rank\": {}, \"ok\": false, \"error\": "
      "{{\"code\": \"{}\", \"title\": \"{}\", \"found\": \"{}\"}}}}\n",
      arguments.rank, escape_json(d.code), escape_json(d.title), escape_json(d.found));
  (void)write_file_atomic(rank_path(arguments.run_dir, arguments.rank, "json"), text);
}

Status run(const RankArguments& arguments, const RankBody& body, LocalOptions transport_options) {
  Result<RunInput> input = read_run(arguments.run_dir);
  if (!input) return input.error();
  const Plan& plan = input->plan;
  const TrainingConfig& config = input->config;
  const int world = plan.header.mesh.world();
  if (arguments.rank >= world)
    return make_error(Failure::usage, "E-EXEC-013", "the arguments of a rank cannot be used",
                      fmt::format("rank {} of {}", arguments.rank, world), "a rank of the plan",
                      "start runs with `tandem execute`");
  const Rank rank{arguments.rank};
  Result<Token> token = read_token(arguments.token_fd, config.timeout_s);
  if (!token) return token.error();

  transport_options.timeout = static_cast<Nanoseconds>(config.timeout_s * 1e9);
  transport_options.algorithms.deterministic = config.deterministic;
  // Those of the steps come first, then those of the plans beside it: sockets of its own, so that
  // each plan has its communicators' order and numbers to itself.
  std::vector<int> descriptors;
  for (int i = 0; i < arguments.num_data; ++i) descriptors.push_back(arguments.data_fd + i);
  const std::vector<const Plan*> beside = side_plans(*input);
  std::vector<std::unique_ptr<LocalTransport>> transports;
  const auto connect = [&](const Plan& of, bool is_last) -> Status {
    std::vector<int> rest;
    if (!is_last) {
      const auto mine = wires_of_rank(wires_of(of, transport_options.algorithms), rank);
      const auto first = std::min(std::ssize(mine), std::ssize(descriptors));
      rest.assign(descriptors.begin() + first, descriptors.end());
      descriptors.resize(static_cast<std::size_t>(first));
    }
    Result<std::unique_ptr<LocalTransport>> made =
        LocalTransport::create(of, rank, std::exchange(descriptors, rest), transport_options);
    if (!made) return made.error();
    transports.push_back(std::move(*made));
    return Ok{};
  };
  if (Status s = connect(plan, beside.empty()); !s) return s;
  for (const Plan* p : beside)
    if (Status s = connect(*p, p == beside.back()); !s) return s;
  LocalTransport& comm = *transports.front();
  SideComms side;
  std::size_t next = 1;
  if (input->evaluation) side.evaluation = transports[next++].get();
  if (input->settling) side.settling = transports[next++].get();
  const auto abort_all = [&] {
    for (const auto& t : transports) t->abort();
  };
  Result<std::unique_ptr<Recorder>> recorder = Recorder::create(
      rank_path(arguments.run_dir, rank.value, "ring"), plan, rank, input->plan_id, beside);
  if (!recorder) return recorder.error();

  std::atomic<bool> told_to_stop{false};
  ClientConfig client_config;
  client_config.port = static_cast<unsigned short>(arguments.port);
  client_config.join = {arguments.version, input->plan_id, world, rank.value, "local", ""};
  client_config.token = *token;
  client_config.timeout_s = config.timeout_s;
  const auto stop = [&] {
    told_to_stop = true;
    abort_all();
  };
  client_config.on_abort = [&](const Abort&) { stop(); };
  client_config.on_lost = [&](const std::string&) { stop(); };
  client_config.heartbeat = [&] {
    Heartbeat beat;
    beat.ops_done = (*recorder)->ops_done();
    if (const auto op = (*recorder)->oldest_unfinished()) {
      beat.step = op->step;
      beat.op = op->op;
    }
    return beat;
  };
  Result<std::unique_ptr<Client>> client = Client::connect(std::move(client_config));
  if (!client) return client.error();

  RankObserver observer(plan, **recorder, **client, arguments.cores);
  std::optional<Watchdog> watchdog;
  const auto to_ns = [](double s) { return static_cast<Nanoseconds>(s * 1e9); };
  watchdog.emplace(**recorder, WatchdogLimits{to_ns(config.timeout_s + 1), to_ns(arguments.late_s)},
                   [&](const Recorder::Unfinished& op, Nanoseconds age) {
                     Report report;
                     report.kind = ReportKind::fault;
                     report.fault = FaultKind::late;
                     report.exit_class = static_cast<std::uint8_t>(Failure::peer_lost);
                     report.step = op.step;
                     report.op = op.op;
                     report.code = "E-EXEC-007";
                     report.text =
                         fmt::format("runs for {:.1f} s", static_cast<double>(age) * 1e-9);
                     (*client)->report(report);
                     abort_all();
                   });
  const Status status = body(*input, rank, comm, side, **client, &observer, arguments.run_dir);
  watchdog.reset();
  if (!status) {
    (*client)->report(fault_report(status.error(), **recorder, told_to_stop));
    print_error(to_text(status.error().diagnostics));
  }
  (*client)->leave();
  if (status) return Ok{};
  const std::string told = rank_path(arguments.run_dir, rank.value, "json");
  if (::access(told.c_str(), F_OK) != 0) write_failure(arguments, status.error());
  // What hangs in a failed rank must not hold its end: threads are not waited for any more.
  ::_exit(static_cast<int>(status.error().failure));
}

}  // namespace

int guard_process(const std::function<int()>& work) {
  try {
    return work();
  } catch (const std::exception& e) {
    print_error(fmt::format("internal error: {}\n", escape_terminal(e.what())));
    return static_cast<int>(Failure::internal);
  }
}

int fail_process(const Error& error) {
  print_error(to_text(error.diagnostics));
  return static_cast<int>(error.failure);
}

int rank_process(int argc, char** argv, const RankBody& body, const LocalOptions& transport) {
  return guard_process([&] {
    for (int signal : {SIGPIPE, SIGXFSZ}) ::signal(signal, SIG_IGN);  // the calls fail instead
    const std::optional<RankArguments> arguments = parse_arguments(argc, argv);
    if (!arguments)
      return fail_process(make_error(
          Failure::usage, "E-EXEC-013", "the arguments of a rank cannot be used", "a call by hand",
          "the launcher's own arguments", "start runs with `tandem execute`"));
    const Status status = run(*arguments, body, transport);
    if (status) return 0;
    write_failure(*arguments, status.error());
    return fail_process(status.error());
  });
}

}  // namespace tandem::exec
