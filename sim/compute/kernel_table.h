// Time of a kernel of any size from measured points of the same kind, flags and mode.
//
//   Base      t0(k) = a + b * FLOPs(k) + c * bytes(k); a matrix product has a term for the elements
//             of each of its three matrices in place of the bytes, because one of them is packed.
//             No coefficient is negative: least squares of the relative residuals over all points.
//   Ratio     r = t / t0 at the points; between them the mean of r weighted by 1 / d^4, with d the
//             distance of the dimensions in octaves (sqrt of the sum of squares). At a point: its
//             own, so a measured time comes back as it was. What the base cannot say (tiles,
//             caches) is taken from the neighbours that are most alike.
//   Range     FLOPs (bytes where a kernel has none) from 1/4 of the least to 4 times the largest
//             point; beyond: no answer.
//   Source    inverse distance weighting: Shepard, 1968.
// Points at the same dimensions are averaged. Dimensions that are no extents (divisor, valid) count
// for nothing. Octaves are linear between powers of two, so that no library function is involved:
// same points, same bits on every machine. Immutable; any thread may read it.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "common/model/calibration.h"
#include "common/model/kernels.h"

namespace tandem::sim {

struct KernelSample {
  Kernel kernel;
  double seconds = 0;
};

class KernelTable {
 public:
  // Samples of one kind, flags and mode with seconds > 0 (checked); at least one.
  KernelTable(std::span<const KernelSample> samples, PlanTypes types, bool accumulate);

  // Seconds of one call; nothing beyond the range.
  [[nodiscard]] std::optional<double> seconds(const Kernel& kernel) const;

 private:
  struct Point {
    std::array<double, kNumDims> octave{};  // of the dimensions
    double ratio = 1;
  };
  [[nodiscard]] double base(const Kernel& kernel) const;

  PlanTypes types_;
  bool accumulate_ = false;
  std::array<double, 5> coefficient_{};
  double least_ = 0, most_ = 0;  // of the work
  std::vector<Point> points_;
};

// How well such a table predicts points it has not seen: every third sample in the order of work is
// held out of a trial table. Name: the kernel's.
[[nodiscard]] CalibrationFit quality_of(std::span<const KernelSample> samples, PlanTypes types,
                                        bool accumulate);

}  // namespace tandem::sim
