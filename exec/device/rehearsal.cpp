#include "exec/device/rehearsal.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "common/base/check.h"
#include "exec/device/clock.h"

namespace tandem::exec {
namespace {

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));

// Sleeps until `deadline` of CLOCK_MONOTONIC, or until `stop` is not 0. May return early: the
// caller looks again. A futex rather than clock_nanosleep, which nobody could end.
void sleep_until(Nanoseconds deadline, std::atomic<std::uint32_t>& stop) {
  const timespec at{deadline / 1'000'000'000, deadline % 1'000'000'000};
  ::syscall(SYS_futex, &stop, FUTEX_WAIT_BITSET_PRIVATE, 0, &at, nullptr, FUTEX_BITSET_MATCH_ANY);
}

}  // namespace

RehearsalDevice::RehearsalDevice(const Plan& plan, Rank rank, std::vector<Nanoseconds> durations)
    : plan_(plan),
      first_op_(plan.programs[plan.program_of(rank).index()].first_op),
      durations_(std::move(durations)) {
  TANDEM_CHECK(durations_.size() == plan.ops_of(plan.program_of(rank)).size(),
               "{} durations for rank {}", durations_.size(), rank.value);
}

// Two wishes: timers are not rounded (by 50 us otherwise), and other processes' work waits.
void RehearsalDevice::begin_thread() {
  (void)::prctl(PR_SET_TIMERSLACK, 1UL);
  sched_param lowest{};
  lowest.sched_priority = ::sched_get_priority_min(SCHED_RR);
  if (::pthread_setschedparam(::pthread_self(), SCHED_RR, &lowest) == 0)
    real_time_.store(true, std::memory_order_relaxed);
}

View RehearsalDevice::view(BufferId id) const {
  const Buffer& b = plan_.buffer(id);
  return {nullptr, b.dtype, b.shape};
}

// `ideal`, or as far behind the clock as may be.
Nanoseconds RehearsalDevice::kept(Nanoseconds ideal, Nanoseconds now) {
  const Nanoseconds slip = now - kMostLate - ideal;
  if (slip <= 0) return ideal;
  const std::lock_guard lock(lateness_mutex_);
  ++lateness_.slips;
  lateness_.slipped += slip;
  return ideal + slip;
}

Nanoseconds RehearsalDevice::begin(Nanoseconds cause) { return kept(cause, now_ns()); }

Nanoseconds RehearsalDevice::end(OpId op, Nanoseconds started) {
  const Nanoseconds deadline = started + durations_[static_cast<std::size_t>(op.value - first_op_)];
  const Nanoseconds now = wait_until(deadline);
  const Nanoseconds late = std::max<Nanoseconds>(0, now - deadline);
  {
    const std::lock_guard lock(lateness_mutex_);
    ++lateness_.ops;
    lateness_.total += late;
    lateness_.worst = std::max(lateness_.worst, late);
  }
  return std::min(now, kept(deadline, now));  // an aborted one ends early
}

Nanoseconds RehearsalDevice::wait_until(Nanoseconds moment) {
  Nanoseconds now = now_ns();
  while (now < moment && aborted_.load(std::memory_order_relaxed) == 0) {
    sleep_until(moment, aborted_);
    now = now_ns();
  }
  return now;
}

void RehearsalDevice::abort() {
  aborted_.store(1, std::memory_order_relaxed);
  ::syscall(SYS_futex, &aborted_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

Lateness RehearsalDevice::lateness() const {
  const std::lock_guard lock(lateness_mutex_);
  Lateness out = lateness_;
  out.real_time = real_time_.load(std::memory_order_relaxed);
  return out;
}

}  // namespace tandem::exec
