#include "common/plan/routing.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace tandem {
namespace {

constexpr std::size_t kCountsOfRoute = 2, kCountsOfLabels = 4;  // outputs (kernels.h)

int slice_of(const Op& op) { return std::max(0, op.seq_slice); }

std::vector<Rank> ranks_of(const Plan& plan, ProgramId program) {
  std::vector<Rank> out;
  for (int r = 0; r < plan.header.mesh.world(); ++r)
    if (plan.program_of(Rank{r}) == program) out.push_back(Rank{r});
  return out;
}

}  // namespace

std::int64_t RoutedPlace::most_rows() const {
  const std::int64_t capacity = kernel->dims[6],
                     slices = std::max<std::int64_t>(1, kernel->dims[7]);
  return capacity > 0 ? std::min(tokens(), capacity * slices) : tokens();
}

std::vector<RoutedPlace> routed_places(const Plan& plan) {
  std::vector<RoutedPlace> out;
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    const ProgramId program{static_cast<int>(p)};
    const std::vector<Rank> ranks = ranks_of(plan, program);
    for (const Op& op : plan.ops_of(program))
      for (const Call& c : plan.calls_of(op))
        if (const Kernel& k = plan.kernel(c.kernel); k.kind == KernelKind::route_fwd)
          for (Rank r : ranks) out.push_back({0, op.layer, op.microbatch, slice_of(op), r, &k});
  }
  std::sort(out.begin(), out.end(), [](const RoutedPlace& a, const RoutedPlace& b) {
    return std::tuple(a.layer, a.microbatch, a.slice, a.rank.value) <
           std::tuple(b.layer, b.microbatch, b.slice, b.rank.value);
  });
  return out;
}

std::int64_t routing_counts(const Plan& plan) {
  std::int64_t sum = 0;
  const std::int64_t ranks = plan.header.mesh.world() / std::ssize(plan.programs);  // of a program
  for (const Call& c : plan.calls)
    if (const Kernel& k = plan.kernel(c.kernel); k.kind == KernelKind::route_fwd)
      sum += ranks * k.dims[2];
  return sum;
}

std::span<const std::int32_t> RowCounts::of(BufferId buffer, Rank rank) const {
  const auto it = values_.find(buffer);
  if (it == values_.end()) return {};
  const auto mine = it->second.find(rank);
  return mine == it->second.end() ? std::span<const std::int32_t>() : mine->second;
}

std::optional<std::int64_t> RowCounts::sum(BufferId buffer, Rank rank) const {
  const auto counts = of(buffer, rank);
  if (counts.empty()) return std::nullopt;
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

// One program: all its ranks at once, as the members of ep and etp groups run the same one.
class RoutingWalk {
 public:
  RoutingWalk(const Plan& plan, const RoutingSource& source, int step, ProgramId program)
      : plan_(plan), source_(source), step_(step), ranks_(ranks_of(plan, program)) {}

  void run(ProgramId program, const std::function<void(OpId, const RowCounts&)>& f) {
    std::int64_t id = plan_.programs[program.index()].first_op;
    for (const Op& op : plan_.ops_of(program)) {
      for (const Call& c : plan_.calls_of(op)) run_call(op, c);
      if (is_communication(op.kind) && op.source.valid() && holds(op.source)) exchange(op);
      f(OpId{id++}, counts_);
      for (BufferId b : plan_.frees_of(op)) {
        counts_.values_.erase(b);
        sent_by_labels_.erase(b);
        received_by_labels_.erase(b);
      }
    }
  }

 private:
  using Counts = std::vector<std::int32_t>;

  [[nodiscard]] bool holds(BufferId b) const { return counts_.values_.contains(b); }

  void run_call(const Op& op, const Call& c) {
    const Kernel& k = plan_.kernel(c.kernel);
    const auto in = plan_.operands_of(c.inputs), out = plan_.operands_of(c.outputs);
    if (k.kind == KernelKind::route_fwd) {
      sent_ = out[kCountsOfRoute].id;
      for (Rank r : ranks_) {
        Counts kept(static_cast<std::size_t>(k.dims[2]), 0);
        source_({step_, op.layer, op.microbatch, slice_of(op), r, &k}, kept);
        counts_.values_[sent_][r] = std::move(kept);
      }
    } else if (k.kind == KernelKind::label_rows_fwd) {  // of the choice that was made just before
      const BufferId to = out[kCountsOfLabels].id;
      sent_by_labels_[to] = sent_;
      for (Rank r : ranks_) {
        const auto sent = counts_.of(sent_, r);
        const std::size_t members = static_cast<std::size_t>(k.dims[3]),
                          each = sent.size() / members;
        Counts by_member(members, 0);
        for (std::size_t e = 0; e < sent.size(); ++e) by_member[e / each] += sent[e];
        counts_.values_[to][r] = std::move(by_member);
      }
    } else if (k.kind == KernelKind::narrow_counts && holds(in[0].id)) {
      counts_.values_[out[0].id] = counts_.values_[in[0].id];
    } else if (k.kind == KernelKind::count_rows && holds(in[1].id)) {
      // What the labels of the rows say: for each source the rows of each of the own experts.
      counts_.values_[out[0].id] = received_by_labels_.at(in[1].id);
    }
  }

  // Counts that are handed over. Rows themselves (recv_rows) hold none.
  void exchange(const Op& op) {
    if (op.kind != OpKind::all_to_all && op.kind != OpKind::all_gather) return;
    counts_.values_[op.buffer] = exchanged(op, op.source);
    const auto labels = sent_by_labels_.find(op.source);
    if (labels != sent_by_labels_.end() && holds(labels->second))
      received_by_labels_[op.buffer] = exchanged(op, labels->second);
  }

  std::map<Rank, Counts> exchanged(const Op& op, BufferId source) const {
    std::map<Rank, Counts> out;
    for (Rank r : ranks_) {
      const std::vector<Rank> members = plan_.members(op.comm, r);
      const std::size_t me =
          static_cast<std::size_t>(std::find(members.begin(), members.end(), r) - members.begin());
      Counts& mine = out[r];
      for (Rank m : members) {
        const auto theirs = counts_.of(source, m);
        const std::size_t part = theirs.size() / members.size();
        const auto given = op.kind == OpKind::all_gather ? theirs : theirs.subspan(me * part, part);
        mine.insert(mine.end(), given.begin(), given.end());
      }
    }
    return out;
  }

  const Plan& plan_;
  const RoutingSource& source_;
  const int step_;
  const std::vector<Rank> ranks_;
  RowCounts counts_;
  BufferId sent_;  // by the last route_fwd
  std::map<BufferId, BufferId> sent_by_labels_;
  std::map<BufferId, std::map<Rank, Counts>> received_by_labels_;
};

void walk_routing(const Plan& plan, const RoutingSource& source, int step,
                  const std::function<void(OpId, const RowCounts&)>& f) {
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    const ProgramId program{static_cast<int>(p)};
    RoutingWalk(plan, source, step, program).run(program, f);
  }
}

std::optional<std::int64_t> rows_of_call(const Plan& plan, const Call& call,
                                         const RowCounts& counts, Rank rank) {
  const Kernel& k = plan.kernel(call.kernel);
  if (catalogue(k.kind).dims[0] != "rows") return std::nullopt;
  for (const OperandRef& operand : plan.operands_of(call.inputs))
    if (const auto rows = counts.sum(operand.id, rank)) return rows;
  return std::nullopt;
}

}  // namespace tandem
