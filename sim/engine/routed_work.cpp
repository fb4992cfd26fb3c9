#include "sim/engine/routed_work.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/plan/totals.h"

namespace tandem::sim {
namespace {

bool moves_rows(const Op& op) {
  return is_communication(op.kind) && (op.send_rows.valid() || op.recv_rows.valid());
}

// Rows of each member, from counts of members * k.
std::vector<std::int64_t> rows_by_member(std::span<const std::int32_t> counts,
                                         std::size_t members) {
  std::vector<std::int64_t> out(members, 0);
  const std::size_t each = counts.size() / members;
  for (std::size_t i = 0; i < each * members; ++i) out[i / each] += counts[i];
  return out;
}

Exchange exchange_of(const Plan& plan, const Op& op, const std::vector<Rank>& members,
                     const RowCounts& counts) {
  const std::size_t g = members.size();
  const Bytes row = plan.buffer(op.source).row_bytes();
  Exchange out{g, std::vector<Bytes>(g * g, 0)};
  for (std::size_t i = 0; i < g; ++i) {
    const BufferId by = op.kind == OpKind::all_gather ? op.recv_rows : op.send_rows;
    const std::vector<std::int64_t> rows = rows_by_member(counts.of(by, members[i]), g);
    for (std::size_t j = 0; j < g; ++j)
      out.bytes[i * g + j] = row * rows[op.kind == OpKind::all_gather ? i : j];
  }
  return out;
}

}  // namespace

RoutedWork RoutedWork::make(const Plan& plan, const ComputeCost& cost, Charges& charges,
                            const RoutingSource& source, int steps) {
  RoutedWork out;
  out.steps_ = steps;
  out.world_ = static_cast<std::size_t>(plan.header.mesh.world());
  out.levels_ = static_cast<std::size_t>(cost.num_levels());
  out.place_.assign(plan.ops.size(), -1);
  for (const Op& op : plan.ops) out.calls_.push_back(op.calls.count);
  out.work_.resize(out.world_ * static_cast<std::size_t>(steps));
  out.rows_.resize(out.work_.size());
  std::vector<std::vector<Rank>> ranks(plan.programs.size());
  std::vector<ProgramId> program_of(plan.ops.size());
  for (int r = 0; r < plan.header.mesh.world(); ++r)
    ranks[plan.program_of(Rank{r}).index()].push_back(Rank{r});
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    std::fill_n(program_of.begin() + plan.programs[p].first_op, plan.programs[p].num_ops,
                ProgramId{static_cast<int>(p)});
  std::map<std::tuple<KernelId, bool, std::int64_t>, ComputeCost::Found> found;

  for (int step = 0; step < steps; ++step) {
    // Where an op's work lies in the block of a rank: the same on all ranks of a program.
    std::int64_t next = 0;
    ProgramId program;
    walk_routing(plan, source, step, [&](OpId id, const RowCounts& counts) {
      const Op& op = plan.op(id);
      const std::vector<Rank>& here = ranks[program_of[id.index()].index()];
      if (program != program_of[id.index()]) next = 0, program = program_of[id.index()];
      for (BufferId b : plan.allocates_of(op))
        if (const BufferId by = plan.buffer(b).rows_of; by.valid())
          for (Rank r : here) {
            const auto rows = counts.sum(by, r);
            TANDEM_CHECK(rows, "{} follows counts that nothing has made",
                         plan.name(plan.buffer(b).name));
            out.rows_[out.block(step, r)][by] = *rows;
          }
      if (moves_rows(op))
        for (Rank r : here) {
          const std::vector<Rank> members = plan.members(op.comm, r);
          if (members.front() == r)
            out.charges_[{step, id, r}] =
                charges.add(op, r, exchange_of(plan, op, members, counts));
        }
      const auto calls = plan.calls_of(op);
      const bool routed = std::any_of(calls.begin(), calls.end(), [&](const Call& c) {
        return rows_of_call(plan, c, counts, here.front()).has_value();
      });
      if (!routed) return;
      out.place_[id.index()] = next;
      next += static_cast<std::int64_t>(out.levels_ + calls.size());
      for (Rank r : here) {
        std::vector<Picoseconds>& work = out.work_[out.block(step, r)];
        const std::size_t at = work.size();
        TANDEM_CHECK(static_cast<std::int64_t>(at) == out.place_[id.index()], "op {} of rank {}",
                     id.value, r.value);
        work.resize(at + out.levels_ + calls.size(), 0);
        for (std::size_t i = 0; i < calls.size(); ++i) {
          const Call& c = calls[i];
          const bool acc = call_accumulates(plan, c);
          std::span<const Picoseconds> levels = cost.work(c.kernel, acc);
          const Picoseconds balanced = levels[0];
          CostSource from = cost.source(c.kernel, acc);
          if (const auto rows = rows_of_call(plan, c, counts, r)) {
            Kernel k = plan.kernel(c.kernel);
            if (step == 0)
              out.balanced_by_source_[static_cast<std::size_t>(from)] += ps_to_seconds(balanced);
            k.dims[0] = std::max<std::int64_t>(1, *rows);
            const auto [it, fresh] = found.try_emplace({c.kernel, acc, k.dims[0]});
            if (fresh) it->second = cost.find(k, acc);
            levels = it->second.work;
            from = it->second.source;
            if (step == 0)
              out.by_source_[static_cast<std::size_t>(from)] += ps_to_seconds(levels[0]);
          }
          for (std::size_t l = 0; l < out.levels_; ++l) work[at + l] += levels[l];
          work[at + out.levels_ + i] = levels[0];
        }
      }
    });
  }
  return out;
}

}  // namespace tandem::sim
