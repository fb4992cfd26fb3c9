// The oracle's rules for experts (models.md 2.5, 8a) on cases small enough to work out by hand:
// ties, groups, weights, the limit of capacity and its slices, balance losses, biases.
#include "exec/train/reference_moe.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "exec/train/reference.h"

namespace tandem::exec {
namespace {

using at::Tensor;
using Ints = std::vector<std::int64_t>;

// scores[b, S, E] or any other shape, from its elements.
Tensor real(const std::vector<double>& values, at::IntArrayRef sizes) {
  return at::tensor(values, at::kDouble).view(sizes);
}
Tensor whole(const Ints& values, at::IntArrayRef sizes) {
  return at::tensor(values, at::kLong).view(sizes);
}
Ints elements(const Tensor& t) {
  const Tensor flat = t.to(at::kLong).contiguous();
  const std::int64_t* p = flat.const_data_ptr<std::int64_t>();
  return {p, p + flat.numel()};
}

MoeSpec experts(int count, int top_k) {
  MoeSpec m;
  m.experts = count;
  m.top_k = top_k;
  m.expert_hidden = 4;
  return m;
}
const Tensor kNoBias = at::zeros({1}, at::kDouble);

}  // namespace

TEST_CASE("experts: the best first, ties to the lower index") {
  const Tensor scores = real({0.1, 0.4, 0.2, 0.3,  //
                              0.3, 0.3, 0.3, 0.1,  //
                              0.1, 0.2, 0.5, 0.2},
                             {1, 3, 4});
  CHECK(elements(choose_experts(scores, kNoBias, experts(4, 2))) == Ints{1, 3, 0, 1, 2, 1});
  // A router that knows nothing takes the first experts, whatever their number.
  CHECK(elements(choose_experts(at::zeros({1, 1, 64}, at::kDouble), kNoBias, experts(64, 4))) ==
        Ints{0, 1, 2, 3});
}

TEST_CASE("experts: a bias moves the choice, not the weights") {
  MoeSpec m = experts(4, 2);
  m.router = RouterKind::sigmoid;
  m.scale = 1.5;
  const Tensor scores = real({0.8, 0.4, 0.2, 0.1}, {1, 1, 4});
  const Tensor choice = choose_experts(scores, real({0, 0, 0, 0.5}, {4}), m);
  CHECK(elements(choice) == Ints{0, 3});  // 0.8, 0.6
  const Tensor weights = routing_weights(scores, choice, m);
  CHECK(weights[0][0][0].item<double>() == doctest::Approx(1.5 * 0.8 / 0.9).epsilon(1e-14));
  CHECK(weights[0][0][1].item<double>() == doctest::Approx(1.5 * 0.1 / 0.9).epsilon(1e-14));
  m.router = RouterKind::softmax;  // has no scale
  CHECK(routing_weights(scores, choice, m).sum().item<double>() == doctest::Approx(1));
}

// Groups {0,1,2}, {3,4,5}: a group counts by its two best.
TEST_CASE("experts: only those of the best groups, by the sum of their two best") {
  MoeSpec m = experts(6, 2);
  m.router = RouterKind::sigmoid;
  m.groups = 2, m.groups_kept = 1;
  // 0.9 + 0.1 against 0.6 + 0.5: the best expert stays outside.
  const Tensor scores = real({0.9, 0.1, 0.1, 0.5, 0.6, 0.2}, {1, 1, 6});
  CHECK(elements(choose_experts(scores, kNoBias, m)) == Ints{4, 3});
  // Three of one group do not count: 0.4 * 3 > 1.1 but 0.8 < 1.1.
  const Tensor flat = real({0.4, 0.4, 0.4, 0.6, 0.5, 0.0}, {1, 1, 6});
  CHECK(elements(choose_experts(flat, kNoBias, m)) == Ints{3, 4});
  // Equal groups: the lower one.
  const Tensor equal = real({0.5, 0.1, 0.4, 0.4, 0.2, 0.5}, {1, 1, 6});
  CHECK(elements(choose_experts(equal, kNoBias, m)) == Ints{0, 2});
  // Style nano_train: by the best expert alone.
  m.group_max = true;
  CHECK(elements(choose_experts(scores, kNoBias, m)) == Ints{0, 1});
  m.group_max = false;
  // Groups of one expert count by it alone.
  m.groups = 6, m.groups_kept = 2;
  CHECK(elements(choose_experts(equal, kNoBias, m)) == Ints{0, 5});
}

// All biased scores are negative: were experts outside the kept group 0, they would win.
TEST_CASE("experts: outside the kept groups a score is minus infinity, not 0") {
  MoeSpec m = experts(6, 2);
  m.router = RouterKind::sigmoid;
  m.groups = 2, m.groups_kept = 1;
  const Tensor scores = real({0.2, 0.3, 0.1, 0.5, 0.6, 0.4}, {1, 1, 6});
  CHECK(elements(choose_experts(scores, at::full({6}, -1.0, at::kDouble), m)) == Ints{4, 3});
}

TEST_CASE("experts: slices of positions, as sequence parallel and zig-zag parts cut them") {
  using Slices = std::vector<int>;
  CHECK(drop_slices(8, 1, 1) == Slices{0, 0, 0, 0, 0, 0, 0, 0});
  CHECK(drop_slices(8, 4, 1) == Slices{0, 0, 1, 1, 2, 2, 3, 3});
  // cp 2: part 0 holds chunks 0 and 3 of four, part 1 the two between.
  CHECK(drop_slices(8, 2, 2) == Slices{0, 0, 1, 1, 1, 1, 0, 0});
  CHECK(drop_slices(8, 4, 2) == Slices{0, 0, 2, 2, 3, 3, 1, 1});
  // Three runs of two positions in each part of 6: the middle one lies in both chunks.
  CHECK(drop_slices(12, 6, 2) == Slices{0, 0, 1, 3, 3, 4, 4, 5, 5, 1, 2, 2});
}

// Two sequences of two positions, one expert each; rows are position * 2 + sequence.
TEST_CASE("experts: beyond its capacity an expert drops the lowest weights, then later rows") {
  MoeSpec m = experts(2, 1);
  m.drop_groups = 1;
  m.capacity_factor = 0.75;  // ceil(0.75 * 4 * 1 / 2) = 2 rows an expert
  const Tensor all_to_0 = at::zeros({2, 2, 1}, at::kLong);
  const Tensor weights = real({0.4, 0.3,  // sequence 0: rows 0 and 2
                               0.1, 0.2},
                              {2, 2, 1});
  CHECK(elements(kept_assignments(all_to_0, weights, m, 1)) == Ints{1, 1, 0, 0});
  // Equal weights: rows 0 and 1 stay, the first position of both sequences.
  const Tensor equal = at::ones({2, 2, 1}, at::kDouble);
  CHECK(elements(kept_assignments(all_to_0, equal, m, 1)) == Ints{1, 0, 1, 0});
  // Each expert has its own limit.
  CHECK(elements(kept_assignments(whole({0, 1, 0, 0}, {2, 2, 1}), equal, m, 1)) ==
        Ints{1, 1, 1, 0});
  // Each slice too: of two rows ceil(0.75 * 2 / 2) = 1 stays, here the heavier.
  m.drop_groups = 2;
  CHECK(elements(kept_assignments(all_to_0, weights, m, 1)) == Ints{1, 1, 0, 0});
  CHECK(elements(kept_assignments(all_to_0, real({1, 2, 3, 1}, {2, 2, 1}), m, 1)) ==
        Ints{0, 1, 1, 0});
  // Always one row.
  m.capacity_factor = 1e-9;
  m.drop_groups = 1;
  CHECK(elements(kept_assignments(all_to_0, weights, m, 1)) == Ints{1, 0, 0, 0});
  m.capacity_factor.reset();
  CHECK(elements(kept_assignments(all_to_0, weights, m, 1)) == Ints{1, 1, 1, 1});
}

// f = E/(KT) count = (4/4) {3, 1, 0, 0}, P = means of the columns.
TEST_CASE("balance losses: experts and groups of experts, before any drop") {
  MoeSpec m = experts(4, 1);
  m.expert_loss = 0.1;
  const std::vector<double> rows = {0.7, 0.1, 0.1, 0.1, 0.4, 0.2, 0.2, 0.2,
                                    0.5, 0.3, 0.1, 0.1, 0.2, 0.6, 0.1, 0.1};
  const Tensor scores = real(rows, {1, 4, 4});
  const Tensor choice = whole({0, 0, 0, 1}, {1, 4, 1});
  const double p0 = 1.8 / 4, p1 = 1.2 / 4, p23 = 0.5 / 4;
  CHECK(balance_loss(scores, choice, m).item<double>() ==
        doctest::Approx(0.1 * (3 * p0 + p1)).epsilon(1e-14));
  m.device_loss = 0.01, m.device_groups = 2;  // f' = 2, 0; P' = p0 + p1, 2 p23
  CHECK(balance_loss(scores, choice, m).item<double>() ==
        doctest::Approx(0.1 * (3 * p0 + p1) + 0.01 * 2 * (p0 + p1)).epsilon(1e-14));
  CHECK(p0 + p1 + 2 * p23 == doctest::Approx(1));
  // The same tokens as two sequences: a scope each, or one scope together.
  m.device_loss = 0;
  const Tensor pair = scores.view({2, 2, 4}), chosen = choice.view({2, 2, 1});
  CHECK(balance_loss(pair, chosen, m).item<double>() ==
        doctest::Approx(0.1 * (4 * 0.55 + 2 * 0.35 + 2 * 0.45)).epsilon(1e-14));
  m.scope = BalanceScope::microbatch;
  CHECK(balance_loss(pair, chosen, m).item<double>() ==
        doctest::Approx(0.1 * (3 * p0 + p1)).epsilon(1e-14));
  // Sigmoid scores count by their share: doubled scores change nothing.
  m.router = RouterKind::sigmoid;
  CHECK(balance_loss(pair * 2, chosen, m).item<double>() ==
        doctest::Approx(0.1 * (3 * p0 + p1)).epsilon(1e-14));
}

TEST_CASE("router biases follow the counts by whole steps") {
  Tensor bias = real({0.5, 0, 0, 0}, {4});
  update_router_bias(bias, {4, 1, 2, 1}, 0.25);  // mean 2
  CHECK(at::equal(bias, real({0.25, 0.25, 0, 0.25}, {4})));
  update_router_bias(bias, {1, 1, 1, 2}, 0.25);  // mean 1.25, no integer
  CHECK(at::equal(bias, real({0.5, 0.5, 0.25, 0}, {4})));
}

// A run with drops: another loss than without, the same counts in the first layer, and gradients
// for every expert even where it takes no token.
TEST_CASE("autograd reference: drops change the loss, slices which rows are dropped") {
  TrainingConfig c;
  c.family = "mixtral";
  c.steps = 1, c.warmup_steps = 0;
  c.layers = 2, c.hidden = 16, c.heads = 2, c.ffn_hidden = 16, c.vocab = 32;
  c.sequence = 8, c.global_batch = 4, c.micro_batch = 2;
  c.tied_embeddings = false;
  c.init = "test", c.precision = "fp64", c.data_kind = "random";
  c.moe = experts(16, 2);
  c.moe.expert_loss = 0.01;
  const ReferenceStep none = run_reference(c, 1)->steps[0];
  CHECK(none.dropped == 0);
  std::int64_t assignments = 0;
  for (std::int64_t n : none.choices.at(0)) assignments += n;
  CHECK(assignments == 4 * 8 * 2);
  c.moe.capacity_factor = 0.5;
  c.moe.drop_groups = 1;  // ceil(0.5 * 16 * 2 / 16) = 1 row an expert and microbatch
  const ReferenceStep one = run_reference(c, 1)->steps[0];
  CHECK(one.choices.at(0) == none.choices.at(0));
  // Of 2 layers, 2 microbatches and 16 experts no more than one row each is kept.
  CHECK(one.dropped >= 2 * assignments - 2 * 2 * 16);
  CHECK(std::abs(one.loss - none.loss) > 1e-6);
  CHECK(one.gradients.size() == none.gradients.size());
  c.moe.drop_groups = 4;
  const ReferenceStep four = run_reference(c, 1)->steps[0];
  CHECK(four.dropped < one.dropped);
  c.cp = 2;  // four zig-zag slices of two positions are the same four sets
  CHECK(run_reference(c, 1)->steps[0].loss == four.loss);
  c.moe.drop_groups = 2;  // halves against outer and inner quarters
  const double zigzag = run_reference(c, 1)->steps[0].loss;
  c.cp = 1;
  CHECK(std::abs(run_reference(c, 1)->steps[0].loss - zigzag) > 1e-9);
}

// A microbatch's scopes weigh 1/B or 1/m: with one sequence a microbatch both are the same loss.
TEST_CASE("autograd reference: scopes are averaged over the whole batch") {
  TrainingConfig c;
  c.family = "deepseek_v3";
  c.steps = 1, c.warmup_steps = 0;
  c.layers = 2, c.hidden = 16, c.heads = 2, c.ffn_hidden = 16, c.vocab = 32;
  c.sequence = 8, c.global_batch = 4, c.micro_batch = 1;
  c.tied_embeddings = false;
  c.init = "test", c.precision = "fp64", c.data_kind = "random";
  c.mla = {.q_rank = 0, .kv_rank = 6, .nope_dim = 4, .rope_dim = 2, .v_dim = 6};
  c.moe = experts(4, 2);
  c.moe.router = RouterKind::sigmoid;
  c.moe.expert_loss = 0.5;
  const double sequence = run_reference(c, 0)->steps[0].balance;
  c.moe.scope = BalanceScope::microbatch;
  CHECK(run_reference(c, 0)->steps[0].balance == doctest::Approx(sequence).epsilon(1e-13));
  c.micro_batch = 4;
  const double together = run_reference(c, 0)->steps[0].balance;
  CHECK(together != doctest::Approx(sequence).epsilon(1e-6));
  // Perfect balance gives the sum of the weights: two layers of 0.5.
  CHECK(together > 0.9);
  CHECK(together < 1.5);
  c.micro_batch = 1;
  c.moe.scope = BalanceScope::sequence;
  // q_rank 0: one matrix for q; no other parameters of it.
  const Result<ReferenceRun> run = run_reference(c, 0);
  CHECK(run->parameters.at("layers.0.attn.q.weight").rows == 2 * (4 + 2));
  CHECK(!run->parameters.contains("layers.0.attn.q_norm.weight"));
  CHECK(run->parameters.at("layers.0.attn.kv_a.weight").rows == 6 + 2);
  CHECK(run->parameters.at("layers.0.attn.kv_b.weight").rows == 2 * (4 + 6));
  CHECK(run->parameters.at("layers.0.attn.o.weight").columns == 2 * 6);
}

}  // namespace tandem::exec
