// One rank of a measured run: steps, files of the rank, and the comparison with the reference. The
// two extern "C" functions, and tandem_calibrate_main (calibrate/measure.h), are all that
// libtandem_exec.so shows; the tool opens it with dlopen.
//
// A rank reads RUN/plan.txt, RUN/training.json, where the run evaluates RUN/plan_evaluation.txt,
// where updates are checked late RUN/plan_settling.txt, and writes
//   RUN/ranks/K.json       losses, norms, rates, times, peaks, bytes by communicator and tag
//   RUN/ranks/K.timeline   spans of the timed steps (common/timeline/rank_file.h)
//   RUN/ranks/K.grads      with `verify`: reduced gradients and choices of experts of each step,
//                          parameters (exec/train/rank_tensors.h)
//   RUN/ranks/K.measures.json  what rank 0 adds up of measured steps (exec/train/measure.h)
//   RUN/ranks/K.shard.json what it has saved of a checkpoint (exec/checkpoint/save.h)
//   RUN/metrics.jsonl      rank 0: one line a step, as it ends; RUN/tensorboard/: the same
//                          (exec/train/metrics_files.h)
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "exec/runtime/barrier.h"
#include "exec/runtime/comm.h"

namespace tandem::exec {

struct RunInput {
  Plan plan;
  std::optional<Plan> evaluation;  // where has_evaluation_plan(config)
  std::optional<Plan> settling;    // where validates_late(plan)
  std::string plan_id;
  TrainingConfig config;
};
// The plans beside `plan`, in the order in which ranks number their ops and take their sockets.
[[nodiscard]] std::vector<const Plan*> side_plans(const RunInput& input);
// What these communicate by; null where the run has no such plan.
struct SideComms {
  CommBackend *evaluation = nullptr, *settling = nullptr;
};
[[nodiscard]] Result<RunInput> read_run(const std::string& run_dir);

// Runs the steps of one rank, from the start or from a checkpoint, saves checkpoints, and writes
// the rank's files. K.json is written on failure too.
[[nodiscard]] Status run_rank(const RunInput& input, Rank rank, CommBackend& comm, SideComms side,
                              Barrier& barrier, OpObserver* observer, const std::string& run_dir);

// The same in place of run_rank() where kernels are timed waits (device/rehearsal.h): reads
// RUN/rehearsal.json beside the plan; K.json has no losses, and a section "rehearsal". `comm` is
// one of tokens (LocalOptions::tokens). Host layer, so it is no part of libtandem_exec.so.
[[nodiscard]] Status rehearse_rank(const RunInput& input, Rank rank, CommBackend& comm,
                                   SideComms side, Barrier& barrier, OpObserver* observer,
                                   const std::string& run_dir);

// Puts the ranks' files together, computes the reference and writes RUN/verify.json.
[[nodiscard]] Status verify_files(const std::string& run_dir);

}  // namespace tandem::exec

extern "C" {
// argv of the tool's `__rank` subcommand. Returns an exit code; messages go to stderr.
__attribute__((visibility("default"))) int tandem_rank_main(int argc, char** argv);
// argv[1]: the run directory.
__attribute__((visibility("default"))) int tandem_verify_main(int argc, char** argv);
}
