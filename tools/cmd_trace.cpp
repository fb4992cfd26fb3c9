// tandem trace: the timelines of a run in another format.
#include <fmt/format.h>

#include "common/timeline/chrome_json.h"
#include "common/timeline/csv.h"
#include "common/timeline/perfetto.h"
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/stored_run.h"

namespace tandem::tools {
namespace {

struct Options {
  std::string run, format = "perfetto";
};

Status check(const Options& o) {
  if (o.format == "perfetto" || o.format == "chrome" || o.format == "csv") return Ok{};
  if (o.format == "kineto")
    return make_error(Failure::usage, "E-CLI-008", "not in this version", "--format kineto",
                      "perfetto, chrome or csv", "use --format chrome, which more viewers read",
                      Location{"command line"});
  return make_error(Failure::usage, "E-CLI-004", "an option has a wrong value",
                    "--format " + o.format, "perfetto, chrome or csv",
                    "`tandem trace --help` explains the formats", Location{"command line"});
}

std::string file_name(std::string_view which, const std::string& format) {
  return fmt::format("{}.{}", which,
                     format == "perfetto" ? "pftrace"
                     : format == "chrome" ? "json"
                                          : "csv");
}

std::string encode(const Timeline& timeline, const Plan& plan, const std::string& format) {
  if (format == "chrome") return encode_chrome_json(timeline, plan);
  if (format == "csv") return encode_csv_timeline(timeline, plan);
  return encode_perfetto(timeline, plan);
}

int convert(Context& context, const Options& o) {
  if (const Status fits = check(o); !fits) return context.fail(fits.error());
  const auto run = read_stored_run(o.run);
  if (!run) return context.fail(run.error());
  if (!run->predicted && !run->measured)
    return context.fail(no_timeline(*run, "timeline", "tandem simulate -o DIR"));
  const bool elsewhere = !context.options.directory.empty();
  auto dir = RunDir::open(elsewhere ? context.options.directory : run->folder,
                          run->manifest.plan_id, context.options.force);
  if (!dir) return context.fail(dir.error());
  Json paths = Json::array();
  for (const auto& [which, timeline] :
       {std::pair{"predicted", &run->predicted}, std::pair{"measured", &run->measured}}) {
    if (!*timeline) continue;
    const std::string name = file_name(which, o.format);
    if (const Status s = dir->write(name, encode(**timeline, run->plan, o.format)); !s)
      return context.fail(s.error());
    paths.push_back(dir->path_of(name));
    context.print(dir->path_of(name) + "\n");
  }
  if (!elsewhere)
    if (const Status s = dir->finish(run->manifest); !s) return context.fail(s.error());
  context.result["paths"] = std::move(paths);
  return kExitOk;
}

}  // namespace

void add_trace(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* sub =
      add_command(app, context,
                  {.name = "trace",
                   .summary = "Convert the timelines of a run",
                   .details = "Writes predicted and measured timelines, as far as the run has "
                              "them, into its folder or\n"
                              "that of -o. perfetto: .pftrace for ui.perfetto.dev; chrome: .json "
                              "for chrome://tracing\n"
                              "and other viewers; csv: .csv for spreadsheets and scripts.",
                   .examples = "  tandem trace runs/quickstart --format chrome\n"
                               "  tandem trace runs/quickstart --format csv -o tables"},
                  kUsesDirectory);
  sub->add_option("run", o->run, "Folder of a run")->required()->type_name("RUN");
  sub->add_option("--format", o->format, "perfetto (default), chrome or csv")->type_name("NAME");
  sub->callback([&context, o] { context.action = [&context, o] { return convert(context, *o); }; });
}

}  // namespace tandem::tools
