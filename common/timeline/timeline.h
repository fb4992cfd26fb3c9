// What both backends return: spans, memory samples, step marks, metadata. A predicted and a
// measured span join by (op, rank, step). Plain data; files: perfetto.h, chrome_json.h, csv.h.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/plan/plan.h"

namespace tandem {

enum class Clock : std::uint8_t {
  simulated_ps,  // integer picoseconds from 0
  monotonic_ns,  // integer nanoseconds of the host's CLOCK_MONOTONIC, shifted to start near 0
};

// One executed op. Times in the timeline's unit.
//   issued  the host put it on its stream
//   ready   head of its stream and all `waits` have ended (from here it waits for peers)
//   started compute: the first kernel began; communication: all members were there
//   ended
struct Span {
  OpId op;
  std::int32_t rank = 0, step = 0;
  std::int64_t issued = 0, ready = 0, started = 0, ended = 0;
  std::int64_t cpu = 0;  // measured: CPU time of its thread inside the op; predicted: 0
};

// One kernel call inside a compute op: the op's calls are contiguous on its stream.
struct CallSpan {
  OpId op;
  std::int32_t rank = 0, step = 0, call = 0;
  std::int64_t started = 0, ended = 0;
  std::int64_t cpu = 0;
};

// Live bytes of a rank, by class, right after `op` allocated (at its issue) or freed (at its end).
struct MemorySample {
  OpId op;
  std::int32_t rank = 0, step = 0;
  std::int64_t time = 0;
  ClassBytes live{};
};

// A step of a rank, from the issue of its first op to the end of its last.
struct StepMark {
  std::int32_t rank = 0, step = 0;
  std::int64_t started = 0, ended = 0;
};

// Peak over the run. `total` is the peak of the sum, not the sum of the peaks.
struct PeakMemory {
  std::int32_t rank = 0;
  ClassBytes by_class{};
  std::int64_t total = 0;
  ClassBytes at_peak{};  // by class at the moment of `total`
  OpId op_at_peak;
};

struct Timeline {
  Clock clock = Clock::simulated_ps;
  std::vector<Span> spans;           // sorted by (step, rank, op)
  std::vector<CallSpan> calls;       // sorted by (step, rank, op, call)
  std::vector<MemorySample> memory;  // by rank, then in order of time
  std::vector<StepMark> steps;       // sorted by (step, rank)
  std::vector<PeakMemory> peaks;
  // plan_id, version, kind (predicted | measured), machine, ... Sorted; printed in files.
  std::map<std::string, std::string> meta;

  [[nodiscard]] std::int64_t ticks_per_ns() const {
    return clock == Clock::simulated_ps ? 1000 : 1;
  }
};

}  // namespace tandem
