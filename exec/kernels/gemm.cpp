#include "exec/kernels/gemm.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <cmath>
#include <exception>

namespace tandem::exec {
namespace {

// A block of B, [kDepth, kColumns], stays in the second-level cache while all rows of A pass.
constexpr std::int64_t kColumns = 128, kDepth = 512, kRows = 128;
constexpr std::int64_t kTile = 16;
static_assert(kRows <= kColumns, "one panel buffer serves both packings");

void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
              const float* b, std::int64_t ldb, float* c, std::int64_t ldc, bool add) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, /*is_vnni=*/false);
}

float* panel() {
  alignas(64) static thread_local float buffer[kDepth * kColumns];
  return buffer;
}

// to[c][r] = from[r][c] for rows x columns of `from`; `to` has `ld_to` columns.
void transpose(const float* from, std::int64_t rows, std::int64_t columns, std::int64_t ld_from,
               float* to, std::int64_t ld_to) {
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (std::int64_t c0 = 0; c0 < columns; c0 += kTile) {
      const std::int64_t r1 = std::min(r0 + kTile, rows), c1 = std::min(c0 + kTile, columns);
      for (std::int64_t c = c0; c < c1; ++c)
        for (std::int64_t r = r0; r < r1; ++r) to[c * ld_to + r] = from[r * ld_from + c];
    }
}

bool try_it() {
  try {
    float a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8}, c[4] = {};
    multiply(2, 2, 2, a, 2, b, 2, c, 2, false);
    return c[0] == 19 && c[1] == 22 && c[2] == 43 && c[3] == 50;
  } catch (const std::exception&) {
    return false;  // no AVX-512, or a LibTorch without oneDNN
  }
}

// Calls f(begin, size) for blocks of [0, n).
template <class F>
void blocks(std::int64_t n, std::int64_t size, F&& f) {
  for (std::int64_t at = 0; at < n; at += size) f(at, std::min(size, n - at));
}

}  // namespace

bool has_fast_gemm() {
  static const bool has = try_it();
  return has;
}

bool use_fast_gemm(DType compute) {
  return compute == DType::f32 && at::get_num_threads() == 1 && has_fast_gemm();
}

void gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
             float* c, bool add) {
  blocks(n, kColumns, [&](std::int64_t j, std::int64_t width) {
    blocks(k, kDepth, [&](std::int64_t l, std::int64_t depth) {
      multiply(m, width, depth, a + l, k, b + l * n + j, n, c + j, n, add || l > 0);
    });
  });
}

void gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
             float* c) {
  float* packed = panel();
  blocks(n, kColumns, [&](std::int64_t j, std::int64_t width) {
    blocks(k, kDepth, [&](std::int64_t l, std::int64_t depth) {
      transpose(b + j * k + l, width, depth, k, packed, width);
      multiply(m, width, depth, a + l, k, packed, width, c + j, n, l > 0);
    });
  });
}

void gemm_tn(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
             float* c) {
  float* packed = panel();
  blocks(m, kRows, [&](std::int64_t i, std::int64_t height) {
    blocks(k, kDepth, [&](std::int64_t l, std::int64_t depth) {
      transpose(a + l * m + i, depth, height, m, packed, depth);
      blocks(n, kColumns, [&](std::int64_t j, std::int64_t width) {
        multiply(height, width, depth, packed, depth, b + l * n + j, n, c + i * n + j, n, l > 0);
      });
    });
  });
}

}  // namespace tandem::exec
