// Goal    row 5 of models.md 3.4: parallel.order is refused exactly where some rank would be in
//         different pipeline groups for dense and for expert layers.
// Method  every order of the axes on several meshes; the groups of both grids by counting through
//         all ranks, with no strides and no products.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/scenario/read.h"

namespace tandem {
namespace {

using Grid = std::vector<std::pair<std::string, int>>;  // axes with sizes, fastest first

// For each rank the ranks that differ from it in pp only: an odometer counts the coordinates.
std::vector<std::vector<int>> pipeline_groups(const Grid& grid, int world) {
  std::map<std::vector<int>, std::vector<int>> by_others;
  std::vector<int> digits(grid.size(), 0);
  std::vector<std::vector<int>> key_of;
  for (int rank = 0; rank < world; ++rank) {
    std::vector<int> others;
    for (std::size_t i = 0; i < grid.size(); ++i)
      if (grid[i].first != "pp") others.push_back(digits[i]);
    by_others[others].push_back(rank);
    key_of.push_back(others);
    for (std::size_t i = 0; i < grid.size() && ++digits[i] == grid[i].second; ++i) digits[i] = 0;
  }
  std::vector<std::vector<int>> out;
  for (const auto& key : key_of) out.push_back(by_others[key]);
  return out;
}

}  // namespace

TEST_CASE("parallel.order is refused exactly where a rank would have two pipeline groups") {
  struct Case {
    int tp, cp, dp, pp, ep, etp;
  };
  int refused = 0, allowed = 0;
  for (const Case c : {Case{2, 1, 2, 2, 2, 1}, Case{2, 1, 2, 2, 2, 2}, Case{1, 2, 2, 2, 4, 1},
                       Case{2, 2, 2, 2, 2, 1}, Case{2, 1, 2, 1, 2, 1}, Case{1, 1, 4, 2, 4, 1}}) {
    std::vector<std::string> order = {"cp", "dp", "ep", "pp", "tp"};
    do {
      const int edp = c.tp * c.cp * c.dp / (c.etp * c.ep), world = c.tp * c.cp * c.dp * c.pp;
      const std::map<std::string, int> dense = {
          {"tp", c.tp}, {"cp", c.cp}, {"ep", 1}, {"dp", c.dp}, {"pp", c.pp}};
      const std::map<std::string, int> expert = {
          {"tp", c.etp}, {"cp", 1}, {"ep", c.ep}, {"dp", edp}, {"pp", c.pp}};
      Grid of_dense, of_experts;
      for (const std::string& axis : order) {
        of_dense.emplace_back(axis, dense.at(axis));
        of_experts.emplace_back(axis, expert.at(axis));
      }
      const auto a = pipeline_groups(of_dense, world), b = pipeline_groups(of_experts, world);
      const std::string text = fmt::format(
          "tandem: 1\nmodel: mixtral-tiny\nparallel: {{tp: {}, cp: {}, dp: {}, pp: {}, ep: {}, "
          "etp: {}, order: [{}]}}\n",
          c.tp, c.cp, c.dp, c.pp, c.ep, c.etp, fmt::join(order, ", "));
      CAPTURE(text);
      const auto s = read_scenario_text("t.yaml", text);
      REQUIRE(s.ok() == (a == b));
      if (s.ok()) {
        ++allowed;
        continue;
      }
      ++refused;
      const Diagnostic& d = s.error().diagnostics[0];
      CHECK(d.code == "E-SCEN-055");
      int named = -1;
      const auto at = d.title.find("puts rank ");
      REQUIRE(at != std::string::npos);
      named = std::stoi(d.title.substr(at + 10));
      CHECK(a[static_cast<std::size_t>(named)] != b[static_cast<std::size_t>(named)]);
    } while (std::next_permutation(order.begin(), order.end()));
  }
  CHECK(refused > 50);
  CHECK(allowed > 50);
}

}  // namespace tandem
