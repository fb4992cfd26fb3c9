// Goal    the rehearsal device keeps the time of ops as its header says: durations are kept,
// nothing
//         is ahead of the clock, nothing behind it by more than kMostLate, lateness does not add
//         up, and a wait ends at once when the run does.
// Method  one op after the other with pauses in between where a thread is late on purpose. Upper
//         bounds of real time are loose (a busy machine), laws are exact.
#include "exec/device/rehearsal.h"

#include <doctest/doctest.h>

#include <chrono>
#include <thread>

#include "exec/device/clock.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

constexpr Nanoseconds kMs = 1'000'000;

// One rank whose program has `n` ops.
Plan plan_of_ops(int n) {
  Plan p;
  p.streams = {"compute"};
  p.programs = {{0, static_cast<std::uint32_t>(n)}};
  p.ops.resize(static_cast<std::size_t>(n));
  return p;
}

void sleep(Nanoseconds ns) { std::this_thread::sleep_for(std::chrono::nanoseconds(ns)); }

// The laws of every moment.
void check_moment(Nanoseconds t) {
  const Nanoseconds now = now_ns();
  CHECK(t <= now);
}

}  // namespace

TEST_CASE("rehearsal: an op takes its duration from when its cause was over, not from the call") {
  const Plan plan = plan_of_ops(2);
  RehearsalDevice device(plan, Rank{0}, {20 * kMs, 0});
  device.begin_thread();
  const Nanoseconds cause = now_ns();
  sleep(kMs / 2);  // a thread that wakes up late
  const Nanoseconds started = device.begin(cause);
  // Exactly, unless this machine is late itself.
  CHECK(started >= cause);
  CHECK(started <= std::max(cause, now_ns() - kMostLate));
  const Nanoseconds ended = device.end(OpId{0}, started);
  check_moment(ended);
  CHECK(ended >= started + 20 * kMs);
  CHECK(ended <= std::max(started + 20 * kMs, now_ns() - kMostLate));
  CHECK(device.end(OpId{1}, ended) >= ended);  // an op of no duration ends where it starts
}

TEST_CASE("rehearsal: lateness beyond kMostLate is the rehearsal's own, and counted") {
  const Plan plan = plan_of_ops(1);
  RehearsalDevice device(plan, Rank{0}, {kMs});
  const Nanoseconds cause = now_ns();
  sleep(10 * kMs);
  const Nanoseconds started = device.begin(cause);
  CHECK(started >= cause + 10 * kMs - kMostLate);
  check_moment(started);
  CHECK(device.lateness().slips == 1);
  CHECK(device.lateness().slipped == started - cause);
  // A partner that was ready long ago moves nothing forward either.
  CHECK(device.meet(cause) >= started);
}

TEST_CASE("rehearsal: a chain of 300 ops does not drift") {
  const Plan plan = plan_of_ops(1);
  RehearsalDevice device(plan, Rank{0}, {kMs});
  device.begin_thread();
  const Nanoseconds origin = now_ns();
  Nanoseconds t = origin;
  for (int i = 0; i < 300; ++i) {
    t = device.end(OpId{0}, device.begin(t));
    check_moment(t);
  }
  // What the clock did not take away is there to the nanosecond.
  CHECK(t - origin == 300 * kMs + device.lateness().slipped);
  CHECK(now_ns() - origin >= 300 * kMs);
  CHECK(device.lateness().ops == 300);
  MESSAGE("mean lateness " << device.lateness().total / 300 / 1000 << " us, worst "
                           << device.lateness().worst / 1000 << " us, slipped "
                           << device.lateness().slipped / 1000 << " us");
}

TEST_CASE("rehearsal: abort ends a wait of a minute at once, and later ones too") {
  const Plan plan = plan_of_ops(1);
  RehearsalDevice device(plan, Rank{0}, {60'000 * kMs});
  const Nanoseconds begun = now_ns();
  std::thread worker([&] { (void)device.end(OpId{0}, begun); });
  sleep(20 * kMs);
  device.abort();
  worker.join();
  (void)device.end(OpId{0}, now_ns());
  CHECK(now_ns() - begun < 10'000 * kMs);
}

TEST_CASE("rehearsal: no buffer has memory, no op has kernels") {
  Plan plan = plan_of_ops(1);
  Buffer b;
  b.program = ProgramId{0};
  b.shape = {1LL << 40};  // a tensor of terabytes
  plan.buffers.push_back(b);
  RehearsalDevice device(plan, Rank{0}, {0});
  CHECK(device.view(BufferId{0}).data == nullptr);
  CHECK(device.view(BufferId{0}).shape.elements() == 1LL << 40);
  CHECK(device.prepare(plan.ops[0])->empty());
  CHECK(device.slab_bytes() == 0);
}
