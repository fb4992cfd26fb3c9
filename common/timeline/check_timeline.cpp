#include "common/timeline/check_timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/base/limits.h"
#include "common/base/text.h"

namespace tandem {
namespace {

std::string time_fault(std::string_view what, std::int64_t t, Clock clock) {
  if (t > -time_limit(clock) && t < time_limit(clock)) return {};
  return fmt::format("{} = {} {} is beyond 11.6 days", what, t,
                     clock == Clock::simulated_ps ? "ps" : "ns");
}

std::string order_fault(std::string_view first, std::int64_t a, std::string_view second,
                        std::int64_t b) {
  if (a <= b) return {};
  return fmt::format("{} ({}) is before {} ({}): a negative duration", second, b, first, a);
}

std::string place_fault(std::int32_t rank, std::int32_t step) {
  if (rank < 0 || rank >= limits::kDevices) return fmt::format("rank = {}", rank);
  if (step < 0) return fmt::format("step = {}", step);
  return {};
}

template <class... Texts>
std::string first_of(Texts... texts) {
  std::string out;
  ((out.empty() ? void(out = std::move(texts)) : void()), ...);
  return out;
}

}  // namespace

std::string record_fault(const Span& s, Clock c) {
  return first_of(s.op.valid() ? std::string() : fmt::format("op = {}", s.op.value),
                  place_fault(s.rank, s.step), time_fault("issued", s.issued, c),
                  time_fault("ready", s.ready, c), time_fault("started", s.started, c),
                  time_fault("ended", s.ended, c),
                  order_fault("ready", s.ready, "started", s.started),
                  order_fault("started", s.started, "ended", s.ended),
                  order_fault("issued", s.issued, "ended", s.ended),
                  s.cpu < 0 ? fmt::format("cpu = {}", s.cpu) : time_fault("cpu", s.cpu, c));
}

std::string record_fault(const CallSpan& s, Clock c) {
  return first_of(s.op.valid() ? std::string() : fmt::format("op = {}", s.op.value),
                  s.call < 0 ? fmt::format("call = {}", s.call) : std::string(),
                  place_fault(s.rank, s.step), time_fault("started", s.started, c),
                  time_fault("ended", s.ended, c),
                  order_fault("started", s.started, "ended", s.ended),
                  s.cpu < 0 ? fmt::format("cpu = {}", s.cpu) : time_fault("cpu", s.cpu, c));
}

std::string record_fault(const MemorySample& s, Clock c) {
  std::string fault = first_of(place_fault(s.rank, s.step), time_fault("time", s.time, c));
  for (int i = 0; i < kNumBufferClasses && fault.empty(); ++i)
    if (s.live[static_cast<std::size_t>(i)] < 0)
      fault = fmt::format("{} has {} live bytes", name_of(static_cast<BufferClass>(i)),
                          s.live[static_cast<std::size_t>(i)]);
  return fault;
}

std::string record_fault(const StepMark& s, Clock c) {
  return first_of(place_fault(s.rank, s.step), time_fault("started", s.started, c),
                  time_fault("ended", s.ended, c),
                  order_fault("started", s.started, "ended", s.ended));
}

std::string record_fault(const PeakMemory& s, Clock) {
  std::string fault = place_fault(s.rank, 0);
  if (fault.empty() && s.total < 0) fault = fmt::format("total = {}", s.total);
  for (std::size_t i = 0; i < s.by_class.size() && fault.empty(); ++i)
    if (s.by_class[i] < 0 || s.at_peak[i] < 0) fault = "negative bytes";
  return fault;
}

namespace {

class Checker {
 public:
  Checker(const Timeline& t, const Plan& plan, const std::string& file)
      : t_(t), plan_(plan), file_(file) {}

  Status run() {
    for (const Span& s : t_.spans) {
      record("span", s, s.op, s.rank, s.step);
    }
    for (const CallSpan& s : t_.calls) {
      if (!record("call", s, s.op, s.rank, s.step)) continue;
      const Op& op = plan_.op(s.op);
      if (s.call >= static_cast<int>(op.calls.count))
        add("E-TIME-004", "the timeline has a kernel call that is not in the plan",
            fmt::format("rank {}, step {}, op {}: call {}", s.rank, s.step, s.op.value, s.call),
            fmt::format("calls 0 to {}", static_cast<int>(op.calls.count) - 1));
    }
    for (const MemorySample& s : t_.memory)
      if (s.op.valid()) record("memory sample", s, s.op, s.rank, s.step);
    for (const StepMark& s : t_.steps) record("step mark", s, OpId{}, s.rank, s.step);
    for (const PeakMemory& s : t_.peaks) record("peak", s, OpId{}, s.rank, 0);
    if (found_.empty()) ranks();
    if (found_.empty()) complete();
    if (found_.empty()) return Ok{};
    return Error{Failure::bad_input, std::move(found_)};
  }

