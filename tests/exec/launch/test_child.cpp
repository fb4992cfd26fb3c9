// A rank without LibTorch for launcher_test: joins by the real client and then behaves as told.
//   argv   NAME RUN K ... (launcher.h)  MODE-OF-ALL RANK MODE-OF-RANK
//   modes  steps   two reports of 20 ms each, BYE          exit0, exit1   right after RUNNING
//          segv, kill, stop, silent, fail   right after RUNNING           never   does not connect
//          peer    waits 0.5 s, then reports a lost peer and exits 6      slow    sleeps 1 s, BYE
//          stubborn ignores SIGTERM and ABORT              chatty  as steps, with output
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "exec/rendezvous/client.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

using std::chrono::milliseconds;
std::atomic<bool> g_stop{false};

bool sleep_unless_stopped(milliseconds time) {
  for (auto left = time; left.count() > 0 && !g_stop; left -= milliseconds(5))
    std::this_thread::sleep_for(milliseconds(5));
  return !g_stop;
}

int peer_lost(Client& client) {
  Report report;
  report.kind = ReportKind::fault;
  report.fault = g_stop ? FaultKind::aborted : FaultKind::peer_lost;
  report.exit_class = 6;
  report.step = 0;
  report.code = "E-EXEC-042";
  report.text = "waited for another rank";
  client.report(report);
  client.leave();
  return 6;
}

int behave(const std::string& mode, Client& client) {
  if (mode == "exit0") ::_exit(0);
  if (mode == "exit1") {
    std::fputs("something of mine broke\n", stderr);
    return 1;
  }
  if (mode == "segv") ::raise(SIGSEGV);
  if (mode == "kill") ::raise(SIGKILL);
  if (mode == "stop") ::raise(SIGSTOP);
  if (mode == "silent") {
    for (;;) ::pause();
  }
  if (mode == "fail") {
    Report report;
    report.kind = ReportKind::fault;
    report.exit_class = 5;
    report.step = 3;
    report.op = 17;
    report.code = "E-EXEC-031";
    report.text = "loss = nan";
    client.report(report);
    client.leave();
    return 5;
  }
  if (mode == "stubborn") {
    ::signal(SIGTERM, SIG_IGN);
    for (;;) ::pause();
  }
  if (mode == "peer") {
    (void)sleep_unless_stopped(milliseconds(500));
    return peer_lost(client);
  }
  if (mode == "wait") {
    if (!sleep_unless_stopped(milliseconds(20'000))) return peer_lost(client);
  }
  if (mode == "slow" && !sleep_unless_stopped(milliseconds(1000))) return peer_lost(client);
  for (int step = 0; step < 2; ++step) {
    if (mode == "chatty") {
      fmt::print("step {}\nhalf", step);
      std::fflush(stdout);
    }
    if (!sleep_unless_stopped(milliseconds(20))) return peer_lost(client);
    Report report;
    report.step = step;
    report.loss = 2.5 - step;
    report.step_ns = 20'000'000;
    client.report(report);
  }
  client.leave();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 14) return 99;
  const int rank = std::atoi(argv[2]);
  const std::string mode = argv[argc - 2] == std::to_string(rank) ? argv[argc - 1] : argv[argc - 3];
  // Only what was handed over is open.
  for (int fd = 4 + std::atoi(argv[10]); fd < 256; ++fd)
    if (::fcntl(fd, F_GETFD) >= 0) {
      fmt::print(stderr, "descriptor {} is open\n", fd);
      return 98;
    }
  if (mode == "never") {
    for (;;) ::pause();
  }
  Result<Token> token = read_token(std::atoi(argv[6]), 5);
  if (!token) return 97;
  ClientConfig config;
  config.port = static_cast<unsigned short>(std::atoi(argv[4]));
  config.join = {
      "test", mode == "wrongplan" ? "feed" : "beef", std::atoi(std::getenv("WORLD")), rank, "local",
      ""};
  config.token = *token;
  config.timeout_s = std::atof(std::getenv("TIMEOUT"));
  config.on_abort = [](const Abort&) { g_stop = true; };
  Result<std::unique_ptr<Client>> client = Client::connect(std::move(config));
  if (!client) {
    fmt::print(stderr, "{}", to_text(client.error().diagnostics));
    return static_cast<int>(client.error().failure);
  }
  return behave(mode, **client);
}
