// Fair rates: by hand, by the certificate on random cases, and folded against unfolded.
#include "sim/network/max_min.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <random>

#include "tests/sim/scale.h"

namespace tandem::sim {
namespace {

using Path = std::vector<PathEntry>;

std::vector<double> rates_of(const std::vector<double>& capacity, const std::vector<Path>& paths,
                             const std::vector<double>& weights = {}) {
  std::vector<Demand> demands;
  for (std::size_t i = 0; i < paths.size(); ++i)
    demands.push_back({paths[i], weights.empty() ? 1 : weights[i]});
  const auto rates = max_min_rates(capacity, demands);
  CHECK(is_max_min_fair(capacity, demands, rates, 1e-12));
  return rates;
}

// Goal    a flow held back by a narrow link leaves its share of the wide link to the others.
//           host a ---- L0: 10 GB/s ---- switch ---- L1: 4 GB/s ---- host b
//           f0 crosses L0;  f1 crosses L0 and L1;  f2 crosses L1
// Law     L1 fills first, at 4 / 2 = 2 GB/s for f1 and f2; f0 then rises alone to 10 - 2 = 8.
TEST_CASE("max-min: what the narrow link takes away, the wide link gives to the others") {
  const auto rate =
      rates_of({10e9, 4e9}, {{{LinkId{0}}}, {{LinkId{0}}, {LinkId{1}}}, {{LinkId{1}}}});
  CHECK(rate[0] == 8e9);
  CHECK(rate[1] == 2e9);
  CHECK(rate[2] == 2e9);
}

// A weight of 3 against 1 on one link; a load of 2 takes twice its rate.
TEST_CASE("max-min: weights and loads") {
  const auto weighted = rates_of({8e9}, {{{LinkId{0}}}, {{LinkId{0}}}}, {3, 1});
  CHECK(weighted[0] == 6e9);
  CHECK(weighted[1] == 2e9);
  const auto loaded = rates_of({9e9}, {{{LinkId{0}, 2}}, {{LinkId{0}, 1}}});
  CHECK(loaded[0] == 3e9);  // 2 * 3 + 1 * 3 = 9
  CHECK(loaded[1] == 3e9);
}

TEST_CASE("max-min: the certificate refuses what is not fair or does not fit") {
  const std::vector<double> capacity = {10};
  const Path path = {{LinkId{0}}};
  const std::array<Demand, 2> flows = {Demand{path, 1}, Demand{path, 1}};
  CHECK(is_max_min_fair(capacity, flows, std::array{5.0, 5.0}, 1e-12));
  CHECK_FALSE(is_max_min_fair(capacity, flows, std::array{4.0, 6.0}, 1e-12));  // unfair
  CHECK_FALSE(is_max_min_fair(capacity, flows, std::array{4.0, 4.0}, 1e-12));  // room left
  CHECK_FALSE(is_max_min_fair(capacity, flows, std::array{6.0, 6.0}, 1e-12));  // too much
}

// k equal flows and one variable of load k: the same bits, next to other flows.
TEST_CASE("max-min: k equal flows are one flow of load k, bit for bit") {
  std::mt19937_64 random(7);
  for (int k = 2; k <= 9; ++k) {
    const std::vector<double> capacity = {static_cast<double>(random() % 1000 + 1) / 7,
                                          static_cast<double>(random() % 1000 + 1) / 3};
    std::vector<Path> many, one;
    for (int i = 0; i < k; ++i) many.push_back({{LinkId{0}}, {LinkId{1}}});
    one.push_back({{LinkId{0}, double(k)}, {LinkId{1}, double(k)}});
    for (auto* list : {&many, &one}) list->push_back({{LinkId{0}}});
    const auto a = rates_of(capacity, many), b = rates_of(capacity, one);
    CAPTURE(k);
    CHECK(a.front() == b.front());
    CHECK(a.back() == b.back());
  }
}

// Property: every solution has its certificate, and the solver forgets its last case.
TEST_CASE("max-min: the certificate holds on random cases") {
  const std::uint64_t seed = 20240731;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  MaxMinSolver solver;
  const int cases = scaled(2000);
  for (int n = 0; n < cases; ++n) {
    const int links = static_cast<int>(random() % 20 + 1),
              flows = static_cast<int>(random() % 60 + 1);
    std::vector<double> capacity;
    for (int l = 0; l < links; ++l)
      capacity.push_back(random() % 4 ? 1e9 * static_cast<double>(random() % 50 + 1)
                                      : 1e3 * static_cast<double>(random() % 1'000'000 + 1));
    std::vector<Path> paths(static_cast<std::size_t>(flows));
    std::vector<Demand> demands;
    for (Path& path : paths) {
      for (int l = 0; l < links; ++l)
        if (random() % static_cast<unsigned>(links) < 3)
          path.push_back({LinkId{l}, random() % 3 ? 1.0 : static_cast<double>(random() % 8 + 1)});
      if (path.empty())
        path.push_back({LinkId{static_cast<int>(random() % static_cast<unsigned>(links))}});
      demands.push_back({path, random() % 2 ? 1.0 : static_cast<double>(random() % 5 + 1)});
    }
    std::vector<double> rates(demands.size());
    solver.solve(capacity, demands, rates);
    CAPTURE(n);
    REQUIRE(is_max_min_fair(capacity, demands, rates, 1e-9));
    if (n % 100 == 0) REQUIRE(rates == max_min_rates(capacity, demands));  // a fresh solver
  }
}

}  // namespace
}  // namespace tandem::sim
