// One YAML value -> one typed value, by its row of the field table. yaml-cpp's own conversions are
// never used: they read 010 as 8, "yes" as true and 1e-400 as 0.
#pragma once

#include <optional>

#include "common/scenario/leaves.h"

namespace tandem {

// nullopt: refused, and `problems` says why at the value's own place.
[[nodiscard]] std::optional<FieldValue> convert(const std::string& path, const Leaf& leaf,
                                                Diagnostics& problems);

}  // namespace tandem
