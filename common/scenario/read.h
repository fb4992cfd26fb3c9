// Scenario file -> Scenario: presets applied, --set laid over, units converted, every "auto" that
// depends on the scenario alone resolved, all rules checked. All errors are reported together.
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/scenario/scenario.h"

namespace tandem {

// `sets`: "parallel.tp=2", as given to --set; later ones win. `warnings` (may be null) gets the
// warnings of a scenario that is accepted; those of a refused one are in the error.
// The failure is bad_input (3) if any message is of that class, else infeasible (4); a --set that
// is no path=value is usage (2).
[[nodiscard]] Result<Scenario> read_scenario(const std::string& path,
                                             const std::vector<std::string>& sets = {},
                                             Diagnostics* warnings = nullptr);

// The same from a text. `name` stands in messages; preset paths are relative to its folder.
[[nodiscard]] Result<Scenario> read_scenario_text(const std::string& name, const std::string& text,
                                                  const std::vector<std::string>& sets = {},
                                                  Diagnostics* warnings = nullptr);

}  // namespace tandem
