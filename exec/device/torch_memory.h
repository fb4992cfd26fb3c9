// LibTorch's CPU allocator, replaced by one that counts: what kernels take beside the plan's
// buffers (class scratch). Every allocation is 64-byte aligned, which bitwise equality of matrix
// products needs. Process-wide; the counters are atomic.
#pragma once

#include <cstdint>

namespace tandem::exec {

// Once, before other LibTorch calls. Also sets the threads of one operation and keeps malloc from
// giving memory back between kernels.
void set_up_torch(int threads_per_rank);

struct TorchMemory {
  std::int64_t live = 0, peak = 0;  // bytes; peak since the last reset
};
[[nodiscard]] TorchMemory torch_memory();
void reset_torch_peak();

}  // namespace tandem::exec
