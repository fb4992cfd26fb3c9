// Widths are those of one rank: heads are local, latents are whole (models.md 2.3 and 2.7).
#include "common/model/kernels_mla.h"

namespace tandem {
namespace {

using K = KernelKind;

// {tokens, q_rank, kv_rank, rope_dim}
struct Latents {
  std::int64_t tokens, q, kv, rope;
  explicit Latents(const Kernel& k)
      : tokens(k.dims[0]), q(k.dims[1]), kv(k.dims[2]), rope(k.dims[3]) {}
  [[nodiscard]] std::int64_t normed() const { return q + kv; }
  [[nodiscard]] std::int64_t width() const { return q + kv + rope; }
  [[nodiscard]] int norms() const { return q > 0 ? 2 : 1; }
};

// {batch, heads, seq, nope_dim, rope_dim, v_dim}
struct Heads {
  std::int64_t batch, heads, seq, nope, rope, v;
  explicit Heads(const Kernel& k)
      : batch(k.dims[0]),
        heads(k.dims[1]),
        seq(k.dims[2]),
        nope(k.dims[3]),
        rope(k.dims[4]),
        v(k.dims[5]) {}
  [[nodiscard]] std::int64_t tokens() const { return batch * seq; }
  // Of a token: q of all heads; k without its rope part, and v; all three for the core.
  [[nodiscard]] std::int64_t q_width() const { return heads * (nope + rope); }
  [[nodiscard]] std::int64_t kv_width() const { return heads * (nope + v); }
  [[nodiscard]] std::int64_t qkv_width() const { return heads * (2 * (nope + rope) + v); }
};

bool has_heads(K kind) { return kind == K::mla_qkv_fwd || kind == K::mla_qkv_bwd_input; }

// The parts of the latents, or of their gradients, without those that a model lacks.
std::vector<Operand> parts(const Latents& x, const std::string_view (&roles)[3], DType type) {
  std::vector<Operand> out;
  const std::int64_t widths[] = {x.q, x.kv, x.rope};
  for (int i = 0; i < 3; ++i)
    if (widths[i] > 0) out.push_back({roles[i], {x.tokens, widths[i]}, type});
  return out;
}

Signature heads_signature(const Kernel& k, PlanTypes t) {
  const Heads x(k);
  const bool forward = k.kind == K::mla_qkv_fwd;
  const std::int64_t n = x.tokens();
  std::vector<Operand> apart = {{forward ? "q" : "dq", {n, x.q_width()}, t.compute},
                                {forward ? "kv" : "dkv", {n, x.kv_width()}, t.compute}};
  if (x.rope > 0) apart.push_back({forward ? "kr" : "dkr", {n, x.rope}, t.compute});
  const std::vector<Operand> fused = {
      {forward ? "qkv" : "dqkv", {x.seq, x.batch, x.qkv_width()}, t.compute}};
  Signature sig;
  sig.inputs = forward ? apart : fused;
  sig.outputs = forward ? fused : apart;
  return sig;
}

}  // namespace

std::string_view broken_mla_rule(const Kernel& k) {
  const std::int64_t rope = has_heads(k.kind) ? Heads(k).rope : Latents(k).rope;
  return rope % 2 != 0 ? "rope_dim is even" : "";
}

Signature mla_signature(const Kernel& k, PlanTypes t) {
  if (has_heads(k.kind)) return heads_signature(k, t);
  const Latents x(k);
  const DType w = t.compute, s = t.statistic();  // weights of norms stay in s (models.md 2.1)
  const Shape all{x.tokens, x.width()};
  const Operand zn{"zn", {x.tokens, x.normed()}, w}, stat{"stat", {x.norms(), x.tokens}, s};
  const Operand wq{"wq", {x.q}, s}, wkv{"wkv", {x.kv}, s};
  Signature sig;
  switch (k.kind) {
    case K::latent_norm_fwd:
      sig.inputs = {{"z", all, w}, wq, wkv};
      if (x.q == 0) sig.inputs = {{"z", all, w}, wkv};
      sig.outputs = {{"latents", all, w}, zn, stat};
      break;
    case K::latent_norm_bwd_input:
      sig.inputs = {{"dlatents", all, w}, zn, stat, wq, wkv};
      if (x.q == 0) sig.inputs = {{"dlatents", all, w}, zn, stat, wkv};
      sig.outputs = {{"dz", all, w, false, 0}};
      if (x.q > 0) sig.outputs.push_back({"dwq", {x.q}, t.main, true});
      sig.outputs.push_back({"dwkv", {x.kv}, t.main, true});
      break;
    case K::latent_split_fwd:
      sig.inputs = {{"latents", all, w}};
      sig.outputs = parts(x, {"ql", "kl", "kr"}, w);
      break;
    case K::latent_merge_bwd_input:
      sig.inputs = parts(x, {"dql", "dkl", "dkr"}, w);
      sig.outputs = {{"dlatents", all, w}};
      break;
    default:
      break;
  }
  return sig;
}

KernelCost mla_cost(const Kernel& k, PlanTypes t) {
  const double w = size_of(t.compute), s = size_of(t.statistic());
  if (has_heads(k.kind)) {  // each operand once
    const Heads x(k);
    const auto row = static_cast<double>(x.q_width() + x.kv_width() + x.rope + x.qkv_width());
    return {0, static_cast<double>(x.tokens()) * row * w};
  }
  const Latents x(k);
  const auto n = static_cast<double>(x.tokens), width = static_cast<double>(x.width()),
             normed = static_cast<double>(x.normed()), stat = n * x.norms() * s;
  switch (k.kind) {
    case K::latent_norm_fwd:  // what the norms read is written again
      return {0, n * (2 * width + normed) * w + stat};
    case K::latent_norm_bwd_input:  // in place: the rope part is not touched
      return {0, 3 * n * normed * w + stat};
    default:  // split, merge
      return {0, 2 * n * width * w};
  }
}

}  // namespace tandem
