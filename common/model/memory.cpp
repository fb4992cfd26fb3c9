// The closed forms of memory.h.
#include "common/model/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/base/check.h"
#include "common/model/flops.h"  // local_vocabulary
#include "common/parallel/groups.h"

namespace tandem {
namespace {

using I = std::int64_t;
constexpr I kAlign = 64;  // elements: a tensor's start in a bucket, and the bucket's end by 64 g

I round_up(I v, I to) { return (v + to - 1) / to * to; }

// Local sizes in the symbols of models.md 1; qkv: width of q, k and v together, ins: width of what
// enters the activation of the MLP (fc1, or gate and up), stat: values a norm keeps for a token.
struct Symbols {
  I t, b, S, n, H, a, ad, qkv, F, ins, stat, w, s, n1;
  bool gpt, sp, flash;
};

Symbols symbols(const Scenario& sc) {
  const ModelFamily family = sc.model.family;
  TANDEM_CHECK(family == ModelFamily::gpt || family == ModelFamily::llama,
               "validate() let another family through");
  const PlanTypes types = plan_types(sc);
  Symbols x{};
  x.gpt = family == ModelFamily::gpt;
  x.t = sc.parallel.tp, x.b = sc.training.micro_batch, x.S = sc.training.sequence;
  x.n = x.b * x.S, x.H = sc.model.hidden, x.a = sc.model.heads / x.t;
  x.ad = x.a * sc.model.head_dim, x.F = sc.model.ffn_hidden / x.t;
  x.qkv = x.ad + 2 * (sc.model.kv_heads / x.t) * sc.model.head_dim;
  x.ins = x.gpt ? x.F : 2 * x.F, x.stat = x.gpt ? 2 : 1;
  x.w = size_of(types.compute), x.s = size_of(types.statistic());
  x.sp = cuts_sequence(sc);
  x.n1 = x.sp ? x.n / x.t : x.n;
  x.flash = sc.training.attention == AttentionKind::flash;
  return x;
}

int stages(const Scenario& s) { return s.parallel.pp * s.schedule.stages_per_rank; }
bool holds_first(const Scenario&, int pp) { return pp == 0; }
bool holds_last(const Scenario& s, int pp) { return (stages(s) - 1) % s.parallel.pp == pp; }

// Layers of the rank, stage by stage; stage i lies on rank i mod p.
std::vector<int> layers_of(const Scenario& s, int pp) {
  std::vector<int> out;
  int first = 0;
  for (int stage = 0; stage < stages(s); ++stage) {
    const int count = s.parallel.layer_split[static_cast<std::size_t>(stage)];
    if (stage % s.parallel.pp == pp)
      for (int i = 0; i < count; ++i) out.push_back(first + i);
    first += count;
  }
  return out;
}

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
    for (int layer : layers_of(s_, pp_)) layer_tensors(fmt::format("layers.{}.", layer));
    if (holds_last(s_, pp_)) {
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
    list_.push_back({name, shape, types_.compute, tied, cls});
  }
  // Never below fp32, else the statistics come out in two bytes (models.md 2.1).
  void norm(const std::string& name) {
    const TensorClass cls = TensorClass::whole;
    list_.push_back({name + ".weight", {x_.H}, types_.statistic(), false, cls});
    if (x_.gpt) list_.push_back({name + ".bias", {x_.H}, types_.statistic(), false, cls});
  }
  // `bias`: cut with the rows of the output, or added behind the reduction.
  void linear(const std::string& name, I out, I in, TensorClass bias) {
    add(name + ".weight", {out, in}, TensorClass::tp_cut);
    if (x_.gpt) add(name + ".bias", {out}, bias);
  }
  void layer_tensors(const std::string& prefix) {
    norm(prefix + "norm1");
    using enum TensorClass;
    linear(prefix + "attn.qkv", x_.qkv, x_.H, tp_cut);
    linear(prefix + "attn.o", x_.H, x_.ad, whole);
    norm(prefix + "norm2");
    linear(prefix + (x_.gpt ? "mlp.fc1" : "mlp.gate_up"), x_.ins, x_.H, tp_cut);
    linear(prefix + (x_.gpt ? "mlp.fc2" : "mlp.down"), x_.H, x_.F, whole);
  }

