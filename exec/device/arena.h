// Memory of a rank's plan buffers: one slab, every buffer at an address that never changes.
//
//   Given   for each buffer the op that allocates and the op that frees it, in issue order
//   Find    offsets (multiples of 64 bytes) such that buffers that live at one op do not overlap.
//           A buffer lives at every op from its allocation to its free, both included, because an
//           op's allocations happen when it is issued and its frees when it has ended.
//   Method  largest first, each at the lowest offset free over its life. Persistent buffers first.
//
// The issue rule of plan.h (an op that allocates is issued after all earlier frees) makes reuse
// safe. The slab is untouched memory of the system: only bytes that are written become resident.
// What a plan counts is live bytes by class; the slab may be larger by what packing loses.
#pragma once

#include <cstddef>
#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "exec/kernels/kernel.h"

namespace tandem::exec {

// Offsets by BufferId; -1 for buffers of other programs. Aliases lie inside their root.
struct ArenaLayout {
  std::vector<std::int64_t> offset;
  std::int64_t bytes = 0;
};
[[nodiscard]] ArenaLayout pack_buffers(const Plan& plan, ProgramId program);

// Owns the slab. Zero-filled at the start, so bucket padding is 0. Not copied; freed with it.
class Arena {
 public:
  [[nodiscard]] static Result<Arena> create(const Plan& plan, ProgramId program);
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();
  [[nodiscard]] View view(const Plan& plan, BufferId id) const;
  [[nodiscard]] std::int64_t slab_bytes() const { return layout_.bytes; }

 private:
  explicit Arena(ArenaLayout layout) : layout_(std::move(layout)) {}
  ArenaLayout layout_;
  std::byte* slab_ = nullptr;
};

}  // namespace tandem::exec
