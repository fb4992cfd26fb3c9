#include "common/report/parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "common/plan/labels.h"

namespace tandem {
namespace {

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

// One op of the rank in ns; `before` is the op before it on its stream.
struct Node {
  const Op* op = nullptr;
  std::int64_t issued = 0, ready = 0, started = 0, ended = 0;
  int before = -1;
};

class Cutter {
 public:
  Cutter(const Plan& plan, const Timeline& t, const RankStep& r)
      : plan_(plan), t_(t), r_(r), cursor_(r.started_ns) {
    if (r.spans.empty()) return;
    first_op_ = r.spans.front().op.value;
    nodes_.resize(static_cast<std::size_t>(r.spans.back().op.value - first_op_) + 1);
    std::map<StreamId, int> last;
    for (const Span& s : r.spans) {
      const int at = s.op.value - first_op_;
      const Op& op = plan.op(s.op);
      const auto [before, is_first] = last.try_emplace(op.stream, -1);
      nodes_[static_cast<std::size_t>(at)] = {&op,
                                              to_ns(t, s.issued),
                                              to_ns(t, s.ready),
                                              to_ns(t, s.started),
                                              to_ns(t, s.ended),
                                              is_first ? -1 : before->second};
      before->second = at;
    }
  }

  Parts run() {
    auto call = r_.calls.begin();
    for (const Span& s : r_.spans) {
      const Op& op = plan_.op(s.op);
      if (op.kind != OpKind::compute || stream_name(plan_, op.stream) != "compute") continue;
      const int node = s.op.value - first_op_;
      gap(node, node_at(node).started);
      while (call != r_.calls.end() && call->op < s.op) ++call;
      const auto first = call;
      while (call != r_.calls.end() && call->op == s.op) ++call;
      compute(s, op, {first, call});
    }
    gap(-1, r_.ended_ns);
    return std::move(parts_);
  }

 private:
  const Node& node_at(int i) const { return nodes_[static_cast<std::size_t>(i)]; }

  // Gives [cursor, until) to a part.
  void give(PartKey key, std::int64_t until) {
    until = std::clamp(until, cursor_, std::max(cursor_, r_.ended_ns));
    if (until > cursor_) parts_[key] += until - cursor_;
    cursor_ = until;
  }

  void compute(const Span& s, const Op& op, std::span<const CallSpan> calls) {
    const auto of_kernel = [&](int call) {
      const Call& c = plan_.calls_of(op)[static_cast<std::size_t>(call)];
      return PartKey{PartKind::compute,
                     static_cast<std::int32_t>(catalogue(plan_.kernel(c.kernel).kind).cost_class)};
    };
    for (const CallSpan& c : calls) {
      give({PartKind::host}, to_ns(t_, c.started));
      give(of_kernel(c.call), to_ns(t_, c.ended));
    }
    // A timeline without calls: the whole op goes to the class of its last kernel.
    const std::int64_t ended = to_ns(t_, s.ended);
    if (calls.empty() && op.calls.count > 0)
      give(of_kernel(static_cast<int>(op.calls.count) - 1), ended);
    give({PartKind::host}, ended);
  }

  void gap(int before_node, std::int64_t until) {
    until = std::min(until, r_.ended_ns);
    while (cursor_ < until) {
      valid_until_ = until;
      const PartKey key = blame(before_node);
      give(key, std::max(valid_until_, cursor_ + 1));
    }
  }

  // The verdict of this instant stands at most until `t`.
  void changes_at(std::int64_t t) {
    if (t > cursor_) valid_until_ = std::min(valid_until_, t);
  }

  // Of two ops the one that ends last; those that have ended do not count. -1: none.
  int consider(int best, int candidate) {
    if (candidate < 0 || candidate >= static_cast<int>(nodes_.size())) return best;
    const Node& n = node_at(candidate);
    if (n.op == nullptr || n.ended <= cursor_) return best;
    changes_at(n.ended);
    return best < 0 || n.ended > node_at(best).ended ? candidate : best;
  }

