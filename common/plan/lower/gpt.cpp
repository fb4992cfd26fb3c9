// The visit of a stage of a gpt model.
//
//   forward    [embed] | [+pos, norm1, qkv, attention, o] | [+residual, norm2, fc1, gelu, fc2] |
//              [+residual] ... [final norm, head, max] | [sum] | [loss, dlogits]
//   backward   the same cuts from the end; behind each cut the W calls of the segment before it,
//              which can run beside the reduction
//   A bar is an all-reduce over tp where tp > 1. The cuts are the same for every tp, and every
//   layer ends with one, so that ops and peaks can be compared between layouts. Sources
//   models.md 2.2 (gpt), 2.7 (what is saved for I and for W), 4.1 (tags), 4.2.
#include <fmt/format.h>

#include "common/plan/lower/visit.h"

namespace tandem::lower {
namespace {

class Gpt {
 public:
  Gpt(Draft& d, int program, int stage, int first_layer, int num_layers)
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

  Visit build() {
    forward();
    ops_ = &v_.backward;
    backward();
    return std::move(v_);
  }

 private:
  struct Saved {  // slots of one layer
    Ref input, norm1_stat, norm1_out, qkv, core, attention, middle, norm2_stat, norm2_out, fc1,
        gelu;
  };

  // --- small words -------------------------------------------------------------------------------
  Ref slot(const char* name, BufferClass cls, DType dtype, Shape shape, int layer = -1) {
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
  Ref kept(const char* name, BufferClass cls, Shape shape, int layer = -1) {
    return slot(name, cls, t_.compute, shape, layer);
  }
  Ref statistic(const char* name, BufferClass cls, Shape shape, int layer = -1) {
    return slot(name, cls, t_.statistic(), shape, layer);
  }
  Ref moving(const char* name, Shape shape, int layer = -1) {
    return kept(name, BufferClass::activation, shape, layer);
  }
  Ref gradient(const char* name, Shape shape, int layer = -1) {
    return kept(name, BufferClass::grad_activation, shape, layer);
  }
  static Ref whole(BufferId id) {
    Ref r;
    r.buffer = id;
    return r;
  }
  Ref param(const std::string& name) const { return whole(tensors_.at(name).param); }
  Ref grad(const std::string& name) const { return sum(whole(tensors_.at(name).grad)); }
  static Ref sum(Ref r) {
    r.sums = true;
    return r;
  }
  Ref scratch(const char* name, Shape shape, int layer = -1) {
    const Ref r = slot(name, BufferClass::scratch, t_.main, shape, layer);
    v_.slots.back().only_when_accumulating = true;
    return r;
  }
  void cut(int layer = -1) { ops_->push_back({layer, {}, {}, {}, Reduction::none}); }
  void reduced(const char* tag, Ref buffer, int layer = -1, Reduction how = Reduction::sum) {
    ops_->push_back({layer, {}, tag, buffer, how});
  }
  void call(Kernel k, std::vector<Ref> inputs, std::vector<Ref> outputs,
            std::vector<Ref> taken = {}) {
    ops_->back().calls.push_back(
        {d_.kernel(k), std::move(inputs), std::move(outputs), std::move(taken)});
  }
  static Kernel kernel(KernelKind kind, std::array<std::int64_t, 4> dims, std::uint32_t flags = 0) {
    Kernel k;
    k.kind = kind;
    k.dims = dims;
    k.flags = flags;
    return k;
  }
  [[nodiscard]] Kernel linear(KernelKind kind, std::int64_t in, std::int64_t out,
                              bool bias = false) const {
    return kernel(kind, {z_.tokens, in, out}, bias ? std::uint32_t{kBias} : 0);
  }
  [[nodiscard]] Kernel norm_kernel(KernelKind kind) const {
    Kernel k = kernel(kind, {z_.tokens, z_.hidden});
    if (kind == KernelKind::layernorm_fwd) k.real = d_.scenario.model.norm_eps;
    return k;
  }
  [[nodiscard]] Kernel rows(KernelKind kind) const { return kernel(kind, {z_.tokens, z_.hidden}); }
  [[nodiscard]] Kernel gelu(KernelKind kind) const {
    return kernel(kind, {z_.tokens * z_.ffn}, d_.scenario.model.gelu == Gelu::tanh ? kTanh : kErf);
  }
  [[nodiscard]] Kernel attention(KernelKind kind) const {
    return kernel(kind, {z_.micro_batch, z_.heads, z_.sequence, z_.head_dim},
                  kCausal | (flash() ? kFlash : kMaterialised));
  }
  [[nodiscard]] Kernel vocabulary(KernelKind kind, std::array<std::int64_t, 4> dims) const {
    Kernel k = kernel(kind, dims);
    k.coords = vocab_coords_;
    return k;
  }
  [[nodiscard]] bool flash() const {
    return d_.scenario.training.attention == AttentionKind::flash;
  }
  [[nodiscard]] Shape wide(std::int64_t width) const {
    return {z_.sequence, z_.micro_batch, width};
  }
  [[nodiscard]] std::string layer_name(int layer, const char* rest) const {
    return fmt::format("layers.{}.{}", layer, rest);
  }
  Ref batch() {
    if (v_.batch < 0)
      v_.batch =
          slot("batch", BufferClass::batch, DType::i64, {z_.micro_batch, z_.sequence + 1}).slot;
    Ref r;
    r.slot = v_.batch;
    return r;
  }

  // --- forward -----------------------------------------------------------------------------------
  void forward() {
    Ref x;
    if (v_.first) {
      const Ref tokens = batch();
      const Ref partial = moving("embed_partial", act_);
      cut();
      call(vocabulary(KernelKind::embed_fwd, {z_.tokens, z_.classes, z_.hidden}),
           {tokens, param("embed.weight")}, {partial});
      if (z_.vocab_cut) reduced("embed", partial);
      x = saved_layer_input(v_.first_layer);
      cut(v_.first_layer);
      call(kernel(KernelKind::pos_add_fwd, {z_.sequence, z_.micro_batch, z_.hidden}),
           {partial, param("pos_embed.weight")}, {x});
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

  Ref saved_layer_input(int layer) { return kept("h_in", BufferClass::saved_input, act_, layer); }

  // What a layer leaves: the next one's saved input, the head's, or what is sent.
  Ref layer_output(int layer) {
    if (layer < v_.last_layer) return saved_layer_input(layer + 1);
    return v_.last ? kept("h_out", BufferClass::saved_input, act_) : moving("h_out", act_);
  }

  void norm_forward(Ref x, const std::string& name, Ref out, Ref stat) {
    call(norm_kernel(KernelKind::layernorm_fwd),
         {x, param(name + ".weight"), param(name + ".bias")}, {out, stat});
  }

  Ref layer_forward(int layer, Ref x) {
    const auto at = [&](const char* rest) { return layer_name(layer, rest); };
    Saved& s = saved_.emplace_back();
    s.input = x;
    s.norm1_stat = statistic("norm1_stat", BufferClass::saved_input, {2, z_.tokens}, layer);
    s.norm1_out = kept("norm1_out", BufferClass::saved_weight, act_, layer);
    norm_forward(x, at("norm1"), s.norm1_out, s.norm1_stat);
    s.qkv = kept("qkv", BufferClass::saved_input, wide(3 * z_.attention), layer);
    call(linear(KernelKind::linear_fwd, z_.hidden, 3 * z_.attention, true),
         {s.norm1_out, param(at("attn.qkv.weight")), param(at("attn.qkv.bias"))}, {s.qkv});
    s.core = flash() ? statistic("lse", BufferClass::saved_input,
                                 {z_.micro_batch, z_.heads, z_.sequence}, layer)
                     : kept("probs", BufferClass::saved_input,
                            {z_.micro_batch, z_.heads, z_.sequence, z_.sequence}, layer);
    s.attention = kept("attn_out", BufferClass::saved_weight, wide(z_.attention), layer);
    call(attention(KernelKind::attention_fwd), {s.qkv}, {s.attention, s.core});
    const Ref o_partial = moving("o_partial", act_, layer);
    call(linear(KernelKind::linear_fwd, z_.attention, z_.hidden),
         {s.attention, param(at("attn.o.weight"))}, {o_partial});
    if (z_.tp > 1) reduced("attn.out", o_partial, layer);

    cut(layer);
    s.middle = kept("h_mid", BufferClass::saved_input, act_, layer);
    call(rows(KernelKind::bias_residual_fwd), {o_partial, param(at("attn.o.bias")), x}, {s.middle});
    s.norm2_stat = statistic("norm2_stat", BufferClass::saved_input, {2, z_.tokens}, layer);
    s.norm2_out = kept("norm2_out", BufferClass::saved_weight, act_, layer);
    norm_forward(s.middle, at("norm2"), s.norm2_out, s.norm2_stat);
    s.fc1 = kept("fc1_out", BufferClass::saved_input, wide(z_.ffn), layer);
    call(linear(KernelKind::linear_fwd, z_.hidden, z_.ffn, true),
         {s.norm2_out, param(at("mlp.fc1.weight")), param(at("mlp.fc1.bias"))}, {s.fc1});
    s.gelu = kept("gelu_out", BufferClass::saved_weight, wide(z_.ffn), layer);
    call(gelu(KernelKind::gelu_fwd), {s.fc1}, {s.gelu});
    const Ref fc2_partial = moving("fc2_partial", act_, layer);
    call(linear(KernelKind::linear_fwd, z_.ffn, z_.hidden), {s.gelu, param(at("mlp.fc2.weight"))},
         {fc2_partial});
    if (z_.tp > 1) reduced("mlp.out", fc2_partial, layer);

    // The last residual of the model runs with the head.
    const bool before_head = v_.last && layer == v_.last_layer;
    cut(before_head ? -1 : layer);
    const Ref out = layer_output(layer);
    call(rows(KernelKind::bias_residual_fwd), {fc2_partial, param(at("mlp.fc2.bias")), s.middle},
         {out});
    return out;
  }

  [[nodiscard]] std::string head_weight() const {
    return d_.scenario.model.tied_embeddings ? "embed.weight" : "head.weight";
  }

  void head_forward(Ref x) {
    head_input_ = x;
    final_stat_ = statistic("final_stat", BufferClass::saved_input, {2, z_.tokens});
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

  // --- backward ----------------------------------------------------------------------------------
  void backward() {
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
      embedding_backward(dy);
    else
      v_.d_input = dy.slot;
  }

  // dx of a norm and the gradients of its weight and bias.
  void norm_backward(Ref dy, Ref x, Ref stat, const std::string& name, Ref dx) {
    call(norm_kernel(KernelKind::layernorm_bwd_input), {dy, x, stat, param(name + ".weight")},
         {dx, grad(name + ".weight"), grad(name + ".bias")});
  }

  Ref head_backward() {
    const Ref d_final = gradient("d_final_out", act_);
    cut();
    call(linear(KernelKind::linear_bwd_input, z_.hidden, z_.classes),
         {logits_, param(head_weight())}, {d_final});
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
  BufferId tied_head() {
    Buffer b;
    b.program = ProgramId{program_};
    b.cls = BufferClass::grad;
    b.dtype = t_.main;
    b.shape = {z_.classes, z_.hidden};
    b.name = d_.name("embed.weight.head_part");
    return d_.tensors[static_cast<std::size_t>(program_)].tied_head = d_.add(b);
  }

  Ref layer_backward(int layer, Ref dy) {
    const auto at = [&](const char* rest) { return layer_name(layer, rest); };
    const Saved& s = saved_[static_cast<std::size_t>(layer - v_.first_layer)];
    // mlp, for inputs
    const Ref d_gelu = gradient("d_gelu_out", wide(z_.ffn), layer);
    call(linear(KernelKind::linear_bwd_input, z_.ffn, z_.hidden), {dy, param(at("mlp.fc2.weight"))},
         {d_gelu});
    const Ref d_fc1 = gradient("d_fc1_out", wide(z_.ffn), layer);
    call(gelu(KernelKind::gelu_bwd_input), {d_gelu, s.fc1}, {d_fc1});
    const Ref d_norm2 = gradient("d_norm2_out", act_, layer);
    call(linear(KernelKind::linear_bwd_input, z_.hidden, z_.ffn),
         {d_fc1, param(at("mlp.fc1.weight"))}, {d_norm2});
    if (z_.tp > 1) reduced("mlp.in", d_norm2, layer);
    // mlp, for weights
    cut(layer);
    const Ref mlp = scratch("scratch_mlp", {z_.ffn, z_.hidden}, layer);
    call(linear(KernelKind::linear_bwd_weight, z_.ffn, z_.hidden), {dy, s.gelu},
         {grad(at("mlp.fc2.weight"))}, {mlp});
    call(rows(KernelKind::bias_residual_bwd_weight), {dy}, {grad(at("mlp.fc2.bias"))});
    call(linear(KernelKind::linear_bwd_weight, z_.hidden, z_.ffn, true), {d_fc1, s.norm2_out},
         {grad(at("mlp.fc1.weight")), grad(at("mlp.fc1.bias"))}, {mlp});
    // attention, for inputs
    cut(layer);
    const Ref d_middle = gradient("d_h_mid", act_, layer);
    norm_backward(d_norm2, s.middle, s.norm2_stat, at("norm2"), d_middle);
    call(rows(KernelKind::residual_bwd_input), {d_middle, dy}, {d_middle});
    const Ref d_attention = gradient("d_attn_out", wide(z_.attention), layer);
    call(linear(KernelKind::linear_bwd_input, z_.attention, z_.hidden),
         {d_middle, param(at("attn.o.weight"))}, {d_attention});
    const Ref d_qkv = gradient("d_qkv", wide(3 * z_.attention), layer);
    call(attention(KernelKind::attention_bwd_input), {d_attention, s.qkv, s.core, s.attention},
         {d_qkv});
    const Ref d_norm1 = gradient("d_norm1_out", act_, layer);
    call(linear(KernelKind::linear_bwd_input, z_.hidden, 3 * z_.attention),
         {d_qkv, param(at("attn.qkv.weight"))}, {d_norm1});
    if (z_.tp > 1) reduced("attn.in", d_norm1, layer);
    // attention, for weights
    cut(layer);
    const Ref core = scratch("scratch_attn", {3 * z_.attention, z_.hidden}, layer);
    call(linear(KernelKind::linear_bwd_weight, z_.attention, z_.hidden), {d_middle, s.attention},
         {grad(at("attn.o.weight"))}, {core});
    call(rows(KernelKind::bias_residual_bwd_weight), {d_middle}, {grad(at("attn.o.bias"))});
    call(linear(KernelKind::linear_bwd_weight, z_.hidden, 3 * z_.attention, true),
         {d_qkv, s.norm1_out}, {grad(at("attn.qkv.weight")), grad(at("attn.qkv.bias"))}, {core});
    // through norm1 to the layer below
    cut(layer);
    const Ref dx = layer > v_.first_layer ? gradient("d_h_out", act_, layer - 1)
                                          : gradient("d_h_in", act_, layer);
    norm_backward(d_norm1, s.input, s.norm1_stat, at("norm1"), dx);
    call(rows(KernelKind::residual_bwd_input), {dx, d_middle}, {dx});
    return dx;
  }

  void embedding_backward(Ref dy) {
    call(vocabulary(KernelKind::embed_bwd_weight, {z_.tokens, z_.classes, z_.hidden}),
         {dy, batch()}, {grad("embed.weight")});
    call(kernel(KernelKind::pos_add_bwd_weight, {z_.sequence, z_.micro_batch, z_.hidden}), {dy},
         {grad("pos_embed.weight")}, {scratch("scratch_pos", {z_.sequence, z_.hidden})});
  }

  Draft& d_;
  const Sizes& z_;
  const PlanTypes t_;
  int program_;
  const ProgramTensors& tensors_;
  Visit v_;
  std::vector<VisitOp>* ops_;
  Shape act_;
  AxisSet vocab_coords_;
  std::vector<Saved> saved_;
  Ref head_input_, final_stat_, final_out_, logits_;
};

}  // namespace

Visit gpt_visit(Draft& draft, int program, int stage, int first_layer, int num_layers) {
  return Gpt(draft, program, stage, first_layer, num_layers).build();
}

}  // namespace tandem::lower
