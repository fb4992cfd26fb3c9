#include "common/plan/verify/progress.h"

#include <algorithm>
#include <map>

namespace tandem::verify {
namespace {

using Unit = std::int32_t;
constexpr Unit kNone = -1;

enum class Edge : std::uint8_t { wait, queue, host };

struct Dependency {
  Unit unit;
  Edge edge;
};

class Engine {
 public:
  Engine(const Plan& plan, const Matches& matches, Level level)
      : plan_(plan), matches_(matches), level_(level), unit_of_(plan.ops.size(), kNone) {}

  ProgressResult run() {
    for (const Program& p : plan_.programs) units(p);
    for (const Program& p : plan_.programs) edges(p);
    index_edges();
    work();
    return result();
  }

 private:
  // --- units: ops, groups, gates -----------------------------------------------------------------

  void units(const Program& p) {
    std::int32_t group = -1;
    for (std::uint32_t i = p.first_op; i < p.first_op + p.num_ops; ++i) {
      const std::int32_t own = plan_.ops[i].group;
      if (own < 0 || own != group) first_op_.push_back(static_cast<std::int32_t>(i));
      group = own;
      unit_of_[i] = static_cast<Unit>(first_op_.size()) - 1;
    }
  }
  Unit new_gate(std::uint32_t at) {
    first_op_.push_back(static_cast<std::int32_t>(at));
    is_gate_.resize(first_op_.size(), false);
    is_gate_.back() = true;
    return static_cast<Unit>(first_op_.size()) - 1;
  }

  // --- dependencies ------------------------------------------------------------------------------

  [[nodiscard]] std::int32_t queue_of(const Op& o) const {
    if (level_ == Level::blocking_host) return 0;
    if (level_ == Level::serial_launch && is_communication(o.kind)) return -1;
    return o.stream.value;
  }

  void edges(const Program& p) {
    std::map<std::int32_t, Unit> last;  // of each queue
    Unit gate = kNone;
    std::vector<Unit> frees;  // since the last gate
    for (std::uint32_t i = p.first_op; i < p.first_op + p.num_ops; ++i) {
      const Op& o = plan_.ops[i];
      const Unit u = unit_of_[i];
      const bool begins = i == p.first_op || unit_of_[i - 1] != u;
      if (level_ == Level::memory_order && begins && !frees.empty() && allocates(u)) {
        const Unit next = new_gate(i);
        if (gate != kNone) add(next, gate, Edge::host);
        for (Unit f : frees) add(next, f, Edge::host);
        frees.clear();
        gate = next;
      }
      if (gate != kNone) add(u, gate, Edge::host);
      for (OpId w : plan_.waits_of(o)) add(u, unit_of_[w.index()], Edge::wait);
      Unit& before = last.try_emplace(queue_of(o), kNone).first->second;
      if (before != kNone) add(u, before, Edge::queue);
      before = u;
      if (o.frees.count && level_ == Level::memory_order) frees.push_back(u);
      if (holds_host(o.kind)) {
        const Unit next = new_gate(i);
        add(next, u, Edge::host);
        gate = next;
      }
    }
  }
  // A group's memory is taken when the group is issued.
  [[nodiscard]] bool allocates(Unit u) const {
    bool any = false;
    for_each_op(u, [&](OpId id) { any = any || plan_.op(id).allocates.count > 0; });
    return any;
  }
  void add(Unit unit, Unit on, Edge edge) {
    if (unit == on) return;  // inside a group
    from_.push_back(on);
    to_.push_back(unit);
    kind_.push_back(edge);
  }

  // Edges by their source (for the work list) and by their target (for the cycle).
  void index_edges() {
    const std::size_t n = first_op_.size();
    is_gate_.resize(n, false);
    waiting_.assign(n, 0);
    out_begin_.assign(n + 1, 0);
    for (std::size_t e = 0; e < from_.size(); ++e) {
      ++waiting_[static_cast<std::size_t>(to_[e])];
      ++out_begin_[static_cast<std::size_t>(from_[e]) + 1];
    }
    for (std::size_t u = 0; u < n; ++u) out_begin_[u + 1] += out_begin_[u];
    std::vector<std::int64_t> at(out_begin_.begin(), out_begin_.end() - 1);
    out_.resize(from_.size());
    for (std::size_t e = 0; e < from_.size(); ++e)
      out_[static_cast<std::size_t>(at[static_cast<std::size_t>(from_[e])]++)] = to_[e];
    // Other ends that must be exposed.
    ends_.assign(n, 0);
    match_left_.assign(matches_.members.size(), 0);
    for (std::size_t m = 0; m < matches_.members.size(); ++m) {
      match_left_[m] = static_cast<std::int32_t>(matches_.members[m].size());
      for (OpId id : matches_.members[m])
        if (!leaves_alone(id)) ++ends_[static_cast<std::size_t>(unit_of_[id.index()])];
    }
    exposed_.assign(n, false);
    done_.assign(n, false);
  }
  [[nodiscard]] bool leaves_alone(OpId id) const {
    return level_ == Level::buffered && plan_.op(id).kind == OpKind::send;
  }

  // --- the work list -----------------------------------------------------------------------------

  void work() {
    for (std::size_t u = 0; u < waiting_.size(); ++u)
      if (waiting_[u] == 0) expose(static_cast<Unit>(u));
    while (!list_.empty()) {
      const Unit u = list_.back();
      list_.pop_back();
      for (std::int64_t e = out_begin_[static_cast<std::size_t>(u)];
           e < out_begin_[static_cast<std::size_t>(u) + 1]; ++e) {
        const Unit next = out_[static_cast<std::size_t>(e)];
        if (--waiting_[static_cast<std::size_t>(next)] == 0) expose(next);
      }
    }
  }

