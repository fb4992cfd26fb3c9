// The rows of the table. One section per area: IO CLI YAML SCEN UNIT MODEL CLUS PLAN SCHED CAL TIME
// RDZV EXEC CKPT INT. Add rows at the end of your area's section; numbers rise, none is reused.
#include "common/base/diagnostic_codes.h"

#include <fmt/format.h>

namespace tandem {
namespace {

constexpr Failure kInput = Failure::bad_input;
[[maybe_unused]] constexpr Failure kInfeasible = Failure::infeasible;
constexpr Failure kOutput = Failure::output;

// clang-format off
constexpr CodeInfo kCodes[] = {
    // --- IO: files and folders -------------------------------------------------------------------
    {"E-IO-001", kInput, "cannot open the file",
     "The path does not exist, is a dangling link, or may not be read.", "tandem validate nothing.yaml"},
    {"E-IO-002", kInput, "not a regular file",
     "Folders, FIFOs, sockets and devices are never read: they could block for ever.", "tandem validate /dev/stdin"},
    {"E-IO-003", kInput, "the file is too large",
     "Each kind of file has a limit (common/base/limits.h); at most the limit is read.", "a scenario of 2 MiB"},
    {"E-IO-004", kInput, "cannot read the file",
     "The system reported an error while reading.", "a failing disk"},
    {"E-IO-010", kOutput, "cannot write the file",
     "Disk full, no permission or a failing disk. The temporary is removed; an older file of that name is untouched.",
     "-o on a full disk"},
    {"E-IO-011", kOutput, "cannot make the folder",
     "The folder, or one above it, cannot be made or is a file.", "-o /dev/null/x"},

    // --- CLI: flags and arguments --------------------------------------------------------------

    // --- YAML: the text of a scenario ------------------------------------------------------------

    // --- SCEN: fields and rules of a scenario ----------------------------------------------------

    // --- UNIT: quantities ------------------------------------------------------------------------

    // --- MODEL: the model section ------------------------------------------------------------------

    // --- CLUS: the cluster section -------------------------------------------------------------------

    // --- PLAN: plan text and verification ------------------------------------------------------------

    // --- SCHED: schedules by themselves ----------------------------------------------------------------

    // --- CAL: calibration tables -------------------------------------------------------------------

    // --- TIME: timelines -------------------------------------------------------------------------

    // --- RDZV: rendezvous ------------------------------------------------------------------------

    // --- EXEC: execution -------------------------------------------------------------------------

    // --- CKPT: checkpoints -----------------------------------------------------------------------

    // --- INT: broken invariants ------------------------------------------------------------------
};
// clang-format on

std::string_view exit_text(const CodeInfo& row) {
  if (row.code[0] == 'W') return "warning";
  switch (row.failure) {
    case Failure::usage: return "2 usage";
    case Failure::bad_input: return "3 bad input";
    case Failure::infeasible: return "4 infeasible";
    case Failure::execution: return "5 execution failed";
    case Failure::peer_lost: return "6 timeout or peer lost";
    case Failure::output: return "7 output";
    case Failure::internal: return "70 internal";
    case Failure::interrupted: return "130 interrupted";
    case Failure::terminated: return "143 terminated";
  }
  return "?";
}

}  // namespace

std::span<const CodeInfo> diagnostic_codes() { return kCodes; }

const CodeInfo* find_code(std::string_view code) {
  for (const CodeInfo& row : kCodes)
    if (row.code == code) return &row;
  return nullptr;
}

std::string errors_page() {
  std::string page =
      "# Messages\n\n"
      "Generated from `common/base/diagnostic_codes.cpp`; do not edit. Every message has a place, a\n"
      "stable code, what was found, what was expected and a hint. The exit code of a command follows\n"
      "from its messages: 3 outranks 4.\n\n"
      "| code | exit | message | why, and what to do | example |\n"
      "| --- | --- | --- | --- | --- |\n";
  for (const CodeInfo& row : kCodes)
    page += fmt::format("| `{}` | {} | {} | {} | `{}` |\n", row.code, exit_text(row), row.title,
                        row.explanation, row.example);
  return page;
}

}  // namespace tandem
