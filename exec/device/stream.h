// Streams and events of a CPU rank, with CUDA's meaning: a stream is a queue that one worker thread
// takes in order, an event is a latch. Each program runs the same list of ops on a stream in every
// step, so a queue is a counter of issued ops over a fixed list. Nothing here knows LibTorch.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace tandem::exec {

// Rises by one each step: "ended in step k" is a value above k. Abort releases every waiter.
class Latch {
 public:
  // False: aborted.
  [[nodiscard]] bool wait_above(std::int32_t step) const;
  [[nodiscard]] bool is_above(std::int32_t step) const;
  void set(std::int32_t value);
  void abort();

 private:
  static constexpr std::int32_t kAborted = INT32_MAX;
  std::atomic<std::int32_t> value_{0};
};

// One worker thread. `run(op, step)` is called for each issued op of `ops` in turn, over and over;
// `begin` runs first on the thread. Destruction waits for the thread: abort first if it may block.
class Stream {
 public:
  Stream(std::string name, std::vector<std::int32_t> ops, std::function<void()> begin,
         std::function<void(std::int32_t op, std::int32_t step)> run);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  void issue();  // the next op of the list
  // The list from its begin, as step `step`; what is left of it is skipped. Only while no issued op
  // is left.
  void restart(std::int32_t step);
  [[nodiscard]] const std::vector<std::int32_t>& ops() const { return ops_; }

 private:
  void work();
  std::string name_;
  std::vector<std::int32_t> ops_;
  std::function<void()> begin_;
  std::function<void(std::int32_t, std::int32_t)> run_;
  std::atomic<std::uint32_t> issued_{0};   // wraps; compared for equality only
  std::atomic<std::int32_t> restart_{-1};  // step to begin with the next issued op; -1: none
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace tandem::exec
