// The dispatch table of the catalogue and the check of operands against its signatures.
#include <fmt/format.h>

#include "exec/kernels/kernel.h"
#include "exec/kernels/widen.h"

namespace tandem::exec {
namespace {

// In the order of KernelKind.
constexpr std::array<Binder, kNumKernelKinds> kBinders = {
    bind_embed_fwd,
    bind_pos_add_fwd,
    bind_layernorm_fwd,
    bind_rmsnorm_fwd,
    bind_linear_fwd,
    bind_rope_fwd,
    bind_attention_fwd,
    bind_bias_residual_fwd,
    bind_residual_fwd,
    bind_own_rows_fwd,
    bind_gelu_fwd,
    bind_swiglu_fwd,
    bind_ce_max,
    bind_ce_sum,
    bind_ce_grad,
    bind_linear_bwd_input,
    bind_gelu_bwd_input,
    bind_swiglu_bwd_input,
    bind_layernorm_bwd_input,
    bind_rmsnorm_bwd_input,
    bind_residual_bwd_input,
    bind_attention_bwd_input,
    bind_rope_bwd_input,
    bind_latent_norm_fwd,
    bind_latent_split_fwd,
    bind_mla_qkv_fwd,
    bind_latent_norm_bwd_input,
    bind_latent_merge_bwd_input,
    bind_mla_qkv_bwd_input,
    bind_kv_pack,
    bind_attention_block_fwd,
    bind_attention_block_bwd_input,
    bind_kv_unpack,
    bind_linear_bwd_weight,
    bind_bias_residual_bwd_weight,
    bind_embed_bwd_weight,
    bind_pos_add_bwd_weight,
    bind_grad_add,
    bind_grad_scale,
    bind_snapshot,
    bind_sum_squares,
    bind_clip_coef,
    bind_adamw,
    bind_metrics_pack,
    bind_router_fwd,
    bind_router_bwd_input,
    bind_router_bwd_weight,
    bind_route_fwd,
    bind_router_scores_fwd,
    bind_balance_fwd,
    bind_balance_bwd_input,
    bind_route_bwd_input,
    bind_dispatch_fwd,
    bind_dispatch_bwd_input,
    bind_combine_fwd,
    bind_combine_bwd_input,
    bind_expert_sort,
    bind_expert_unsort,
    bind_experts_linear_fwd,
    bind_experts_linear_bwd_input,
    bind_experts_linear_bwd_weight,
    bind_experts_swiglu_fwd,
    bind_experts_swiglu_bwd_input,
    bind_label_rows_fwd,
    bind_narrow_counts,
    bind_count_rows,
    bind_router_bias_update,
};

Error unsupported(const Kernel& k, std::string found, std::string expected, const char* hint) {
  return make_error(Failure::infeasible, "E-EXEC-035", "the executor cannot run this plan",
                    fmt::format("{}: {}", to_text(k), found), std::move(expected), hint);
}
constexpr const char* kPrecision = "simulate it, or choose training.precision fp32, fp64 or bf16";
constexpr const char* kOperands = "make the plan with this version of Tandem";

// Empty: fits. `exact`: as many elements as declared, else at least as many (scratch).
std::string misfit(const View& view, const Operand& declared, bool exact) {
  if (view.dtype != declared.dtype)
    return fmt::format("{} is {}, not {}", declared.role, name_of(view.dtype),
                       name_of(declared.dtype));
  if (declared.shape.rank == 0) return "";  // the batch: any b and S + 1
  const std::int64_t have = view.shape.elements(), need = declared.shape.elements();
  if (exact ? have == need : have >= need) return "";
  return fmt::format("{} has {} elements, not {}", declared.role, have, need);
}

}  // namespace

Binder binder(KernelKind kind) { return kBinders[static_cast<std::size_t>(kind)]; }

Result<Prepared> prepare(const KernelCall& call) {
  const Kernel& k = call.kernel;
  const PlanTypes& t = call.types;
  const bool widens = t.compute == DType::bf16 && t.main == DType::f32;
  if (!widens && (t.compute != t.main || (t.compute != DType::f32 && t.compute != DType::f64)))
    return unsupported(
        k, fmt::format("dtype {} with gradients in {}", name_of(t.compute), name_of(t.main)),
        "f32 or f64 for both, or bf16 with f32", kPrecision);
  if (const std::string_view rule = broken_rule(k); !rule.empty())
    return unsupported(k, "impossible dimensions or flags", std::string(rule), kOperands);
  const Signature s = signature(k, t);
  const bool counts_fit = (s.more_inputs || call.inputs.size() == s.inputs.size()) &&
                          call.outputs.size() == s.outputs.size() &&
                          call.accumulate.size() == s.outputs.size();
  if (!counts_fit)
    return unsupported(
        k, fmt::format("{} inputs, {} outputs", call.inputs.size(), call.outputs.size()),
        fmt::format("{} inputs, {} outputs", s.inputs.size(), s.outputs.size()), kOperands);
  std::string wrong;
  const auto check = [&](const View& v, const Operand& o, bool exact) {
    if (wrong.empty()) wrong = misfit(v, o, exact);
  };
  // A table of positions holds those of the kernel, and may hold more.
  const auto operand = [&](const View& v, const Operand& o) {
    if (o.role != "pos" && o.role != "dpos") return check(v, o, true);
    Operand table = o;
    table.shape.dim[0] += first_position_of(k);
    check(v, table, false);
  };
  for (std::size_t i = 0; i < s.inputs.size(); ++i) operand(call.inputs[i], s.inputs[i]);
  bool accumulates = false;
  for (std::size_t i = 0; i < s.outputs.size(); ++i) {
    operand(call.outputs[i], s.outputs[i]);
    accumulates = accumulates || call.accumulate[i];
    if (call.accumulate[i] && !s.outputs[i].may_accumulate)
      wrong = fmt::format("{} cannot accumulate", s.outputs[i].role);
    const int in_place = s.outputs[i].in_place_of;
    for (std::size_t j = 0; j < call.inputs.size(); ++j)
      if (call.inputs[j].data == call.outputs[i].data && static_cast<int>(j) != in_place)
        wrong = fmt::format("{} lies over an input", s.outputs[i].role);
  }
  if (accumulates && !s.scratch.empty()) {
    if (call.scratch.size() < s.scratch.size())
      wrong = "no scratch for an accumulating call";
    else
      for (std::size_t i = 0; i < s.scratch.size(); ++i)
        check(call.scratch[i], s.scratch[i], false);
  }
  if (!wrong.empty())
    return unsupported(k, wrong, "operands as the catalogue declares them", kOperands);
  return widens ? bind_widened(call) : binder(k.kind)(call);
}

}  // namespace tandem::exec
