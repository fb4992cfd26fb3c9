// Messages about fields of a scenario: at the line a value came from. For the reader and for every
// later stage (partition, verifier, memory) that refuses a scenario.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/scenario/scenario.h"

namespace tandem {

// A diagnostic at the first of `paths` whose value was given (else at the scenario's file), with a
// note at each other one that was given. `code` must stand in the table of codes.
[[nodiscard]] Diagnostic at_fields(const Scenario& scenario,
                                   std::initializer_list<std::string_view> paths, std::string code,
                                   std::string title, std::string found, std::string expected,
                                   std::string hint);

// Bad input (3) if any of them is, else infeasible (4). The list is sorted; it holds an error.
[[nodiscard]] Error error_of(Diagnostics list);

}  // namespace tandem
