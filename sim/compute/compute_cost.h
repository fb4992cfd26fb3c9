// Time of a kernel call: measured where the calibration has it, else by the roofline.
//
//   roofline      seconds = max(FLOPs / (peak * e_c), bytes / (bandwidth * e_m))
//                 peak of the plan's compute type; e_c = efficiency of the kernel's class (matmul,
//                 attention), e_m of "memory" (or of the class by its own name); absent: 1
//   measured      the same kernel text is in the calibration
//   interpolated  from points of the same kind, flags and mode (kernel_table.h)
//   Busy cores    the tables may hold a point for each number of busy cores: a call has one work
//                 for each level 1..num_levels(). Without a point for a level: the next lower
//                 one's.
// FLOPs and bytes: common/model/kernels. Rounding: up to whole picoseconds, per call.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/base/units.h"
#include "common/model/calibration.h"
#include "common/plan/plan.h"
#include "common/scenario/scenario.h"

namespace tandem::sim {

enum class CostSource : std::uint8_t { measured, interpolated, roofline };
inline constexpr int kNumCostSources = 3;
[[nodiscard]] std::string_view name_of(CostSource s);

// Costs of all kernels of one plan, looked up by kernel id. Immutable, so any thread may read it.
class ComputeCost {
 public:
  // E-CLUS-006: no peak for the plan's type. E-CAL-006: calibrated in another precision.
  [[nodiscard]] static Result<ComputeCost> create(const Plan& plan, const DeviceSpec& device,
                                                  const Calibration* calibration);

  [[nodiscard]] int num_levels() const { return num_levels_; }
  // Work of a call by level: the CPU (or device) time if it had a core for itself. `accumulates`:
  // call_accumulates of common/plan/totals.h.
  [[nodiscard]] std::span<const Picoseconds> work(KernelId kernel, bool accumulates) const {
    return {work_.data() + row(kernel, accumulates) * static_cast<std::size_t>(num_levels_),
            static_cast<std::size_t>(num_levels_)};
  }
  [[nodiscard]] CostSource source(KernelId kernel, bool accumulates) const {
    return source_[row(kernel, accumulates)];
  }
  // The same of a kernel with other dimensions (rows that are known only at run time): looked up
  // now.
  struct Found {
    std::vector<Picoseconds> work;  // by level
    CostSource source = CostSource::roofline;
  };
  [[nodiscard]] Found find(const Kernel& kernel, bool accumulates) const;
  // Time to copy so many bytes of input data to the device.
  [[nodiscard]] Picoseconds copy(Bytes bytes) const;

 private:
  static std::size_t row(KernelId kernel, bool accumulates) {
    return 2 * kernel.index() + (accumulates ? 1 : 0);
  }
  struct Tables;  // of the calibration, and what the roofline needs
  int num_levels_ = 1;
  std::shared_ptr<const Tables> tables_;
  double copy_bytes_per_s_ = 0;
  std::vector<Picoseconds> work_;  // [kernel][accumulates][level]
  std::vector<CostSource> source_;
};

// "bf16" of the scenario's peak table.
[[nodiscard]] std::string_view precision_name(DType t);

[[nodiscard]] double roofline_seconds(const Kernel& kernel, PlanTypes types, bool accumulates,
                                      const DeviceSpec& device);

}  // namespace tandem::sim
