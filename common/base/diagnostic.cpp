// The text form of diagnostics: robustness.md section 4 shows it, diagnostic_test.cpp pins it.
#include "common/base/diagnostic.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "common/base/limits.h"
#include "common/base/text.h"

namespace tandem {
namespace {

std::string place(const Location& where) {
  std::string text = escape_terminal(where.file);
  if (where.line > 0) text += fmt::format(":{}", where.line);
  if (where.line > 0 && where.column > 0) text += fmt::format(":{}", where.column);
  return text;
}

// One character of a source line as it is shown.
struct Cell {
  std::string text;
  int width = 0;
  bool marked = false;  // under the caret
};

std::vector<Cell> cells_of(const Diagnostic& d) {
  std::vector<Cell> cells;
  const std::string& line = d.source_line;
  const int first = d.where.column - 1, last = first + std::max(1, d.where.length);
  for (std::size_t at = 0; at < line.size();) {
    const int length = decode_utf8(line, at).length;
    Cell cell;
    cell.text = line[at] == '\t' ? " " : escape_terminal(std::string_view(line).substr(at, length));
    cell.width = display_width(cell.text);
    const int begin = static_cast<int>(at), end = begin + length;
    cell.marked = begin < last && end > first;
    cells.push_back(std::move(cell));
    at += length;
  }
  if (first >= static_cast<int>(line.size())) cells.push_back({" ", 1, true});  // after the end
  return cells;
}

// The source line and its caret line, cut to kSourceColumns around the caret.
void append_source(const Diagnostic& d, std::string& out) {
  const std::vector<Cell> cells = cells_of(d);
  int total = 0, caret = -1;
  for (const Cell& cell : cells) {
    if (cell.marked && caret < 0) caret = total;
    total += cell.width;
  }
  constexpr int kMax = limits::kSourceColumns, kDots = 3;
  int first = 0, last = total;
  if (total > kMax) {
    first = std::clamp(caret - kMax / 2, 0, total - kMax);
    last = first + kMax;
    if (first > 0) first += kDots;
    if (last < total) last -= kDots;
  }
  std::string line = first > 0 ? "..." : "", marks(line.size(), ' ');
  int column = 0;
  for (const Cell& cell : cells) {
    if (column >= first && column + cell.width <= last) {
      line += cell.text;
      marks.append(cell.width, cell.marked ? '^' : ' ');
    }
    column += cell.width;
  }
  if (last < total) line += "...";
  const auto end_of = [](std::string& text) { text.erase(text.find_last_not_of(' ') + 1); };
  end_of(line);
  end_of(marks);
  out += fmt::format("{:>5} | {}\n      | {}\n", d.where.line, line, marks);
}

void append_part(std::string_view name, const std::string& text, std::string& out) {
  if (!text.empty()) out += fmt::format("  {:<9} {}\n", name, escape_terminal(text));
}

}  // namespace

void sort_diagnostics(Diagnostics& list) {
  std::map<std::string, int> file_index;
  for (const Diagnostic& d : list)
    file_index.emplace(d.where.file, static_cast<int>(file_index.size()));
  const auto key = [&](const Diagnostic& d) {
    return std::tie(file_index.at(d.where.file), d.where.line, d.where.column, d.code);
  };
  std::stable_sort(list.begin(), list.end(),
                   [&](const Diagnostic& a, const Diagnostic& b) { return key(a) < key(b); });
  // Equal ones need not be neighbours: two different messages may share place and code.
  Diagnostics kept;
  std::set<std::string> seen;
  for (Diagnostic& d : list)
    if (seen.insert(to_text(d)).second) kept.push_back(std::move(d));
  list = std::move(kept);
}

std::string to_text(const Diagnostic& d) {
  std::string out = d.where.file.empty() ? "" : place(d.where) + ": ";
  out += fmt::format("{} {}: {}\n", d.is_warning() ? "warning" : "error", d.code,
                     escape_terminal(d.title));
  if (!d.source_line.empty() && d.where.line > 0) append_source(d, out);
  append_part("found:", d.found, out);
  append_part("expected:", d.expected, out);
  for (std::size_t i = 0; i < d.notes.size() && i < limits::kNotesPrinted; ++i) {
    const Note& note = d.notes[i];
    const std::string at = note.where.file.empty() ? "" : place(note.where) + ": ";
    append_part("note:", at + note.text, out);
  }
  append_part("hint:", d.hint, out);
  return out;
}

std::string to_text(const Diagnostics& list) {
  std::string out;
  const std::size_t shown = std::min<std::size_t>(list.size(), limits::kDiagnosticsPrinted);
  for (std::size_t i = 0; i < shown; ++i) out += to_text(list[i]);
  if (shown < list.size()) out += fmt::format("and {} more\n", list.size() - shown);
  return out;
}

}  // namespace tandem
