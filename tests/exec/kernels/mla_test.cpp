// Latent attention (models.md 2.3) against plain autograd, in fp64 and fp32: each kernel alone, the
// core with a v narrower than q and k, and the whole of it from x to the output projection.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>

#include "exec/device/torch_memory.h"
#include "tests/exec/kernels/run.h"

namespace tandem::exec {
namespace {

Tensor rms(const Tensor& x, const Tensor& weight, double eps) {
  return x * (x.pow(2).mean(-1, true) + eps).rsqrt() * weight;
}

// [S, b, heads, width] turned by position.
Tensor rotated(const Tensor& x, double base) {
  const std::int64_t half = x.size(3) / 2;
  const auto real = at::TensorOptions().dtype(at::kDouble);
  const Tensor rate = at::pow(base, at::arange(half, real) / -std::max<double>(1, double(half)));
  const Tensor angle = at::outer(at::arange(x.size(0), real), rate).view({x.size(0), 1, 1, half});
  const Tensor cos = angle.cos().to(x.scalar_type()), sin = angle.sin().to(x.scalar_type());
  const Tensor first = x.slice(3, 0, half), second = x.slice(3, half);
  return at::cat({first * cos - second * sin, second * cos + first * sin}, 3);
}

// Causal attention of [S, b, heads, .]; back to [S, b, heads * dv].
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto by_head = [](const Tensor& x) { return x.permute({1, 2, 0, 3}); };
  const Tensor mask = at::ones({q.size(0), q.size(0)}, at::kBool).triu(1);
  const Tensor scores =
      at::matmul(by_head(q), by_head(k).transpose(-2, -1)) / std::sqrt(double(q.size(3)));
  const Tensor probs = at::softmax(scores.masked_fill(mask, -INFINITY), -1);
  return at::matmul(probs, by_head(v)).permute({2, 0, 1, 3}).flatten(2);
}

Kernel with_real(Kernel k, double real) {
  k.real = real;
  return k;
}

constexpr std::int64_t kBatch = 2, kSeq = 9, kTokens = kBatch * kSeq;
constexpr double kEps = 1e-6, kBase = 500;

}  // namespace

TEST_CASE("latent norm: parts of a row, their weights, what is saved; rope as it is") {
  for (const Types& t : kTypes)
    for (const std::int64_t q_rank : {20, 0})
      for (const std::int64_t rope : {6, 0}) {
        CAPTURE(q_rank);
        CAPTURE(rope);
        const std::int64_t kv_rank = 35, normed = q_rank + kv_rank, width = normed + rope;
        Tensor z = random({kTokens, width}, t.scalar).requires_grad_(true);
        Tensor wq = random({q_rank}, t.scalar).requires_grad_(true);
        Tensor wkv = random({kv_rank}, t.scalar).requires_grad_(true);
        const Tensor kv = z.slice(1, q_rank, normed);
        Tensor y = at::cat({rms(kv, wkv, kEps), z.slice(1, normed)}, 1);
        if (q_rank > 0) y = at::cat({rms(z.slice(1, 0, q_rank), wq, kEps), y}, 1);
        const Tensor dy = random({kTokens, width}, t.scalar);
        y.backward(dy);
        const KernelDims dims = {kTokens, q_rank, kv_rank, rope};
        std::vector<Tensor> in = {z.detach().clone(), wkv};
        if (q_rank > 0) in.insert(in.begin() + 1, wq);
        Run f(with_real(make(K::latent_norm_fwd, dims), kEps), t.plan, in);
        f();
        CHECK(error(f.outputs[0], y) < t.tolerance);
        CHECK(at::equal(f.outputs[1], z.detach().slice(1, 0, normed)));
        CHECK(error(f.outputs[2].view({-1, kTokens})[q_rank > 0 ? 1 : 0],
                    (kv.pow(2).mean(-1) + kEps).rsqrt()) < t.tolerance);

        std::vector<Tensor> back = {dy.clone(), f.outputs[1], f.outputs[2], wkv};
        if (q_rank > 0) back.insert(back.begin() + 3, wq);
        Run i(make(K::latent_norm_bwd_input, dims), t.plan, back);
        i();
        CHECK(error(i.outputs[0], z.grad()) < t.tolerance);
        CHECK(error(i.outputs.back(), wkv.grad()) < t.tolerance);
        if (q_rank > 0) CHECK(error(i.outputs[1], wq.grad()) < t.tolerance);
        // dz beside dlatents, weights adding to what the first call left.
        back[0] = dy.clone();
        Run again(make(K::latent_norm_bwd_input, dims), t.plan, back);
        again.outputs[0] = at::full_like(dy, 7);
        for (std::size_t o = 1; o < again.outputs.size(); ++o) {
          again.outputs[o] = i.outputs[o].clone();
          again.accumulate[o] = true;
        }
        again();
        CHECK(at::equal(again.outputs[0], i.outputs[0]));
        for (std::size_t o = 1; o < again.outputs.size(); ++o)
          CHECK(at::equal(again.outputs[o], i.outputs[o] + i.outputs[o]));
      }
}

