// Any bytes give a plan or messages; an accepted plan prints to a text that reads back to itself.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/plan/parse.h"
#include "common/plan/print.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto plan = tandem::parse_plan(text, "fuzz.txt");
  if (!plan) {
    if (plan.error().diagnostics.empty()) std::abort();
    (void)tandem::to_text(plan.error().diagnostics);
    return 0;
  }
  const std::string canonical = tandem::print(*plan);
  const auto again = tandem::parse_plan(canonical, "canonical.txt");
  if (!again || tandem::print(*again) != canonical) std::abort();
  return 0;
}
