// One rank of a rehearsal; see execute.h. The interpreter on a device without memory and kernels
// (device/rehearsal.h), over a transport of tokens. Part of the host layer: no LibTorch.
#include <fmt/format.h>
#include <malloc.h>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/plan/late_validation.h"
#include "common/plan/rehearsal.h"
#include "common/timeline/rank_file.h"
#include "exec/device/clock.h"
#include "exec/device/rehearsal.h"
#include "exec/execute.h"
#include "exec/rank_outcome.h"

namespace tandem::exec {
namespace {

Result<RehearsalTable> read_table(const RunInput& in, const std::string& run_dir) {
  const std::string path = run_dir + "/rehearsal.json";
  const Result<std::string> text = read_file(path, limits::kTableBytes);
  if (!text) return text.error();
  return rehearsal_from_json(*text, path, in.plan, in.plan_id);
}

// Longer than a barrier takes on a busy machine.
constexpr Nanoseconds kStartAfter = 100'000'000;

// The moment at which all ranks begin their next step, as those of a prediction do. A barrier alone
// lets them go one by one, as the control plane's threads get a core; so rank 0 names a moment
// between two of them, in RUN/ranks/start.
Result<Nanoseconds> common_start(Rank rank, Barrier& barrier, const std::string& run_dir) {
  const std::string path = run_dir + "/ranks/start";
  if (Status met = barrier.meet(); !met) return met.error();
  if (rank.value == 0)
    if (Status s = write_file_atomic(path, fmt::format("{}", now_ns() + kStartAfter)); !s)
      return s.error();
  if (Status met = barrier.meet(); !met) return met.error();
  const Result<std::string> text = read_file(path, 64);
  if (!text) return text.error();
  if (const auto moment = parse_int(*text)) return *moment;
  return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                    *text, "the moment that rank 0 wrote", "run again", Location{path});
}

Json lateness_json(const Lateness& l) {
  return {{"ops", l.ops},
          {"late_mean_ns", l.ops > 0 ? l.total / l.ops : 0},
          {"late_worst_ns", l.worst},
          {"slips", l.slips},
          {"slipped_ns", l.slipped},
          {"real_time", l.real_time}};
}

}  // namespace

Status rehearse_rank(const RunInput& in, Rank rank, CommBackend& comm, SideComms, Barrier& barrier,
                     OpObserver* observer, const std::string& run_dir) {
  Outcome outcome;
  outcome.has_values = false;
  const auto failed = [&](const Error& error) {
    comm.abort();
    outcome.error = error;
    (void)write_outcome(in, rank, outcome, nullptr, comm, {}, run_dir);
    return error;
  };
  Result<RehearsalTable> table = read_table(in, run_dir);
  if (!table) return failed(table.error());
  auto device = std::make_unique<RehearsalDevice>(in.plan, rank, table->of(rank));
  RehearsalDevice& clock = *device;  // the interpreter's, which lives as long
  device->begin_thread();            // this one issues the first ops of a step
  const std::string scale = fmt::format("{}", table->time_scale);
  *table = {};
  Result<std::unique_ptr<Interpreter>> interpreter =
      Interpreter::create(in.plan, rank, in.config, comm, observer, std::move(device));
  if (!interpreter) return failed(interpreter.error());
  ::malloc_trim(0);  // what parsing the plan left behind

  const PlanHeader& h = in.plan.header;
  const double tokens =
      1.0 * h.microbatches * h.micro_batch * h.sequence * h.mesh.size_of_group(h.data_axes);
  const bool overlap = validates_late(in.plan);
  for (int step = 0; step < total_steps(in.config); ++step) {
    if (step == 0 || !overlap) {
      const Result<Nanoseconds> start = common_start(rank, barrier, run_dir);
      if (!start) {
        outcome.error = start.error();
        break;
      }
      clock.wait_until(*start);
    }
    Result<StepResult> result = (*interpreter)->run_step(step >= untimed_steps(in.config));
    if (!result) {
      outcome.error = result.error();
      break;
    }
    result->tokens = tokens;
    outcome.steps.push_back(*result);
    if (observer)
      observer->step_ended(step, 0, tokens, result->ended - result->started, std::nullopt);
  }
  if (outcome.error) {
    const Error error = *outcome.error;
    interpreter->reset();  // its workers end first
    return failed(error);
  }
  Timeline timeline = (*interpreter)->take_timeline();
  timeline.meta["plan_id"] = in.plan_id;
  timeline.meta["device"] = "rehearsal";
  timeline.meta["time_scale"] = scale;
  if (Status s = write_outcome(in, rank, outcome, interpreter->get(), comm, timeline, run_dir,
                               {{"rehearsal", lateness_json(clock.lateness())}});
      !s)
    return s;
  return write_rank_timeline(rank_path(run_dir, rank.value, "timeline"), timeline, rank.value);
}

}  // namespace tandem::exec
