// The process: signals, then the command line (cli.h). Nothing escapes from here but an exit code.
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "tools/cli.h"
#include "tools/executor.h"

namespace {

// Ctrl-C and SIGTERM: files that are complete stay, half ones go. 130 and 143. While ranks run, the
// launcher handles these signals itself (exec/launch/launcher.h).
extern "C" void stop(int signal) {
  tandem::remove_open_temporaries();
  ::_exit(128 + signal);
}

}  // namespace

int main(int argc, char** argv) {
  // A closed pipe is an error of a write, not the end of the process: exit code 7.
  std::signal(SIGPIPE, SIG_IGN);
  return tandem::tools::run_guarded([&] {
    if (const auto code = tandem::tools::run_executor_process(argc, argv)) return *code;
    std::signal(SIGINT, stop);
    std::signal(SIGTERM, stop);
    return tandem::tools::run_cli(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
  });
}
