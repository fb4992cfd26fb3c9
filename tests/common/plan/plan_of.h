// A scenario from its text, and the plan of one, for tests that expect both to be sound. Include
// doctest first.
#pragma once

#include <string>
#include <utility>

#include "common/plan/build.h"
#include "common/scenario/read.h"

namespace tandem {

// `text` without its first line, "tandem: 1".
inline Scenario scenario(const std::string& text) {
  auto s = read_scenario_text("t.yaml", "tandem: 1\n" + text);
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : to_text(s.error().diagnostics)));
  return *s;
}

inline Plan plan_of(const Scenario& s) {
  auto p = build_plan(s);
  REQUIRE_MESSAGE(p.ok(), (p.ok() ? "" : to_text(p.error().diagnostics)));
  return std::move(p).value();
}

}  // namespace tandem
