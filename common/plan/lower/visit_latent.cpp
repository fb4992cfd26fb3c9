// The attention half of a layer with latent attention (deepseek_v3; models.md 2.3, 4.2).
//
//   forward    norm1, q_a and kv_a, their norms | split, q_b, kv_b, rope, core, o |
//   backward   | core, rope back, q_b, kv_b, merge | W of o, q_b, kv_b | norms, dX | W of q_a, kv_a
//   q_a, kv_a and their norms run on the own rows and are whole on every tp rank. What enters the
//   region that tp cuts are the latents [ql, kl, kr], together: one gather, and one reduction of
//   their gradient, the rope key's part included.
//   For W only ql and kl are kept; with SP the own rows of them, gathered again.
//   q_rank 0   q has no latent: one product of the normed input makes it, as in other families, so
//     that input enters the region too, behind the latents [kl, kr]. Its gradient has two parts:
//     of q, reduced as everywhere; of kv_a.
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

Kernel VisitBuilder::latents(KernelKind kind, std::int64_t tokens, bool rope) const {
  return kernel(kind, {tokens, z_.q_rank, z_.kv_rank, rope ? z_.rope_dim : 0});
}

Kernel VisitBuilder::latent_heads(KernelKind kind) const {
  Kernel k =
      kernel(kind, {z_.micro_batch, z_.heads, z_.sequence, z_.nope_dim, z_.rope_dim, z_.v_dim});
  k.real = d_.scenario.model.rope_base;
  at_positions(k, false);
  from_slice(k);
  return k;
}

Kernel VisitBuilder::latent_core(KernelKind kind) const {
  Kernel k = kernel(kind, {z_.micro_batch, z_.heads, z_.sequence, z_.nope_dim + z_.rope_dim},
                    kCausal | (flash() ? kFlash : kMaterialised));
  if (z_.v_dim != z_.nope_dim + z_.rope_dim) k.dims[kVDim] = z_.v_dim;
  return k;
}

// q_a and kv_a are one product.
const char* VisitBuilder::latents_weight() const {
  return z_.q_rank > 0 ? "attn.qkv_a.weight" : "attn.kv_a.weight";
}

// ql and kl of all rows, from what was kept.
std::pair<Ref, Ref> VisitBuilder::kept_latents(int layer, const SavedAttention& s) {
  if (!z_.sp) return {s.ql, s.kl};
  const std::int64_t width = z_.q_rank + z_.kv_rank;
  const Ref all = moving("latents_kept_all", wide(width), layer);
  communicate(OpKind::all_gather, "attn.in", all, s.latents, layer);
  cut(layer);
  if (z_.q_rank == 0) return {Ref{}, all};
  const Ref ql = moving("ql", wide(z_.q_rank), layer), kl = moving("kl", wide(z_.kv_rank), layer);
  call(latents(KernelKind::latent_split_fwd, z_.tokens, false), {all}, {ql, kl});
  return {ql, kl};
}

