// The attention half of a layer with query and key/value heads (gpt, llama, mixtral).
//
//   forward    norm1 | qkv, [rope], core, o |            | : gather, and reduce or scatter, over tp
//   backward   | d_out, core, [rope back], dX | W of o and qkv
//   q, k and v are rotated where they lie, so rope saves nothing: attention's backward needs the
//   rotated ones. q, k, v are one product, so their dX is one partial sum and one reduction.
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

Ref VisitBuilder::attention_forward(int layer, Ref x, SavedAttention& s) {
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  s.norm_stat = statistic("norm1_stat", BufferClass::saved_input, norm_stat(), layer);
  s.norm_out = kept("norm1_out", BufferClass::saved_weight, own_, layer);
  norm_forward(x, at("norm1"), s.norm_out, s.norm_stat);
  const Ref in = entered("attn.in", s.norm_out, "norm1_all", BufferClass::activation, layer);
  s.qkv = kept("qkv", BufferClass::saved_input, wide(z_.qkv), layer);
  call(linear(KernelKind::linear_fwd, z_.hidden, z_.qkv, true), weighted(in, at("attn.qkv")),
       {s.qkv});
  if (!gpt_) call(rope(KernelKind::rope_fwd), {s.qkv}, {s.qkv});
  core_forward(layer, attention(KernelKind::attention_fwd), s);
  const Ref partial = moving("o_partial", all_, layer);
  call(linear(KernelKind::linear_fwd, z_.attention, z_.hidden), {s.out, param(at("attn.o.weight"))},
       {partial});
  return left("attn.out", partial, "o_out", BufferClass::activation, layer);
}

Ref VisitBuilder::attention_backward(int layer, Ref dy, const SavedAttention& s) {
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const Ref d_all = entered("attn.out", dy, "d_o_all", BufferClass::grad_activation, layer);
  const Ref in = entered("attn.in", s.norm_out, "norm1_all", BufferClass::activation, layer);
  const Ref core = core_again(layer, attention(KernelKind::attention_fwd), s);
  const Ref d_attention = gradient("d_attn_out", wide(z_.attention), layer);
  call(linear(KernelKind::linear_bwd_input, z_.attention, z_.hidden),
       {d_all, param(at("attn.o.weight"))}, {d_attention});
  const Ref d_qkv =
      core_backward(layer, attention(KernelKind::attention_bwd_input), d_attention, s, core);
  if (!gpt_) call(rope(KernelKind::rope_bwd_input), {d_qkv}, {d_qkv});
  const Ref partial = gradient("d_norm1_out", all_, layer);
  call(linear(KernelKind::linear_bwd_input, z_.hidden, z_.qkv),
       {d_qkv, param(at("attn.qkv.weight"))}, {partial});
  const Ref dx = left("attn.in", partial, "d_norm1_own", BufferClass::grad_activation, layer);
  // for weights
  cut(layer);
  const auto product = scratch("scratch_attn", {z_.qkv, z_.hidden}, layer);
  call(linear(KernelKind::linear_bwd_weight, z_.attention, z_.hidden), {d_all, s.out},
       {grad(at("attn.o.weight"))}, product);
  if (gpt_) call(rows(KernelKind::bias_residual_bwd_weight), {dy}, {grad(at("attn.o.bias"))});
  call(linear(KernelKind::linear_bwd_weight, z_.hidden, z_.qkv, true), {d_qkv, in},
       weight_gradients(at("attn.qkv")), product);
  return dx;
}

}  // namespace tandem::lower
