// RMS norm of rows that may lie inside wider ones. Only rstd is saved.
//   y = xh * weight,  xh = x * rstd,  rstd = 1/sqrt(mean(x^2) + eps)
//   g = dy * weight;  dx = rstd * (g - xh * mean(g * xh))
//   dweight = sum dy * xh                                               [over rows, ascending]
#pragma once

#include <cmath>

#include "exec/kernels/loops.h"

namespace tandem::exec {

// Rows of a matrix: row r begins at data + r * stride.
template <class T>
struct Rows {
  T* data;
  std::int64_t stride;
  T* operator[](std::int64_t r) const { return data + r * stride; }
};

template <class T>
void rms_forward(Rows<const T> x, const T* weight, Rows<T> y, T* rstd_of, std::int64_t tokens,
                 std::int64_t width, T eps) {
  for (std::int64_t r = 0; r < tokens; ++r) {
    const T* row = x[r];
    T* out = y[r];
    const T square = lane_sum<T>(width, [row](std::int64_t i) { return row[i] * row[i]; });
    const T rstd = T(1) / std::sqrt(square / T(width) + eps);
    for (std::int64_t c = 0; c < width; ++c) out[c] = row[c] * rstd * weight[c];
    rstd_of[r] = rstd;
  }
}

// `dx` may be `dy`: the sum over rows comes first.
template <class T>
void rms_backward(Rows<const T> dy, Rows<const T> x, const T* rstd_of, const T* weight, Rows<T> dx,
                  T* dweight, bool add_weight, std::int64_t tokens, std::int64_t width) {
  column_sums(dweight, tokens, width, add_weight,
              [=](std::int64_t r, std::int64_t c) { return dy[r][c] * (x[r][c] * rstd_of[r]); });
  for (std::int64_t r = 0; r < tokens; ++r) {
    const T *g = dy[r], *row = x[r];
    T* out = dx[r];
    const T rstd = rstd_of[r];
    const T dot =
        lane_sum<T>(width, [=](std::int64_t i) { return g[i] * weight[i] * (row[i] * rstd); });
    const T mean_gx = dot / T(width);
    for (std::int64_t c = 0; c < width; ++c)
      out[c] = rstd * (g[c] * weight[c] - row[c] * rstd * mean_gx);
  }
}

}  // namespace tandem::exec
