#include "sim/compute/kernel_table.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <tuple>

#include "common/base/check.h"
#include "sim/calibrate/fit.h"

namespace tandem::sim {
namespace {

constexpr double kExtrapolate = 4;  // times beyond the ends of a table

constexpr std::size_t kFeatures = 5;
using Features = std::array<double, kFeatures>;  // 1, FLOPs, then bytes or elements

double work_of(const KernelCost& c) { return c.flops > 0 ? c.flops : c.bytes; }

Features features(const Kernel& k, PlanTypes types, bool accumulate) {
  const KernelCost c = cost(k, types, accumulate);
  if (catalogue(k.kind).cost_class != CostClass::matmul) return {1, c.flops, c.bytes, 0, 0};
  const auto tokens = static_cast<double>(k.dims[0]), in = static_cast<double>(k.dims[1]),
             out = static_cast<double>(k.dims[2]);
  const double weights =  // one matrix, or one of each expert
      catalogue(k.kind).dims[3] == "experts" ? static_cast<double>(k.dims[3]) : 1;
  return {1, c.flops, tokens * in, weights * in * out, tokens * out};
}

double dot(const Features& a, const Features& b) {
  double sum = 0;
  for (std::size_t i = 0; i < kFeatures; ++i) sum += a[i] * b[i];
  return sum;
}

// Least squares of x . row = 1 with the features in `use`, by the normal equations; each feature is
// scaled to length 1, so that what is small is dependent. False: they are.
bool solve(const std::vector<Features>& rows, unsigned use, Features& out) {
  std::array<std::size_t, kFeatures> column{};
  std::size_t n = 0;
  Features length{};
  for (std::size_t i = 0; i < kFeatures; ++i) {
    for (const Features& r : rows) length[i] += r[i] * r[i];
    if (!(use >> i & 1)) continue;
    if (!(length[i] > 0)) return false;
    length[i] = std::sqrt(length[i]);
    column[n++] = i;
  }
  std::array<std::array<double, kFeatures + 1>, kFeatures> m{};
  for (const Features& r : rows)
    for (std::size_t i = 0; i < n; ++i) {
      const double left = r[column[i]] / length[column[i]];
      for (std::size_t j = 0; j < n; ++j) m[i][j] += left * r[column[j]] / length[column[j]];
      m[i][n] += left;
    }
  for (std::size_t i = 0; i < n; ++i) {
    if (!(m[i][i] > 1e-9)) return false;
    for (std::size_t k = 0; k < n; ++k) {
      if (k == i) continue;
      const double f = m[k][i] / m[i][i];
      for (std::size_t j = i; j <= n; ++j) m[k][j] -= f * m[i][j];
    }
  }
  out = {};
  for (std::size_t i = 0; i < n; ++i) out[column[i]] = m[i][n] / m[i][i] / length[column[i]];
  return true;
}

// min sum (x . row - 1)^2 with x >= 0: the best of all faces, FLOPs alone first; a face with more
// terms has to be better, not equal.
Features fit(const std::vector<Features>& rows) {
  std::vector<unsigned> faces;
  for (unsigned use = 1; use < 1U << kFeatures; ++use) faces.push_back(use);
  std::stable_sort(faces.begin(), faces.end(), [](unsigned a, unsigned b) {
    const bool constant_a = a == 1, constant_b = b == 1;  // a constant explains nothing
    return std::tuple(std::popcount(a), constant_a, a) <
           std::tuple(std::popcount(b), constant_b, b);
  });
  Features best{};
  double least = -1;
  for (const unsigned use : faces) {
    if (static_cast<std::size_t>(std::popcount(use)) > rows.size()) continue;
    Features x{};
    if (!solve(rows, use, x)) continue;
    if (std::any_of(x.begin(), x.end(), [](double v) { return v < 0; })) continue;
    double squares = 0;
    for (const Features& r : rows) squares += (dot(x, r) - 1) * (dot(x, r) - 1);
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

// Whether the dimension is a constant of the formula and no extent of an operand.
bool is_constant(KernelKind kind, std::string_view name) {
  if (kind == KernelKind::balance_fwd || kind == KernelKind::balance_bwd_input)
    return name == "tokens" || name == "top_k" || name == "divisor";
  return name == "divisor" || name == "valid" || name == "first";
}

// Constants stay 0. Key/value heads count by how many heads share one, the width of v by how much
// narrower it is than q and k.
std::array<double, kNumDims> octaves(const Kernel& k) {
  const CatalogueEntry& e = catalogue(k.kind);
  std::array<double, kNumDims> out{};
  for (std::size_t i = 0; i < kNumDims; ++i) {
    if (e.dims[i].empty() || is_constant(k.kind, e.dims[i])) continue;
    if (e.dims[i] == "kv_heads")
      out[i] = octave(k.dims[1] / std::max<std::int64_t>(1, kv_heads_of(k)));
    else if (e.dims[i] == "v_dim" && is_optional(e, i))  // of attention
      out[i] = octave(v_dim_of(k)) - octave(k.dims[3]);
    else if (e.dims[i] == "step")  // the own block, or one that has come
      out[i] = k.dims[i] > 0 ? 1 : 0;
    else
      out[i] = octave(k.dims[i]);
  }
  return out;
}

}  // namespace

KernelTable::KernelTable(std::span<const KernelSample> samples, PlanTypes types, bool accumulate)
    : types_(types), accumulate_(accumulate) {
  TANDEM_CHECK(!samples.empty(), "a table without points");
  std::map<KernelDims, std::pair<double, int>> by_dims;
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
    const double work = work_of(cost(k, types, accumulate)), seconds = sum.first / sum.second;
    least_ = rows.empty() ? work : std::min(least_, work);
    most_ = std::max(most_, work);
    Features r = features(k, types, accumulate);
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
  return std::max(dot(coefficient_, features(k, types_, accumulate_)), 1e-12);
}

std::optional<double> KernelTable::seconds(const Kernel& k) const {
  const double work = work_of(cost(k, types_, accumulate_));
  if (work < least_ / kExtrapolate || work > most_ * kExtrapolate) return std::nullopt;
  const std::array<double, kNumDims> at = octaves(k);
  double weights = 1, sum = 1;  // the base itself counts as a point one octave away
  for (const Point& p : points_) {
    double squared = 0;
    for (std::size_t i = 0; i < kNumDims; ++i)
      squared += (at[i] - p.octave[i]) * (at[i] - p.octave[i]);
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
