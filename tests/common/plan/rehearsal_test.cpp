// Goal    rehearsal.json says what was written, and a table that does not fit its plan is refused.
#include "common/plan/rehearsal.h"

#include <doctest/doctest.h>

#include "tests/common/plan/plan_of.h"

using namespace tandem;

namespace {

const char* const kScenario =
    "model: {preset: gpt-tiny, layers: 4}\nparallel: {pp: 2, dp: 2}\nschedule: gpipe\n";

std::vector<std::vector<Nanoseconds>> durations_of(const Plan& plan) {
  std::vector<std::vector<Nanoseconds>> out;
  for (int r = 0; r < plan.header.mesh.world(); ++r) {
    const std::size_t n = plan.ops_of(plan.program_of(Rank{r})).size();
    std::vector<Nanoseconds>& own = out.emplace_back();
    for (std::size_t i = 0; i < n; ++i) own.push_back(static_cast<Nanoseconds>(100 * n + i));
  }
  return out;
}

std::string found(const std::string& text, const Plan& plan) {
  const auto table = rehearsal_from_json(text, "r.json", plan, "id");
  if (table) return "";
  CHECK(table.error().diagnostics[0].code == "E-EXEC-061");
  return table.error().diagnostics[0].found;
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const auto at = text.find(what);
  REQUIRE_MESSAGE(at != std::string::npos, what);
  return text.replace(at, what.size(), with);
}

}  // namespace

TEST_CASE("rehearsal.json: every rank has its durations again; equal ones are stored once") {
  const Plan plan = plan_of(scenario(kScenario));
  const auto durations = durations_of(plan);
  const RehearsalTable table = rehearsal_table("id", 2.5, durations);
  CHECK(table.tables.size() == 2);  // four ranks of two programs
  const auto again = rehearsal_from_json(to_json(table), "r.json", plan, "id");
  REQUIRE(again.ok());
  CHECK(again->time_scale == 2.5);
  for (int r = 0; r < 4; ++r) CHECK(again->of(Rank{r}) == durations[static_cast<std::size_t>(r)]);
}

TEST_CASE("rehearsal.json: another plan, missing ops, ranks and keys, impossible durations") {
  const Plan plan = plan_of(scenario(kScenario));
  auto durations = durations_of(plan);
  const std::string good = to_json(rehearsal_table("id", 1, durations));
  CHECK(found(good, plan).empty());
  CHECK(found("[", plan).find("key 'format'") == std::string::npos);  // not JSON: no key at all
  CHECK(!found("[", plan).empty());
  CHECK(found(replaced(good, "\"id\"", "\"other\""), plan) == "durations of plan other");
  CHECK(found(replaced(good, "\"version\":1", "\"version\":2"), plan) ==
        "another format or version");
  CHECK(found(replaced(good, "durations_ns", "durations"), plan).find("durations_ns") !=
        std::string::npos);
  CHECK(found(replaced(good, "[0,0,1,1]", "[0,0,1]"), plan) == "3 ranks of 4");
  CHECK(found(replaced(good, "[0,0,1,1]", "[0,0,1,2]"), plan) == "rank 3 has no table");

  const std::size_t ops = durations[2].size();
  durations[2].pop_back();
  CHECK(found(to_json(rehearsal_table("id", 1, durations)), plan) ==
        std::to_string(ops - 1) + " durations for the " + std::to_string(ops) + " ops of rank 2");
  durations = durations_of(plan);
  durations[1][3] = -1;
  CHECK(found(to_json(rehearsal_table("id", 1, durations)), plan) == "an op of -1 ns");
  durations[1][3] = kLongestRehearsedOp;
  CHECK(found(to_json(rehearsal_table("id", 1, durations)), plan).empty());
  durations[1][3] = kLongestRehearsedOp + 1;
  CHECK(!found(to_json(rehearsal_table("id", 1, durations)), plan).empty());
}
