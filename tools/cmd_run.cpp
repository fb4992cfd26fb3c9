// tandem run: simulate, execute, compare and report in one go.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "sim/memory/tracker.h"
#include "tools/calibration_cache.h"
#include "tools/commands.h"
#include "tools/execute_folder.h"
#include "tools/exit_codes.h"
#include "tools/prediction.h"
#include "tools/rehearsal.h"
#include "tools/run_files.h"
#include "tools/stored_run.h"

namespace tandem::tools {
namespace {

struct Options {
  std::string file;
  std::optional<double> tolerance;
  bool verify = false;
};

// What the prediction rests on, for people and for --json.
struct Basis {
  std::string path, digest;
  int kernels_measured = 0;  // now
  double wall_s = 0;
  bool own = false;  // the scenario names a file
};

// What a rank goes through between two uses of an operand: all it holds but the optimizer's state,
// which rests until the end of the step.
Bytes footprint_of_a_rank(const Plan& plan) {
  constexpr auto kOptimizer = static_cast<std::size_t>(BufferClass::optim);
  Bytes most = 0;
  for (const sim::ProgramMemory& m : sim::track_memory(plan))
    most = std::max(most, m.needed - m.at_needed[kOptimizer]);
  return most;
}

// What the scenario itself names: a calibration, or nothing but the figures of its cluster.
Result<Basis> own_basis(const PlanInput& in) {
  Basis basis;
  basis.own = true;
  basis.path = in.scenario.cluster.calibration;
  if (basis.path.empty()) return basis;
  const Result<Calibration> c =
      read_calibration(path_of_field(in.scenario, "cluster.calibration", basis.path));
  if (!c) return c.error();
  basis.digest = digest_of(c->machine, c->precision);
  return basis;
}

// The scenario's calibration, or one from the cache that knows this plan's kernels.
Result<Basis> choose_calibration(Context& context, PlanInput& in) {
  Basis basis;
  std::string& named = in.scenario.cluster.calibration;
  if (!named.empty() || !in.scenario.cluster.local) return own_basis(in);
  const std::string precision(sim::precision_name(in.plan.header.types.compute));
  const Result<CachedCalibration> cached =
      calibration_for(context, in.plan, precision, in.scenario.execute.threads_per_rank,
                      footprint_of_a_rank(in.plan));
  if (!cached) return cached.error();
  named = basis.path = cached->path;
  in.scenario.origins.erase("cluster.calibration");  // seen from the working folder
  basis.digest = cached->digest;
  basis.kernels_measured = cached->kernels_measured;
  basis.wall_s = cached->wall_s;
  return basis;
}

std::string basis_line(const Basis& b, const Prediction& p) {
  if (!p.calibration) return "costs: the figures of the cluster; nothing was measured\n";
  std::string out = fmt::format(
      "calibration {}: {:.0f} % of the computing from kernels measured with exactly these "
      "dimensions,\n  {:.0f} % interpolated, {:.0f} % from the device's figures; no step of this "
      "run went into it\n",
      b.digest, 100 * p.sim.source_share[0], 100 * p.sim.source_share[1],
      100 * p.sim.source_share[2]);
  if (b.kernels_measured > 0)
    out += fmt::format("  {} kernels were measured now, in {:.1f} s; they stay in {}\n",
                       b.kernels_measured, b.wall_s, b.path);
  return out;
}

// `table`: where the durations of a rehearsal go; null: the run is none.
Result<Prediction> predict_run(Context& context, PlanInput& in, RehearsalTable* table) {
  if (table == nullptr) return predict(context, in);
  Result<Rehearsal> r = predict_rehearsal(context, in, 1);
  if (!r) return r.error();
  *table = std::move(r->table);
  return std::move(r->prediction);
}

Status write_page(Context& context, RunDir& dir, const PlanInput& in, Comparison& comparison) {
  if (Status s = dir.finish(manifest_of(context, in)); !s) return s;
  const Result<StoredRun> run = read_stored_run(dir.folder());
  if (!run) return run.error();
  Result<Comparison> compared = compare_run(context, *run);
  if (!compared) return compared.error();
  comparison = std::move(*compared);
  context.warn(comparison.warnings);
  context.progress("writing the report");
  const Result<std::string> page = report_of(context, *run);
  if (!page) return page.error();
  if (Status s = dir.write("report.html", *page); !s) return s;
  const Json json = Json::parse(tandem::to_json(comparison).dump());
  if (Status s = write_summary(dir, in.id, "comparison", json); !s) return s;
  return dir.finish(manifest_of(context, in));
}

// Keys of simulate, execute and compare in one object. iteration_s is the measured one; what both
// sides have is also under predicted and measured.
void fill_json(Json& out, const Basis& basis, const Json& predicted, const Json& measured,
               const Comparison& comparison, const std::string& page) {
  out.update(predicted);
  out.update(measured);
  out.update(Json::parse(tandem::to_json(comparison).dump()));
  out["predicted"] = predicted;
  out["measured"] = measured;
  out["calibration"] = {{"path", basis.path},
                        {"digest", basis.digest},
                        {"kernels_measured", basis.kernels_measured},
                        {"wall_s", basis.wall_s}};
  out["path"] = page;
}

int run_file(Context& context, const Options& o) {
  auto in = load_plan(context, {.file = o.file, .cluster = {}, .needs_cluster = true});
  if (!in) return context.fail(in.error());
  if (in->from_plan_file)
    return context.fail(make_error(Failure::usage, "E-CLI-005", "a plan file cannot be executed",
                                   o.file, "a scenario: it says what is trained, and how",
                                   "tandem simulate takes plan files"));
  if (Status s = check_executable_here(in->scenario); !s) return context.fail(s.error());
  if (in->scenario.execute.device == DeviceKind::rehearsal)
    if (Status s = check_rehearsal(in->scenario, {.verify = o.verify}); !s)
      return context.fail(s.error());
  Result<Checkpoints> checkpoints = open_checkpoints(context, *in, {});
  if (!checkpoints) return context.fail(checkpoints.error());
  auto dir = RunDir::open(run_folder(context, *in), in->id, context.options.force);
  if (!dir) return context.fail(dir.error());
  const bool rehearses = in->scenario.execute.device == DeviceKind::rehearsal;
  const Result<Basis> basis = rehearses ? own_basis(*in) : choose_calibration(context, *in);
  if (!basis) return context.fail(basis.error());

  RehearsalTable table;
  const Result<Prediction> p = predict_run(context, *in, rehearses ? &table : nullptr);
  if (!p) return context.fail(p.error());
  if (Status s = write_plan_files(*dir, *in); !s) return context.fail(s.error());
  if (rehearses)
    if (Status s = write_table(*dir, table); !s) return context.fail(s.error());
  if (Status s = write_prediction(*dir, *in, *p); !s) return context.fail(s.error());
  const Json predicted = to_json(*in, *p);
  const double predicted_s = ps_to_seconds(p->sim.iteration_ps);
  context.print(fmt::format("{}: {} ranks, {}, {} microbatches\n", in->file,
                            in->plan.header.mesh.world(), in->plan.header.schedule,
                            in->plan.header.microbatches));
  context.print(basis_line(*basis, *p));
  context.print(fmt::format("predicted  {:.2f} ms a step\n", predicted_s * 1e3));

  const Result<ExecuteSummary> summary = execute_in_folder(context, *in, dir->folder(),
                                                           {.verify = o.verify,
                                                            .predicted_step_s = predicted_s,
                                                            .checkpoints = std::move(*checkpoints),
                                                            .rehearsal = rehearses});
  // A run that failed gets no manifest: it is no complete run.
  if (!summary) return context.fail(summary.error());
  if (Status s = adopt_results(*dir); !s) return context.fail(s.error());
  Comparison comparison;
  if (Status s = write_page(context, *dir, *in, comparison); !s) return context.fail(s.error());
  context.progress("");

  const std::string page = dir->path_of("report.html");
  fill_json(context.result, *basis, predicted, to_json(*summary), comparison, page);
  context.print("measured   " + to_text(*summary));
  if (rehearses) {
    const Result<RehearsalSummary> r = summarise_rehearsal(dir->folder(), comparison, 1);
    if (!r) return context.fail(r.error());
    context.result["rehearsal"] = to_json(*r);
    context.print(to_text(*r));
  }
  context.print("\n" + tandem::to_text(comparison));
  context.print("\nreport: " + page + "\n");
  if (summary->verify && !summary->verify->passed) return kExitDiffers;
  if (!o.tolerance || std::abs(comparison.error_rel) <= *o.tolerance) return kExitOk;
  context.message(fmt::format("the error {:+.4f} is outside the tolerance {}", comparison.error_rel,
                              *o.tolerance));
  return kExitDiffers;
}

}  // namespace

void add_run(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = add_command(
      app, context,
      {.name = "run",
       .summary = "Simulate, execute, compare and report in one go",
       .details =
           "Predicts the step, runs it for real on CPU processes, and explains the difference. "
           "Where\n"
           "the scenario names no calibration, one is taken from the user's cache; what the plan\n"
           "needs and the cache lacks is measured first: kernels one by one, messages between\n"
           "processes, never a step of the run itself. error = predicted / measured - 1.",
       .examples =
           "  tandem run scenarios/quickstart.yaml\n"
           "  tandem run scenarios/quickstart.yaml --tolerance 0.15      exit code 1 beyond "
           "15 %\n"
           "  tandem run scenarios/learn/04_gpipe.yaml -o runs/gpipe --json"},
      kUsesAll);
  sub->add_option("scenario", o->file, "Scenario file")->required()->type_name("S.yaml");
  sub->add_option("--tolerance", o->tolerance, "Exit code 1 where |error| is larger")
      ->type_name("T")
      ->check(CLI::NonNegativeNumber);
  sub->add_flag("--verify", o->verify,
                "Compare losses and gradients with one process and plain autograd");
  sub->callback(
      [&context, o] { context.action = [&context, o] { return run_file(context, *o); }; });
}

}  // namespace tandem::tools
