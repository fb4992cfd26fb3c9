// The closed forms of memory.h.
#include "common/parallel/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/base/check.h"
#include "common/model/flops.h"  // local_vocabulary
#include "common/parallel/gathered.h"
#include "common/parallel/groups.h"
#include "common/parallel/local_sizes.h"
#include "common/scenario/order_file.h"
#include "common/schedule/registry.h"

namespace tandem {
namespace {

using memory::I;
using memory::StageLayer;
using memory::Symbols;

constexpr I kAlign = 64;  // elements: a tensor's start in a bucket, and the bucket's end by 64 g

I round_up(I v, I to) { return (v + to - 1) / to * to; }

}  // namespace

namespace memory {

Symbols symbols(const Scenario& sc) {
  const PlanTypes types = plan_types(sc);
  const MoeSpec& moe = sc.model.moe;
  const MlaSpec& mla = sc.model.mla;
  Symbols x{};
  x.gpt = sc.model.family == ModelFamily::gpt;
  x.t = sc.parallel.tp, x.c = sc.parallel.cp, x.b = sc.training.micro_batch;
  x.k = num_slices(sc.schedule.kind, sc.schedule.options);
  x.S = sc.training.sequence / x.c / x.k;
  x.n = x.b * x.S, x.H = sc.model.hidden, x.a = sc.model.heads / x.t;
  x.ad = x.a * sc.model.head_dim, x.F = sc.model.ffn_hidden / x.t;
  x.kv = 2 * (sc.model.kv_heads / x.t) * sc.model.head_dim;
  x.ins = x.gpt ? x.F : 2 * x.F, x.stat = x.gpt ? 2 : 1;
  x.w = size_of(types.compute), x.s = size_of(types.statistic());
  x.sp = cuts_sequence(sc);
  x.n1 = x.sp ? x.n / x.t : x.n;
  x.nm = sc.parallel.nano_train() ? x.n / x.t : x.n1;
  x.flash = sc.training.attention == AttentionKind::flash;
  if (mla.kv_rank > 0) {
    x.rq = mla.q_rank, x.rkv = mla.kv_rank;
    x.dn = mla.nope_dim, x.dr = mla.rope_dim, x.dv = mla.v_dim;
    x.ad = x.a * x.dv;
    x.kv = x.a * (x.dn + x.dr + x.dv);
  }
  x.qkv = x.a * (x.rkv > 0 ? x.dn + x.dr : sc.model.head_dim) + x.kv;
  x.E = moe.experts, x.K = moe.top_k, x.e = sc.parallel.ep;
  x.local = x.E / x.e, x.Fe = moe.expert_hidden / sc.parallel.etp;
  x.shared = I{moe.shared_experts} * moe.expert_hidden / (sc.parallel.nano_train() ? 1 : x.t);
  x.assignments = x.nm * x.K, x.rows = x.assignments * sc.parallel.etp;
  x.scopes = moe.scope == BalanceScope::sequence ? x.b : 1;
  return x;
}

bool has_experts(const Scenario& sc, int layer) { return model_shape(sc.model).is_moe(layer); }

int stages(const Scenario& s) { return s.parallel.pp * s.schedule.stages_per_rank; }
bool holds(const Scenario& s, int stage, int pp) {
  return lies_on(s.schedule.kind, s.schedule.options, s.parallel.pp, stage, pp);
}
bool holds_first(const Scenario& s, int pp) { return holds(s, 0, pp); }
bool holds_last(const Scenario& s, int pp) { return holds(s, stages(s) - 1, pp); }

std::vector<StageLayer> layers_of(const Scenario& s, int pp) {
  std::vector<StageLayer> out;
  int first = 0;
  for (int stage = 0; stage < stages(s); ++stage) {
    const int count = s.parallel.layer_split[static_cast<std::size_t>(stage)];
    if (holds(s, stage, pp))
      for (int i = 0; i < count; ++i) out.push_back({first + i, i, stage});
    first += count;
  }
  return out;
}

I balance_statistics(const Scenario& s, const Symbols& x) {
  return has_balance_loss(s) ? 2 * x.scopes * x.E * x.s : 0;
}

I head_tokens(const Scenario& s, const Symbols& x) {
  return x.sp && !s.parallel.vocab_parallel ? x.n1 : x.n;
}

}  // namespace memory

namespace {

using memory::has_experts;
using memory::head_tokens;
using memory::holds_first;
using memory::holds_last;
using memory::layers_of;
using memory::symbols;

class Locals {
 public:
  Locals(const Scenario& s, int pp) : s_(s), pp_(pp), x_(symbols(s)), types_(plan_types(s)) {}
  std::vector<LocalTensor> all() {
    const bool tied = s_.model.tied_embeddings;
    const I rows = local_vocabulary(s_);
    const TensorClass vocabulary =
        s_.parallel.vocab_parallel && x_.t > 1 ? TensorClass::tp_cut : TensorClass::whole;
    if (holds_first(s_, pp_)) {
      add("embed.weight", {rows, x_.H}, vocabulary, tied);
      if (x_.gpt) add("pos_embed.weight", {s_.model.max_sequence, x_.H}, TensorClass::whole);
    }
    for (const auto& [layer, place, stage] : layers_of(s_, pp_)) {
      stage_ = stage;
      unit_ = 1 + layer;
      layer_tensors(layer);
    }
    if (holds_last(s_, pp_)) {
      stage_ = static_cast<int>(s_.parallel.layer_split.size()) - 1;
      unit_ = 1 + s_.model.layers;
      norm("final_norm");
      if (!tied)
        add("head.weight", {rows, x_.H}, vocabulary);
      else if (!holds_first(s_, pp_))
        add("embed.weight", {rows, x_.H}, vocabulary, true);  // the copy of the head
    }
    return std::move(list_);
  }

