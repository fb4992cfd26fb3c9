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
//   Sizes in the plan are balanced ones: each rank gets as many rows as it sends.
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

// Rows in the order of experts: their number is known from `counts`.
Ref VisitBuilder::expert_rows(const char* name, BufferClass cls, std::int64_t width, Ref counts,
                              int layer) {
  const Ref r = kept(name, cls, {z_.expert_rows, width}, layer);
  if (z_.ep > 1) {
    v_.slots.back().buffer.max_rows = z_.max_expert_rows;
    v_.slots.back().rows_of = counts.slot;
  }
  return r;
}

Kernel VisitBuilder::expert_product(KernelKind kind, std::int64_t in, std::int64_t out) const {
  return kernel(kind, {z_.expert_rows, in, out, z_.local_experts, z_.ep});
}

void VisitBuilder::exchange(const char* tag, Ref source, Ref buffer, Ref send_rows, Ref recv_rows,
                            int layer) {
  communicate(OpKind::all_to_all, tag, buffer, source, layer);
  VisitOp& op = ops_->back();
  op.comm = "ep";
  op.send_rows = send_rows;
  op.recv_rows = recv_rows;
  cut(layer);
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
  const std::int64_t scope_tokens = sequence ? z_.sequence : z_.tokens;
  const std::int64_t of_batch = d_.scenario.training.global_batch / (sequence ? 1 : z_.micro_batch);
  return {scopes, moe.experts, scope_tokens, moe.top_k, b.groups, of_batch, z_.own_tokens};
}

// Who goes where, and how many: kept also where the layer is computed again.
void VisitBuilder::choose(int layer, SavedMoe& s) {
  const MoeSpec& moe = d_.scenario.model.moe;
  const std::int64_t n = z_.own_tokens, E = moe.experts;
  s.choice = slot("router_choice", until_backward(BufferClass::saved_input), DType::i64,
                  {n, moe.top_k}, layer);
  s.sent = slot(kCounts, BufferClass::comm, DType::i32, {E}, layer);
  const std::int64_t scopes = moe.scope == BalanceScope::sequence ? z_.micro_batch : 1;
  s.aux = statistic("router_aux", BufferClass::comm, {2, scopes, E}, layer);
  Kernel route =
      routed(KernelKind::route_fwd, {z_.micro_batch, z_.own_sequence, E, moe.top_k, moe.groups,
                                     moe.groups_kept, z_.expert_capacity, z_.drop_slices});
  route.flags |= moe.scope == BalanceScope::microbatch ? kScopeMicrobatch : kScopeSequence;
  std::vector<Ref> inputs = {s.scores};
  if (moe.router == RouterKind::sigmoid) inputs.push_back(whole(tensors_.router_bias(layer)));
  call(route, inputs,
       {s.scores, s.choice, s.sent, s.aux, step_sum(tensors_.choices(layer)),
        step_sum(tensors_.dropped)});
  const std::vector<Balance> losses = balances();
  if (!losses.empty() && d_.comm("tp_cp").valid()) {
    communicate(OpKind::all_reduce, "aux", s.aux, {}, layer, Reduction::sum);
    ops_->back().comm = "tp_cp";
  }
  s.received = s.sent;
  if (z_.ep > 1) {
    s.received = slot("moe_counts_in", BufferClass::comm, DType::i32, {E}, layer);
    communicate(OpKind::all_to_all, "cnt", s.received, s.sent, layer);
    ops_->back().comm = "ep";
    VisitOp wait;
    wait.layer = layer;
    wait.kind = OpKind::host_wait;
    wait.buffer = s.received;
    ops_->push_back(std::move(wait));
  }
  if (z_.ep > 1 || (!losses.empty() && d_.comm("tp_cp").valid())) cut(layer);
  for (const Balance& b : losses) {
    Kernel k = kernel(KernelKind::balance_fwd, balance_dims(b));
    k.dims[6] = 0;  // rows: of the gradient only
    k.real = b.alpha;
    k.owner.add(Axis::tp).add(Axis::cp);
    call(k, {s.aux}, {step_sum(tensors_.balance)});
  }
}

