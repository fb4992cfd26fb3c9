// The tables of `tandem model` (models.md 8.4): each is text for people and the JSON of the same
// numbers. Pure: figures come from common/model (closed forms), common/plan/totals.h (what the plan
// executes and sends) and sim (capacity, time at the bound). docs/cli.md lists the keys.
#pragma once

#include <string>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/scenario/scenario.h"
#include "tools/context.h"

namespace tandem::tools {

struct Section {
  std::string text;
  Json json;
};

// Families gpt and llama.
[[nodiscard]] Section parameters_section(const Scenario& scenario);
[[nodiscard]] Section flops_section(const Scenario& scenario, const Plan& plan);
[[nodiscard]] Section memory_section(const Scenario& scenario, const Plan& plan);
// E-CLUS-006 where the device has no peak for the precision.
[[nodiscard]] Result<Section> roofline_section(const Scenario& scenario, const Plan& plan);
// Codes of make_cluster.
[[nodiscard]] Result<Section> communication_section(const Scenario& scenario, const Plan& plan);

}  // namespace tandem::tools