TEST_CASE("latents: split in their parts and merged again") {
  for (const Types& t : kTypes)
    for (const std::int64_t q_rank : {5, 0})
      for (const std::int64_t rope : {2, 0}) {
        const std::int64_t kv_rank = 7;
        const Tensor latents = random({kTokens, q_rank + kv_rank + rope}, t.scalar);
        const KernelDims dims = {kTokens, q_rank, kv_rank, rope};
        Run split(make(K::latent_split_fwd, dims), t.plan, {latents});
        split();
        std::vector<Tensor> parts;
        for (const Tensor& part : latents.split_with_sizes({q_rank, kv_rank, rope}, 1))
          if (part.numel() > 0) parts.push_back(part.contiguous());
        REQUIRE(split.outputs.size() == parts.size());
        for (std::size_t i = 0; i < parts.size(); ++i) CHECK(at::equal(split.outputs[i], parts[i]));
        Run merge(make(K::latent_merge_bwd_input, dims), t.plan, parts);
        merge();
        CHECK(at::equal(merge.outputs[0], latents));
      }
}

TEST_CASE("mla qkv: heads put together, the rope key shared by all of them") {
  for (const Types& t : kTypes)
    for (const std::int64_t rope : {6, 0}) {
      CAPTURE(rope);
      const std::int64_t heads = 3, nope = 4, v = 5, qk = nope + rope;
      Tensor q = random({kTokens, heads * qk}, t.scalar).requires_grad_(true);
      Tensor kv = random({kTokens, heads * (nope + v)}, t.scalar).requires_grad_(true);
      Tensor kr = random({kTokens, rope}, t.scalar).requires_grad_(true);
      const Tensor q4 = q.view({kSeq, kBatch, heads, qk}),
                   kv4 = kv.view({kSeq, kBatch, heads, nope + v}),
                   kr4 = kr.view({kSeq, kBatch, 1, rope}).expand({-1, -1, heads, -1});
      const Tensor whole_q = at::cat({q4.slice(3, 0, nope), rotated(q4.slice(3, nope), kBase)}, 3);
      const Tensor whole_k = at::cat({kv4.slice(3, 0, nope), rotated(kr4, kBase)}, 3);
      const Tensor y =
          at::cat({whole_q.flatten(2), whole_k.flatten(2), kv4.slice(3, nope).flatten(2)}, 2);
      const Tensor dy = random(y.sizes(), t.scalar);
      y.backward(dy);
      const KernelDims dims = {kBatch, heads, kSeq, nope, rope, v};
      std::vector<Tensor> in = {q, kv};
      if (rope > 0) in.push_back(kr);
      Run f(with_real(make(K::mla_qkv_fwd, dims), kBase), t.plan, in);
      f();
      CHECK(error(f.outputs[0], y) < t.tolerance);
      Run i(with_real(make(K::mla_qkv_bwd_input, dims), kBase), t.plan, {dy});
      i();
      CHECK(error(i.outputs[0], q.grad()) < t.tolerance);
      CHECK(error(i.outputs[1], kv.grad()) < t.tolerance);
      if (rope > 0) CHECK(error(i.outputs[2], kr.grad()) < t.tolerance);
      const Tensor once = i.outputs.back().clone();
      i();  // the sum over heads starts anew in every call
      CHECK(at::equal(i.outputs.back(), once));
    }
}

// models.md 2.4: x = 1..8 at position 3, base 10000, as the rope part of q and as the rope key.
TEST_CASE("mla qkv: goldens of a rotation") {
  const std::int64_t seq = 4, heads = 2, nope = 1, rope = 8, v = 1, qk = nope + rope;
  const Tensor x = at::arange(0, 9, at::kDouble);  // nope 0, rope 1..8
  const Tensor q = x.repeat({seq, heads}), kv = at::zeros({seq, heads * 2}, at::kDouble),
               kr = x.slice(0, 1).repeat({seq, 1});
  Run f(with_real(make(K::mla_qkv_fwd, {1, heads, seq, nope, rope, v}), 10000), kTypes[0].plan,
        {q, kv, kr});
  f();
  const double golden[] = {-1.69559254, 0.13755174, 2.78868160, 3.97598204,
                           -4.80884247, 6.32305935, 7.08683674, 8.01196398};
  for (std::int64_t part = 0; part < 2 * heads; ++part)  // heads of q, then of k
    for (int i = 0; i < 8; ++i) {
      CAPTURE(part);
      CAPTURE(i);
      CHECK(std::abs(f.outputs[0][3][0][part * qk + nope + i].item<double>() - golden[i]) < 5e-9);
    }
}

