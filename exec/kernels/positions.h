// Which positions of the sequence a rank holds, and the rows of a kernel are (flag `positions`).
//
//   tp   with sequence parallelism member r of t holds the r-th of t equal parts; not where the
//        kernel's tp cuts the vocabulary (flag `vocab`)
//   cp   zig-zag: the sequence is cut in 2c chunks, member r holds chunks r and 2c-1-r, in this
//        order; tp cuts what a cp member holds
//   first  without cp: the rows begin at that position of the sequence (slices, models.md 8a)
//   Source  models.md 4.2 and 4.7.
#pragma once

#include <cstdint>
#include <vector>

#include "exec/kernels/kernel.h"

namespace tandem::exec {

// Whether the kernel's coordinate on tp chooses rows of the vocabulary, not positions.
[[nodiscard]] inline bool cuts_vocabulary(const Kernel& k) {
  return k.coords.has(Axis::tp) && ((k.flags & kPositions) == 0 || (k.flags & kVocab) != 0);
}

// The part of a sequence that a rank holds: of tp, of cp, behind `first`.
struct SequencePart {
  std::int64_t t = 0, tp = 1, c = 0, cp = 1, first = 0;
};

// Of each of the `count` positions of the part, its place in the whole sequence.
[[nodiscard]] inline std::vector<std::int64_t> positions_of(const SequencePart& part,
                                                            std::int64_t count) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(count));
  const std::int64_t chunk = count * part.tp / 2;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t p = part.t * count + i;  // among those of the cp member
    out[static_cast<std::size_t>(i)] = part.cp == 1 ? part.first + p
                                       : p < chunk  ? part.c * chunk + p
                                                   : (2 * part.cp - 1 - part.c) * chunk + p - chunk;
  }
  return out;
}

// The same of the rows of a kernel, for one without the flag 0, 1, 2, ...
[[nodiscard]] inline std::vector<std::int64_t> positions_of(const KernelCall& call,
                                                            std::int64_t count) {
  const auto axis = [&](Axis a) {
    const bool cuts = (call.kernel.flags & kPositions) != 0 && call.kernel.coords.has(a) &&
                      !(a == Axis::tp && cuts_vocabulary(call.kernel));
    const auto i = static_cast<std::size_t>(a);
    return cuts ? std::pair<std::int64_t, std::int64_t>{call.context->coordinate[i],
                                                        call.context->size[i]}
                : std::pair<std::int64_t, std::int64_t>{0, 1};
  };
  const auto [t, tp] = axis(Axis::tp);
  const auto [c, cp] = axis(Axis::cp);
  return positions_of(SequencePart{t, tp, c, cp, first_position_of(call.kernel)}, count);
}

}  // namespace tandem::exec
