// A located message about input: where, what, found, expected, how to fix it. Rules of form and
// order: robustness.md section 4. Codes and their exit class live in diagnostic_codes.{h,cpp}.
// Plain data; every function here is pure and thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tandem {

// A place in a file or in another origin ("--set parallel.tp=2", "rows.csv"). line 0: no line.
struct Location {
  std::string file;  // as the user gave it, or the name of the origin
  int line = 0;      // 1-based; 0 = the whole origin
  int column = 0;    // 1-based, bytes
  int length = 1;    // bytes under the caret
  bool operator==(const Location&) const = default;
};

struct Note {
  Location where;
  std::string text;
  bool operator==(const Note&) const = default;
};

struct Diagnostic {
  std::string code;  // "E-SCEN-003"; "W-..." is a warning
  Location where;
  std::string title;
  std::string source_line;  // text of the line, for the caret; empty: none is shown
  std::string found, expected, hint;
  std::vector<Note> notes;  // at most four
  [[nodiscard]] bool is_warning() const { return !code.empty() && code[0] == 'W'; }
  bool operator==(const Diagnostic&) const = default;
};

[[nodiscard]] inline Diagnostic make_diagnostic(std::string code, std::string title,
                                                std::string found, std::string expected,
                                                std::string hint, Location where = {}) {
  Diagnostic d;
  d.code = std::move(code);
  d.where = std::move(where);
  d.title = std::move(title);
  d.found = std::move(found);
  d.expected = std::move(expected);
  d.hint = std::move(hint);
  return d;
}

using Diagnostics = std::vector<Diagnostic>;

// Sorts by (file in order of first appearance, line, column, code) and drops duplicates.
void sort_diagnostics(Diagnostics& list);

// The text form of robustness.md section 4, ending in a newline. Echoed text is escaped.
[[nodiscard]] std::string to_text(const Diagnostic& d);

// All of them: sorted by the caller; 100 are printed, then "and N more".
[[nodiscard]] std::string to_text(const Diagnostics& list);

}  // namespace tandem
