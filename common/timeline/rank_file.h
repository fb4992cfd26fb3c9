// RUN/ranks/K.timeline: what one rank measured, written by the rank, read by the tool, which puts
// the ranks together into the measured Timeline. Also where a rank's files are. Binary,
// little-endian; docs/formats/timeline.md has worked bytes.
//
//   8  magic "TDMRANK1"
//   4  version (1)      4  rank
//   sections, in the order spans, calls, memory, steps, peaks, meta, each
//     4  section number (1..6)    4  bytes of a record (meta: 0)    8  records
//     then the records: fields in the order of timeline.h, every integer 8 bytes; a meta record is
//     4 + key + 4 + value, lengths first
//   4  CRC-32C of everything before
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/timeline/timeline.h"

namespace tandem {

// RUN/ranks/RANK.SUFFIX, of any file of a rank: timeline, json, ring, grads, out, err.
[[nodiscard]] std::string rank_path(const std::string& run_dir, int rank, std::string_view suffix);

// `timeline` holds one rank only; its meta travels too.
[[nodiscard]] std::string encode_rank_timeline(const Timeline& timeline, int rank);

// Any bytes: lengths are checked against what is left before memory is taken. E-TIME-010.
[[nodiscard]] Result<Timeline> decode_rank_timeline(std::string_view bytes,
                                                    const std::string& file);

[[nodiscard]] Status write_rank_timeline(const std::string& path, const Timeline& timeline,
                                         int rank);
[[nodiscard]] Result<Timeline> read_rank_timeline(const std::string& path);

// One timeline of all ranks: sorted as timeline.h says, times shifted so that the first step starts
// at 0. Ranks of one host share CLOCK_MONOTONIC. `meta` is that of the first rank.
[[nodiscard]] Timeline merge_rank_timelines(std::vector<Timeline> ranks);

// The files of ranks 0 to num_ranks - 1 of a run, merged.
[[nodiscard]] Result<Timeline> read_run_timeline(const std::string& run_dir, int num_ranks);

}  // namespace tandem
