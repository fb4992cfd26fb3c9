// The kernel catalogue: where the two backends meet. Every computation of a plan is one of these
// entries with dimensions; here stand its operands (shape, type, order), its FLOPs and its bytes.
// The plan builder makes buffers from it, sim/compute charges it, exec/kernels runs it.
//
// Symbols (models.md 1): n tokens of a microbatch; a token's row is position * batch + sequence;
// activations are [seq, batch, width] row-major; weights [out, in], y = x W^T + bias; 1 FLOP is
// one multiply or one add; a GEMM over n rows costs 2 n in out; I and W cost as much as F each.
// Source of FLOPs and bytes: models.md 2.7. All functions are pure and thread-safe.
//
// Experts (models.md 2.5, 4.5): E experts, K = top_k, A = n K assignments; s is the statistic type.
//   choice   i64[n,K]: expert of each slot; -1 - expert where the assignment is dropped
//   counts   i32[sources,experts]: rows that each source sent for each local expert
//   order    of the rows of assignments: by (expert, token, slot), without the dropped ones; made
//            from `choice` by a counting sort wherever it is needed, so no permutation is stored
// How many rows travel is known when the step runs: an operand with `rows` is declared with the
// balanced number and has memory up to a bound of the plan. Code takes the number from `counts`
// (or `choice`), never from the operand's shape; cost() charges the balanced one.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/dtype.h"
#include "common/model/shape.h"

namespace tandem {

// Operands are written inputs -> outputs. "acc" marks outputs that may accumulate (+id); "in
// place" means an output may be the same buffer as the named input.
enum class KernelKind : std::uint8_t {
  embed_fwd,      // {tokens,rows,width} batch i64[b,S+1], weight[rows,width] -> x[tokens,width]
                  //   reads columns 0..S-1; rows start at coordinate(tp)*rows; others give 0
  pos_add_fwd,    // {seq,batch,width[,first]} x, pos[seq.., width] -> y = x + pos[position];
                  //   the table has first + seq rows, or more
  layernorm_fwd,  // {tokens,width} x, weight, bias -> y, stat[2,tokens] (mean, rstd)
  rmsnorm_fwd,    // {tokens,width} x, weight -> y = x rstd weight, stat[tokens] (rstd)
  linear_fwd,     // {tokens,in,out} x, W[out,in] [, bias[out]] -> y
  rope_fwd,       // {batch,heads,seq,head_dim,kv_heads,first} qkv -> qkv (in place): q, k rotated
                  //   by position * base^(-2i/dh), pairs (i, i+dh/2); v as it is
  attention_fwd,  // {batch,heads,seq,head_dim,kv_heads,v_dim} qkv[S,b,(heads+kv_heads)*dh+
                  //   kv_heads*dv] -> out[S,b,heads*dv], lse[b,heads,S] (flash) or
                  //   probs[b,heads,S,S] (materialised); dv = v_dim, left out: dh; head h uses
                  //   key/value head h div (heads/kv_heads)
  bias_residual_fwd,  // {tokens,width} x, bias, residual -> y = x + bias + residual
  residual_fwd,       // {tokens,width} x, residual -> y = x + residual
  own_rows_fwd,  // {tokens,width,parts} x[parts*tokens,width] -> y[tokens,width]: of equal parts
                 //   of the rows the one of the coordinate on `coords` (models.md 4.5)
  gelu_fwd,      // {elements} x -> y
  swiglu_fwd,    // {tokens,width} gate_up[tokens,2*width] -> y[tokens,width] = silu(gate) up
  ce_max,        // {tokens,classes,valid} logits -> max[tokens] (columns >= valid: -inf)
  ce_sum,   // {tokens,classes} logits, max, batch -> sums[2,tokens]: sum exp(l-max); target logit
  ce_grad,  // {tokens,classes,divisor} logits, max, sums, batch -> logits (in place: dlogits =
            //   (softmax - onehot)/divisor), loss f64[1] (acc): sum(log(sum)+max-target)/divisor
  linear_bwd_input,     // {tokens,in,out} dy, W -> dx[tokens,in]
  gelu_bwd_input,       // {elements} dy, x -> dx
  swiglu_bwd_input,     // {tokens,width} dy, gate_up[tokens,2*width] -> dgate_up
  layernorm_bwd_input,  // {tokens,width} dy, x, stat, weight -> dx (in place dy), dweight (acc),
                        //   dbias (acc)
  rmsnorm_bwd_input,    // {tokens,width} dy, x, stat, weight -> dx (in place dy), dweight (acc)
  residual_bwd_input,   // {tokens,width} dx, dres -> dx (in place) = dx + dres
  attention_bwd_input,  // {batch,heads,seq,head_dim,kv_heads,v_dim} dout, qkv, lse|probs, out ->
                        //   dqkv
  rope_bwd_input,       // {batch,heads,seq,head_dim,kv_heads,first} dqkv -> dqkv (in place): dq, dk
                        //   rotated back

