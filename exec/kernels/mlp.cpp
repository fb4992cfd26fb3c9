// GELU, exact (erf) or by tanh.
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>

#include "exec/kernels/aten.h"

namespace tandem::exec {
namespace {
const char* approximation(const Kernel& k) { return (k.flags & kTanh) ? "tanh" : "none"; }
}  // namespace

Prepared bind_gelu_fwd(const KernelCall& call) {
  const std::int64_t n = call.kernel.dims[0];
  at::Tensor x = tensor(call.inputs[0], {n}), y = tensor(call.outputs[0], {n});
  return [=, kind = approximation(call.kernel)]() mutable {
    const c10::InferenceMode inference;
    at::gelu_out(y, x, kind);
  };
}

Prepared bind_gelu_bwd_input(const KernelCall& call) {
  const std::int64_t n = call.kernel.dims[0];
  at::Tensor dy = tensor(call.inputs[0], {n}), x = tensor(call.inputs[1], {n});
  at::Tensor dx = tensor(call.outputs[0], {n});
  return [=, kind = approximation(call.kernel)]() mutable {
    const c10::InferenceMode inference;
    at::gelu_backward_out(dx, dy, x, kind);
  };
}

}  // namespace tandem::exec
