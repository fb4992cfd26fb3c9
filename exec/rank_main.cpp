// What libtandem_exec.so shows: the rank process with the real interpreter, and the verification of
// a run, a process of its own. See execute.h and exec/launch/rank_process.h.
#include "exec/execute.h"
#include "exec/launch/rank_process.h"

extern "C" int tandem_rank_main(int argc, char** argv) {
  using namespace tandem::exec;
  return rank_process(argc, argv, run_rank);
}

extern "C" int tandem_verify_main(int argc, char** argv) {
  using namespace tandem;
  using namespace tandem::exec;
  return guard_process([&] {
    if (argc < 2)
      return fail_process(make_error(
          Failure::usage, "E-EXEC-013", "the arguments of a rank cannot be used",
          "no run directory", "the run directory", "start runs with `tandem execute --verify`"));
    const Status status = verify_files(argv[1]);
    return status ? 0 : fail_process(status.error());
  });
}
