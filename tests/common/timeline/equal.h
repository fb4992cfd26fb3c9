// Two timelines, field by field. The header's structs have no operator==.
#pragma once

#include <doctest/doctest.h>

#include "common/timeline/timeline.h"

namespace tandem {

inline void check_equal(const Timeline& a, const Timeline& b) {
  CHECK(a.clock == b.clock);
  CHECK(a.meta == b.meta);
  REQUIRE(a.spans.size() == b.spans.size());
  REQUIRE(a.calls.size() == b.calls.size());
  REQUIRE(a.memory.size() == b.memory.size());
  REQUIRE(a.steps.size() == b.steps.size());
  REQUIRE(a.peaks.size() == b.peaks.size());
  const auto same = [](bool equal, const char* what, std::size_t i) {
    CAPTURE(what);
    CAPTURE(i);
    CHECK(equal);
  };
  for (std::size_t i = 0; i < a.spans.size(); ++i) {
    const Span &x = a.spans[i], &y = b.spans[i];
    same(x.op == y.op && x.rank == y.rank && x.step == y.step && x.issued == y.issued &&
             x.ready == y.ready && x.started == y.started && x.ended == y.ended && x.cpu == y.cpu,
         "span", i);
  }
  for (std::size_t i = 0; i < a.calls.size(); ++i) {
    const CallSpan &x = a.calls[i], &y = b.calls[i];
    same(x.op == y.op && x.rank == y.rank && x.step == y.step && x.call == y.call &&
             x.started == y.started && x.ended == y.ended && x.cpu == y.cpu,
         "call", i);
  }
  for (std::size_t i = 0; i < a.memory.size(); ++i) {
    const MemorySample &x = a.memory[i], &y = b.memory[i];
    same(x.op == y.op && x.rank == y.rank && x.step == y.step && x.time == y.time &&
             x.live == y.live,
         "memory", i);
  }
  for (std::size_t i = 0; i < a.steps.size(); ++i) {
    const StepMark &x = a.steps[i], &y = b.steps[i];
    same(x.rank == y.rank && x.step == y.step && x.started == y.started && x.ended == y.ended,
         "step", i);
  }
  for (std::size_t i = 0; i < a.peaks.size(); ++i) {
    const PeakMemory &x = a.peaks[i], &y = b.peaks[i];
    same(x.rank == y.rank && x.by_class == y.by_class && x.total == y.total &&
             x.at_peak == y.at_peak && x.op_at_peak == y.op_at_peak,
         "peak", i);
  }
}

}  // namespace tandem
