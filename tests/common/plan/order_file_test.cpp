// Goal    schedule kind file plans what its file says, and nothing else changes.
// Method  the text of a generated order is given as a file: the plan must be that of the kind, but
//         for the names in its first line. Idle cells and a header change nothing.
#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <regex>

#include "common/base/file.h"
#include "common/model/flops.h"
#include "common/parallel/memory.h"
#include "common/plan/build.h"
#include "common/plan/print.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/explain.h"
#include "common/scenario/read.h"
#include "common/schedule/text.h"

using namespace tandem;
namespace fs = std::filesystem;

namespace {

Scenario scenario_of(const std::string& path, const std::string& schedule) {
  auto out = read_scenario_text(path,
                                "tandem: 1\nmodel: {preset: gpt-tiny, layers: 8}\n"
                                "training: {global_batch: 8, micro_batch: 1}\n"
                                "parallel: {pp: 2}\nschedule: " +
                                    schedule + "\n");
  if (!out) FAIL(to_text(out.error().diagnostics));
  return std::move(*out);
}

std::string plan_text(const Scenario& s) {
  const auto plan = build_plan(s);
  if (!plan) FAIL(to_text(plan.error().diagnostics));
  CHECK(verify_plan(*plan).ok());
  static const std::regex names(" digest=[0-9a-f]+ schedule=[a-z0-9_]+");
  return std::regex_replace(print(*plan), names, "", std::regex_constants::format_first_only);
}

}  // namespace

TEST_CASE("schedule kind file: the plan of a kind's own text is the kind's plan") {
  const fs::path folder =
      fs::temp_directory_path() / ("tandem_order_file_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  const std::string scenario = (folder / "s.yaml").string();
  for (const char* kind : {"gpipe", "1f1b", "interleaved_1f1b", "zb_h1", "zbv", "dualpipe",
                           "dualpipev", "chimera", "zb_greedy"}) {
    CAPTURE(kind);
    const Scenario made = scenario_of(scenario, kind);
    const auto order = build_order(made);
    REQUIRE(order.ok());
    Order idle = *order;
    for (RankOrder& list : idle.ranks) list.insert(list.begin(), {ActionKind::idle, 0, 0});
    for (const std::string& text : {to_text(*order), to_file(idle, kind)}) {
      REQUIRE(write_file_atomic((folder / "o.csv").string(), text).ok());
      // Relative to the scenario's folder.
      const Scenario read = scenario_of(scenario, "{kind: file, file: o.csv}");
      CHECK(read.schedule.stages_per_rank == made.schedule.stages_per_rank);
      CHECK(read.parallel.layer_split == made.parallel.layer_split);
      CHECK(plan_text(read) == plan_text(made));
      for (int pp = 0; pp < 2; ++pp) {  // closed forms know where its stages lie
        CHECK(executed_flops_of_rank(read, pp) == executed_flops_of_rank(made, pp));
        CHECK(local_parameters(read, pp) == local_parameters(made, pp));
        CHECK(bucket_sizes(read, pp).size() == bucket_sizes(made, pp).size());
      }
      CHECK(explain(read).find("file: o.csv") != std::string::npos);
    }
  }
  fs::remove_all(folder);
}
