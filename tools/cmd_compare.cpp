// tandem compare: predicted against measured of one run, or two runs of the same plan.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/stored_run.h"

namespace tandem::tools {
namespace {

struct Options {
  std::vector<std::string> runs;
  std::optional<double> tolerance;
};

// The timeline that stands for a run beside another run: what was measured, else what was
// predicted.
const Timeline* timeline_of(const StoredRun& run) {
  return run.measured ? &*run.measured : run.predicted ? &*run.predicted : nullptr;
}

Result<Comparison> compare_two(const StoredRun& a, const StoredRun& b) {
  if (a.manifest.plan_id != b.manifest.plan_id)
    return make_error(
        Failure::bad_input, "E-TIME-006", "the two timelines belong to different plans",
        fmt::format("plan {} and plan {}", a.manifest.plan_id, b.manifest.plan_id),
        "two runs of one plan: ops are joined by their id",
        "compare step times of different plans by their summary.json", Location{b.folder});
  for (const StoredRun* run : {&a, &b})
    if (timeline_of(*run) == nullptr)
      return no_timeline(*run, "timeline", "tandem simulate -o DIR");
  return compare(a.plan, *timeline_of(a), *timeline_of(b),
                 {.predicted_name = a.folder, .measured_name = b.folder});
}

Result<Comparison> compare_runs(Context& context, const Options& o, std::string& plan_id) {
  auto a = read_stored_run(o.runs[0]);
  if (!a) return a.error();
  plan_id = a->manifest.plan_id;
  if (o.runs.size() == 1) return compare_run(context, *a);
  auto b = read_stored_run(o.runs[1]);
  if (!b) return b.error();
  return compare_two(*a, *b);
}

int compare_folders(Context& context, const Options& o) {
  std::string plan_id;
  const auto c = compare_runs(context, o, plan_id);
  if (!c) return context.fail(c.error());
  context.warn(c->warnings);
  const Json json = Json::parse(tandem::to_json(*c).dump());
  context.result = json;
  context.print(to_text(*c));
  if (o.runs.size() == 1) {
    auto manifest = read_manifest(o.runs[0]);
    if (!manifest) return context.fail(manifest.error());
    auto dir = RunDir::open(o.runs[0], plan_id, false);
    if (!dir) return context.fail(dir.error());
    if (const Status s = write_summary(*dir, plan_id, "comparison", json); !s)
      return context.fail(s.error());
    if (const Status s = dir->finish(*manifest); !s) return context.fail(s.error());
  }
  if (!o.tolerance || std::abs(c->error_rel) <= *o.tolerance) return kExitOk;
  context.message(
      fmt::format("the error {:+.4f} is outside the tolerance {}", c->error_rel, *o.tolerance));
  return kExitDiffers;
}

}  // namespace

void add_compare(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = add_command(
      app, context,
      {.name = "compare",
       .summary = "Compare prediction and measurement, or two runs of one plan",
       .details =
           "error = predicted / measured - 1. The waterfall sums to the difference of the step "
           "times\n"
           "exactly. The replay error is what is left when every op takes as long as it was "
           "measured:\n"
           "the scheduling model's share. Of two runs, RUN_A stands for the prediction; of each "
           "the\n"
           "measured timeline is taken where there is one. Of one run, the result goes into its\n"
           "summary.json too.",
       .examples = "  tandem compare runs/quickstart\n"
                   "  tandem compare runs/quickstart --tolerance 0.1      exit code 1 beyond 10 %\n"
                   "  tandem compare runs/monday runs/tuesday --json"},
      kUsesNone);
  sub->add_option("run", o->runs, "Folder of a run; two: RUN_A RUN_B")
      ->required()
      ->expected(1, 2)
      ->type_name("RUN");
  sub->add_option("--tolerance", o->tolerance, "Exit code 1 where |error| is larger")
      ->type_name("T")
      ->check(CLI::NonNegativeNumber);
  sub->callback(
      [&context, o] { context.action = [&context, o] { return compare_folders(context, *o); }; });
}

}  // namespace tandem::tools
