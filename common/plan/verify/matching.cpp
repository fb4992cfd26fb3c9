// V5: both ends of everything that crosses programs fit.
// Proves: each match id of a message has one send and one receive (1), on the two ranks that name
// each other (2), on one communicator (3) that has both as members, with equal elements and type
// (4). Each match id of a collective stands once in every program of its communicator (5), with the
// same kind, elements, type and reduction (6).
// Not: that the ops are reached, nor in which order (order.cpp, deadlock.cpp).
#include <fmt/format.h>

#include <algorithm>

#include "common/plan/verify/passes.h"

namespace tandem::verify {
namespace {

constexpr const char* kHint = "the two ends are lowered together: build the plan again";

class Matching {
 public:
  Matching(const Plan& plan, Report& report) : plan_(plan), report_(report) {
    out_.of_op.assign(plan.ops.size(), -1);
  }

  Matches run() {
    std::vector<std::pair<std::int32_t, OpId>> all;
    for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
      const Op& o = plan_.ops[i];
      const OpId id{static_cast<std::int64_t>(i)};
      if (!is_communication(o.kind)) continue;
      if (o.match >= 0)
        all.emplace_back(o.match, id);
      else if (is_p2p(o.kind))
        bad("V5.1", id, "has no match id", "match= missing",
            "a send and a receive of one match id");
      else if (programs_of(o.comm).size() > 1)
        bad("V5.5", id, "spans programs, but has no match id", "match= missing",
            "one match id on all members");
    }
    std::sort(all.begin(), all.end());
    for (std::size_t begin = 0; begin < all.size() && !report_.full();) {
      std::size_t end = begin;
      std::vector<OpId> members;
      while (end < all.size() && all[end].first == all[begin].first)
        members.push_back(all[end++].second);
      group(all[begin].first, std::move(members));
      begin = end;
    }
    return std::move(out_);
  }

 private:
  bool bad(const char* sub, OpId id, const std::string& what, std::string found,
           std::string expected, std::vector<OpId> notes = {}) {
    report_.add({kMatching,
                 fmt::format("{} rank {} {} {}", sub, program_of(plan_, id).value,
                             text_of(plan_, id), what),
                 id, std::move(found), std::move(expected), kHint, std::move(notes)});
    return false;
  }

  // Pipeline coordinates that take part.
  [[nodiscard]] std::vector<std::int32_t> programs_of(CommId comm) const {
    const Communicator& c = plan_.communicators[comm.index()];
    if (c.pair_first >= 0)
      return {std::min(c.pair_first, c.pair_second), std::max(c.pair_first, c.pair_second)};
    if (!c.axes.has(Axis::pp)) return {};  // inside each program
    std::vector<std::int32_t> all(plan_.programs.size());
    for (std::size_t p = 0; p < all.size(); ++p) all[p] = static_cast<std::int32_t>(p);
    return all;
  }

  void group(std::int32_t match, std::vector<OpId> members) {
    const bool p2p = is_p2p(plan_.op(members[0]).kind);
    for (OpId id : members)
      if (is_p2p(plan_.op(id).kind) != p2p)
        return (void)bad(p2p ? "V5.1" : "V5.6", id,
                         fmt::format("shares match id {} with another kind of op", match),
                         std::string(name_of(plan_.op(id).kind)),
                         std::string(name_of(plan_.op(members[0]).kind)), {members[0]});
    if (p2p ? pair(match, members) : collective(match, members)) {
      for (OpId id : members)
        out_.of_op[id.index()] = static_cast<std::int32_t>(out_.members.size());
      out_.members.push_back(std::move(members));
    }
  }

  bool pair(std::int32_t match, std::vector<OpId>& m) {
    const auto is_send = [&](OpId id) { return plan_.op(id).kind == OpKind::send; };
    std::stable_partition(m.begin(), m.end(), is_send);
    if (m.size() != 2 || !is_send(m[0]) || is_send(m[1])) {
      const auto sends = std::count_if(m.begin(), m.end(), is_send);
      return bad("V5.1", m.back(), fmt::format("match id {} is no pair", match),
                 fmt::format("{} sends, {} receives", sends, static_cast<long>(m.size()) - sends),
                 "one send and one receive", {m.begin(), m.end() - 1});
    }
    const Op &s = plan_.op(m[0]), &r = plan_.op(m[1]);
    const ProgramId from = program_of(plan_, m[0]), to = program_of(plan_, m[1]);
    if (s.peer != to.value || r.peer != from.value || from == to)
      return bad("V5.2", m[1], "and its send do not name each other",
                 fmt::format("send on {} to {}, receive on {} from {}", from.value, s.peer,
                             to.value, r.peer),
                 "peer= of each is the other's rank", {m[0]});
    if (s.comm != r.comm)
      return bad("V5.3", m[1], "uses another communicator than its send", name(r.comm),
                 name(s.comm), {m[0]});
    const std::vector<std::int32_t> programs = programs_of(s.comm);
    for (ProgramId p : {from, to})
      if (!std::binary_search(programs.begin(), programs.end(), p.value))
        return bad("V5.3", m[1], "uses a communicator that has not both ends", name(s.comm),
                   fmt::format("one with ranks {} and {}", from.value, to.value), {m[0]});
    if (s.count != r.count || s.dtype != r.dtype)
      return bad("V5.4", m[1], fmt::format("and its send differ in size (match {})", match),
                 fmt::format("{} bytes {}", Plan::bytes_in(r), name_of(r.dtype)),
                 fmt::format("{} bytes {}, as sent", Plan::bytes_in(s), name_of(s.dtype)), {m[0]});
    return true;
  }

  bool collective(std::int32_t match, const std::vector<OpId>& m) {
    const Op& model = plan_.op(m[0]);
    for (OpId id : m) {
      const Op& o = plan_.op(id);
      if (o.kind != model.kind || o.comm != model.comm || o.count != model.count ||
          o.dtype != model.dtype || o.reduction != model.reduction)
        return bad("V5.6", id, fmt::format("and {} differ (match {})", text_of(plan_, m[0]), match),
                   facts(o), facts(model), {m[0]});
    }
    std::vector<std::int32_t> expected = programs_of(model.comm), found;
    // A communicator inside a program: match is allowed, and is the op's own.
    if (expected.empty()) expected = {program_of(plan_, m[0]).value};
    for (OpId id : m) found.push_back(program_of(plan_, id).value);
    std::sort(found.begin(), found.end());
    if (found != expected)
      return bad("V5.5", m[0], fmt::format("is not once on every member (match {})", match),
                 fmt::format("ranks {}", fmt::join(found, ",")),
                 fmt::format("ranks {}", fmt::join(expected, ",")), {m.begin() + 1, m.end()});
    return true;
  }

  [[nodiscard]] std::string name(CommId c) const {
    return plan_.name(plan_.communicators[c.index()].name);
  }
  [[nodiscard]] std::string facts(const Op& o) const {
    return fmt::format("{} {} {} {}x{}", name_of(o.kind), name(o.comm), name_of(o.reduction),
                       o.count, name_of(o.dtype));
  }

  const Plan& plan_;
  Report& report_;
  Matches out_;
};

}  // namespace

Matches check_matching(const Plan& plan, Report& report) { return Matching(plan, report).run(); }

}  // namespace tandem::verify
