// The process: signals, then the command line (cli.h). Nothing escapes from here but an exit code.
#include <csignal>
#include <string>
#include <vector>

#include "tools/cli.h"
#include "tools/executor.h"

int main(int argc, char** argv) {
  // A closed pipe is an error of a write, not the end of the process: exit code 7.
  std::signal(SIGPIPE, SIG_IGN);
  return tandem::tools::run_guarded([&] {
    if (const auto code = tandem::tools::run_executor_process(argc, argv)) return *code;
    return tandem::tools::run_cli(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
  });
}
