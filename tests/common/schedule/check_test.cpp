// Goal    an order that cannot be lowered is refused by the sub-code of its fault, with the grid.
// Method  small orders by hand; random mutants of legal orders against a brute-force oracle that
//         shares no code: it tries to run the order, one action at a time, in any sequence.
#include "common/schedule/check.h"

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>
#include <tuple>

#include "common/base/text.h"
#include "common/schedule/registry.h"
#include "common/schedule/text.h"
#include "tests/sim/scale.h"

using namespace tandem;

namespace {

// "0F0,0B0" a row; stage s on rank s mod p.
Order order_of(const std::vector<std::string>& rows, int stages, int microbatches) {
  Order out;
  out.num_microbatches = microbatches;
  for (int s = 0; s < stages; ++s) out.stage_rank.push_back(s % static_cast<int>(rows.size()));
  const std::map<std::string, ActionKind> kinds = {{"F", ActionKind::F},
                                                   {"I", ActionKind::I},
                                                   {"W", ActionKind::W},
                                                   {"B", ActionKind::B},
                                                   {"R", ActionKind::reduce_grad}};
  for (const std::string& row : rows) {
    RankOrder list;
    for (std::string_view cell : split(row, ',')) {
      const std::string text(cell);
      list.push_back({kinds.at(text.substr(1, 1)), std::stoi(text.substr(0, 1)),
                      text.size() > 2 ? std::stoi(text.substr(2)) : -1});
    }
    out.ranks.push_back(list);
  }
  return out;
}

std::string first_title(const OrderCheck& c) { return c.ok() ? "" : c.errors[0].title; }

// --- the oracle: counts, then runs whatever can run until nothing moves.
bool legal(const Order& o) {
  std::multiset<std::tuple<int, int, int>> seen;  // kind, stage, microbatch
  for (std::size_t r = 0; r < o.ranks.size(); ++r)
    for (const Action& a : o.ranks[r]) {
      if (a.stage < 0 || a.stage >= o.num_stages() || a.microbatch < 0 ||
          a.microbatch >= o.num_microbatches ||
          o.stage_rank[static_cast<std::size_t>(a.stage)] != static_cast<int>(r))
        return false;
      seen.insert({static_cast<int>(a.kind), a.stage, a.microbatch});
    }
  for (int s = 0; s < o.num_stages(); ++s)
    for (int i = 0; i < o.num_microbatches; ++i) {
      const auto count = [&](ActionKind k) { return seen.count({static_cast<int>(k), s, i}); };
      const bool whole =
          count(ActionKind::B) == 1 && !count(ActionKind::I) && !count(ActionKind::W);
      const bool split =
          !count(ActionKind::B) && count(ActionKind::I) == 1 && count(ActionKind::W) == 1;
      if (count(ActionKind::F) != 1 || (!whole && !split)) return false;
    }
  std::set<std::tuple<char, int, int>> done;  // 'F', 'b' backward for inputs
  std::vector<RankOrder> left = o.ranks;
  for (bool moved = true; moved;) {
    moved = false;
    for (RankOrder& list : left) {
      if (list.empty()) continue;
      const Action a = list.front();
      bool ready = true;
      if (a.kind == ActionKind::F)
        ready = a.stage == 0 || done.count({'F', a.stage - 1, a.microbatch});
      else if (a.kind == ActionKind::W)
        ready = done.count({'b', a.stage, a.microbatch});
      else
        ready = done.count({'F', a.stage, a.microbatch}) &&
                (a.stage + 1 == o.num_stages() || done.count({'b', a.stage + 1, a.microbatch}));
      if (!ready) continue;
      if (a.kind != ActionKind::W)
        done.insert({a.kind == ActionKind::F ? 'F' : 'b', a.stage, a.microbatch});
      list.erase(list.begin());
      moved = true;
    }
  }
  for (const RankOrder& list : left)
    if (!list.empty()) return false;
  return true;
}

}  // namespace

