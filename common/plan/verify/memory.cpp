// V8: peak bytes of the ranks of each program, from allocates and frees in issue order.
// Proves: with one device's memory given, no program needs more at any op; the same peak in both
// backends at any timing (plan.h).
// Not: fragmentation, what kernels take inside (hidden_scratch), libraries, communicator buffers.
// After V1; a plan with wrong lifetimes (V3) gives figures that mean nothing, but is refused
// anyway.
#include <fmt/format.h>

#include <algorithm>

#include "common/plan/live_bytes.h"
#include "common/plan/verify/passes.h"

namespace tandem::verify {
namespace {

// In-flight visits by the two conventions of schedules.md 1.6.
void count_visits(const Plan& plan, const Program& p, ProgramMemory& out) {
  const auto slices = static_cast<std::size_t>(plan.header.slices);
  const auto units = static_cast<std::size_t>(plan.header.microbatches) * slices;
  std::vector<std::size_t> local(plan.header.stage_rank.size(), SIZE_MAX);  // stages of this rank
  std::size_t stages = 0;
  const auto visit = [&](const Op& o) {
    std::size_t& s = local[static_cast<std::size_t>(o.stage)];
    if (s == SIZE_MAX) s = stages++;
    return s * units + static_cast<std::size_t>(o.microbatch) * slices +
           static_cast<std::size_t>(std::max(o.seq_slice, 0));
  };
  struct Ends {
    std::int64_t f = -1, i = -1, w = -1;  // first F; last I or B; last W or B
  };
  std::vector<Ends> ends;
  const auto is_visit = [](const Op& o) {
    return o.kind == OpKind::compute && o.stage >= 0 && o.microbatch >= 0 &&
           (o.phase == Phase::F || o.phase == Phase::I || o.phase == Phase::W ||
            o.phase == Phase::B);
  };
  for (std::uint32_t k = 0; k < p.num_ops; ++k) {
    const Op& o = plan.ops[p.first_op + k];
    if (!is_visit(o)) continue;
    const std::size_t v = visit(o);
    if (v >= ends.size()) ends.resize(stages * units);
    Ends& e = ends[v];
    if (o.phase == Phase::F && e.f < 0) e.f = k;
    if (plan.header.evaluation) e.i = e.w = k;  // a visit ends with its forward
    if (o.phase == Phase::I || o.phase == Phase::B) e.i = k;
    if (o.phase == Phase::W || o.phase == Phase::B) e.w = k;
  }
  int live_w = 0, live_i = 0;
  for (std::uint32_t k = 0; k < p.num_ops; ++k) {
    const Op& o = plan.ops[p.first_op + k];
    if (!is_visit(o)) continue;
    const Ends& e = ends[visit(o)];
    if (e.f == k) ++live_w, ++live_i;
    out.peak_w = std::max(out.peak_w, live_w);
    out.peak_i = std::max(out.peak_i, live_i);
    if (e.f >= 0 && e.f <= k && e.w == k) --live_w;
    if (e.f >= 0 && e.f <= k && e.i == k) --live_i;
  }
}

std::string classes_text(const ClassBytes& by_class) {
  std::string out;
  for (int c = 0; c < kNumBufferClasses; ++c)
    if (by_class[static_cast<std::size_t>(c)])
      out += fmt::format("{}{} {}", out.empty() ? "" : ", ", name_of(static_cast<BufferClass>(c)),
                         by_class[static_cast<std::size_t>(c)]);
  return out;
}

}  // namespace

std::vector<ProgramMemory> check_memory(const Plan& plan, const VerifyOptions& options,
                                        Report& report) {
  const std::vector<ClassBytes> persistent = persistent_bytes(plan);
  std::vector<ProgramMemory> out(plan.programs.size());
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    ProgramMemory& m = out[p];
    m.persistent = m.peak = total_bytes(persistent[p]);
    m.at_peak = m.by_class = persistent[p];
    for_each_live(plan, ProgramId{static_cast<std::int64_t>(p)}, persistent[p],
                  [&](OpId id, const ClassBytes& live) {
                    raise_to(m.by_class, live);
                    const Bytes total = total_bytes(live);
                    if (total > m.peak) m.peak = total, m.at_peak = live, m.op_at_peak = id;
                  });
    count_visits(plan, plan.programs[p], m);
    if (!options.capacity || m.peak <= *options.capacity) continue;
    const std::string where =
        m.op_at_peak.valid() ? "at " + text_of(plan, m.op_at_peak) : "of what lives for the run";
    report.add(
        {kMemory,
         fmt::format("V8 rank {} peak {} bytes {} exceeds {}: {}", p, m.peak, where,
                     *options.capacity, classes_text(m.at_peak)),
         m.op_at_peak,
         fmt::format("{} bytes", m.peak),
         fmt::format("at most {} bytes", *options.capacity),
         "raise tp or pp, lower micro_batch, or choose a schedule with fewer visits in flight "
         "than " +
             std::to_string(m.peak_w),
         {}});
  }
  return out;
}

}  // namespace tandem::verify