  // Latent attention (models.md 2.3). Q = q_rank + kv_rank + rope_dim; q_rank 0: no latent of q, so
  // none of its operands; rope_dim 0: no kr. dn nope_dim, dr rope_dim, dv v_dim.
  latent_norm_fwd,         // {tokens,q_rank,kv_rank,rope_dim} z[n,Q], wq[q_rank], wkv[kv_rank] ->
                           //   latents[n,Q] (rms norm of the q part, of the kv part, rope as it
                           //   is), zn[n,q_rank+kv_rank] (what the norms read), stat[2,n] (rstd of
                           //   q, of kv; q_rank 0: stat[n])
  latent_split_fwd,        // {tokens,q_rank,kv_rank,rope_dim} latents -> ql, kl, kr: its parts
  mla_qkv_fwd,             // {batch,heads,seq,nope_dim,rope_dim,v_dim[,first]} q[n,heads*(dn+dr)],
                           //   kv[n,heads*(dn+dv)], kr[n,dr] -> qkv[S,b,heads*(2(dn+dr)+dv)]: all
                           //   q, all k, all v; in a head nope before rope; rope on q and on kr,
                           //   which all heads share, as rope_fwd
  latent_norm_bwd_input,   // {tokens,q_rank,kv_rank,rope_dim} dlatents, zn, stat, wq, wkv -> dz (in
                           //   place dlatents), dwq (acc), dwkv (acc)
  latent_merge_bwd_input,  // {tokens,q_rank,kv_rank,rope_dim} dql, dkl, dkr -> dlatents
  mla_qkv_bwd_input,       // {batch,heads,seq,nope_dim,rope_dim,v_dim[,first]} dqkv -> dq, dkv, dkr
                           //   (sum over heads); rotated back

  // Ring attention over cp (models.md 4.7). Member r of c holds chunks r and 2c-1-r of the 2c that
  // a sequence is cut in; S is what it holds. A block is the k and v of one member's positions,
  // kv[S,b, kv_heads*(dh+dv)]: all k, then all v; dkv is its gradient, in the main type. Dimensions
  // are those of attention_fwd, and `step` s: the block of member (r - s) mod c. Nothing is masked.
  // A lower member's (r >= s): both chunks of q attend to its first chunk; a higher one's: the
  // second chunk of q attends to both of it. So shapes differ between members, FLOPs do not.
  // Flag `slices`: no ring, but slices of the sequence one after the other on one rank (models.md
  // 8a, arXiv 2406.03488); a block is an earlier slice, `step` any number above 0, and all queries
  // attend to all of it. Flag `fused`: the operand kv is the qkv of the block's positions.
  kv_pack,                    // {batch,heads,seq,head_dim,kv_heads,v_dim} qkv -> kv
  attention_block_fwd,        // {..,step} qkv, kv, out, lse -> out (in place), lse (in place): both
                              //   as if the queries had also seen this block
  attention_block_bwd_input,  // {..,step} dout, qkv, kv, lse, out of the whole ring -> dqkv (acc):
                              //   its q part, and 0 for k and v; dkv (acc). step left out: the
                              //   own block, causal
  kv_unpack,                  // {batch,heads,seq,head_dim,kv_heads,v_dim} dkv, dqkv -> dqkv (in
                              //   place): its k and v parts, from the block that came home

  linear_bwd_weight,  // {tokens,in,out} dy, x -> dW (acc) [, db (acc)]; scratch[out,in] if acc
  bias_residual_bwd_weight,  // {tokens,width} dy -> dbias (acc)
  embed_bwd_weight,          // {tokens,rows,width} dy, batch -> dweight (acc): scatter-add
  pos_add_bwd_weight,  // {seq,batch,width[,first]} dy -> dpos (acc); scratch[seq,width] if acc
  grad_add,            // {elements} a, b -> a (in place) = a + b (tied embedding on one rank)
  grad_scale,          // {elements} real factor: a -> a (in place) = factor a
  snapshot,            // {elements} a -> b = a: of the main type; flag `values`: f64
  sum_squares,         // {} grads... -> f64[1] (acc): 0 where the rank is not the owner
  clip_coef,     // {} norm_sq -> coef f32|f64[1]: min(1, max_norm/(sqrt+1e-6)); no max_norm: 1
  adamw,         // {elements} param, grad, m, v, coef -> param, m, v (in place) [, cast: the
                 //   parameter in the compute type, where `param` is its main copy]
  metrics_pack,  // {values} [norm_sq][, loss][, balance][, dropped] -> metrics f64[values] (acc):
                 //   adds to its slots, the others are 0 where it writes. Slots: MetricSlot

