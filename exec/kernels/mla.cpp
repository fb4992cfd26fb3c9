// Latent attention around its core (models.md 2.3). A token's latents are one row
//   z = [q latent | kv latent | rope key],  Q = q_rank + kv_rank + rope_dim wide,
// of which the first two are normed. What the core reads, qkv[S, b, ...], is all q, all k, all v of
// the local heads; in a head of q and k nope before rope:
//   q = (q_nope, rot(q_rope));  k = (k_nope, rot(kr));  kr is one for all heads, so its gradient is
//   the sum over heads, ascending, rotated back.
#include <algorithm>
#include <vector>

#include "exec/kernels/loops.h"
#include "exec/kernels/positions.h"
#include "exec/kernels/rms.h"
#include "exec/kernels/rotation.h"

namespace tandem::exec {
namespace {

// {tokens, q_rank, kv_rank, rope_dim}
struct Latents {
  std::int64_t tokens, q, kv, rope;
  explicit Latents(const Kernel& k)
      : tokens(k.dims[0]), q(k.dims[1]), kv(k.dims[2]), rope(k.dims[3]) {}
  [[nodiscard]] std::int64_t normed() const { return q + kv; }
  [[nodiscard]] std::int64_t width() const { return q + kv + rope; }
};

// `width` columns of all rows.
template <class T>
void copy_columns(Rows<const T> from, Rows<T> to, std::int64_t rows, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r) std::copy_n(from[r], width, to[r]);
}

// The columns of the latents that split and merge move, with the operand of each part.
template <class T>
struct Part {
  std::int64_t first, width;
  T* data;
};
template <class T>
std::vector<Part<T>> parts(const Latents& x, const std::vector<View>& operands) {
  std::vector<Part<T>> out;
  std::int64_t first = 0;
  for (const std::int64_t width : {x.q, x.kv, x.rope}) {
    if (width > 0) {
      const View& view = operands[out.size()];
      out.push_back({first, width, view.as<T>()});
    }
    first += width;
  }
  return out;
}

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
  [[nodiscard]] std::int64_t qk() const { return nope + rope; }
};

// One token's rows: what the up-projections make, and what the core reads.
template <class T>
struct Token {
  T *q, *kv, *kr;   // [heads, nope + rope], [heads, nope + v], [rope]
  T *to_q, *k, *v;  // [heads, nope + rope] twice, [heads, v]
};
template <class T>
struct Tokens {
  Heads x;
  T *q, *kv, *kr, *qkv;  // kr: nullptr where rope_dim is 0
  Tokens(const Kernel& k, const std::vector<View>& apart, const View& fused)
      : x(k),
        q(apart[0].as<T>()),
        kv(apart[1].as<T>()),
        kr(x.rope > 0 ? apart[2].as<T>() : nullptr),
        qkv(fused.as<T>()) {}
  [[nodiscard]] Token<T> at(std::int64_t n) const {
    const std::int64_t q_row = x.heads * x.qk(), kv_row = x.heads * (x.nope + x.v);
    T* row = qkv + n * (2 * q_row + x.heads * x.v);
    return {q + n * q_row, kv + n * kv_row, kr + n * x.rope, row, row + q_row, row + 2 * q_row};
  }
};

template <class T>
void fuse(const Heads& x, const Token<T>& t, const Rotation<T>& rotation) {
  T* key_rope = t.k + x.nope;  // turned once, in the first head
  std::copy_n(t.kr, x.rope, key_rope);
  rotation.turn(key_rope);
  for (std::int64_t h = 0; h < x.heads; ++h) {
    const T* kv = t.kv + h * (x.nope + x.v);
    T *q = t.to_q + h * x.qk(), *k = t.k + h * x.qk();
    std::copy_n(t.q + h * x.qk(), x.qk(), q);
    rotation.turn(q + x.nope);
    std::copy_n(kv, x.nope, k);
    if (h > 0) std::copy_n(key_rope, x.rope, k + x.nope);
    std::copy_n(kv + x.nope, x.v, t.v + h * x.v);
  }
}

template <class T>
void separate(const Heads& x, const Token<T>& t, const Rotation<T>& back) {
  std::fill_n(t.kr, x.rope, T(0));
  for (std::int64_t h = 0; h < x.heads; ++h) {
    T *q = t.q + h * x.qk(), *kv = t.kv + h * (x.nope + x.v);
    const T* k = t.k + h * x.qk();
    std::copy_n(t.to_q + h * x.qk(), x.qk(), q);
    back.turn(q + x.nope);
    std::copy_n(k, x.nope, kv);
    for (std::int64_t i = 0; i < x.rope; ++i) t.kr[i] += k[x.nope + i];
    std::copy_n(t.v + h * x.v, x.v, kv + x.nope);
  }
  back.turn(t.kr);
}

