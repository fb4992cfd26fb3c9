// Any bytes give a scenario or messages; an accepted scenario prints in full and reads back equal.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/scenario/explain.h"
#include "common/scenario/read.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto scenario = tandem::read_scenario_text("fuzz.yaml", text);
  if (!scenario) {
    if (scenario.error().diagnostics.empty()) std::abort();
    (void)tandem::to_text(scenario.error().diagnostics);
    return 0;
  }
  const std::string full = tandem::explain(*scenario);
  const auto again = tandem::read_scenario_text("full.yaml", full);
  if (!again) std::abort();
  return 0;
}
