// V7: one order for all members of a communicator.
// Proves: the collectives of a communicator come in the same order in every program, and so do the
// sends and the receives of each directed pair of ranks on it. Messages carry no names on the wire:
// the third receive takes the third send.
// Not: progress; order between communicators, also where their members are equal (deadlock.cpp has
// that at level (d)).
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "common/plan/verify/passes.h"

namespace tandem::verify {
namespace {

// What one program issues on one queue, as match indices in issue order.
using Sequence = std::vector<OpId>;
// Communicator, from, to; collectives: -1, -1.
using QueueKey = std::tuple<std::int32_t, std::int32_t, std::int32_t>;

void compare(const Plan& plan, const Matches& matches, const QueueKey& key, const Sequence& a,
             const Sequence& b, Report& report) {
  const auto match = [&](OpId id) { return matches.of_op[id.index()]; };
  const auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end(),
                                    [&](OpId p, OpId q) { return match(p) == match(q); });
  if (x == a.end() || y == b.end()) return;  // equal; other lengths are V5's
  const auto list = [&](const Sequence& s, Sequence::const_iterator at) {
    std::string out;
    for (int i = 0; i < 4 && at != s.end(); ++i, ++at)
      out += fmt::format("{}op {}", i ? ", " : "", at->value);
    return out;
  };
  const bool p2p = std::get<1>(key) >= 0;
  const Communicator& c = plan.communicators[static_cast<std::size_t>(std::get<0>(key))];
  report.add({kOrder,
              fmt::format(
                  "V7 {}: {} order {}; {} order {}", plan.name(c.name),
                  p2p ? "send" : fmt::format("rank {}", program_of(plan, *x).value), list(a, x),
                  p2p ? "receive" : fmt::format("rank {}", program_of(plan, *y).value), list(b, y)),
              *y,
              fmt::format("{} comes here", text_of(plan, *y)),
              fmt::format("the other end of {}", text_of(plan, *x)),
              "use receive=early, or give the orders of both ends the same sequence",
              {*x}});
}

}  // namespace

void check_order(const Plan& plan, const Matches& matches, Report& report) {
  std::map<QueueKey, std::map<std::int32_t, Sequence>> collectives;  // by program
  std::map<QueueKey, std::pair<Sequence, Sequence>> messages;        // sends, receives
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    const auto here = static_cast<std::int32_t>(p);
    for (std::uint32_t i = 0; i < plan.programs[p].num_ops; ++i) {
      const OpId id{plan.programs[p].first_op + i};
      const Op& o = plan.op(id);
      if (matches.of_op[id.index()] < 0) continue;
      if (o.kind == OpKind::send)
        messages[{o.comm.value, here, o.peer}].first.push_back(id);
      else if (o.kind == OpKind::recv)
        messages[{o.comm.value, o.peer, here}].second.push_back(id);
      else
        collectives[{o.comm.value, -1, -1}][here].push_back(id);
    }
  }
  for (const auto& [key, ends] : messages)
    compare(plan, matches, key, ends.first, ends.second, report);
  for (const auto& [key, programs] : collectives)
    for (auto it = std::next(programs.begin()); it != programs.end(); ++it) {
      // A match inside one program has no other end.
      if (matches.members[static_cast<std::size_t>(matches.of_op[it->second[0].index()])].size() <
          2)
        continue;
      compare(plan, matches, key, programs.begin()->second, it->second, report);
    }
}

}  // namespace tandem::verify
