// tandem report: the HTML page of a run, made from what is in its folder.
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/stored_run.h"

namespace tandem::tools {
namespace {

int write_report(Context& context, const std::string& folder) {
  const auto run = read_stored_run(folder);
  if (!run) return context.fail(run.error());
  const auto page = report_of(context, *run);
  if (!page) return context.fail(page.error());
  const std::string& id = run->manifest.plan_id;
  const bool elsewhere = !context.options.directory.empty();
  auto dir =
      RunDir::open(elsewhere ? context.options.directory : run->folder, id, context.options.force);
  if (!dir) return context.fail(dir.error());
  if (const Status s = dir->write("report.html", *page); !s) return context.fail(s.error());
  // Elsewhere is a folder with a page in it, not a run: it gets no manifest of its own.
  if (!elsewhere)
    if (const Status s = dir->finish(run->manifest); !s) return context.fail(s.error());
  context.result["path"] = dir->path_of("report.html");
  context.print(dir->path_of("report.html") + "\n");
  return kExitOk;
}

}  // namespace

void add_report(CLI::App& app, Context& context) {
  auto folder = std::make_shared<std::string>();
  CLI::App* sub = add_command(app, context,
                              {.name = "report",
                               .summary = "Write the HTML report of a run",
                               .details = "One file that opens without a network: timelines, "
                                          "waterfall, memory, tables. Written into\n"
                                          "the folder of the run, or of -o.",
                               .examples = "  tandem report runs/quickstart\n"
                                           "  tandem report runs/quickstart -o pages"},
                              kUsesDirectory);
  sub->add_option("run", *folder, "Folder of a run")->required()->type_name("RUN");
  sub->callback([&context, folder] {
    context.action = [&context, folder] { return write_report(context, *folder); };
  });
}

}  // namespace tandem::tools
