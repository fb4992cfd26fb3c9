// Widths are those of one rank: heads are local, S is what a member of cp holds. Sources: models.md
// 4.7 (blocks), 2.7 (FLOPs: Q2/c pairs a member, of which S(S+1)/2 in its own block and S^2/2 in
// each of the c - 1 others); 8a (slices: S^2 pairs in each earlier one, so that slices 0..k-1 have
// the pairs of the whole sequence).
#include "common/model/kernels_ring.h"

#include <algorithm>

namespace tandem {
namespace {

using K = KernelKind;

// {batch, heads, seq, head_dim, kv_heads, v_dim, step}
struct Block {
  std::int64_t batch, heads, seq, dh, kv, dv, step;
  bool slices, fused;
  explicit Block(const Kernel& k)
      : batch(k.dims[0]),
        heads(k.dims[1]),
        seq(k.dims[2]),
        dh(k.dims[3]),
        kv(kv_heads_of(k)),
        dv(v_dim_of(k)),
        step(k.dims[kRingStep]),
        slices((k.flags & kSlices) != 0),
        fused((k.flags & kFused) != 0) {}
  // Of a token: k and v of the block; beside them q.
  [[nodiscard]] std::int64_t kv_width() const { return kv * (dh + dv); }
  [[nodiscard]] std::int64_t width() const { return heads * dh + kv_width(); }
  [[nodiscard]] std::int64_t tokens() const { return batch * seq; }
  [[nodiscard]] double pairs() const {
    const auto s = static_cast<double>(seq);
    return step == 0 ? s * (s + 1) / 2 : slices ? s * s : s * s / 2;
  }
};

bool is_block(K kind) {
  return kind == K::attention_block_fwd || kind == K::attention_block_bwd_input;
}

}  // namespace

std::string_view broken_ring_rule(const Kernel& k) {
  if (!is_block(k.kind)) return {};
  const bool halves = k.dims[kRingStep] > 0 && (k.flags & kSlices) == 0;
  if (halves && k.dims[2] % 2 != 0) return "seq is two chunks of equal length";
  if (k.kind == K::attention_block_fwd && k.dims[kRingStep] < 1) return "step is at least 1";
  return {};
}

Signature ring_signature(const Kernel& k, PlanTypes t) {
  const Block x(k);
  const DType w = t.compute, s = t.statistic(), m = t.main;
  const Shape block{x.seq, x.batch, x.kv_width()}, parts{x.seq, x.batch, x.width()},
      rows{x.batch, x.heads, x.seq}, out{x.seq, x.batch, x.heads * x.dv};
  const Shape given = x.fused ? parts : block;
  Signature sig;
  switch (k.kind) {
    case K::kv_pack:
      sig.inputs = {{"qkv", parts, w}};
      sig.outputs = {{"kv", block, w}};
      break;
    case K::attention_block_fwd:
      sig.inputs = {{"qkv", parts, w}, {"kv", given, w}, {"out", out, w}, {"lse", rows, s}};
      sig.outputs = {{"out", out, w, false, 2}, {"lse", rows, s, false, 3}};
      break;
    case K::attention_block_bwd_input:
      sig.inputs = {
          {"dout", out, w}, {"qkv", parts, w}, {"kv", given, w}, {"lse", rows, s}, {"out", out, w}};
      sig.outputs = {{"dqkv", parts, w, true}, {"dkv", block, m, true}};
      break;
    case K::kv_unpack:
      sig.inputs = {{"dkv", block, m}, {"dqkv", parts, w}};
      sig.outputs = {{"dqkv", parts, w, false, 1}};
      break;
    default:
      break;
  }
  return sig;
}

// As attention_fwd and attention_bwd_input: flash executes v as wide as q, and in I the scores
// again. Another member's block: three quarters of the rows of each operand, the mean of the two
// shapes (all queries and half of the keys, or half and all); an earlier slice: all rows.
KernelCost ring_cost(const Kernel& k, PlanTypes t) {
  const Block x(k);
  const double w = size_of(t.compute), s = size_of(t.statistic()), m = size_of(t.main);
  const auto n = static_cast<double>(x.tokens()), heads = static_cast<double>(x.heads),
             dh = static_cast<double>(x.dh), dv = static_cast<double>(x.dv),
             kv = static_cast<double>(x.kv_width());
  const double product = 2 * static_cast<double>(x.batch) * heads * x.pairs() * dh;
  const double seen = n * (x.step > 0 && !x.slices ? 0.75 : 1);  // rows
  switch (k.kind) {
    case K::kv_pack:
      return {0, 2 * n * kv * w};
    case K::kv_unpack:
      return {0, n * kv * (m + w)};
    case K::attention_block_fwd:  // out and lse are read and written
      return {2 * product, seen * ((heads * (dh + 2 * dv) + kv) * w + 2 * heads * s)};
    default: {  // the own block writes 0 for k and v; one that has come has dq and dkv to add to
      const double add = x.step > 0 ? 1 : 0;
      return {5 * product, seen * (heads * (2 * dv + (2 + add) * dh) * w + kv * (2 - add) * w +
                                   kv * (1 + add) * m + heads * s)};
    }
  }
}

// LibTorch's results and its own working memory, on one thread: see hidden_scratch() in
// kernels.cpp. In elements of S rows, as wide as q, of as many heads at a time as there are
// key/value heads:
//   forward    out 1, v as wide as q 1/2; or 1/2 and 1; an earlier slice: 1 and 1
//   backward   own block: dq, dk, dv, a copy of dO: 4, and with padding v, dO, out: 7. Another's:
//   of
//              queries 1 and of keys 1/2, or the other way: at most 3, with padding 5 1/2. An
//              earlier slice: as the own block
Bytes ring_hidden_scratch(const Kernel& k, PlanTypes t) {
  if (!is_block(k.kind)) return 0;
  const Block x(k);
  const Bytes w = size_of(t.compute), s = size_of(t.statistic());
  const Bytes most_queries = x.seq >= 768 ? 256 : x.seq >= 192 ? 64 : 32;  // of one of its blocks
  const Bytes query_block = std::min(x.seq, most_queries), key_block = std::min<Bytes>(x.seq, 512);
  const Bytes half = x.tokens() * x.kv * x.dh * w / 2;
  const bool padded = x.dv != x.dh;
  if (k.kind == K::attention_block_fwd)
    return (padded ? (x.slices ? 4 : 3) : 2) * half + x.batch * x.kv * x.seq * s +
           query_block * (key_block + 2 + x.dh) * s;
  const bool whole = x.step == 0 || x.slices;
  const Bytes halves = whole ? (padded ? 14 : 8) : (padded ? 11 : 6);
  return halves * half + query_block * (2 * key_block + 1) * s;
}

}  // namespace tandem
