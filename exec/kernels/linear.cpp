// y = x W^T + bias;  dx = dy W;  dW = dy^T x;  dbias = sum of dy over rows. In fp32 on one thread
// by gemm.h where the machine has it, else by LibTorch's mm.
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "exec/kernels/aten.h"
#include "exec/kernels/gemm.h"
#include "exec/kernels/loops.h"

namespace tandem::exec {
Prepared bind_linear_fwd(const KernelCall& call) {
  const std::int64_t n = call.kernel.dims[0], in = call.kernel.dims[1], out = call.kernel.dims[2];
  const bool has_bias = (call.kernel.flags & kBias) != 0;
  if (use_fast_gemm(call.types.compute)) {
    const float *x = call.inputs[0].as<float>(), *weight = call.inputs[1].as<float>();
    const float* bias = has_bias ? call.inputs[2].as<float>() : nullptr;
    float* y = call.outputs[0].as<float>();
    return [=] {
      gemm_nt(n, out, in, x, weight, y);
      if (!bias) return;
      for (std::int64_t r = 0; r < n; ++r)
        for (std::int64_t c = 0; c < out; ++c) y[r * out + c] += bias[c];
    };
  }
  const c10::InferenceMode guard;
  at::Tensor x = tensor(call.inputs[0], {n, in});
  at::Tensor weight = tensor(call.inputs[1], {out, in}).t();
  at::Tensor y = tensor(call.outputs[0], {n, out});
  if (!has_bias)
    return [=]() mutable {
      const c10::InferenceMode inference;
      at::mm_out(y, x, weight);
    };
  at::Tensor bias = tensor(call.inputs[2], {out});
  return [=]() mutable {
    const c10::InferenceMode inference;
    at::addmm_out(y, bias, x, weight);
  };
}

Prepared bind_linear_bwd_input(const KernelCall& call) {
  const std::int64_t n = call.kernel.dims[0], in = call.kernel.dims[1], out = call.kernel.dims[2];
  if (use_fast_gemm(call.types.compute)) {
    const float *dy = call.inputs[0].as<float>(), *weight = call.inputs[1].as<float>();
    float* dx = call.outputs[0].as<float>();
    return [=] { gemm_nn(n, in, out, dy, weight, dx); };
  }
  at::Tensor dy = tensor(call.inputs[0], {n, out}), weight = tensor(call.inputs[1], {out, in});
  at::Tensor dx = tensor(call.outputs[0], {n, in});
  return [=]() mutable {
    const c10::InferenceMode inference;
    at::mm_out(dx, dy, weight);
  };
}

Prepared bind_linear_bwd_weight(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const c10::InferenceMode guard;
    const std::int64_t n = call.kernel.dims[0], in = call.kernel.dims[1], out = call.kernel.dims[2];
    at::Tensor dy = tensor(call.inputs[0], {n, out}).t(), x = tensor(call.inputs[1], {n, in});
    const bool accumulate = call.accumulate[0];
    const View& target = accumulate ? call.scratch[0] : call.outputs[0];
    at::Tensor product = tensor(target, {out, in});
    T *sum = target.as<T>(), *dweight = call.outputs[0].as<T>();
    const bool bias = (call.kernel.flags & kBias) != 0;
    const bool add_bias = bias && call.accumulate[1];
    const T *rows = call.inputs[0].as<T>(), *columns = call.inputs[1].as<T>();
    T* dbias = bias ? call.outputs[1].as<T>() : nullptr;
    const bool fast = use_fast_gemm(call.types.compute);
    return [=]() mutable {
      const c10::InferenceMode inference;
      if constexpr (std::is_same_v<T, float>) {
        if (fast) gemm_tn(out, in, n, rows, columns, sum);
      }
      if (!fast) at::mm_out(product, dy, x);
      if (accumulate)
        for (std::int64_t i = 0; i < in * out; ++i) dweight[i] += sum[i];
      if (bias)
        column_sums(dbias, n, out, add_bias,
                    [=](std::int64_t r, std::int64_t c) { return rows[r * out + c]; });
    };
  });
}

}  // namespace tandem::exec
