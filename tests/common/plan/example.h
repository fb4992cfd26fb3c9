// The shipped example plan, and texts made from it by exchanging one piece.
#pragma once

#include <doctest/doctest.h>

#include <string>

#include "common/base/file.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"

namespace tandem {

inline std::string example_text() {
  Result<std::string> text =
      read_file(std::string(TANDEM_SOURCE_DIR) + "/scenarios/plans/example.txt", 1 << 20);
  REQUIRE(text.ok());
  return *text;
}

// The text with the only `from` in it replaced by `to`.
inline std::string exchanged(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, from);
  REQUIRE_MESSAGE(text.find(from, at + 1) == std::string::npos, "twice: " << from);
  return text.replace(at, from.size(), to);
}

inline Plan parsed(const std::string& text) {
  Result<Plan> plan = parse_plan(text, "plan.txt");
  if (!plan) FAIL(to_text(plan.error().diagnostics));
  return std::move(*plan);
}

}  // namespace tandem
