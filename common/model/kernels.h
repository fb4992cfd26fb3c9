// The kernel catalogue: where the two backends meet. Every computation of a plan is one of these
// entries with dimensions; here stand its operands (shape, type, order), its FLOPs and its bytes.
// The plan builder makes buffers from it, sim/compute charges it, exec/kernels runs it.
//
// Symbols (models.md 1): n tokens of a microbatch; a token's row is position * batch + sequence;
// activations are [seq, batch, width] row-major; weights [out, in], y = x W^T + bias; 1 FLOP is
// one multiply or one add; a GEMM over n rows costs 2 n in out; I and W cost as much as F each.
// Source of FLOPs and bytes: models.md 2.7. All functions are pure and thread-safe.
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
  embed_fwd,          // {tokens,rows,width} batch i64[b,S+1], weight[rows,width] -> x[tokens,width]
                      //   reads columns 0..S-1; rows start at coordinate(tp)*rows; others give 0
  pos_add_fwd,        // {seq,batch,width} x, pos[seq.., width] -> y = x + pos[position]
  layernorm_fwd,      // {tokens,width} x, weight, bias -> y, stat[2,tokens] (mean, rstd)
  rmsnorm_fwd,        // {tokens,width} x, weight -> y = x rstd weight, stat[tokens] (rstd)
  linear_fwd,         // {tokens,in,out} x, W[out,in] [, bias[out]] -> y
  rope_fwd,           // {batch,heads,seq,head_dim,kv_heads} qkv -> qkv (in place): q and k rotated
                      //   by position * base^(-2i/dh), pairs (i, i+dh/2); v as it is
  attention_fwd,      // {batch,heads,seq,head_dim,kv_heads} qkv[S,b,(heads+2 kv_heads)*dh]
                      //   -> out[S,b,heads*dh], lse[b,heads,S] (flash) or probs[b,heads,S,S]
                      //   (materialised); head h uses key/value head h div (heads/kv_heads)
  bias_residual_fwd,  // {tokens,width} x, bias, residual -> y = x + bias + residual
  residual_fwd,       // {tokens,width} x, residual -> y = x + residual
  gelu_fwd,           // {elements} x -> y
  swiglu_fwd,         // {tokens,width} gate_up[tokens,2*width] -> y[tokens,width] = silu(gate) up
  ce_max,             // {tokens,classes,valid} logits -> max[tokens] (columns >= valid: -inf)
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
  attention_bwd_input,  // {batch,heads,seq,head_dim,kv_heads} dout, qkv, lse|probs, out -> dqkv
  rope_bwd_input,       // {batch,heads,seq,head_dim,kv_heads} dqkv -> dqkv (in place): dq and dk
                        //   rotated back
  linear_bwd_weight,    // {tokens,in,out} dy, x -> dW (acc) [, db (acc)]; scratch[out,in] if acc
  bias_residual_bwd_weight,  // {tokens,width} dy -> dbias (acc)
  embed_bwd_weight,          // {tokens,rows,width} dy, batch -> dweight (acc): scatter-add
  pos_add_bwd_weight,        // {seq,batch,width} dy -> dpos (acc); scratch[seq,width] if acc
  grad_add,                  // {elements} a, b -> a (in place) = a + b (tied embedding on one rank)
  sum_squares,               // {} grads... -> f64[1] (acc): 0 where the rank is not the owner
  clip_coef,     // {} norm_sq -> coef f32|f64[1]: min(1, max_norm/(sqrt+1e-6)); no max_norm: 1
  adamw,         // {elements} param, grad, m, v, coef -> param, m, v (in place) [, cast: the
                 //   parameter in the compute type, where `param` is its main copy]
  metrics_pack,  // {values} norm_sq or loss -> metrics f64[values] (acc): adds to its slots, the
                 //   others are 0 where it writes. Slots: MetricSlot
};
inline constexpr int kNumKernelKinds = static_cast<int>(KernelKind::metrics_pack) + 1;

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
  kBias = 1u << 0,          // "bias": linear_fwd adds it, linear_bwd_weight makes its gradient
  kCausal = 1u << 1,        // "causal"
  kFlash = 1u << 2,         // "flash"
  kMaterialised = 1u << 3,  // "materialised"
  kErf = 1u << 4,           // "erf"
  kTanh = 1u << 5,          // "tanh"
  kTpCut = 1u << 6,         // "class=tp_cut"  (sum_squares)
  kWhole = 1u << 7,         // "class=whole"
  kDecay2d = 1u << 8,       // "decay=2d": tensors of two dimensions inside the bucket decay
  kDecayAll = 1u << 9,      // "decay=all"
  kDecayNone = 1u << 10,    // "decay=none"
  kHasNorm = 1u << 11,      // "has=norm": metrics_pack takes norm_sq
  kHasLoss = 1u << 12,      // "has=ce": metrics_pack takes the loss and counts tokens
  kCast = 1u << 13,         // "cast": adamw also writes the parameter in the compute type
  kPositions = 1u << 14,    // "positions": its rows are the slice of positions that the rank's
                            // coordinates on `coords` (tp, cp) choose (models.md 4.2, 4.7)
};

inline constexpr std::size_t kNumDims = 5;
// The last dimension may be left out: key/value heads, where they differ from the heads. It is not
// printed where they are as many.
inline constexpr std::size_t kKvHeads = kNumDims - 1;
using KernelDims = std::array<std::int64_t, kNumDims>;

// One entry of a plan's kernel table.
struct Kernel {
  KernelKind kind = KernelKind::embed_fwd;
  KernelDims dims{};  // in the order of the catalogue's dimension names
  std::uint32_t flags = 0;
  AxisSet coords;              // mesh axes whose coordinate its code reads
  AxisSet owner;               // axes that must be 0 for its values to count
  std::optional<double> real;  // norms: eps; rope: base; clip_coef: max_norm
  bool operator==(const Kernel&) const = default;
};
// Key/value heads of attention and rope: as many as heads where the dimension is left out (0).
[[nodiscard]] constexpr std::int64_t kv_heads_of(const Kernel& k) {
  return k.dims[kKvHeads] > 0 ? k.dims[kKvHeads] : k.dims[1];
}

struct CatalogueEntry {
  KernelKind kind;
  std::string_view name;  // as printed: linear_fwd
  CostClass cost_class;
  std::array<std::string_view, kNumDims> dims;  // empty: unused
  std::uint32_t flags;                          // those it may carry
  std::string_view real;                        // name of `real`: "eps", "base"; empty: none
};
[[nodiscard]] const CatalogueEntry& catalogue(KernelKind kind);
[[nodiscard]] std::optional<KernelKind> kernel_from(std::string_view name);

// linear_fwd tokens=64 in=64 out=96 bias. to_text and kernel_from_text are inverse.
[[nodiscard]] std::string to_text(const Kernel& k);
[[nodiscard]] std::optional<Kernel> kernel_from_text(std::span<const std::string_view> words);
// The word of one flag: "bias", "class=tp_cut".
[[nodiscard]] std::string_view flag_word(std::uint32_t one_flag);

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