  void expose(Unit u) {
    exposed_[static_cast<std::size_t>(u)] = true;
    if (!is_gate_[static_cast<std::size_t>(u)])
      for_each_op(u, [&](OpId id) {
        const std::int32_t m = matches_.of_op[id.index()];
        if (m < 0) return;
        const bool buffered_receive =
            level_ == Level::buffered && plan_.op(id).kind == OpKind::recv;
        const auto& members = matches_.members[static_cast<std::size_t>(m)];
        std::int32_t& left = match_left_[static_cast<std::size_t>(m)];
        if (level_ == Level::buffered && is_p2p(plan_.op(id).kind)) {
          // The receive needs its send exposed; the send needs nobody.
          if (!buffered_receive) end_reached(members[1]);
          return;
        }
        if (--left == 0)
          for (OpId member : members) end_reached(member);
      });
    finish(u);
  }
  void end_reached(OpId member) {
    const Unit u = unit_of_[member.index()];
    --ends_[static_cast<std::size_t>(u)];
    finish(u);
  }
  void finish(Unit u) {
    const auto i = static_cast<std::size_t>(u);
    if (done_[i] || !exposed_[i] || ends_[i] != 0) return;
    done_[i] = true;
    list_.push_back(u);
  }

  template <class F>
  void for_each_op(Unit u, F&& f) const {
    const auto begin = static_cast<std::size_t>(first_op_[static_cast<std::size_t>(u)]);
    for (std::size_t i = begin; i < unit_of_.size() && unit_of_[i] == u; ++i)
      f(OpId{static_cast<std::int64_t>(i)});
  }

  // --- what is left ------------------------------------------------------------------------------

  ProgressResult result() {
    ProgressResult out;
    out.heads.resize(plan_.programs.size());
    Unit start = kNone;
    for (std::size_t p = 0; p < plan_.programs.size(); ++p) {
      const Program& program = plan_.programs[p];
      for (std::uint32_t i = program.first_op; i < program.first_op + program.num_ops; ++i) {
        if (done_[static_cast<std::size_t>(unit_of_[i])]) continue;
        ++out.undone;
        if (!out.heads[p].valid()) out.heads[p] = OpId{i};
        if (start == kNone) start = unit_of_[i];
      }
    }
    if (start != kNone) out.cycle = follow(start);
    return out;
  }

  // Every unit that is not done has something that is not done before it: follow until one comes
  // back. Takes the first by edge order, so the result is the same every time.
  std::vector<Step> follow(Unit start) {
    std::vector<Dependency> blocker(first_op_.size(), {kNone, Edge::wait});
    for (std::size_t e = from_.size(); e-- > 0;)
      if (!done_[static_cast<std::size_t>(from_[e])])
        blocker[static_cast<std::size_t>(to_[e])] = {from_[e], kind_[e]};
    std::vector<std::int32_t> seen(first_op_.size(), -1);
    std::vector<Step> steps;
    Unit u = start;
    while (seen[static_cast<std::size_t>(u)] < 0) {
      seen[static_cast<std::size_t>(u)] = static_cast<std::int32_t>(steps.size());
      const Step step = next_of(u, blocker[static_cast<std::size_t>(u)]);
      steps.push_back(step);
      u = pending_;
    }
    steps.erase(steps.begin(), steps.begin() + seen[static_cast<std::size_t>(u)]);
    std::erase_if(steps, [](const Step& s) { return s.op == s.next; });  // an op and its own gate
    return steps;
  }

  Step next_of(Unit u, Dependency d) {
    const OpId here{first_op_[static_cast<std::size_t>(u)]};
    if (!exposed_[static_cast<std::size_t>(u)]) {
      pending_ = d.unit;
      const char* why = d.edge == Edge::wait    ? "waits for"
                        : d.edge == Edge::queue ? "comes after"
                                                : "is issued after the end of";
      return {here, OpId{first_op_[static_cast<std::size_t>(d.unit)]}, why};
    }
    // Exposed: some other end of one of its members is not.
    Step step{here, here, "needs the other end"};
    pending_ = u;
    for_each_op(u, [&](OpId id) {
      const std::int32_t m = matches_.of_op[id.index()];
      if (m < 0 || pending_ != u || leaves_alone(id)) return;
      for (OpId member : matches_.members[static_cast<std::size_t>(m)]) {
        const Unit other = unit_of_[member.index()];
        if (exposed_[static_cast<std::size_t>(other)]) continue;
        pending_ = other;
        step = {id, member, "needs the other end"};
        return;
      }
    });
    return step;
  }

  const Plan& plan_;
  const Matches& matches_;
  const Level level_;
  std::vector<Unit> unit_of_;           // by op
  std::vector<std::int32_t> first_op_;  // by unit
  std::vector<bool> is_gate_, exposed_, done_;
  std::vector<Unit> from_, to_, out_;
  std::vector<Edge> kind_;
  std::vector<std::int64_t> out_begin_;
  std::vector<std::int32_t> waiting_, ends_, match_left_;
  std::vector<Unit> list_;
  Unit pending_ = kNone;
};

}  // namespace

ProgressResult progress(const Plan& plan, const Matches& matches, Level level) {
  return Engine(plan, matches, level).run();
}

}  // namespace tandem::verify
