#include "sim/calibrate/fit.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"

namespace tandem::sim {
namespace {

using Samples = std::span<const TransportSample>;
constexpr std::size_t kLeastPoints = 3;   // of a segment
constexpr double kWorthACut = 2.0 / 3.0;  // of the sum of squares before
constexpr double kFastest = 1e15;         // bytes/s where the slope is zero

struct Line {
  double alpha = 0, per_byte = 0, squares = 0;
};

double squares_of(Samples s, double a, double b) {
  double sum = 0;
  for (const TransportSample& p : s) {
    const double r = (a + b * static_cast<double>(p.bytes)) / p.seconds - 1;
    sum += r * r;
  }
  return sum;
}

// Normal equations with weights 1/t; the constraint a, b >= 0 by trying the faces.
Line fit_line(Samples s) {
  double ww = 0, wx = 0, xx = 0, w = 0, x = 0;
  for (const TransportSample& p : s) {
    const double u = 1 / p.seconds, v = static_cast<double>(p.bytes) / p.seconds;
    ww += u * u;
    wx += u * v;
    xx += v * v;
    w += u;
    x += v;
  }
  Line best{0, xx > 0 ? x / xx : 0, 0};
  best.squares = squares_of(s, best.alpha, best.per_byte);
  const auto consider = [&](double a, double b) {
    if (!(a >= 0 && b >= 0)) return;
    if (const double q = squares_of(s, a, b); q < best.squares) best = {a, b, q};
  };
  consider(w / ww, 0);
  if (const double det = ww * xx - wx * wx; std::abs(det) > 1e-12 * ww * xx)
    consider((w * xx - x * wx) / det, (ww * x - wx * w) / det);
  return best;
}

// Where the samples are cut: first index of each segment.
std::vector<std::size_t> cut(Samples s, int most_segments) {
  std::vector<std::size_t> starts = {0};
  while (static_cast<int>(starts.size()) < most_segments) {
    std::size_t best_cut = 0;
    double best_gain = 0;
    for (std::size_t k = 0; k < starts.size(); ++k) {
      const std::size_t begin = starts[k], end = k + 1 < starts.size() ? starts[k + 1] : s.size();
      const double whole = fit_line(s.subspan(begin, end - begin)).squares;
      for (std::size_t at = begin + kLeastPoints; at + kLeastPoints <= end; ++at) {
        if (s[at].bytes == s[at - 1].bytes) continue;
        const double parts = fit_line(s.subspan(begin, at - begin)).squares +
                             fit_line(s.subspan(at, end - at)).squares;
        const double gain = whole - parts;
        if (parts < whole * kWorthACut && gain > 1e-9 && gain > best_gain) {
          best_gain = gain;
          best_cut = at;
        }
      }
    }
    if (best_gain <= 0) break;
    starts.insert(std::upper_bound(starts.begin(), starts.end(), best_cut), best_cut);
  }
  return starts;
}

TransportCurve fit_curve(Samples s, int most_segments) {
  TransportCurve curve;
  const auto starts = cut(s, most_segments);
  for (std::size_t k = 0; k < starts.size(); ++k) {
    const std::size_t end = k + 1 < starts.size() ? starts[k + 1] : s.size();
    const Line line = fit_line(s.subspan(starts[k], end - starts[k]));
    curve.segments.push_back(
        {k == 0 ? 0 : s[starts[k]].bytes, line.alpha,
         line.per_byte > 0 ? std::min(kFastest, 1 / line.per_byte) : kFastest});
  }
  return curve;
}

}  // namespace

TransportFit fit_transport(std::string name, std::vector<TransportSample> samples,
                           int most_segments) {
  std::stable_sort(samples.begin(), samples.end(),
                   [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  TANDEM_CHECK(samples.size() >= 2 && samples.front().bytes < samples.back().bytes,
               "{} samples of one size", samples.size());
  for (const TransportSample& s : samples) TANDEM_CHECK(s.seconds > 0, "{} s", s.seconds);
  std::vector<TransportSample> kept, held;
  for (std::size_t i = 0; i < samples.size(); ++i)
    (i % 3 == 1 && i + 1 < samples.size() ? held : kept).push_back(samples[i]);
  TransportFit out;
  const TransportCurve trial = fit_curve(kept, most_segments);
  std::vector<double> predicted, measured;
  for (const TransportSample& s : held) {
    predicted.push_back(seconds_of(trial, s.bytes));
    measured.push_back(s.seconds);
  }
  out.quality = quality_of(std::move(name), static_cast<int>(samples.size()), predicted, measured);
  out.segments = fit_curve(samples, most_segments).segments;
  return out;
}

CalibrationFit quality_of(std::string name, int points, std::span<const double> predicted,
                          std::span<const double> measured) {
  TANDEM_CHECK(predicted.size() == measured.size(), "{} predictions of {}", predicted.size(),
               measured.size());
  CalibrationFit out;
  out.name = std::move(name);
  out.points = points;
  out.held_out = static_cast<int>(predicted.size());
  for (std::size_t i = 0; i < predicted.size(); ++i) {
    const double error = std::abs(predicted[i] / measured[i] - 1);
    out.mean_error += error / static_cast<double>(predicted.size());
    out.max_error = std::max(out.max_error, error);
  }
  return out;
}

double median(std::vector<double> values) {
  TANDEM_CHECK(!values.empty(), "median of nothing");
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace tandem::sim