TEST_CASE("order checks: each sub-code") {
  const auto title = [](const std::vector<std::string>& rows, int stages, int mbs) {
    const OrderCheck c = check_order(order_of(rows, stages, mbs));
    REQUIRE_FALSE(c.ok());
    CHECK_FALSE(c.grid.empty());
    return first_title(c);
  };
  CHECK(check_order(order_of({"0F0,0B0", "1F0,1B0"}, 2, 1)).ok());
  CHECK(check_order(order_of({"0F0,0I0,0W0,0R"}, 1, 1)).ok());
  CHECK(title({"0F0,0B0,5F0"}, 1, 1) == "V1.2 rank 0 pos 2 op 5F0: no such stage");
  CHECK(title({"0F0,0B0,0F1"}, 1, 1) == "V1.2 rank 0 pos 2 op 0F1: no such microbatch");
  CHECK(title({"0F0,0B0,1F0", "1B0"}, 2, 1) ==
        "V1.3 rank 0 pos 2 op 1F0: stage 1 belongs to rank 1, found on rank 0");
  Order no_row = order_of({"0F0,0B0"}, 2, 1);
  no_row.stage_rank[1] = 1;
  CHECK(first_title(check_order(no_row)) == "V1.4 stage 1 lives on rank 1, which has no row");
  CHECK(title({"0B0"}, 1, 1) == "V2.1 rank 0: no F of stage 0 mb 0");
  CHECK(title({"0F0,0F0,0B0"}, 1, 1) ==
        "V2.1 rank 0 pos 1 op 0F0: a second time (the first is at pos 0)");
  CHECK(title({"0F0"}, 1, 1) == "V2.2 rank 0: no B of stage 0 mb 0");
  CHECK(title({"0F0,0I0"}, 1, 1) == "V2.2 rank 0: no W of stage 0 mb 0");
  CHECK(title({"0F0,0I0,0W0,0B0"}, 1, 1) == "V2.2 rank 0 pos 3 op 0B0: a B beside an I or a W");
  CHECK(title({"0B0,0F0"}, 1, 1) ==
        "V2.3 rank 0 pos 0 op 0B0: backward before forward of stage 0 mb 0 (the forward is at pos "
        "1)");
  CHECK(title({"0F0,0W0,0I0"}, 1, 1) == "V2.4 rank 0 pos 1 op 0W0: W before I (at pos 2)");
  CHECK(title({"0F0,0R,0B0"}, 1, 1).starts_with("V2.5 rank 0 pos 1 op 0REDUCE_GRAD"));
}

TEST_CASE("N0: V2 passes, V4 prints the cycle, and the grid marks the row") {
  const OrderCheck c =
      check_order(order_of({"0F0,0B0,0F1,0B1", "1F1,1F0,1B0,1B1"}, 2, 2), "rows.csv");
  REQUIRE(c.errors.size() == 1);
  CHECK(c.errors[0].code == "E-PLAN-024");
  const std::string text = c.errors[0].title;
  CHECK(text.starts_with("V4 cycle of 4: "));
  for (const char* part : {"rank 1 1F1 needs rank 0 0F1", "0F1 comes after 0B0 on rank 0",
                           "rank 0 0B0 needs rank 1 1B0", "1B0 comes after 1F1 on rank 1"})
    CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  CHECK(c.grid.find("<-- ERROR HERE") != std::string::npos);
}

TEST_CASE("mutants of legal orders: the checks agree with brute force") {
  const unsigned seed = 5400;
  MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  int num_legal = 0, num_illegal = 0;
  const int wanted = sim::scaled(2000);
  for (int n = 0; n < 100 * wanted && (num_legal < wanted || num_illegal < wanted); ++n) {
    const int p = 1 + static_cast<int>(below(4)), m = 1 + static_cast<int>(below(5));
    Order o = std::move(*make_order(below(2) ? "1f1b" : "gpipe", {p, m, 1}, {}));
    if (below(2))  // split the backwards
      for (RankOrder& list : o.ranks)
        for (std::size_t i = 0; i < list.size(); ++i)
          if (list[i].kind == ActionKind::B) {
            list[i].kind = ActionKind::I;
            list.insert(list.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                        {ActionKind::W, list[i].stage, list[i].microbatch});
          }
    for (std::size_t k = 0; k <= below(3); ++k) {
      RankOrder& list = o.ranks[below(o.ranks.size())];
      if (list.size() < 2) continue;
      const std::size_t at = below(list.size());
      const auto it = list.begin() + static_cast<std::ptrdiff_t>(at);
      switch (below(8)) {
        case 0:
        case 1:
        case 2:
        case 3:
          std::swap(list[at], list[(at + 1) % list.size()]);
          break;
        case 4: {
          const Action a = *it;
          list.erase(it);
          list.insert(list.begin() + static_cast<std::ptrdiff_t>(below(list.size() + 1)), a);
          break;
        }
        case 5:
          if (below(4) == 0) list.erase(it);
          break;
        case 6:
          if (below(4) == 0) list.insert(it, list[below(list.size())]);
          break;
        default:
          if (below(4) == 0) it->microbatch = static_cast<int>(below(6));
          break;
      }
    }
    const bool expected = legal(o);
    const OrderCheck c = check_order(o);
    if (c.ok() != expected) FAIL(to_text(o) << to_text(c.errors));
    ++(expected ? num_legal : num_illegal);
    if (!expected) REQUIRE_FALSE(c.grid.empty());
  }
  MESSAGE(num_legal << " legal, " << num_illegal << " illegal");
  CHECK(num_legal >= wanted);
  CHECK(num_illegal >= wanted);
}