TEST_CASE("attention: a v narrower than q and k") {
  for (const Types& t : kTypes)
    for (const KernelFlag kind : {kFlash, kMaterialised})
      for (const std::int64_t kv : {4, 2, 1}) {
        CAPTURE(kind);
        CAPTURE(kv);
        const std::int64_t heads = 4, dh = 12, dv = 5, row = (heads + kv) * dh + kv * dv;
        Tensor qkv = random({kSeq, kBatch, row}, t.scalar).requires_grad_(true);
        const auto part = [&](std::int64_t first, std::int64_t count, std::int64_t width) {
          return qkv.slice(2, first, first + count * width)
              .view({kSeq, kBatch, count, width})
              .repeat_interleave(heads / count, 2);
        };
        const Tensor out =
            attend(part(0, heads, dh), part(heads * dh, kv, dh), part((heads + kv) * dh, kv, dv));
        const Tensor dout = random(out.sizes(), t.scalar);
        out.backward(dout);
        const KernelDims dims = {kBatch, heads, kSeq, dh, kv == heads ? 0 : kv, dv};
        Run f(make(K::attention_fwd, dims, kCausal | kind), t.plan, {qkv});
        f();
        CHECK(error(f.outputs[0], out) < t.tolerance);
        Run i(make(K::attention_bwd_input, dims, kCausal | kind), t.plan,
              {dout, qkv, f.outputs[1], f.outputs[0]});
        i();
        CHECK(error(i.outputs[0], qkv.grad()) < t.tolerance);
        const Tensor once = i.outputs[0].clone();
        i();
        CHECK(at::equal(i.outputs[0], once));
      }
}

TEST_CASE("attention with a narrow v takes no more scratch than it declares") {
  set_up_torch(1);
  for (const Types& t : kTypes)
    for (const std::int64_t seq : {32, 200, 800})
      for (const std::int64_t kv : {4, 1})
        for (const KernelFlag kind : {kFlash, kMaterialised}) {
          CAPTURE(seq);
          CAPTURE(kv);
          CAPTURE(kind);
          const std::int64_t heads = 4, dh = 24, dv = 16;
          const KernelDims dims = {1, heads, seq, dh, kv == heads ? 0 : kv, dv};
          const Tensor qkv = random({seq, 1, (heads + kv) * dh + kv * dv}, t.scalar);
          Run f(make(K::attention_fwd, dims, kCausal | kind), t.plan, {qkv});
          f();
          Run i(make(K::attention_bwd_input, dims, kCausal | kind), t.plan,
                {random({seq, 1, heads * dv}, t.scalar), qkv, f.outputs[1], f.outputs[0]});
          for (Run* r : {&f, &i}) {
            Result<Prepared> p = r->prepared();
            REQUIRE(p.ok());
            reset_torch_peak();
            const std::int64_t before = torch_memory().live;
            (*p)();
            const Bytes declared = hidden_scratch(r->kernel, t.plan);
            CHECK(torch_memory().peak - before <= declared);
            // Nor is the bound idle.
            if (kind == kFlash) CHECK(3 * (torch_memory().peak - before) > declared);
            CHECK(torch_memory().live == before);
          }
        }
}

