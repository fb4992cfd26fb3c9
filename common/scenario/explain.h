// The full form of a scenario, its JSON Schema and its reference page: all from the field table.
#pragma once

#include <string>

#include "common/scenario/scenario.h"

namespace tandem {

// Every field as YAML, with the origin of its value as a comment (or without: the same text
// wherever the values came from). Reading it back gives the same scenario.
[[nodiscard]] std::string explain(const Scenario& scenario, bool with_origins = true);

[[nodiscard]] std::string json_schema();     // docs/scenario.schema.json
[[nodiscard]] std::string reference_page();  // docs/scenario_reference.md

}  // namespace tandem
