// V2: every stage does every microbatch, and every slice of its sequences, once.
// Proves, for each (stage, microbatch, slice): there are forward ops (1) and backward ops, B or I
// and W (2), and the same recomputation; in issue order the backward comes after the forward (3)
// and W after I, layer by layer (4), forwards of slices in their order and backwards the other way
// (7); no gradient is written any more once a reduction or the optimizer has read it (5). The
// kernels of one visit are those of the same slice of the stage's first microbatch, in the same
// order, so that a lost or doubled op is found (1, 2). An evaluation has forward ops only (2) and
// writes no buffer that lives for the run (6): it may borrow those of training. A plan of settling
// has no visits. Not: anything
// across programs; that a visit computes the right thing.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/plan/uses.h"
#include "common/plan/verify/passes.h"

namespace tandem::verify {
namespace {

constexpr const char* kHint = "look at the order of the schedule: `tandem plan --dump-after order`";

// What one stage does with one slice of a microbatch.
struct Visit {
  // Kernel, layer; in order. `again`: phase R.
  std::vector<std::pair<std::int32_t, std::int32_t>> forward, backward, again;
  OpId first_f, last_f, first_i, last_i, first_w, last_backward;
  bool has_b = false;
};

class Completeness {
 public:
  Completeness(const Plan& plan, Report& report) : plan_(plan), report_(report) {}
  void run() {
    const std::size_t stages = plan_.header.stage_rank.size();
    const std::int32_t each = plan_.header.microbatches / plan_.header.copies;
    for (std::int32_t copy = 0; copy < plan_.header.copies && !plan_.header.settling; ++copy)
      for (std::size_t s = 0; s < stages && !report_.full(); ++s)
        stage(static_cast<std::int32_t>(s), copy * each, each);
    for (std::size_t p = 0; p < plan_.programs.size() && !report_.full(); ++p)
      if (const ProgramId program{static_cast<std::int64_t>(p)}; plan_.header.evaluation)
        unchanged(program);
      else
        gradients(program);
  }

 private:
  // A visit: microbatch and slice.
  struct Unit {
    int mb, slice;
  };
  void bad(const char* sub, int stage, Unit u, const std::string& what, OpId at, std::string found,
           std::string expected, std::vector<OpId> notes = {}) {
    const std::string slice =
        plan_.header.slices > 1 ? fmt::format(" slice {}", u.slice) : std::string();
    report_.add({kComplete,
                 fmt::format("{} rank {} stage {} mb {}{}: {}", sub,
                             plan_.header.rank_of(stage, u.mb), stage, u.mb, slice, what),
                 at, std::move(found), std::move(expected), kHint, std::move(notes)});
  }

  // Microbatches [first, first + count) of one copy of the stage.
  void stage(std::int32_t stage, std::int32_t first, std::int32_t count) {
    const ProgramId program{plan_.header.rank_of(stage, first)};
    const std::int32_t slices = plan_.header.slices;
    std::vector<Visit> visits(static_cast<std::size_t>(count) * static_cast<std::size_t>(slices));
    const auto at = [&](int mb, int slice) -> Visit& {
      return visits[static_cast<std::size_t>(mb) * static_cast<std::size_t>(slices) +
                    static_cast<std::size_t>(slice)];
    };
    const Program& p = plan_.programs[program.index()];
    for (std::uint32_t i = 0; i < p.num_ops; ++i) {
      const OpId id{p.first_op + i};
      const Op& o = plan_.op(id);
      const std::int32_t mb = o.microbatch - first;
      if (o.stage != stage || mb < 0 || mb >= count || o.kind != OpKind::compute) continue;
      if (slices > 1 && o.seq_slice < 0)
        return bad("V2.1", stage, {o.microbatch, -1}, "an op of no slice", id, "none",
                   fmt::format("a slice below {}", slices));
      add(at(mb, std::max(o.seq_slice, 0)), id, o);
    }
    for (int mb = 0; mb < count && !report_.full(); ++mb)
      for (int slice = 0; slice < slices && !report_.full(); ++slice) {
        check(stage, {first + mb, slice}, at(mb, slice), at(0, slice));
        if (slice > 0) follows(stage, {first + mb, slice}, at(mb, slice), at(mb, slice - 1));
      }
  }

  // `before`: of the slice before. Its keys are read by the forward; the backward adds to their
  // gradient, which the slice before takes.
  void follows(int stage, Unit u, const Visit& v, const Visit& before) {
    if (v.first_f.valid() && before.last_f.valid() && v.first_f < before.last_f)
      bad("V2.7", stage, u,
          fmt::format("forward before that of the slice before ({})", text_of(plan_, v.first_f)),
          v.first_f, fmt::format("op {}", v.first_f.value),
          fmt::format("after op {}", before.last_f.value), {before.last_f});
    if (v.last_i.valid() && before.first_i.valid() && before.first_i < v.last_i)
      bad("V2.7", stage, u,
          fmt::format("backward behind that of the slice before ({})", text_of(plan_, v.last_i)),
          v.last_i, fmt::format("op {}", v.last_i.value),
          fmt::format("before op {}", before.first_i.value), {before.first_i});
  }

