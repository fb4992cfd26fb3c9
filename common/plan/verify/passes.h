// The passes, in the order in which verify_plan() runs them. Each adds to the report and may assume
// that the passes named with it found nothing.
#pragma once

#include <vector>

#include "common/plan/verify/report.h"
#include "common/plan/verify/verify.h"

namespace tandem::verify {

// V1.1 indices and ids; V1.2 ranges; V1.3 stages on their rank; V1.4 programs; V1.5 groups.
void check_structure(const Plan& plan, Report& report);
// V1.6 calls against the kernel catalogue, V1.7 communications against their buffers, V1.8 buffers
// and views. After V1.1 to V1.5.
void check_operands(const Plan& plan, Report& report);
// V2. After V1.
void check_completeness(const Plan& plan, Report& report);
// V3.1 to V3.4. After V1.
void check_lifetimes(const Plan& plan, Report& report);

// Ops that are one message or one collective over several programs.
struct Matches {
  std::vector<std::int32_t> of_op;         // index into `members`, -1: alone
  std::vector<std::vector<OpId>> members;  // p2p: send first
};
// V5. After V1. The result is whole if V5 found nothing.
[[nodiscard]] Matches check_matching(const Plan& plan, Report& report);
// V7. After V5.
void check_order(const Plan& plan, const Matches& matches, Report& report);
// V10. After V5.
void check_late(const Plan& plan, const Matches& matches, Report& report);
// V4 and V6. After V5. Sets the levels.
void check_progress(const Plan& plan, const Matches& matches, const VerifyOptions& options,
                    Verification& result, Report& report);
// V9 (with V9.2: counts that the host knows) and V3.5. After V1 and V4.
void check_happens_before(const Plan& plan, Report& report);
// V8. After V1.
[[nodiscard]] std::vector<ProgramMemory> check_memory(const Plan& plan,
                                                      const VerifyOptions& options, Report& report);

}  // namespace tandem::verify
