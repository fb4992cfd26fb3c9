// Goal    loads of experts by their definitions, and choices of ranks put together so that each
//         token counts once.
// Method  by hand: round numbers, and plans of the three ways in which ranks count.
#include "common/report/expert_load.h"

#include <doctest/doctest.h>

#include "common/plan/build.h"
#include "common/scenario/read.h"

using namespace tandem;

namespace {

using Counts = std::vector<std::int64_t>;

Plan plan_of(const std::string& model, const std::string& parallel) {
  const auto s = read_scenario_text(
      "t.yaml", "tandem: 1\nmodel: " + model + "\nparallel: {" + parallel + "}\n");
  REQUIRE(s.ok());
  auto plan = build_plan(*s);
  REQUIRE(plan.ok());
  return std::move(*plan);
}

}  // namespace

TEST_CASE("loads: balanced, everything to one, half of the experts") {
  const ExpertLoad even = expert_load(3, {5, 5, 5, 5}, 2);
  CHECK(even.layer == 3);
  CHECK(even.max_over_mean == 1);
  CHECK(even.rank_max_over_mean == 1);
  CHECK(even.entropy == doctest::Approx(1));
  const ExpertLoad one = expert_load(0, {0, 0, 8, 0}, 2);
  CHECK(one.max_over_mean == 4);
  CHECK(one.rank_max_over_mean == 2);
  CHECK(one.entropy == 0);
  const ExpertLoad half = expert_load(0, {4, 0, 4, 0}, 2);
  CHECK(half.max_over_mean == 2);
  CHECK(half.rank_max_over_mean == 1);          // one of each rank
  CHECK(half.entropy == doctest::Approx(0.5));  // ln 2 / ln 4
  const ExpertLoad none = expert_load(0, {0, 0}, 1);
  CHECK(none.max_over_mean == 0);
  CHECK(none.entropy == 0);
}

TEST_CASE("choices: added over ranks that count their own tokens") {
  const Plan plan = plan_of("mixtral-tiny", "dp: 2, ep: 2");
  ExpertChoices choices(plan);
  choices.add(Rank{0}, 0, Counts{1, 2});
  choices.add(Rank{1}, 0, Counts{3, 4});
  choices.add(Rank{1}, 5, Counts{7, 0});
  REQUIRE(choices.loads().size() == 2);
  CHECK(choices.loads()[0].choices == Counts{4, 6});
  CHECK(choices.loads()[1].choices == Counts{7, 0});
  CHECK(choices.total() == 17);
}

TEST_CASE("choices: taken from one rank where the plan has summed them") {
  const std::string biased = "{preset: deepseek-tiny, moe: {balance: {bias_update: 0.001}}}";
  const Plan plan = plan_of(biased, "dp: 2, ep: 2");
  ExpertChoices choices(plan);
  choices.add(Rank{0}, 1, Counts{4, 6});
  choices.add(Rank{1}, 1, Counts{4, 6});
  CHECK(choices.loads()[0].choices == Counts{4, 6});
}

TEST_CASE("choices: of ep ranks that read the same batches one counts") {
  const Plan plan = plan_of("mixtral-tiny", "mapping: nano_train, ep: 2, ep_data: replicate");
  REQUIRE(plan.replicates_data());
  ExpertChoices choices(plan);
  choices.add(Rank{0}, 0, Counts{1, 2});
  choices.add(Rank{1}, 0, Counts{1, 2});
  CHECK(choices.loads()[0].choices == Counts{1, 2});
  // Summed over the stage, ep ranks included: twice each token.
  const std::string biased = "{preset: deepseek-tiny, moe: {balance: {bias_update: 0.001}}}";
  const Plan summed = plan_of(biased, "mapping: nano_train, ep: 2, ep_data: replicate");
  ExpertChoices of_stage(summed);
  of_stage.add(Rank{0}, 1, Counts{2, 4});
  of_stage.add(Rank{1}, 1, Counts{2, 4});
  CHECK(of_stage.loads()[0].choices == Counts{1, 2});
}
