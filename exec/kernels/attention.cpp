// Causal attention of the local heads, scale head_dim^-0.5. qkv[S, b, (heads + kv_heads)*dh +
// kv_heads*dv]: all q heads, then k, then v; head h uses key/value head h div (heads/kv_heads),
// whose gradients are sums over its heads. Flash: LibTorch's CPU kernel, which saves the
// log-sum-exp of each row and wants as many heads of q as of k: one call for the first head of each
// group, one for the second, and so on, without copies of k and v. It also wants v as wide as q: a
// narrower v, and in backward dO and the output, get zeros behind, which add nothing to any
// product. Materialised: explicit probabilities P,
//   P = softmax(scale q k^T);  o = P v;  dv = P^T do;  dP = do v^T
//   dS = P * (dP - rowsum(dP * P));  dq = scale dS k;  dk = scale dS^T q
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <cmath>
#include <limits>

#include "exec/kernels/attention_heads.h"
#include "exec/kernels/loops.h"

namespace tandem::exec {
namespace {

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
  const AttentionHeads h(call.kernel);
  const bool causal = (call.kernel.flags & kCausal) != 0;
  at::Tensor q = h.q(call.inputs[0]), k = h.k(call.inputs[0]), v = h.v(call.inputs[0]),
             out = h.out(call.outputs[0]);
  at::Tensor probs = tensor(call.outputs[1], {h.batch, h.heads, h.seq, h.seq});
  return [=]() mutable {
    const c10::InferenceMode inference;
    for (std::int64_t b = 0; b < h.batch; ++b)
      for (std::int64_t a = 0; a < h.heads; ++a) {
        const std::int64_t g = a / h.shared();
        at::Tensor p = probs[b][a], o = out[b][a];
        at::mm_out(p, q[b][a], k[b][g].t());
        causal_softmax(p.mutable_data_ptr<T>(), h.seq, causal, static_cast<T>(h.scale()));
        at::mm_out(o, p, v[b][g]);
      }
  };
}

// out = a b, or out += a b.
void product(at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool adds) {
  if (adds)
    at::addmm_out(out, out, a, b);
  else
    at::mm_out(out, a, b);
}

template <class T>
Prepared materialised_bwd(const KernelCall& call) {
  const c10::InferenceMode guard;
  const AttentionHeads h(call.kernel);
  at::Tensor dout = h.out(call.inputs[0]);
  at::Tensor q = h.q(call.inputs[1]), k = h.k(call.inputs[1]), v = h.v(call.inputs[1]);
  at::Tensor dq = h.q(call.outputs[0]), dk = h.k(call.outputs[0]), dv = h.v(call.outputs[0]);
  at::Tensor probs = tensor(call.inputs[2], {h.batch, h.heads, h.seq, h.seq});
  const at::ScalarType type = scalar_type(call.types.compute);
  return [=]() mutable {
    const c10::InferenceMode inference;
    at::Tensor ds = at::empty({h.seq, h.seq}, at::TensorOptions().dtype(type));
    T* s = ds.mutable_data_ptr<T>();
    const T scale = static_cast<T>(h.scale());
    for (std::int64_t b = 0; b < h.batch; ++b)
      for (std::int64_t a = 0; a < h.heads; ++a) {
        const std::int64_t g = a / h.shared();
        const bool adds = a % h.shared() != 0;  // to what the group's heads before it left
        at::Tensor p = probs[b][a], dv_out = dv[b][g], dq_out = dq[b][a], dk_out = dk[b][g];
        product(dv_out, p.t(), dout[b][a], adds);
        at::mm_out(ds, dout[b][a], v[b][g].t());
        const T* weights = p.const_data_ptr<T>();
        for (std::int64_t i = 0; i < h.seq; ++i) {
          const T* w = weights + i * h.seq;
          T* row = s + i * h.seq;
          const T dot = lane_sum<T>(h.seq, [=](std::int64_t j) { return row[j] * w[j]; });
          for (std::int64_t j = 0; j < h.seq; ++j) row[j] = scale * (w[j] * (row[j] - dot));
        }
        at::mm_out(dq_out, ds, k[b][g]);
        product(dk_out, ds.t(), q[b][a], adds);
      }
  };
}

}  // namespace

Prepared bind_attention_fwd(const KernelCall& call) {
  if (call.kernel.flags & kMaterialised)
    return by_type(call, [&](auto zero) { return materialised_fwd<decltype(zero)>(call); });
  const c10::InferenceMode guard;
  const AttentionHeads h(call.kernel);
  const bool causal = (call.kernel.flags & kCausal) != 0;
  const at::Tensor k = h.k(call.inputs[0]), v = h.v(call.inputs[0]);
  const std::vector<at::Tensor> q = h.members(h.q(call.inputs[0]));
  std::vector<at::Tensor> out = h.members(h.out(call.outputs[0]));
  std::vector<at::Tensor> lse = h.members(tensor(call.outputs[1], {h.batch, h.heads, h.seq}));
  return [=]() mutable {
    const c10::InferenceMode inference;
    const at::Tensor wide_v = h.padded(v);
    for (std::size_t i = 0; i < q.size(); ++i) {
      auto [o, l] = at::_scaled_dot_product_flash_attention_for_cpu(q[i], k, wide_v, 0.0, causal,
                                                                    {}, h.scale());
      out[i].copy_(h.narrow(o));
      lse[i].copy_(l);
    }
  };
}

Prepared bind_attention_bwd_input(const KernelCall& call) {
  if (call.kernel.flags & kMaterialised)
    return by_type(call, [&](auto zero) { return materialised_bwd<decltype(zero)>(call); });
  const c10::InferenceMode guard;
  const AttentionHeads h(call.kernel);
  const bool causal = (call.kernel.flags & kCausal) != 0;
  const std::vector<at::Tensor> dout = h.members(h.out(call.inputs[0])),
                                out = h.members(h.out(call.inputs[3])),
                                q = h.members(h.q(call.inputs[1])),
                                lse = h.members(tensor(call.inputs[2], {h.batch, h.heads, h.seq}));
  const at::Tensor k = h.k(call.inputs[1]), v = h.v(call.inputs[1]);
  std::vector<at::Tensor> dq = h.members(h.q(call.outputs[0]));
  at::Tensor dk = h.k(call.outputs[0]), dv = h.v(call.outputs[0]);
  return [=]() mutable {
    const c10::InferenceMode inference;
    const at::Tensor wide_v = h.padded(v);
    for (std::size_t i = 0; i < q.size(); ++i) {
      auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          h.padded(dout[i]), q[i], k, wide_v, h.padded(out[i]), lse[i], 0.0, causal, {}, h.scale());
      dq[i].copy_(gq);
      if (i == 0) {
        dk.copy_(gk);
        dv.copy_(h.narrow(gv));
      } else {
        dk.add_(gk);
        dv.add_(h.narrow(gv));
      }
    }
  };
}

}  // namespace tandem::exec
