// The rank process around what it runs: joins the run, builds the transport from what it inherited,
// hands both to `body` with recorder and watchdog, reports, and ends with the class of its failure.
// The launcher's side is launcher.h. No LibTorch: tests run other bodies under the same shell.
//
//   argv  NAME __rank RUN K --port P --token-fd F --data-fd D --num-data N [--cores A,B,...]
//         --late-s S --version V
#pragma once

#include <functional>
#include <string>

#include "exec/execute.h"
#include "exec/transport/local_transport.h"

namespace tandem::exec {

// Runs all steps; run_rank() of execute.h is the real one.
using RankBody =
    std::function<Status(const RunInput& input, Rank rank, CommBackend& comm, SideComms side,
                         Barrier& barrier, OpObserver* observer, const std::string& run_dir)>;

// Returns an exit code; messages go to stderr. After a failure of `body` the process ends here, by
// _exit: threads that hang must not hold its end.
// `transport`: timeout and determinism are those of the run.
[[nodiscard]] int rank_process(int argc, char** argv, const RankBody& body,
                               const LocalOptions& transport = {});

// Runs `work`; an exception becomes one line and exit code 70.
[[nodiscard]] int guard_process(const std::function<int()>& work);
// Prints the message; returns the exit code.
[[nodiscard]] int fail_process(const Error& error);

}  // namespace tandem::exec
