// Where the passes put what they find. Keeps the first 100; locates them in the plan's text.
#pragma once

#include <string>
#include <vector>

#include "common/base/diagnostic.h"
#include "common/plan/plan.h"
#include "common/plan/verify/verify.h"

namespace tandem::verify {

// One code a pass; the sub-code (V3.2) opens the title.
inline constexpr const char *kStructure = "E-PLAN-020", *kMatching = "E-PLAN-021",
                            *kComplete = "E-PLAN-022", *kLifetime = "E-PLAN-023",
                            *kAcyclic = "E-PLAN-024", *kDeadlock = "E-PLAN-025",
                            *kOrder = "E-PLAN-026", *kMemory = "E-PLAN-027",
                            *kHappensBefore = "E-PLAN-028", *kLate = "E-PLAN-029";

struct Finding {
  const char* code;
  std::string title;  // "V3.2 program 0: op 12 ... reads buffer 7 after op 9 freed it"
  OpId op;            // the op at fault; none: the plan as a whole
  std::string found, expected, hint;
  std::vector<OpId> notes;  // other ops that take part, at most four are shown
};

class Report {
 public:
  Report(const Plan& plan, const VerifyOptions& options) : plan_(plan), options_(options) {}
  void add(Finding finding);
  [[nodiscard]] bool full() const;
  [[nodiscard]] bool empty() const { return findings_.empty(); }
  [[nodiscard]] bool has(const char* code) const;
  // In the order of passes, each located.
  [[nodiscard]] Diagnostics take();

 private:
  const Plan& plan_;
  const VerifyOptions& options_;
  std::vector<Finding> findings_;
};

// "op 12 send.act(edge:0->1) stage 0 mb 1"; the program it belongs to: "program 0".
[[nodiscard]] std::string text_of(const Plan& plan, OpId id);
[[nodiscard]] ProgramId program_of(const Plan& plan, OpId id);
// "buffer 7 (saved_weight l0.attn_norm_out)"
[[nodiscard]] std::string text_of(const Plan& plan, BufferId id);

}  // namespace tandem::verify
