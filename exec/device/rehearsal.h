// A device that keeps the time of ops and does nothing else. Memory, kernels and values are absent,
// so 16 ranks of a large model rehearse a schedule on two cores; what is real is the order: the
// plan, the interpreter, processes, threads, and the transport, whose messages are tokens.
//
//   end      of an op = its start + its duration, from a table that the caller gives. Waits for
//   that
//            moment by an absolute deadline on CLOCK_MONOTONIC (timer slack 1 ns)
//   start    of an op = the end of the last thing it waited for: an op that it `waits` for, the op
//            before it on its stream, or the host, which issues at the ends of what held it.
//            A communication's transfer: when the last of its partners was ready, as they say
//   late     A thread wakes up after its deadline; on a busy machine by much. The times above are
//            those that the threads would have seen without it, so lateness does not add up from
//            op to op, but they may run behind the clock by kMostLate at most: a time is never
//            earlier than the clock minus kMostLate. Beyond that the machine's lateness is the
//            rehearsal's (a `slip`). So every recorded moment is true to kMostLate, however many
//            ops came before, and the duration of a step, which is read from the clock itself, is.
//            Threads ask for precise timers and, where the system grants it (root, or a limit on
//            rtprio), for the lowest real-time priority: they sleep nearly always
//   No op is told when it should start, and no time is ever ahead of the clock.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "common/plan/plan.h"
#include "exec/device/device.h"

namespace tandem::exec {

// What 16 processes that wake up together need on two cores, with a margin.
inline constexpr Nanoseconds kMostLate = 2'000'000;

// How far the clock was ahead of the times of ops, over all ends of ops so far.
struct Lateness {
  std::int64_t ops = 0;
  Nanoseconds total = 0, worst = 0;
  std::int64_t slips = 0;   // moments that the clock moved: later than kMostLate
  Nanoseconds slipped = 0;  // by so much, together
  bool real_time = false;   // threads got the scheduling class that they ask for
};

class RehearsalDevice final : public Device {
 public:
  // `durations`: ns of each op of the rank's program, in its order.
  RehearsalDevice(const Plan& plan, Rank rank, std::vector<Nanoseconds> durations);

  void begin_thread() override;
  [[nodiscard]] View view(BufferId id) const override;
  [[nodiscard]] Result<std::vector<Prepared>> prepare(const Op&) override {
    return std::vector<Prepared>();
  }
  void begin_step(int) override {}
  void copy(const View&, int, const Op&) override {}
  [[nodiscard]] Nanoseconds begin(Nanoseconds cause) override;
  [[nodiscard]] Nanoseconds meet(Nanoseconds together) override { return begin(together); }
  [[nodiscard]] Nanoseconds end(OpId op, Nanoseconds started) override;
  void abort() override;
  // Sleeps until that moment, or until abort(). Returns the clock then.
  Nanoseconds wait_until(Nanoseconds moment);
  [[nodiscard]] Bytes scratch_peak() const override { return 0; }
  void reset_scratch_peak() override {}
  [[nodiscard]] Bytes slab_bytes() const override { return 0; }
  void drop_pages() override {}

  // Any thread.
  [[nodiscard]] Lateness lateness() const;

 private:
  [[nodiscard]] Nanoseconds kept(Nanoseconds ideal, Nanoseconds now);
  const Plan& plan_;
  const std::int64_t first_op_;
  const std::vector<Nanoseconds> durations_;
  std::atomic<std::uint32_t> aborted_{0};  // a futex
  std::atomic<bool> real_time_{false};
  mutable std::mutex lateness_mutex_;
  Lateness lateness_;
};

}  // namespace tandem::exec
