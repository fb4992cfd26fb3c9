#include "common/plan/verify/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "common/base/limits.h"
#include "common/plan/print.h"

namespace tandem::verify {
namespace {

// Line and column of the ops that are asked for: one pass over the text.
std::map<std::int32_t, Location> locate(std::string_view text, const std::string& file,
                                        const std::map<std::int32_t, Location>& wanted,
                                        std::map<std::int32_t, std::string>& lines) {
  std::map<std::int32_t, Location> out = wanted;
  int number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    const std::size_t at = line.find_first_not_of(" \t");
    if (at == line.npos || line.substr(at, 3) != "op ") continue;
    const std::size_t digit = line.find_first_of("0123456789", at);
    if (digit == line.npos) continue;
    std::int32_t id = -1;
    std::from_chars(line.data() + digit, line.data() + line.size(), id);
    const auto it = out.find(id);
    if (it == out.end()) continue;
    it->second = {file, number, static_cast<int>(at) + 1, static_cast<int>(line.size() - at)};
    lines[id] = line;
  }
  return out;
}

}  // namespace

void Report::add(Finding finding) {
  if (!full()) findings_.push_back(std::move(finding));
}
bool Report::full() const {
  return findings_.size() >= static_cast<std::size_t>(limits::kDiagnosticsPrinted);
}
bool Report::has(const char* code) const {
  return std::any_of(findings_.begin(), findings_.end(),
                     [&](const Finding& f) { return std::string_view(f.code) == code; });
}

Diagnostics Report::take() {
  std::map<std::int32_t, Location> places;
  std::map<std::int32_t, std::string> lines;
  const Location whole{options_.file};
  for (const Finding& f : findings_) {
    places[f.op.value] = whole;
    for (OpId n : f.notes) places[n.value] = whole;
  }
  if (!places.empty() && !options_.text.empty())
    places = locate(options_.text, options_.file, places, lines);
  Diagnostics out;
  for (Finding& f : findings_) {
    Diagnostic d;
    d.code = f.code;
    d.where = places[f.op.value];
    d.source_line = lines[f.op.value];
    d.title = std::move(f.title);
    d.found = std::move(f.found);
    d.expected = std::move(f.expected);
    d.hint = std::move(f.hint);
    for (OpId n : f.notes)
      if (d.notes.size() < static_cast<std::size_t>(limits::kNotesPrinted))
        d.notes.push_back({places[n.value], text_of(plan_, n)});
    out.push_back(std::move(d));
  }
  findings_.clear();
  return out;
}

ProgramId program_of(const Plan& plan, OpId id) {
  const auto after = std::upper_bound(
      plan.programs.begin(), plan.programs.end(), static_cast<std::uint32_t>(id.value),
      [](std::uint32_t value, const Program& p) { return value < p.first_op; });
  return ProgramId{after - plan.programs.begin() - 1};
}

std::string text_of(const Plan& plan, OpId id) { return describe(plan, id); }

std::string text_of(const Plan& plan, BufferId id) {
  const Buffer& b = plan.buffer(id);
  return fmt::format("buffer {} ({} {})", id.value, name_of(b.cls), plan.name(b.name));
}

}  // namespace tandem::verify
