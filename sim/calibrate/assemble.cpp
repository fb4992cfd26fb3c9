#include "sim/calibrate/assemble.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "common/base/text.h"
#include "sim/compute/kernel_table.h"

namespace tandem::sim {

void add_kernels(const MeasureResult& measured, PlanTypes types, Calibration& out) {
  int most_busy = 1;
  for (const MeasuredPoint& p : measured.points) {
    out.kernels.push_back({p.what.kernel, p.what.accumulate, p.busy, p.cpu_s, p.samples});
    most_busy = std::max(most_busy, p.busy);
  }
  std::map<std::tuple<KernelKind, std::uint32_t, bool>, std::vector<KernelSample>> groups;
  for (const MeasuredPoint& p : measured.points) {
    const auto kernel = kernel_from_text(split(p.what.kernel, ' '));
    if (!kernel || p.busy != most_busy || !(p.cpu_s > 0)) continue;
    groups[{kernel->kind, kernel->flags, p.what.accumulate}].push_back({*kernel, p.cpu_s});
  }
  for (const auto& [key, samples] : groups) {
    if (samples.size() < 3) continue;
    const auto& [kind, flags, accumulate] = key;
    CalibrationFit fit = quality_of(samples, types, accumulate);
    for (std::uint32_t bit = 1; bit != 0 && bit <= flags; bit <<= 1)
      if (flags & bit) fit.name += " " + std::string(flag_word(bit));
    if (accumulate) fit.name += ", accumulating";
    out.fits.push_back(std::move(fit));
  }
}

void add_transports(const ProbeFigures& figures, Calibration& out) {
  for (const ProbeFigures::Curve& c : figures.curves) {
    const auto [least, most] = std::minmax_element(
        c.samples.begin(), c.samples.end(),
        [](const TransportSample& a, const TransportSample& b) { return a.bytes < b.bytes; });
    if (c.samples.size() < 2 || least->bytes == most->bytes) continue;
    const std::string name(name_of(c.kind));
    TransportFit fit = fit_transport(name + " x" + std::to_string(c.members), c.samples);
    TransportCurve curve;
    curve.kind = name;
    curve.members = c.members;
    curve.cpu_share = median(c.cpu_shares);
    curve.segments = std::move(fit.segments);
    out.transports.push_back(std::move(curve));
    out.fits.push_back(std::move(fit.quality));
  }
  if (!figures.issues_s.empty()) out.issue_s = median(figures.issues_s);
  for (const auto& [ranks, turns] : figures.turns_s) out.wakes.push_back({ranks, median(turns)});
}

}  // namespace tandem::sim
