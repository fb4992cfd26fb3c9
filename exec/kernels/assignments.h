// What the kernels for experts share (models.md 2.5, 4.5): which expert a slot chose, its weight,
// the order of assignments and the rows of each expert. n tokens, E experts, K slots of a token.
//   choice i64[n,K]             expert of the slot; -1 - expert: dropped, it sends no row
//   order of the rows           by (expert, token, slot), without the dropped ones
//   counts i32[sources,experts] rows of each local expert by source
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdint>

#include "common/base/check.h"
#include "exec/kernels/kernel.h"

namespace tandem::exec {

// One block from LibTorch's allocator, so that it is counted, for as long as a call runs. Its size
// is the kernel's hidden_scratch(): a bound that cannot be passed.
class Workspace {
 public:
  explicit Workspace(Bytes bytes)
      : block_(c10::GetCPUAllocator()->allocate(static_cast<std::size_t>(bytes))), left_(bytes) {
    at_ = static_cast<std::byte*>(block_.get());
  }
  // The next `n` elements, not initialised.
  template <class T>
  [[nodiscard]] T* take(std::int64_t n) {
    static_assert(sizeof(T) % 8 == 0, "what follows stays aligned");
    const Bytes bytes = n * static_cast<Bytes>(sizeof(T));
    TANDEM_CHECK(bytes <= left_, "{} bytes of a workspace with {} left", bytes, left_);
    T* out = reinterpret_cast<T*>(at_);
    at_ += bytes;
    left_ -= bytes;
    return out;
  }
  // The same, set to 0.
  template <class T>
  [[nodiscard]] T* zeros(std::int64_t n) {
    T* out = take<T>(n);
    std::fill_n(out, n, T(0));
    return out;
  }

 private:
  c10::DataPtr block_;
  std::byte* at_ = nullptr;
  Bytes left_ = 0;
};

[[nodiscard]] inline bool is_dropped(std::int64_t choice) { return choice < 0; }
[[nodiscard]] inline std::int64_t expert_of(std::int64_t choice) {
  return choice < 0 ? -1 - choice : choice;
}

// What the scores of a token's K slots, dropped ones too, are divided by to give its weights.
template <class T>
[[nodiscard]] T weight_divisor(const T* scores, const std::int64_t* choice, std::int64_t top_k,
                               std::uint32_t flags) {
  T sum = 0;
  for (std::int64_t k = 0; k < top_k; ++k) sum += scores[expert_of(choice[k])];
  return (flags & kSigmoid) ? sum + static_cast<T>(1e-20) : sum;
}

// Where the first row of each expert lies. Walk the assignments by token and slot and take
// next[expert]++: that is the order above.
[[nodiscard]] inline std::int64_t* first_rows(Workspace& space, const std::int64_t* choice,
                                              std::int64_t assignments, std::int64_t experts) {
  auto* next = space.zeros<std::int64_t>(experts);
  for (std::int64_t a = 0; a < assignments; ++a)
    if (!is_dropped(choice[a])) ++next[choice[a]];
  std::int64_t begin = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t rows = next[e];
    next[e] = begin;
    begin += rows;
  }
  return next;
}

// Rows that arrived. Sums in 64 bits: only one source's rows of one expert fit 32.
struct Counts {
  const std::int32_t* data;
  std::int64_t sources, experts;
  [[nodiscard]] std::int64_t at(std::int64_t source, std::int64_t expert) const {
    const std::int64_t rows = data[source * experts + expert];
    TANDEM_CHECK(rows >= 0, "{} rows of source {} for expert {}", rows, source, expert);
    return rows;
  }
  [[nodiscard]] std::int64_t rows_of(std::int64_t expert) const {
    std::int64_t sum = 0;
    for (std::int64_t s = 0; s < sources; ++s) sum += at(s, expert);
    return sum;
  }
  [[nodiscard]] std::int64_t total() const {
    std::int64_t sum = 0;
    for (std::int64_t e = 0; e < experts; ++e) sum += rows_of(e);
    return sum;
  }
};

}  // namespace tandem::exec
