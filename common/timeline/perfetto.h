// Timelines as Perfetto TrackEvent protobuf: opens in ui.perfetto.dev and reads back exactly.
// Field numbers and worked bytes: docs/formats/timeline.md.
//
//   One process per rank, one thread per stream, and under the process a track of steps, one
//   counter of live bytes per buffer class and one of their sum. An op is a slice from `ready` to
//   `ended`; inside it the kernel calls (compute) or "waiting" and "transfer" (communication).
//   Arrows lead from a send to its receive; members of a collective share a correlation id.
//   Perfetto counts whole ns. Slices stand at the ns that holds their tick (rounded down); the
//   exact ticks are annotations of the slice, and only these are read back.
#pragma once

#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/timeline/timeline.h"

namespace tandem {

[[nodiscard]] Status write_perfetto(const Timeline& timeline, const Plan& plan,
                                    const std::string& path);

// The same bytes in memory.
[[nodiscard]] std::string encode_perfetto(const Timeline& timeline, const Plan& plan);

// Reads files of ours only: other traces lack the annotations. E-TIME-001, -002, -003.
[[nodiscard]] Result<Timeline> decode_perfetto(std::string_view bytes, const std::string& file);

}  // namespace tandem
