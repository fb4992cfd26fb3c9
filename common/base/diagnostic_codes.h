// The one table of message codes: what each means, its exit class, and an example. docs/errors.md
// is generated from it. A code is never reused or renumbered. How to add one: a row in the section
// of its area in diagnostic_codes.cpp, the next free number there, and a test that produces it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace tandem {

struct CodeInfo {
  std::string_view code;         // "E-SCEN-003"; "W-..." warns and never fails a command
  Failure failure;               // exit class; of a warning: of no meaning
  std::string_view title;        // what the message says, without the values
  std::string_view explanation;  // why it is refused and what to do, a sentence or two
  std::string_view example;      // a line of input, or a situation, that gives it
};

// Sorted by area as listed in the .cpp, then by number.
[[nodiscard]] std::span<const CodeInfo> diagnostic_codes();

// nullptr: no such code.
[[nodiscard]] const CodeInfo* find_code(std::string_view code);

// The text of docs/errors.md.
[[nodiscard]] std::string errors_page();

}  // namespace tandem
