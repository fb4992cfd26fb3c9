// One thread that sleeps until the oldest unfinished op of the rank would be late, looks, and tells
// once. It reads the recorder and takes no lock that a stuck thread could hold.
#pragma once

#include <functional>
#include <memory>

#include "exec/runtime/recorder.h"

namespace tandem::exec {

struct WatchdogLimits {
  Nanoseconds communication = 0;  // a little above execute.timeout: the transport speaks first
  Nanoseconds other = 0;          // max(execute.timeout, 20 x predicted step)
};

class Watchdog {
 public:
  // `late` is called on the watchdog's thread, once, with how long the op has run. The recorder
  // must outlive this.
  using Late = std::function<void(const Recorder::Unfinished&, Nanoseconds age)>;
  Watchdog(const Recorder& recorder, WatchdogLimits limits, Late late);
  ~Watchdog();  // stops the thread
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::exec
