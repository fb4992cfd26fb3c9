// tandem execute: runs a scenario for real, on CPU processes of this machine, or rehearses it.
#include <fmt/format.h>

#include "common/base/limits.h"
#include "tools/commands.h"
#include "tools/execute_folder.h"
#include "tools/exit_codes.h"
#include "tools/inputs.h"
#include "tools/rehearsal.h"
#include "tools/run_files.h"

namespace tandem::tools {
namespace {

struct Options {
  std::string file;
  int ranks = 0;  // 0: not given
  std::string device;
  std::optional<double> time_scale;
  bool verify = false;
  int check_replicas = 0;
  bool resume = false;
  std::string resume_path;  // empty: the newest checkpoint of the scenario's folder
};

Status check_ranks(const Scenario& scenario, int ranks) {
  const int world = scenario.parallel.world();
  if (ranks == 0 || ranks == world) return Ok{};
  return make_error(Failure::usage, "E-EXEC-018", "the scenario has another number of ranks",
                    fmt::format("--ranks {}", ranks),
                    fmt::format("{}: tp {} * cp {} * pp {} * dp {}", world, scenario.parallel.tp,
                                scenario.parallel.cp, scenario.parallel.pp, scenario.parallel.dp),
                    fmt::format("--set parallel.dp=N, or leave --ranks out"));
}

DeviceKind device_named(const std::string& name) {
  return name == "cuda"        ? DeviceKind::cuda
         : name == "rehearsal" ? DeviceKind::rehearsal
                               : DeviceKind::cpu;
}

Status check_device(const Scenario& scenario, const Options& options) {
  if (Status s = check_executable_here(scenario); !s) return s;
  if (scenario.execute.device == DeviceKind::rehearsal)
    return check_rehearsal(scenario, {.verify = options.verify,
                                      .resume = options.resume,
                                      .check_replicas = options.check_replicas > 0});
  if (!options.time_scale) return Ok{};
  return make_error(Failure::usage, "E-CLI-004", "an option has a wrong value",
                    "--time-scale without a rehearsal", "a device whose ops wait",
                    "add --device rehearsal");
}

Status compare_with_prediction(Context& context, const std::string& folder, double time_scale) {
  const Result<StoredRun> run = read_stored_run(folder);
  if (!run) return run.error();
  const Result<Comparison> comparison = compare_run(context, *run);
  if (!comparison) return comparison.error();
  context.warn(comparison->warnings);
  const Result<RehearsalSummary> summary = summarise_rehearsal(folder, *comparison, time_scale);
  if (!summary) return summary.error();
  context.result["rehearsal"] = to_json(*summary);
  context.print(to_text(*summary));
  return Ok{};
}

int execute_file(Context& context, const Options& options) {
  auto in = load_plan(context, {.file = options.file, .cluster = "", .needs_cluster = true});
  if (!in) return context.fail(in.error());
  if (in->from_plan_file)
    return context.fail(make_error(Failure::usage, "E-CLI-005", "a plan file cannot be executed",
                                   options.file, "a scenario: it says what is trained, and how",
                                   "tandem simulate takes plan files"));
  Scenario& scenario = in->scenario;
  if (!options.device.empty()) scenario.execute.device = device_named(options.device);
  const bool rehearses = scenario.execute.device == DeviceKind::rehearsal;
  if (Status s = check_ranks(scenario, options.ranks); !s) return context.fail(s.error());
  if (Status s = check_device(scenario, options); !s) return context.fail(s.error());
  Result<Checkpoints> checkpoints =
      open_checkpoints(context, *in, {.resume = options.resume, .path = options.resume_path});
  if (!checkpoints) return context.fail(checkpoints.error());
  std::optional<Rehearsal> rehearsal;
  if (rehearses) {
    Result<Rehearsal> made = predict_rehearsal(context, *in, options.time_scale.value_or(1));
    if (!made) return context.fail(made.error());
    rehearsal = std::move(*made);
  }
  auto dir = RunDir::open(run_folder(context, *in), in->id, context.options.force);
  if (!dir) return context.fail(dir.error());
  if (Status s = write_plan_files(*dir, *in); !s) return context.fail(s.error());
  if (rehearsal) {
    if (Status s = write_table(*dir, rehearsal->table); !s) return context.fail(s.error());
    if (Status s = write_prediction(*dir, *in, rehearsal->prediction); !s)
      return context.fail(s.error());
  }
  const Result<ExecuteSummary> summary = execute_in_folder(
      context, *in, dir->folder(),
      {.verify = options.verify,
       .predicted_step_s = rehearsal ? ps_to_seconds(rehearsal->prediction.sim.iteration_ps) : 0,
       .checkpoints = std::move(*checkpoints),
       .check_replicas = options.check_replicas,
       .rehearsal = rehearses});
  // A run that failed gets no manifest: it is no complete run.
  if (!summary) return context.fail(summary.error());
  context.result.update(to_json(*summary));
  context.print(to_text(*summary));
  if (Status s = adopt_results(*dir); !s) return context.fail(s.error());
  if (Status s = dir->finish(manifest_of(context, *in)); !s) return context.fail(s.error());
  if (rehearsal)
    if (Status s = compare_with_prediction(context, dir->folder(), rehearsal->table.time_scale); !s)
      return context.fail(s.error());
  context.result["directory"] = dir->folder();
  context.message("wrote " + dir->folder());
  return summary->verify && !summary->verify->passed ? kExitDiffers : kExitOk;
}

}  // namespace

void add_execute(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = add_command(
      app, context,
      {.name = "execute",
       .summary = "Run a scenario for real on CPU processes, or rehearse it",
       .details =
           "Starts one process a rank, trains the steps of the scenario with LibTorch, and writes\n"
           "losses, the measured timeline and peak memory into the run's folder. --verify repeats\n"
           "the steps in one process with plain autograd and compares losses and every gradient;\n"
           "exit 1 where they differ. In fp32 and bf16 that process takes over which experts the\n"
           "run chose, and every choice has to be right, or a near tie. --resume goes on from a\n"
           "checkpoint, on the same mesh or on another one; without it a folder that holds\n"
           "checkpoints is refused.\n"
           "--device rehearsal keeps processes, messages and order, but every kernel is a timed\n"
           "wait as long as the simulator says and every message a token: 16 ranks of a large\n"
           "model rehearse a schedule on a laptop, without LibTorch, memory or losses. It is\n"
           "compared with the simulation of the same durations.",
       .examples = "  tandem execute scenarios/quickstart.yaml\n"
                   "  tandem execute scenarios/learn/05_1f1b.yaml --verify --set "
                   "training.precision=fp64\n"
                   "  tandem execute scenarios/learn/10_checkpoints.yaml --resume --set "
                   "parallel.tp=2\n"
                   "  tandem execute scenarios/learn/24_rehearsal.yaml --device rehearsal "
                   "--time-scale 10"},
      kUsesAll);
  sub->add_option("scenario", options->file, "Scenario file")->required()->type_name("S.yaml");
  sub->add_option("--ranks", options->ranks, "Refuse unless the scenario has N ranks")
      ->type_name("N")
      ->check(CLI::Range(1, static_cast<int>(limits::kExecutedRanks)));
  sub->add_option("--device", options->device,
                  "Where kernels run: cpu; rehearsal: nowhere, they are timed waits")
      ->type_name("cpu|cuda|rehearsal")
      ->check(CLI::IsMember({"cpu", "cuda", "rehearsal"}));
  sub->add_option("--time-scale", options->time_scale,
                  "Rehearsal: every op takes S times as long as predicted (default 1)")
      ->type_name("S")
      ->check(CLI::Range(1e-9, 1e9));
  sub->add_flag("--verify", options->verify,
                "Compare losses and gradients with one process and plain autograd");
  sub->add_option("--check-replicas", options->check_replicas,
                  "Every N steps, prove that all replicas of every parameter are equal")
      ->type_name("N")
      ->check(CLI::Range(1, static_cast<int>(limits::kSteps)));
  sub->add_option("--resume", options->resume_path,
                  "Go on from the newest checkpoint of training.checkpoint.directory, or from PATH")
      ->type_name("[PATH]")
      ->expected(0, 1)
      ->excludes("--verify");
  sub->callback([&context, options, sub] {
    options->resume = sub->count("--resume") > 0;
    context.action = [&context, options] { return execute_file(context, *options); };
  });
}

}  // namespace tandem::tools
