// Goal    the kernels of mapping and style nano_train: own rows, scaled gradients, labels of rows,
//         counts from labels, groups by their best expert, losses from labels alone.
// Method  loops over the definitions of common/model/kernels.h, and known cases.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "tests/exec/kernels/run.h"

namespace tandem::exec {
namespace {

// A choice with dropped assignments (-1 - expert), K different experts a token.
Tensor choice_with_drops(std::int64_t n, std::int64_t k, std::int64_t e) {
  Tensor choice = at::empty({n, k}, at::kLong);
  auto* p = choice.mutable_data_ptr<std::int64_t>();
  for (std::int64_t t = 0; t < n; ++t)
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t expert = (t * 5 + i * 3) % e;
      p[t * k + i] = (t + i) % 4 == 3 ? -1 - expert : expert;
    }
  return choice;
}

}  // namespace

TEST_CASE("own_rows_fwd: the part of the rows that the coordinate says") {
  for (const Types& t : kTypes)
    for (const int rank : {0, 1, 2}) {
      const Tensor x = random({12, 5}, t.scalar);
      Run run(make(K::own_rows_fwd, {4, 5, 3}), t.plan, {x});
      run.kernel.coords.add(Axis::tp);
      run.context.coordinate[static_cast<std::size_t>(Axis::tp)] = rank;
      run.context.size[static_cast<std::size_t>(Axis::tp)] = 3;
      run();
      CHECK(at::equal(run.outputs[0], x.slice(0, 4 * rank, 4 * rank + 4)));
    }
}

TEST_CASE("grad_scale: in place, every element") {
  for (const Types& t : kTypes) {
    const Tensor g = random({37}, t.scalar), before = g.clone();
    Run run(make(K::grad_scale, {37}), t.plan, {g});
    run.kernel.real = 0.25;
    run();
    CHECK(at::equal(run.outputs[0], before * 0.25));
  }
}

TEST_CASE("snapshot: every bit, of the main type or of values") {
  for (const Types& t : kTypes)
    for (const bool values : {false, true}) {
      const Tensor a = random({37}, values ? at::kDouble : t.scalar);
      Run run(make(K::snapshot, {37}, values ? std::uint32_t{kValues} : 0), t.plan, {a});
      run();
      CHECK(at::equal(run.outputs[0], a));
    }
}

// Rows by (expert, token, slot) without the dropped ones; two members with four experts each.
TEST_CASE("label_rows_fwd: token, slot, local expert and weight of each row, and their counts") {
  const std::int64_t n = 11, e = 8, k = 2, members = 2, local = e / members;
  for (const Types& t : kTypes)
    for (const std::uint32_t kind : {kSoftmax, kSigmoid}) {
      const Tensor choice = choice_with_drops(n, k, e);
      const Tensor scores = at::sigmoid(random({n, e}, t.scalar));
      Run run(make(K::label_rows_fwd, {n, e, k, members}, kind), t.plan, {choice, scores});
      run.kernel.real = 1.5;
      run();
      std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t>>
          rows;  // expert, token, slot
      for (std::int64_t token = 0; token < n; ++token)
        for (std::int64_t slot = 0; slot < k; ++slot)
          if (const auto c = choice[token][slot].item<std::int64_t>(); c >= 0)
            rows.emplace_back(c, token, slot);
      const auto sent = static_cast<std::int64_t>(rows.size());
      REQUIRE(sent < n * k);
      std::sort(rows.begin(), rows.end());
      std::vector<std::int64_t> counts(members, 0);
      for (std::int64_t r = 0; r < sent; ++r) {
        const auto [expert, token, slot] = rows[static_cast<std::size_t>(r)];
        CHECK(run.outputs[0][r].item<std::int64_t>() == token);
        CHECK(run.outputs[1][r].item<std::int64_t>() == slot);
        CHECK(run.outputs[2][r].item<std::int64_t>() == expert % local);
        double sum = 0;  // of all slots, dropped ones too
        for (std::int64_t i = 0; i < k; ++i) {
          const auto c = choice[token][i].item<std::int64_t>();
          sum += scores[token][c < 0 ? -1 - c : c].item<double>();
        }
        const double weight = 1.5 * scores[token][expert].item<double>() / sum;
        CHECK(run.outputs[3][r].item<double>() == doctest::Approx(weight).epsilon(1e-5));
        ++counts[static_cast<std::size_t>(expert / local)];
      }
      for (std::int64_t m = 0; m < members; ++m)
        CHECK(run.outputs[4][m].item<std::int64_t>() == counts[static_cast<std::size_t>(m)]);
      CHECK(run.outputs[5][0].item<int>() == n);
      CHECK(run.outputs[6][0].item<int>() == n * k - sent);
      CHECK(run.outputs[6][1].item<int>() == n * k);
    }
}