 private:
  void add(std::string code, std::string title, std::string found, std::string expected) {
    if (static_cast<int>(found_.size()) >= limits::kDiagnosticsKept) return;
    found_.push_back(make_diagnostic(
        std::move(code), std::move(title), std::move(found), std::move(expected),
        "is it the timeline of this plan? simulate or execute again to write a new one",
        Location{file_}));
  }

  template <class Record>
  bool record(std::string_view what, const Record& r, OpId op, int rank, int step) {
    const std::string fault = record_fault(r, t_.clock);
    if (!fault.empty()) {
      add("E-TIME-003", "a record of the timeline is impossible",
          fmt::format("{} of rank {}, step {}, op {}: {}", what, rank, step, op.value, fault),
          "times in order, within 11.6 days, and no negative numbers");
      return false;
    }
    const int world = plan_.header.mesh.world();
    if (rank >= world) {
      add("E-TIME-004", "the timeline has a rank that the plan has not",
          fmt::format("{} of rank {}", what, rank), fmt::format("ranks 0 to {}", world - 1));
      return false;
    }
    if (!op.valid()) return true;
    const Program& program = plan_.programs[plan_.program_of(Rank{rank}).index()];
    const auto id = static_cast<std::uint32_t>(op.value);
    if (id >= plan_.ops.size()) {
      add("E-TIME-004", "the timeline has an op that is not in the plan",
          fmt::format("{} of rank {}, step {}: op {}", what, rank, step, op.value),
          fmt::format("ops 0 to {}", static_cast<int>(plan_.ops.size()) - 1));
      return false;
    }
    if (id < program.first_op || id >= program.first_op + program.num_ops) {
      add("E-TIME-004", "the timeline has an op of another program",
          fmt::format("{} of rank {}, step {}: op {}", what, rank, step, op.value),
          fmt::format("ops {} to {}: the program of rank {}", program.first_op,
                      static_cast<int>(program.first_op + program.num_ops) - 1, rank));
      return false;
    }
    return true;
  }

  void ranks() {
    for (const Span& s : t_.spans) seen_.insert(s.rank);
    std::set<int> wanted;
    if (const auto listed = t_.meta.find("ranks"); listed != t_.meta.end()) {
      for (std::string_view word : split(listed->second, ','))
        if (const auto rank = parse_int(trim(word))) wanted.insert(static_cast<int>(*rank));
    } else {
      for (int r = 0; r < plan_.header.mesh.world(); ++r) wanted.insert(r);
    }
    for (int rank : wanted)
      if (!seen_.contains(rank))
        add("E-TIME-005", "a rank is missing from the timeline",
            fmt::format("no spans of rank {}", rank),
            fmt::format("spans of {} ranks", wanted.size()));
  }

  // Every op of the rank's program once in every step that the timeline has. Spans are sorted.
  void complete() {
    std::set<int> steps;
    for (const Span& s : t_.spans) steps.insert(s.step);
    std::size_t at = 0;
    for (int step : steps)
      for (int rank : seen_) {
        const Program& program = plan_.programs[plan_.program_of(Rank{rank}).index()];
        for (std::uint32_t i = 0; i < program.num_ops; ++i, ++at) {
          const OpId want{program.first_op + i};
          const bool there = at < t_.spans.size() && t_.spans[at].step == step &&
                             t_.spans[at].rank == rank && t_.spans[at].op == want;
          if (there) continue;
          const bool twice = at > 0 && at < t_.spans.size() && t_.spans[at].step == step &&
                             t_.spans[at].rank == rank && t_.spans[at].op == t_.spans[at - 1].op;
          add("E-TIME-003",
              twice ? "an op is in the timeline twice" : "an op is missing from the timeline",
              fmt::format("rank {}, step {}, op {}", rank, step,
                          twice ? t_.spans[at].op.value : want.value),
              "every op of the rank's program once in every step");
          return;  // what follows is out of step with the plan
        }
      }
    if (at < t_.spans.size())
      add("E-TIME-003", "an op is in the timeline twice",
          fmt::format("rank {}, step {}, op {}", t_.spans[at].rank, t_.spans[at].step,
                      t_.spans[at].op.value),
          "every op of the rank's program once in every step");
  }

  const Timeline& t_;
  const Plan& plan_;
  const std::string& file_;
  std::set<int> seen_;
  Diagnostics found_;
};

}  // namespace

Status check_timeline(const Timeline& timeline, const Plan& plan, const std::string& file) {
  return Checker(timeline, plan, file).run();
}

}  // namespace tandem