Ref VisitBuilder::moe_forward(int layer, Ref x, SavedMoe& s) {
  const MoeSpec& moe = d_.scenario.model.moe;
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const std::int64_t n = z_.own_tokens, assignments = n * moe.top_k, E = moe.experts;
  s.norm_stat = statistic("norm2_stat", BufferClass::saved_input, norm_stat(), layer);
  s.norm_out = kept("norm2_out", BufferClass::saved_weight, own_, layer);
  norm_forward(x, at("norm2"), s.norm_out, s.norm_stat);
  s.scores = statistic("router_scores", BufferClass::saved_input, {n, E}, layer);
  call(kernel(KernelKind::router_fwd, {n, z_.hidden, E}),
       {s.norm_out, param(at("moe.router.weight"))}, {s.scores});
  if (again_)  // with the choice of before
    call(routed(KernelKind::router_scores_fwd, {n, E}), {s.scores}, {s.scores});
  else
    choose(layer, s);
  // To the experts.
  const Kernel dispatch = kernel(KernelKind::dispatch_fwd, {n, z_.hidden, E, moe.top_k});
  if (z_.ep > 1) {
    const Ref rows = kept("dispatched", BufferClass::comm, {assignments, z_.hidden}, layer);
    call(dispatch, {s.norm_out, s.choice}, {rows});
    const Ref arrived = expert_rows("arrived", BufferClass::comm, z_.hidden, s.received, layer);
    exchange("disp", rows, arrived, s.sent, s.received, layer);
    s.rows = expert_rows("expert_in", BufferClass::saved_weight, z_.hidden, s.received, layer);
    call(kernel(KernelKind::expert_sort, {z_.expert_rows, z_.hidden, z_.ep, z_.local_experts}),
         {arrived, s.received}, {s.rows});
  } else {
    s.rows = expert_rows("expert_in", BufferClass::saved_weight, z_.hidden, s.received, layer);
    call(dispatch, {s.norm_out, s.choice}, {s.rows});
  }
  const std::int64_t Fe = z_.expert_ffn;
  s.gate_up = expert_rows("expert_gate_up", BufferClass::saved_input, 2 * Fe, s.received, layer);
  call(expert_product(KernelKind::experts_linear_fwd, z_.hidden, 2 * Fe),
       {s.rows, param(at("moe.experts.gate_up.weight")), s.received}, {s.gate_up});
  s.inner = expert_rows("expert_swiglu", BufferClass::saved_weight, Fe, s.received, layer);
  call(kernel(KernelKind::experts_swiglu_fwd, {z_.expert_rows, Fe, z_.local_experts, z_.ep}),
       {s.gate_up, s.received}, {s.inner});
  const Ref made =
      expert_rows("expert_out", z_.ep > 1 ? BufferClass::activation : BufferClass::saved_input,
                  z_.hidden, s.received, layer);
  call(expert_product(KernelKind::experts_linear_fwd, Fe, z_.hidden),
       {s.inner, param(at("moe.experts.down.weight")), s.received}, {made});
  s.returned = made;
  if (z_.ep > 1) {  // and back to the tokens
    const Ref going = expert_rows("returning", BufferClass::comm, z_.hidden, s.received, layer);
    call(kernel(KernelKind::expert_unsort, {z_.expert_rows, z_.hidden, z_.ep, z_.local_experts}),
         {made, s.received}, {going});
    s.returned = kept("returned", BufferClass::saved_input, {assignments, z_.hidden}, layer);
    exchange("comb", going, s.returned, s.received, s.sent, layer);
  }
  if (again_) {  // nothing of the backward reads the sums
    if (moe.shared_experts > 0) dense_forward(layer, DensePart::shared, s.norm_out, s.shared);
    return {};
  }
  const Ref out = moving("moe_out", own_, layer);
  Kernel combine = routed(KernelKind::combine_fwd, {n, z_.hidden, E, moe.top_k});
  combine.real = moe.scale;
  call(combine, {s.returned, s.scores, s.choice}, {out});
  if (moe.shared_experts == 0) return out;
  const Ref shared = dense_forward(layer, DensePart::shared, s.norm_out, s.shared);
  cut(layer);
  const Ref both = moving("ffn_out", own_, layer);
  call(rows(KernelKind::residual_fwd), {out, shared}, {both});
  return both;
}

