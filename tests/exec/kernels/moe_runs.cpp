#include "tests/exec/kernels/moe_runs.h"

namespace tandem::exec {

Tensor balanced_choice(std::int64_t tokens, std::int64_t top_k, std::int64_t experts) {
  return at::arange(tokens * top_k, at::kLong).remainder(experts).view({tokens, top_k});
}

std::vector<Run> moe_runs(const Types& t) {
  const std::int64_t b = 2, s = 8, n = b * s, width = 12, e = 8, k = 2, rows = n * k, hidden = 10;
  const std::int64_t local = 4, sources = 2;
  const Tensor x = random({n, width}, t.scalar), wide = random({rows, width}, t.scalar);
  const Tensor logits = random({n, e}, t.scalar), scores = at::softmax(logits, -1);
  const Tensor router = random({e, width}, t.scalar), choice = balanced_choice(n, k, e);
  const Tensor aux = at::ones({2, b, e}, t.scalar), bias = at::zeros({e}, t.scalar);
  const Tensor counts = at::full({sources, local}, rows / (sources * local), at::kInt);
  const Tensor out = random({rows, hidden}, t.scalar), both = random({rows, 2 * hidden}, t.scalar);
  const Tensor weight = random({local, hidden, width}, t.scalar);
  std::vector<Run> runs;
  const auto add = [&](Kernel kernel, std::vector<Tensor> in) {
    runs.emplace_back(kernel, t.plan, std::move(in));
  };
  add(make(K::router_fwd, {n, width, e}), {x, router});
  add(make(K::router_bwd_input, {n, width, e}), {logits, router, x.clone()});
  add(make(K::router_bwd_weight, {n, width, e}), {logits, x});
  add(make(K::route_fwd, {b, s, e, k, 4, 2, 3, 2}, kSigmoid | kScopeSequence),
      {logits.clone(), bias});
  add(make(K::route_fwd, {b, s, e, k, 1, 1}, kSoftmax | kScopeMicrobatch), {logits.clone()});
  add(make(K::balance_fwd, {b, e, s, k, 4, 8}), {aux});
  for (const std::uint32_t kind : {kSoftmax, kSigmoid}) {
    add(make(K::balance_bwd_input, {b, e, s, k, 4, 8, n}, kind), {aux, scores, scores.clone()});
    add(make(K::router_scores_fwd, {n, e}, kind), {logits.clone()});
    add(make(K::route_bwd_input, {n, e}, kind), {scores.clone(), scores});
    add(make(K::combine_fwd, {n, width, e, k}, kind), {wide, scores, choice});
    add(make(K::combine_bwd_input, {n, width, e, k}, kind), {x, wide, scores, choice});
  }
  add(make(K::dispatch_fwd, {n, width, e, k}), {x, choice});
  add(make(K::dispatch_bwd_input, {n, width, e, k}), {wide, choice});
  add(make(K::expert_sort, {rows, width, sources, local}), {wide, counts});
  add(make(K::expert_unsort, {rows, width, sources, local}), {wide, counts});
  const KernelDims linear = {rows, width, hidden, local, sources};
  add(make(K::experts_linear_fwd, linear), {wide, weight, counts});
  add(make(K::experts_linear_bwd_input, linear), {out, weight, counts});
  add(make(K::experts_linear_bwd_weight, linear), {out, wide, counts});
  add(make(K::experts_swiglu_fwd, {rows, hidden, local, sources}), {both, counts});
  add(make(K::experts_swiglu_bwd_input, {rows, hidden, local, sources}), {out, both, counts});
  add(make(K::label_rows_fwd, {n, e, k, sources}, kSigmoid), {choice, scores});
  add(make(K::narrow_counts, {sources}), {at::full({sources}, rows / sources, at::kLong)});
  add(make(K::count_rows, {rows, sources, local}),
      {at::arange(rows, at::kLong).remainder(local),
       at::full({sources}, rows / sources, at::kLong)});
  add(make(K::router_bias_update, {e}), {at::arange(e, at::kInt), bias.clone()});
  return runs;
}

}  // namespace tandem::exec
