#include "common/plan/rehearsal.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "common/base/check.h"

namespace tandem {
namespace {

constexpr const char* kFormat = "tandem-rehearsal";

Error unusable(const std::string& file, std::string found, std::string expected) {
  return make_error(Failure::bad_input, "E-EXEC-061", "the durations of a rehearsal cannot be used",
                    std::move(found), std::move(expected),
                    "let `tandem execute --device rehearsal` write the file, with a --time-scale "
                    "that fits",
                    Location{file});
}

// Empty: fits.
std::string misfit(const RehearsalTable& t, const Plan& plan) {
  if (std::ssize(t.table_of_rank) != plan.header.mesh.world())
    return fmt::format("{} ranks of {}", t.table_of_rank.size(), plan.header.mesh.world());
  for (int r = 0; r < plan.header.mesh.world(); ++r) {
    const int at = t.table_of_rank[static_cast<std::size_t>(r)];
    if (at < 0 || at >= std::ssize(t.tables)) return fmt::format("rank {} has no table", r);
    const std::size_t ops = plan.ops_of(plan.program_of(Rank{r})).size();
    if (t.of(Rank{r}).size() != ops)
      return fmt::format("{} durations for the {} ops of rank {}", t.of(Rank{r}).size(), ops, r);
  }
  for (const auto& table : t.tables)
    for (Nanoseconds d : table)
      if (d < 0 || d > kLongestRehearsedOp) return fmt::format("an op of {} ns", d);
  return "";
}

}  // namespace

RehearsalTable rehearsal_table(std::string plan_id, double time_scale,
                               std::vector<std::vector<Nanoseconds>> by_rank) {
  RehearsalTable out;
  out.plan_id = std::move(plan_id);
  out.time_scale = time_scale;
  std::map<std::vector<Nanoseconds>, int> seen;
  for (std::vector<Nanoseconds>& table : by_rank) {
    const auto [it, fresh] = seen.try_emplace(std::move(table), static_cast<int>(seen.size()));
    if (fresh) out.tables.push_back(it->first);
    out.table_of_rank.push_back(it->second);
  }
  return out;
}

std::string to_json(const RehearsalTable& table) {
  const nlohmann::ordered_json root = {{"format", kFormat},
                                       {"version", 1},
                                       {"plan_id", table.plan_id},
                                       {"time_scale", table.time_scale},
                                       {"table_of_rank", table.table_of_rank},
                                       {"durations_ns", table.tables}};
  return root.dump() + "\n";
}

Result<RehearsalTable> rehearsal_from_json(const std::string& text, const std::string& file,
                                           const Plan& plan, const std::string& plan_id) {
  RehearsalTable out;
  const nlohmann::json root = nlohmann::json::parse(text, nullptr, false);
  try {
    if (root.at("format") != kFormat || root.at("version") != 1)
      return unusable(file, "another format or version", "format tandem-rehearsal, version 1");
    root.at("plan_id").get_to(out.plan_id);
    root.at("time_scale").get_to(out.time_scale);
    root.at("table_of_rank").get_to(out.table_of_rank);
    root.at("durations_ns").get_to(out.tables);
  } catch (const nlohmann::json::exception& e) {
    return unusable(file, e.what(), "the keys of docs/formats/rehearsal.md");
  }
  if (out.plan_id != plan_id)
    return unusable(file, "durations of plan " + out.plan_id, "of plan " + plan_id);
  if (const std::string wrong = misfit(out, plan); !wrong.empty())
    return unusable(file, wrong,
                    fmt::format("a duration of 0 to {} ns for each op of each rank of the plan",
                                kLongestRehearsedOp));
  return out;
}

}  // namespace tandem
