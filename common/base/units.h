// Units of quantities. Simulated time is int64 picoseconds (106 days); rates are double bytes/s.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/base/check.h"

namespace tandem {

using Picoseconds = std::int64_t;
using Nanoseconds = std::int64_t;
using Bytes = std::int64_t;

inline constexpr Picoseconds kPsPerNs = 1'000;
inline constexpr Picoseconds kPsPerSecond = 1'000'000'000'000;

// The one documented rounding of a cost to simulated time: up, so that no event is early.
[[nodiscard]] inline Picoseconds seconds_to_ps(double seconds) {
  TANDEM_CHECK(seconds >= 0 && seconds < 9.0e6, "duration {} s is outside 0 .. 104 days", seconds);
  return static_cast<Picoseconds>(std::ceil(seconds * 1e12));
}
[[nodiscard]] inline double ps_to_seconds(Picoseconds ps) {
  return static_cast<double>(ps) * 1e-12;
}

// a * b and a + b, refusing to overflow (an internal error: inputs are bounded before).
[[nodiscard]] inline std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t r = 0;
  TANDEM_CHECK(!__builtin_mul_overflow(a, b, &r), "{} * {} overflows 64 bits", a, b);
  return r;
}
[[nodiscard]] inline std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t r = 0;
  TANDEM_CHECK(!__builtin_add_overflow(a, b, &r), "{} + {} overflows 64 bits", a, b);
  return r;
}

}  // namespace tandem
