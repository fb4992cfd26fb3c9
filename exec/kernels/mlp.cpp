// GELU, exact (erf) or by tanh. SwiGLU over gate_up[tokens, 2*width], gate first:
//   y = silu(gate) * up;  d up = dy * silu(gate);  d gate = dy * up * silu'(gate)
// Of experts: the same over as many rows as arrived.
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "exec/kernels/assignments.h"
#include "exec/kernels/aten.h"

namespace tandem::exec {
namespace {
const char* approximation(const Kernel& k) { return (k.flags & kTanh) ? "tanh" : "none"; }

// The two halves of each row: strides only, no copy.
struct Halves {
  at::Tensor gate, up;
  Halves(const View& view, std::int64_t tokens, std::int64_t width) {
    const c10::InferenceMode guard;
    const at::Tensor both = tensor(view, {tokens, 2 * width});
    gate = both.slice(1, 0, width), up = both.slice(1, width);
  }
};

void swiglu(const Halves& in, at::Tensor& y) {
  at::silu_out(y, in.gate);
  at::mul_out(y, y, in.up);
}

void swiglu_backward(const at::Tensor& dy, const Halves& in, Halves& out) {
  at::silu_out(out.up, in.gate);
  at::mul_out(out.up, out.up, dy);
  at::mul_out(out.gate, dy, in.up);
  at::silu_backward_out(out.gate, out.gate, in.gate);
}

// {rows,width,experts,sources}: the operand `counts` says how many rows there are.
Counts counts_of(const KernelCall& call, std::size_t operand) {
  return {call.inputs[operand].as<std::int32_t>(), call.kernel.dims[3], call.kernel.dims[2]};
}
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

Prepared bind_swiglu_fwd(const KernelCall& call) {
  const std::int64_t tokens = call.kernel.dims[0], width = call.kernel.dims[1];
  const Halves in(call.inputs[0], tokens, width);
  at::Tensor y = tensor(call.outputs[0], {tokens, width});
  return [=]() mutable {
    const c10::InferenceMode inference;
    swiglu(in, y);
  };
}

Prepared bind_swiglu_bwd_input(const KernelCall& call) {
  const std::int64_t tokens = call.kernel.dims[0], width = call.kernel.dims[1];
  const at::Tensor dy = tensor(call.inputs[0], {tokens, width});
  const Halves in(call.inputs[1], tokens, width);
  Halves out(call.outputs[0], tokens, width);
  return [=]() mutable {
    const c10::InferenceMode inference;
    swiglu_backward(dy, in, out);
  };
}

Prepared bind_experts_swiglu_fwd(const KernelCall& call) {
  const std::int64_t width = call.kernel.dims[1];
  return [=, counts = counts_of(call, 1), gate_up = call.inputs[0], y = call.outputs[0]] {
    const c10::InferenceMode inference;
    const std::int64_t rows = counts.total();
    if (rows == 0) return;
    at::Tensor to = tensor(y, {rows, width});
    swiglu(Halves(gate_up, rows, width), to);
  };
}

Prepared bind_experts_swiglu_bwd_input(const KernelCall& call) {
  const std::int64_t width = call.kernel.dims[1];
  return [=, counts = counts_of(call, 2), dy = call.inputs[0], gate_up = call.inputs[1],
          dgate_up = call.outputs[0]] {
    const c10::InferenceMode inference;
    const std::int64_t rows = counts.total();
    if (rows == 0) return;
    Halves to(dgate_up, rows, width);
    swiglu_backward(tensor(dy, {rows, width}), Halves(gate_up, rows, width), to);
  };
}

}  // namespace tandem::exec
