// Reading a run's folder back: plan, timelines, scenario. And the report, which is made from them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/report/compare.h"
#include "common/scenario/scenario.h"
#include "common/timeline/timeline.h"
#include "tools/run_dir.h"

namespace tandem::tools {

struct StoredRun {
  std::string folder;
  Manifest manifest;
  Plan plan;
  std::optional<Scenario> scenario;  // absent: simulated from a plan file
  std::optional<Timeline> predicted, measured;
};

// Checks every file it reads against the manifest. E-CLI-009, E-CLI-010; codes of the readers.
[[nodiscard]] Result<StoredRun> read_stored_run(const std::string& folder);

// E-CLI-011: the run has no such timeline; `how` is the command that makes one.
[[nodiscard]] Error no_timeline(const StoredRun& run, std::string_view what, std::string_view how);

// A prediction is compared with what it was made for: with a rehearsal one of its durations alone.
[[nodiscard]] bool is_of_one_device(const Timeline& predicted, const Timeline& measured);

// Predicted against measured of one run, with the replay (where the scenario is known: the
// simulator needs its cluster). E-CLI-011: the prediction is there, but not of this device.
[[nodiscard]] Result<Comparison> compare_run(Context& context, const StoredRun& run);

// report.html of a run: the comparison where both timelines are there, else the prediction alone.
[[nodiscard]] Result<std::string> report_of(Context& context, const StoredRun& run);

}  // namespace tandem::tools
