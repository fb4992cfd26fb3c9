// What lives only for a moment (memory.h, TransientBytes): the greatest sum over the segments of a
// layer's forward and backward of what they take and give and do not keep. Each sum below is one
// segment of the plan (plan_reference.md, "Lowering"); its terms stand in the order in which the
// segment makes them.
#include <algorithm>

#include "common/model/flops.h"  // local_vocabulary
#include "common/parallel/groups.h"
#include "common/parallel/local_sizes.h"
#include "common/parallel/memory.h"
#include "common/schedule/registry.h"

namespace tandem {
namespace {

using memory::I;
using memory::Symbols;

// Bytes of the tensors that move through a layer.
struct Streams {
  explicit Streams(const Symbols& s)
      : x(s),
        whole(s.n * s.H * s.w),
        own(s.n1 * s.H * s.w),
        attn_out(s.n * s.ad * s.w),
        qkv(s.n * s.qkv * s.w),
        ffn(s.n * (s.F + s.ins) * s.w),
        ins(s.n * s.ins * s.w),
        latents(s.n * (s.rq + s.rkv + s.dr) * s.w),
        own_latents(s.n1 * (s.rq + s.rkv + s.dr) * s.w),
        kept_latents(s.n * (s.rq + s.rkv) * s.w),
        q_and_kv(s.n * s.a * (2 * s.dn + s.dr + s.dv) * s.w),
        scores(s.s * s.nm * s.E),
        rows(s.rows * s.H * s.w),
        inner(s.rows * s.Fe * s.w),
        sent(s.assignments * s.H * s.w),
        shared(s.n * s.shared * s.w) {}
  const Symbols& x;
  I whole, own;              // X w, X1 w
  I attn_out, qkv;           // A, Q
  I ffn, ins;                // what the MLP makes inside; its larger part
  I latents, own_latents;    // n Q w of MLA; of the rank's own tokens
  I kept_latents, q_and_kv;  // without the rope key; q_b's and kv_b's results
  I scores, rows, inner, sent, shared;
  [[nodiscard]] bool mla() const { return x.rkv > 0; }
  // Rows leave the rank: over ep, or to the other slices of an expert.
  [[nodiscard]] bool moves() const { return x.e > 1 || x.rows > x.assignments; }
};

I most(std::initializer_list<I> sums) { return std::max(sums); }

// --- class activation
I attention_forward(const Streams& s) {
  const I kr = s.x.n * s.x.dr * s.x.w;
  if (!s.mla()) return s.x.sp ? 2 * s.whole : s.whole;  // [gathered x,] partial sum
  if (!s.x.sp) return 2 * s.latents + kr + s.q_and_kv + s.whole;
  if (s.x.rq == 0)
    return most({2 * s.own_latents + s.x.n1 * s.x.dr * s.x.w,  // raw, normed, and its rope key
                 s.own_latents + s.latents,                    // gathered
                 2 * s.latents + 2 * s.whole + s.q_and_kv,     // its parts, gathered x, partial sum
                 s.kept_latents + s.whole});                   // both gathered again for W
  return most({3 * s.own_latents,                              // raw, normed, and its parts
               s.own_latents + s.latents,                      // gathered
               2 * s.latents + s.q_and_kv + s.whole,           // its parts, q, kv, partial sum
               2 * s.kept_latents});  // gathered again for W, and its parts
}

// `cut`: routing ends a segment, so that the partial sum of attention is gone behind it.
I experts_forward(const Streams& s, bool cut) {
  const I before = cut ? 0 : s.x.sp ? s.own : s.whole;
  const I shared = s.x.shared == 0 ? 0
                   : s.x.sp        ? s.own + 2 * s.whole  // sum, gathered x, partial sum
                                   : std::max(before + 2 * s.whole, 3 * s.whole);
  return most({s.x.sp ? s.whole + s.own : s.whole, before + s.own, s.moves() ? s.rows : 0, shared,
               s.x.sp && s.x.shared > 0 ? 2 * s.own + s.whole : 0});
}

// Layers that are computed again (models.md 6): their first forward keeps its input and the choice
// of experts alone, so all else that it makes lives as long as its segments need it.
I attention_once(const Streams& s) {
  const Symbols& x = s.x;
  const I stat = x.stat * x.s * x.n1;
  const I core = s.qkv + memory::core_stash(x) + s.attn_out + s.whole;  // with the partial sum
  if (!s.mla()) return x.sp ? s.whole + core : stat + s.whole + core;
  const I normed =  // what the latents' norms keep
      x.n1 * (x.rq + x.rkv) * x.w + (x.rq > 0 ? 2 : 1) * x.s * x.n1;
  if (!x.sp) return stat + s.whole + 3 * s.latents + normed + s.q_and_kv + core;
  const I own = stat + s.own + 3 * s.own_latents + normed;
  if (x.rq == 0) return std::max(own, 2 * s.latents + s.whole + s.q_and_kv + core);
  const I with_kept = own + x.n1 * (x.rq + x.rkv) * x.w;
  return std::max(with_kept, 2 * s.latents + s.q_and_kv + core);
}

I dense_once(const Streams& s) {
  if (s.x.sp) return s.own + s.ffn + 2 * s.whole;
  return 4 * s.whole + s.x.stat * s.x.s * s.x.n1 + s.ffn;
}

// The end of a layer with shared experts, which come last.
I shared_end_once(const Streams& s) {
  if (!s.x.sp) return 4 * s.whole;
  return most({3 * s.own + s.whole, 2 * s.own + 2 * s.whole + 3 * s.shared, 4 * s.own});
}

I experts_once(const Streams& s, bool cut) {
  const bool sp = s.x.sp, has_shared = s.x.shared > 0;
  const I inside = 2 * s.rows + 3 * s.inner;                 // rows in and out, gate and up, swiglu
  const I shared = has_shared ? 3 * s.shared + s.whole : 0;  // of them without the gathered x
  const I here = sp ? 0 : shared;                            // no communication before them
  // Partial sum of attention, middle of the layer, its norm.
  const I routing = 3 * s.own + s.scores + s.x.stat * s.x.s * s.x.n1;
  if (!cut) {
    const I all = routing + inside + s.own + here;
    return has_shared ? std::max(all, shared_end_once(s)) : all;
  }
  // Behind the rows' way to the experts only shared experts take the normed values.
  const I behind = s.own + s.scores + (s.moves() && !has_shared ? 0 : s.own);
  const I peak = s.moves() ? most({routing, behind + inside, behind + s.sent + s.own + here})
                           : std::max(routing, behind + inside + s.own + here);
  return has_shared ? std::max(peak, shared_end_once(s)) : peak;
}

// --- class grad_activation
// `last`: the gradient of the final norm is there in the same segment.
I dense_backward(const Streams& s, bool last) {
  if (!s.x.sp) return (last ? 3 : 2) * s.whole + s.ffn;
  return 2 * s.whole + s.own + std::max(s.ffn, s.ins + s.own);
}

// Gradients of k and v that carry what slices behind have added: while attention runs, behind it.
struct Carried {
  I during = 0, behind = 0;
};

I attention_backward(const Streams& s, Carried carried) {
  const I core = s.attn_out + s.qkv + carried.during;
  if (!s.mla()) {
    if (!s.x.sp) return 4 * s.whole + core;
    return 2 * s.whole + s.own + std::max(core, s.qkv + s.own + carried.behind);
  }
  // Of the latents one by one, and together; without a latent of q also q's part of dX.
  const I parts = core + s.q_and_kv + 2 * s.latents + (s.x.rq == 0 ? s.whole : 0);
  return s.x.sp ? s.own + s.whole + parts : 3 * s.whole + parts;
}

I experts_backward(const Streams& s, bool last) {
  const I before = last ? s.own : 0;            // without SP it is whole
  const I inside = 3 * s.inner + s.rows;        // of swiglu, of gate and up, of the rows
  const I shared = 3 * s.shared + s.whole;      // of swiglu, of gate and up, of x
  const bool here = s.x.shared > 0 && !s.x.sp;  // no communication before the shared experts
  I peak = 0;
  if (!s.moves()) {
    peak = before + s.own + s.sent + s.scores + inside + s.own + (here ? shared : 0);
  } else {
    const I d_out = s.own + s.scores;
    peak = most({before + d_out, d_out + s.rows + inside,
                 d_out + s.rows + 2 * s.inner + s.own + (here ? shared : 0)});
  }
  if (s.x.shared > 0 && s.x.sp)
    peak = most({peak, 2 * s.own + s.whole + shared,
                 3 * s.own + 2 * s.whole + 2 * s.shared});  // gate and up, and the sum of x
  return peak;
}

// The largest products of the weight gradients of one op that are added to what is there. The calls
// of an op share a product's memory; latents and the router have one of their own beside it. With
// ZeRO-2 and 3 a gradient that is reduced behind every microbatch starts anew with each.
class Products {
 public:
  Products(const Scenario& sc, const Symbols& x) : sc_(sc), x_(x), mesh_(mesh_of(sc)) {}

