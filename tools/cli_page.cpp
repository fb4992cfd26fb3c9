// docs/cli.md and the frozen list of flags, from the same CLI11 objects that parse.
#include <fmt/format.h>

#include "common/base/text.h"
#include "tools/cli.h"
#include "tools/commands.h"

namespace tandem::tools {
namespace {

std::vector<CLI::App*> visible_commands(CLI::App& app) {
  std::vector<CLI::App*> list;
  for (CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    if (!sub->get_group().empty()) list.push_back(sub);
  return list;
}

// "-o,--output DIR", or for a positional "S.yaml".
std::string flag_text(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  if (option.get_positional()) return type.empty() ? option.get_name() : type;
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  const bool takes_value = option.get_items_expected_max() > 0 && !type.empty();
  return join(names, ",") + (takes_value ? " " + type : "");
}

bool is_common(const CLI::Option& option) { return option.get_group() == "Common options"; }
bool is_help(const CLI::Option& option) { return option.check_lname("help"); }

std::vector<const CLI::Option*> own_options(const CLI::App& sub) {
  std::vector<const CLI::Option*> list;
  for (const CLI::Option* option : sub.get_options([](const CLI::Option*) { return true; }))
    if (!is_common(*option) && !is_help(*option)) list.push_back(option);
  return list;
}

std::string markdown(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

std::string command_section(CLI::App& sub) {
  std::string out = fmt::format("## tandem {}\n\n{}.\n\n", sub.get_name(), sub.get_description());
  std::string usage = fmt::format("tandem {}", sub.get_name());
  for (const CLI::Option* option : own_options(sub))
    if (option->get_positional())
      usage += option->get_required() ? " " + flag_text(*option) : " [" + flag_text(*option) + "]";
  out += fmt::format("    {} [options]\n\n", usage);
  std::string rows;
  for (const CLI::Option* option : own_options(sub))
    rows += fmt::format("| `{}` | {} |\n", markdown(flag_text(*option)),
                        markdown(option->get_description()));
  if (!rows.empty()) out += "| argument | meaning |\n| --- | --- |\n" + rows + "\n";
  const std::string footer = sub.get_footer();
  const auto at = footer.find("Examples\n");
  if (at > 0 && at != std::string::npos) out += std::string(trim(footer.substr(0, at))) + "\n\n";
  out += "```\n";
  const std::string examples = footer.substr(at + 9);
  for (const auto line : split(examples, '\n'))
    out += std::string(line.starts_with("  ") ? line.substr(2) : line) + "\n";
  return out + "```\n";
}

constexpr std::string_view kHead = R"(# The command line

Generated from the program's own tables (tools/cli_page.cpp); a test compares.

One program, `tandem`. Files in, files out. stdout is the result, stderr the messages. With `--json`
stdout is one object: `ok`, `command`, the keys below, `errors[]` and `warnings[]`; each message is
an object with `code`, `file`, `line`, `column`, `title`, `found`, `expected`, `hint` and `notes[]`,
and stderr stays empty. Colour appears only on a terminal and never with `NO_COLOR`.

)";

constexpr std::string_view kExitCodes = R"(
## Exit codes

| code | meaning |
| --- | --- |
| 0 | ok |
| 1 | a comparison outside its tolerance |
| 2 | usage: unknown flag, missing argument, an output folder that holds something else |
| 3 | bad input file: syntax, type, range, a plan that does not verify, a damaged timeline |
| 4 | infeasible: well-formed but impossible, such as degrees that do not fit, or too little memory |
| 5 | execution failed, or this build has no executor |
| 6 | timeout or peer lost |
| 7 | output: disk full, write error, closed pipe |
| 70 | internal error: please report it |
| 130, 143 | interrupted, terminated |
)";

constexpr std::string_view kNumbers = R"(
## What simulate prints

Keys of `--json`, and of `predicted` in `summary.json` (without `wall_s`):

| key | meaning |
| --- | --- |
| `iteration_s` | the slowest rank's step, from its first issue to its last end |
| `tokens_per_s` | microbatches * micro_batch * sequence * data ranks (dp; dp * ep where ep ranks read their own batches) / `iteration_s` |
| `mfu` | model FLOPs of a step (`tandem model`) / (`iteration_s` * peak of all devices); on cluster local the peak is that of the cores that the ranks share. `null` for a plan file, which does not know the model |
| `bubble` | 1 - (computing + exposed transfer) / `iteration_s`, mean over ranks |
| `exposed_comm_s` | time in which a rank has nothing to compute and a communication is moving data, mean over ranks |
| `peak_bytes[]` | by rank: most bytes of plan buffers alive at once |
| `by_class{}` | bytes by buffer class at that moment, on the lowest rank that holds most; they sum to its `peak_bytes` |
| `kernel_scratch_bytes` | most that one kernel takes beside the plan's buffers |
| `time_s{}` | where a rank's step goes, mean over ranks: computing by kernel class, transfer and waiting by communicator, idle. It sums to the mean of the ranks' own steps |
| `cost_sources{}` | share of the computing whose cost was measured, interpolated between measurements, or taken from the roofline |
| `simulated_events`, `simulated_ranks` | work of the simulator; ranks that behave alike are simulated once |
| `wall_s` | real time of the simulation itself; never in a file |

## What plan prints

| key | meaning |
| --- | --- |
| `plan_id` | the first 16 hex digits of the SHA-256 of the canonical text |
| `bytes_by_communicator{}` | what one rank of each program hands over in a step, summed over the programs; a send counts, its receive does not |
| `peak_in_flight[]` | by program: most (stage, microbatch) visits between their first forward and their last backward operation |
| `peak_bytes[]` | by program: most bytes of plan buffers alive at once |
| `deadlock_free` | the plan ends under the rules of the cluster's library: rendezvous, and for nccl one communication at a time in the order of issue |
| `grid`, `groups{}`, `stats{}`, `text` | with the option of that name, or `--format` |

## The folder of a run

`simulate`, `execute` and `run` write one; `compare`, `report` and `trace` read it. `-o` names it, else
`output.directory` of the scenario. An empty folder is taken, a run of the same plan is updated file by
file, anything else is refused without `--force`, and links are not followed.

| file | holds |
| --- | --- |
| `manifest.json` | written last: command, versions, plan id, seed, SHA-256 of inputs and files. A folder without it is no complete run |
| `scenario.yaml` | the scenario in full form |
| `plan.txt` | the plan; its SHA-256 starts with the plan id |
| `plan_evaluation.txt` | where `training.evaluation.every` is above 0: the plan of evaluations, which is no part of the plan id |
| `plan_settling.txt` | with `schedule.optimizer_barrier: post_validated`: how an update is made once more with the true norm; no part of the plan id either |
| `training.json`, `corpus.txt` | what ranks need beside the plan, and the built-in text |
| `calibration.cal.json` | a copy of the calibration that was used |
| `predicted.pftrace`, `measured.pftrace` | timelines, for ui.perfetto.dev and for `compare` |
| `metrics.jsonl`, `tensorboard/`, `verify.json`, `ranks/` | of an execution; metrics of each step as lines of JSON and for TensorBoard |
| `summary.json` | the numbers: `predicted`, `measured`, `comparison` |
| `report.html` | one page that needs no network |
)";

}  // namespace

