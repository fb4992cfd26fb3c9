// tandem validate: reads and checks a scenario; nothing is built.
#include <fmt/format.h>

#include "common/parallel/groups.h"
#include "common/scenario/explain.h"
#include "common/scenario/validate.h"
#include "tools/commands.h"
#include "tools/degrees.h"
#include "tools/exit_codes.h"
#include "tools/inputs.h"

namespace tandem::tools {
namespace {

struct Options {
  std::string file;
  bool explain = false;
};

std::string summary(const Scenario& s) {
  return fmt::format(
      "{}: ok\n  model {} layers, hidden {}, sequence {}; {}: {} ranks; schedule "
      "{}, "
      "{} microbatches\n",
      s.file, s.model.layers, s.model.hidden, s.training.sequence, degrees_text(mesh_of(s)),
      s.parallel.world(), s.schedule.kind, s.num_microbatches());
}

int validate_file(Context& context, const Options& options) {
  const auto scenario = load_scenario(context, options.file);
  if (!scenario) return context.fail(scenario.error());
  context.result["name"] = scenario->name;
  context.result["ranks"] = scenario->parallel.world();
  context.result["microbatches"] = scenario->num_microbatches();
  if (options.explain) {
    context.result["scenario"] = explain(*scenario);
    context.print(explain(*scenario));
  } else {
    context.print(summary(*scenario));
  }
  return kExitOk;
}

}  // namespace

void add_validate(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = add_command(
      app, context,
      {.name = "validate",
       .summary = "Read and check a scenario",
       .details = "Reports every fault at once, each with its line, the arithmetic and a way out.",
       .examples =
           "  tandem validate scenarios/quickstart.yaml\n"
           "  tandem validate scenarios/quickstart.yaml --explain      every field and its origin\n"
           "  tandem validate scenarios/quickstart.yaml --set parallel.tp=3      would that work?"},
      kUsesSets);
  sub->add_option("scenario", options->file, "Scenario file")->required()->type_name("S.yaml");
  sub->add_flag("--explain", options->explain,
                "Print the full scenario, with the origin of each value");
  sub->callback([&context, options] {
    context.action = [&context, options] { return validate_file(context, *options); };
  });
}

}  // namespace tandem::tools
