#include "exec/device/stream.h"

#include <pthread.h>

namespace tandem::exec {

bool Latch::wait_above(std::int32_t step) const {
  std::int32_t seen = value_.load(std::memory_order_acquire);
  while (seen <= step) {
    value_.wait(seen, std::memory_order_acquire);
    seen = value_.load(std::memory_order_acquire);
  }
  return seen != kAborted;
}
bool Latch::is_above(std::int32_t step) const {
  return value_.load(std::memory_order_acquire) > step;
}
void Latch::set(std::int32_t value) {
  // An abort stays.
  std::int32_t seen = value_.load(std::memory_order_relaxed);
  while (seen < value && !value_.compare_exchange_weak(seen, value, std::memory_order_release)) {
  }
  value_.notify_all();
}
void Latch::abort() { set(kAborted); }

Stream::Stream(std::string name, std::vector<std::int32_t> ops, std::function<void()> begin,
               std::function<void(std::int32_t, std::int32_t)> run)
    : name_(std::move(name)),
      ops_(std::move(ops)),
      begin_(std::move(begin)),
      run_(std::move(run)),
      thread_([this] { work(); }) {}

Stream::~Stream() {
  stop_.store(true, std::memory_order_release);
  issued_.fetch_add(1, std::memory_order_release);  // wakes the worker, which sees stop_
  issued_.notify_one();
  thread_.join();
}

void Stream::issue() {
  issued_.fetch_add(1, std::memory_order_release);
  issued_.notify_one();
}

void Stream::restart(std::int32_t step) { restart_.store(step, std::memory_order_release); }

void Stream::work() {
  ::pthread_setname_np(::pthread_self(), name_.substr(0, 15).c_str());
  if (begin_) begin_();
  std::uint32_t done = 0;
  std::size_t next = 0;
  std::int32_t step = 0;
  for (;;) {
    issued_.wait(done, std::memory_order_acquire);
    if (issued_.load(std::memory_order_acquire) == done) continue;
    if (stop_.load(std::memory_order_acquire)) return;
    if (const std::int32_t anew = restart_.exchange(-1, std::memory_order_acq_rel); anew >= 0)
      next = 0, step = anew;
    run_(ops_[next], step);
    ++done;
    if (++next == ops_.size()) next = 0, ++step;
  }
}

}  // namespace tandem::exec