Ref VisitBuilder::latent_forward(int layer, Ref x, SavedAttention& s) {
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const std::int64_t n1 = z_.own_tokens, normed = z_.q_rank + z_.kv_rank;
  const std::int64_t width = normed + z_.rope_dim;
  const auto own = [&](std::int64_t w) { return Shape{z_.own_sequence, z_.micro_batch, w}; };
  s.norm_stat = statistic("norm1_stat", BufferClass::saved_input, norm_stat(), layer);
  s.norm_out = kept("norm1_out", BufferClass::saved_weight, own_, layer);
  norm_forward(x, at("norm1"), s.norm_out, s.norm_stat);
  const bool has_ql = z_.q_rank > 0;
  const Ref z = moving("latents_raw", own(width), layer);
  call(kernel(KernelKind::linear_fwd, {n1, z_.hidden, width}),
       {s.norm_out, param(at(latents_weight()))}, {z});
  const Ref latent = moving("latents", own(width), layer);
  s.raw = kept("latents_in", BufferClass::saved_input, own(normed), layer);
  s.latent_stat = statistic("latents_stat", BufferClass::saved_input, {has_ql ? 2 : 1, n1}, layer);
  Kernel norm = latents(KernelKind::latent_norm_fwd, n1, true);
  norm.real = d_.scenario.model.norm_eps;
  std::vector<Ref> normed_in = {z};
  if (has_ql) normed_in.push_back(param(at("attn.q_norm.weight")));
  normed_in.push_back(param(at("attn.kv_norm.weight")));
  call(norm, normed_in, {latent, s.raw, s.latent_stat});
  if (z_.sp && !has_ql) {  // the own rows of kl are kept
    const BufferClass cls = d_.evaluation ? BufferClass::activation : BufferClass::saved_weight;
    s.latents = kept("latents_kept", cls, own(normed), layer);
    call(latents(KernelKind::latent_split_fwd, n1, true), {latent},
         {s.latents, moving("kr_own", own(z_.rope_dim), layer)});
  } else if (z_.sp) {  // of ql and kl
    const Ref ql = moving("ql_own", own(z_.q_rank), layer);
    const Ref kl = moving("kl_own", own(z_.kv_rank), layer);
    const Ref kr = moving("kr_own", own(z_.rope_dim), layer);
    call(latents(KernelKind::latent_split_fwd, n1, true), {latent}, {ql, kl, kr});
    if (!d_.evaluation) {
      s.latents = kept("latents_kept", BufferClass::saved_weight, own(normed), layer);
      call(latents(KernelKind::latent_merge_bwd_input, n1, false), {ql, kl}, {s.latents});
    }
  }
  Ref all = latent;
  if (z_.sp) {
    all = moving("latents_all", wide(width), layer);
    communicate(OpKind::all_gather, "attn.in", all, latent, layer);
    cut(layer);
  }
  const Ref in =
      has_ql ? Ref{} : entered("attn.in", s.norm_out, "norm1_all", BufferClass::activation, layer);
  const BufferClass cls = z_.sp ? BufferClass::activation : BufferClass::saved_weight;
  if (has_ql) s.ql = kept("ql", cls, wide(z_.q_rank), layer);
  s.kl = kept("kl", cls, wide(z_.kv_rank), layer);
  const Ref kr = moving("kr", wide(z_.rope_dim), layer);
  std::vector<Ref> parts = {s.kl, kr};
  if (has_ql) parts.insert(parts.begin(), s.ql);
  call(latents(KernelKind::latent_split_fwd, z_.tokens, true), {all}, parts);
  const Ref q = moving("q", wide(z_.latent_q), layer), kv = moving("kv", wide(z_.latent_kv), layer);
  if (has_ql)
    call(linear(KernelKind::linear_fwd, z_.q_rank, z_.latent_q),
         {s.ql, param(at("attn.q_b.weight"))}, {q});
  else
    call(linear(KernelKind::linear_fwd, z_.hidden, z_.latent_q), {in, param(at("attn.q.weight"))},
         {q});
  call(linear(KernelKind::linear_fwd, z_.kv_rank, z_.latent_kv),
       {s.kl, param(at("attn.kv_b.weight"))}, {kv});
  s.qkv = kept("qkv", BufferClass::saved_input, wide(z_.qkv), layer);
  call(latent_heads(KernelKind::mla_qkv_fwd), {q, kv, kr}, {s.qkv});
  core_forward(layer, latent_core(KernelKind::attention_fwd), s);
  const Ref partial = moving("o_partial", all_, layer);
  call(linear(KernelKind::linear_fwd, z_.attention, z_.hidden), {s.out, param(at("attn.o.weight"))},
       {partial});
  return left("attn.out", partial, "o_out", BufferClass::activation, layer);
}

