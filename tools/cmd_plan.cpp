// tandem plan: builds (or reads) a plan, verifies it, and shows it.
#include <fmt/format.h>

#include <algorithm>

#include "common/base/text.h"
#include "common/plan/build.h"
#include "common/plan/export_dot.h"
#include "common/report/numbers.h"
#include "common/schedule/text.h"
#include "tools/chakra_files.h"
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/plan_views.h"
#include "tools/run_files.h"

namespace tandem::tools {
namespace {

struct Options {
  std::string file, format, dump_after;
  bool grid = false, groups = false, stats = false, evaluation = false, settling = false;
};

Error usage(std::string code, std::string title, std::string found, std::string expected,
            std::string hint) {
  return make_error(Failure::usage, std::move(code), std::move(title), std::move(found),
                    std::move(expected), std::move(hint), Location{"command line"});
}

// What can be refused before anything is built. `output`: of -o.
Status check(const Options& o, const std::string& output) {
  static const std::vector<std::string> kFormats = {"text", "csv", "dot", "chakra"};
  if (!o.format.empty() && std::find(kFormats.begin(), kFormats.end(), o.format) == kFormats.end())
    return usage("E-CLI-004", "an option has a wrong value", "--format " + o.format,
                 "text, csv, dot or chakra", "`tandem plan --help` explains the formats");
  const std::string side = o.settling ? "--settling" : o.evaluation ? "--evaluation" : "";
  if (o.settling && (o.evaluation || !o.dump_after.empty()))
    return usage("E-CLI-005", "these options do not go together",
                 "--settling with " + std::string(o.evaluation ? "--evaluation" : "--dump-after"),
                 "one of them", "the plan of settling has no visits to lower");
  if (!side.empty() && is_plan_file(o.file))
    return usage("E-CLI-005", "these options do not go together", side + " with a plan file",
                 side + " with a scenario", "a plan file says by itself what it is");
  if (o.format == "chakra" && !o.dump_after.empty())
    return usage("E-CLI-005", "these options do not go together",
                 "--format chakra with --dump-after", "one of them",
                 "a trace is of the plan that the last step leaves behind");
  if (o.format == "chakra")
    if (const Status fits = check_chakra_prefix(output); !fits) return fits;
  if (!side.empty() && !output.empty() && o.format != "chakra")
    return usage("E-CLI-005", "these options do not go together", side + " with -o", "one of them",
                 o.settling ? "the folder of a run has plan_settling.txt beside plan.txt"
                            : "set training.evaluation.every: the folder of a run then has "
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
                 "make a smaller plan by --set: fewer microbatches (training.global_batch), layers "
                 "(model.layers) or pipeline ranks (parallel.pp); or use --format csv, which has "
                 "no limit");
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

// PREFIX.<rank>.et and PREFIX.groups.json.
Status write_chakra(Context& context, PlanInput& in) {
  const auto files = write_chakra_files(context, in);
  if (!files) return files.error();
  const std::string& prefix = context.options.directory;
  Json paths = Json::array();
  for (int r = 0; r < files->ranks; ++r) paths.push_back(fmt::format("{}.{}.et", prefix, r));
  context.result["paths"] = std::move(paths);
  context.result["groups_path"] = files->groups_path;
  context.result["bytes"] = files->bytes;
  context.result["durations"] = files->has_durations;
  context.result["launch_order"] = files->has_launch_order;
  context.print(fmt::format("{}.0.et .. {}.{}.et: {} in {} traces\n{}: groups of ranks\n", prefix,
                            prefix, files->ranks - 1,
                            text_of_bytes(static_cast<double>(files->bytes)), files->ranks,
                            files->groups_path));
  if (!files->has_durations)
    context.message(
        "a plan file knows no cluster, so durations are 0: run the traces with a "
        "roofline");
  if (!files->has_launch_order)
    context.message(
        "the plan has no order of launches that is safe where a device runs one "
        "communication at a time, as ASTRA-sim does: a run of the traces may get stuck");
  return Ok{};
}

int show_plan(Context& context, const Options& o) {
  if (const Status fits = check(o, context.options.directory); !fits)
    return context.fail(fits.error());
  if (!o.dump_after.empty()) return dump(context, o);
  auto in = load_plan(context, {.file = o.file,
                                .cluster = "",
                                .needs_cluster = false,
                                .evaluation = o.evaluation,
                                .settling = o.settling});
  if (!in) return context.fail(in.error());
  describe(context, *in);
  const bool chakra = o.format == "chakra";
  if (chakra) {
    if (const Status s = write_chakra(context, *in); !s) return context.fail(s.error());
  } else if (!context.options.directory.empty()) {
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
  if (!chakra && (!o.format.empty() || (!view && !context.options.json))) {
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
           "training.evaluation.every is above 0, plan_evaluation.txt, and with updates that are "
           "checked late plan_settling.txt. With --format chakra -o is "
           "a\n"
           "prefix: PREFIX.<rank>.et for every rank, and PREFIX.groups.json.",
       .examples =
           "  tandem plan scenarios/quickstart.yaml                      the plan as text\n"
           "  tandem plan scenarios/quickstart.yaml --grid --stats       a picture, and counts\n"
           "  tandem plan scenarios/quickstart.yaml --set schedule=gpipe --grid\n"
           "  tandem plan scenarios/learn/06_three_axes.yaml --groups    who communicates with "
           "whom\n"
           "  tandem plan scenarios/quickstart.yaml --format csv > ops.csv\n"
           "  tandem plan scenarios/learn/05_1f1b.yaml --set training.global_batch=2 --format dot "
           "| dot -Tsvg "
           "> plan.svg\n"
           "  tandem plan scenarios/quickstart.yaml --format chakra -o traces/quickstart\n"
           "  tandem plan scenarios/quickstart.yaml --dump-after p2p     the form inside the "
           "builder"},
      kUsesAll);
  sub->add_option("input", o->file, "Scenario, or plan file (its first line starts with \"plan\")")
      ->required()
      ->type_name("S.yaml|plan.txt");
  sub->add_flag("--grid", o->grid, "Step x rank picture with unit costs and free communication");
  sub->add_flag("--groups", o->groups, "Ranks of every communicator, and of the axes tp, dp, pp");
  sub->add_option("--format", o->format,
                  "text (default), csv: one op a row, dot: Graphviz, at most 2000 ops, chakra: "
                  "execution traces for ASTRA-sim")
      ->type_name("NAME");
  sub->add_option("--dump-after", o->dump_after,
                  "Text of the form after one step of lowering: " + join(lowering_steps(), ", "))
      ->type_name("STEP");
  sub->add_flag("--evaluation", o->evaluation,
                "The plan of an evaluation instead: forward visits and their loss");
  sub->add_flag("--settling", o->settling,
                "The plan of settling instead (schedule.optimizer_barrier: post_validated): an "
                "update once more, with the true norm");
  sub->add_flag("--stats", o->stats, "Ops by kind, phase and kernel; bytes by communicator");
  sub->callback(
      [&context, o] { context.action = [&context, o] { return show_plan(context, *o); }; });
}

}  // namespace tandem::tools