Ref VisitBuilder::moe_backward(int layer, Ref dy, const SavedMoe& s) {
  const MoeSpec& moe = d_.scenario.model.moe;
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const std::int64_t n = z_.own_tokens, assignments = n * moe.top_k, E = moe.experts;
  const std::int64_t Fe = z_.expert_ffn;
  const BufferClass moved = z_.ep > 1 ? BufferClass::comm : BufferClass::grad_activation;
  Ref d_rows = kept("d_returned", moved, {assignments, z_.hidden}, layer);
  const Ref d_scores = statistic("d_router", BufferClass::grad_activation, {n, E}, layer);
  Kernel combine = routed(KernelKind::combine_bwd_input, {n, z_.hidden, E, moe.top_k});
  combine.real = moe.scale;
  call(combine, {dy, s.returned, s.scores, s.choice}, {d_rows, d_scores});
  if (z_.ep > 1) {
    const Ref arrived = expert_rows("d_arrived", BufferClass::comm, z_.hidden, s.received, layer);
    exchange("comb", d_rows, arrived, s.sent, s.received, layer);
    d_rows =
        expert_rows("d_expert_out", BufferClass::grad_activation, z_.hidden, s.received, layer);
    call(kernel(KernelKind::expert_sort, {z_.expert_rows, z_.hidden, z_.ep, z_.local_experts}),
         {arrived, s.received}, {d_rows});
  }
  const Ref d_inner =
      expert_rows("d_expert_swiglu", BufferClass::grad_activation, Fe, s.received, layer);
  call(expert_product(KernelKind::experts_linear_bwd_input, Fe, z_.hidden),
       {d_rows, param(at("moe.experts.down.weight")), s.received}, {d_inner});
  const Ref d_gate_up =
      expert_rows("d_expert_gate_up", BufferClass::grad_activation, 2 * Fe, s.received, layer);
  call(kernel(KernelKind::experts_swiglu_bwd_input, {z_.expert_rows, Fe, z_.local_experts, z_.ep}),
       {d_inner, s.gate_up, s.received}, {d_gate_up});
  Ref d_in = expert_rows("d_expert_in", BufferClass::grad_activation, z_.hidden, s.received, layer);
  call(expert_product(KernelKind::experts_linear_bwd_input, z_.hidden, 2 * Fe),
       {d_gate_up, param(at("moe.experts.gate_up.weight")), s.received}, {d_in});
  if (z_.ep > 1) {
    const Ref going = expert_rows("d_returning", BufferClass::comm, z_.hidden, s.received, layer);
    call(kernel(KernelKind::expert_unsort, {z_.expert_rows, z_.hidden, z_.ep, z_.local_experts}),
         {d_in, s.received}, {going});
    d_in = kept("d_dispatched", BufferClass::comm, {assignments, z_.hidden}, layer);
    exchange("disp", going, d_in, s.received, s.sent, layer);
  }
  const Ref dx = gradient("d_norm2_out", own_, layer);
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
       {d_rows, s.inner, s.received}, {grad(at("moe.experts.down.weight"))}, product);
  call(expert_product(KernelKind::experts_linear_bwd_weight, z_.hidden, 2 * Fe),
       {d_gate_up, s.rows, s.received}, {grad(at("moe.experts.gate_up.weight"))}, product);
  call(kernel(KernelKind::router_bwd_weight, {n, z_.hidden, E}), {d_scores, s.norm_out},
       {grad(at("moe.router.weight"))}, scratch("scratch_router", {E, z_.hidden}, layer));
  if (moe.shared_experts == 0) return dx;
  const Ref d_shared = dense_backward(layer, DensePart::shared, dy, s.norm_out, s.shared);
  cut(layer);
  call(rows(KernelKind::residual_bwd_input), {dx, d_shared}, {dx});
  return dx;
}

}  // namespace tandem::lower
