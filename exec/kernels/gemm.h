// Matrix products in fp32 on one thread, over LibTorch's brgemm (oneDNN's micro kernels), which is
// its fastest path on CPUs with AVX-512: measured 220-270 GFLOP/s against 114 of mm (MKL) on one
// AMD core. brgemm takes row-major operands only; a transposed one is packed, panel by panel, into
// a fixed buffer of the thread (at most 256 KiB). Results depend on dimensions alone, as with mm.
#pragma once

#include <cstdint>

#include "common/model/dtype.h"

namespace tandem::exec {

// Whether this machine has it; tried once. Else callers use at::mm_out.
[[nodiscard]] bool has_fast_gemm();
// Whether a kernel in this type uses it: fp32, one thread.
[[nodiscard]] bool use_fast_gemm(DType compute);

// C[m,n] = A B, all row-major and contiguous:
//   gemm_nn  A[m,k] B[k,n]      gemm_nt  A[m,k] B^T, B[n,k]      gemm_tn  A^T B, A[k,m] B[k,n]
// `add`: C += A B.
void gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
             float* c, bool add = false);
void gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
             float* c);
void gemm_tn(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
             float* c);

}  // namespace tandem::exec
