// Every entry of the kernel catalogue against plain autograd, in fp64 and fp32. Method: operands
// are made as signature() declares them, the prepared call runs on them, and the result is compared
// with the textbook formula and its autograd derivative.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <doctest/doctest.h>

#include <cmath>
#include <deque>
#include <set>

#include "exec/device/torch_memory.h"
#include "exec/kernels/gemm.h"
#include "exec/kernels/kernel.h"
#include "tests/exec/kernels/mla_runs.h"
#include "tests/exec/kernels/moe_runs.h"
#include "tests/exec/kernels/ring_runs.h"
#include "tests/exec/kernels/run.h"

namespace tandem::exec {

TEST_CASE("linear: forward, input and weight gradients") {
  for (const Types& t : kTypes)
    for (const bool with_bias : {false, true}) {
      CAPTURE(with_bias);
      const std::int64_t n = 24, in = 20, out = 12;
      Tensor x = random({n, in}, t.scalar).requires_grad_(true);
      Tensor w = random({out, in}, t.scalar).requires_grad_(true);
      Tensor b = random({out}, t.scalar).requires_grad_(true);
      const Tensor y = with_bias ? at::linear(x, w, b) : at::linear(x, w);
      const Tensor dy = random({n, out}, t.scalar);
      y.backward(dy);
      const std::uint32_t flags = with_bias ? std::uint32_t{kBias} : 0;
      std::vector<Tensor> operands = {x, w};
      if (with_bias) operands.push_back(b);
      Run f(make(K::linear_fwd, {n, in, out}, flags), t.plan, operands);
      f();
      CHECK(error(f.outputs[0], y) < t.tolerance);
      Run i(make(K::linear_bwd_input, {n, in, out}), t.plan, {dy, w});
      i();
      CHECK(error(i.outputs[0], x.grad()) < t.tolerance);
      Run g(make(K::linear_bwd_weight, {n, in, out}, flags), t.plan, {dy, x});
      g();
      CHECK(error(g.outputs[0], w.grad()) < t.tolerance);
      if (with_bias) CHECK(error(g.outputs[1], b.grad()) < t.tolerance);
      // Accumulating adds exactly the product of the first call.
      const Tensor once = g.outputs[0].clone();
      g.accumulate.assign(g.accumulate.size(), true);
      g();
      CHECK(at::equal(g.outputs[0], once + once));
    }
}

TEST_CASE("fast matrix products equal LibTorch's, below, at and beyond the block sizes") {
  set_up_torch(1);
  if (!has_fast_gemm()) MESSAGE("skipped: this CPU has no AVX-512");
  if (!has_fast_gemm()) return;
  const std::int64_t sizes[][3] = {{1, 1, 1},     {3, 5, 7},       {64, 128, 512},
                                   {37, 129, 51}, {130, 257, 513}, {200, 300, 1100}};
  for (const auto& [m, n, k] : sizes) {
    CAPTURE(m);
    const Tensor a = random({m, k}, at::kFloat), b = random({k, n}, at::kFloat);
    const Tensor at_ = a.t().contiguous(), bt = b.t().contiguous();
    const Tensor expected = at::mm(a.to(at::kDouble), b.to(at::kDouble));
    Tensor c = at::full({m, n}, 9, at::kFloat);
    const auto p = [](const Tensor& t) { return static_cast<float*>(t.data_ptr()); };
    gemm_nn(m, n, k, p(a), p(b), p(c));
    CHECK(error(c, expected) < 1e-5);
    c.fill_(9);
    gemm_nt(m, n, k, p(a), p(bt), p(c));
    CHECK(error(c, expected) < 1e-5);
    const Tensor again = c.clone();
    gemm_nt(m, n, k, p(a), p(bt), p(c));
    CHECK(at::equal(again, c));
    c.fill_(9);
    gemm_tn(m, n, k, p(at_), p(b), p(c));
    CHECK(error(c, expected) < 1e-5);
  }
}

TEST_CASE("layer norm") {
  for (const Types& t : kTypes)
    for (const std::int64_t width : {5, 64, 300}) {  // fewer than the lanes; all; more than a block
      CAPTURE(width);
      const std::int64_t n = 9;
      Tensor x = random({n, width}, t.scalar).requires_grad_(true);
      Tensor w = random({width}, t.scalar).requires_grad_(true);
      Tensor b = random({width}, t.scalar).requires_grad_(true);
      const Tensor y = at::layer_norm(x, {width}, w, b, 1e-5);
      const Tensor dy = random({n, width}, t.scalar);
      y.backward(dy);
      Kernel k = make(K::layernorm_fwd, {n, width});
      k.real = 1e-5;
      Run f(k, t.plan, {x, w, b});
      f();
      CHECK(error(f.outputs[0], y) < t.tolerance);
      CHECK(error(f.outputs[1][0], x.mean(1)) < t.tolerance);
      Run i(make(K::layernorm_bwd_input, {n, width}), t.plan, {dy.clone(), x, f.outputs[1], w});
      i();
      CHECK(error(i.outputs[0], x.grad()) < t.tolerance);
      CHECK(error(i.outputs[1], w.grad()) < t.tolerance);
      CHECK(error(i.outputs[2], b.grad()) < t.tolerance);
      Run again(make(K::layernorm_bwd_input, {n, width}), t.plan, {dy.clone(), x, f.outputs[1], w});
      again.outputs[0] = at::empty_like(dy);  // dx beside dy
      again.outputs[1] = i.outputs[1].clone();
      again.accumulate = {false, true, false};
      again();
      CHECK(at::equal(again.outputs[0], i.outputs[0]));
      CHECK(at::equal(again.outputs[1], i.outputs[1] + i.outputs[1]));
      CHECK(at::equal(again.outputs[2], i.outputs[2]));
    }
}

TEST_CASE("rms norm") {
  for (const Types& t : kTypes)
    for (const std::int64_t width : {5, 64, 300}) {
      CAPTURE(width);
      const std::int64_t n = 9;
      Tensor x = random({n, width}, t.scalar).requires_grad_(true);
      Tensor w = random({width}, t.scalar).requires_grad_(true);
      const Tensor rstd = (x.pow(2).mean(-1, true) + 1e-5).rsqrt();
      const Tensor y = x * rstd * w;
      const Tensor dy = random({n, width}, t.scalar);
      y.backward(dy);
      Kernel k = make(K::rmsnorm_fwd, {n, width});
      k.real = 1e-5;
      Run f(k, t.plan, {x, w});
      f();
      CHECK(error(f.outputs[0], y) < t.tolerance);
      CHECK(error(f.outputs[1], rstd) < t.tolerance);
      Run i(make(K::rmsnorm_bwd_input, {n, width}), t.plan, {dy.clone(), x, f.outputs[1], w});
      i();
      CHECK(error(i.outputs[0], x.grad()) < t.tolerance);
      CHECK(error(i.outputs[1], w.grad()) < t.tolerance);
      Run again(make(K::rmsnorm_bwd_input, {n, width}), t.plan, {dy.clone(), x, f.outputs[1], w});
      again.outputs[0] = at::empty_like(dy);  // dx beside dy
      again.outputs[1] = i.outputs[1].clone();
      again.accumulate = {false, true};
      again();
      CHECK(at::equal(again.outputs[0], i.outputs[0]));
      CHECK(at::equal(again.outputs[1], i.outputs[1] + i.outputs[1]));
    }
}

// models.md 2.4, base 10000, width 8: x = 1..8 at position 3, its norm before and after; products
// of a rotated q and k depend on the distance of their positions alone.
TEST_CASE("rope: goldens of a rotation") {
  const std::int64_t seq = 14, heads = 2, dh = 8;  // q 1..8, k 8..1, each as two heads
  Kernel k = make(K::rope_fwd, {1, heads, seq, dh});
  k.real = 10000;
  Tensor qkv = at::zeros({seq, 1, 3 * heads * dh}, at::kDouble);
  const Tensor up = at::arange(1, 9, at::kDouble);
  for (std::int64_t h = 0; h < heads; ++h) {
    qkv.slice(2, h * dh, (h + 1) * dh) = up;
    qkv.slice(2, (heads + h) * dh, (heads + h + 1) * dh) = up.flip(0);
    qkv.slice(2, (2 * heads + h) * dh, (2 * heads + h + 1) * dh) = up * 3;
  }
  const Tensor before = qkv.clone();
  Run r(k, kTypes[0].plan, {qkv});
  r();
  const auto at_position = [&](std::int64_t part, std::int64_t position) {
    return qkv[position][0].slice(0, part * heads * dh, part * heads * dh + dh);
  };
  const double golden[] = {-1.69559254, 0.13755174, 2.78868160, 3.97598204,
                           -4.80884247, 6.32305935, 7.08683674, 8.01196398};
  for (int i = 0; i < 8; ++i) {
    CAPTURE(i);
    CHECK(std::abs(at_position(0, 3)[i].item<double>() - golden[i]) < 5e-9);
  }
  CHECK(std::abs(up.norm().item<double>() - 14.2828568571) < 1e-10);
  for (std::int64_t p = 0; p < seq; ++p)
    CHECK(std::abs(at_position(0, p).norm().item<double>() - 14.2828568571) < 1e-10);
  const auto dot = [&](std::int64_t q, std::int64_t kk) {
    return (at_position(0, q) * at_position(1, kk)).sum().item<double>();
  };
  CHECK(std::abs(dot(5, 2) - 45.9295672520) < 1e-9);
  CHECK(std::abs(dot(13, 10) - 45.9295672520) < 1e-9);
  CHECK(std::abs(dot(2, 5) - 79.7433384025) < 1e-9);
  CHECK(at::equal(at_position(2, 9), up * 3));  // v stays
  // The backward rotation takes it back.
  k.kind = K::rope_bwd_input;
  Run back(k, kTypes[0].plan, {qkv});
  back();
  CHECK(error(qkv, before) < 1e-14);
}

// The rule that models.md 4.10 names: cosines of pairs (i, i + D/2), sines of neighbours (2i,
// 2i+1).
TEST_CASE("defect 6: two pairings mixed keep neither lengths nor relative positions") {
  const auto mixed = [](const Tensor& x, double position) {
    const Tensor rate = at::pow(10000.0, at::arange(4, at::kDouble) * (-2.0 / 8));
    const Tensor angle = at::cat({rate, rate}) * position;
    const Tensor pairs = x.view({4, 2});
    const Tensor turned = at::stack({-pairs.select(1, 1), pairs.select(1, 0)}, 1).view({8});
    return x * angle.cos() + turned * angle.sin();
  };
  const Tensor up = at::arange(1, 9, at::kDouble), down = up.flip(0);
  CHECK(std::abs(mixed(up, 3).norm().item<double>() - 14.2828568571) > 0.1);
  const auto dot = [&](double q, double k) {
    return (mixed(up, q) * mixed(down, k)).sum().item<double>();
  };
  CHECK(std::abs(dot(5, 2) - dot(13, 10)) > 0.1);
}

TEST_CASE("rope: against autograd, heads and key/value heads, in place and beside") {
  for (const Types& t : kTypes)
    for (const std::int64_t kv : {4, 2, 1}) {
      CAPTURE(kv);
      const std::int64_t b = 2, heads = 4, seq = 11, dh = 6, half = dh / 2, all = heads + 2 * kv;
      Tensor qkv = random({seq, b, all * dh}, t.scalar).requires_grad_(true);
      const auto real = at::TensorOptions().dtype(at::kDouble);
      const Tensor angle = at::outer(at::arange(seq, real),
                                     at::pow(500.0, at::arange(half, real) * (-2.0 / double(dh))));
      const Tensor cos = angle.cos().to(t.scalar).view({seq, 1, 1, half}),
                   sin = angle.sin().to(t.scalar).view({seq, 1, 1, half});
      const Tensor x = qkv.view({seq, b, all, dh}), turned = x.slice(2, 0, heads + kv);
      const Tensor first = turned.slice(3, 0, half), second = turned.slice(3, half);
      const Tensor y =
          at::cat({at::cat({first * cos - second * sin, second * cos + first * sin}, 3),
                   x.slice(2, heads + kv)},
                  2)
              .view({seq, b, all * dh});
      const Tensor dy = random({seq, b, all * dh}, t.scalar);
      y.backward(dy);
      Kernel k = make(K::rope_fwd, {b, heads, seq, dh, kv == heads ? 0 : kv});
      k.real = 500.0;
      Run f(k, t.plan, {qkv.detach().clone()});
      f();
      CHECK(error(f.outputs[0], y) < t.tolerance);
      Run beside(k, t.plan, {qkv.detach().clone()});
      beside.outputs[0] = at::full_like(qkv.detach(), 7);
      beside();
      CHECK(at::equal(beside.outputs[0], f.outputs[0]));
      CHECK(at::equal(beside.inputs[0], qkv.detach()));
      k.kind = K::rope_bwd_input;
      Run i(k, t.plan, {dy.clone()});
      i();
      CHECK(error(i.outputs[0], qkv.grad()) < t.tolerance);
    }
}

TEST_CASE("attention: key/value heads shared by 1, 2 and 4 heads") {
  for (const Types& t : kTypes)
    for (const KernelFlag kind : {kFlash, kMaterialised})
      for (const std::int64_t kv : {4, 2, 1}) {
        CAPTURE(kind);
        CAPTURE(kv);
        const std::int64_t b = 2, heads = 4, seq = 20, dh = 8, all = heads + 2 * kv;
        Tensor qkv = random({seq, b, all * dh}, t.scalar).requires_grad_(true);
        // Heads [first, first + count) as [b, heads, S, dh]; one of kv for each head that uses it.
        const auto part = [&](std::int64_t first, std::int64_t count) {
          return qkv.view({seq, b, all, dh})
              .slice(2, first, first + count)
              .repeat_interleave(heads / count, 2)
              .permute({1, 2, 0, 3});
        };
        const Tensor q = part(0, heads), key = part(heads, kv), v = part(heads + kv, kv);
        const Tensor mask = at::ones({seq, seq}, at::kBool).triu(1);
        const Tensor scores = at::matmul(q, key.transpose(-2, -1)) / std::sqrt(double(dh));
        const Tensor probs = at::softmax(scores.masked_fill(mask, -INFINITY), -1);
        const Tensor out = at::matmul(probs, v).permute({2, 0, 1, 3}).reshape({seq, b, heads * dh});
        const Tensor dout = random({seq, b, heads * dh}, t.scalar);
        out.backward(dout);
        const KernelDims dims = {b, heads, seq, dh, kv == heads ? 0 : kv};
        Run f(make(K::attention_fwd, dims, kCausal | kind), t.plan, {qkv});
        f();
        CHECK(error(f.outputs[0], out) < t.tolerance);
        if (kind == kMaterialised)
          CHECK(error(f.outputs[1], probs) < t.tolerance);
        else
          CHECK(error(f.outputs[1], scores.masked_fill(mask, -INFINITY).logsumexp(-1)) <
                t.tolerance);
        Run i(make(K::attention_bwd_input, dims, kCausal | kind), t.plan,
              {dout, qkv, f.outputs[1], f.outputs[0]});
        i();
        CHECK(error(i.outputs[0], qkv.grad()) < t.tolerance);
        const Tensor once = i.outputs[0].clone();
        i();  // sums over a group start anew in every call
        CHECK(at::equal(i.outputs[0], once));
      }
}

TEST_CASE("swiglu") {
  for (const Types& t : kTypes) {
    const std::int64_t n = 7, width = 37;
    Tensor both = (random({n, 2 * width}, t.scalar) * 3).requires_grad_(true);
    const Tensor gate = both.slice(1, 0, width), up = both.slice(1, width);
    const Tensor y = gate * at::sigmoid(gate) * up;
    const Tensor dy = random({n, width}, t.scalar);
    y.backward(dy);
    Run f(make(K::swiglu_fwd, {n, width}), t.plan, {both});
    f();
    CHECK(error(f.outputs[0], y) < t.tolerance);
    Run i(make(K::swiglu_bwd_input, {n, width}), t.plan, {dy, both});
    i();
    CHECK(error(i.outputs[0], both.grad()) < t.tolerance);
  }
}

TEST_CASE("attention: flash and materialised") {
  for (const Types& t : kTypes)
    for (const KernelFlag kind : {kFlash, kMaterialised}) {
      CAPTURE(kind);
      const std::int64_t b = 2, heads = 3, seq = 20, dh = 8;
      Tensor qkv = random({seq, b, 3 * heads * dh}, t.scalar).requires_grad_(true);
      const auto part = [&](int i) {
        return qkv.view({seq, b, 3, heads, dh}).select(2, i).permute({1, 2, 0, 3});
      };
      const Tensor mask = at::ones({seq, seq}, at::kBool).triu(1);
      const Tensor scores = at::matmul(part(0), part(1).transpose(-2, -1)) / std::sqrt(double(dh));
      const Tensor probs = at::softmax(scores.masked_fill(mask, -INFINITY), -1);
      const Tensor out =
          at::matmul(probs, part(2)).permute({2, 0, 1, 3}).reshape({seq, b, heads * dh});
      const Tensor dout = random({seq, b, heads * dh}, t.scalar);
      out.backward(dout);
      Run f(make(K::attention_fwd, {b, heads, seq, dh}, kCausal | kind), t.plan, {qkv});
      f();
      CHECK(error(f.outputs[0], out) < t.tolerance);
      if (kind == kMaterialised)
        CHECK(error(f.outputs[1], probs) < t.tolerance);
      else
        CHECK(error(f.outputs[1], scores.masked_fill(mask, -INFINITY).logsumexp(-1)) < t.tolerance);
      Run i(make(K::attention_bwd_input, {b, heads, seq, dh}, kCausal | kind), t.plan,
            {dout, qkv, f.outputs[1], f.outputs[0]});
      i();
      CHECK(error(i.outputs[0], qkv.grad()) < t.tolerance);
    }
}

TEST_CASE("gelu: erf and tanh, in place backward") {
  for (const Types& t : kTypes)
    for (const KernelFlag kind : {kErf, kTanh}) {
      Tensor x = random({100}, t.scalar).requires_grad_(true);
      const Tensor y = at::gelu(x, kind == kTanh ? "tanh" : "none");
      const Tensor dy = random({100}, t.scalar);
      y.backward(dy);
      Run f(make(K::gelu_fwd, {100}, kind), t.plan, {x});
      f();
      CHECK(error(f.outputs[0], y) < t.tolerance);
      Run i(make(K::gelu_bwd_input, {100}, kind), t.plan, {dy.clone(), x});
      i();
      CHECK(error(i.outputs[0], x.grad()) < t.tolerance);
    }
}

TEST_CASE("embedding: rows of other ranks give 0 and take no gradient") {
  for (const Types& t : kTypes) {
    const std::int64_t b = 2, s = 6, vocab = 10, width = 7, n = b * s;
    const Tensor batch = tokens(b, s, vocab);
    Tensor w = random({vocab, width}, t.scalar).requires_grad_(true);
    // Rows are position * b + sequence.
    const Tensor x = at::embedding(w, batch.slice(1, 0, s).t()).reshape({n, width});
    const Tensor dy = random({n, width}, t.scalar);
    x.backward(dy);
    Run whole(make(K::embed_fwd, {n, vocab, width}), t.plan, {batch, w});
    whole();
    CHECK(at::equal(whole.outputs[0], x));
    Tensor sum = at::zeros({n, width}, t.scalar);
    std::vector<Tensor> gradients;
    for (int rank = 0; rank < 2; ++rank) {
      Kernel k = make(K::embed_fwd, {n, vocab / 2, width});
      k.coords.add(Axis::tp);
      Run f(k, t.plan, {batch, w.slice(0, rank * 5, rank * 5 + 5).contiguous()});
      f.context.coordinate[0] = rank;
      f();
      sum += f.outputs[0];
      k.kind = K::embed_bwd_weight;
      Run g(k, t.plan, {dy, batch});
      g.context.coordinate[0] = rank;
      g();
      const Tensor once = g.outputs[0].clone();
      g.accumulate = {true};
      g();
      CHECK(error(g.outputs[0], once * 2) < t.tolerance);
      gradients.push_back(once);
    }
    CHECK(at::equal(sum, x));
    CHECK(error(at::cat(gradients), w.grad()) < t.tolerance);
  }
}

TEST_CASE("residual, bias and positions") {
  for (const Types& t : kTypes) {
    const std::int64_t s = 6, b = 3, width = 300, n = s * b;
    const Tensor x = random({n, width}, t.scalar), bias = random({width}, t.scalar),
                 residual = random({n, width}, t.scalar), pos = random({s + 2, width}, t.scalar);
    Run add(make(K::bias_residual_fwd, {n, width}), t.plan, {x, bias, residual});
    add();
    CHECK(at::equal(add.outputs[0], x + bias + residual));
    Run plain(make(K::residual_fwd, {n, width}), t.plan, {x, residual});
    plain();
    CHECK(at::equal(plain.outputs[0], x + residual));
    Run dbias(make(K::bias_residual_bwd_weight, {n, width}), t.plan, {x});
    dbias();
    CHECK(error(dbias.outputs[0], x.sum(0)) < t.tolerance);
    Run back(make(K::residual_bwd_input, {n, width}), t.plan, {x.clone(), residual});
    back();
    CHECK(at::equal(back.outputs[0], x + residual));
    Run p(make(K::pos_add_fwd, {s, b, width}), t.plan, {x, pos});
    p();
    CHECK(at::equal(p.outputs[0].view({s, b, width}),
                    x.view({s, b, width}) + pos.slice(0, 0, s).unsqueeze(1)));
    Run dpos(make(K::pos_add_bwd_weight, {s, b, width}), t.plan, {x});
    dpos();
    CHECK(error(dpos.outputs[0], x.view({s, b, width}).sum(1)) < t.tolerance);
    const Tensor once = dpos.outputs[0].clone();
    dpos.accumulate = {true};
    dpos();
    CHECK(at::equal(dpos.outputs[0], once + once));
    Run sum(make(K::grad_add, {n * width}), t.plan, {x.clone(), residual});
    sum();
    CHECK(at::equal(sum.outputs[0], x + residual));
  }
}

TEST_CASE("cross-entropy: vocabulary in one part, in two, and padded") {
  for (const Types& t : kTypes)
    for (const std::int64_t vocab : {40, 37})
      for (const int tp : {1, 2}) {
        CAPTURE(vocab);
        CAPTURE(tp);
        const std::int64_t b = 2, s = 5, n = b * s, padded = 40, classes = padded / tp,
                           divisor = 77;
        const Tensor batch = tokens(b, s, vocab);
        Tensor logits = (random({n, padded}, t.scalar) * 5).requires_grad_(true);
        const Tensor labels = batch.slice(1, 1, s + 1).t().reshape({-1});
        const Tensor log_p = at::log_softmax(logits.slice(1, 0, vocab), -1);
        const Tensor loss = -log_p.gather(1, labels.unsqueeze(1)).sum() / double(divisor);
        loss.backward();
        std::deque<Run> runs;
        std::vector<Tensor> local;
        Tensor max, sums;
        for (int r = 0; r < tp; ++r)
          local.push_back(logits.detach().slice(1, r * classes, (r + 1) * classes).clone());
        const auto kernel = [&](KernelKind kind, std::int64_t last) {
          Kernel k = make(kind, {n, classes, last});
          k.coords.add(Axis::tp);
          return k;
        };
        for (int r = 0; r < tp; ++r) {
          Run m(kernel(K::ce_max, vocab), t.plan, {local[static_cast<std::size_t>(r)]});
          m.context.coordinate[0] = r;
          m();
          max = r == 0 ? m.outputs[0] : at::maximum(max, m.outputs[0]);
        }
        for (int r = 0; r < tp; ++r) {
          Run m(kernel(K::ce_sum, 0), t.plan, {local[static_cast<std::size_t>(r)], max, batch});
          m.context.coordinate[0] = r;
          m();
          sums = r == 0 ? m.outputs[0] : sums + m.outputs[0];
        }
        for (int r = 0; r < tp; ++r) {
          Run m(kernel(K::ce_grad, divisor), t.plan,
                {local[static_cast<std::size_t>(r)], max, sums, batch});
          m.context.coordinate[0] = r;
          m.outputs[1].fill_(1.0);
          m.accumulate = {false, r == 1};
          m();
          CHECK(std::abs(m.outputs[1].item<double>() - loss.item<double>() - (r == 1 ? 1.0 : 0.0)) <
                t.tolerance * 10);
        }
        CHECK(error(at::cat(local, 1), logits.grad()) < t.tolerance);
      }
}

TEST_CASE("sum of squares counts at the owner only; clip; metrics") {
  for (const Types& t : kTypes) {
    const Tensor a = random({37}, t.scalar), b = random({4, 16}, t.scalar);
    Kernel k = make(K::sum_squares, {37 + 64}, kWhole);
    k.owner.add(Axis::dp);
    Run s(k, t.plan, {a, b});
    s();
    const double expected = a.to(at::kDouble).pow(2).sum().item<double>() +
                            b.to(at::kDouble).pow(2).sum().item<double>();
    CHECK(s.outputs[0].item<double>() == doctest::Approx(expected).epsilon(1e-13));
    s.context.coordinate[static_cast<std::size_t>(Axis::dp)] = 1;
    s.accumulate = {true};
    s();
    CHECK(s.outputs[0].item<double>() == doctest::Approx(expected).epsilon(1e-13));
    s.accumulate = {false};
    s();
    CHECK(s.outputs[0].item<double>() == 0);

    Kernel clip = make(K::clip_coef, {});
    clip.real = 1.0;
    Run c(clip, t.plan, {at::full({1}, 16.0, at::kDouble)});
    c();
    CHECK(c.outputs[0].item<double>() == doctest::Approx(1.0 / (4 + 1e-6)).epsilon(1e-6));
    clip.real.reset();
    Run none(clip, t.plan, {at::full({1}, 16.0, at::kDouble)});
    none();
    CHECK(none.outputs[0].item<double>() == 1);

    Kernel metrics = make(K::metrics_pack, {8}, kHasNorm);
    metrics.owner.add(Axis::tp).add(Axis::dp);
    Run norm(metrics, t.plan, {at::full({1}, 16.0, at::kDouble)});
    norm();
    CHECK(norm.outputs[0][kMetricNormSquared].item<double>() == 16);
    CHECK(norm.outputs[0][kMetricNonFinite].item<double>() == 0);
    CHECK(norm.outputs[0].sum().item<double>() == 16);
    metrics.flags = kHasLoss;
    Run loss(metrics, t.plan, {at::full({1}, 2.5, at::kDouble)});
    loss.outputs[0] = norm.outputs[0];
    loss.accumulate = {true};
    loss.context.tokens_per_step = 64;
    loss();
    CHECK(loss.outputs[0][kMetricLoss].item<double>() == 2.5);
    CHECK(loss.outputs[0][kMetricTokens].item<double>() == 64);
    CHECK(loss.outputs[0][kMetricNormSquared].item<double>() == 16);
  }
}

TEST_CASE("adamw: golden of models.md 5, ranges of decay, padding") {
  const Types& t = kTypes[0];
  Tensor theta = at::zeros({64}, at::kDouble), m = at::zeros({64}, at::kDouble),
         v = at::zeros({64}, at::kDouble);
  theta[0] = 1.0;
  theta[1] = 1.0;
  const double expected[] = {0.890000002000000, 0.854263057855827, 0.811052265478415};
  const double gradients[] = {0.5, -0.25, 0.125};
  for (int step = 0; step < 3; ++step) {
    Tensor g = at::zeros({64}, at::kDouble);
    g[0] = gradients[step] * 2;  // halved by the coefficient
    Run u(make(K::adamw, {64}, kDecay2d), t.plan,
          {theta, g, m, v, at::full({1}, 0.5, at::kDouble)});
    u.decay = {{0, 1}};
    const double lr = 0.1, wd = 0.1, b1 = 0.9, b2 = 0.95;
    u.context.adamw = {b1,
                       b2,
                       1e-8,
                       1 - lr * wd,
                       lr / (1 - std::pow(b1, step + 1)),
                       std::sqrt(1 - std::pow(b2, step + 1))};
    u();
    CHECK(std::abs(theta[0].item<double>() - expected[step]) < 1e-15 * 5);
  }
  CHECK(theta[1].item<double>() == 1.0);  // outside the ranges: no decay, no gradient
  CHECK(theta.slice(0, 2).abs().max().item<double>() == 0);
}

// A call of every kind with sensible dimensions.
static std::vector<Run> one_of_each(const Types& t) {
  const std::int64_t b = 2, s = 8, n = b * s, w = 16, v = 12, heads = 2, dh = 8;
  const Tensor x = random({n, w}, t.scalar), vec = random({w}, t.scalar);
  const Tensor batch = tokens(b, s, v), logits = random({n, v}, t.scalar);
  const Tensor stat = at::ones({2, n}, t.scalar), one = at::ones({1}, at::kDouble);
  const Tensor qkv = random({s, b, 3 * heads * dh}, t.scalar), flat = random({64}, t.scalar);
  const Tensor lse = at::ones({b, heads, s}, t.scalar), table = random({v, w}, t.scalar);
  const auto run = [&](Kernel k, std::vector<Tensor> in) { return Run(k, t.plan, std::move(in)); };
  const std::int64_t f = 24;
  const Tensor wide = random({n, f}, t.scalar), weight = random({f, w}, t.scalar);
  std::vector<Run> runs;
  runs.push_back(run(make(K::embed_fwd, {n, v, w}), {batch, table}));
  runs.push_back(run(make(K::pos_add_fwd, {s, b, w}), {x, random({s, w}, t.scalar)}));
  runs.push_back(run(make(K::layernorm_fwd, {n, w}), {x, vec, vec.clone()}));
  runs.push_back(run(make(K::rmsnorm_fwd, {n, w}), {x, vec}));
  runs.push_back(run(make(K::linear_fwd, {n, w, f}, kBias), {x, weight, random({f}, t.scalar)}));
  runs.push_back(run(make(K::rope_fwd, {b, heads, s, dh}), {qkv.clone()}));
  runs.push_back(run(make(K::attention_fwd, {b, heads, s, dh}, kCausal | kFlash), {qkv}));
  runs.push_back(run(make(K::bias_residual_fwd, {n, w}), {x, vec, x.clone()}));
  runs.push_back(run(make(K::residual_fwd, {n, w}), {x, x.clone()}));
  runs.push_back(run(make(K::gelu_fwd, {64}, kErf), {flat}));
  runs.push_back(run(make(K::swiglu_fwd, {n, f / 2}), {wide}));
  runs.push_back(run(make(K::ce_max, {n, v, v}), {logits}));
  runs.push_back(run(make(K::ce_sum, {n, v}), {logits, at::ones({n}, t.scalar), batch}));
  runs.push_back(
      run(make(K::ce_grad, {n, v, n}), {logits.clone(), at::ones({n}, t.scalar), stat, batch}));
  runs.push_back(run(make(K::linear_bwd_input, {n, w, f}), {wide, weight}));
  runs.push_back(run(make(K::gelu_bwd_input, {64}, kErf), {flat.clone(), flat}));
  runs.push_back(run(make(K::swiglu_bwd_input, {n, f / 2}), {random({n, f / 2}, t.scalar), wide}));
  runs.push_back(run(make(K::layernorm_bwd_input, {n, w}), {x.clone(), x, stat, vec}));
  runs.push_back(
      run(make(K::rmsnorm_bwd_input, {n, w}), {x.clone(), x, at::ones({n}, t.scalar), vec}));
  runs.push_back(run(make(K::residual_bwd_input, {n, w}), {x.clone(), x}));
  runs.push_back(
      run(make(K::attention_bwd_input, {b, heads, s, dh}, kCausal | kFlash),
          {random({s, b, heads * dh}, t.scalar), qkv, lse, random({s, b, heads * dh}, t.scalar)}));
  runs.push_back(run(make(K::rope_bwd_input, {b, heads, s, dh}), {qkv.clone()}));
  runs.push_back(run(make(K::linear_bwd_weight, {n, w, f}, kBias), {wide, x}));
  runs.push_back(run(make(K::bias_residual_bwd_weight, {n, w}), {x}));
  runs.push_back(run(make(K::embed_bwd_weight, {n, v, w}), {x, batch}));
  runs.push_back(run(make(K::pos_add_bwd_weight, {s, b, w}), {x}));
  runs.push_back(run(make(K::grad_add, {64}), {flat.clone(), flat}));
  runs.push_back(run(make(K::grad_scale, {64}), {flat.clone()}));
  runs.push_back(run(make(K::snapshot, {64}), {flat}));
  runs.push_back(run(make(K::snapshot, {8}, kValues), {random({8}, at::kDouble)}));
  runs.push_back(run(make(K::own_rows_fwd, {n / 2, w, 2}), {x}));
  runs.push_back(run(make(K::sum_squares, {64}, kWhole), {flat}));
  runs.push_back(run(make(K::clip_coef, {}), {one}));
  runs.push_back(
      run(make(K::adamw, {64}, kDecayAll), {flat.clone(), flat, at::zeros({64}, t.scalar),
                                            at::ones({64}, t.scalar), at::ones({1}, t.scalar)}));
  runs.push_back(run(make(K::metrics_pack, {8}, kHasNorm | kHasLoss), {one, one.clone()}));
  for (Run& r : moe_runs(t)) runs.push_back(std::move(r));
  for (Run& r : mla_runs(t)) runs.push_back(std::move(r));
  for (Run& r : ring_runs(t)) runs.push_back(std::move(r));
  return runs;
}

TEST_CASE("catalogue: every entry has code, and takes no more scratch than it declares") {
  set_up_torch(1);
  for (const Types& t : kTypes) {
    std::set<KernelKind> seen;
    std::vector<Run> runs = one_of_each(t);
    for (Run& r : runs) {
      CAPTURE(to_text(r.kernel));
      seen.insert(r.kernel.kind);
      CHECK((binder(r.kernel.kind) != nullptr));
      Result<Prepared> p = r.prepared();
      REQUIRE_MESSAGE(p.ok(), to_text(p.error().diagnostics));
      (*p)();  // the first call may set up a library
      reset_torch_peak();
      const std::int64_t before = torch_memory().live;
      (*p)();
      CHECK(torch_memory().peak - before <= hidden_scratch(r.kernel, t.plan));
      CHECK(torch_memory().live == before);
    }
    CHECK(seen.size() == kNumKernelKinds);
  }
}

TEST_CASE("bf16: every entry is its fp32 code between two roundings") {
  set_up_torch(1);
  const PlanTypes mixed{DType::bf16, DType::f32};
  for (Run& r : one_of_each(kTypes[1])) {
    CAPTURE(to_text(r.kernel));
    const Signature s = signature(r.kernel, mixed);
    std::vector<Tensor> narrow, wide;
    for (std::size_t i = 0; i < r.inputs.size(); ++i) {
      const bool rounds = i < s.inputs.size() && s.inputs[i].dtype == DType::bf16;
      narrow.push_back(rounds ? r.inputs[i].to(at::kBFloat16) : r.inputs[i].clone());
      wide.push_back(rounds ? narrow.back().to(at::kFloat) : narrow.back().clone());
    }
    Run got(r.kernel, mixed, narrow), expected(r.kernel, kTypes[1].plan, wide);
    got.context = expected.context = r.context;
    got.decay = expected.decay = r.decay;
    got(), expected();
    if (r.kernel.kind == K::ce_max)  // pads its input
      CHECK(at::equal(got.inputs[0], expected.inputs[0].to(at::kBFloat16)));
    for (std::size_t i = 0; i < s.outputs.size(); ++i) {
      CAPTURE(i);
      const bool rounds = s.outputs[i].dtype == DType::bf16;
      CHECK(at::equal(got.outputs[i],
                      rounds ? expected.outputs[i].to(at::kBFloat16) : expected.outputs[i]));
    }
    Result<Prepared> again = got.prepared();
    REQUIRE(again.ok());
    const std::int64_t before = torch_memory().live;
    (*again)();
    CHECK(torch_memory().live == before);  // the thread keeps its block
  }
}

TEST_CASE("bf16: rows that come at run time, more and fewer than balanced") {
  const PlanTypes mixed{DType::bf16, DType::f32};
  const std::int64_t balanced = 8, in = 6, out = 4, experts = 2, sources = 2, bound = 20;
  const Tensor weight = random({experts, out, in}, at::kFloat).to(at::kBFloat16);
  const Tensor x = random({bound, in}, at::kFloat).to(at::kBFloat16);
  const Tensor counts = at::zeros({sources, experts}, at::kInt);
  Run r(make(K::experts_linear_fwd, {balanced, in, out, experts, sources}), mixed,
        {x.slice(0, 0, balanced), weight, counts});
  const Tensor y = at::full({bound, out}, 7, at::kBFloat16);  // more memory than is declared
  r.outputs[0] = y.slice(0, 0, balanced);
  Result<Prepared> call = r.prepared();
  REQUIRE(call.ok());
  for (const std::pair<int, int>& rows : {std::pair{3, 9}, std::pair{0, 0}, std::pair{11, 9}}) {
    const int first = rows.first, second = rows.second;
    CAPTURE(first);
    counts[1][0] = first, counts[0][1] = second;
    y.fill_(7);
    (*call)();
    for (std::int64_t row = 0; row < bound; ++row) {
      const Tensor w = weight[row < first ? 0 : 1].to(at::kFloat);
      const Tensor expected = row < first + second
                                  ? at::mv(w, x[row].to(at::kFloat)).to(at::kBFloat16)
                                  : at::full({out}, 7, at::kBFloat16);
      CHECK(error(y[row], expected) < 0.01);
    }
  }
}

TEST_CASE("bf16: the parameter is its main copy, rounded") {
  const std::int64_t n = 33;
  const Tensor theta = random({n}, at::kFloat), grad = random({n}, at::kFloat);
  const Tensor zero = at::zeros({n}, at::kFloat), one = at::ones({1}, at::kFloat);
  const auto inputs = [&] {
    return std::vector<Tensor>{theta.clone(), grad, zero.clone(), zero.clone(), one};
  };
  Run plain(make(K::adamw, {n}, kDecayAll), kTypes[1].plan, inputs());
  Run cast(make(K::adamw, {n}, kDecayAll | kCast), {DType::bf16, DType::f32}, inputs());
  for (Run* r : {&plain, &cast}) r->context.adamw = {0.9, 0.95, 1e-8, 0.99, 0.1, 0.2};
  plain(), cast();
  CHECK(at::equal(cast.outputs[0], plain.outputs[0]));
  CHECK(!at::equal(cast.outputs[0], theta));
  CHECK(at::equal(cast.outputs[3], plain.outputs[0].to(at::kBFloat16)));
}

TEST_CASE("attention takes no more scratch than it declares, at every block size") {
  set_up_torch(1);
  for (const Types& t : kTypes)
    for (const std::int64_t seq : {32, 200, 800})
      for (const std::int64_t kv : {4, 2, 1})
        for (const KernelFlag kind : {kFlash, kMaterialised}) {
          CAPTURE(seq);
          CAPTURE(kv);
          CAPTURE(kind);
          const std::int64_t b = 1, heads = 4, dh = 16;
          const KernelDims dims = {b, heads, seq, dh, kv == heads ? 0 : kv};
          const Tensor qkv = random({seq, b, (heads + 2 * kv) * dh}, t.scalar);
          Run f(make(K::attention_fwd, dims, kCausal | kind), t.plan, {qkv});
          f();
          Run i(make(K::attention_bwd_input, dims, kCausal | kind), t.plan,
                {random({seq, b, heads * dh}, t.scalar), qkv, f.outputs[1], f.outputs[0]});
          for (Run* r : {&f, &i}) {
            Result<Prepared> p = r->prepared();
            reset_torch_peak();
            const std::int64_t before = torch_memory().live;
            (*p)();
            CHECK(torch_memory().peak - before <= hidden_scratch(r->kernel, t.plan));
          }
        }
}

TEST_CASE("prepare refuses operands that differ from the signature") {
  for (const Types& t : kTypes) {
    std::vector<Run> runs = one_of_each(t);
    for (Run& r : runs) {
      CAPTURE(to_text(r.kernel));
      REQUIRE(!r.inputs.empty());
      Run shorter = r;
      shorter.inputs.pop_back();
      if (r.kernel.kind != K::sum_squares) CHECK(!shorter.prepared().ok());
      Run other = r;
      other.outputs[0] = at::zeros({r.outputs[0].numel() + 1000}, r.outputs[0].scalar_type());
      if (r.kernel.kind != K::pos_add_bwd_weight) CHECK(!other.prepared().ok());
      Run type = r;
      const bool is_long = r.outputs[0].scalar_type() == at::kLong;
      type.outputs[0] = r.outputs[0].to(is_long ? at::kInt : at::kLong);
      CHECK(!type.prepared().ok());
    }
  }
  for (const std::int64_t kv : {3, 8}) {  // 4 heads share neither evenly
    Run uneven(make(K::attention_fwd, {1, 4, 8, 4, kv}, kCausal | kFlash), kTypes[0].plan,
               {at::zeros({8, 1, (4 + 2 * kv) * 4}, at::kDouble)});
    CHECK(!uneven.prepared().ok());
  }
  Run half(make(K::gelu_fwd, {64}, kErf), {DType::f32, DType::f32}, {at::zeros({64}, at::kFloat)});
  half.types = {DType::f16, DType::f32};
  REQUIRE(!half.prepared().ok());
  CHECK(half.prepared().error().diagnostics[0].code == "E-EXEC-035");
}

TEST_CASE("an accumulating linear gradient needs its scratch") {
  const Types& t = kTypes[0];
  Run g(make(K::linear_bwd_weight, {4, 4, 4}), t.plan,
        {at::ones({4, 4}, at::kDouble), at::ones({4, 4}, at::kDouble)});
  g.accumulate = {true};
  g.scratch.clear();
  CHECK(!g.prepared().ok());
}

}  // namespace tandem::exec
