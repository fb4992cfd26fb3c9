// What `tandem calibrate` asks of libtandem_exec.so, and the answer: two JSON files, so that the
// tool needs no LibTorch. Plain data. Kernels are named as calibration_key() prints them.
//
//   request   kernels to time, numbers of busy cores, seconds to spend, and how many bytes a rank
//             goes through between two uses of the same operand (the run's memory: it decides which
//             cache operands come from)
//   result    for each kernel and number of busy cores: CPU and wall seconds of one call, median
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/model/calibration.h"
#include "common/model/dtype.h"

namespace tandem {

struct MeasuredKernel {
  std::string kernel;       // calibration_key()
  bool accumulate = false;  // the call adds to its outputs where the catalogue allows it
  bool operator==(const MeasuredKernel&) const = default;
};

struct MeasureRequest {
  PlanTypes types;
  int threads_per_rank = 1;
  std::vector<int> busy = {1};  // threads that run the same kernel at once, ascending
  double budget_s = 10;         // for everything; each kernel gets a few samples whatever it costs
  Bytes footprint = 16 << 20;   // of one thread's operands in rotation
  std::vector<MeasuredKernel> kernels;
  bool operator==(const MeasureRequest&) const = default;
};

struct MeasuredPoint {
  MeasuredKernel what;
  int busy = 1;
  double cpu_s = 0, wall_s = 0;  // medians over all threads' calls
  double spread = 0;             // (p75 - p25) / median of the CPU times
  int samples = 0;
  bool operator==(const MeasuredPoint&) const = default;
};

struct MeasureResult {
  std::string libtorch;        // version and build
  double call_overhead_s = 0;  // of reading the clocks around a call: inside every sample
  std::vector<MeasuredPoint> points;
  bool operator==(const MeasureResult&) const = default;
};

[[nodiscard]] std::string to_json(const MeasureRequest& request);
[[nodiscard]] std::string to_json(const MeasureResult& result);
// E-CAL-007: not what this version writes, or a value out of range; names the place.
[[nodiscard]] Result<MeasureRequest> measure_request_from_json(const std::string& text,
                                                               const std::string& file);
[[nodiscard]] Result<MeasureResult> measure_result_from_json(const std::string& text,
                                                             const std::string& file);

}  // namespace tandem
