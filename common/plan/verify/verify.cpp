#include "common/plan/verify/verify.h"

#include "common/plan/verify/passes.h"
#include "common/plan/verify/report.h"

namespace tandem {

Verification verify_plan(const Plan& plan, const VerifyOptions& options) {
  using namespace verify;
  Verification out;
  Report report(plan, options);
  check_structure(plan, report);
  if (report.empty()) check_operands(plan, report);
  if (!report.empty()) {  // nothing else can be said about such a plan
    out.errors = report.take();
    return out;
  }
  if (options.completeness) check_completeness(plan, report);
  check_lifetimes(plan, report);
  const Matches matches = check_matching(plan, report);
  if (!report.has(kMatching)) {
    check_order(plan, matches, report);
    check_progress(plan, matches, options, out, report);
    check_late(plan, matches, report);
  }
  if (!report.has(kMatching) && !report.has(kAcyclic)) check_happens_before(plan, report);
  out.programs = check_memory(plan, options, report);
  out.errors = report.take();
  return out;
}

}  // namespace tandem
