// Is a timeline that came from outside sound, and does it fit its plan? Readers call record_fault
// on every record they take; compare calls check_timeline before it joins. Pure, thread-safe.
#pragma once

#include <string>

#include "common/base/diagnostic.h"
#include "common/base/result.h"
#include "common/timeline/timeline.h"

namespace tandem {

// Times are below 11.6 days: sums of a few of them, in ps, fit 64 bits.
[[nodiscard]] constexpr std::int64_t time_limit(Clock clock) {
  return clock == Clock::simulated_ps ? 1'000'000'000'000'000'000 : 1'000'000'000'000'000;
}

// Empty: the record is sound by itself. Else what is wrong, with its values: "ended (5) is before
// started (9)". A span needs ready <= started <= ended and issued <= ended.
[[nodiscard]] std::string record_fault(const Span& s, Clock clock);
[[nodiscard]] std::string record_fault(const CallSpan& s, Clock clock);
[[nodiscard]] std::string record_fault(const MemorySample& s, Clock clock);
[[nodiscard]] std::string record_fault(const StepMark& s, Clock clock);
[[nodiscard]] std::string record_fault(const PeakMemory& s, Clock clock);

// Against the plan: op ids, ranks and the program each rank runs, calls, every op once in every
// (step, rank), no rank missing (all of the world, or those that meta "ranks" lists). E-TIME-003,
// -004, -005; `file` names the timeline.
[[nodiscard]] Status check_timeline(const Timeline& timeline, const Plan& plan,
                                    const std::string& file);

}  // namespace tandem
