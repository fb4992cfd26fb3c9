// Small loops that a compiler vectorises without reordering sums: elementwise passes and sums over
// a fixed number of lanes, so that results do not depend on the machine's vector width.
#pragma once

#include <cstdint>

#include "exec/kernels/kernel.h"

namespace tandem::exec {

inline constexpr int kLanes = 16;

// Sum of f(i) for i in [0, n): lane i mod kLanes, then lanes by halves.
template <class T, class F>
inline T lane_sum(std::int64_t n, F&& f) {
  T lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += f(i + l);
  for (int l = 0; i < n; ++i, ++l) lane[l] += f(i);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

// out[c] (+)= sum over rows of f(row, c), rows ascending. An accumulating sum is complete before it
// is added, so that a batch in two calls equals two ranks that are reduced.
template <class T, class F>
inline void column_sums(T* out, std::int64_t rows, std::int64_t columns, bool accumulate, F&& f) {
  constexpr std::int64_t kBlock = 256;
  for (std::int64_t begin = 0; begin < columns; begin += kBlock) {
    const std::int64_t width = columns - begin < kBlock ? columns - begin : kBlock;
    T sum[kBlock] = {};
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < width; ++c) sum[c] += f(r, begin + c);
    if (accumulate)
      for (std::int64_t c = 0; c < width; ++c) out[begin + c] += sum[c];
    else
      for (std::int64_t c = 0; c < width; ++c) out[begin + c] = sum[c];
  }
}

// Calls f(T{}) with the type of the plan's activations: `bind<float>` or `bind<double>`.
template <class F>
inline Prepared by_type(const KernelCall& call, F&& f) {
  return call.types.compute == DType::f64 ? f(double{}) : f(float{});
}

}  // namespace tandem::exec
