// Ring attention over cp (models.md 4.7; arXiv 2310.01889): attention to the keys and values of one
// member's positions, put together with that to all blocks before it. Flag `slices` (models.md 8a;
// arXiv 2406.03488): to those of an earlier slice of the same sequences. Of a block o, l (output
// and log-sum-exp of each row) are what flash attention returns; merging keeps both exact:
//   lse' = log(exp lse + exp l);  out' = out exp(lse - lse') + o exp(l - lse')
// Backward, flash recomputes the probabilities of the block from the log-sum-exp of the *whole*
// row, so dq, dk and dv of the blocks are plain sums.
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>

#include <cmath>
#include <cstring>

#include "exec/kernels/attention_heads.h"
#include "exec/kernels/loops.h"

namespace tandem::exec {
namespace {

// Which queries of this member attend to which keys of the block.
struct Window {
  std::int64_t first_query = 0, queries, keys;
  bool causal = false;
  Window(const KernelCall& call, const AttentionHeads& h) : queries(h.seq), keys(h.seq) {
    const std::int64_t step = call.kernel.dims[kRingStep];
    if (step == 0)
      causal = true;
    else if (call.kernel.flags & kSlices)
      return;                                     // all of both
    else if (call.context->at(Axis::cp) >= step)  // a lower member's
      keys = h.seq / 2;
    else
      first_query = queries = h.seq / 2;
  }
  [[nodiscard]] at::Tensor of_queries(const at::Tensor& x) const {
    const c10::InferenceMode guard;
    return x.slice(2, first_query, first_query + queries);
  }
  [[nodiscard]] at::Tensor of_keys(const at::Tensor& x) const {
    const c10::InferenceMode guard;
    return x.slice(2, 0, keys);
  }
};

// Keys and values of the block: an input that holds them alone, or q too.
struct Block {
  at::Tensor k, v;
  Block(const KernelCall& call, std::size_t input, const AttentionHeads& h) {
    const bool fused = (call.kernel.flags & kFused) != 0;
    k = fused ? h.k(call.inputs[input]) : h.block_k(call.inputs[input]);
    v = fused ? h.v(call.inputs[input]) : h.block_v(call.inputs[input]);
  }
};

// out, o [b, heads, S, width]; lse, l [b, heads, S].
template <class T>
void merge(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& o, const at::Tensor& l) {
  auto to = out.accessor<T, 4>();
  auto sums = lse.accessor<T, 3>();
  const auto from = o.accessor<T, 4>();
  const auto more = l.accessor<T, 3>();
  const std::int64_t width = out.size(3);
  for (std::int64_t b = 0; b < out.size(0); ++b)
    for (std::int64_t h = 0; h < out.size(1); ++h)
      for (std::int64_t s = 0; s < out.size(2); ++s) {
        T& so_far = sums[b][h][s];
        const T top = std::max(so_far, more[b][h][s]);
        const T old = std::exp(so_far - top), fresh = std::exp(more[b][h][s] - top);
        const T sum = old + fresh, keep = old / sum, add = fresh / sum;
        so_far = top + std::log(sum);
        T* x = to[b][h][s].data();
        const T* y = from[b][h][s].data();
        for (std::int64_t c = 0; c < width; ++c) x[c] = x[c] * keep + y[c] * add;
      }
}

// An output in place of an input may also be a buffer of its own.
void bring(const View& from, const View& to) {
  if (from.data != to.data)
    std::memcpy(to.data, from.data,
                static_cast<std::size_t>(to.shape.elements() * size_of(to.dtype)));
}

void put(at::Tensor& to, const at::Tensor& from, bool adds) {
  if (adds)
    to.add_(from);
  else
    to.copy_(from);
}

// The columns of k and v in a row of qkv.
template <class T>
struct Columns {
  std::int64_t tokens, row, first, width;
  explicit Columns(const AttentionHeads& h)
      : tokens(h.batch * h.seq), row(h.row()), first(h.heads * h.width), width(h.block_row()) {}
  void copy_out(const T* qkv, T* block) const {
    for (std::int64_t n = 0; n < tokens; ++n)
      std::memcpy(block + n * width, qkv + n * row + first, bytes());
  }
  void copy_in(const T* block, T* qkv) const {
    for (std::int64_t n = 0; n < tokens; ++n)
      std::memcpy(qkv + n * row + first, block + n * width, bytes());
  }
  [[nodiscard]] std::size_t bytes() const { return static_cast<std::size_t>(width) * sizeof(T); }
};

}  // namespace

Prepared bind_kv_pack(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Columns<T> columns{AttentionHeads(call.kernel)};
    const T* qkv = call.inputs[0].as<T>();
    T* block = call.outputs[0].as<T>();
    return [=] { columns.copy_out(qkv, block); };
  });
}

