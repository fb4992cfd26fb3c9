// The mixture-of-experts half of a layer (models.md 2.5, 4.5): a router chooses K of E experts for
// each token, rows travel to the ranks of their experts and back, shared experts see every token.
//
//   forward    norm2, router, choice | aux | cnt | wait | rows by expert | disp | [shared] |
//              experts | comb | weighted sum
//   backward   d rows, d scores | comb | experts | disp | dX, router | W of experts, router, shared
//   aux   counts and score sums, summed over tp and cp: the balance losses and their gradient
//   cnt   rows for each (destination, local expert): all that peers tell each other. The host waits
//         for it: buffers of received rows are as large as what comes, and their number is known
//         only then. Without expert parallelism there is no message, and rows = tokens * K.
//   disp, comb   with expert tensor parallelism also over etp: visit_expert_rows.cpp
//   Sizes in the plan are balanced ones: each rank gets as many rows as it sends.
//   nano_train, tp > 1   the rank's slice of the rows is cut out behind the norm (moe.slice; its
//         gradient is gathered), and the sum of experts and shared experts is gathered at the end
//         (moe.gather; of its gradient the own slice is taken). Models.md 4.5.
#include "common/base/check.h"
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

namespace {
const char* const kCounts = "moe_counts";
}

Kernel VisitBuilder::routed(KernelKind kind, KernelDims dims) const {
  const bool sigmoid = d_.scenario.model.moe.router == RouterKind::sigmoid;
  return kernel(kind, dims, sigmoid ? kSigmoid : kSoftmax);
}

Kernel VisitBuilder::expert_product(KernelKind kind, std::int64_t in, std::int64_t out) const {
  return kernel(kind, {z_.expert_rows, in, out, z_.local_experts, z_.row_sources});
}

// Rows by source to rows by expert, and back.
Kernel VisitBuilder::expert_order(KernelKind kind) const {
  return kernel(kind, {z_.expert_rows, z_.hidden, z_.row_sources, z_.local_experts});
}

// One balance loss (models.md 2.5): over experts, or over groups of neighbouring ones. They steer
// training and are no part of the loss that is evaluated.
std::vector<VisitBuilder::Balance> VisitBuilder::balances() const {
  const MoeSpec& moe = d_.scenario.model.moe;
  std::vector<Balance> out;
  if (d_.evaluation) return out;
  if (moe.expert_loss > 0) out.push_back({moe.expert_loss, moe.experts});
  if (moe.device_loss > 0) out.push_back({moe.device_loss, moe.device_groups});
  return out;
}

KernelDims VisitBuilder::balance_dims(const Balance& b) const {
  const MoeSpec& moe = d_.scenario.model.moe;
  const bool sequence = moe.scope == BalanceScope::sequence;
  const std::int64_t scopes = sequence ? z_.micro_batch : 1;
  // Style nano_train takes the slice of each tensor rank for a scope of its own.
  const std::int64_t slices = z_.nano_style ? z_.tp : 1;
  const std::int64_t scope_tokens = z_.full_sequence * (sequence ? 1 : z_.micro_batch) / slices;
  const std::int64_t of_batch =
      d_.scenario.training.global_batch / (sequence ? 1 : z_.micro_batch) * slices;
  return {scopes, moe.experts, scope_tokens, moe.top_k, b.groups, of_batch, z_.moe_tokens};
}

// Of rows that all tensor ranks have the slice that this one routes.
Kernel VisitBuilder::own_moe_rows() const {
  Kernel k = kernel(KernelKind::own_rows_fwd, {z_.moe_tokens, z_.hidden, z_.tp});
  k.coords.add(Axis::tp);
  return k;
}

