#include "sim/compute/kernel_table.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "common/base/check.h"
#include "sim/calibrate/fit.h"

namespace tandem::sim {
namespace {

constexpr double kExtrapolate = 4;  // times beyond the ends of a table

using Features = std::array<double, 3>;  // 1, FLOPs, bytes

double work_of(const KernelCost& c) { return c.flops > 0 ? c.flops : c.bytes; }

Features features(const KernelCost& c) { return {1, c.flops, c.bytes}; }

double dot(const Features& a, const Features& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// Solves the normal equations of the features in `use`, scaled to be comparable. False: singular.
bool solve(const std::vector<Features>& rows, unsigned use, Features& out) {
  std::array<std::array<double, 4>, 3> m{};  // [feature][feature | right side]
  for (const Features& r : rows)
    for (std::size_t i = 0; i < 3; ++i) {
      if (!(use >> i & 1)) continue;
      for (std::size_t j = 0; j < 3; ++j)
        if (use >> j & 1) m[i][j] += r[i] * r[j];
      m[i][3] += r[i];  // every relative time is 1
    }
  for (std::size_t i = 0; i < 3; ++i) {
    if (!(use >> i & 1)) continue;
    const double pivot = m[i][i];
    double largest = 0;
    for (const Features& r : rows) largest += r[i] * r[i];
    if (!(pivot > 1e-9 * largest)) return false;
    for (std::size_t k = 0; k < 3; ++k) {
      if (k == i || !(use >> k & 1)) continue;
      const double f = m[k][i] / pivot;
      for (std::size_t j = i; j < 4; ++j) m[k][j] -= f * m[i][j];
    }
  }
  out = {};
  for (std::size_t i = 0; i < 3; ++i)
    if (use >> i & 1) out[i] = m[i][3] / m[i][i];
  return true;
}

// min sum (x . row - 1)^2 with x >= 0: the best of all faces. Faces in the order of simplicity, so
// that two points of a kernel that only has bytes are not explained by what it lacks.
Features fit(const std::vector<Features>& rows) {
  Features best{};
  double least = -1;
  for (const unsigned use : {2U, 4U, 1U, 3U, 5U, 6U, 7U}) {
    if (static_cast<std::size_t>(__builtin_popcount(use)) > rows.size()) continue;
    Features x{};
    if (!solve(rows, use, x)) continue;
    if (x[0] < 0 || x[1] < 0 || x[2] < 0) continue;
    double squares = 0;
    for (const Features& r : rows) squares += (dot(x, r) - 1) * (dot(x, r) - 1);
    // A more complicated face has to be better, not equal.
    if (least < 0 || squares < least * (1 - 1e-6) - 1e-12) {
      least = squares;
      best = x;
    }
  }
  TANDEM_CHECK(least >= 0, "no face fits {} points", rows.size());
  return best;
}

// e + (m - 1) for x = m 2^e, 1 <= m < 2: log2 at powers of two, linear between them.
double octave(std::int64_t x) {
  int exponent = 0;
  const double m = std::frexp(static_cast<double>(std::max<std::int64_t>(1, x)), &exponent);
  return exponent + 2 * m - 2;
}

// Dimensions that are constants of the formula and no extents stay 0.
std::array<double, 4> octaves(const Kernel& k) {
  const auto& names = catalogue(k.kind).dims;
  std::array<double, 4> out{};
  for (std::size_t i = 0; i < 4; ++i)
    if (names[i] != "divisor" && names[i] != "valid") out[i] = octave(k.dims[i]);
  return out;
}

}  // namespace

KernelTable::KernelTable(std::span<const KernelSample> samples, PlanTypes types, bool accumulate)
    : types_(types), accumulate_(accumulate) {
  TANDEM_CHECK(!samples.empty(), "a table without points");
  std::map<std::array<std::int64_t, 4>, std::pair<double, int>> by_dims;
  for (const KernelSample& s : samples) {
    TANDEM_CHECK(s.seconds > 0, "{} takes {} s", to_text(s.kernel), s.seconds);
    auto& [sum, count] = by_dims[s.kernel.dims];
    sum += s.seconds;
    ++count;
  }
  Kernel k = samples.front().kernel;
  std::vector<Features> rows;
  for (const auto& [dims, sum] : by_dims) {
    k.dims = dims;
    const KernelCost c = cost(k, types, accumulate);
    const double work = work_of(c), seconds = sum.first / sum.second;
    least_ = rows.empty() ? work : std::min(least_, work);
    most_ = std::max(most_, work);
    Features r = features(c);
    for (double& f : r) f /= seconds;
    rows.push_back(r);
  }
  coefficient_ = fit(rows);
  for (const auto& [dims, sum] : by_dims) {
    k.dims = dims;
    points_.push_back({octaves(k), sum.first / sum.second / base(k)});
  }
}

double KernelTable::base(const Kernel& k) const {
  return std::max(dot(coefficient_, features(cost(k, types_, accumulate_))), 1e-12);
}

std::optional<double> KernelTable::seconds(const Kernel& k) const {
  const double work = work_of(cost(k, types_, accumulate_));
  if (work < least_ / kExtrapolate || work > most_ * kExtrapolate) return std::nullopt;
  const std::array<double, 4> at = octaves(k);
  double weights = 0, sum = 0;
  for (const Point& p : points_) {
    double squared = 0;
    for (std::size_t i = 0; i < 4; ++i) squared += (at[i] - p.octave[i]) * (at[i] - p.octave[i]);
    if (squared < 1e-12) return base(k) * p.ratio;
    const double w = 1 / (squared * squared);
    weights += w;
    sum += w * p.ratio;
  }
  return base(k) * (sum / weights);
}

CalibrationFit quality_of(std::span<const KernelSample> samples, PlanTypes types, bool accumulate) {
  TANDEM_CHECK(!samples.empty(), "quality of no samples");
  std::vector<KernelSample> all(samples.begin(), samples.end());
  std::stable_sort(all.begin(), all.end(), [&](const KernelSample& a, const KernelSample& b) {
    return work_of(cost(a.kernel, types, accumulate)) < work_of(cost(b.kernel, types, accumulate));
  });
  std::vector<KernelSample> kept, held;
  for (std::size_t i = 0; i < all.size(); ++i)
    (i % 3 == 1 && i + 1 < all.size() ? held : kept).push_back(all[i]);
  const KernelTable trial(kept, types, accumulate);
  std::vector<double> predicted, measured;
  for (const KernelSample& s : held) {
    const std::optional<double> p = trial.seconds(s.kernel);
    if (!p) continue;
    predicted.push_back(*p);
    measured.push_back(s.seconds);
  }
  return quality_of(std::string(catalogue(samples.front().kernel.kind).name),
                    static_cast<int>(all.size()), predicted, measured);
}

}  // namespace tandem::sim