Prepared bind_kv_unpack(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Columns<T> columns{AttentionHeads(call.kernel)};
    const T* block = call.inputs[0].as<T>();
    const View before = call.inputs[1], after = call.outputs[0];
    return [=] {
      bring(before, after);
      columns.copy_in(block, after.as<T>());
    };
  });
}

Prepared bind_attention_block_fwd(const KernelCall& call) {
  const c10::InferenceMode guard;
  const AttentionHeads h(call.kernel);
  const Window window(call, h);
  const Block block(call, 1, h);
  const at::Tensor k = window.of_keys(block.k), v = window.of_keys(block.v);
  const std::vector<at::Tensor> q = h.members(window.of_queries(h.q(call.inputs[0])));
  const std::vector<at::Tensor> out = h.members(window.of_queries(h.out(call.outputs[0]))),
                                lse = h.members(window.of_queries(
                                    tensor(call.outputs[1], {h.batch, h.heads, h.seq})));
  const View out_before = call.inputs[2], lse_before = call.inputs[3];
  const View out_after = call.outputs[0], lse_after = call.outputs[1];
  const bool fp64 = call.types.compute == DType::f64;
  return [=] {
    const c10::InferenceMode inference;
    bring(out_before, out_after);
    bring(lse_before, lse_after);
    const at::Tensor wide_v = h.padded(v);
    for (std::size_t i = 0; i < q.size(); ++i) {
      const auto [o, l] = at::_scaled_dot_product_flash_attention_for_cpu(q[i], k, wide_v, 0.0,
                                                                          false, {}, h.scale());
      if (fp64)
        merge<double>(out[i], lse[i], h.narrow(o), l);
      else
        merge<float>(out[i], lse[i], h.narrow(o), l);
    }
  };
}

Prepared bind_attention_block_bwd_input(const KernelCall& call) {
  const c10::InferenceMode guard;
  const AttentionHeads h(call.kernel);
  const Window window(call, h);
  const auto queries = [&](const at::Tensor& x) { return h.members(window.of_queries(x)); };
  const std::vector<at::Tensor> dout = queries(h.out(call.inputs[0])),
                                q = queries(h.q(call.inputs[1])),
                                lse = queries(tensor(call.inputs[3], {h.batch, h.heads, h.seq})),
                                out = queries(h.out(call.inputs[4]));
  const Block block(call, 2, h);
  const at::Tensor k = window.of_keys(block.k), v = window.of_keys(block.v);
  at::Tensor all_dq = h.q(call.outputs[0]);
  at::Tensor rest = tensor(call.outputs[0], {h.seq, h.batch, h.row()}).slice(2, h.heads * h.width);
  at::Tensor all_dkv = tensor(call.outputs[1], {h.seq, h.batch, h.block_row()});
  std::vector<at::Tensor> dq = queries(all_dq);
  at::Tensor dk = window.of_keys(h.block_k(call.outputs[1])),
             dv = window.of_keys(h.block_v(call.outputs[1]));
  // What the block does not reach has gradient 0.
  const bool add_dq = call.accumulate[0], clear_dq = !add_dq && window.queries < h.seq;
  const bool add_dkv = call.accumulate[1], clear_dkv = !add_dkv && window.keys < h.seq;
  return [=]() mutable {
    const c10::InferenceMode inference;
    if (!add_dq) rest.zero_();  // kv_unpack writes it
    if (clear_dq) all_dq.zero_();
    if (clear_dkv) all_dkv.zero_();
    const at::Tensor wide_v = h.padded(v);
    for (std::size_t i = 0; i < q.size(); ++i) {
      const auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          h.padded(dout[i]), q[i], k, wide_v, h.padded(out[i]), lse[i], 0.0, window.causal, {},
          h.scale());
      put(dq[i], gq, add_dq);
      put(dk, gk, add_dkv || i > 0);
      put(dv, h.narrow(gv), add_dkv || i > 0);
    }
  };
}

}  // namespace tandem::exec