  void add(Visit& v, OpId id, const Op& o) {
    const auto first = [&](OpId& at) {
      if (!at.valid()) at = id;
    };
    if (o.phase == Phase::F) {
      first(v.first_f);
      v.last_f = id;
    } else if (o.phase == Phase::I || o.phase == Phase::B) {
      first(v.first_i);
      v.last_i = id;
      v.has_b = v.has_b || o.phase == Phase::B;
    } else if (o.phase == Phase::W) {
      first(v.first_w);
    } else if (o.phase != Phase::R) {
      return;
    }
    if (o.phase != Phase::F) v.last_backward = id;
    auto& kernels = o.phase == Phase::F ? v.forward : o.phase == Phase::R ? v.again : v.backward;
    for (const Call& c : plan_.calls_of(o))  // the first scatter of a step has nothing to add to
      if (plan_.kernel(c.kernel).kind != KernelKind::grad_add)
        kernels.emplace_back(c.kernel.value, o.layer);
  }

  void check(int stage, Unit mb, const Visit& v, const Visit& model) {
    if (!v.first_f.valid())
      return bad("V2.1", stage, mb, "no forward", {}, "none",
                 "one F of every stage and microbatch");
    if (plan_.header.evaluation) {
      if (v.last_backward.valid())
        bad("V2.2", stage, mb, fmt::format("{} in an evaluation", text_of(plan_, v.last_backward)),
            v.last_backward, "a backward", "forward ops only");
      if (v.forward != model.forward)
        differs("V2.1", stage, mb, "forward", v, v.forward, model.forward);
      return;
    }
    if (!v.first_i.valid() && !v.first_w.valid())
      return bad("V2.2", stage, mb, "no backward", v.last_f, "none", "a B, or an I and a W");
    if (v.first_i.valid() && v.first_i < v.last_f)
      bad("V2.3", stage, mb, fmt::format("backward before forward ({})", text_of(plan_, v.first_i)),
          v.first_i, fmt::format("op {}", v.first_i.value),
          fmt::format("after op {}, the end of the forward", v.last_f.value), {v.last_f});
    if (v.first_w.valid() && !v.has_b && !v.first_i.valid())
      bad("V2.2", stage, mb, "a W without an I", v.first_w, "no I", "an I before the W");
    if (v.first_w.valid() && v.first_i.valid() && v.first_w < v.first_i)
      bad("V2.4", stage, mb, fmt::format("W before I ({})", text_of(plan_, v.first_w)), v.first_w,
          fmt::format("op {}", v.first_w.value),
          fmt::format("after op {}, where I begins", v.first_i.value), {v.first_i});
    if (v.forward != model.forward)
      differs("V2.1", stage, mb, "forward", v, v.forward, model.forward);
    if (v.backward.size() != model.backward.size() || sorted(v.backward) != sorted(model.backward))
      differs("V2.2", stage, mb, "backward", v, v.backward, model.backward);
    if (v.again != model.again)
      differs("V2.2", stage, mb, "recomputation", v, v.again, model.again);
  }

  using Kernels = std::vector<std::pair<std::int32_t, std::int32_t>>;
  static Kernels sorted(Kernels k) {
    std::sort(k.begin(), k.end());
    return k;
  }
  void differs(const char* sub, int stage, Unit mb, const char* what, const Visit& v,
               const Kernels& mine, const Kernels& model) {
    bad(sub, stage, mb,
        fmt::format("another {} than the first microbatch: an op is lost or there twice", what),
        what[0] == 'f' ? v.last_f : v.last_backward, fmt::format("{} kernel calls", mine.size()),
        fmt::format("the {} of the first microbatch", model.size()));
  }

  // V2.6: what an evaluation finds, it leaves.
  void unchanged(ProgramId program) {
    std::set<BufferId> persistent;
    for (const BufferId b : plan_.persistent(program)) persistent.insert(b);
    const Program& p = plan_.programs[program.index()];
    for (std::uint32_t i = 0; i < p.num_ops && !report_.full(); ++i) {
      const OpId id{p.first_op + i};
      for_each_use(plan_, plan_.op(id), [&](BufferId b, Use use) {
        if (!writes(use) || !persistent.contains(root_of(plan_, b))) return;
        report_.add({kComplete,
                     fmt::format("V2.6 rank {}: {} writes {}", program.value, text_of(plan_, id),
                                 text_of(plan_, b)),
                     id,
                     "an evaluation that changes what lives for the run",
                     "parameters are read only",
                     "a plan that trains has no `evaluation` in its first line",
                     {}});
      });
    }
  }

  // V2.5: the last writer of a gradient is before its first reader of phase O.
  void gradients(ProgramId program) {
    std::map<BufferId, OpId> taken;  // root or view -> the op of phase O that has read it
    const Program& p = plan_.programs[program.index()];
    for (std::uint32_t i = 0; i < p.num_ops && !report_.full(); ++i) {
      const OpId id{p.first_op + i};
      const Op& o = plan_.op(id);
      for_each_use(plan_, o, [&](BufferId b, Use use) {
        const BufferClass cls = plan_.buffer(b).cls;
        if (cls != BufferClass::grad && cls != BufferClass::grad_full) return;
        if (o.phase == Phase::O) {
          if (reads(use)) taken.try_emplace(b, id);
          return;
        }
        if (!writes(use)) return;
        for (const BufferId whole : {b, root_of(plan_, b)}) {
          const auto it = taken.find(whole);
          if (it == taken.end()) continue;
          report_.add(
              {kComplete,
               fmt::format("V2.5 rank {}: {} writes {} after {} has read it", program.value,
                           text_of(plan_, id), text_of(plan_, b), text_of(plan_, it->second)),
               id,
               fmt::format("op {}", id.value),
               fmt::format("before op {}", it->second.value),
               "reduce a gradient after the last microbatch has added to it",
               {it->second}});
          return;
        }
      });
    }
  }

  const Plan& plan_;
  Report& report_;
};

}  // namespace

void check_completeness(const Plan& plan, Report& report) { Completeness(plan, report).run(); }

}  // namespace tandem::verify
