// The table of commands, and the options that all of them have.
#include "tools/commands.h"

#include <fmt/format.h>

#include "common/base/text.h"

namespace tandem::tools {
namespace {

// A row a command, so that additions merge.
// clang-format off
constexpr Command kCommands[] = {
    {"validate", add_validate},
    {"model", add_model},
    {"plan", add_plan},
    {"schedule", add_schedule},
    {"simulate", add_simulate},
    {"execute", add_execute},
    {"run", add_run},
    {"calibrate", add_calibrate},
    {"compare", add_compare},
    {"report", add_report},
    {"trace", add_trace},
    {"schema", add_schema},
    {"version", add_version},
};
// clang-format on

void warn_unused(Context& context, unsigned uses) {
  const CommonOptions& o = context.options;
  std::vector<std::string> unused;
  if (!(uses & kUsesSets) && !o.sets.empty()) unused.emplace_back("--set");
  if (!(uses & kUsesSets) && o.seed) unused.emplace_back("--seed");
  if (!(uses & kUsesDirectory) && !o.directory.empty()) unused.emplace_back("-o");
  if (!(uses & kUsesDirectory) && o.force) unused.emplace_back("--force");
  if (unused.empty()) return;
  Diagnostic d;
  d.code = "W-CLI-001";
  d.where = {"command line"};
  d.title = "an option has no effect";
  d.found = fmt::format("{} with `tandem {}`", join(unused, ", "), context.command);
  d.expected = "options that the command uses";
  d.hint = fmt::format("leave it out; `tandem {} --help` lists what it uses", context.command);
  context.warn({d});
}

}  // namespace

std::span<const Command> commands() { return kCommands; }

CLI::App* add_command(CLI::App& app, Context& context, const CommandText& text, unsigned uses) {
  CLI::App* sub = app.add_subcommand(std::string(text.name), std::string(text.summary));
  sub->footer("");  // the program's own footer would be inherited
  sub->footer([text] {
    std::string out;
    if (!text.details.empty()) out += std::string(text.details) + "\n\n";
    return out + "Examples\n" + std::string(text.examples);
  });
  CommonOptions& o = context.options;
  const auto unused = [uses](unsigned flag) { return uses & flag ? "" : " (not used here)"; };
  sub->add_flag("--json", o.json, "Print one JSON object instead of text")->group("Common options");
  sub->add_flag("-q,--quiet", o.quiet, "Print errors only")->group("Common options");
  sub->add_option("-o,--output", o.directory,
                  std::string("Folder for the files of the run") + unused(kUsesDirectory))
      ->type_name("DIR")
      ->group("Common options");
  sub->add_flag("--force", o.force,
                std::string("Write into a folder that is not a run of the same plan") +
                    unused(kUsesDirectory))
      ->group("Common options");
  sub->add_option("--seed", o.seed,
                  std::string("Seed of all random streams: --set seed=N") + unused(kUsesSets))
      ->type_name("N")
      ->group("Common options");
  sub->add_option("--set", o.sets,
                  std::string("Set a field of the scenario, e.g. parallel.tp=2; repeatable") +
                      unused(kUsesSets))
      ->type_name("PATH=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->group("Common options");
  sub->parse_complete_callback([&context, text, uses] {
    context.command = text.name;
    warn_unused(context, uses);
  });
  return sub;
}

}  // namespace tandem::tools
