// Recorded routing: which expert got how many rows, in every step of a run. The executor writes
// it, the simulator replays it, people read it. The text: docs/formats/routing.md.
//
//   step,layer,microbatch,slice,rank,e0,e1,e2,e3
//   0,1,0,0,0,30,2,17,15
//   e0.. kept rows that the rank sent to each routed expert of the layer: after a capacity's drops
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/plan/routing.h"

namespace tandem {

struct RoutingRecord {
  int step = 0, layer = 0, microbatch = 0, slice = 0, rank = 0;
  std::vector<std::int32_t> kept;  // by expert
  std::int64_t line = 0;           // of the file it was read from; 0: none
};

struct RoutingTrace {
  std::string file;                    // for messages
  std::vector<RoutingRecord> records;  // any order
  std::vector<int> steps() const;      // of training, ascending
};

// Records in the order of (step, layer, microbatch, slice, rank); all have the same number of
// experts.
[[nodiscard]] std::string to_text(RoutingTrace trace);
// E-CAL-009 with line and column.
[[nodiscard]] Result<RoutingTrace> parse_routing_trace(std::string_view text, std::string file);
// Reads at most limits::kRoutingBytes. Codes of reading files, and of parse_routing_trace.
[[nodiscard]] Result<RoutingTrace> read_routing_trace(const std::string& path);

// The trace as a source: step i of the source is the i-th of trace.steps(). E-CAL-010: counts are
// missing, given twice, of a place that the plan has not, or such as it cannot have.
[[nodiscard]] Result<RoutingSource> traced_routing(const RoutingTrace& trace, const Plan& plan);

}  // namespace tandem
