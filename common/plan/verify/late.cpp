// V10: a step that checks the update of the step before (optimizer_barrier post_validated) can be
// given up at its check and begun again. After V5.
// Proves: every program has one post_validate or none has (1); no op before it, its cut, writes
// what lives for the run (2); no op of a cut takes what is sent behind the sender's cut, and a
// collective lies in the cuts of all its programs or of none (3). What is sent inside a cut and
// taken behind another is under way when the step is given up: late_validation.h. Not: that the
// value that is checked is the norm of the update.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/plan/late_validation.h"
#include "common/plan/uses.h"
#include "common/plan/verify/passes.h"

namespace tandem::verify {
namespace {

class Late {
 public:
  Late(const Plan& plan, const Matches& matches, Report& report)
      : plan_(plan), matches_(matches), report_(report), cut_(validations(plan)) {}

  void run() {
    if (std::none_of(cut_.begin(), cut_.end(), [](OpId id) { return id.valid(); })) return;
    if (!once()) return;
    for (std::size_t p = 0; p < plan_.programs.size() && !report_.full(); ++p)
      clean(ProgramId{static_cast<std::int64_t>(p)});
    for (const std::vector<OpId>& members : matches_.members)
      if (!report_.full()) consistent(members);
  }

 private:
  void bad(const char* sub, OpId id, const std::string& what, std::string found,
           std::string expected, std::vector<OpId> notes) {
    report_.add({kLate,
                 fmt::format("{} rank {} {}: {}", sub, program_of(plan_, id).value,
                             text_of(plan_, id), what),
                 id, std::move(found), std::move(expected),
                 "use schedule.optimizer_barrier: synchronous, or move the post_validate",
                 std::move(notes)});
  }
  [[nodiscard]] OpId cut_of(OpId id) const { return cut_[program_of(plan_, id).index()]; }
  [[nodiscard]] bool inside(OpId id) const { return id < cut_of(id); }

  bool once() {
    const bool one_step = plan_.header.evaluation || plan_.header.settling;
    bool good = true;
    for (std::size_t p = 0; p < plan_.programs.size(); ++p) {
      const Program& program = plan_.programs[p];
      std::vector<OpId> all;
      for (std::uint32_t i = program.first_op; i < program.first_op + program.num_ops; ++i)
        if (plan_.ops[i].kind == OpKind::post_validate) all.push_back(OpId{i});
      if (all.size() == 1 && !one_step) continue;
      good = false;
      const OpId at = all.empty() ? OpId{program.first_op} : all.back();
      bad("V10.1", at, one_step ? "checks a step before, and there is none" : "checks of rank",
          fmt::format("{} post_validate on rank {}", all.size(), p),
          one_step ? "none" : "one on every rank, as another has one", {});
    }
    return good;
  }

  void clean(ProgramId program) {
    std::set<BufferId> lasting;
    for (BufferId b : plan_.persistent(program)) lasting.insert(b);
    for (OpId id{plan_.programs[program.index()].first_op}; id < cut_[program.index()];
         id = OpId{id.value + 1})
      for_each_root_use(plan_, plan_.op(id), [&](BufferId b, Use use) {
        if (!writes(use) || !lasting.contains(b) || report_.full()) return;
        bad("V10.2", id,
            fmt::format("writes {} before the update of the step before is checked",
                        text_of(plan_, b)),
            "a step that cannot be given up", "a write behind the post_validate",
            {cut_[program.index()]});
      });
  }

  void consistent(const std::vector<OpId>& members) {
    const auto in = std::find_if(members.begin(), members.end(), [&](OpId i) { return inside(i); });
    const auto out =
        std::find_if(members.begin(), members.end(), [&](OpId i) { return !inside(i); });
    if (in == members.end() || out == members.end()) return;
    if (plan_.op(*in).kind == OpKind::send) return;  // under way: it is taken and thrown away
    bad("V10.3", *in,
        plan_.op(*in).kind == OpKind::recv ? "takes what is sent behind the sender's check"
                                           : "meets an op behind another rank's check",
        fmt::format("{}, behind op {}", text_of(plan_, *out), cut_of(*out).value),
        "both before the checks of their ranks, or this one behind its own",
        {*out, cut_of(*in), cut_of(*out)});
  }

  const Plan& plan_;
  const Matches& matches_;
  Report& report_;
  const std::vector<OpId> cut_;
};

}  // namespace

void check_late(const Plan& plan, const Matches& matches, Report& report) {
  Late(plan, matches, report).run();
}

}  // namespace tandem::verify
