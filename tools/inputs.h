// Reading what a command is given: a scenario with the overrides of the command line.
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/scenario/scenario.h"
#include "tools/context.h"

namespace tandem::tools {

// --set of the command line, with --seed N as "seed=N" at the end.
[[nodiscard]] std::vector<std::string> sets_of(const CommonOptions& options);

// Reads and checks the scenario; warnings go to the context.
[[nodiscard]] Result<Scenario> load_scenario(Context& context, const std::string& path);

// A file named by a field: relative to the folder of the scenario that names it; by --set or by a
// default, to the working folder. `text` is the field's value.
[[nodiscard]] std::string path_of_field(const Scenario& scenario, const std::string& field,
                                        const std::string& text);

}  // namespace tandem::tools
