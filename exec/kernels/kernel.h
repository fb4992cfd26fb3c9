// LibTorch code of the kernel catalogue (common/model/kernels.h), one file per family.
//
// A call is prepared once, when a rank starts: operand addresses of a plan never change, so views
// and dispatch are made there and a step only runs closures. Kernels write into the plan's buffers;
// what LibTorch takes beside them is bounded by hidden_scratch(). No autograd graph anywhere.
//   first W of a step   writes its gradient
//   later W             mm into scratch, then add (addmm with beta = 1 sums differently)
// Rows of a matrix are tokens: row = position * batch + sequence.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include "common/base/result.h"
#include "common/model/kernels.h"

namespace tandem::exec {

// An operand: memory of the plan. Contiguous, row-major, 64-byte aligned.
struct View {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  template <class T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

// Constants of one AdamW update (models.md 5), made on the host in fp64.
struct AdamWStep {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double decay = 1;      // 1 - lr * weight_decay
  double step_size = 0;  // lr / (1 - beta1^k)
  double root = 1;       // sqrt(1 - beta2^k)
};

// What kernels read beside their operands. Lives as long as the prepared calls; `adamw` changes
// between steps, the rest does not.
struct KernelContext {
  std::array<int, kNumAxes> coordinate{};               // of this rank, by Axis
  std::array<int, kNumAxes> size{1, 1, 1, 1, 1, 1, 1};  // of the axes
  std::int64_t tokens_per_step = 0;                     // that this rank's microbatches hold
  AdamWStep adamw;
  [[nodiscard]] int at(Axis a) const { return coordinate[static_cast<std::size_t>(a)]; }
  [[nodiscard]] bool owns(AxisSet axes) const {
    for (int a = 0; a < kNumAxes; ++a)
      if (axes.has(static_cast<Axis>(a)) && coordinate[static_cast<std::size_t>(a)] != 0)
        return false;
    return true;
  }
};

using ElementRange = std::pair<std::int64_t, std::int64_t>;  // [first, second)

struct KernelCall {
  Kernel kernel;
  PlanTypes types;
  std::vector<View> inputs, outputs, scratch;
  std::vector<bool> accumulate;     // by output
  std::vector<ElementRange> decay;  // adamw: elements that decay, ascending, disjoint
  const KernelContext* context = nullptr;
};

using Prepared = std::function<void()>;

// Checks operands against signature() and binds the kernel's code. E-EXEC-035 where this build has
// no code for the types. The closure is run by one thread at a time and may throw c10::Error.
[[nodiscard]] Result<Prepared> prepare(const KernelCall& call);

// One binder per catalogue entry, for float and double operands; used by prepare() and tests.
using Binder = Prepared (*)(const KernelCall&);
[[nodiscard]] Binder binder(KernelKind kind);

Prepared bind_embed_fwd(const KernelCall&);
Prepared bind_pos_add_fwd(const KernelCall&);
Prepared bind_layernorm_fwd(const KernelCall&);
Prepared bind_rmsnorm_fwd(const KernelCall&);
Prepared bind_linear_fwd(const KernelCall&);
Prepared bind_rope_fwd(const KernelCall&);
Prepared bind_attention_fwd(const KernelCall&);
Prepared bind_bias_residual_fwd(const KernelCall&);
Prepared bind_residual_fwd(const KernelCall&);
Prepared bind_own_rows_fwd(const KernelCall&);
Prepared bind_gelu_fwd(const KernelCall&);
Prepared bind_swiglu_fwd(const KernelCall&);
Prepared bind_ce_max(const KernelCall&);
Prepared bind_ce_sum(const KernelCall&);
Prepared bind_ce_grad(const KernelCall&);
Prepared bind_linear_bwd_input(const KernelCall&);
Prepared bind_gelu_bwd_input(const KernelCall&);
Prepared bind_swiglu_bwd_input(const KernelCall&);
Prepared bind_layernorm_bwd_input(const KernelCall&);
Prepared bind_rmsnorm_bwd_input(const KernelCall&);
Prepared bind_residual_bwd_input(const KernelCall&);
Prepared bind_attention_bwd_input(const KernelCall&);
Prepared bind_rope_bwd_input(const KernelCall&);
Prepared bind_latent_norm_fwd(const KernelCall&);
Prepared bind_latent_split_fwd(const KernelCall&);
Prepared bind_mla_qkv_fwd(const KernelCall&);
Prepared bind_latent_norm_bwd_input(const KernelCall&);
Prepared bind_latent_merge_bwd_input(const KernelCall&);
Prepared bind_mla_qkv_bwd_input(const KernelCall&);
Prepared bind_kv_pack(const KernelCall&);
Prepared bind_attention_block_fwd(const KernelCall&);
Prepared bind_attention_block_bwd_input(const KernelCall&);
Prepared bind_kv_unpack(const KernelCall&);
Prepared bind_linear_bwd_weight(const KernelCall&);
Prepared bind_bias_residual_bwd_weight(const KernelCall&);
Prepared bind_embed_bwd_weight(const KernelCall&);
Prepared bind_pos_add_bwd_weight(const KernelCall&);
Prepared bind_grad_add(const KernelCall&);
Prepared bind_grad_scale(const KernelCall&);
Prepared bind_snapshot(const KernelCall&);
Prepared bind_sum_squares(const KernelCall&);
Prepared bind_clip_coef(const KernelCall&);
Prepared bind_adamw(const KernelCall&);
Prepared bind_metrics_pack(const KernelCall&);
Prepared bind_router_fwd(const KernelCall&);
Prepared bind_router_bwd_input(const KernelCall&);
Prepared bind_router_bwd_weight(const KernelCall&);
Prepared bind_route_fwd(const KernelCall&);
Prepared bind_router_scores_fwd(const KernelCall&);
Prepared bind_balance_fwd(const KernelCall&);
Prepared bind_balance_bwd_input(const KernelCall&);
Prepared bind_route_bwd_input(const KernelCall&);
Prepared bind_dispatch_fwd(const KernelCall&);
Prepared bind_dispatch_bwd_input(const KernelCall&);
Prepared bind_combine_fwd(const KernelCall&);
Prepared bind_combine_bwd_input(const KernelCall&);
Prepared bind_expert_sort(const KernelCall&);
Prepared bind_expert_unsort(const KernelCall&);
Prepared bind_experts_linear_fwd(const KernelCall&);
Prepared bind_experts_linear_bwd_input(const KernelCall&);
Prepared bind_experts_linear_bwd_weight(const KernelCall&);
Prepared bind_experts_swiglu_fwd(const KernelCall&);
Prepared bind_experts_swiglu_bwd_input(const KernelCall&);
Prepared bind_label_rows_fwd(const KernelCall&);
Prepared bind_narrow_counts(const KernelCall&);
Prepared bind_count_rows(const KernelCall&);
Prepared bind_router_bias_update(const KernelCall&);

}  // namespace tandem::exec
