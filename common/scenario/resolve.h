// Every "auto" that depends on the scenario alone. Runs before the rules of validate.h, so it must
// take any values that are in the ranges of the field table.
#pragma once

#include <set>
#include <string>

#include "common/scenario/scenario.h"

namespace tandem {

// `given`: paths with a value other than auto. Values that cannot be resolved (degrees that do not
// divide the devices) stay at a lower bound; validate() refuses them.
void resolve(Scenario& scenario, const std::set<std::string>& given);

// Layers of each of `num_stages` stages: equal, the first layers % num_stages ones have one more.
[[nodiscard]] std::vector<int> split_layers(int layers, int num_stages);

}  // namespace tandem