 private:
  void add(const std::string& name, Shape shape, TensorClass cls, bool tied = false) {
    list_.push_back({name, shape, types_.compute, tied, cls, stage_, unit_});
  }
  // Never below fp32, else the statistics come out in two bytes (models.md 2.1).
  void norm(const std::string& name) {
    const TensorClass cls = TensorClass::whole;
    list_.push_back({name + ".weight", {x_.H}, types_.statistic(), false, cls, stage_, unit_});
    if (x_.gpt)
      list_.push_back({name + ".bias", {x_.H}, types_.statistic(), false, cls, stage_, unit_});
  }
  // `bias`: cut with the rows of the output, or added behind the reduction.
  void linear(const std::string& name, I out, I in, TensorClass bias) {
    add(name + ".weight", {out, in}, TensorClass::tp_cut);
    if (x_.gpt) add(name + ".bias", {out}, bias);
  }
  void layer_tensors(int layer) {
    using enum TensorClass;
    const std::string prefix = fmt::format("layers.{}.", layer);
    norm(prefix + "norm1");
    if (x_.rkv == 0)
      linear(prefix + "attn.qkv", x_.qkv, x_.H, tp_cut);
    else
      latents(prefix + "attn.");
    linear(prefix + "attn.o", x_.H, x_.ad, whole);
    norm(prefix + "norm2");
    if (has_experts(s_, layer)) return experts(prefix + "moe.");
    linear(prefix + (x_.gpt ? "mlp.fc1" : "mlp.gate_up"), x_.ins, x_.H, tp_cut);
    linear(prefix + (x_.gpt ? "mlp.fc2" : "mlp.down"), x_.H, x_.F, whole);
  }
  void latents(const std::string& prefix) {
    using enum TensorClass;
    if (x_.rq == 0) {
      add(prefix + "kv_a.weight", {x_.rkv + x_.dr, x_.H}, whole);
      list_.push_back(
          {prefix + "kv_norm.weight", {x_.rkv}, types_.statistic(), false, whole, stage_, unit_});
      add(prefix + "q.weight", {x_.a * (x_.dn + x_.dr), x_.H}, tp_cut);
      return add(prefix + "kv_b.weight", {x_.a * (x_.dn + x_.dv), x_.rkv}, tp_cut);
    }
    add(prefix + "qkv_a.weight", {x_.rq + x_.rkv + x_.dr, x_.H}, whole);
    list_.push_back(
        {prefix + "q_norm.weight", {x_.rq}, types_.statistic(), false, whole, stage_, unit_});
    list_.push_back(
        {prefix + "kv_norm.weight", {x_.rkv}, types_.statistic(), false, whole, stage_, unit_});
    add(prefix + "q_b.weight", {x_.a * (x_.dn + x_.dr), x_.rq}, tp_cut);
    add(prefix + "kv_b.weight", {x_.a * (x_.dn + x_.dv), x_.rkv}, tp_cut);
  }
  void experts(const std::string& prefix) {
    using enum TensorClass;
    add(prefix + "router.weight", {x_.E, x_.H}, router);
    add(prefix + "experts.gate_up.weight", {x_.local, 2 * x_.Fe, x_.H}, routed_expert);
    add(prefix + "experts.down.weight", {x_.local, x_.H, x_.Fe}, routed_expert);
    if (x_.shared == 0) return;
    const TensorClass shared = s_.parallel.nano_train() ? router : tp_cut;
    add(prefix + "shared.gate_up.weight", {2 * x_.shared, x_.H}, shared);
    add(prefix + "shared.down.weight", {x_.H, x_.shared}, shared);
  }