  // Mixture of experts; operands in kernels_moe.cpp.
  router_fwd,         // {tokens,in,experts} x, weight[E,in] -> logits s[n,E]
  router_bwd_input,   // {tokens,in,experts} dlogits, weight, dx -> dx (in place) = dx + dlogits W
  router_bwd_weight,  // {tokens,in,experts} dlogits, x -> dweight (acc); scratch[E,in] if acc
  route_fwd,  // {batch,seq,experts,top_k,groups,groups_kept[,capacity][,slices]} logits [, bias
              //   s[E]: sigmoid] -> scores (in place), choice, counts i32[E] (kept rows: what is
              //   sent), aux s[2,scopes,E] (acc; choices before any drop, sums of prob), choices
              //   i32[E] (acc; before any drop), dropped f64[1] (acc). scopes = batch, or 1 for
              //   scope=microbatch. Only experts of the groups_kept best groups are chosen.
              //   capacity: rows that an expert takes of each of `slices` equal parts of the
              //   positions (left out: of all); lowest weight (before the scale) is dropped
              //   first, ties: later token first
  router_scores_fwd,  // {tokens,experts} logits -> scores (in place): route_fwd's, without a choice
  balance_fwd,        // {scopes,experts,tokens,top_k,groups,divisor} real alpha: aux -> loss f64[1]
                      //   (acc) = alpha/divisor sum over scopes and groups of f' P'; `tokens` of a
                      //   scope on all ranks. 0 where the rank is not the owner
  balance_bwd_input,  // {scopes,experts,tokens,top_k,groups,divisor,rows} real alpha: aux,
                      //   scores s[rows,E], dscores -> dscores (in place) += d loss / d scores
  route_bwd_input,    // {tokens,experts} dscores, scores -> dlogits (in place)
  dispatch_fwd,       // {tokens,width,experts,top_k} x, choice -> rows[A,width] in the order above
  dispatch_bwd_input,  // {tokens,width,experts,top_k} drows, choice -> dx[n,width], slots in order
  combine_fwd,        // {tokens,width,experts,top_k} real scale: rows, scores, choice -> y[n,width]
                      //   = sum over slots of weight row; weights from all K scores, dropped add 0
  combine_bwd_input,  // {tokens,width,experts,top_k} real scale: dy, rows, scores, choice -> drows,
                      //   dscores s[n,E] (written whole, through the weights' normalisation)
  expert_sort,    // {rows,width,sources,experts} rows by (source, expert), counts -> the same by
                  //   (expert, source)
  expert_unsort,  // {rows,width,sources,experts} the inverse
  experts_linear_fwd,  // {rows,in,out,experts,sources} x by expert, weight[experts,out,in], counts
                       //   -> y
  experts_linear_bwd_input,   // {rows,in,out,experts,sources} dy, weight, counts -> dx
  experts_linear_bwd_weight,  // {rows,in,out,experts,sources} dy, x, counts -> dweight (acc);
                              //   scratch[out,in] if acc; 0 is written for an expert without rows
  experts_swiglu_fwd,         // {rows,width,experts,sources} gate_up[rows,2*width], counts -> y
  experts_swiglu_bwd_input,   // {rows,width,experts,sources} dy, gate_up, counts -> dgate_up
  // What style nano_train sends beside the rows; A = tokens * top_k (models.md 7.1).
  label_rows_fwd,  // {tokens,experts,top_k,members} real scale: choice, scores -> token, slot,
                   // expert
                   //   i64[A] and weight[A] of each row in the order above (expert: local number),
                   //   counts i64[members] (rows for each), tokens i32[1], dropped i32[2] (dropped
                   //   assignments; all)
  narrow_counts,   // {members} counts i64[members] -> i32[members]
  count_rows,      // {rows,members,experts} expert i64[rows], counts i64[members] ->
                   //   i32[members,experts]: rows of each local expert by source
  router_bias_update,  // {experts} real rate: choices i32[E] of the whole batch, bias s[E] -> bias
                       //   (in place) += rate * sign(mean(choices) - choices), decided on integers
};
inline constexpr KernelKind kFirstMoeKernel = KernelKind::router_fwd;
inline constexpr int kNumKernelKinds = static_cast<int>(KernelKind::router_bias_update) + 1;
// Entries of latent attention; their operands are in kernels_mla.cpp.
[[nodiscard]] constexpr bool is_mla(KernelKind kind) {
  return kind >= KernelKind::latent_norm_fwd && kind <= KernelKind::mla_qkv_bwd_input;
}
// Entries of ring attention; their operands are in kernels_ring.cpp.
[[nodiscard]] constexpr bool is_ring(KernelKind kind) {
  return kind >= KernelKind::kv_pack && kind <= KernelKind::kv_unpack;
}

// Slots of the `metrics` value that every step ends with (all-reduce sum over world). Each is
// counted by its owner, so the sum is the value of the whole run (models.md 4.9).
enum MetricSlot : int {
  kMetricLoss = 0,  // cross-entropy, already divided by the tokens of the global batch
  kMetricBalance = 1,
  kMetricTokens = 2,  // tokens that entered the loss
  kMetricDropped = 3,
  kMetricNonFinite = 4,
  kMetricNormSquared = 5,  // squared gradient norm before clipping
};

// What the time of a kernel is limited by; efficiency tables and waterfalls group by it.
enum class CostClass : std::uint8_t {
  matmul,
  attention,
  norm,
  elementwise,
  embedding,
  loss,
  optimizer,
  reduction
};
inline constexpr int kNumCostClasses = 8;
[[nodiscard]] std::string_view name_of(CostClass c);

// Flags of a kernel, printed as words after its dimensions.
enum KernelFlag : std::uint32_t {
  kBias = 1u << 0,              // "bias": linear_fwd adds it, linear_bwd_weight makes its gradient
  kCausal = 1u << 1,            // "causal"
  kFlash = 1u << 2,             // "flash"
  kMaterialised = 1u << 3,      // "materialised"
  kErf = 1u << 4,               // "erf"
  kTanh = 1u << 5,              // "tanh"
  kTpCut = 1u << 6,             // "class=tp_cut"  (sum_squares)
  kWhole = 1u << 7,             // "class=whole"
  kDecay2d = 1u << 8,           // "decay=2d": tensors of two dimensions inside the bucket decay
  kDecayAll = 1u << 9,          // "decay=all"
  kDecayNone = 1u << 10,        // "decay=none"
  kHasNorm = 1u << 11,          // "has=norm": metrics_pack takes norm_sq
  kHasLoss = 1u << 12,          // "has=ce": metrics_pack takes the loss and counts tokens
  kCast = 1u << 13,             // "cast": adamw also writes the parameter in the compute type
  kSoftmax = 1u << 14,          // "softmax": scores of the router; with kSigmoid exactly one
  kSigmoid = 1u << 15,          // "sigmoid"
  kScopeSequence = 1u << 16,    // "scope=sequence": balance statistics of each sequence
  kScopeMicrobatch = 1u << 17,  // "scope=microbatch"
  kHasBalance = 1u << 18,       // "has=balance": metrics_pack takes the balance loss
  kHasDropped = 1u << 19,       // "has=dropped": metrics_pack takes the dropped assignments
  kPositions = 1u << 20,        // "positions": its rows are the slice of positions that the rank's
                                // coordinates on `coords` (tp, cp) choose (models.md 4.2, 4.7)
  kVocab = 1u << 21,            // "vocab": beside positions: tp cuts the vocabulary, cp positions
  kGroupMax = 1u << 22,         // "group=max": a group of experts counts by its best one
  kLabels = 1u << 23,           // "labels": `batch` is i64[b,S], the labels alone
  kSlices = 1u << 24,           // "slices": the block is a slice of the same sequences
  kFused = 1u << 25,            // "fused": a block's kv is the qkv of its positions
  kValues = 1u << 26,           // "values": what a snapshot takes is f64, values of the step
};

inline constexpr std::size_t kNumDims = 8;
// Key/value heads of attention and rope. Left out where they are as many as heads.
inline constexpr std::size_t kKvHeads = 4;
// Width of v in attention. Left out where it is head_dim, the width of q and k.
inline constexpr std::size_t kVDim = 5;
// Steps that a block of ring attention has come. Left out where it is the member's own.
inline constexpr std::size_t kRingStep = 6;
using KernelDims = std::array<std::int64_t, kNumDims>;

// One entry of a plan's kernel table.
struct Kernel {
  KernelKind kind = KernelKind::embed_fwd;
  KernelDims dims{};  // in the order of the catalogue's dimension names
  std::uint32_t flags = 0;
  AxisSet coords;  // mesh axes whose coordinate its code reads
  AxisSet owner;   // axes that must be 0 for its values to count
  // norms: eps; rope, mla_qkv: base; clip_coef: max_norm; balance: alpha; combine, label_rows:
  // scale; grad_scale: factor; bias update: rate
  std::optional<double> real;
  bool operator==(const Kernel&) const = default;
};
// Key/value heads of attention and rope: as many as heads where the dimension is left out (0).
[[nodiscard]] constexpr std::int64_t kv_heads_of(const Kernel& k) {
  return k.dims[kKvHeads] > 0 ? k.dims[kKvHeads] : k.dims[1];
}

// Dimension `first` of kernels that turn by a position or add one: the position of the first row,
// where the rows are a slice of the sequence. Left out: 0. kNumDims where the kind has none.
[[nodiscard]] constexpr std::size_t first_dim_of(KernelKind kind) {
  switch (kind) {
    case KernelKind::pos_add_fwd:
    case KernelKind::pos_add_bwd_weight:
      return 3;
    case KernelKind::rope_fwd:
    case KernelKind::rope_bwd_input:
      return 5;
    case KernelKind::mla_qkv_fwd:
    case KernelKind::mla_qkv_bwd_input:
      return 6;
    default:
      return kNumDims;
  }
}
[[nodiscard]] constexpr std::int64_t first_position_of(const Kernel& k) {
  const std::size_t dim = first_dim_of(k.kind);
  return dim < kNumDims ? k.dims[dim] : 0;
}

// Width of v of one head of attention: as wide as q and k where it is left out (0).
[[nodiscard]] constexpr std::int64_t v_dim_of(const Kernel& k) {
  return k.dims[kVDim] > 0 ? k.dims[kVDim] : k.dims[3];
}

struct CatalogueEntry {
  KernelKind kind;
  std::string_view name;  // as printed: linear_fwd
  CostClass cost_class;
  std::array<std::string_view, kNumDims> dims;  // empty: unused
  std::uint32_t flags;                          // those it may carry
  std::string_view real;                        // name of `real`: "eps", "base"; empty: none
  std::size_t num_optional = 0;  // so many of the last dimensions may be left out: then they are 0
};
[[nodiscard]] const CatalogueEntry& catalogue(KernelKind kind);
// Whether dimension `dim` of the entry may be left out.
[[nodiscard]] bool is_optional(const CatalogueEntry& entry, std::size_t dim);
// The least value of a dimension: 0 where it may be left out, and of parts that a model may lack
// (q_rank, rope_dim); else 1.
[[nodiscard]] std::int64_t least_of(const CatalogueEntry& entry, std::size_t dim);
[[nodiscard]] std::optional<KernelKind> kernel_from(std::string_view name);

// linear_fwd tokens=64 in=64 out=96 bias. to_text and kernel_from_text are inverse.
[[nodiscard]] std::string to_text(const Kernel& k);
[[nodiscard]] std::optional<Kernel> kernel_from_text(std::span<const std::string_view> words);
// The word of one flag: "bias", "class=tp_cut".
[[nodiscard]] std::string_view flag_word(std::uint32_t one_flag);

// What must hold between the dimensions and flags of a kernel, beside positive dimensions: the rule
// that is broken ("heads is a multiple of kv_heads"), empty where all hold. signature() and cost()
// need it, and so does the code of both backends.
[[nodiscard]] std::string_view broken_rule(const Kernel& k);

struct Operand {
  std::string_view role;  // "x", "weight", "stat"
  Shape shape;            // elements and order; [S,b,W] and [n,W] are the same rows
  DType dtype = DType::f32;
  bool may_accumulate = false;
  int in_place_of = -1;  // index of the input it may share its buffer with, -1: none
};
struct Signature {
  std::vector<Operand> inputs, outputs;
  std::vector<Operand> scratch;  // taken only when an output accumulates
  bool more_inputs = false;      // sum_squares: any number of tensors of the main type
};
// Operands in the order of a call. `num_inputs` resolves metrics_pack.
[[nodiscard]] Signature signature(const Kernel& k, PlanTypes types);

// Work of one call. `accumulates` adds the read of what is there.
struct KernelCost {
  double flops = 0;  // executed FLOPs; vector kernels 0 (they are bound by bytes)
  double bytes = 0;  // read + written
};
[[nodiscard]] KernelCost cost(const Kernel& k, PlanTypes types, bool accumulates);

// Bytes that the LibTorch code of this kernel takes beside its operands while it runs (class
// scratch): an upper bound that exec/kernels' tests hold it to.
[[nodiscard]] Bytes hidden_scratch(const Kernel& k, PlanTypes types);

}  // namespace tandem
