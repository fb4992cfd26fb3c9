// Goal    ranks are where the group tables of models.md 3.1 put them.
// Method  the rows of those tables that use only tp, cp, dp and pp, written out; then laws that
// hold
//         for every mesh: groups partition the world, members differ only on their axes.
#include "common/parallel/mesh.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace tandem {
namespace {

Mesh mesh(int tp, int cp, int dp, int pp) {
  Mesh m;
  m.size = {tp, cp, dp, pp};
  return m;
}

AxisSet axes(std::initializer_list<Axis> list) {
  AxisSet set;
  for (Axis a : list) set.add(a);
  return set;
}

// "0,1 2,3"
std::string text(const Mesh& m, AxisSet set) {
  std::string out;
  for (const auto& group : m.groups(set)) {
    if (!out.empty()) out += ' ';
    for (std::size_t i = 0; i < group.size(); ++i)
      out += (i == 0 ? "" : ",") + std::to_string(group[i].value);
  }
  return out;
}

}  // namespace

// rank = tp + t (cp + c (dp + d pp))
TEST_CASE("mesh: W8 t2 d2 p2") {
  const Mesh m = mesh(2, 1, 2, 2);
  CHECK(m.world() == 8);
  CHECK(text(m, axes({Axis::tp})) == "0,1 2,3 4,5 6,7");
  CHECK(text(m, axes({Axis::dp})) == "0,2 1,3 4,6 5,7");
  CHECK(text(m, axes({Axis::pp})) == "0,4 1,5 2,6 3,7");
  CHECK(text(m, axes({Axis::tp, Axis::cp, Axis::dp})) == "0,1,2,3 4,5,6,7");  // stage
  CHECK(text(m, axes({Axis::tp, Axis::dp, Axis::pp})) == "0,1,2,3,4,5,6,7");  // world
  CHECK(text(m, {}) == "0 1 2 3 4 5 6 7");
}

TEST_CASE("mesh: W8 t2 c2 d1 p2: dp_cp is cp alone") {
  const Mesh m = mesh(2, 2, 1, 2);
  CHECK(text(m, axes({Axis::tp})) == "0,1 2,3 4,5 6,7");
  CHECK(text(m, axes({Axis::cp, Axis::dp})) == "0,2 1,3 4,6 5,7");
  CHECK(text(m, axes({Axis::pp})) == "0,4 1,5 2,6 3,7");
}

TEST_CASE("mesh: W8 t2 d4 p1") {
  const Mesh m = mesh(2, 1, 4, 1);
  CHECK(text(m, axes({Axis::tp})) == "0,1 2,3 4,5 6,7");
  CHECK(text(m, axes({Axis::dp})) == "0,2,4,6 1,3,5,7");
}

TEST_CASE("mesh: W16 t2 d4 p2") {
  const Mesh m = mesh(2, 1, 4, 2);
  CHECK(text(m, axes({Axis::tp})) == "0,1 2,3 4,5 6,7 8,9 10,11 12,13 14,15");
  CHECK(text(m, axes({Axis::dp})) == "0,2,4,6 1,3,5,7 8,10,12,14 9,11,13,15");
  CHECK(text(m, axes({Axis::pp})) == "0,8 1,9 2,10 3,11 4,12 5,13 6,14 7,15");
}

TEST_CASE("mesh: W16 t2 c2 d2 p2: dp_cp has cp fastest") {
  const Mesh m = mesh(2, 2, 2, 2);
  CHECK(text(m, axes({Axis::tp})) == "0,1 2,3 4,5 6,7 8,9 10,11 12,13 14,15");
  CHECK(text(m, axes({Axis::cp})) == "0,2 1,3 4,6 5,7 8,10 9,11 12,14 13,15");
  CHECK(text(m, axes({Axis::dp})) == "0,4 1,5 2,6 3,7 8,12 9,13 10,14 11,15");
  CHECK(text(m, axes({Axis::cp, Axis::dp})) == "0,2,4,6 1,3,5,7 8,10,12,14 9,11,13,15");
  CHECK(text(m, axes({Axis::pp})) == "0,8 1,9 2,10 3,11 4,12 5,13 6,14 7,15");
}

TEST_CASE("mesh: W16 t4 d4 p1") {
  const Mesh m = mesh(4, 1, 4, 1);
  CHECK(text(m, axes({Axis::tp})) == "0,1,2,3 4,5,6,7 8,9,10,11 12,13,14,15");
  CHECK(text(m, axes({Axis::dp})) == "0,4,8,12 1,5,9,13 2,6,10,14 3,7,11,15");
}

// order: [dp, pp, tp, cp] puts dp fastest: rank = dp + d (pp + p tp).
TEST_CASE("mesh: another order of axes") {
  Mesh m = mesh(2, 1, 2, 2);
  m.order = {Axis::dp, Axis::pp, Axis::tp, Axis::cp};
  CHECK(text(m, axes({Axis::dp})) == "0,1 2,3 4,5 6,7");
  CHECK(text(m, axes({Axis::pp})) == "0,2 1,3 4,6 5,7");
  CHECK(text(m, axes({Axis::tp})) == "0,4 1,5 2,6 3,7");
}

TEST_CASE("mesh: groups partition the world; members differ only on their axes") {
  for (int tp : {1, 2, 3})
    for (int cp : {1, 2})
      for (int dp : {1, 2, 5})
        for (int pp : {1, 4})
          for (int bits = 0; bits < 16; ++bits) {
            const Mesh m = mesh(tp, cp, dp, pp);
            AxisSet set;
            set.bits = static_cast<std::uint8_t>(bits);
            int product = 1;
            for (int a = 0; a < kNumAxes; ++a)
              if (set.has(static_cast<Axis>(a))) product *= m.of(static_cast<Axis>(a));
            std::vector<int> seen(static_cast<std::size_t>(m.world()), 0);
            for (const auto& group : m.groups(set)) {
              REQUIRE(static_cast<int>(group.size()) == product);
              for (Rank r : group) {
                ++seen[r.index()];
                REQUIRE(m.group_of(r, set) == group);
                for (int a = 0; a < kNumAxes; ++a) {
                  const auto axis = static_cast<Axis>(a);
                  if (!set.has(axis))
                    REQUIRE(m.coordinate(r, axis) == m.coordinate(group[0], axis));
                }
              }
            }
            for (int count : seen) REQUIRE(count == 1);
          }
}

TEST_CASE("mesh: with() changes one coordinate and no other") {
  const Mesh m = mesh(3, 2, 5, 4);
  for (int r = 0; r < m.world(); ++r)
    for (int a = 0; a < kNumAxes; ++a) {
      const auto axis = static_cast<Axis>(a);
      for (int i = 0; i < m.of(axis); ++i) {
        const Rank moved = m.with(Rank{r}, axis, i);
        for (int o = 0; o < kNumAxes; ++o) {
          const auto other = static_cast<Axis>(o);
          REQUIRE(m.coordinate(moved, other) == (other == axis ? i : m.coordinate(Rank{r}, other)));
        }
      }
    }
}

}  // namespace tandem
