// Style nano_train inside a visit (models.md 7.1): the calls of lastweek/nano-train.
//
//   dX of gate and up         two partial sums, each reduced over tp
//   d of the latents          those of q_b, and those of kv_b with the rope key
//   rows of experts (ep > 1)  forward:  tokens | cnt | disp: rows, token, slot, expert, weight |
//                             experts | cnt.back | comb: rows, token, slot | dropped
//                             backward: rows only, both ways
//   labels                    one stage reads tokens and labels, the last one is sent the latter
//   What the labels say is known at the source, which keeps the order of its rows, but the counts
//   of each source say only how many rows come: how many are for which expert is counted from the
//   rows' own labels.
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

Ref VisitBuilder::labels() {
  if (v_.labels < 0)
    v_.labels = slot("labels", BufferClass::batch, DType::i64, {z_.micro_batch, z_.sequence}).slot;
  Ref r;
  r.slot = v_.labels;
  return r;
}

Ref VisitBuilder::gate_and_up_dx(int layer, Ref d_gate_up, const std::string& weight) {
  const std::int64_t width = z_.ffn;
  const auto& parts = tensors_.at(weight).part_params;  // gate, up
  const Ref d_gate = gradient("d_gate", wide(width), layer);
  const Ref d_up = gradient("d_up", wide(width), layer);
  call(kernel(KernelKind::latent_split_fwd, {z_.tokens, width, width, 0}), {d_gate_up},
       {d_gate, d_up});
  const Ref dx = gradient("d_norm2_out", all_, layer);
  call(linear(KernelKind::linear_bwd_input, z_.hidden, width), {d_gate, whole(parts[0])}, {dx});
  const Ref dx_up = gradient("d_norm2_up", all_, layer);
  call(linear(KernelKind::linear_bwd_input, z_.hidden, width), {d_up, whole(parts[1])}, {dx_up});
  reduced("mlp.in", dx, layer);
  reduced("mlp.in", dx_up, layer);
  cut(layer);
  call(rows(KernelKind::residual_bwd_input), {dx, dx_up}, {dx});
  return dx;
}

Ref VisitBuilder::latents_dx(int layer, Ref d_ql, Ref d_kl, Ref d_kr) {
  const std::int64_t key_width = z_.kv_rank + z_.rope_dim;
  const Ref d_keys = gradient("d_kl_kr", wide(key_width), layer);
  call(kernel(KernelKind::latent_merge_bwd_input, {z_.tokens, 0, z_.kv_rank, z_.rope_dim}),
       {d_kl, d_kr}, {d_keys});
  reduced("attn.in", d_ql, layer);
  reduced("attn.in", d_keys, layer);
  cut(layer);
  const Ref d_latents = gradient("d_latents", wide(z_.q_rank + key_width), layer);
  call(kernel(KernelKind::latent_merge_bwd_input, {z_.tokens, z_.q_rank, key_width, 0}),
       {d_ql, d_keys}, {d_latents});
  return d_latents;
}

// Counts and labels of the own rows; how many come is known behind it. The router's op is open.
VisitBuilder::RowLabels VisitBuilder::label_rows(int layer, SavedMoe& s) {
  const MoeSpec& moe = d_.scenario.model.moe;
  const std::int64_t rows = z_.moe_tokens * moe.top_k;
  const auto comm = [&](const char* name, DType dtype, Shape shape) {
    return slot(name, BufferClass::comm, dtype, shape, layer);
  };
  RowLabels l;
  l.token = comm("row_token", DType::i64, {rows});
  l.slot = comm("row_slot", DType::i64, {rows});
  l.expert = comm("row_expert", DType::i64, {rows});
  l.weight = comm("row_weight", t_.compute, {rows});
  l.counts = comm("row_counts", DType::i64, {z_.ep});
  l.tokens = comm("routed_tokens", DType::i32, {1});
  l.dropped = comm("dropped_rows", DType::i32, {2});
  Kernel k = routed(KernelKind::label_rows_fwd, {z_.moe_tokens, moe.experts, moe.top_k, z_.ep});
  k.real = moe.scale;
  call(k, {s.choice, s.scores},
       {l.token, l.slot, l.expert, l.weight, l.counts, l.tokens, l.dropped});
  reduced("tokens", l.tokens, layer);
  ops_->back().comm = "ep";
  l.counts_in = comm("row_counts_in", DType::i64, {z_.ep});
  communicate(OpKind::all_to_all, "cnt", l.counts_in, l.counts, layer);
  ops_->back().comm = "ep";
  cut(layer);
  s.arriving = comm("rows_of_sources", DType::i32, {z_.ep});
  call(kernel(KernelKind::narrow_counts, {z_.ep}), {l.counts_in}, {s.arriving});
  wait_for(s.arriving, layer);
  return l;
}

// Behind the exchange of the rows themselves.
void VisitBuilder::exchange_labels(int layer, SavedMoe& s) {
  RowLabels& l = s.labels;
  const auto arrived = [&](const char* name, DType dtype) {
    return counted(slot(name, BufferClass::comm, dtype, {z_.expert_rows}, layer), s.arriving,
                   z_.max_expert_rows);
  };
  l.token_in = arrived("row_token_in", DType::i64);
  l.slot_in = arrived("row_slot_in", DType::i64);
  l.expert_in = arrived("row_expert_in", DType::i64);
  const Ref weight_in = arrived("row_weight_in", t_.compute);
  exchange("disp.token", l.token, l.token_in, s.sent, s.arriving, layer);
  exchange("disp.slot", l.slot, l.slot_in, s.sent, s.arriving, layer);
  exchange("disp.expert", l.expert, l.expert_in, s.sent, s.arriving, layer);
  exchange("disp.weight", l.weight, weight_in, s.sent, s.arriving, layer);
  s.received =
      slot("moe_counts_in", BufferClass::comm, DType::i32, {z_.ep * z_.local_experts}, layer);
  call(kernel(KernelKind::count_rows, {z_.expert_rows, z_.ep, z_.local_experts}),
       {l.expert_in, l.counts_in}, {s.received});
  s.counts = s.received;
}

// Behind the way back of the rows.
void VisitBuilder::return_labels(int layer, const SavedMoe& s) {
  const RowLabels& l = s.labels;
  const std::int64_t rows = z_.moe_tokens * d_.scenario.model.moe.top_k;
  const auto back = [&](const char* name, Shape shape) {
    return slot(name, BufferClass::comm, DType::i64, shape, layer);
  };
  communicate(OpKind::all_to_all, "cnt.back", back("row_counts_back", {z_.ep}), l.counts_in, layer);
  ops_->back().comm = "ep";
  exchange("comb.token", l.token_in, back("row_token_back", {rows}), s.arriving, s.sent, layer);
  exchange("comb.slot", l.slot_in, back("row_slot_back", {rows}), s.arriving, s.sent, layer);
  reduced("dropped", l.dropped, layer);
  ops_->back().comm = "ep";
  cut(layer);
}

}  // namespace tandem::lower