// Who goes where, and how many: kept also where the layer is computed again.
void VisitBuilder::choose(int layer, SavedMoe& s) {
  const MoeSpec& moe = d_.scenario.model.moe;
  const std::int64_t n = z_.moe_tokens, E = moe.experts;
  s.choice = slot("router_choice", until_backward(BufferClass::saved_input), DType::i64,
                  {n, moe.top_k}, layer);
  s.sent = slot(kCounts, BufferClass::comm, DType::i32, {E}, layer);
  const std::int64_t scopes = moe.scope == BalanceScope::sequence ? z_.micro_batch : 1;
  const std::vector<Balance> losses = balances();
  s.aux = statistic("router_aux", BufferClass::comm, {2, scopes, E}, layer);
  // A loss is of whole sequences: the slices add up, and the last one has the sum.
  const bool sums_slices = z_.slices > 1 && !losses.empty();
  const bool complete = !sums_slices || slice_ + 1 == z_.slices;
  v_.slots.back().all_slices = sums_slices;
  Ref aux = s.aux;
  aux.adds = sums_slices && slice_ > 0;
  Kernel route =
      routed(KernelKind::route_fwd, {z_.micro_batch, z_.moe_sequence, E, moe.top_k, moe.groups,
                                     moe.groups_kept, z_.expert_capacity, z_.drop_slices});
  route.flags |= moe.scope == BalanceScope::microbatch ? kScopeMicrobatch : kScopeSequence;
  if (moe.group_max) route.flags |= kGroupMax;
  std::vector<Ref> inputs = {s.scores};
  if (moe.router == RouterKind::sigmoid) inputs.push_back(whole(tensors_.router_bias(layer)));
  call(route, inputs,
       {s.scores, s.choice, s.sent, aux, step_sum(tensors_.choices(layer)),
        step_sum(tensors_.dropped)});
  const bool sums_aux =
      complete && !losses.empty() && !z_.nano_style && d_.comm(aux_group()).valid();
  if (sums_aux) {
    communicate(OpKind::all_reduce, "aux", s.aux, {}, layer, Reduction::sum);
    ops_->back().comm = aux_group();
  }
  if (labels_rows())
    s.labels = label_rows(layer, s);
  else
    exchange_counts(s, layer);
  if (moves_rows() || sums_aux) cut(layer);
  for (const Balance& b : complete ? losses : std::vector<Balance>{}) {
    Kernel k = kernel(KernelKind::balance_fwd, balance_dims(b));
    k.dims[6] = 0;  // rows: of the gradient only
    k.real = b.alpha;
    k.owner.add(Axis::cp);
    if (!z_.nano_style) k.owner.add(Axis::tp);
    if (d_.scenario.parallel.replicates()) k.owner.add(Axis::ep);
    call(k, {s.aux}, {step_sum(tensors_.balance)});
  }
}

