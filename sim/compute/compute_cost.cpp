#include "sim/compute/compute_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "common/base/text.h"
#include "sim/compute/kernel_table.h"

namespace tandem::sim {
namespace {

constexpr int kMostLevels = 64;

// What of a kernel selects a table of points. The constants (eps, base, max_norm) do not change a
// cost.
using TableKey = std::tuple<KernelKind, std::uint32_t, bool>;

// The calibration's points of one level of busy cores.
struct MeasuredLevel {
  std::map<std::pair<std::string, bool>, double> exact;
  std::map<TableKey, KernelTable> tables;
};

std::vector<MeasuredLevel> measured_levels(const Calibration& c, PlanTypes types) {
  int levels = 1;
  for (const KernelPoint& p : c.kernels) levels = std::max(levels, std::min(p.busy, kMostLevels));
  std::vector<MeasuredLevel> out(static_cast<std::size_t>(levels));
  std::vector<std::map<TableKey, std::vector<KernelSample>>> samples(out.size());
  for (const KernelPoint& p : c.kernels) {
    const auto kernel = kernel_from_text(split(p.kernel, ' '));
    if (!kernel || p.busy > levels || !(p.seconds > 0)) continue;
    const auto level = static_cast<std::size_t>(p.busy - 1);
    out[level].exact[{p.kernel, p.accumulate}] = p.seconds;
    samples[level][{kernel->kind, kernel->flags, p.accumulate}].push_back({*kernel, p.seconds});
  }
  for (std::size_t level = 0; level < out.size(); ++level)
    for (const auto& [key, list] : samples[level])
      out[level].tables.emplace(key, KernelTable(list, types, std::get<bool>(key)));
  return out;
}

struct LookedUp {
  double seconds;
  CostSource source;
};

std::optional<LookedUp> look_up(const MeasuredLevel& level, const Kernel& k, const std::string& key,
                                bool accumulate) {
  if (const auto it = level.exact.find({key, accumulate}); it != level.exact.end())
    return LookedUp{it->second, CostSource::measured};
  const auto it = level.tables.find({k.kind, k.flags & ~kCostless, accumulate});
  if (it == level.tables.end()) return std::nullopt;
  const auto seconds = it->second.seconds(k);
  if (!seconds) return std::nullopt;
  return LookedUp{*seconds, CostSource::interpolated};
}

double efficiency(const DeviceSpec& device, std::string_view name, double otherwise) {
  const auto it = device.efficiency.find(std::string(name));
  return it == device.efficiency.end() || !(it->second > 0) ? otherwise : it->second;
}

}  // namespace

std::string_view name_of(CostSource s) {
  constexpr std::array<std::string_view, kNumCostSources> kNames = {"measured", "interpolated",
                                                                    "roofline"};
  return kNames[static_cast<std::size_t>(s)];
}

std::string_view precision_name(DType t) {
  switch (t) {
    case DType::f64:
      return "fp64";
    case DType::f32:
      return "fp32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "fp16";
    default:
      return name_of(t);
  }
}

double roofline_seconds(const Kernel& k, PlanTypes types, bool accumulate,
                        const DeviceSpec& device) {
  const KernelCost c = cost(k, types, accumulate);
  const std::string_view cls = name_of(catalogue(k.kind).cost_class);
  const double e_c = efficiency(device, cls, 1);
  const double e_m =
      efficiency(device, c.flops > 0 ? "memory" : cls, efficiency(device, "memory", 1));
  double seconds = c.bytes / (device.memory_bandwidth * e_m);
  if (c.flops > 0) {
    const auto peak = device.peak.find(std::string(precision_name(types.compute)));
    TANDEM_CHECK(peak != device.peak.end(), "create() let a device without a peak through");
    seconds = std::max(seconds, c.flops / (peak->second * e_c));
  }
  return seconds;
}

struct ComputeCost::Tables {
  std::vector<MeasuredLevel> levels;
  PlanTypes types;
  DeviceSpec device;
  bool calibrated = false;
};

Result<ComputeCost> ComputeCost::create(const Plan& plan, const DeviceSpec& device,
                                        const Calibration* calibration) {
  const PlanTypes types = plan.header.types;
  const std::string precision(precision_name(types.compute));
  const auto peak = device.peak.find(precision);
  if (peak == device.peak.end() || !(peak->second > 0) || !(device.memory_bandwidth > 0))
    return make_error(Failure::infeasible, "E-CLUS-006",
                      "the device has no peak rate for the precision", precision,
                      "cluster.device.peak and memory_bandwidth above 0",
                      "add the rate, or choose another training.precision");
  if (calibration && calibration->precision != precision)
    return make_error(Failure::bad_input, "E-CAL-006", "the calibration is of another precision",
                      calibration->precision, precision,
                      "calibrate in this precision, or leave cluster.calibration out");
  ComputeCost out;
  auto tables = std::make_shared<Tables>();
  tables->levels =
      calibration ? measured_levels(*calibration, types) : std::vector<MeasuredLevel>(1);
  tables->types = types;
  tables->device = device;
  tables->calibrated = calibration != nullptr;
  out.num_levels_ = static_cast<int>(tables->levels.size());
  out.tables_ = std::move(tables);
  out.copy_bytes_per_s_ = calibration && calibration->copy_bytes_per_s > 0
                              ? calibration->copy_bytes_per_s
                              : device.memory_bandwidth / 2;  // read and written
  for (const Kernel& k : plan.kernels)
    for (const bool accumulate : {false, true}) {
      const Found found = out.find(k, accumulate);
      out.work_.insert(out.work_.end(), found.work.begin(), found.work.end());
      out.source_.push_back(found.source);
    }
  return out;
}

ComputeCost::Found ComputeCost::find(const Kernel& k, bool accumulate) const {
  const std::string key = tables_->calibrated ? calibration_key(k) : std::string();
  std::optional<LookedUp> found;
  for (const MeasuredLevel& level : tables_->levels)  // below the first measured level: its figure
    if (!found) found = look_up(level, k, key, accumulate);
  Found out;
  out.source = found ? found->source : CostSource::roofline;
  double seconds =
      found ? found->seconds : roofline_seconds(k, tables_->types, accumulate, tables_->device);
  for (const MeasuredLevel& level : tables_->levels) {
    if (const auto here = look_up(level, k, key, accumulate)) seconds = here->seconds;
    out.work.push_back(seconds_to_ps(seconds));
  }
  return out;
}

Picoseconds ComputeCost::copy(Bytes bytes) const {
  return seconds_to_ps(static_cast<double>(bytes) / copy_bytes_per_s_);
}

}  // namespace tandem::sim
