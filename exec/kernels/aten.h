// Views as at::Tensor: for the files that call LibTorch. Tensors are made once, in inference mode,
// so that no call pays for autograd; run them under an InferenceGuard.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include "exec/kernels/kernel.h"

namespace tandem::exec {

inline at::ScalarType scalar_type(DType t) {
  switch (t) {
    case DType::f64:
      return at::kDouble;
    case DType::f32:
      return at::kFloat;
    case DType::bf16:
      return at::kBFloat16;
    case DType::f16:
      return at::kHalf;
    case DType::i64:
      return at::kLong;
    case DType::i32:
      return at::kInt;
  }
  return at::kFloat;
}

// The memory of `view` under other extents (as many elements, or fewer: its beginning).
inline at::Tensor tensor(const View& view, at::IntArrayRef sizes) {
  const c10::InferenceMode guard;
  return at::from_blob(view.data, sizes, at::TensorOptions().dtype(scalar_type(view.dtype)));
}

}  // namespace tandem::exec