  [[nodiscard]] I of_stage(int pp) const {
    if (sc_.num_microbatches() * x_.k < 2) return 0;
    using enum TensorClass;
    I product = 0;
    for (const auto& [layer, place, stage] : memory::layers_of(sc_, pp)) {
      product = std::max(product, attention());
      if (memory::has_experts(sc_, layer)) {
        const TensorClass shared = sc_.parallel.nano_train() ? router : tp_cut;
        product =
            most({product, added(routed_expert, 2 * x_.Fe * x_.H) + added(router, x_.E * x_.H),
                  added(shared, 2 * x_.shared * x_.H)});
      } else {
        product = std::max(product, added(tp_cut, x_.ins * x_.H));
      }
    }
    const bool cut = sc_.parallel.vocab_parallel && x_.t > 1;
    const TensorClass head = sc_.model.tied_embeddings ? tied : cut ? tp_cut : whole;
    if (memory::holds_last(sc_, pp))
      product = std::max(product, added(head, local_vocabulary(sc_) * x_.H));
    if (memory::holds_first(sc_, pp) && x_.gpt)  // positions
      product = std::max(product, added(whole, x_.n1 / x_.b * x_.H));
    return product;
  }

 private:
  [[nodiscard]] I attention() const {
    using enum TensorClass;
    if (x_.rkv == 0) return added(tp_cut, x_.qkv * x_.H);
    const I latents = std::max(x_.ad, x_.rq + x_.rkv + x_.dr) * x_.H;
    const I into_q = x_.rq > 0 ? x_.rq : x_.H;
    const I up = x_.a * std::max((x_.dn + x_.dr) * into_q, (x_.dn + x_.dv) * x_.rkv);
    return std::max(added(tp_cut, latents), added(whole, latents)) + added(tp_cut, up);
  }
  [[nodiscard]] I added(TensorClass cls, I elements) const {
    const bool anew = sc_.parallel.zero >= 2 && sc_.parallel.zero_reduce != ZeroReduce::last &&
                      cls != TensorClass::tied &&
                      mesh_.size_of_group(reducing_group(sc_, cls).group.axes) > 1;
    return anew ? 0 : elements;
  }

