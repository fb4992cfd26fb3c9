#include "exec/device/torch_memory.h"

#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace tandem::exec {
namespace {

std::atomic<std::int64_t> live{0}, peak{0};

// The size stands in the 64 bytes before the block.
constexpr std::size_t kHeader = 64;

void release(void* block) {
  if (!block) return;
  auto* base = static_cast<std::byte*>(block) - kHeader;
  std::int64_t bytes = 0;
  std::memcpy(&bytes, base, sizeof bytes);
  live.fetch_sub(bytes, std::memory_order_relaxed);
  std::free(base);
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t n) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (n == 0) return {nullptr, nullptr, &release, cpu};
    const std::size_t rounded = (n + kHeader - 1) / kHeader * kHeader;
    auto* base = static_cast<std::byte*>(std::aligned_alloc(kHeader, rounded + kHeader));
    TORCH_CHECK(base != nullptr, "out of memory: ", n, " bytes");
    const auto bytes = static_cast<std::int64_t>(n);
    std::memcpy(base, &bytes, sizeof bytes);
    const std::int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::int64_t seen = peak.load(std::memory_order_relaxed);
    while (now > seen && !peak.compare_exchange_weak(seen, now, std::memory_order_relaxed)) {
    }
    return {base + kHeader, base + kHeader, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t n) const override {
    std::memcpy(to, from, n);
  }
};

}  // namespace

void set_up_torch(int threads_per_rank) {
  static CountingAllocator allocator;
  static std::once_flag once;
  std::call_once(once, [] {
    // A kernel's temporary is needed again by the next microbatch: no trip to the system for it,
    // and one arena for all threads of the rank.
    ::mallopt(M_ARENA_MAX, 1);
    ::mallopt(M_MMAP_THRESHOLD, 256 << 20);
    ::mallopt(M_TRIM_THRESHOLD, 512 << 20);
    c10::SetCPUAllocator(&allocator, /*priority=*/1);
  });
  at::set_num_threads(threads_per_rank);
}

TorchMemory torch_memory() {
  return {live.load(std::memory_order_relaxed), peak.load(std::memory_order_relaxed)};
}
void reset_torch_peak() {
  peak.store(live.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

}  // namespace tandem::exec