std::string cli_page() {
  Context context;
  const auto app = make_app(context);
  std::string out(kHead);
  const auto list = visible_commands(*app);
  out += "| command | does |\n| --- | --- |\n";
  for (const CLI::App* sub : list)
    out += fmt::format("| [`{0}`](#tandem-{0}) | {1} |\n", sub->get_name(), sub->get_description());
  out += "\n## Options of every command\n\n| option | meaning |\n| --- | --- |\n";
  for (const CLI::Option* option : list.front()->get_options())
    if (is_common(*option)) {
      std::string text = option->get_description();
      if (const auto at = text.find(" (not used here)"); at != std::string::npos) text.resize(at);
      out += fmt::format("| `{}` | {} |\n", markdown(flag_text(*option)), markdown(text));
    }
  out +=
      "| `-h,--help` | Explain the command and its options |\n"
      "\nAn option that a command does not use is taken with a warning.\n\n";
  for (CLI::App* sub : list) out += command_section(*sub) + "\n";
  out.pop_back();
  return out + std::string(kExitCodes) + std::string(kNumbers);
}

std::string flag_list() {
  Context context;
  const auto app = make_app(context);
  std::string out;
  for (const CLI::App* sub : visible_commands(*app))
    for (const CLI::Option* option : sub->get_options([](const CLI::Option*) { return true; }))
      out += fmt::format("{} {}\n", sub->get_name(), flag_text(*option));
  return out;
}

}  // namespace tandem::tools
