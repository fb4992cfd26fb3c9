// From measured points to the curves of a calibration, with the error on points that were held out.
//
//   Model   seconds = alpha + bytes / beta, alpha >= 0, in each segment of sizes
//   Method  least squares of the *relative* residuals (a small message counts as much as a large
//           one): minimise sum ((a + b x_i) / t_i - 1)^2, b >= 0. Segments are cut at sizes where
//           it helps: greedily, the cut that lowers the sum most, while it lowers it by a third
//           and leaves three points on each side.
//   Error   every third point (2nd, 5th, ...) is held out of a trial fit; its relative error is
//           reported. The returned curve is fitted to all points.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "common/model/calibration.h"

namespace tandem::sim {

struct TransportSample {
  Bytes bytes = 0;
  double seconds = 0;
};

struct TransportFit {
  std::vector<TransportSegment> segments;
  CalibrationFit quality;
};

// Needs two samples with different sizes and all seconds > 0 (checked); any order.
[[nodiscard]] TransportFit fit_transport(std::string name, std::vector<TransportSample> samples,
                                         int most_segments = 3);

// Errors of predictions against measurements (all > 0), relative: |p / m - 1|.
[[nodiscard]] CalibrationFit quality_of(std::string name, int points,
                                        std::span<const double> predicted,
                                        std::span<const double> measured);

// Median; of an even number the lower middle. Not empty (checked).
[[nodiscard]] double median(std::vector<double> values);

}  // namespace tandem::sim