  const Scenario& sc_;
  const Symbols& x_;
  Mesh mesh_;
};

// Rows on their way, beside the counts of layers with experts (KeptBytes::comm) and the choices of
// a step. Those are freed with the last layer's last choice, where no bias is learned from them.
I expert_comm(const Scenario& sc, int pp, const Streams& s, I layers) {
  const int visits = open_visits(sc, pp).value_or(1);
  const I kept = kept_bytes(sc, pp, visits).comm, choices = 4 * s.x.E * layers;
  const I rows = s.moves() ? 2 * s.rows : 0;
  const bool stays = sc.model.moe.bias_update > 0 || visits < sc.num_microbatches();
  const I of_one_layer = kept / (layers * visits);
  // Without a loss the statistics go with the choice itself.
  const I statistics = memory::has_balance_loss(sc) ? 0 : 2 * s.x.scopes * s.x.E * s.x.s;
  I total =
      std::max(kept + rows + (stays ? choices : 0), kept + (s.moves() ? 0 : choices + statistics));
  if (layers * sc.num_microbatches() > 1)
    total = std::max(total, kept - of_one_layer + choices + rows);
  return std::max<I>(total, 8 * 8) - kept;
}

}  // namespace

bool has_transient_form(const Scenario& s) {
  const bool dense = s.model.moe.experts == 0 && s.model.mla.kv_rank == 0;
  const ModelShape shape = model_shape(s.model);
  bool experts = false;
  for (int layer = 0; layer < s.model.layers; ++layer) experts = experts || shape.is_moe(layer);
  if (experts && num_slices(s.schedule.kind, s.schedule.options) > 1) return false;
  const bool kept = s.training.recompute == Recompute::none;
  const bool same = s.training.recompute == Recompute::selective &&
                    s.training.attention == AttentionKind::flash;  // nothing is made again
  return (kept || same || s.training.recompute != Recompute::selective) &&
         ((dense && kept) || (s.parallel.cp == 1 && !s.parallel.nano_train()));
}

TransientBytes transient_bytes(const Scenario& sc, int pp) {
  const Symbols x = memory::symbols(sc);
  const Streams s(x);
  const I main = size_of(plan_types(sc).main);
  const bool last = memory::holds_last(sc, pp);
  // The statistics of balance are summed over tp before anything else is done.
  const bool cut = s.moves() || (x.t > 1 && memory::has_balance_loss(sc));
  TransientBytes out;
  I layers_with_experts = 0;
  const I d_kv = x.n * x.kv * main;  // of one layer and slice
  const std::vector<memory::StageLayer> layers = memory::layers_of(sc, pp);
  const I last_place = static_cast<I>(layers.size()) - 1;
  out.carried = static_cast<I>(layers.size()) * (x.k - 1) * d_kv;
  for (const auto& [layer, place, stage] : layers) {
    const bool at_end = last && layer + 1 == sc.model.layers;
    const bool experts = memory::has_experts(sc, layer);
    layers_with_experts += experts ? 1 : 0;
    const bool once = recomputed_layer(sc.training, place);
    if (once)
      out.activation =
          most({out.activation, attention_once(s), experts ? experts_once(s, cut) : dense_once(s)});
    else
      out.activation = most(
          {out.activation, attention_forward(s), experts ? experts_forward(s, cut) : 2 * s.whole});
    // Recomputation comes between the gradient of the final norm and the layer.
    const bool with_norm = at_end && !once;
    const I half = experts ? experts_backward(s, with_norm) : dense_backward(s, with_norm);
    if (x.k == 1) {
      out.grad_activation = most({out.grad_activation, attention_backward(s, {}), half});
      continue;
    }
    // The last slice makes the gradients of all in each layer and keeps those of the others; the
    // one before it takes its own from each layer. Layers behind this one are done.
    const I done = last_place - place, others = x.k - 1;
    const I made = done * others * d_kv, waiting = out.carried - done * d_kv;
    out.grad_activation = most({out.grad_activation, half + std::max(made, waiting),
                                attention_backward(s, {made + x.k * d_kv, made + others * d_kv}),
                                attention_backward(s, {waiting, waiting - d_kv})});
  }
  // The loss; of experts what was dropped, and the balance loss.
  const I losses =
      8 * ((last ? 1 : 0) + (layers_with_experts > 0 ? (memory::has_balance_loss(sc) ? 2 : 1) : 0));
  const I norm = 8;
  out.scratch = most({Products(sc, x).of_stage(pp) * main,
                      last ? 3 * x.s * memory::head_tokens(sc, x) : 0, norm + main}) +
                losses;
  out.comm = 8 * 8;  // metrics
  if (x.c > 1) out.comm = std::max(out.comm, 2 * x.n * x.kv * (x.w + main));
  if (layers_with_experts > 0) out.comm = expert_comm(sc, pp, s, layers_with_experts);
  return out;
}

}  // namespace tandem
