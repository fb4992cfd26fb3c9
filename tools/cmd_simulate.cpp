// tandem simulate: when each op runs, how long a step takes and why, what memory it needs.
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/prediction.h"
#include "tools/run_files.h"
#include "tools/stored_run.h"

namespace tandem::tools {
namespace {

struct Options {
  std::string file, cluster;
};

// The folder: plan, prediction, report, manifest.
Status write_run(Context& context, const PlanInput& in, const Prediction& p, RunDir& dir) {
  if (Status s = write_plan_files(dir, in); !s) return s;
  if (Status s = write_prediction(dir, in, p); !s) return s;
  // The report is made from what is in the folder, so that a measurement there is in it as well.
  if (Status s = dir.finish(manifest_of(context, in)); !s) return s;
  auto run = read_stored_run(dir.folder());
  if (!run) return run.error();
  auto report = report_of(context, *run);
  if (!report) return report.error();
  if (Status s = dir.write("report.html", *report); !s) return s;
  return dir.finish(manifest_of(context, in));
}

int simulate_file(Context& context, const Options& o) {
  auto in = load_plan(context, {.file = o.file, .cluster = o.cluster, .needs_cluster = true});
  if (!in) return context.fail(in.error());
  const auto p = predict(context, *in);
  if (!p) return context.fail(p.error());
  context.result = to_json(*in, *p);
  context.result["wall_s"] = p->wall_s;
  auto dir = RunDir::open(run_folder(context, *in), in->id, context.options.force);
  if (!dir) return context.fail(dir.error());
  context.progress("writing " + dir->folder());
  const Status written = write_run(context, *in, *p, *dir);
  context.print(to_text(*in, *p));
  if (!written) return context.fail(written.error());
  context.result["path"] = dir->folder();
  context.message("wrote " + dir->folder() +
                  ": predicted.pftrace (for ui.perfetto.dev), report.html, summary.json");
  return kExitOk;
}

}  // namespace

void add_simulate(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = add_command(
      app, context,
      {.name = "simulate",
       .summary = "Predict a training step: time, bubble, communication, memory",
       .details = "Writes the run's folder (-o, else output.directory of the scenario): plan.txt,\n"
                  "scenario.yaml, training.json, predicted.pftrace, summary.json, report.html and\n"
                  "manifest.json. Running it again gives the same bytes. A rank that needs more "
                  "memory than\n"
                  "its device has is exit code 4, with the classes at the peak.",
       .examples =
           "  tandem simulate scenarios/quickstart.yaml\n"
           "  tandem simulate scenarios/quickstart.yaml -o runs/gpipe --set schedule=gpipe\n"
           "  tandem simulate scenarios/gpt3-175b-1024.yaml --json\n"
           "  tandem simulate runs/quickstart/plan.txt --cluster \"dgx-a100 x 1\" -o runs/a100"},
      kUsesAll);
  sub->add_option("input", o->file, "Scenario, or plan file (needs --cluster)")
      ->required()
      ->type_name("S.yaml|plan.txt");
  sub->add_option("--cluster", o->cluster,
                  "Cluster preset, \"NAME x NODES\", or a preset file; for a scenario: instead of "
                  "its cluster.preset")
      ->type_name("NAME");
  sub->callback(
      [&context, o] { context.action = [&context, o] { return simulate_file(context, *o); }; });
}

}  // namespace tandem::tools