Ref VisitBuilder::moe_forward(int layer, Ref x, SavedMoe& s) {
  const MoeSpec& moe = d_.scenario.model.moe;
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const std::int64_t n = z_.moe_tokens, assignments = n * moe.top_k, E = moe.experts;
  s.norm_stat = statistic("norm2_stat", BufferClass::saved_input, norm_stat(), layer);
  if (z_.slices_moe()) {
    const Ref normed = moving("norm2_out", own_, layer);
    norm_forward(x, at("norm2"), normed, s.norm_stat);
    s.norm_out = kept("moe_in", BufferClass::saved_weight, moe_, layer);
    call(own_moe_rows(), {normed}, {s.norm_out});
  } else {
    s.norm_out = kept("norm2_out", BufferClass::saved_weight, own_, layer);
    norm_forward(x, at("norm2"), s.norm_out, s.norm_stat);
  }
  s.scores = statistic("router_scores", BufferClass::saved_input, {n, E}, layer);
  call(kernel(KernelKind::router_fwd, {n, z_.hidden, E}),
       {s.norm_out, param(at("moe.router.weight"))}, {s.scores});
  if (again_)  // with the choice of before
    call(routed(KernelKind::router_scores_fwd, {n, E}), {s.scores}, {s.scores});
  else
    choose(layer, s);
  // To the experts.
  const Kernel dispatch = kernel(KernelKind::dispatch_fwd, {n, z_.hidden, E, moe.top_k});
  if (moves_rows()) {
    const Ref rows = kept("dispatched", BufferClass::comm, {assignments, z_.hidden}, layer);
    call(dispatch, {s.norm_out, s.choice}, {rows});
    const Ref arrived = to_experts({"disp", "etp.in"}, {"arrived", "gathered"}, rows, s, layer);
    if (labels_rows() && !again_) exchange_labels(layer, s);
    s.rows = expert_rows("expert_in", BufferClass::saved_weight, z_.hidden, coming(s), layer);
    call(expert_order(KernelKind::expert_sort), {arrived, s.counts}, {s.rows});
  } else {
    s.rows = expert_rows("expert_in", BufferClass::saved_weight, z_.hidden, coming(s), layer);
    call(dispatch, {s.norm_out, s.choice}, {s.rows});
  }
  const std::int64_t Fe = z_.expert_ffn;
  s.gate_up = expert_rows("expert_gate_up", BufferClass::saved_input, 2 * Fe, coming(s), layer);
  call(expert_product(KernelKind::experts_linear_fwd, z_.hidden, 2 * Fe),
       {s.rows, param(at("moe.experts.gate_up.weight")), s.counts}, {s.gate_up});
  s.inner = expert_rows("expert_swiglu", BufferClass::saved_weight, Fe, coming(s), layer);
  call(kernel(KernelKind::experts_swiglu_fwd,
              {z_.expert_rows, Fe, z_.local_experts, z_.row_sources}),
       {s.gate_up, s.counts}, {s.inner});
  const Ref made =
      expert_rows("expert_out", moves_rows() ? BufferClass::activation : BufferClass::saved_input,
                  z_.hidden, coming(s), layer);
  call(expert_product(KernelKind::experts_linear_fwd, Fe, z_.hidden),
       {s.inner, param(at("moe.experts.down.weight")), s.counts}, {made});
  s.returned = made;
  if (moves_rows()) {  // and back to the tokens
    const Ref going = expert_rows("returning", BufferClass::comm, z_.hidden, coming(s), layer);
    call(expert_order(KernelKind::expert_unsort), {made, s.counts}, {going});
    s.returned = from_experts({"comb", "etp.out"}, {"returned", "reduced"},
                              BufferClass::saved_input, going, s, layer);
    if (labels_rows() && !again_) return_labels(layer, s);
  }
  if (again_) {  // nothing of the backward reads the sums
    if (moe.shared_experts > 0) dense_forward(layer, DensePart::shared, s.norm_out, s.shared);
    return {};
  }
  const Ref out = moving("moe_out", moe_, layer);
  Kernel combine = routed(KernelKind::combine_fwd, {n, z_.hidden, E, moe.top_k});
  combine.real = moe.scale;
  call(combine, {s.returned, s.scores, s.choice}, {out});
  Ref made_here = out;
  if (moe.shared_experts > 0) {
    const Ref shared = dense_forward(layer, DensePart::shared, s.norm_out, s.shared);
    cut(layer);
    made_here = moving("ffn_out", moe_, layer);
    call(kernel(KernelKind::residual_fwd, {n, z_.hidden}), {out, shared}, {made_here});
  }
  if (!z_.slices_moe()) return made_here;
  const Ref all = moving("moe_all", own_, layer);
  communicate(OpKind::all_gather, "moe.gather", all, made_here, layer);
  return all;
}

