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
//   Borrowed   an evaluation uses the parameters of training where they lie: its persistent buffers
//           are lent by another arena and take no room here
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
// `persistent`: with room for the buffers that live for the run; else they, too, have -1.
[[nodiscard]] ArenaLayout pack_buffers(const Plan& plan, ProgramId program, bool persistent = true);

// Owns the slab. Zero-filled at the start, so bucket padding is 0. Not copied; freed with it.
class Arena {
 public:
  [[nodiscard]] static Result<Arena> create(const Plan& plan, ProgramId program);
  // Every persistent buffer of the program but views lies at its address in `lent`, by BufferId;
  // null for the others. That memory outlives this arena.
  [[nodiscard]] static Result<Arena> create(const Plan& plan, ProgramId program,
                                            std::vector<std::byte*> lent);
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();
  [[nodiscard]] View view(const Plan& plan, BufferId id) const;
  [[nodiscard]] std::int64_t slab_bytes() const { return layout_.bytes; }
  // Gives the slab's pages back to the system; its values are lost, its addresses stay.
  void drop_pages();

 private:
  Arena(ArenaLayout layout, std::vector<std::byte*> lent)
      : layout_(std::move(layout)), lent_(std::move(lent)) {}
  [[nodiscard]] static Result<Arena> map(Arena arena);
  ArenaLayout layout_;
  std::vector<std::byte*> lent_;  // empty: all buffers are the slab's
  std::byte* slab_ = nullptr;
};

}  // namespace tandem::exec
