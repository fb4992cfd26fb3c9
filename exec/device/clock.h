// The two clocks of the executor: the host's monotonic time and the CPU time of the calling thread.
#pragma once

#include <ctime>

#include "common/base/units.h"

namespace tandem::exec {

inline Nanoseconds read_clock(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}
inline Nanoseconds now_ns() { return read_clock(CLOCK_MONOTONIC); }
inline Nanoseconds thread_cpu_ns() { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

}  // namespace tandem::exec