Ref VisitBuilder::moe_backward(int layer, Ref d_out, const SavedMoe& s) {
  const MoeSpec& moe = d_.scenario.model.moe;
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  Ref dy = d_out;
  if (z_.slices_moe()) {
    dy = gradient("d_moe_out", moe_, layer);
    call(own_moe_rows(), {d_out}, {dy});
  }
  const std::int64_t n = z_.moe_tokens, assignments = n * moe.top_k, E = moe.experts;
  const std::int64_t Fe = z_.expert_ffn;
  const BufferClass moved = moves_rows() ? BufferClass::comm : BufferClass::grad_activation;
  Ref d_rows = kept("d_returned", moved, {assignments, z_.hidden}, layer);
  const Ref d_scores = statistic("d_router", BufferClass::grad_activation, {n, E}, layer);
  Kernel combine = routed(KernelKind::combine_bwd_input, {n, z_.hidden, E, moe.top_k});
  combine.real = moe.scale;
  call(combine, {dy, s.returned, s.scores, s.choice}, {d_rows, d_scores});
  if (moves_rows()) {
    const Ref arrived =
        to_experts({"comb", "etp.out"}, {"d_arrived", "d_gathered"}, d_rows, s, layer);
    d_rows = expert_rows("d_expert_out", BufferClass::grad_activation, z_.hidden, coming(s), layer);
    call(expert_order(KernelKind::expert_sort), {arrived, s.counts}, {d_rows});
  }
  const Ref d_inner =
      expert_rows("d_expert_swiglu", BufferClass::grad_activation, Fe, coming(s), layer);
  call(expert_product(KernelKind::experts_linear_bwd_input, Fe, z_.hidden),
       {d_rows, param(at("moe.experts.down.weight")), s.counts}, {d_inner});
  const Ref d_gate_up =
      expert_rows("d_expert_gate_up", BufferClass::grad_activation, 2 * Fe, coming(s), layer);
  call(kernel(KernelKind::experts_swiglu_bwd_input,
              {z_.expert_rows, Fe, z_.local_experts, z_.row_sources}),
       {d_inner, s.gate_up, s.counts}, {d_gate_up});
  Ref d_in = expert_rows("d_expert_in", BufferClass::grad_activation, z_.hidden, coming(s), layer);
  call(expert_product(KernelKind::experts_linear_bwd_input, z_.hidden, 2 * Fe),
       {d_gate_up, param(at("moe.experts.gate_up.weight")), s.counts}, {d_in});
  if (moves_rows()) {
    const Ref going = expert_rows("d_returning", BufferClass::comm, z_.hidden, coming(s), layer);
    call(expert_order(KernelKind::expert_unsort), {d_in, s.counts}, {going});
    d_in = from_experts({"disp", "etp.in"}, {"d_dispatched", "d_reduced"}, BufferClass::comm, going,
                        s, layer);
  }
  const Ref dx = gradient(z_.slices_moe() ? "d_moe_in" : "d_norm2_out", moe_, layer);
  call(kernel(KernelKind::dispatch_bwd_input, {n, z_.hidden, E, moe.top_k}), {d_in, s.choice},
       {dx});
  for (const Balance& b : balances()) {
    Kernel k = routed(KernelKind::balance_bwd_input, balance_dims(b));
    k.real = b.alpha;
    call(k, {s.aux, s.scores, d_scores}, {d_scores});
  }
  call(routed(KernelKind::route_bwd_input, {n, E}), {d_scores, s.scores}, {d_scores});
  call(kernel(KernelKind::router_bwd_input, {n, z_.hidden, E}),
       {d_scores, param(at("moe.router.weight")), dx}, {dx});
  // for weights
  const auto product = scratch("scratch_experts", {2 * Fe, z_.hidden}, layer);
  call(expert_product(KernelKind::experts_linear_bwd_weight, Fe, z_.hidden),
       {d_rows, s.inner, s.counts}, {grad(at("moe.experts.down.weight"))}, product);
  call(expert_product(KernelKind::experts_linear_bwd_weight, z_.hidden, 2 * Fe),
       {d_gate_up, s.rows, s.counts}, {grad(at("moe.experts.gate_up.weight"))}, product);
  call(kernel(KernelKind::router_bwd_weight, {n, z_.hidden, E}), {d_scores, s.norm_out},
       {grad(at("moe.router.weight"))}, scratch("scratch_router", {E, z_.hidden}, layer));
  if (moe.shared_experts > 0) {
    const Ref d_shared = dense_backward(layer, DensePart::shared, dy, s.norm_out, s.shared);
    cut(layer);
    call(kernel(KernelKind::residual_bwd_input, {n, z_.hidden}), {dx, d_shared}, {dx});
  }
  if (!z_.slices_moe()) return dx;
  const Ref all = gradient("d_norm2_out", own_, layer);
  communicate(OpKind::all_gather, "moe.slice", all, dx, layer);
  return all;
}

}  // namespace tandem::lower
