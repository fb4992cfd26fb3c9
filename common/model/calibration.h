// Measured costs of one machine: a .cal.json file. `tandem calibrate` writes it, sim/compute and
// sim/network read it. Plain data. Format: docs/formats/calibration.md.
//
//   kernels     seconds of CPU work of one call, by kernel text and number of busy cores
//   transports  seconds of a communication from the moment all members are there to its end, by
//               kind, members and bytes: alpha + bytes / bytes_per_s in the segment of the size;
//               cpu_share of it is CPU work of every member, the rest is waiting
//   overheads   issue: host time to issue an op; wake: from the end of what a sleeping thread (of a
//               stream or the host) waited for to its going on
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/base/units.h"
#include "common/model/kernels.h"

namespace tandem {

struct CalibrationMachine {
  std::string cpu;       // model name
  std::string libtorch;  // version
  int cores = 1;         // that ranks may use
  int ranks = 1;         // processes the tables were measured with
  bool operator==(const CalibrationMachine&) const = default;
};

struct KernelPoint {
  std::string kernel;       // calibration_key()
  bool accumulate = false;  // the call adds to its outputs
  int busy = 1;             // cores busy while it was measured
  double seconds = 0;       // CPU work of one call
  int samples = 1;
  bool operator==(const KernelPoint&) const = default;
};

struct TransportSegment {
  Bytes from_bytes = 0;  // holds from this size to the next segment's
  double alpha_s = 0, bytes_per_s = 0;
  bool operator==(const TransportSegment&) const = default;
};

struct TransportCurve {
  std::string kind;  // name of an OpKind; "send" stands for a matched send and receive
  int members = 2;
  double cpu_share = 0;                    // CPU seconds of one member / seconds
  std::vector<TransportSegment> segments;  // by from_bytes, the first from 0
  bool operator==(const TransportCurve&) const = default;
};

// Time for a sleeping thread to go on, while so many ranks compute on the machine's cores.
struct WakePoint {
  int ranks = 1;
  double seconds = 0;
  bool operator==(const WakePoint&) const = default;
};

// How good a fit is on points it was not fitted to.
struct CalibrationFit {
  std::string name;  // "all_reduce x2", "linear_fwd"
  int points = 0, held_out = 0;
  double mean_error = 0, max_error = 0;  // relative, of the held-out points
  bool operator==(const CalibrationFit&) const = default;
};

struct Calibration {
  CalibrationMachine machine;
  std::string precision = "fp32";
  double issue_s = 0;
  std::vector<WakePoint> wakes;  // by ranks
  double copy_bytes_per_s = 0;   // copy ops; 0: the memory bandwidth
  std::vector<KernelPoint> kernels;
  std::vector<TransportCurve> transports;
  std::vector<CalibrationFit> fits;
  bool operator==(const Calibration&) const = default;

  // The curve of this kind with the nearest number of members (the greater one of two equally
  // near); nullptr: none of the kind.
  [[nodiscard]] const TransportCurve* transport(std::string_view kind, int members) const;
};

// Of a run of so many ranks: linear between the points, the end's beyond them; 0 without points.
[[nodiscard]] double wake_seconds(const Calibration& calibration, int ranks);

// Seconds by the curve.
[[nodiscard]] double seconds_of(const TransportCurve& curve, Bytes bytes);

// Flags that change no cost: which rows they are, and how far apart those of a block lie.
inline constexpr std::uint32_t kCostless = kPositions | kVocab | kFused;
// The kernel's text without what does not change its cost: `coords`, `owner`, these flags and the
// position of the first row.
[[nodiscard]] std::string calibration_key(const Kernel& kernel);

// 16 hex digits of SHA-256 of what was measured and where: CPU model, LibTorch with its build,
// cores, ranks, precision. Names the file in the cache and stands in every prediction made with it.
[[nodiscard]] std::string digest_of(const CalibrationMachine& machine,
                                    const std::string& precision);

// Sorted; ends in a newline. calibration_from_json(to_json(c)) == c for sorted tables.
[[nodiscard]] std::string to_json(const Calibration& calibration);

// E-CAL-001 (not JSON), E-CAL-002 (shape), E-CAL-003 (a value out of range), E-CAL-004 (too much),
// E-CAL-005 (the same entry twice). Reads at most limits::kTableBytes.
[[nodiscard]] Result<Calibration> calibration_from_json(const std::string& text,
                                                        const std::string& file);
[[nodiscard]] Result<Calibration> read_calibration(const std::string& path);
[[nodiscard]] Status write_calibration(const std::string& path, const Calibration& calibration);

}  // namespace tandem
