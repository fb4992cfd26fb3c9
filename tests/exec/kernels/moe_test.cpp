// The kernels for experts one by one, where their rules can be seen: ties, groups, drops, balance,
// the bias, empty experts. The gradients are held to autograd by moe_layer_test.cpp.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>

#include "exec/device/torch_memory.h"
#include "tests/exec/kernels/moe_oracle.h"
#include "tests/exec/kernels/run.h"

namespace tandem::exec {
namespace {

std::vector<std::int64_t> integers(const Tensor& t) {
  const Tensor flat = t.to(at::kLong).contiguous();
  return {flat.data_ptr<std::int64_t>(), flat.data_ptr<std::int64_t>() + flat.numel()};
}
using Integers = std::vector<std::int64_t>;
template <class... N>
Integers list(N... values) {
  return {static_cast<std::int64_t>(values)...};
}

Tensor logit(double probability) {  // of a sigmoid
  return at::full({1}, std::log(probability / (1 - probability)), at::kDouble);
}
// Logits[n,E] whose sigmoids are the given ones.
Tensor logits_of(const std::vector<std::vector<double>>& scores) {
  std::vector<Tensor> rows;
  for (const auto& row : scores) {
    std::vector<Tensor> cells;
    for (const double p : row) cells.push_back(logit(p));
    rows.push_back(at::cat(cells));
  }
  return at::stack(rows);
}

}  // namespace

TEST_CASE("route: scores, statistics and counts of both routers") {
  for (const Types& t : kTypes)
    for (const std::uint32_t kind : {kSoftmax, kSigmoid})
      for (const std::uint32_t scope : {kScopeSequence, kScopeMicrobatch}) {
        CAPTURE(kind);
        CAPTURE(scope);
        const std::int64_t b = 3, s = 10, n = b * s, e = 6, k = 2;
        const Tensor logits = random({n, e}, t.scalar) * 4, bias = random({e}, t.scalar) * 0.2;
        const Tensor scores = kind == kSoftmax ? at::softmax(logits, -1) : at::sigmoid(logits);
        std::vector<Tensor> in = {logits.clone()};
        if (kind == kSigmoid) in.push_back(bias);
        Run r(make(K::route_fwd, {b, s, e, k, 1, 1}, kind | scope), t.plan, in);
        r();
        CHECK(error(r.outputs[0], scores) < t.tolerance);
        const Tensor rank = kind == kSoftmax ? r.outputs[0] : r.outputs[0] + bias;
        const Integers choice = oracle_choice(rank.reshape({n, e}), 1, 1, k);
        CHECK(integers(r.outputs[1]) == choice);
        // Row p * b + q is position p of sequence q.
        const Tensor prob = kind == kSoftmax ? scores : scores / scores.sum(1, true);
        const Tensor hot = at::one_hot(r.outputs[1].view({n, k}), e).sum(1);
        const Tensor by_sequence = at::stack({hot.to(t.scalar), prob}).view({2, s, b, e}).sum(1);
        const Tensor aux = scope == kScopeSequence ? by_sequence : by_sequence.sum(1, true);
        CHECK(at::equal(r.outputs[3][0], aux[0]));
        CHECK(error(r.outputs[3], aux) < t.tolerance);
        CHECK(integers(r.outputs[2]) == integers(hot.sum(0)));
        CHECK(integers(r.outputs[4]) == integers(hot.sum(0)));
        CHECK(r.outputs[5].item<double>() == 0);
        // What recomputation makes of the logits are the same bits.
        Run alone(make(K::router_scores_fwd, {n, e}, kind), t.plan, {logits.clone()});
        alone();
        CHECK(at::equal(alone.outputs[0], r.outputs[0].view({n, e})));
        // A second microbatch adds to the choices of the step, and to nothing else.
        Run more(r.kernel, t.plan, in);
        more.inputs[0] = more.outputs[0] = logits.clone();
        more.outputs[4] = r.outputs[4].clone(), more.outputs[5].fill_(5);
        more.accumulate[4] = more.accumulate[5] = true;
        more();
        CHECK(integers(more.outputs[4]) == integers(hot.sum(0) * 2));
        CHECK(integers(more.outputs[2]) == integers(hot.sum(0)));
        CHECK(more.outputs[5].item<double>() == 5);
        // Beside the logits, too.
        Run beside(r.kernel, t.plan, in);
        beside.inputs[0] = logits.clone();
        beside.outputs[0] = at::full_like(logits, 7);
        beside();
        CHECK(at::equal(beside.inputs[0], logits));
        CHECK(at::equal(beside.outputs[0], r.outputs[0].view({n, e})));
      }
}

// Logits on a coarse grid are equal often: the choice and the drops must follow the rules of ties.
TEST_CASE("route: ties, groups and capacity against sorting") {
  for (const Types& t : kTypes)
    for (const std::uint32_t kind : {kSoftmax, kSigmoid})
      for (const auto& [e, k, groups, kept] : std::vector<std::array<std::int64_t, 4>>{
               {8, 2, 1, 1}, {8, 3, 4, 2}, {8, 2, 8, 4}, {12, 5, 3, 2}, {4, 4, 2, 2}, {3, 1, 1, 1}})
        for (const std::int64_t capacity : {0, 1, 2, 5})
          for (const std::int64_t slices : {1, 3}) {
            CAPTURE(e);
            CAPTURE(k);
            CAPTURE(groups);
            CAPTURE(capacity);
            CAPTURE(slices);
            const std::int64_t b = 2, s = 12, n = b * s;
            const Tensor logits = at::randint(-2, 3, {n, e}, at::kLong).to(t.scalar);
            const Tensor bias = at::randint(-3, 2, {e}, at::kLong).to(t.scalar) * 0.5;
            std::vector<Tensor> in = {logits};
            if (kind == kSigmoid) in.push_back(bias);
            Run r(make(K::route_fwd, {b, s, e, k, groups, kept, capacity, slices},
                       kind | kScopeSequence),
                  t.plan, in);
            r();
            const Tensor scores = r.outputs[0].reshape({n, e});
            Integers choice =
                oracle_choice(kind == kSigmoid ? scores + bias : scores, groups, kept, k);
            const Tensor chosen = at::tensor(choice, at::kLong).view({n, k});
            Tensor sum = at::zeros({n, 1}, t.scalar);  // in slot order, as weights are defined
            for (std::int64_t i = 0; i < k; ++i)
              sum = sum + scores.gather(1, chosen.slice(1, i, i + 1));
            const Tensor weights = scores.gather(1, chosen) / sum;
            const Integers before = choice;
            if (capacity > 0) oracle_drop(choice, weights, e, capacity, n / slices);
            CHECK(integers(r.outputs[1]) == choice);
            Integers counts(static_cast<std::size_t>(e)), choices(static_cast<std::size_t>(e));
            std::int64_t lost = 0;
            for (std::size_t i = 0; i < choice.size(); ++i) {
              ++choices[static_cast<std::size_t>(before[i])];
              if (choice[i] >= 0)
                ++counts[static_cast<std::size_t>(choice[i])];
              else
                ++lost;
            }
            CHECK(integers(r.outputs[2]) == counts);
            CHECK(integers(r.outputs[4]) == choices);
            CHECK(r.outputs[5].item<double>() == static_cast<double>(lost));
          }
}

// Two groups of two; one is kept. By hand:
//   token 0  s  .9 .1 | .6 .6    groups 1.0 and 1.2: the second, although the best expert is
//   outside token 1  s  .5 .5 | .5 .5    all equal: the first group, its experts in order token 2
//   the bias of -2 makes all s' negative: experts outside stay out (they are minus infinity,
//            not 0)
TEST_CASE("route: experts outside the kept groups are never chosen") {
  const Tensor logits = logits_of({{.9, .1, .6, .6}, {.5, .5, .5, .5}, {.2, .3, .4, .8}});
  Run r(make(K::route_fwd, {1, 3, 4, 2, 2, 1}, kSigmoid | kScopeSequence), kTypes[0].plan,
        {logits, at::full({4}, -2, at::kDouble)});
  r();
  CHECK(integers(r.outputs[1]) == list(2, 3, 0, 1, 3, 2));
}

// Four tokens choose expert 0 with weights .9/1.0, .6/1.0, .6/1.0, .8/1.0 and expert 1 with the
// rest; each expert takes two rows. Expert 0 keeps tokens 0 and 3. Expert 1 has weights .1 .4 .4
// .2: it keeps 1 and 2. Of three equal ones the latest goes.
TEST_CASE("route: the lowest weight is dropped first, of equal ones the later token") {
  const PlanTypes f64 = kTypes[0].plan;
  Run r(make(K::route_fwd, {1, 4, 2, 2, 1, 1, 2, 1}, kSigmoid | kScopeSequence), f64,
        {logits_of({{.9, .1}, {.6, .4}, {.6, .4}, {.8, .2}}), at::zeros({2}, at::kDouble)});
  r();
  CHECK(integers(r.outputs[1]) == list(0, -2, -1, 1, -1, 1, 0, -2));
  CHECK(integers(r.outputs[2]) == list(2, 2));
  CHECK(r.outputs[5].item<double>() == 4);
  Run ties(make(K::route_fwd, {1, 3, 2, 1, 1, 1, 2}, kSoftmax | kScopeSequence), f64,
           {at::tensor({1.0, 0.0, 1.0, 0.0, 1.0, 0.0}, at::kDouble).view({3, 2})});
  ties();
  CHECK(integers(ties.outputs[1]) == list(0, 0, -1));
}

TEST_CASE("route: what is not a number still gives different experts") {
  const std::int64_t n = 6, e = 8, k = 3;
  for (const Types& t : kTypes)
    for (const std::uint32_t kind : {kSoftmax, kSigmoid}) {
      Tensor logits = random({n, e}, t.scalar);
      logits[0].fill_(std::numeric_limits<double>::quiet_NaN());
      logits[1][2] = std::numeric_limits<double>::quiet_NaN();
      logits[2][7] = std::numeric_limits<double>::infinity();
      logits[3].fill_(-std::numeric_limits<double>::infinity());
      std::vector<Tensor> in = {logits};
      if (kind == kSigmoid) in.push_back(at::zeros({e}, t.scalar));
      Run r(make(K::route_fwd, {1, n, e, k, 4, 2, 1, 1}, kind | kScopeSequence), t.plan, in);
      r();
      const Integers choice = integers(r.outputs[1]);
      for (std::int64_t token = 0; token < n; ++token) {
        std::set<std::int64_t> experts;
        for (std::int64_t slot = 0; slot < k; ++slot) {
          const std::int64_t c = choice[static_cast<std::size_t>(token * k + slot)];
          experts.insert(c < 0 ? -1 - c : c);
        }
        CHECK(experts.size() == static_cast<std::size_t>(k));
        CHECK(*experts.begin() >= 0);
        CHECK(*experts.rbegin() < e);
      }
    }
}

// One scope of 4 tokens, 4 experts, K 2: choices 4 2 1 1, so f = 4/(2*4) * choices = 2 1 .5 .5;
// sums of prob 2 1 .6 .4, so P = .5 .25 .15 .1.  sum f P = 1 + .25 + .075 + .05 = 1.375. In two
// groups f' = 1.5 .5, P' = .75 .25: 1.125 + .125 = 1.25. alpha/divisor = .5/10.
TEST_CASE("balance: by hand, for each expert and in groups; only the owner counts") {
  const PlanTypes f64 = kTypes[0].plan;
  const Tensor aux =
      at::tensor({4.0, 2.0, 1.0, 1.0, 2.0, 1.0, 0.6, 0.4}, at::kDouble).view({2, 1, 4});
  Kernel k = make(K::balance_fwd, {1, 4, 4, 2, 4, 10});
  k.real = 0.5;
  Run each(k, f64, {aux});
  each();
  CHECK(each.outputs[0].item<double>() == doctest::Approx(0.05 * 1.375).epsilon(1e-14));
  k.dims[4] = 2;
  k.owner.add(Axis::tp);
  Run groups(k, f64, {aux});
  groups.outputs[0].fill_(3);
  groups.accumulate = {true};
  groups();
  CHECK(groups.outputs[0].item<double>() == doctest::Approx(3 + 0.05 * 1.25).epsilon(1e-14));
  groups.context.coordinate[0] = 1;
  groups.outputs[0].fill_(3);
  groups();
  CHECK(groups.outputs[0].item<double>() == 3);
  groups.accumulate = {false};
  groups();
  CHECK(groups.outputs[0].item<double>() == 0);
  // The gradient of softmax scores is alpha/divisor f' / T for each of a group's experts.
  Kernel back = make(K::balance_bwd_input, {1, 4, 4, 2, 2, 10, 3}, kSoftmax);
  back.real = 0.5;
  Run d(back, f64, {aux, at::zeros({3, 4}, at::kDouble), at::ones({3, 4}, at::kDouble)});
  d();
  const Tensor row = at::tensor({1.5, 1.5, 0.5, 0.5}, at::kDouble) * (0.05 / 4) + 1;
  CHECK(error(d.outputs[0], row.expand({3, 4})) < 1e-15);
}

// Choices 5 3 4 4: the mean is 4. Choices of 2^30 do not overflow their sum. A mean of 7/3: 2 is
// below, 3 above, though whole numbers would round both to 2.
TEST_CASE("router bias: steps towards the mean, exactly") {
  for (const Types& t : kTypes) {
    const auto update = [&](const Integers& choices) {
      Kernel k = make(K::router_bias_update, {static_cast<std::int64_t>(choices.size())});
      k.real = 0.001;
      Run r(k, t.plan,
            {at::tensor(choices, at::kLong).to(at::kInt),
             at::ones({static_cast<std::int64_t>(choices.size())}, t.scalar)});
      r();
      const Tensor steps = (r.outputs[0].to(at::kDouble) - 1) / 0.001;
      CHECK(error(steps, steps.round()) < 1e-4);
      return integers(steps.round());
    };
    CHECK(update({5, 3, 4, 4}) == list(-1, 1, 0, 0));
    CHECK(update({2, 2, 3}) == list(1, 1, -1));
    constexpr std::int64_t big = 1 << 30;
    CHECK(update({big, big, big, big + 1, big - 1}) == list(0, 0, 0, -1, 1));
  }
}

TEST_CASE("dispatch and combine: order of the rows, and tokens that lose all their slots") {
  for (const Types& t : kTypes) {
    const std::int64_t n = 4, width = 3, e = 3, k = 2;
    // Token 1 loses one slot, token 2 both.
    const Tensor choice = at::tensor(list(2, 0, -1, 2, -3, -1, 0, 1), at::kLong).view({n, k});
    const Tensor x = at::arange(n, t.scalar).view({n, 1}).expand({n, width}).contiguous();
    Run send(make(K::dispatch_fwd, {n, width, e, k}), t.plan, {x, choice});
    send();
    // Expert 0: tokens 0 and 3; expert 1: token 3; expert 2: tokens 0 and 1. The rest is untouched.
    CHECK(integers(send.outputs[0].select(1, 0)) == list(0, 3, 3, 0, 1, 7, 7, 7));
    Run back(make(K::dispatch_bwd_input, {n, width, e, k}), t.plan, {send.outputs[0], choice});
    back();
    CHECK(integers(back.outputs[0].select(1, 2)) == list(0, 1, 0, 6));
    const Tensor scores = at::full({n, e}, 0.25, t.scalar);
    Kernel combine = make(K::combine_fwd, {n, width, e, k}, kSoftmax);
    combine.real = 4;  // weights of 2
    Run y(combine, t.plan, {send.outputs[0], scores, choice});
    y();
    CHECK(integers(y.outputs[0].select(1, 1)) == list(0, 2, 0, 12));
    combine.kind = K::combine_bwd_input;
    const Tensor dy = at::ones({n, width}, t.scalar);
    Run d(combine, t.plan, {dy, send.outputs[0], scores, choice});
    d();
    CHECK(integers(d.outputs[0].select(1, 0)) == list(2, 2, 2, 2, 2, 7, 7, 7));
    CHECK(at::equal(d.outputs[1][2], at::zeros({e}, t.scalar)));
    // Token 1: d weight of slot 0 (dropped) is 0, of slot 1 <dy, row> = 3; both feel the sum.
    // scale/D (g - G/D) with D = .5, G = .25 * 3: 8 (0 - 1.5) and 8 (3 - 1.5).
    CHECK(integers(d.outputs[1][1]) == list(-12, 0, 12));
  }
}

TEST_CASE("experts: sorting by source and expert, with empty blocks, and back") {
  for (const Types& t : kTypes) {
    const std::int64_t sources = 3, experts = 2, width = 5;
    const Tensor counts = at::tensor(list(2, 1, 0, 0, 0, 3), at::kLong).to(at::kInt);
    const Tensor rows = random({8, width}, t.scalar);  // room for two rows more than there are
    Run sort(make(K::expert_sort, {8, width, sources, experts}), t.plan, {rows, counts});
    sort();
    const Tensor order = at::tensor(list(0, 1, 2, 3, 4, 5), at::kLong);
    CHECK(at::equal(sort.outputs[0].slice(0, 0, 6), rows.index_select(0, order)));
    CHECK(at::equal(sort.outputs[0].slice(0, 6), at::full({2, width}, 7, t.scalar)));
    const Tensor mixed = at::tensor(list(1, 2, 1, 1, 0, 1), at::kLong).to(at::kInt);
    Run other(make(K::expert_sort, {8, width, sources, experts}), t.plan, {rows, mixed});
    other();
    const Tensor expected = at::tensor(list(0, 3, 1, 2, 4, 5), at::kLong);
    CHECK(at::equal(other.outputs[0].slice(0, 0, 6), rows.index_select(0, expected)));
    Run back(make(K::expert_unsort, {8, width, sources, experts}), t.plan,
             {other.outputs[0], mixed});
    back();
    CHECK(at::equal(back.outputs[0].slice(0, 0, 6), rows.slice(0, 0, 6)));
  }
}

TEST_CASE("experts: an expert without rows, and no rows at all") {
  for (const Types& t : kTypes)
    for (const bool none : {false, true}) {
      CAPTURE(none);
      const std::int64_t rows = 4, in = 6, out = 3, experts = 3, sources = 2;
      const Integers sent = none ? list(0, 0, 0, 0, 0, 0) : list(1, 0, 2, 0, 0, 1);
      const Tensor counts = at::tensor(sent, at::kLong).to(at::kInt);
      const Tensor x = random({rows, in}, t.scalar), dy = random({rows, out}, t.scalar);
      const Tensor w = random({experts, out, in}, t.scalar);
      const KernelDims dims = {rows, in, out, experts, sources};
      Run f(make(K::experts_linear_fwd, dims), t.plan, {x, w, counts});
      f();
      Run i(make(K::experts_linear_bwd_input, dims), t.plan, {dy, w, counts});
      i();
      Run g(make(K::experts_linear_bwd_weight, dims), t.plan, {dy, x, counts});
      g();
      CHECK(at::equal(g.outputs[0][1], at::zeros({out, in}, t.scalar)));
      Run s(make(K::experts_swiglu_fwd, {rows, in / 2, experts, sources}), t.plan, {x, counts});
      s();
      Run d(make(K::experts_swiglu_bwd_input, {rows, in / 2, experts, sources}), t.plan,
            {random({rows, in / 2}, t.scalar), x, counts});
      d();
      if (none) {
        for (const Run* r : {&f, &i, &s, &d})
          CHECK(at::equal(r->outputs[0], at::full_like(r->outputs[0], 7)));
        CHECK(at::equal(g.outputs[0], at::zeros_like(w)));
      } else {
        CHECK(error(f.outputs[0][0], at::matmul(w[0], x[0])) < t.tolerance);
        CHECK(error(f.outputs[0].slice(0, 1), at::matmul(x.slice(0, 1), w[2].t())) < t.tolerance);
        CHECK(error(i.outputs[0].slice(0, 1), at::matmul(dy.slice(0, 1), w[2])) < t.tolerance);
        CHECK(error(g.outputs[0][2], at::matmul(dy.slice(0, 1).t(), x.slice(0, 1))) < t.tolerance);
      }
      const Tensor once = g.outputs[0].clone();
      g.accumulate = {true};
      g();
      CHECK(at::equal(g.outputs[0], once + once));
    }
}

TEST_CASE("router: dx is added to, in place or beside") {
  for (const int threads : {1, 2}) {  // two: LibTorch's product in fp32, too
    at::set_num_threads(threads);
    for (const Types& t : kTypes) {
      const std::int64_t n = 9, in = 140, e = 6;
      const Tensor dlogits = random({n, e}, t.scalar), w = random({e, in}, t.scalar),
                   dx = random({n, in}, t.scalar);
      const Tensor expected =
          dx.to(at::kDouble) + at::matmul(dlogits.to(at::kDouble), w.to(at::kDouble));
      Run place(make(K::router_bwd_input, {n, in, e}), t.plan, {dlogits, w, dx.clone()});
      place();
      CHECK(error(place.outputs[0], expected) < t.tolerance);
      Run beside(make(K::router_bwd_input, {n, in, e}), t.plan, {dlogits, w, dx.clone()});
      beside.outputs[0] = at::full_like(dx, 7);
      beside();
      CHECK(at::equal(beside.outputs[0], place.outputs[0]));
      CHECK(at::equal(beside.inputs[2], dx));
    }
  }
  at::set_num_threads(1);
}

TEST_CASE("metrics: balance and dropped assignments have their slots") {
  const PlanTypes f64 = kTypes[0].plan;
  const auto value = [](double v) { return at::full({1}, v, at::kDouble); };
  Run all(make(K::metrics_pack, {8}, kHasNorm | kHasLoss | kHasBalance | kHasDropped), f64,
          {value(16), value(2.5), value(0.25), value(3)});
  all();
  CHECK(all.outputs[0][kMetricNormSquared].item<double>() == 16);
  CHECK(all.outputs[0][kMetricLoss].item<double>() == 2.5);
  CHECK(all.outputs[0][kMetricBalance].item<double>() == 0.25);
  CHECK(all.outputs[0][kMetricDropped].item<double>() == 3);
  Run some(make(K::metrics_pack, {8}, kHasDropped), f64, {value(4)});
  some.outputs[0] = all.outputs[0];
  some.accumulate = {true};
  some();
  CHECK(some.outputs[0][kMetricDropped].item<double>() == 7);
  CHECK(some.outputs[0].sum().item<double>() == 16 + 2.5 + 0.25 + 7);
}

TEST_CASE("prepare refuses sizes that do not go together") {
  const PlanTypes f64 = kTypes[0].plan;
  const auto refused = [&](KernelDims dims, std::uint32_t flags) {
    Run r(make(K::route_fwd, dims, flags), f64, {at::zeros({24 * 8}, at::kDouble)});
    const Result<Prepared> p = r.prepared();
    return !p.ok() && p.error().diagnostics[0].code == "E-EXEC-035";
  };
  const std::uint32_t flags = kSoftmax | kScopeSequence;
  CHECK_FALSE(refused({2, 12, 8, 2, 1, 1}, flags));
  CHECK(refused({2, 12, 8, 2, 3, 1}, flags));           // groups of 8/3 experts
  CHECK(refused({2, 12, 8, 3, 4, 1}, flags));           // 3 of a group of 2
  CHECK(refused({2, 12, 8, 2, 4, 5}, flags));           // 5 of 4 groups
  CHECK(refused({2, 12, 8, 2, 1, 1, 4, 5}, flags));     // 12 positions in 5 parts
  CHECK(refused({2, 12, 8, 2, 1, 1}, kScopeSequence));  // neither softmax nor sigmoid
  CHECK(refused({2, 12, 8, 2, 1, 1}, kSoftmax));        // no scope
}

}  // namespace tandem::exec