// Calls f(heads, token) for every token in the order of the rows, the rotation at its position.
template <class T, class F>
Prepared for_tokens(const Tokens<T>& tokens, const KernelCall& call, double direction, F f) {
  Rotation<T> rotation(tokens.x.rope, call.kernel.real.value_or(10000), direction);
  return [=, positions = positions_of(call, tokens.x.seq)]() mutable {
    for (std::int64_t s = 0; s < tokens.x.seq; ++s) {
      rotation.move_to(positions[static_cast<std::size_t>(s)]);
      for (std::int64_t b = 0; b < tokens.x.batch; ++b)
        f(tokens.x, tokens.at(s * tokens.x.batch + b), rotation);
    }
  };
}

}  // namespace

Prepared bind_latent_norm_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Latents x(call.kernel);
    const T eps = static_cast<T>(call.kernel.real.value_or(1e-6));
    const std::int64_t width = x.width(), normed = x.normed();
    const T* z = call.inputs[0].as<T>();
    const T* wq = x.q > 0 ? call.inputs[1].as<T>() : nullptr;
    const T* wkv = call.inputs.back().as<T>();
    T *latents = call.outputs[0].as<T>(), *zn = call.outputs[1].as<T>(),
      *stat = call.outputs[2].as<T>(), *kv_stat = stat + (x.q > 0 ? x.tokens : 0);
    return [=] {
      copy_columns<T>({z, width}, {zn, normed}, x.tokens, normed);
      if (x.q > 0) rms_forward<T>({z, width}, wq, {latents, width}, stat, x.tokens, x.q, eps);
      rms_forward<T>({z + x.q, width}, wkv, {latents + x.q, width}, kv_stat, x.tokens, x.kv, eps);
      copy_columns<T>({z + normed, width}, {latents + normed, width}, x.tokens, x.rope);
    };
  });
}

Prepared bind_latent_norm_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Latents x(call.kernel);
    const std::int64_t width = x.width(), normed = x.normed();
    const T *dy = call.inputs[0].as<T>(), *zn = call.inputs[1].as<T>(),
            *stat = call.inputs[2].as<T>(), *kv_stat = stat + (x.q > 0 ? x.tokens : 0);
    const T* wq = x.q > 0 ? call.inputs[3].as<T>() : nullptr;
    const T* wkv = call.inputs.back().as<T>();
    T* dz = call.outputs[0].as<T>();
    T* dwq = x.q > 0 ? call.outputs[1].as<T>() : nullptr;
    T* dwkv = call.outputs.back().as<T>();
    const bool add_q = x.q > 0 && call.accumulate[1], add_kv = call.accumulate.back();
    return [=] {
      if (x.q > 0)
        rms_backward<T>({dy, width}, {zn, normed}, stat, wq, {dz, width}, dwq, add_q, x.tokens,
                        x.q);
      rms_backward<T>({dy + x.q, width}, {zn + x.q, normed}, kv_stat, wkv, {dz + x.q, width}, dwkv,
                      add_kv, x.tokens, x.kv);
      if (dz != dy) copy_columns<T>({dy + normed, width}, {dz + normed, width}, x.tokens, x.rope);
    };
  });
}

Prepared bind_latent_split_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Latents x(call.kernel);
    const T* latents = call.inputs[0].as<T>();
    const std::vector<Part<T>> to = parts<T>(x, call.outputs);
    return [=] {
      for (const Part<T>& p : to)
        copy_columns<T>({latents + p.first, x.width()}, {p.data, p.width}, x.tokens, p.width);
    };
  });
}

Prepared bind_latent_merge_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Latents x(call.kernel);
    T* latents = call.outputs[0].as<T>();
    const std::vector<Part<T>> from = parts<T>(x, call.inputs);
    return [=] {
      for (const Part<T>& p : from)
        copy_columns<T>({p.data, p.width}, {latents + p.first, x.width()}, x.tokens, p.width);
    };
  });
}

Prepared bind_mla_qkv_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Tokens<T> tokens(call.kernel, call.inputs, call.outputs[0]);
    return for_tokens(tokens, call, 1, fuse<T>);
  });
}

Prepared bind_mla_qkv_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Tokens<T> tokens(call.kernel, call.outputs, call.inputs[0]);
    return for_tokens(tokens, call, -1, separate<T>);
  });
}

}  // namespace tandem::exec
