// Goal    a ring over cp (models.md 4.7) is the same attention as one rank's, forward and backward,
//         and every kernel that reads positions reads the zig-zag ones.
// Method  the members of a ring in one process: their calls in the order of the plan, their blocks
//         handed on by copying; put together by position and held against the whole attention,
//         which other tests hold against autograd. fp64 within 5e-15 of the largest element, fp32
//         5e-6.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "exec/device/torch_memory.h"
#include "tests/exec/kernels/run.h"

namespace tandem::exec {
namespace {

struct Case {
  std::int64_t heads, kv, dh, dv;
};
constexpr Case kCases[] = {{4, 4, 16, 16}, {4, 2, 8, 8}, {4, 1, 16, 16}, {3, 3, 12, 8}};

// Positions of the rows that member r of c holds, by the definition.
std::vector<std::int64_t> zig_zag(int r, int c, std::int64_t sequence) {
  const std::int64_t chunk = sequence / (2 * c);
  std::vector<std::int64_t> out;
  for (const std::int64_t part : {std::int64_t{r}, std::int64_t{2 * c - 1 - r}})
    for (std::int64_t i = 0; i < chunk; ++i) out.push_back(part * chunk + i);
  return out;
}
Tensor rows_of(int r, int c, std::int64_t sequence) {
  const std::vector<std::int64_t> list = zig_zag(r, c, sequence);
  return at::tensor(list, at::kLong);
}

KernelDims dims_of(const Case& x, std::int64_t batch, std::int64_t seq, std::int64_t step = 0) {
  return {batch, x.heads, seq, x.dh, x.kv == x.heads ? 0 : x.kv, x.dv == x.dh ? 0 : x.dv, step};
}

Kernel on_cp(Kernel k) {
  k.coords.add(Axis::cp);
  return k;
}

void place(Run& run, Axis axis, int coordinate, int size) {
  run.context.coordinate[static_cast<std::size_t>(axis)] = coordinate;
  run.context.size[static_cast<std::size_t>(axis)] = size;
}

// Largest difference over the largest reference element.
double relative(const Tensor& got, const Tensor& expected) {
  const Tensor e = expected.to(at::kDouble), g = got.to(at::kDouble);
  return (g - e).abs().max().item<double>() / e.abs().max().item<double>();
}

// A member of the ring: what a rank holds.
struct Member {
  Tensor qkv, kv, arrived, out, lse, dout, dqkv, dkv, dkv_arrived;
};

// Every block goes to the next member.
void shift(std::vector<Member>& ring, Tensor Member::*from, Tensor Member::*to) {
  for (std::size_t r = 0; r < ring.size(); ++r)
    ring[(r + 1) % ring.size()].*to = (ring[r].*from).clone();
}

}  // namespace

TEST_CASE("ring attention: c members together are the whole attention, forward and backward") {
  for (const Types& t : kTypes)
    for (const int c : {2, 3, 4})
      for (const Case& x : kCases) {
        CAPTURE(c);
        CAPTURE(x.kv);
        CAPTURE(x.dv);
        // Usually 1e-15; 2.4e-15 where a busy machine gives the products other numbers of threads.
        const double limit = t.plan.compute == DType::f64 ? 5e-15 : 5e-6;
        const std::int64_t batch = 2, whole = 12 * c, seq = whole / c;
        const std::int64_t row = (x.heads + x.kv) * x.dh + x.kv * x.dv;
        const Tensor qkv = random({whole, batch, row}, t.scalar);
        const Tensor dout = random({whole, batch, x.heads * x.dv}, t.scalar);
        Run f(make(K::attention_fwd, dims_of(x, batch, whole), kCausal | kFlash), t.plan, {qkv});
        f();
        Run b(make(K::attention_bwd_input, dims_of(x, batch, whole), kCausal | kFlash), t.plan,
              {dout, qkv, f.outputs[1], f.outputs[0]});
        b();

        std::vector<Member> ring(static_cast<std::size_t>(c));
        const auto run = [&](KernelKind kind, int r, std::int64_t step, std::vector<Tensor> in,
                             std::vector<Tensor> out = {}, bool adds = false) {
          const bool core = kind == K::attention_fwd;
          Run call(on_cp(make(kind, dims_of(x, batch, seq, step), core ? kCausal | kFlash : 0)),
                   t.plan, std::move(in));
          place(call, Axis::cp, r, c);
          if (!out.empty()) call.outputs = std::move(out);
          call.accumulate.assign(call.outputs.size(), adds);
          call();
          return call.outputs;
        };
        for (int r = 0; r < c; ++r) {
          Member& m = ring[static_cast<std::size_t>(r)];
          m.qkv = qkv.index_select(0, rows_of(r, c, whole));
          m.dout = dout.index_select(0, rows_of(r, c, whole));
          m.kv = run(K::kv_pack, r, 0, {m.qkv})[0];
          const auto own = run(K::attention_fwd, r, 0, {m.qkv});
          m.out = own[0], m.lse = own[1];
        }
        for (int step = 1; step < c; ++step) {
          shift(ring, step == 1 ? &Member::kv : &Member::arrived, &Member::dkv_arrived);
          for (Member& m : ring) m.arrived = m.dkv_arrived;
          for (int r = 0; r < c; ++r) {
            Member& m = ring[static_cast<std::size_t>(r)];
            const auto merged =
                run(K::attention_block_fwd, r, step, {m.qkv, m.arrived, m.out, m.lse});
            CHECK(merged[0].is_same(m.out));  // in place
          }
        }
        for (int r = 0; r < c; ++r) {
          const Member& m = ring[static_cast<std::size_t>(r)];
          CHECK(relative(m.out, f.outputs[0].index_select(0, rows_of(r, c, whole))) < limit);
          CHECK(relative(m.lse, f.outputs[1].index_select(2, rows_of(r, c, whole))) < limit);
        }

        for (int step = 0; step < c; ++step) {
          for (int r = 0; r < c; ++r) {
            Member& m = ring[static_cast<std::size_t>(r)];
            std::vector<Tensor> into;
            if (step > 0) into = {m.dqkv, m.dkv};
            const auto d = run(K::attention_block_bwd_input, r, step,
                               {m.dout, m.qkv, m.kv, m.lse, m.out}, into, step > 0);
            m.dqkv = d[0], m.dkv = d[1];
          }
          shift(ring, &Member::kv, &Member::arrived);
          shift(ring, &Member::dkv, &Member::dkv_arrived);
          for (Member& m : ring) m.kv = m.arrived, m.dkv = m.dkv_arrived;
        }
        for (int r = 0; r < c; ++r) {
          Member& m = ring[static_cast<std::size_t>(r)];
          const auto d = run(K::kv_unpack, r, 0, {m.dkv, m.dqkv});
          const Tensor expected = b.outputs[0].index_select(0, rows_of(r, c, whole));
          const std::int64_t parts[] = {0, x.heads * x.dh, (x.heads + x.kv) * x.dh, row};
          for (int p = 0; p < 3; ++p) {
            CAPTURE(p);  // dq, dk, dv
            CHECK(relative(d[0].slice(2, parts[p], parts[p + 1]),
                           expected.slice(2, parts[p], parts[p + 1])) < limit);
          }
        }
      }
}

TEST_CASE("ring attention: packing takes k and v, unpacking leaves q") {
  for (const Types& t : kTypes) {
    const Case x = {4, 2, 6, 4};
    const std::int64_t batch = 2, seq = 8, q = x.heads * x.dh, row = q + x.kv * (x.dh + x.dv);
    const Tensor qkv = random({seq, batch, row}, t.scalar);
    Run pack(make(K::kv_pack, dims_of(x, batch, seq)), t.plan, {qkv});
    pack();
    CHECK(at::equal(pack.outputs[0], qkv.slice(2, q)));
    const Tensor before = random({seq, batch, row}, t.scalar);
    Run unpack(make(K::kv_unpack, dims_of(x, batch, seq)), t.plan,
               {pack.outputs[0], before.clone()});
    unpack();
    CHECK(at::equal(unpack.outputs[0].slice(2, 0, q), before.slice(2, 0, q)));
    CHECK(at::equal(unpack.outputs[0].slice(2, q), qkv.slice(2, q)));
    // Beside its input instead of in its place.
    Run apart(make(K::kv_unpack, dims_of(x, batch, seq)), t.plan, {pack.outputs[0], before});
    apart.outputs[0] = at::full_like(before, 7);
    apart();
    CHECK(at::equal(apart.outputs[0], unpack.outputs[0]));
  }
}

// A block that writes instead of adding leaves 0 where it does not reach.
TEST_CASE("ring attention: the gradient of one block alone") {
  const Types& t = kTypes[0];
  const Case x = kCases[0];
  const std::int64_t batch = 2, seq = 8, row = (x.heads + 2 * x.kv) * x.dh;
  const Tensor qkv = random({seq, batch, row}, t.scalar), out = random({seq, batch, 64}, t.scalar);
  const Tensor kv = random({seq, batch, 2 * x.kv * x.dh}, t.scalar), dout = at::ones_like(out);
  const Tensor lse = at::full({batch, x.heads, seq}, 5, t.scalar);
  for (const int r : {0, 1}) {
    Run alone(on_cp(make(K::attention_block_bwd_input, dims_of(x, batch, seq, 1))), t.plan,
              {dout, qkv, kv, lse, out});
    place(alone, Axis::cp, r, 2);
    alone();
    const std::int64_t half = seq / 2;
    const Tensor dq = alone.outputs[0].slice(2, 0, x.heads * x.dh), dkv = alone.outputs[1];
    // r 1: a lower member's block, its first chunk; r 0: a higher one's, for the second chunk of q.
    const Tensor zeros = r == 1 ? dkv.slice(0, half) : dq.slice(0, 0, half);
    const Tensor full = r == 1 ? dkv.slice(0, 0, half) : dq.slice(0, half);
    CHECK(zeros.abs().max().item<double>() == 0);
    CHECK(full.abs().min().item<double>() > 0);
    CHECK(alone.outputs[0].slice(2, x.heads * x.dh).abs().max().item<double>() == 0);  // k and v
    // Adding to what is there is exactly that.
    Run added = alone;
    added.outputs = {alone.outputs[0].clone(), alone.outputs[1].clone()};
    added.accumulate = {true, true};
    added();
    CHECK(at::equal(added.outputs[0].slice(2, 0, x.heads * x.dh), 2 * dq));
    CHECK(at::equal(added.outputs[1], 2 * dkv));
  }
}

// dq is the one gradient in bf16 that calls add to: each step rounds the sum once.
TEST_CASE("ring attention in bf16: a block adds to what the steps before left") {
  const PlanTypes mixed{DType::bf16, DType::f32};
  const Case x = kCases[1];
  const std::int64_t batch = 2, seq = 8;
  const Kernel k = on_cp(make(K::attention_block_bwd_input, dims_of(x, batch, seq, 1)));
  const Signature s = signature(k, mixed);
  for (const int r : {0, 1}) {
    std::vector<Tensor> narrow, wide;
    for (const Operand& o : s.inputs) {
      const Tensor value =
          random({o.shape.dim.data(), static_cast<std::size_t>(o.shape.rank)}, at::kFloat);
      const bool rounds = o.dtype == DType::bf16;
      narrow.push_back(rounds ? value.to(at::kBFloat16) : value);
      wide.push_back(narrow.back().to(at::kFloat));
    }
    Run got(k, mixed, narrow), expected(k, kTypes[1].plan, wide);
    const Tensor dq = random({seq, batch, (x.heads + 2 * x.kv) * x.dh}, at::kFloat),
                 dkv = random({seq, batch, 2 * x.kv * x.dh}, at::kFloat);
    got.outputs = {dq.to(at::kBFloat16), dkv.clone()};
    expected.outputs = {got.outputs[0].to(at::kFloat), dkv.clone()};
    for (Run* run : {&got, &expected}) {
      place(*run, Axis::cp, r, 2);
      run->accumulate = {true, true};
      (*run)();
    }
    CHECK(at::equal(got.outputs[0], expected.outputs[0].to(at::kBFloat16)));
    CHECK(at::equal(got.outputs[1], expected.outputs[1]));
    CHECK_FALSE(at::equal(got.outputs[1], dkv));
  }
}

TEST_CASE("ring attention takes no more scratch than it declares, at every block size") {
  set_up_torch(1);
  for (const Types& t : kTypes)
    for (const std::int64_t seq : {32, 200, 800})
      for (const Case& x : kCases)
        for (const std::int64_t step : {0, 1})
          for (const int r : {0, 1}) {
            CAPTURE(seq);
            CAPTURE(x.kv);
            CAPTURE(x.dv);
            CAPTURE(step);
            CAPTURE(r);
            for (const KernelKind kind : {K::attention_block_fwd, K::attention_block_bwd_input}) {
              if (step == 0 && kind == K::attention_block_fwd) continue;
              const Kernel k = on_cp(make(kind, dims_of(x, 1, seq, step)));
              std::vector<Tensor> in;
              for (const Operand& o : signature(k, t.plan).inputs)
                in.push_back(
                    random({o.shape.dim.data(), static_cast<std::size_t>(o.shape.rank)}, t.scalar));
              Run run(k, t.plan, std::move(in));
              place(run, Axis::cp, r, 2);
              run.accumulate.assign(run.outputs.size(),
                                    step > 0 && kind == K::attention_block_bwd_input);
              Result<Prepared> p = run.prepared();
              REQUIRE(p.ok());
              (*p)();
              reset_torch_peak();
              const std::int64_t before = torch_memory().live;
              (*p)();
              const Bytes declared = hidden_scratch(k, t.plan);
              CHECK(torch_memory().peak - before <= declared);
              // Nor is the bound idle; where half of the queries are enough it has to spare.
              CHECK(4 * (torch_memory().peak - before) > declared);
              CHECK(torch_memory().live == before);
            }
          }
}

// --- positions -----------------------------------------------------------------------------------

// Each kernel with the rows of one member against the same kernel on all rows. With tp: a member's
// positions cut once more (sequence parallelism), or the vocabulary cut (`vocab`).
TEST_CASE("positions: rope and latent attention turn by the absolute zig-zag position") {
  const std::int64_t batch = 2, whole = 24;
  for (const Types& t : kTypes)
    for (const int c : {2, 3}) {
      const std::int64_t seq = whole / c;
      const auto check = [&](KernelKind kind, const KernelDims& all, const KernelDims& part,
                             const std::vector<Tensor>& in) {
        CAPTURE(c);
        const auto with_base = [](Kernel k) {
          k.real = 500;
          return k;
        };
        std::vector<Tensor> copies;
        for (const Tensor& x : in) copies.push_back(x.clone());
        Run f(with_base(make(kind, all)), t.plan, copies);
        f();
        for (int r = 0; r < c; ++r) {
          std::vector<Tensor> mine;
          for (const Tensor& x : in) mine.push_back(x.index_select(0, rows_of(r, c, whole)));
          Run own(with_base(on_cp(make(kind, part, kPositions))), t.plan, mine);
          place(own, Axis::cp, r, c);
          own();
          for (std::size_t o = 0; o < own.outputs.size(); ++o) {
            const Tensor expected = f.outputs[o].view({whole, batch, -1});
            CHECK(at::equal(own.outputs[o].view({seq, batch, -1}),
                            expected.index_select(0, rows_of(r, c, whole))));
          }
        }
      };
      const Tensor qkv = random({whole, batch, 4 * 8}, t.scalar);
      for (const KernelKind kind : {K::rope_fwd, K::rope_bwd_input})
        check(kind, {batch, 2, whole, 8, 1}, {batch, 2, seq, 8, 1}, {qkv});
      const KernelDims all = {batch, 2, whole, 6, 4, 5}, part = {batch, 2, seq, 6, 4, 5};
      check(K::mla_qkv_fwd, all, part,
            {random({whole, batch, 20}, t.scalar), random({whole, batch, 22}, t.scalar),
             random({whole, batch, 4}, t.scalar)});
      check(K::mla_qkv_bwd_input, all, part, {random({whole, batch, 50}, t.scalar)});
    }
}

TEST_CASE("positions: tokens, labels and learned positions of a cp and tp rank") {
  const Types& t = kTypes[0];
  const std::int64_t batch = 2, whole = 24, width = 3, vocab = 10;
  const int c = 2;
  const Tensor ids = tokens(batch, whole, vocab), table = random({vocab, width}, t.scalar),
               learned = random({whole, width}, t.scalar);
  // Row of the batch and column of each of the rank's rows.
  const auto expected_ids = [&](const std::vector<std::int64_t>& positions, std::int64_t shift) {
    std::vector<std::int64_t> out;
    for (const std::int64_t s : positions)
      for (std::int64_t b = 0; b < batch; ++b)
        out.push_back(ids[b][s + shift].item<std::int64_t>());
    return at::tensor(out, at::kLong);
  };
  struct Cut {
    int tp;
    bool own, vocab;  // tp cuts positions; the vocabulary
  };
  for (const Cut& cut : {Cut{1, false, false}, Cut{2, true, false}, Cut{2, false, true}})
    for (int r = 0; r < c; ++r)
      for (int q = 0; q < cut.tp; ++q) {
        CAPTURE(cut.own);
        CAPTURE(cut.vocab);
        CAPTURE(r);
        CAPTURE(q);
        std::vector<std::int64_t> positions = zig_zag(r, c, whole);
        if (cut.own) {  // the q-th half of what the cp member holds
          const auto half = static_cast<std::ptrdiff_t>(positions.size() / 2);
          positions = {positions.begin() + q * half, positions.begin() + (q + 1) * half};
        }
        const auto seq = static_cast<std::int64_t>(positions.size()), n = seq * batch;
        const std::int64_t rows = cut.vocab ? vocab / 2 : vocab, first = cut.vocab ? q * rows : 0;
        const auto placed = [&](Kernel k, std::vector<Tensor> in) {
          k.flags |= kPositions | (cut.vocab ? std::uint32_t{kVocab} : 0);
          k.coords.add(Axis::cp);
          if (cut.tp > 1) k.coords.add(Axis::tp);
          Run run(k, t.plan, std::move(in));
          place(run, Axis::cp, r, c);
          place(run, Axis::tp, q, cut.tp);
          return run;
        };
        const Tensor local = expected_ids(positions, 0) - first;
        const Tensor here = at::logical_and(local.ge(0), local.lt(rows)).unsqueeze(1);
        const Tensor mine = table.slice(0, first, first + rows);
        Run look_up = placed(make(K::embed_fwd, {n, rows, width}), {ids, mine.contiguous()});
        look_up();
        CHECK(at::equal(look_up.outputs[0], mine.index_select(0, local.clamp(0, rows - 1)) * here));
        const Tensor dy = at::randint(-8, 8, {n, width}, at::kDouble);  // sums are exact
        Run back = placed(make(K::embed_bwd_weight, {n, rows, width}), {dy, ids});
        back();
        CHECK(at::equal(back.outputs[0], at::zeros({rows, width}, at::kDouble)
                                             .index_add(0, local.clamp(0, rows - 1), dy * here)));

        const Tensor logits = random({n, rows}, t.scalar), top = at::zeros({n}, t.scalar);
        Run sums = placed(make(K::ce_sum, {n, rows}), {logits, top, ids});
        sums();
        const Tensor label = expected_ids(positions, 1) - first;
        const Tensor in_range = at::logical_and(label.ge(0), label.lt(rows));
        const Tensor column = label.clamp(0, rows - 1).unsqueeze(1);
        CHECK(at::equal(sums.outputs[0][1], logits.gather(1, column).squeeze(1) * in_range));
        Run grad = placed(make(K::ce_grad, {n, rows, 64}),
                          {logits.clone(), top, at::ones({2, n}, t.scalar), ids});
        grad();
        const Tensor one_hot = at::one_hot(label.clamp(0, rows - 1), rows) * in_range.unsqueeze(1);
        CHECK(error(grad.outputs[0], (logits.exp() - one_hot) / 64) < t.tolerance);
        if (cut.vocab) continue;

        const Tensor x = random({seq, batch, width}, t.scalar);
        Run add = placed(make(K::pos_add_fwd, {seq, batch, width}), {x, learned});
        add();
        const Tensor at_rows = at::tensor(positions, at::kLong);
        CHECK(at::equal(add.outputs[0], x + learned.index_select(0, at_rows).unsqueeze(1)));
        Run gather = placed(make(K::pos_add_bwd_weight, {seq, batch, width}), {x});
        gather.outputs[0] = at::full({whole, width}, 7, t.scalar);
        gather();
        CHECK(error(gather.outputs[0],
                    at::zeros({whole, width}, t.scalar).index_add(0, at_rows, x.sum(1))) <
              t.tolerance);
      }
}

TEST_CASE("metrics: each cp rank counts its own tokens") {
  for (const bool sp : {false, true}) {
    Kernel k = make(K::metrics_pack, {8}, kHasLoss | kPositions);
    k.coords.add(Axis::cp);
    if (sp) k.coords.add(Axis::tp);
    Run run(k, kTypes[0].plan, {at::full({1}, 2.5, at::kDouble)});
    place(run, Axis::cp, 1, 4);
    place(run, Axis::tp, 1, 2);
    run.context.tokens_per_step = 64;
    run();
    CHECK(run.outputs[0][kMetricTokens].item<double>() == (sp ? 8 : 16));
    CHECK(run.outputs[0][kMetricLoss].item<double>() == 2.5);
  }
}

TEST_CASE("prepare refuses a ring that cannot be") {
  const Types& t = kTypes[0];
  const auto refused = [&](KernelKind kind, const KernelDims& dims) {
    const Kernel k = make(kind, dims);
    std::vector<Tensor> in;
    for (const Operand& o : signature(k, t.plan).inputs)
      in.push_back(at::zeros({o.shape.elements()}, t.scalar));
    Run run(k, t.plan, in);
    const Result<Prepared> p = run.prepared();
    REQUIRE(!p.ok());
    CHECK(p.error().diagnostics[0].code == "E-EXEC-035");
  };
  refused(K::attention_block_fwd, {1, 1, 8, 4});                 // forward, the own block is whole
  refused(K::attention_block_fwd, {1, 1, 7, 4, 0, 0, 1});        // no two equal chunks
  refused(K::attention_block_bwd_input, {1, 1, 8, 4, 0, 6, 1});  // a wide v
  refused(K::attention_block_bwd_input, {1, 4, 8, 4, 3, 0, 1});  // heads shared unevenly
}

}  // namespace tandem::exec
