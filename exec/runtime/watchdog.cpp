#include "exec/runtime/watchdog.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "exec/device/clock.h"

namespace tandem::exec {

class Watchdog::Impl {
 public:
  Impl(const Recorder& recorder, WatchdogLimits limits, Late late)
      : recorder_(recorder), limits_(limits), late_(std::move(late)), thread_([this] { work(); }) {}
  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

 private:
  void work() {
    ::pthread_setname_np(::pthread_self(), "watchdog");
    std::unique_lock lock(mutex_);
    while (!stop_) {
      const auto op = recorder_.oldest_unfinished();
      // An op that starts right after this look is late no earlier than the shorter limit from now.
      Nanoseconds wait = std::min(limits_.communication, limits_.other);
      if (op) {
        const Nanoseconds age = now_ns() - op->started_ns;
        const Nanoseconds limit =
            is_communication(static_cast<OpKind>(op->kind)) ? limits_.communication : limits_.other;
        if (age >= limit) {
          lock.unlock();
          late_(*op, age);
          return;
        }
        wait = std::min(wait, limit - age);
      }
      wake_.wait_for(lock, std::chrono::nanoseconds(wait), [this] { return stop_; });
    }
  }

  const Recorder& recorder_;
  const WatchdogLimits limits_;
  const Late late_;
  std::mutex mutex_;  // of stop_ only
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

Watchdog::Watchdog(const Recorder& recorder, WatchdogLimits limits, Late late)
    : impl_(std::make_unique<Impl>(recorder, limits, std::move(late))) {}
Watchdog::~Watchdog() = default;

}  // namespace tandem::exec