  const Scenario& s_;
  int pp_;
  Symbols x_;
  PlanTypes types_;
  std::vector<LocalTensor> list_;
};

// Tokens whose logits the rank makes: its own ones where SP is on and the vocabulary is not cut.
I head_tokens(const Scenario& s, const Symbols& x) {
  return x.sp && !s.parallel.vocab_parallel ? x.n1 : x.n;
}

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

std::vector<SavedBytes> layer_saved(const Scenario& sc) {
  const Symbols x = symbols(sc);
  const I whole = x.n * x.H * x.w, own = x.n1 * x.H * x.w;  // X w, X1 w
  const I qkv = x.n * x.qkv * x.w, ffn = x.n * x.F * x.w, ins = x.n * x.ins * x.w;
  const I stash = x.flash ? x.s * x.b * x.a * x.S : x.w * x.b * x.a * x.S * x.S;
  const I norm = own + x.stat * x.s * x.n1;
  return {{"norm1", norm, 0, 0},
          {"qkv", 0, own, qkv},
          {"core", qkv + stash, 0, 0},
          {"o", 0, x.n * x.ad * x.w, whole},
          {"norm2", norm, 0, 0},
          {x.gpt ? "fc1" : "gate_up", ins, own, ins},
          {x.gpt ? "fc2" : "down", 0, ffn, whole}};
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

std::vector<LocalTensor> local_tensors(const Scenario& s, int pp) { return Locals(s, pp).all(); }

std::int64_t local_parameters(const Scenario& s, int pp) {
  I total = 0;
  for (const LocalTensor& t : local_tensors(s, pp)) total += t.shape.elements();
  return total;
}

std::vector<BucketSize> bucket_sizes(const Scenario& s, int pp) {
  const Mesh mesh = mesh_of(s);
  const I main = size_of(plan_types(s).main);
  std::vector<BucketSize> closed;
  std::map<std::pair<DType, int>, I> open;  // by type and axes of the reducing group
  std::vector<LocalTensor> tensors = local_tensors(s, pp);
  std::reverse(tensors.begin(), tensors.end());
  std::map<int, int> members;
  for (const LocalTensor& t : tensors) {
    const ReducingGroup by = reducing_group(s, t.cls);
    const int key = by.group.axes.bits, g = mesh.size_of_group(by.group.axes);
    members[key] = g;
    const I elements = t.shape.elements();
    if (t.tied) {
      closed.push_back({round_up(elements, kAlign * g), t.dtype, true, g});
      continue;
    }
    I& fill = open[{t.dtype, key}];
    fill = round_up(fill, kAlign) + elements;
    if (fill * main < s.parallel.gradient_bucket) continue;
    closed.push_back({round_up(fill, kAlign * g), t.dtype, false, g});
    fill = 0;
  }
  for (const auto& [key, fill] : open) {
    const int g = members[key.second];
    if (fill > 0) closed.push_back({round_up(fill, kAlign * g), key.first, false, g});
  }
  return closed;
}

StaticBytes static_bytes(const Scenario& s, int pp, int zero) {
  TANDEM_CHECK(zero >= 0 && zero <= 3, "zero {}", zero);
  const I main = size_of(plan_types(s).main);
  StaticBytes out;
  for (const BucketSize& b : bucket_sizes(s, pp)) {
    const I g = b.members;
    const bool copies = size_of(b.dtype) < main;  // bf16 parameters have main copies
    out.param += b.elements * size_of(b.dtype) / (zero >= 3 ? g : 1);
    out.grad += b.elements * main / (zero >= 2 ? g : 1);
    out.optim += b.elements * main * (copies ? 3 : 2) / (zero >= 1 ? g : 1);
    // The head's part of a tied embedding, added at the end of the step (models.md 4.3); no bucket,
    // so it is not padded.
    if (b.tied && holds_first(s, pp) && holds_last(s, pp))
      out.grad += local_vocabulary(s) * s.model.hidden * main;
  }
  return out;
}

std::optional<int> open_visits(const Scenario& s, int pp) {
  const int m = s.num_microbatches();
  if (s.schedule.stages_per_rank != 1) return std::nullopt;
  if (s.schedule.kind == "gpipe") return m;
  if (s.schedule.kind == "1f1b") return std::min(s.parallel.pp - pp, m);
  return std::nullopt;
}

KeptBytes kept_bytes(const Scenario& s, int pp, int visits) {
  const Symbols x = symbols(s);
  const SavedBytes layer = sum(layer_saved(s));
  const I layers = static_cast<I>(layers_of(s, pp).size());
  KeptBytes out;
  out.saved_input = layers * layer.for_input;
  out.saved_weight = layers * layer.for_weight;
  if (holds_last(s, pp)) {
    out.saved_input += head_saved(s).for_input;
    out.saved_weight += head_saved(s).for_weight;
    out.logits = head_tokens(s, x) * local_vocabulary(s) * x.w;
  }
  if (holds_first(s, pp)) out.batch = 8 * x.b * (x.S + 1);
  out.saved_input *= visits, out.saved_weight *= visits, out.logits *= visits;
  out.batch *= visits;
  // The last stage's own batch ends with the loss.
  if (holds_last(s, pp) && !holds_first(s, pp)) out.batch = 8 * x.b * (x.S + 1);
  return out;
}

TransientBytes transient_bytes(const Scenario& s, int pp) {
  const Symbols x = symbols(s);
  const I stream = x.n * x.H * x.w, core = x.n * (x.ad + x.qkv) * x.w;
  const I ffn = x.n * (x.F + x.ins) * x.w;
  const I main = size_of(plan_types(s).main);
  const bool first = holds_first(s, pp), last = holds_last(s, pp);
  TransientBytes out;
  out.activation = 2 * stream;
  out.grad_activation = std::max((last ? 3 : 2) * stream + ffn, 4 * stream + core);
  if (x.sp) {
    const I own = x.n1 * x.H * x.w;
    out.grad_activation =
        2 * stream + own + std::max({ffn, x.n * x.ins * x.w + own, core, x.n * x.qkv * x.w + own});
  }
  I product = 0;  // of the weight gradients that are added to what is there
  if (s.num_microbatches() > 1) {
    product = std::max(x.ins, x.qkv) * x.H;
    if (last) product = std::max(product, local_vocabulary(s) * x.H);
    if (first && x.gpt) product = std::max(product, x.n1 / x.b * x.H);  // positions
  }
  const I loss = last ? 8 : 0, norm = 8;
  out.scratch =
      std::max({product * main, last ? 3 * x.s * head_tokens(s, x) : 0, norm + main}) + loss;
  out.comm = 8 * 8;
  return out;
}

Bytes peak_bound(const Scenario& s, int pp, int visits) {
  const TransientBytes t = transient_bytes(s, pp);
  return static_bytes(s, pp).sum() + kept_bytes(s, pp, visits).sum() +
         std::max(t.activation, t.grad_activation) + t.scratch + t.comm;
}

Bytes kept_bytes_recomputed(const Scenario& s, int pp, int visits) {
  const Symbols x = symbols(s);
  const SavedBytes layer = sum(layer_saved(s));
  const I layers = static_cast<I>(layers_of(s, pp).size());
  const KeptBytes whole = kept_bytes(s, pp, visits);
  const I saved_by_layers = visits * layers * (layer.for_input + layer.for_weight);
  return whole.sum() - saved_by_layers + visits * layers * x.n1 * x.H * x.w + layer.for_input +
         layer.for_weight;
}

}  // namespace tandem