  const Scenario& s_;
  int pp_;
  Symbols x_;
  PlanTypes types_;
  int stage_ = 0, unit_ = 0;
  std::vector<LocalTensor> list_;
};

// What the final norm and the head keep on the rank of the last stage.
SavedBytes head_saved(const Scenario& sc) {
  const Symbols x = symbols(sc);
  const I stream = x.n1 * x.H * x.w;
  return {"final norm, head", stream + x.stat * x.s * x.n1, stream, 0};
}

}  // namespace

PlanTypes plan_types(const Scenario& s) {
  switch (s.training.precision) {
    case Precision::fp64:
      return {DType::f64, DType::f64};
    case Precision::bf16:
      return {DType::bf16, DType::f32};
    case Precision::fp16:
      return {DType::f16, DType::f32};
    default:
      return {DType::f32, DType::f32};
  }
}

std::vector<SavedBytes> layer_saved(const Scenario& sc, int layer) {
  const Symbols x = symbols(sc);
  const I whole = x.n * x.H * x.w, own = x.n1 * x.H * x.w;  // X w, X1 w
  const I qkv = x.n * x.qkv * x.w, ffn = x.n * x.F * x.w, ins = x.n * x.ins * x.w;
  const I stash = memory::core_stash(x);
  const I norm = own + x.stat * x.s * x.n1;
  std::vector<SavedBytes> out = {{"norm1", norm, 0, 0}};
  if (x.rkv == 0) {
    out.push_back({"qkv", 0, own, qkv});
  } else {
    const I normed = x.n1 * (x.rq + x.rkv) * x.w;
    out.push_back({"latents", 0, own, normed + x.n1 * x.dr * x.w});
    out.push_back({"latent norms", normed + (x.rq > 0 ? 2 : 1) * x.s * x.n1, 0, 0});
    out.push_back({x.rq > 0 ? "q_b, kv_b" : "q, kv_b", 0, normed,
                   x.n * x.a * (2 * x.dn + x.dr + x.dv) * x.w});
  }
  out.push_back({"core", qkv + stash, 0, 0});
  out.push_back({"o", 0, x.n * x.ad * x.w, whole});
  out.push_back({"norm2", norm, 0, 0});
  if (!has_experts(sc, layer)) {
    out.push_back({x.gpt ? "fc1" : "gate_up", ins, own, ins});
    out.push_back({x.gpt ? "fc2" : "down", 0, ffn, whole});
    return out;
  }
  // Mapping nano_train: the slice of the rows, shared experts of full width.
  const bool nano = sc.parallel.nano_train();
  const I scores = x.s * x.nm * x.E, shared = (nano ? x.nm : x.n) * x.shared * x.w;
  out.push_back({"router", scores + 8 * x.nm * x.K, x.nm * x.H * x.w, scores});
  out.push_back({"experts", 2 * x.rows * x.Fe * x.w, x.rows * (x.H + x.Fe) * x.w,
                 x.rows * (x.H + 2 * x.Fe) * x.w});
  out.push_back({"combine", x.assignments * x.H * x.w, 0, 0});
  const I d_out = nano ? x.nm * x.H * x.w : whole;
  if (x.shared > 0) out.push_back({"shared", 2 * shared, shared, d_out + 2 * shared});
  return out;
}

SavedBytes sum(const std::vector<SavedBytes>& ops) {
  SavedBytes total{"sum", 0, 0, 0};
  for (const SavedBytes& op : ops) {
    total.for_input += op.for_input;
    total.for_weight += op.for_weight;
    total.input_to_weight += op.input_to_weight;
  }
  return total;
}

SavedBytes layer_kept(const Scenario& sc, int layer, int place) {
  const Symbols x = symbols(sc);
  SavedBytes kept = sum(layer_saved(sc, layer));
  if (recomputed_layer(sc.training, place)) {
    kept.for_input = x.n1 * x.H * x.w + (has_experts(sc, layer) ? 8 * x.nm * x.K : 0);
    if (x.k > 1) kept.for_input += x.n * x.kv * x.w;  // later slices attend to them
    kept.for_weight = 0;
  } else if (sc.training.recompute == Recompute::selective && !x.flash) {
    kept.for_input -= memory::core_stash(x);
  }
  return kept;
}

std::vector<LocalTensor> local_tensors(const Scenario& s, int pp) { return Locals(s, pp).all(); }

std::int64_t local_parameters(const Scenario& s, int pp) {
  I total = 0;
  for (const LocalTensor& t : local_tensors(s, pp)) total += t.shape.elements();
  return total;
}

std::vector<BucketSize> bucket_sizes(const Scenario& s, int pp, int zero) {
  const Mesh mesh = mesh_of(s);
  const I main = size_of(plan_types(s).main);
  std::vector<BucketSize> closed;
  // By type, and group and tag of the reduction; elements are those so far.
  using Reduced = std::pair<std::string_view, std::string_view>;
  std::map<std::pair<DType, Reduced>, BucketSize> open;
  std::vector<LocalTensor> tensors = local_tensors(s, pp);
  std::reverse(tensors.begin(), tensors.end());
  // With two copies of the model, or a scatter for each microbatch, a bucket holds tensors of one
  // stage.
  const ScheduleKind* kind = find_schedule(s.schedule.kind);
  const std::optional<Order> file = kept_order(s.schedule);
  const bool copies = file ? file->num_dirs == 2 : kind && kind->copies == 2;
  const bool by_stage = copies || scatters_every(s);
  int stage = -1, unit = -1;
  const auto close = [&closed](BucketSize& b) {
    if (b.elements == 0) return;
    closed.push_back(b);
    closed.back().elements = round_up(b.elements, kAlign * b.members);
    b.elements = 0;
  };
  for (const LocalTensor& t : tensors) {
    const ReducingGroup by = reducing_group(s, t.cls);
    const int g = mesh.size_of_group(by.group.axes);
    const I elements = t.shape.elements();
    BucketSize alone{elements, t.dtype, false, g, t.stage, t.unit, t.unit, {t.name}};
    if (s.parallel.style == Style::nano_train) {
      // Each tensor by itself; with ZeRO padded to equal parts.
      if (s.parallel.zero > 0) alone.elements = round_up(elements, g);
      closed.push_back(alone);
      continue;
    }
    if (t.tied) {
      alone.elements = round_up(elements, kAlign * g);
      alone.tied = true;
      closed.push_back(alone);
      continue;
    }
    if ((by_stage && t.stage != stage) || (zero == 3 && t.unit != unit))
      for (auto& [key, b] : open) close(b);
    stage = t.stage, unit = t.unit;
    BucketSize& b = open[{t.dtype, {by.group.name, by.tag}}];
    if (b.elements == 0) b = {0, t.dtype, false, g, t.stage, t.unit, t.unit, {}};
    b.elements = round_up(b.elements, kAlign) + elements;
    b.stage = t.stage, b.first_unit = t.unit;
    b.tensors.push_back(t.name);
    if (zero < 3 && b.elements * main >= s.parallel.gradient_bucket) close(b);
  }
  for (auto& [key, b] : open) close(b);
  return closed;
}

// What a rank adds to the metrics of the step before, which are summed in the next
// (post_validated).
constexpr Bytes kPendingBytes = 64;

StaticBytes static_bytes(const Scenario& s, int pp, int zero) {
  TANDEM_CHECK(zero >= 0 && zero <= 3, "zero {}", zero);
  const I main = size_of(plan_types(s).main);
  StaticBytes out;
  const bool late = s.schedule.optimizer_barrier == OptimizerBarrier::post_validated;
  if (late) out.optim += kPendingBytes;
  for (const BucketSize& b : bucket_sizes(s, pp, zero)) {
    const I g = b.members;
    const bool copies = size_of(b.dtype) < main;  // bf16 parameters have main copies
    out.param += b.elements * size_of(b.dtype) / (zero >= 3 ? g : 1);
    out.grad += b.elements * main / (zero >= 2 ? g : 1);
    out.optim += b.elements * main * (copies ? 3 : 2) / (zero >= 1 ? g : 1);
    // Main parameter, m and v as they were before the last update.
    if (late) out.optim += b.elements * main * 3 / (zero >= 1 ? g : 1);
    // The head's part of a tied embedding, added at the end of the step (models.md 4.3); no bucket,
    // so it is not padded. With shards of gradients it is one of the whole ones (gathered.h).
    if (b.tied && holds_first(s, pp) && holds_last(s, pp) && (zero < 2 || g == 1))
      out.grad += local_vocabulary(s) * s.model.hidden * main;
  }
  const Symbols x = symbols(s);
  if (s.model.moe.router == RouterKind::sigmoid)
    for (const auto& [layer, place, stage] : layers_of(s, pp))
      out.optim += has_experts(s, layer) ? x.E * x.s : 0;
  return out;
}

std::optional<int> open_visits(const Scenario& s, int pp) {
  const int m = s.num_microbatches();
  if (s.schedule.stages_per_rank != 1) return std::nullopt;
  if (s.schedule.kind == "gpipe") return m;
  if (s.schedule.kind == "1f1b") return std::min(s.parallel.pp - pp, m);
  const std::int64_t k = num_slices(s.schedule.kind, s.schedule.options);
  if (s.schedule.kind == "seq1f1b")
    return static_cast<int>(std::min(s.parallel.pp - 1 - pp + k, m * k));
  return std::nullopt;
}

Bytes batch_bytes(const Scenario& s) {
  // Of all cp ranks' positions, of one slice.
  const Symbols x = symbols(s);
  return 8 * x.b * (s.training.sequence / x.k + 1);
}

KeptBytes kept_of_visit(const Scenario& s, int stage) {
  const Symbols x = symbols(s);
  KeptBytes out;
  int first = 0;
  for (int before = 0; before < stage; ++before)
    first += s.parallel.layer_split[static_cast<std::size_t>(before)];
  for (int place = 0; place < s.parallel.layer_split[static_cast<std::size_t>(stage)]; ++place) {
    const int layer = first + place;
    const SavedBytes saved = layer_kept(s, layer, place);
    out.saved_input += saved.for_input;
    out.saved_weight += saved.for_weight;
    if (x.sp && x.rq > 0 && !recomputed_layer(s.training, place))
      out.gone_with_input += x.n1 * (x.rq + x.rkv) * x.w;
    if (!has_experts(s, layer)) continue;
    // Counts of rows: sent and received over ep, gathered over etp; without either the sent ones.
    const I etp = s.parallel.etp, gathered = etp > 1 ? etp : 0;
    const I counts = std::max<I>(1, (x.e > 1 ? 2 : 0) + gathered);
    out.comm += counts * 4 * x.E + memory::balance_statistics(s, x);
  }
  if (stage + 1 == memory::stages(s)) {
    out.saved_input += head_saved(s).for_input;
    out.saved_weight += head_saved(s).for_weight;
    out.logits = head_tokens(s, x) * local_vocabulary(s) * x.w;
  }
  if (stage == 0) out.batch = batch_bytes(s);
  return out;
}

KeptBytes kept_bytes(const Scenario& s, int pp, int visits) {
  KeptBytes out;
  for (int stage = 0; stage < memory::stages(s); ++stage) {
    if (!memory::holds(s, stage, pp)) continue;
    const KeptBytes one = kept_of_visit(s, stage);
    out.saved_input += visits * one.saved_input, out.saved_weight += visits * one.saved_weight;
    out.logits += visits * one.logits;
    out.batch += visits * one.batch, out.comm += visits * one.comm;
  }
  // The last stage's own batch ends with the loss.
  if (holds_last(s, pp) && !holds_first(s, pp)) out.batch = batch_bytes(s);
  return out;
}

Bytes recompute_working_set(const Scenario& s, int pp) {
  Bytes most = 0;
  for (const auto& [layer, place, stage] : layers_of(s, pp)) {
    const SavedBytes all = sum(layer_saved(s, layer)), kept = layer_kept(s, layer, place);
    most = std::max(most, all.for_input + all.for_weight - kept.for_input - kept.for_weight);
  }
  return most;
}

Bytes peak_bound(const Scenario& s, int pp, int visits) {
  return peak_bound(s, pp, kept_bytes(s, pp, visits));
}

Bytes peak_bound(const Scenario& s, int pp, const KeptBytes& kept) {
  const Symbols x = symbols(s);
  const TransientBytes t = transient_bytes(s, pp);
  // With sequence parallelism W has its input gathered again beside the gradients.
  const I latents =
      (x.rkv > 0 && x.rq == 0) ? x.n * (x.H + x.rkv) * x.w : 2 * x.n * (x.rq + x.rkv) * x.w;
  const I again = x.sp ? std::max(x.n * x.H * x.w, latents) : 0;
  const I ahead = s.parallel.pp > 1 ? I{2} * s.schedule.stages_per_rank * x.n1 * x.H * x.w : 0;
  const auto gathered = gathered_parameters(s, pp);
  const auto gradients = whole_gradients(s, pp, false);
  TANDEM_CHECK(gathered && gradients, "no bound of ZeRO {} with this style", s.parallel.zero);
  return static_bytes(s, pp, s.parallel.zero).sum() + kept.sum() + gathered->most +
         gradients->most + ahead + std::max(t.activation + t.carried, t.grad_activation + again) +
         recompute_working_set(s, pp) + t.scratch + t.comm;
}

}  // namespace tandem
