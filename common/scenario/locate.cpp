// Where messages about fields point.
#include "common/scenario/locate.h"

#include <algorithm>

#include "common/base/diagnostic_codes.h"

namespace tandem {

Diagnostic at_fields(const Scenario& scenario, std::initializer_list<std::string_view> paths,
                     std::string code, std::string title, std::string found, std::string expected,
                     std::string hint) {
  Diagnostic d = make_diagnostic(std::move(code), std::move(title), std::move(found),
                                 std::move(expected), std::move(hint), Location{scenario.file});
  bool placed = false;
  for (std::string_view path : paths) {
    const auto origin = scenario.origins.find(std::string(path));
    if (origin == scenario.origins.end()) continue;
    if (placed) {
      if (origin->second != d.where)
        d.notes.push_back({origin->second, std::string(path) + " is given here"});
      continue;
    }
    placed = true;
    d.where = origin->second;
    const auto line = scenario.origin_lines.find(std::string(path));
    if (line != scenario.origin_lines.end()) d.source_line = line->second;
  }
  return d;
}

Error error_of(Diagnostics list) {
  sort_diagnostics(list);
  Failure failure = Failure::infeasible;
  for (const Diagnostic& d : list) {
    const CodeInfo* info = find_code(d.code);
    TANDEM_CHECK(info != nullptr, "code {} is not in the table", d.code);
    if (d.is_warning()) continue;
    // The order of robustness.md section 5: usage, then bad input, then infeasible.
    if (info->failure != Failure::infeasible)
      failure = failure == Failure::infeasible ? info->failure : std::min(failure, info->failure);
  }
  return Error{failure, std::move(list)};
}

}  // namespace tandem