  PartKey blame(int node) {
    while (open_ < nodes_.size() && (nodes_[open_].op == nullptr || nodes_[open_].ended <= cursor_))
      ++open_;
    int at = node;
    // Every turn but one (the host's) goes to an op that ends before the one above it begins.
    for (std::size_t turn = 0; turn < nodes_.size() + 2; ++turn) {
      int next = -1;
      if (at < 0) {  // the end of the step waits for everything
        for (std::size_t i = open_; i < nodes_.size(); ++i)
          next = consider(next, static_cast<int>(i));
        if (next < 0) return {PartKind::host};
      } else {
        const Node& n = node_at(at);
        changes_at(n.issued), changes_at(n.ready), changes_at(n.started);
        const bool waits_for_host = n.issued > cursor_;
        if (at != node && n.ready <= cursor_ && !holds_host(n.op->kind)) return at_work(n);
        for (OpId w : plan_.waits_of(*n.op)) next = consider(next, w.value - first_op_);
        next = consider(next, n.before);
        if (next < 0 && waits_for_host) next = host_waits_for();
        if (next < 0)
          return {waits_for_host || n.op->kind == OpKind::compute || holds_host(n.op->kind)
                      ? PartKind::host
                      : PartKind::idle};
      }
      at = next;
    }
    return {PartKind::idle};
  }

  PartKey at_work(const Node& n) const {
    if (is_communication(n.op->kind))
      return {n.started <= cursor_ ? PartKind::transfer : PartKind::waiting, n.op->comm.value};
    return {n.op->kind == OpKind::compute ? PartKind::host : PartKind::idle};
  }

  // Why the host has not issued its next op: it stands in a host_wait, or that op allocates and an
  // earlier op that frees has not ended (plan.h, life of a buffer). -1: it is just late.
  int host_waits_for() {
    std::size_t next = open_;
    while (next < nodes_.size() && (nodes_[next].op == nullptr || nodes_[next].issued <= cursor_))
      ++next;
    if (next == nodes_.size()) return -1;
    changes_at(nodes_[next].issued);
    const bool allocates = nodes_[next].op->allocates.count > 0;
    int cause = -1;
    for (std::size_t i = open_; i < next; ++i) {
      const Op* op = nodes_[i].op;
      if (op == nullptr) continue;
      if (holds_host(op->kind) || (allocates && op->frees.count > 0))
        cause = consider(cause, static_cast<int>(i));
    }
    return cause;
  }

  const Plan& plan_;
  const Timeline& t_;
  const RankStep& r_;
  std::vector<Node> nodes_;  // by op id - first_op_
  int first_op_ = 0;
  std::size_t open_ = 0;  // all ops before it have ended
  std::int64_t cursor_ = 0, valid_until_ = kNever;
  Parts parts_;
};

}  // namespace

std::string_view name_of(PartKind k) {
  constexpr std::string_view kNames[] = {"compute", "transfer", "waiting", "host", "idle"};
  return kNames[static_cast<std::size_t>(k)];
}

std::string part_name(const Plan& plan, PartKey key) {
  std::string out(name_of(key.kind));
  if (key.kind == PartKind::compute)
    out += fmt::format(" {}", name_of(static_cast<CostClass>(key.index)));
  if (key.kind == PartKind::transfer || key.kind == PartKind::waiting)
    out += " " + communicator_name(plan, CommId{key.index});
  return out;
}

std::int64_t to_ns(const Timeline& timeline, std::int64_t ticks) {
  const std::int64_t unit = timeline.ticks_per_ns();
  return ticks >= 0 ? ticks / unit : -((-ticks + unit - 1) / unit);
}

RankStep rank_step(const Timeline& t, int rank, int step) {
  RankStep out;
  const auto key = [](const auto& s) { return std::pair(s.step, s.rank); };
  const auto slice = [&]<class T>(const std::vector<T>& list) {
    const auto wanted = std::pair(step, rank);
    const auto first = std::lower_bound(list.begin(), list.end(), wanted,
                                        [&](const T& s, const auto& w) { return key(s) < w; });
    auto last = first;
    while (last != list.end() && key(*last) == wanted) ++last;
    return std::span<const T>(first, last);
  };
  out.spans = slice(t.spans);
  out.calls = slice(t.calls);
  const std::span<const StepMark> marks = slice(t.steps);
  if (!marks.empty()) {
    out.started_ns = to_ns(t, marks[0].started), out.ended_ns = to_ns(t, marks[0].ended);
  } else if (!out.spans.empty()) {
    std::int64_t begin = kNever, end = std::numeric_limits<std::int64_t>::min();
    for (const Span& s : out.spans) begin = std::min(begin, s.issued), end = std::max(end, s.ended);
    out.started_ns = to_ns(t, begin), out.ended_ns = to_ns(t, end);
  }
  return out;
}

Parts cut_into_parts(const Plan& plan, const Timeline& timeline, const RankStep& rank) {
  return Cutter(plan, timeline, rank).run();
}

}  // namespace tandem
