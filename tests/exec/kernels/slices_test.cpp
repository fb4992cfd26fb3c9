// Goal    a sequence that is cut in slices, one after the other on one rank (models.md 8a,
// seq1f1b),
//         is the same attention as the whole one, forward and backward; kernels that read positions
//         read those of the slice; what a router measures adds up over slices.
// Method  the slices of one sequence in one process, their calls in the order of the plan: forwards
//         ascending, backwards descending, gradients of keys and values carried. Put together and
//         held against the whole call, which other tests hold against autograd. fp64 within 5e-15
//         of the largest element, fp32 5e-6.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include "exec/device/torch_memory.h"
#include "tests/exec/kernels/run.h"

namespace tandem::exec {
namespace {

struct Case {
  std::int64_t heads, kv, dh, dv;
};
constexpr Case kCases[] = {{4, 4, 16, 16}, {4, 2, 8, 8}, {4, 1, 16, 16}, {3, 3, 12, 8}};

KernelDims dims_of(const Case& x, std::int64_t batch, std::int64_t seq, std::int64_t step = 0) {
  return {batch, x.heads, seq, x.dh, x.kv == x.heads ? 0 : x.kv, x.dv == x.dh ? 0 : x.dv, step};
}

double relative(const Tensor& got, const Tensor& expected) {
  const Tensor e = expected.to(at::kDouble), g = got.to(at::kDouble);
  return (g - e).abs().max().item<double>() / e.abs().max().item<double>();
}

// What the visit of one slice holds.
struct Part {
  Tensor qkv, kv, out, lse, dout, dqkv, dkv;
};

std::vector<Tensor> random_inputs(const Kernel& k, const Types& t) {
  std::vector<Tensor> in;
  for (const Operand& o : signature(k, t.plan).inputs)
    in.push_back(random({o.shape.dim.data(), static_cast<std::size_t>(o.shape.rank)}, t.scalar));
  return in;
}

}  // namespace

TEST_CASE("slices: attention of all of them is the whole attention, forward and backward") {
  for (const Types& t : kTypes)
    for (const int k : {2, 3, 4})
      for (const bool fused : {true, false})
        for (const Case& x : kCases) {
          CAPTURE(k);
          CAPTURE(fused);
          CAPTURE(x.kv);
          CAPTURE(x.dv);
          const double limit = t.plan.compute == DType::f64 ? 5e-15 : 5e-6;
          const std::int64_t batch = 2, seq = 7, whole = seq * k;  // odd: nothing is cut in halves
          const std::int64_t row = (x.heads + x.kv) * x.dh + x.kv * x.dv;
          const Tensor qkv = random({whole, batch, row}, t.scalar);
          const Tensor dout = random({whole, batch, x.heads * x.dv}, t.scalar);
          Run f(make(K::attention_fwd, dims_of(x, batch, whole), kCausal | kFlash), t.plan, {qkv});
          f();
          Run b(make(K::attention_bwd_input, dims_of(x, batch, whole), kCausal | kFlash), t.plan,
                {dout, qkv, f.outputs[1], f.outputs[0]});
          b();

          const auto run = [&](KernelKind kind, std::uint32_t flags, std::int64_t step,
                               std::vector<Tensor> in, std::vector<Tensor> out = {},
                               std::vector<bool> adds = {}) {
            Run call(make(kind, dims_of(x, batch, seq, step), flags), t.plan, std::move(in));
            if (!out.empty()) call.outputs = std::move(out);
            if (!adds.empty()) call.accumulate = std::move(adds);
            call();
            return call.outputs;
          };
          const std::uint32_t earlier = kSlices | (fused ? std::uint32_t{kFused} : 0);
          std::vector<Part> parts(static_cast<std::size_t>(k));
          for (std::size_t j = 0; j < parts.size(); ++j) {
            Part& p = parts[j];
            const auto first = static_cast<std::int64_t>(j) * seq;
            p.qkv = qkv.slice(0, first, first + seq).contiguous();
            p.dout = dout.slice(0, first, first + seq).contiguous();
            p.kv = run(K::kv_pack, 0, 0, {p.qkv})[0];
            const auto own = run(K::attention_fwd, kCausal | kFlash, 0, {p.qkv});
            p.out = own[0], p.lse = own[1];
            for (std::size_t i = 0; i < j; ++i)
              run(K::attention_block_fwd, earlier, 1,
                  {p.qkv, fused ? parts[i].qkv : parts[i].kv, p.out, p.lse});
            CHECK(relative(p.out, f.outputs[0].slice(0, first, first + seq)) < limit);
            CHECK(relative(p.lse, f.outputs[1].slice(2, first, first + seq)) < limit);
          }
          for (std::size_t j = parts.size(); j-- > 0;) {
            Part& p = parts[j];
            const bool last = j + 1 == parts.size();
            for (std::size_t i = j + 1; i-- > 0;) {
              Part& of = parts[i];
              const bool own = i == j;
              std::vector<Tensor> into = {p.dqkv, of.dkv};
              if (own) into[0] = at::full({seq, batch, row}, 7, t.scalar);
              if (last) into[1] = at::full({seq, batch, x.kv * (x.dh + x.dv)}, 7, t.scalar);
              const auto d =
                  run(K::attention_block_bwd_input, own ? kSlices | kFused : earlier, own ? 0 : 1,
                      {p.dout, p.qkv, own || fused ? of.qkv : of.kv, p.lse, p.out}, into,
                      {!own, !last});
              p.dqkv = d[0], of.dkv = d[1];
            }
            const auto d = run(K::kv_unpack, 0, 0, {p.dkv, p.dqkv});
            const auto first = static_cast<std::int64_t>(j) * seq;
            const Tensor expected = b.outputs[0].slice(0, first, first + seq);
            const std::int64_t ends[] = {0, x.heads * x.dh, (x.heads + x.kv) * x.dh, row};
            for (int part = 0; part < 3; ++part) {
              CAPTURE(part);  // dq, dk, dv
              CHECK(relative(d[0].slice(2, ends[part], ends[part + 1]),
                             expected.slice(2, ends[part], ends[part + 1])) < limit);
            }
          }
        }
}

// The work of slices is that of the whole: k triangles and k (k-1) / 2 squares.
TEST_CASE("slices: FLOPs of all calls are those of the whole attention") {
  const PlanTypes t{DType::f32, DType::f32};
  for (const Case& x : kCases)
    for (const std::int64_t k : {2, 4, 8}) {
      const std::int64_t seq = 16;
      const auto flops = [&](KernelKind kind, std::int64_t length, std::uint32_t flags,
                             std::int64_t step) {
        return cost(make(kind, dims_of(x, 2, length, step), flags), t, step > 0).flops;
      };
      const auto squares = static_cast<double>(k * (k - 1) / 2), triangles = static_cast<double>(k);
      // Besides the diagonals' halves: S(S+1)/2 = k s(s+1)/2 + k(k-1)/2 s^2.
      CHECK(triangles * flops(K::attention_fwd, seq, kCausal | kFlash, 0) +
                squares * flops(K::attention_block_fwd, seq, kSlices | kFused, 1) ==
            flops(K::attention_fwd, seq * k, kCausal | kFlash, 0));
      CHECK(triangles * flops(K::attention_block_bwd_input, seq, kSlices | kFused, 0) +
                squares * flops(K::attention_block_bwd_input, seq, kSlices | kFused, 1) ==
            flops(K::attention_bwd_input, seq * k, kCausal | kFlash, 0));
    }
}

TEST_CASE("slices: kernels with positions begin at that of the slice") {
  const std::int64_t batch = 2, whole = 24, seq = 8;
  for (const Types& t : kTypes)
    for (std::int64_t first = 0; first < whole; first += seq) {
      CAPTURE(first);
      const auto check = [&](KernelKind kind, const KernelDims& all, const KernelDims& part,
                             const std::vector<Tensor>& in) {
        const auto with_base = [](Kernel k) {
          k.real = 500;
          return k;
        };
        std::vector<Tensor> copies, mine;
        for (const Tensor& x : in) {
          copies.push_back(x.clone());
          mine.push_back(x.slice(0, first, first + seq).clone());
        }
        Run f(with_base(make(kind, all)), t.plan, copies);
        f();
        Kernel k = with_base(make(kind, part));
        k.dims[first_dim_of(kind)] = first;
        Run own(k, t.plan, mine);
        own();
        for (std::size_t o = 0; o < own.outputs.size(); ++o)
          CHECK(at::equal(own.outputs[o].view({seq, batch, -1}),
                          f.outputs[o].view({whole, batch, -1}).slice(0, first, first + seq)));
      };
      const Tensor qkv = random({whole, batch, 4 * 8}, t.scalar);
      for (const KernelKind kind : {K::rope_fwd, K::rope_bwd_input})
        check(kind, {batch, 2, whole, 8, 1}, {batch, 2, seq, 8, 1}, {qkv});
      const KernelDims all = {batch, 2, whole, 6, 4, 5}, part = {batch, 2, seq, 6, 4, 5};
      check(K::mla_qkv_fwd, all, part,
            {random({whole, batch, 20}, t.scalar), random({whole, batch, 22}, t.scalar),
             random({whole, batch, 4}, t.scalar)});
      check(K::mla_qkv_bwd_input, all, part, {random({whole, batch, 50}, t.scalar)});

      // Learned positions; alone, and on one of two tensor ranks with sequence parallelism.
      const std::int64_t width = 3;
      const Tensor learned = random({whole, width}, t.scalar);
      for (const int tp : {1, 2})
        for (int r = 0; r < tp; ++r) {
          const std::int64_t mine = seq / tp, begin = first + r * mine;
          const auto placed = [&](KernelKind kind, std::vector<Tensor> in) {
            Kernel k = make(kind, {mine, batch, width, first}, tp > 1 ? kPositions : 0);
            if (tp > 1) k.coords.add(Axis::tp);
            Run run(k, t.plan, std::move(in));
            run.context.coordinate[static_cast<std::size_t>(Axis::tp)] = r;
            run.context.size[static_cast<std::size_t>(Axis::tp)] = tp;
            return run;
          };
          const Tensor x = random({mine, batch, width}, t.scalar);
          Run add = placed(K::pos_add_fwd, {x, learned});
          add();
          CHECK(at::equal(add.outputs[0], x + learned.slice(0, begin, begin + mine).unsqueeze(1)));
          Run sums = placed(K::pos_add_bwd_weight, {x});
          sums.outputs[0] = at::full({whole, width}, 7, t.scalar);
          sums();
          Tensor expected = at::zeros({whole, width}, t.scalar);
          expected.slice(0, begin, begin + mine).copy_(x.sum(1));
          CHECK(error(sums.outputs[0], expected) < t.tolerance);
          // The table must reach behind the slice.
          Run past =
              placed(K::pos_add_fwd, {x, learned.slice(0, 0, first + mine - 1).contiguous()});
          CHECK(!past.prepared().ok());
        }
    }
}

TEST_CASE("slices: what a router measures adds up") {
  for (const Types& t : kTypes)
    for (const std::uint32_t scope : {kScopeSequence, kScopeMicrobatch}) {
      CAPTURE(scope);
      const std::int64_t batch = 2, seq = 6, experts = 4, top_k = 2, k = 3;
      const std::int64_t scopes = scope == kScopeSequence ? batch : 1;
      const Tensor logits = random({k * seq, batch, experts}, t.scalar);
      Run all(make(K::route_fwd, {batch, k * seq, experts, top_k, 1, 1}, kSoftmax | scope), t.plan,
              {logits.clone()});
      all();
      const Tensor aux = at::full({2, scopes, experts}, 7, t.scalar);
      for (std::int64_t j = 0; j < k; ++j) {
        Run part(make(K::route_fwd, {batch, seq, experts, top_k, 1, 1}, kSoftmax | scope), t.plan,
                 {logits.slice(0, j * seq, (j + 1) * seq).clone()});
        part.outputs[3] = aux;
        part.accumulate[3] = j > 0;
        part();
        CHECK(at::equal(part.outputs[1], all.outputs[1].slice(0, j * seq, (j + 1) * seq)));
      }
      CHECK(at::equal(aux[0], all.outputs[3][0]));  // choices are counted
      CHECK(relative(aux[1], all.outputs[3][1]) < t.tolerance);
    }
}

TEST_CASE("slices in bf16: the own slice, whose block is its own qkv") {
  const PlanTypes mixed{DType::bf16, DType::f32};
  const Case x = kCases[1];
  for (const std::int64_t step : {0, 1}) {
    const Kernel k = make(K::attention_block_bwd_input, dims_of(x, 2, 8, step), kSlices | kFused);
    std::vector<Tensor> narrow, wide;
    for (const Operand& o : signature(k, mixed).inputs) {
      const Tensor value =
          random({o.shape.dim.data(), static_cast<std::size_t>(o.shape.rank)}, at::kFloat);
      narrow.push_back(o.dtype == DType::bf16 ? value.to(at::kBFloat16) : value);
      wide.push_back(narrow.back().to(at::kFloat));
    }
    if (step == 0) narrow[2] = narrow[1], wide[2] = wide[1];  // one buffer
    Run got(k, mixed, narrow), expected(k, kTypes[1].plan, wide);
    const Tensor dkv = random({8, 2, x.kv * 2 * x.dh}, at::kFloat);
    const Tensor dq = random({8, 2, (x.heads + 2 * x.kv) * x.dh}, at::kFloat).to(at::kBFloat16);
    got.outputs = {dq.clone(), dkv.clone()};
    expected.outputs = {dq.to(at::kFloat), dkv.clone()};
    for (Run* run : {&got, &expected}) {
      run->accumulate = {step > 0, true};
      (*run)();
    }
    CHECK(at::equal(got.outputs[0], expected.outputs[0].to(at::kBFloat16)));
    CHECK(at::equal(got.outputs[1], expected.outputs[1]));
  }
}

TEST_CASE("slices take no more scratch than declared, at every block size") {
  set_up_torch(1);
  for (const Types& t : kTypes)
    for (const std::int64_t seq : {32, 200, 800})
      for (const Case& x : kCases)
        for (const KernelKind kind : {K::attention_block_fwd, K::attention_block_bwd_input})
          for (const std::int64_t step : {0, 1}) {
            if (step == 0 && kind == K::attention_block_fwd) continue;
            CAPTURE(seq);
            CAPTURE(x.kv);
            CAPTURE(x.dv);
            CAPTURE(step);
            const Kernel k = make(kind, dims_of(x, 1, seq, step), kSlices | kFused);
            Run run(k, t.plan, random_inputs(k, t));
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
            CHECK(2 * (torch_memory().peak - before) > declared);  // nor is the bound idle
            CHECK(torch_memory().live == before);
          }
}

}  // namespace tandem::exec
