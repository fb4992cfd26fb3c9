// RUN/ranks/K.json: what a rank has done and measured, also where it failed. Written by the
// executor (run_rank.cpp) and by a rehearsal (rehearse_rank.cpp), read by tools/execute_run. No
// LibTorch.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "exec/execute.h"
#include "exec/runtime/interpreter.h"

namespace tandem::exec {

using Json = nlohmann::ordered_json;

// What becomes K.json.
struct Outcome {
  std::vector<StepResult> steps;
  Nanoseconds saving = 0;  // time spent on checkpoints
  int roll_backs = 0;      // steps that were given up and begun again
  bool has_values = true;  // false: a rehearsal has times only
  std::optional<Error> error;
};

// Classes that hold something, by name.
[[nodiscard]] Json by_class(const ClassBytes& bytes);
// Of each step: [[buffer of the counts, rows], ...]. `compare` evaluates the plan's memory with
// them.
[[nodiscard]] Json rows_json(const std::vector<RunTimeRows>& steps);
// By communicator, tag and kind, over all steps: calls; bytes handed over by the plan; bytes that
// the transport counted as sent and received, and what the algorithm must send in closed form.
[[nodiscard]] Json communication(const Plan& plan, Rank rank,
                                 const std::vector<std::int64_t>& calls, const CommBackend& comm);

// `interpreter`: null where the rank has none, or its threads may still run. `more`: further
// keys, of an evaluation or a device.
[[nodiscard]] Status write_outcome(const RunInput& in, Rank rank, const Outcome& outcome,
                                   const Interpreter* interpreter, const CommBackend& comm,
                                   const Timeline& timeline, const std::string& run_dir,
                                   Json more = {});

}  // namespace tandem::exec
