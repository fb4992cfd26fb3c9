// Embedding, norms, head and loss of all families, and the order of layers.
#include "common/plan/lower/visit_builder.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/base/check.h"

namespace tandem::lower {

VisitBuilder::VisitBuilder(Draft& d, int program, int stage, int first_layer, int num_layers,
                           int slice)
    : d_(d),
      z_(d.sizes),
      t_(d.plan.header.types),
      shape_(model_shape(d.scenario.model)),
      gpt_(d.scenario.model.family == ModelFamily::gpt),
      window_(d.scenario.parallel.keeps_window()),
      program_(program),
      slice_(slice),
      tensors_(d.tensors[static_cast<std::size_t>(program)]),
      ops_(&v_.forward),
      passing_(d.evaluation) {
  v_.first = stage == 0;
  v_.last = stage == d.order.num_stages() - 1;
  v_.first_layer = first_layer;
  v_.last_layer = first_layer + num_layers - 1;
  own_ = {z_.own_sequence, z_.micro_batch, z_.hidden};
  all_ = wide(z_.hidden);
  moe_ = {z_.moe_sequence, z_.micro_batch, z_.hidden};
  if (z_.vocab_cut) vocab_coords_.add(Axis::tp);
}

Visit VisitBuilder::build() {
  forward();
  if (!window_) {
    place_gathers(v_.forward);
    roots_.clear(), views_.clear();  // the backward gathers anew
  }
  if (!d_.evaluation) {
    ops_ = &v_.backward;
    backward();
  }
  if (window_) gather_stage();
  if (d_.evaluation) return std::move(v_);
  if (!window_) place_gathers(v_.backward);
  place_scatters();
  split_backward();
  return std::move(v_);
}

// --- small words
// -----------------------------------------------------------------------------------
void VisitBuilder::cut(int layer) {
  if (!ops_->empty() && ops_->back().kind == OpKind::compute && ops_->back().calls.empty())
    ops_->pop_back();
  VisitOp op;
  op.layer = layer;
  op.again = again_;
  ops_->push_back(std::move(op));
}

void VisitBuilder::communicate(OpKind kind, const char* tag, Ref buffer, Ref source, int layer,
                               Reduction how) {
  if (!ops_->empty() && ops_->back().kind == OpKind::compute && ops_->back().calls.empty())
    ops_->pop_back();
  VisitOp op;
  op.layer = layer;
  op.again = again_;
  op.kind = kind;
  op.comm = "tp";
  op.tag = tag;
  op.reduction = how;
  op.buffer = buffer;
  op.source = source;
  ops_->push_back(std::move(op));
}

Ref VisitBuilder::entered(const char* tag, Ref x, const char* name, BufferClass cls, int layer) {
  if (!z_.sp) return x;
  const Ref all = kept(name, cls, all_, layer);
  communicate(OpKind::all_gather, tag, all, x, layer);
  cut(layer);
  return all;
}

Ref VisitBuilder::left(const char* tag, Ref partial, const char* name, BufferClass cls, int layer) {
  if (z_.tp == 1) return partial;
  if (!z_.sp) {
    reduced(tag, partial, layer);
    return partial;
  }
  const Ref own = kept(name, cls, own_, layer);
  communicate(OpKind::reduce_scatter, tag, own, partial, layer, Reduction::sum);
  return own;
}

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

void VisitBuilder::call(Kernel k, std::vector<Ref> inputs, std::vector<Ref> outputs,
                        const std::vector<Scratch>& taken) {
  std::vector<Ref> working;
  for (const Scratch& t : taken) {
    if (std::none_of(outputs.begin(), outputs.end(), [](const Ref& r) { return r.sums; })) break;
    const auto [at, is_new] = scratch_.try_emplace({t.name, t.layer});
    if (is_new) {
      at->second = slot(t.name, BufferClass::scratch, t_.main, t.shape, t.layer);
      v_.slots.back().only_when_accumulating = true;
    }
    working.push_back(at->second);
  }
  ops_->back().calls.push_back(
      {d_.kernel(k), std::move(inputs), std::move(outputs), std::move(working)});
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
  const bool stays = !recomputes_core() || ops_ == &v_.backward;
  return kept("probs", stays ? BufferClass::saved_input : BufferClass::activation,
              {z_.micro_batch, z_.heads, z_.sequence, z_.sequence}, layer);
}

std::string VisitBuilder::layer_name(int layer, const char* rest) {
  return fmt::format("layers.{}.{}", layer, rest);
}

std::vector<Ref> VisitBuilder::weighted(Ref x, const std::string& name) {
  if (!gpt_) return {x, param(name + ".weight")};
  return {x, param(name + ".weight"), param(name + ".bias")};
}

std::vector<Ref> VisitBuilder::weight_gradients(const std::string& name) {
  if (!gpt_) return {grad(name + ".weight")};
  return {grad(name + ".weight"), grad(name + ".bias")};
}

Kernel VisitBuilder::vocabulary(KernelKind kind, KernelDims dims) const {
  Kernel k = kernel(kind, dims);
  k.coords = vocab_coords_;
  return k;
}

Ref VisitBuilder::batch() {
  if (v_.batch < 0)
    v_.batch = slot("batch", BufferClass::batch, DType::i64,
                    {z_.micro_batch, z_.full_sequence / z_.slices + 1})
                   .slot;
  Ref r;
  r.slot = v_.batch;
  return r;
}

Ref VisitBuilder::layer_output(int layer) {
  if (layer < v_.last_layer) return saved_layer_input(layer + 1);
  return v_.last ? kept("h_out", BufferClass::saved_input, own_) : moving("h_out", own_);
}

// --- embedding and norms
// ---------------------------------------------------------------------------
// With SP and a vocabulary that is not cut, each member looks up its own positions.
Ref VisitBuilder::embed() {
  unit_ = 0;
  const Ref tokens = batch();
  if (z_.nano_style && !v_.last) labels();  // for the last stage
  const bool scatters = z_.sp && z_.vocab_cut;
  const std::int64_t looked_up = z_.sp && !z_.vocab_cut ? z_.own_tokens : z_.tokens;
  Kernel k = vocabulary(KernelKind::embed_fwd, {looked_up, z_.classes, z_.hidden});
  at_positions(k, z_.sp && !z_.vocab_cut);
  const Shape shape = scatters ? all_ : own_;
  cut();
  if (!gpt_ && !scatters) {  // the rows are the layer's input
    const Ref x = saved_layer_input(v_.first_layer);
    call(k, {tokens, param("embed.weight")}, {x});
    if (z_.vocab_cut) reduced("embed", x);
    cut(v_.first_layer);
    return x;
  }
  const Ref partial = moving("embed_partial", shape);
  call(k, {tokens, param("embed.weight")}, {partial});
  if (!gpt_) {
    const Ref x = saved_layer_input(v_.first_layer);
    communicate(OpKind::reduce_scatter, "embed", x, partial, -1, Reduction::sum);
    cut(v_.first_layer);
    return x;
  }
  const Ref rows =
      z_.vocab_cut ? left("embed", partial, "embed_own", BufferClass::activation) : partial;
  const Ref x = saved_layer_input(v_.first_layer);
  cut(v_.first_layer);
  call(positions(KernelKind::pos_add_fwd), {rows, param("pos_embed.weight")}, {x});
  return x;
}

void VisitBuilder::embed_backward(Ref dy) {
  unit_ = 0;
  const bool whole_rows = z_.sp && !z_.vocab_cut;
  if (gpt_ && z_.sp)  // before the gather, with the op that made dy
    call(positions(KernelKind::pos_add_bwd_weight), {dy}, {grad("pos_embed.weight")},
         scratch("scratch_pos", {z_.own_sequence, z_.hidden}));
  const Ref d_rows =
      whole_rows ? dy : entered("embed", dy, "d_embed_all", BufferClass::grad_activation);
  Kernel k = vocabulary(KernelKind::embed_bwd_weight,
                        {whole_rows ? z_.own_tokens : z_.tokens, z_.classes, z_.hidden});
  at_positions(k, whole_rows);
  call(k, {d_rows, batch()}, {grad("embed.weight")});
  if (gpt_ && !z_.sp)
    call(positions(KernelKind::pos_add_bwd_weight), {dy}, {grad("pos_embed.weight")},
         scratch("scratch_pos", {z_.sequence, z_.hidden}));
}

Kernel VisitBuilder::positions(KernelKind kind) const {
  Kernel k = kernel(kind, {z_.own_sequence, z_.micro_batch, z_.hidden});
  at_positions(k, z_.sp);
  from_slice(k);
  return k;
}

void VisitBuilder::norm_forward(Ref x, const std::string& name, Ref out, Ref stat) {
  Kernel k = rows(gpt_ ? KernelKind::layernorm_fwd : KernelKind::rmsnorm_fwd);
  k.real = d_.scenario.model.norm_eps;
  call(k, weighted(x, name), {out, stat});
}

void VisitBuilder::norm_backward(Ref dy, Ref x, Ref stat, const std::string& name, Ref dx) {
  std::vector<Ref> outputs = weight_gradients(name);
  outputs.insert(outputs.begin(), dx);
  call(rows(gpt_ ? KernelKind::layernorm_bwd_input : KernelKind::rmsnorm_bwd_input),
       {dy, x, stat, param(name + ".weight")}, outputs);
}

void VisitBuilder::residual(int layer, Ref partial, const char* bias, Ref x, Ref out) {
  if (gpt_)
    call(rows(KernelKind::bias_residual_fwd), {partial, param(layer_name(layer, bias)), x}, {out});
  else
    call(rows(KernelKind::residual_fwd), {partial, x}, {out});
}

// --- forward
// ---------------------------------------------------------------------------------------
void VisitBuilder::forward() {
  Ref x;
  if (v_.first) {
    x = embed();
  } else {
    x = saved_layer_input(v_.first_layer);
    v_.in = x.slot;
    cut(v_.first_layer);
  }
  for (int layer = v_.first_layer; layer <= v_.last_layer; ++layer) {
    if (layer > v_.first_layer) cut(layer);
    x = layer_forward(layer, x);
  }
  if (v_.last)
    head_forward(x);
  else
    v_.out = x.slot;
}

// The op of the layer's begin is open; the op that is open at the end belongs to what follows.
Ref VisitBuilder::layer_forward(int layer, Ref x) {
  unit_ = 1 + layer;
  SavedLayer& s = saved_.emplace_back();
  passing_ = d_.evaluation || recomputes(layer);
  const Ref fed = halves_forward(layer, x, s);
  passing_ = d_.evaluation;
  // The last residual of the model runs with the head.
  const bool before_head = v_.last && layer == v_.last_layer;
  cut(before_head ? -1 : layer);
  const Ref out = layer_output(layer);
  residual(layer, fed, "mlp.fc2.bias", s.middle, out);
  return out;
}

Ref VisitBuilder::halves_forward(int layer, Ref x, SavedLayer& s) {
  s.input = x;
  const Ref attended = has_latents() ? latent_forward(layer, x, s.attention)
                                     : attention_forward(layer, x, s.attention);
  cut(layer);
  s.middle = kept("h_mid", BufferClass::saved_input, own_, layer);
  residual(layer, attended, "attn.o.bias", x, s.middle);
  return is_moe(layer) ? moe_forward(layer, s.middle, s.moe) : mlp_forward(layer, s.middle, s.mlp);
}

std::string VisitBuilder::head_weight() const {
  return d_.scenario.model.tied_embeddings ? "embed.weight" : "head.weight";
}

// With SP and a vocabulary that is not cut, each member makes the logits of its own positions.
void VisitBuilder::head_forward(Ref x) {
  unit_ = 1 + shape_.layers;
  head_input_ = x;
  final_stat_ = statistic("final_stat", BufferClass::saved_input, norm_stat());
  final_out_ = kept("final_out", BufferClass::saved_weight, own_);
  norm_forward(x, "final_norm", final_out_, final_stat_);
  const Ref in =
      z_.vocab_cut ? entered("head", final_out_, "final_all", BufferClass::activation) : final_out_;
  const Shape shape = {z_.vocab_cut ? z_.sequence : z_.own_sequence, z_.micro_batch, z_.classes};
  logits_ = kept("logits", BufferClass::logits, shape);
  call(head_product(KernelKind::linear_fwd), {in, param(head_weight())}, {logits_});
  loss_forward();
}

Kernel VisitBuilder::head_product(KernelKind kind) const {
  return kernel(kind, {head_tokens(), z_.hidden, z_.classes});
}

void VisitBuilder::loss_forward() {
  const bool own = z_.sp && !z_.vocab_cut;
  const auto loss_kernel = [&](KernelKind kind, KernelDims dims) {
    Kernel k = vocabulary(kind, dims);
    if (kind != KernelKind::ce_max) at_positions(k, own);
    if (z_.nano_style && !v_.first && kind != KernelKind::ce_max) k.flags |= kLabels;
    return k;
  };
  const std::int64_t n = head_tokens();
  const Ref max = statistic("ce_max", BufferClass::scratch, {n});
  call(loss_kernel(KernelKind::ce_max, {n, z_.classes, z_.vocab}), {logits_}, {max});
  if (z_.vocab_cut) reduced("ce.max", max, -1, Reduction::max);
  cut();
  const Ref tokens = z_.nano_style && !v_.first ? labels() : batch();
  const Ref sums = statistic("ce_sum", BufferClass::scratch, {2, n});
  call(loss_kernel(KernelKind::ce_sum, {n, z_.classes}), {logits_, max, tokens}, {sums});
  if (z_.vocab_cut) reduced("ce.sum", sums);
  cut();
  Ref loss = slot("loss", BufferClass::scratch, DType::f64, {1});
  loss.step_sum = true;
  v_.slots.back().once = true;
  const std::int64_t divisor = std::int64_t{d_.scenario.training.global_batch} * z_.full_sequence;
  call(loss_kernel(KernelKind::ce_grad, {n, z_.classes, divisor}), {logits_, max, sums, tokens},
       {logits_, loss});
}

// --- backward
// --------------------------------------------------------------------------------------
void VisitBuilder::backward() {
  Ref dy;
  if (v_.last) {
    dy = head_backward();
  } else {
    dy = gradient("d_h_out", own_, v_.last_layer);
    v_.d_out = dy.slot;
    cut(v_.last_layer);
  }
  for (int layer = v_.last_layer; layer >= v_.first_layer; --layer) {
    if (layer < v_.last_layer) cut(layer);
    dy = layer_backward(layer, dy);
  }
  if (v_.first)
    embed_backward(dy);
  else
    v_.d_in = dy.slot;
}

Ref VisitBuilder::layer_backward(int layer, Ref dy) {
  unit_ = 1 + layer;
  if (recomputes(layer)) layer_again(layer);
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const SavedLayer& s = saved_[static_cast<std::size_t>(layer - v_.first_layer)];
  const bool moe = is_moe(layer);
  const Ref d_norm2 = moe ? moe_backward(layer, dy, s.moe) : mlp_backward(layer, dy, s.mlp);
  cut(layer);
  const Ref d_middle = gradient("d_h_mid", own_, layer);
  norm_backward(d_norm2, s.middle, moe ? s.moe.norm_stat : s.mlp.norm_stat, at("norm2"), d_middle);
  call(rows(KernelKind::residual_bwd_input), {d_middle, dy}, {d_middle});
  const Ref d_norm1 = has_latents() ? latent_backward(layer, d_middle, s.attention)
                                    : attention_backward(layer, d_middle, s.attention);
  cut(layer);
  const Ref dx = layer_gradient(layer);
  norm_backward(d_norm1, s.input, s.attention.norm_stat, at("norm1"), dx);
  call(rows(KernelKind::residual_bwd_input), {dx, d_middle}, {dx});
  return dx;
}

Ref VisitBuilder::head_backward() {
  unit_ = 1 + shape_.layers;
  const bool gathers = z_.sp && z_.vocab_cut;
  cut();
  const Ref in =
      gathers ? entered("head", final_out_, "final_all", BufferClass::activation) : final_out_;
  const Ref partial = gradient("d_final_out", z_.vocab_cut ? all_ : own_);
  call(head_product(KernelKind::linear_bwd_input), {logits_, param(head_weight())}, {partial});
  const Ref d_final =
      z_.vocab_cut ? left("head", partial, "d_final_own", BufferClass::grad_activation) : partial;
  cut();
  Ref d_weight;
  if (d_.ties_on_one_rank()) {
    d_weight = sum(whole(tied_head()));
  } else {
    d_weight = grad(head_weight());
  }
  call(head_product(KernelKind::linear_bwd_weight), {logits_, in}, {d_weight},
       scratch("scratch_head", {z_.classes, z_.hidden}));
  cut(v_.last_layer);
  const Ref dx = gradient("d_h_out", own_, v_.last_layer);
  norm_backward(d_final, head_input_, final_stat_, "final_norm", dx);
  return dx;
}

// Embedding and head on one rank: two main gradients, added once at the end (models.md 4.3).
BufferId VisitBuilder::tied_head() {
  BufferId& head = d_.tensors[static_cast<std::size_t>(program_)].tied_head;
  if (head.valid()) return head;  // of another slice's visit
  Buffer b;
  b.program = ProgramId{program_};
  const Tensor& embedding = tensors_.at("embed.weight");
  b.cls = d_.plan.buffer(embedding.grad).cls;
  b.dtype = t_.main;
  b.shape = {z_.classes, z_.hidden};
  b.name = d_.name("embed.weight.head_part");
  return head = d_.add(b);
}

Visit stage_visit(Draft& d, int program, int stage, int first_layer, int num_layers, int slice) {
  return VisitBuilder(d, program, stage, first_layer, num_layers, slice).build();
}

}  // namespace tandem::lower
