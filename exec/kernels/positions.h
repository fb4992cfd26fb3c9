// Which positions of the sequence the rows of a kernel are (flag `positions`).
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

// Of each of the `count` positions this rank holds, its place in the whole sequence, for a kernel
// without the flag 0, 1, 2, ...
[[nodiscard]] inline std::vector<std::int64_t> positions_of(const KernelCall& call,
                                                            std::int64_t count) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(count));
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
  const std::int64_t chunk = count * tp / 2, first = first_position_of(call.kernel);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t p = t * count + i;  // among those of the cp member
    out[static_cast<std::size_t>(i)] = cp == 1     ? first + p
                                       : p < chunk ? c * chunk + p
                                                   : (2 * cp - 1 - c) * chunk + p - chunk;
  }
  return out;
}

}  // namespace tandem::exec
