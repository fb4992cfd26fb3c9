// Goal    the gap of a choice is what its header says: by hand where it is small, by trying every
//         set of groups where it is not; and it never speaks against a choice that scores near the
//         given ones have made.
#include "exec/train/near_tie.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "exec/train/reference_moe.h"

namespace tandem::exec {
namespace {

using Chosen = std::vector<std::int32_t>;
using Scores = std::vector<double>;

MoeSpec experts(int count, int top_k, int groups = 1, int kept = 1) {
  MoeSpec m;
  m.experts = count, m.top_k = top_k, m.groups = groups, m.groups_kept = kept;
  return m;
}

// The choice of the oracle.
Chosen chosen_by(const Scores& scores, const MoeSpec& moe) {
  const at::Tensor z = at::tensor(scores, at::kDouble).view({1, 1, moe.experts});
  const at::Tensor choice =
      choose_experts(z, at::zeros({moe.experts}, at::kDouble), moe).contiguous();
  const auto* p = choice.const_data_ptr<std::int64_t>();
  return {p, p + moe.top_k};
}

// The definition, over all sets of kept groups.
double gap_by_trying(const Scores& z, const Chosen& chosen, const MoeSpec& moe) {
  const int width = moe.experts / moe.groups, counted = moe.group_max ? 1 : std::min(2, width);
  double least = std::numeric_limits<double>::infinity();
  for (unsigned set = 0; set < (1U << moe.groups); ++set) {
    if (__builtin_popcount(set) != moe.groups_kept) continue;
    const auto is_kept = [&](int group) { return ((set >> group) & 1U) != 0; };
    if (!std::all_of(chosen.begin(), chosen.end(), [&](int e) { return is_kept(e / width); }))
      continue;
    double refused = -INFINITY, worst = INFINITY, out = -INFINITY, in = INFINITY;
    for (int e = 0; e < moe.experts; ++e) {
      const double value = z[static_cast<std::size_t>(e)];
      if (std::find(chosen.begin(), chosen.end(), e) != chosen.end())
        worst = std::min(worst, value);
      else if (is_kept(e / width))
        refused = std::max(refused, value);
    }
    for (int g = 0; g < moe.groups; ++g) {
      Scores own(z.begin() + g * width, z.begin() + (g + 1) * width);
      std::sort(own.rbegin(), own.rend());
      const double sum = counted == 1 ? own[0] : own[0] + own[1];
      (is_kept(g) ? in : out) = is_kept(g) ? std::min(in, sum) : std::max(out, sum);
    }
    least = std::min(least, std::max(refused - worst, (out - in) / counted));
  }
  return least;
}

const std::vector<MoeSpec>& shapes() {
  static const std::vector<MoeSpec> all = [] {
    std::vector<MoeSpec> out = {experts(8, 2), experts(8, 2, 4, 2), experts(16, 4, 8, 4),
                                experts(8, 1, 4, 2), experts(6, 2, 6, 3)};
    out.push_back(experts(8, 2, 4, 2));
    out.back().group_max = true;
    return out;
  }();
  return all;
}

using Random = std::mt19937_64;

// In [0, 1).
double uniform(Random& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

Scores random_scores(Random& random, int count) {
  Scores out(static_cast<std::size_t>(count));
  for (double& x : out) x = uniform(random);
  return out;
}

}  // namespace

TEST_CASE("gap of a choice: the best refused score less the worst chosen one") {
  const MoeSpec two = experts(4, 2);
  const Scores z = {0.5, 0.25, 0.125, 0.0625};
  CHECK(choice_gap(z, Chosen{0, 1}, two) == 0.125 - 0.25);  // right, with room
  CHECK(choice_gap(z, Chosen{1, 0}, two) == 0.125 - 0.25);  // slots have no order
  CHECK(choice_gap(z, Chosen{0, 2}, two) == 0.25 - 0.125);
  CHECK(choice_gap(z, Chosen{3, 2}, two) == 0.5 - 0.0625);
  CHECK(choice_gap(Scores{0.5, 0.5, 0.5, 0.5}, Chosen{2, 3}, two) == 0);  // ties go either way
}

TEST_CASE("gap of a choice: no scores make one that is none") {
  const Scores z = {0.5, 0.25, 0.125, 0.0625};
  CHECK(std::isinf(choice_gap(z, Chosen{1, 1}, experts(4, 2))));
  CHECK(std::isinf(choice_gap(z, Chosen{1, 4}, experts(4, 2))));
  CHECK(std::isinf(choice_gap(z, Chosen{-1, 0}, experts(4, 2))));
  CHECK(std::isinf(choice_gap(z, Chosen{0, 2}, experts(4, 2, 2, 1))));  // of two groups
}

// Groups {0.5, 0.0} {0.3, 0.3} {0.2, 0.3}: sums 0.5, 0.6, 0.5; one is kept.
TEST_CASE("gap of a choice: groups count by their two best, of experts only kept groups'") {
  const MoeSpec m = experts(6, 2, 3, 1);
  const Scores z = {0.5, 0.0, 0.3, 0.3, 0.2, 0.3};
  CHECK(choice_gap(z, Chosen{2, 3}, m) <= 0);  // 0.5 is outside
  CHECK(choice_gap(z, Chosen{0, 1}, m) == doctest::Approx((0.6 - 0.5) / 2));
  CHECK(choice_gap(z, Chosen{5, 4}, m) == doctest::Approx((0.6 - 0.5) / 2));
  MoeSpec by_best = m;
  by_best.group_max = true;  // 0.5, 0.3, 0.3
  CHECK(choice_gap(z, Chosen{0, 1}, by_best) <= 0);
  CHECK(choice_gap(z, Chosen{2, 3}, by_best) == doctest::Approx(0.5 - 0.3));
}

TEST_CASE("gap of a choice: equal to trying every set of kept groups") {
  Random random(41);
  for (const MoeSpec& moe : shapes())
    for (int trial = 0; trial < 500; ++trial) {
      const Scores z = random_scores(random, moe.experts);
      Chosen chosen;
      while (std::ssize(chosen) < moe.top_k) {
        const auto e = static_cast<std::int32_t>(random() % static_cast<unsigned>(moe.experts));
        if (std::find(chosen.begin(), chosen.end(), e) == chosen.end()) chosen.push_back(e);
      }
      const double gap = choice_gap(z, chosen, moe), expected = gap_by_trying(z, chosen, moe);
      CHECK((gap == expected || std::abs(gap - expected) < 1e-12));
      // Right choices are those without a gap.
      Chosen best = chosen_by(z, moe);
      std::sort(best.begin(), best.end());
      std::sort(chosen.begin(), chosen.end());
      CHECK(choice_gap(z, best, moe) <= 0);
      if (gap <= 0) CHECK((chosen == best));
    }
}

TEST_CASE("gap of a choice: scores that are off by d make none above 2 d") {
  Random random(42);
  for (const MoeSpec& moe : shapes())
    for (const double d : {1e-6, 1e-2, 0.3}) {
      double largest = 0;
      for (int trial = 0; trial < 500; ++trial) {
        const Scores z = random_scores(random, moe.experts);
        Scores off = z;
        for (double& x : off) x += d * (2 * uniform(random) - 1);
        largest = std::max(largest, choice_gap(z, chosen_by(off, moe), moe));
      }
      CHECK(largest <= 2 * d * (1 + 1e-9));
      if (d > 1e-3) CHECK(largest > 0);  // some choices did change
    }
}

}  // namespace tandem::exec
