// tandem plan: builds (or reads) a plan, verifies it, and shows it.
#include <fmt/format.h>

#include <algorithm>

#include "common/base/text.h"
#include "common/plan/build.h"
#include "common/schedule/text.h"
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/plan_views.h"
#include "tools/run_files.h"

namespace tandem::tools {
namespace {

struct Options {
  std::string file, format, dump_after;
  bool grid = false, groups = false, stats = false, evaluation = false;
};

Error usage(std::string code, std::string title, std::string found, std::string expected,
            std::string hint) {
  return make_error(Failure::usage, std::move(code), std::move(title), std::move(found),
                    std::move(expected), std::move(hint), Location{"command line"});
}

// What can be refused before anything is built. `writes`: -o is there.
Status check(const Options& o, bool writes) {
  static const std::vector<std::string> kFormats = {"text", "csv", "dot", "chakra"};
  if (o.format == "chakra")
    return usage("E-CLI-008", "not in this version", "--format chakra", "text, csv or dot",
                 "use --format csv, which has one op a row");
  if (!o.format.empty() && std::find(kFormats.begin(), kFormats.end(), o.format) == kFormats.end())
    return usage("E-CLI-004", "an option has a wrong value", "--format " + o.format,
                 "text, csv, dot or chakra", "`tandem plan --help` explains the formats");
  if (o.evaluation && is_plan_file(o.file))
    return usage("E-CLI-005", "these options do not go together", "--evaluation with a plan file",
                 "--evaluation with a scenario", "a plan file says by itself what it is");
  if (o.evaluation && writes)
    return usage("E-CLI-005", "these options do not go together", "--evaluation with -o",
                 "one of them",
                 "set training.evaluation.every: the folder of a run then has "
                 "plan_evaluation.txt beside plan.txt");
  const auto& steps = lowering_steps();
  if (!o.dump_after.empty() && std::find(steps.begin(), steps.end(), o.dump_after) == steps.end()) {
    const auto nearest = nearest_name(o.dump_after, steps);
    return usage("E-CLI-004", "an option has a wrong value", "--dump-after " + o.dump_after,
                 "one of " + join(steps, ", "),
                 nearest ? fmt::format("did you mean \"{}\"?", *nearest)
                         : "the steps are in the order in which they run");
  }
  if (!o.dump_after.empty() && is_plan_file(o.file))
    return usage("E-CLI-005", "these options do not go together", "--dump-after with a plan file",
                 "--dump-after with a scenario", "a plan file is what the last step leaves behind");
  return Ok{};
}

int dump(Context& context, const Options& o) {
  const auto scenario = load_scenario(context, o.file);
  if (!scenario) return context.fail(scenario.error());
  const auto text = dump_after(*scenario, o.dump_after, o.evaluation);
  if (!text) return context.fail(text.error());
  context.result["after"] = o.dump_after;
  context.result["text"] = *text;
  context.print(*text);
  return kExitOk;
}

// Takes the text, which may have hundreds of megabytes, out of `in`.
Result<std::string> formatted(PlanInput& in, const std::string& format) {
  if (format == "csv") return plan_csv(in.plan);
  if (format != "dot") return std::move(in.text);
  if (in.plan.ops.size() > kDotOps)
    return usage("E-CLI-012", "the plan is too large for a picture",
                 fmt::format("{} ops", in.plan.ops.size()), fmt::format("at most {} ops", kDotOps),
                 "use --format csv, or --set training.global_batch to fewer microbatches");
  return plan_dot(in.plan);
}

void describe(Context& context, const PlanInput& in) {
  Json& r = context.result;
  r["plan_id"] = in.id;
  r["ops"] = in.plan.ops.size();
  r["programs"] = in.plan.programs.size();
  Json communicators = Json::array();
  for (const Communicator& c : in.plan.communicators)
    communicators.push_back({{"name", in.plan.name(c.name)}, {"members", c.size}});
  r["communicators"] = std::move(communicators);
  r["bytes_by_communicator"] = bytes_by_communicator(in.plan);
  Json in_flight = Json::array(), peaks = Json::array();
  for (const ProgramMemory& m : in.verification.programs) {
    in_flight.push_back(m.peak_w);
    peaks.push_back(m.peak);
  }
  r["peak_in_flight"] = std::move(in_flight);
  r["peak_bytes"] = std::move(peaks);
  r["deadlock_free"] = in.verification.deadlock_free;
}

int show_plan(Context& context, const Options& o) {
  if (const Status fits = check(o, !context.options.directory.empty()); !fits)
    return context.fail(fits.error());
  if (!o.dump_after.empty()) return dump(context, o);
  auto in = load_plan(
      context, {.file = o.file, .cluster = "", .needs_cluster = false, .evaluation = o.evaluation});
  if (!in) return context.fail(in.error());
  describe(context, *in);
  if (!context.options.directory.empty()) {
    auto dir = RunDir::open(context.options.directory, in->id, context.options.force);
    if (!dir) return context.fail(dir.error());
    if (const Status s = write_plan_files(*dir, *in); !s) return context.fail(s.error());
    if (const Status s = dir->finish(manifest_of(context, *in)); !s) return context.fail(s.error());
    context.message("wrote " + dir->path_of("plan.txt"));
  }
  const bool view = o.grid || o.groups || o.stats;
  if (o.grid) {
    const std::string grid = time_grid(order_of(in->plan));
    context.result["grid"] = grid;
    context.print(grid);
  }
  if (o.groups) {
    context.result["groups"] = groups_json(in->plan);
    context.print(groups_text(in->plan));
  }
  if (o.stats) {
    context.result["stats"] = stats_json(in->plan, in->verification);
    context.print(stats_text(in->plan, in->verification));
  }
  if (!o.format.empty() || (!view && !context.options.json)) {
    auto text = formatted(*in, o.format);
    if (!text) return context.fail(text.error());
    if (!o.format.empty()) context.result["text"] = *text;
    context.print(*text);
  }
  return kExitOk;
}

}  // namespace

void add_plan(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = add_command(
      app, context,
      {.name = "plan",
       .summary = "Build and verify the plan: every operation of a step",
       .details =
           "Prints the canonical text of the plan, or the views asked for. A plan that could\n"
           "deadlock, or that uses memory wrongly, is refused with exit code 3.\n"
           "With -o the folder gets plan.txt, scenario.yaml and training.json, and, where\n"
           "training.evaluation.every is above 0, plan_evaluation.txt.",
       .examples =
           "  tandem plan scenarios/quickstart.yaml                      the plan as text\n"
           "  tandem plan scenarios/quickstart.yaml --grid --stats       a picture, and counts\n"
           "  tandem plan scenarios/quickstart.yaml --set schedule=gpipe --grid\n"
           "  tandem plan scenarios/learn/06_three_axes.yaml --groups    who communicates with "
           "whom\n"
           "  tandem plan scenarios/quickstart.yaml --format csv > ops.csv\n"
           "  tandem plan scenarios/quickstart.yaml --dump-after p2p     the form inside the "
           "builder"},
      kUsesAll);
  sub->add_option("input", o->file, "Scenario, or plan file (its first line starts with \"plan\")")
      ->required()
      ->type_name("S.yaml|plan.txt");
  sub->add_flag("--grid", o->grid, "Step x rank picture with unit costs and free communication");
  sub->add_flag("--groups", o->groups, "Ranks of every communicator, and of the axes tp, dp, pp");
  sub->add_option("--format", o->format,
                  "text (default), csv: one op a row, dot: Graphviz, at most 2000 ops")
      ->type_name("NAME");
  sub->add_option("--dump-after", o->dump_after,
                  "Text of the form after one step of lowering: " + join(lowering_steps(), ", "))
      ->type_name("STEP");
  sub->add_flag("--evaluation", o->evaluation,
                "The plan of an evaluation instead: forward visits and their loss");
  sub->add_flag("--stats", o->stats, "Ops by kind, phase and kernel; bytes by communicator");
  sub->callback(
      [&context, o] { context.action = [&context, o] { return show_plan(context, *o); }; });
}

}  // namespace tandem::tools