// 5 rows from member 0, none from 1, 3 from 2; room for two rows more.
TEST_CASE("narrow_counts, count_rows: rows of each local expert by source") {
  const Types& t = kTypes[0];
  const Tensor counts = at::tensor({5, 0, 3}, at::kLong);
  Run narrow(make(K::narrow_counts, {3}), t.plan, {counts});
  narrow();
  CHECK(at::equal(narrow.outputs[0], at::tensor({5, 0, 3}, at::kInt)));
  const Tensor expert = at::tensor({0, 0, 1, 1, 1, 0, 1, 1, 99, 99}, at::kLong);
  Run count(make(K::count_rows, {10, 3, 2}), t.plan, {expert, counts});
  count();
  CHECK(at::equal(count.outputs[0], at::tensor({2, 3, 0, 0, 1, 2}, at::kInt).view({3, 2})));
}

// Groups {0,1}, {2,3}: the pair sums choose the first group, the best expert is in the second.
TEST_CASE("route_fwd: a group counts by its two best experts, or by its best") {
  for (const Types& t : kTypes)
    for (const bool best : {false, true}) {
      const Tensor scores = at::tensor({0.6, 0.6, 0.9, 0.1}, t.scalar).view({1, 4});
      const Tensor logits = at::log(scores / (1 - scores));
      const std::uint32_t group = best ? std::uint32_t{kGroupMax} : 0;
      Run run(make(K::route_fwd, {1, 1, 4, 1, 2, 1}, kSigmoid | kScopeMicrobatch | group), t.plan,
              {logits.clone(), at::zeros({4}, t.scalar)});
      run();
      CHECK(run.outputs[1][0][0][0].item<std::int64_t>() == (best ? 2 : 0));
    }
}

TEST_CASE("ce_sum, ce_grad: labels alone give what the batch gives") {
  const std::int64_t b = 2, s = 6, n = b * s, classes = 7;
  for (const Types& t : kTypes) {
    const Tensor batch = tokens(b, s, classes), labels = batch.slice(1, 1).contiguous();
    const Tensor logits = random({n, classes}, t.scalar), max = std::get<0>(logits.max(1));
    const auto run = [&](K kind, KernelDims dims, bool alone, std::vector<Tensor> in) {
      in.push_back(alone ? labels : batch);
      Run r(make(kind, dims, alone ? std::uint32_t{kLabels} : 0), t.plan, std::move(in));
      r();
      return r.outputs;
    };
    const auto whole = run(K::ce_sum, {n, classes}, false, {logits, max});
    const auto alone = run(K::ce_sum, {n, classes}, true, {logits, max});
    CHECK(at::equal(whole[0], alone[0]));
    const auto grad = run(K::ce_grad, {n, classes, n}, false, {logits.clone(), max, whole[0]});
    const auto other = run(K::ce_grad, {n, classes, n}, true, {logits.clone(), max, whole[0]});
    CHECK(at::equal(grad[0], other[0]));
    CHECK(at::equal(grad[1], other[1]));
  }
}

}  // namespace tandem::exec
