// Causal multi-head attention of the local heads, scale head_dim^-0.5. qkv[S, b, 3*heads*dh]: all q
// heads, then k, then v. Flash: LibTorch's CPU kernel, which saves the log-sum-exp of each row.
// Materialised: explicit probabilities P,
//   P = softmax(scale q k^T);  o = P v;  dv = P^T do;  dP = do v^T
//   dS = P * (dP - rowsum(dP * P));  dq = scale dS k;  dk = scale dS^T q
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <cmath>
#include <limits>

#include "exec/kernels/aten.h"
#include "exec/kernels/loops.h"

namespace tandem::exec {
namespace {

struct Heads {
  std::int64_t batch, heads, seq, width;  // width: head_dim
  explicit Heads(const Kernel& k)
      : batch(k.dims[0]), heads(k.dims[1]), seq(k.dims[2]), width(k.dims[3]) {}
  // Part 0..2 of a fused [S, b, 3*heads*dh] buffer, or the only part of [S, b, heads*dh], as
  // [b, heads, S, dh]: strides only, no copy.
  [[nodiscard]] at::Tensor part(const View& view, int index, int parts) const {
    const c10::InferenceMode guard;
    return tensor(view, {seq, batch, parts, heads, width}).select(2, index).permute({1, 2, 0, 3});
  }
  [[nodiscard]] double scale() const { return 1.0 / std::sqrt(static_cast<double>(width)); }
};

// In place: row i of a [S, S] matrix of scores becomes softmax(scale * row), columns > i are 0.
template <class T>
void causal_softmax(T* p, std::int64_t seq, bool causal, T scale) {
  for (std::int64_t i = 0; i < seq; ++i) {
    T* row = p + i * seq;
    const std::int64_t n = causal ? i + 1 : seq;
    T top = -std::numeric_limits<T>::infinity();
    for (std::int64_t j = 0; j < n; ++j) top = std::max(top, row[j] * scale);
    T sum = 0;
    for (std::int64_t j = 0; j < n; ++j) sum += row[j] = std::exp(row[j] * scale - top);
    for (std::int64_t j = 0; j < n; ++j) row[j] /= sum;
    for (std::int64_t j = n; j < seq; ++j) row[j] = 0;
  }
}

template <class T>
Prepared materialised_fwd(const KernelCall& call) {
  const c10::InferenceMode guard;
  const Heads h(call.kernel);
  const bool causal = (call.kernel.flags & kCausal) != 0;
  at::Tensor q = h.part(call.inputs[0], 0, 3), k = h.part(call.inputs[0], 1, 3),
             v = h.part(call.inputs[0], 2, 3), out = h.part(call.outputs[0], 0, 1);
  at::Tensor probs = tensor(call.outputs[1], {h.batch, h.heads, h.seq, h.seq});
  return [=]() mutable {
    const c10::InferenceMode inference;
    for (std::int64_t b = 0; b < h.batch; ++b)
      for (std::int64_t a = 0; a < h.heads; ++a) {
        at::Tensor p = probs[b][a], o = out[b][a];
        at::mm_out(p, q[b][a], k[b][a].t());
        causal_softmax(p.mutable_data_ptr<T>(), h.seq, causal, static_cast<T>(h.scale()));
        at::mm_out(o, p, v[b][a]);
      }
  };
}

template <class T>
Prepared materialised_bwd(const KernelCall& call) {
  const c10::InferenceMode guard;
  const Heads h(call.kernel);
  at::Tensor dout = h.part(call.inputs[0], 0, 1);
  at::Tensor q = h.part(call.inputs[1], 0, 3), k = h.part(call.inputs[1], 1, 3),
             v = h.part(call.inputs[1], 2, 3);
  at::Tensor dq = h.part(call.outputs[0], 0, 3), dk = h.part(call.outputs[0], 1, 3),
             dv = h.part(call.outputs[0], 2, 3);
  at::Tensor probs = tensor(call.inputs[2], {h.batch, h.heads, h.seq, h.seq});
  const at::ScalarType type = scalar_type(call.types.compute);
  return [=]() mutable {
    const c10::InferenceMode inference;
    at::Tensor ds = at::empty({h.seq, h.seq}, at::TensorOptions().dtype(type));
    T* s = ds.mutable_data_ptr<T>();
    const T scale = static_cast<T>(h.scale());
    for (std::int64_t b = 0; b < h.batch; ++b)
      for (std::int64_t a = 0; a < h.heads; ++a) {
        at::Tensor p = probs[b][a], dv_out = dv[b][a], dq_out = dq[b][a], dk_out = dk[b][a];
        at::mm_out(dv_out, p.t(), dout[b][a]);
        at::mm_out(ds, dout[b][a], v[b][a].t());
        const T* weights = p.const_data_ptr<T>();
        for (std::int64_t i = 0; i < h.seq; ++i) {
          const T* w = weights + i * h.seq;
          T* row = s + i * h.seq;
          const T dot = lane_sum<T>(h.seq, [=](std::int64_t j) { return row[j] * w[j]; });
          for (std::int64_t j = 0; j < h.seq; ++j) row[j] = scale * (w[j] * (row[j] - dot));
        }
        at::mm_out(dq_out, ds, k[b][a]);
        at::mm_out(dk_out, ds.t(), q[b][a]);
      }
  };
}

}  // namespace

Prepared bind_attention_fwd(const KernelCall& call) {
  if (call.kernel.flags & kMaterialised)
    return by_type(call, [&](auto zero) { return materialised_fwd<decltype(zero)>(call); });
  const c10::InferenceMode guard;
  const Heads h(call.kernel);
  const bool causal = (call.kernel.flags & kCausal) != 0;
  at::Tensor q = h.part(call.inputs[0], 0, 3), k = h.part(call.inputs[0], 1, 3),
             v = h.part(call.inputs[0], 2, 3), out = h.part(call.outputs[0], 0, 1);
  at::Tensor lse = tensor(call.outputs[1], {h.batch, h.heads, h.seq});
  return [=]() mutable {
    const c10::InferenceMode inference;
    auto [o, l] =
        at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, {}, h.scale());
    out.copy_(o);
    lse.copy_(l);
  };
}

Prepared bind_attention_bwd_input(const KernelCall& call) {
  if (call.kernel.flags & kMaterialised)
    return by_type(call, [&](auto zero) { return materialised_bwd<decltype(zero)>(call); });
  const c10::InferenceMode guard;
  const Heads h(call.kernel);
  const bool causal = (call.kernel.flags & kCausal) != 0;
  at::Tensor dout = h.part(call.inputs[0], 0, 1), out = h.part(call.inputs[3], 0, 1);
  at::Tensor q = h.part(call.inputs[1], 0, 3), k = h.part(call.inputs[1], 1, 3),
             v = h.part(call.inputs[1], 2, 3);
  at::Tensor dq = h.part(call.outputs[0], 0, 3), dk = h.part(call.outputs[0], 1, 3),
             dv = h.part(call.outputs[0], 2, 3);
  at::Tensor lse = tensor(call.inputs[2], {h.batch, h.heads, h.seq});
  return [=]() mutable {
    const c10::InferenceMode inference;
    auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        dout, q, k, v, out, lse, 0.0, causal, {}, h.scale());
    dq.copy_(gq);
    dk.copy_(gk);
    dv.copy_(gv);
  };
}

}  // namespace tandem::exec