// deepseek's attention of one layer by the calls a plan makes, against models.md 2.3 written out.
TEST_CASE("latent attention: the kernels together, from x to the output projection and back") {
  for (const Types& t : kTypes)
    for (const KernelFlag kind : {kFlash, kMaterialised}) {
      CAPTURE(kind);
      const std::int64_t hidden = 24, heads = 3, rq = 16, rkv = 10, dn = 6, dr = 4, dv = 5;
      const std::int64_t qk = dn + dr, width = rq + rkv + dr, n = kTokens;
      std::map<std::string, Tensor> w;
      const auto parameter = [&](const char* name, at::IntArrayRef sizes) {
        w[name] = (random(sizes, t.scalar) * 0.3).requires_grad_(true);
      };
      parameter("a", {width, hidden});  // rows of q_a, then of kv_a
      parameter("q_norm", {rq});
      parameter("kv_norm", {rkv});
      parameter("q_b", {heads * qk, rq});
      parameter("kv_b", {heads * (dn + dv), rkv});
      parameter("o", {hidden, heads * dv});
      Tensor x = random({n, hidden}, t.scalar).requires_grad_(true);

      const Tensor z = at::linear(x, w["a"]);
      const Tensor q = at::linear(rms(z.slice(1, 0, rq), w["q_norm"], kEps), w["q_b"])
                           .view({kSeq, kBatch, heads, qk});
      const Tensor kv = at::linear(rms(z.slice(1, rq, rq + rkv), w["kv_norm"], kEps), w["kv_b"])
                            .view({kSeq, kBatch, heads, dn + dv});
      const Tensor kr = rotated(z.slice(1, rq + rkv).view({kSeq, kBatch, 1, dr}), kBase);
      const Tensor core =
          attend(at::cat({q.slice(3, 0, dn), rotated(q.slice(3, dn), kBase)}, 3),
                 at::cat({kv.slice(3, 0, dn), kr.expand({-1, -1, heads, -1})}, 3), kv.slice(3, dn));
      const Tensor y = at::linear(core.view({n, heads * dv}), w["o"]);
      const Tensor dy = random(y.sizes(), t.scalar);
      y.backward(dy);

      const KernelDims latent = {n, rq, rkv, dr}, mla = {kBatch, heads, kSeq, dn, dr, dv},
                       head = {kBatch, heads, kSeq, qk, 0, dv};
      const KernelDims a = {n, hidden, width}, q_b = {n, rq, heads * qk},
                       kv_b = {n, rkv, heads * (dn + dv)}, o = {n, heads * dv, hidden};
      const auto run = [&](Kernel k, std::vector<Tensor> in) {
        Run r(k, t.plan, std::move(in));
        r();
        return r.outputs;
      };
      const std::uint32_t flags = kCausal | kind;
      const auto z1 = run(make(K::linear_fwd, a), {x, w["a"]});
      const auto normed = run(with_real(make(K::latent_norm_fwd, latent), kEps),
                              {z1[0], w["q_norm"], w["kv_norm"]});
      const auto parts = run(make(K::latent_split_fwd, latent), {normed[0]});
      const auto q1 = run(make(K::linear_fwd, q_b), {parts[0], w["q_b"]});
      const auto kv1 = run(make(K::linear_fwd, kv_b), {parts[1], w["kv_b"]});
      const auto qkv = run(with_real(make(K::mla_qkv_fwd, mla), kBase), {q1[0], kv1[0], parts[2]});
      const auto attended = run(make(K::attention_fwd, head, flags), {qkv[0]});
      const auto out = run(make(K::linear_fwd, o), {attended[0], w["o"]});
      CHECK(error(out[0], y) < t.tolerance);

      const auto d_core = run(make(K::linear_bwd_input, o), {dy, w["o"]});
      const auto d_qkv = run(make(K::attention_bwd_input, head, flags),
                             {d_core[0], qkv[0], attended[1], attended[0]});
      const auto d_heads = run(with_real(make(K::mla_qkv_bwd_input, mla), kBase), {d_qkv[0]});
      const auto d_ql = run(make(K::linear_bwd_input, q_b), {d_heads[0], w["q_b"]});
      const auto d_kl = run(make(K::linear_bwd_input, kv_b), {d_heads[1], w["kv_b"]});
      const auto d_latents =
          run(make(K::latent_merge_bwd_input, latent), {d_ql[0], d_kl[0], d_heads[2]});
      const auto d_z = run(make(K::latent_norm_bwd_input, latent),
                           {d_latents[0], normed[1], normed[2], w["q_norm"], w["kv_norm"]});
      const auto dx = run(make(K::linear_bwd_input, a), {d_z[0], w["a"]});
      CHECK(error(dx[0], x.grad()) < t.tolerance);
      CHECK(error(d_z[1], w["q_norm"].grad()) < t.tolerance);
      CHECK(error(d_z[2], w["kv_norm"].grad()) < t.tolerance);
      const auto weight = [&](KernelDims dims, const Tensor& g, const Tensor& in) {
        return run(make(K::linear_bwd_weight, dims), {g, in})[0];
      };
      CHECK(error(weight(a, d_z[0], x), w["a"].grad()) < t.tolerance);
      CHECK(error(weight(q_b, d_heads[0], parts[0]), w["q_b"].grad()) < t.tolerance);
      CHECK(error(weight(kv_b, d_heads[1], parts[1]), w["kv_b"].grad()) < t.tolerance);
      CHECK(error(weight(o, dy, attended[0]), w["o"].grad()) < t.tolerance);
    }
}

TEST_CASE("prepare refuses latent attention that cannot be") {
  const Types& t = kTypes[0];
  Run odd(make(K::mla_qkv_bwd_input, {1, 1, 4, 4, 3, 4}), t.plan,
          {at::zeros({4, 1, 18}, at::kDouble)});
  REQUIRE(!odd.prepared().ok());
  CHECK(odd.prepared().error().diagnostics[0].code == "E-EXEC-035");
  Run wide(make(K::attention_fwd, {1, 1, 4, 4, 0, 6}, kCausal | kFlash), t.plan,
           {at::zeros({4, 1, 14}, at::kDouble)});
  CHECK(!wide.prepared().ok());
  wide.kernel.flags = kCausal | kMaterialised;
  wide.outputs[1] = at::zeros({1, 1, 4, 4}, at::kDouble);
  CHECK(wide.prepared().ok());
}

}  // namespace tandem::exec