Ref VisitBuilder::latent_backward(int layer, Ref dy, const SavedAttention& s) {
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const std::int64_t n1 = z_.own_tokens, width = z_.q_rank + z_.kv_rank + z_.rope_dim;
  const Ref d_all = entered("attn.out", dy, "d_o_all", BufferClass::grad_activation, layer);
  const bool has_ql = z_.q_rank > 0;
  const auto [ql, kl] = kept_latents(layer, s);
  const Ref in =
      has_ql ? Ref{} : entered("attn.in", s.norm_out, "norm1_all", BufferClass::activation, layer);
  const Ref core = core_again(layer, latent_core(KernelKind::attention_fwd), s);
  const Ref d_attention = gradient("d_attn_out", wide(z_.attention), layer);
  call(linear(KernelKind::linear_bwd_input, z_.attention, z_.hidden),
       {d_all, param(at("attn.o.weight"))}, {d_attention});
  const Ref d_qkv =
      core_backward(layer, latent_core(KernelKind::attention_bwd_input), d_attention, s, core);
  const Ref d_q = gradient("d_q", wide(z_.latent_q), layer);
  const Ref d_kv = gradient("d_kv", wide(z_.latent_kv), layer);
  const Ref d_kr = gradient("d_kr", wide(z_.rope_dim), layer);
  call(latent_heads(KernelKind::mla_qkv_bwd_input), {d_qkv}, {d_q, d_kv, d_kr});
  const Ref d_ql = has_ql ? gradient("d_ql", wide(z_.q_rank), layer)
                          : gradient("d_norm1_out", all_, layer);  // the part of q
  const Ref d_kl = gradient("d_kl", wide(z_.kv_rank), layer);
  if (has_ql)
    call(linear(KernelKind::linear_bwd_input, z_.q_rank, z_.latent_q),
         {d_q, param(at("attn.q_b.weight"))}, {d_ql});
  else
    call(linear(KernelKind::linear_bwd_input, z_.hidden, z_.latent_q),
         {d_q, param(at("attn.q.weight"))}, {d_ql});
  call(linear(KernelKind::linear_bwd_input, z_.kv_rank, z_.latent_kv),
       {d_kv, param(at("attn.kv_b.weight"))}, {d_kl});
  Ref d_own, dx_q;
  if (reduces_by_tensor()) {
    d_own = latents_dx(layer, d_ql, d_kl, d_kr);
  } else {
    const Ref d_latents = gradient("d_latents", wide(width), layer);
    std::vector<Ref> parts = {d_kl, d_kr};
    if (has_ql) parts.insert(parts.begin(), d_ql);
    call(latents(KernelKind::latent_merge_bwd_input, z_.tokens, true), parts, {d_latents});
    d_own = d_latents;
    if (z_.sp) {
      d_own = gradient("d_latents_own", {z_.own_sequence, z_.micro_batch, width}, layer);
      communicate(OpKind::reduce_scatter, "attn.in", d_own, d_latents, layer, Reduction::sum);
    } else if (z_.tp > 1) {
      reduced("attn.in", d_latents, layer);
    }
    if (!has_ql) dx_q = left("attn.in", d_ql, "d_norm1_own", BufferClass::grad_activation, layer);
  }
  // for weights of the region
  cut(layer);
  const auto product = scratch("scratch_attn", {z_.hidden, std::max(z_.attention, width)}, layer);
  call(linear(KernelKind::linear_bwd_weight, z_.attention, z_.hidden), {d_all, s.out},
       {grad(at("attn.o.weight"))}, product);
  const std::int64_t into_q = has_ql ? z_.q_rank : z_.hidden;
  const auto up =
      scratch("scratch_latent", {std::max(z_.latent_q * into_q, z_.latent_kv * z_.kv_rank)}, layer);
  call(linear(KernelKind::linear_bwd_weight, into_q, z_.latent_q), {d_q, has_ql ? ql : in},
       {grad(at(has_ql ? "attn.q_b.weight" : "attn.q.weight"))}, up);
  call(linear(KernelKind::linear_bwd_weight, z_.kv_rank, z_.latent_kv), {d_kv, kl},
       {grad(at("attn.kv_b.weight"))}, up);
  // through the norms to the layer's input
  cut(layer);
  std::vector<Ref> through = {d_own, s.raw, s.latent_stat}, made = {d_own};
  if (has_ql) through.push_back(param(at("attn.q_norm.weight")));
  through.push_back(param(at("attn.kv_norm.weight")));
  if (has_ql) made.push_back(grad(at("attn.q_norm.weight")));
  made.push_back(grad(at("attn.kv_norm.weight")));
  call(latents(KernelKind::latent_norm_bwd_input, n1, true), through, made);
  const Ref dx = gradient(has_ql ? "d_norm1_out" : "d_norm1_kv", own_, layer);
  call(kernel(KernelKind::linear_bwd_input, {n1, z_.hidden, width}),
       {d_own, param(at(latents_weight()))}, {dx});
  if (!has_ql) call(rows(KernelKind::residual_bwd_input), {dx, dx_q}, {dx});
  call(kernel(KernelKind::linear_bwd_weight, {n1, z_.hidden, width}), {d_own, s.norm_out},
       {grad(at(latents_weight()))}, product);
  return dx;
}

}  // namespace tandem::lower
