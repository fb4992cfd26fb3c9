// Embedding, head and loss of all families, and the order of layers.
#include "common/plan/lower/visit_builder.h"

#include <fmt/format.h>

#include "common/base/check.h"

namespace tandem::lower {

VisitBuilder::VisitBuilder(Draft& d, int program, int stage, int first_layer, int num_layers)
    : d_(d),
      z_(d.sizes),
      t_(d.plan.header.types),
      program_(program),
      tensors_(d.tensors[static_cast<std::size_t>(program)]),
      ops_(&v_.forward) {
  v_.first = stage == 0;
  v_.last = stage == d.order.num_stages() - 1;
  v_.first_layer = first_layer;
  v_.last_layer = first_layer + num_layers - 1;
  act_ = {z_.sequence, z_.micro_batch, z_.hidden};
  if (z_.vocab_cut) vocab_coords_.add(Axis::tp);
}

Visit VisitBuilder::build() {
  forward();
  ops_ = &v_.backward;
  backward();
  return std::move(v_);
}

// --- small words
// -----------------------------------------------------------------------------------
Ref VisitBuilder::slot(const char* name, BufferClass cls, DType dtype, Shape shape, int layer) {
  Slot s;
  s.buffer.cls = cls;
  s.buffer.dtype = dtype;
  s.buffer.shape = shape;
  s.buffer.layer = layer;
  s.buffer.name = d_.name(name);
  v_.slots.push_back(s);
  Ref r;
  r.slot = static_cast<int>(v_.slots.size()) - 1;
  return r;
}

Ref VisitBuilder::scratch(const char* name, Shape shape, int layer) {
  const Ref r = slot(name, BufferClass::scratch, t_.main, shape, layer);
  v_.slots.back().only_when_accumulating = true;
  return r;
}

Kernel VisitBuilder::heads(KernelKind kind, std::uint32_t flags) const {
  Kernel k = kernel(kind, {z_.micro_batch, z_.heads, z_.sequence, z_.head_dim}, flags);
  if (z_.kv_heads != z_.heads) k.dims[kKvHeads] = z_.kv_heads;
  return k;
}

Ref VisitBuilder::attention_core(int layer) {
  if (flash())
    return statistic("lse", BufferClass::saved_input, {z_.micro_batch, z_.heads, z_.sequence},
                     layer);
  return kept("probs", BufferClass::saved_input,
              {z_.micro_batch, z_.heads, z_.sequence, z_.sequence}, layer);
}

std::string VisitBuilder::layer_name(int layer, const char* rest) {
  return fmt::format("layers.{}.{}", layer, rest);
}

Kernel VisitBuilder::vocabulary(KernelKind kind, KernelDims dims) const {
  Kernel k = kernel(kind, dims);
  k.coords = vocab_coords_;
  return k;
}

Ref VisitBuilder::batch() {
  if (v_.batch < 0)
    v_.batch =
        slot("batch", BufferClass::batch, DType::i64, {z_.micro_batch, z_.sequence + 1}).slot;
  Ref r;
  r.slot = v_.batch;
  return r;
}

Ref VisitBuilder::layer_output(int layer) {
  if (layer < v_.last_layer) return saved_layer_input(layer + 1);
  return v_.last ? kept("h_out", BufferClass::saved_input, act_) : moving("h_out", act_);
}

// --- forward
// ---------------------------------------------------------------------------------------
void VisitBuilder::look_up(Ref tokens, Ref out) {
  cut();
  call(vocabulary(KernelKind::embed_fwd, {z_.tokens, z_.classes, z_.hidden}),
       {tokens, param("embed.weight")}, {out});
  if (z_.vocab_cut) reduced("embed", out);
}

void VisitBuilder::forward() {
  Ref x;
  if (v_.first) {
    x = embed();
  } else {
    x = saved_layer_input(v_.first_layer);
    v_.input = x.slot;
    cut(v_.first_layer);
  }
  for (int layer = v_.first_layer; layer <= v_.last_layer; ++layer) {
    if (layer > v_.first_layer) cut(layer);
    x = layer_forward(layer, x);
  }
  if (v_.last)
    head_forward(x);
  else
    v_.output = x.slot;
}

std::string VisitBuilder::head_weight() const {
  return d_.scenario.model.tied_embeddings ? "embed.weight" : "head.weight";
}

void VisitBuilder::head_forward(Ref x) {
  head_input_ = x;
  final_stat_ = statistic("final_stat", BufferClass::saved_input, norm_stat());
  final_out_ = kept("final_out", BufferClass::saved_weight, act_);
  norm_forward(x, "final_norm", final_out_, final_stat_);
  logits_ = kept("logits", BufferClass::logits, wide(z_.classes));
  call(linear(KernelKind::linear_fwd, z_.hidden, z_.classes), {final_out_, param(head_weight())},
       {logits_});
  const Ref max = statistic("ce_max", BufferClass::scratch, {z_.tokens});
  call(vocabulary(KernelKind::ce_max, {z_.tokens, z_.classes, z_.vocab}), {logits_}, {max});
  if (z_.vocab_cut) reduced("ce.max", max, -1, Reduction::max);
  cut();
  const Ref tokens = batch();
  const Ref sums = statistic("ce_sum", BufferClass::scratch, {2, z_.tokens});
  call(vocabulary(KernelKind::ce_sum, {z_.tokens, z_.classes}), {logits_, max, tokens}, {sums});
  if (z_.vocab_cut) reduced("ce.sum", sums);
  cut();
  const Ref loss = slot("loss", BufferClass::scratch, DType::f64, {1});
  v_.slots.back().once = true;
  const std::int64_t divisor = std::int64_t{d_.scenario.training.global_batch} * z_.sequence;
  call(vocabulary(KernelKind::ce_grad, {z_.tokens, z_.classes, divisor}),
       {logits_, max, sums, tokens}, {logits_, loss});
}

// --- backward
// --------------------------------------------------------------------------------------
void VisitBuilder::backward() {
  Ref dy;
  if (v_.last) {
    dy = head_backward();
  } else {
    dy = gradient("d_h_out", act_, v_.last_layer);
    v_.d_output = dy.slot;
    cut(v_.last_layer);
  }
  for (int layer = v_.last_layer; layer >= v_.first_layer; --layer) {
    if (layer < v_.last_layer) cut(layer);
    dy = layer_backward(layer, dy);
  }
  if (v_.first)
    embed_backward(dy);
  else
    v_.d_input = dy.slot;
}

Ref VisitBuilder::head_backward() {
  const Ref d_final = gradient("d_final_out", act_);
  cut();
  call(linear(KernelKind::linear_bwd_input, z_.hidden, z_.classes), {logits_, param(head_weight())},
       {d_final});
  if (z_.vocab_cut) reduced("head", d_final);
  cut();
  Ref d_weight;
  if (v_.first && d_.scenario.model.tied_embeddings) {
    d_weight = sum(whole(tied_head()));
  } else {
    d_weight = grad(head_weight());
  }
  call(linear(KernelKind::linear_bwd_weight, z_.hidden, z_.classes), {logits_, final_out_},
       {d_weight}, {scratch("scratch_head", {z_.classes, z_.hidden})});
  cut(v_.last_layer);
  const Ref dx = gradient("d_h_out", act_, v_.last_layer);
  norm_backward(d_final, head_input_, final_stat_, "final_norm", dx);
  return dx;
}

// Embedding and head on one rank: two main gradients, added once at the end (models.md 4.3).
BufferId VisitBuilder::tied_head() {
  Buffer b;
  b.program = ProgramId{program_};
  b.cls = BufferClass::grad;
  b.dtype = t_.main;
  b.shape = {z_.classes, z_.hidden};
  b.name = d_.name("embed.weight.head_part");
  return d_.tensors[static_cast<std::size_t>(program_)].tied_head = d_.add(b);
}

void VisitBuilder::look_up_backward(Ref dy) {
  call(vocabulary(KernelKind::embed_bwd_weight, {z_.tokens, z_.classes, z_.hidden}), {dy, batch()},
       {grad("embed.weight")});
}

// --- families
// --------------------------------------------------------------------------------------
Visit stage_visit(Draft& d, int program, int stage, int first_layer, int num_layers) {
  const ModelFamily family = d.scenario.model.family;
  TANDEM_CHECK(family == ModelFamily::gpt || family == ModelFamily::llama,
               "validate() let another family through");
  return family == ModelFamily::gpt ? gpt_visit(d, program, stage, first_layer, num_layers)
                                    : llama_visit(d, program, stage, first_layer, num_layers);
}

}  // namespace tandem::lower
