// The heads of attention as views of the plan's buffers, for attention.cpp and ring.cpp: strides
// only, no copies. Rows of a buffer are [S, b, ...], views are [b, heads, S, width].
#pragma once

#include <ATen/ops/constant_pad_nd.h>

#include <cmath>
#include <vector>

#include "exec/kernels/aten.h"

namespace tandem::exec {

struct AttentionHeads {
  std::int64_t batch, heads, seq, width, kv, v_width;  // width: head_dim; kv: key/value heads
  explicit AttentionHeads(const Kernel& k)
      : batch(k.dims[0]),
        heads(k.dims[1]),
        seq(k.dims[2]),
        width(k.dims[3]),
        kv(kv_heads_of(k)),
        v_width(v_dim_of(k)) {}
  // How many heads share a key/value head.
  [[nodiscard]] std::int64_t shared() const { return heads / kv; }
  // `count` heads of `each` elements from element `first` of a row [S, b, row], as
  // [b, count, S, each]: strides only, no copy.
  [[nodiscard]] at::Tensor part(const View& view, std::int64_t row, std::int64_t first,
                                std::int64_t count, std::int64_t each) const {
    const c10::InferenceMode guard;
    return tensor(view, {seq, batch, row})
        .slice(2, first, first + count * each)
        .unflatten(2, {count, each})
        .permute({1, 2, 0, 3});
  }
  [[nodiscard]] std::int64_t row() const { return (heads + kv) * width + kv * v_width; }
  // q, k and v of a fused buffer, and the only part of an output.
  [[nodiscard]] at::Tensor q(const View& view) const { return part(view, row(), 0, heads, width); }
  [[nodiscard]] at::Tensor k(const View& view) const {
    return part(view, row(), heads * width, kv, width);
  }
  [[nodiscard]] at::Tensor v(const View& view) const {
    return part(view, row(), (heads + kv) * width, kv, v_width);
  }
  // k and v of a block of ring attention, kv[S, b, kv*(width + v_width)].
  [[nodiscard]] std::int64_t block_row() const { return kv * (width + v_width); }
  [[nodiscard]] at::Tensor block_k(const View& view) const {
    return part(view, block_row(), 0, kv, width);
  }
  [[nodiscard]] at::Tensor block_v(const View& view) const {
    return part(view, block_row(), kv * width, kv, v_width);
  }
  [[nodiscard]] at::Tensor out(const View& view) const {
    return part(view, heads * v_width, 0, heads, v_width);
  }
  // As wide as q: with zeros behind, where v is narrower, in memory of its own.
  [[nodiscard]] at::Tensor padded(const at::Tensor& x) const {
    return v_width == width ? x : at::constant_pad_nd(x, {0, width - v_width});
  }
  // The other way: what belongs to v.
  [[nodiscard]] at::Tensor narrow(const at::Tensor& x) const { return x.slice(3, 0, v_width); }
  // Of [b, heads, ...] the first head of each group that shares a key/value head, as [b, kv, ...];
  // then the second of each, and so on.
  [[nodiscard]] std::vector<at::Tensor> members(const at::Tensor& x) const {
    const c10::InferenceMode guard;
    std::vector<at::Tensor> out;
    for (std::int64_t i = 0; i < shared(); ++i) out.push_back(x.slice(1, i, heads, shared()));
    return out;
  }
  [[nodiscard]] double scale() const { return 1.0 / std::sqrt(static_cast<double>(width)); }
};

}  // namespace tandem::exec
