// The layers of a gpt model: LayerNorm, learned positions, attention with biases, GELU.
//
//   forward    [+pos, norm1, qkv, attention, o] | [+residual, norm2, fc1, gelu, fc2] | [+residual]
//   backward   the same cuts from the end (visit_builder.h); a bias behind a partial sum is added
//              once, with the residual. Sources models.md 2.2 (gpt), 2.7, 4.2.
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {
namespace {

class Gpt final : public VisitBuilder {
 public:
  using VisitBuilder::VisitBuilder;

 private:
  struct Saved {  // slots of one layer
    Ref input, norm1_stat, norm1_out, qkv, core, attention, middle, norm2_stat, norm2_out, fc1,
        gelu;
  };

  [[nodiscard]] Kernel norm_kernel(KernelKind kind) const {
    Kernel k = rows(kind);
    if (kind == KernelKind::layernorm_fwd) k.real = d_.scenario.model.norm_eps;
    return k;
  }
  [[nodiscard]] Kernel gelu(KernelKind kind) const {
    return kernel(kind, {z_.tokens * z_.ffn}, d_.scenario.model.gelu == Gelu::tanh ? kTanh : kErf);
  }

  // --- forward -----------------------------------------------------------------------------------
  Ref embed() override {
    const Ref tokens = batch();
    const Ref partial = moving("embed_partial", act_);
    look_up(tokens, partial);
    const Ref x = saved_layer_input(v_.first_layer);
    cut(v_.first_layer);
    call(kernel(KernelKind::pos_add_fwd, {z_.sequence, z_.micro_batch, z_.hidden}),
         {partial, param("pos_embed.weight")}, {x});
    return x;
  }

  [[nodiscard]] Shape norm_stat() const override { return {2, z_.tokens}; }  // mean, rstd

  void norm_forward(Ref x, const std::string& name, Ref out, Ref stat) override {
    call(norm_kernel(KernelKind::layernorm_fwd),
         {x, param(name + ".weight"), param(name + ".bias")}, {out, stat});
  }

  Ref layer_forward(int layer, Ref x) override {
    const auto at = [&](const char* rest) { return layer_name(layer, rest); };
    Saved& s = saved_.emplace_back();
    s.input = x;
    s.norm1_stat = statistic("norm1_stat", BufferClass::saved_input, norm_stat(), layer);
    s.norm1_out = kept("norm1_out", BufferClass::saved_weight, act_, layer);
    norm_forward(x, at("norm1"), s.norm1_out, s.norm1_stat);
    s.qkv = kept("qkv", BufferClass::saved_input, wide(z_.qkv), layer);
    call(linear(KernelKind::linear_fwd, z_.hidden, z_.qkv, true),
         {s.norm1_out, param(at("attn.qkv.weight")), param(at("attn.qkv.bias"))}, {s.qkv});
    s.core = attention_core(layer);
    s.attention = kept("attn_out", BufferClass::saved_weight, wide(z_.attention), layer);
    call(attention(KernelKind::attention_fwd), {s.qkv}, {s.attention, s.core});
    const Ref o_partial = moving("o_partial", act_, layer);
    call(linear(KernelKind::linear_fwd, z_.attention, z_.hidden),
         {s.attention, param(at("attn.o.weight"))}, {o_partial});
    if (z_.tp > 1) reduced("attn.out", o_partial, layer);

    cut(layer);
    s.middle = kept("h_mid", BufferClass::saved_input, act_, layer);
    call(rows(KernelKind::bias_residual_fwd), {o_partial, param(at("attn.o.bias")), x}, {s.middle});
    s.norm2_stat = statistic("norm2_stat", BufferClass::saved_input, norm_stat(), layer);
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

  // --- backward ----------------------------------------------------------------------------------
  void norm_backward(Ref dy, Ref x, Ref stat, const std::string& name, Ref dx) override {
    call(norm_kernel(KernelKind::layernorm_bwd_input), {dy, x, stat, param(name + ".weight")},
         {dx, grad(name + ".weight"), grad(name + ".bias")});
  }

  Ref layer_backward(int layer, Ref dy) override {
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
    const Ref d_qkv = gradient("d_qkv", wide(z_.qkv), layer);
    call(attention(KernelKind::attention_bwd_input), {d_attention, s.qkv, s.core, s.attention},
         {d_qkv});
    const Ref d_norm1 = gradient("d_norm1_out", act_, layer);
    call(linear(KernelKind::linear_bwd_input, z_.hidden, z_.qkv),
         {d_qkv, param(at("attn.qkv.weight"))}, {d_norm1});
    if (z_.tp > 1) reduced("attn.in", d_norm1, layer);
    // attention, for weights
    cut(layer);
    const Ref core = scratch("scratch_attn", {z_.qkv, z_.hidden}, layer);
    call(linear(KernelKind::linear_bwd_weight, z_.attention, z_.hidden), {d_middle, s.attention},
         {grad(at("attn.o.weight"))}, {core});
    call(rows(KernelKind::bias_residual_bwd_weight), {d_middle}, {grad(at("attn.o.bias"))});
    call(linear(KernelKind::linear_bwd_weight, z_.hidden, z_.qkv, true), {d_qkv, s.norm1_out},
         {grad(at("attn.qkv.weight")), grad(at("attn.qkv.bias"))}, {core});
    // through norm1 to the layer below
    cut(layer);
    const Ref dx = layer_gradient(layer);
    norm_backward(d_norm1, s.input, s.norm1_stat, at("norm1"), dx);
    call(rows(KernelKind::residual_bwd_input), {dx, d_middle}, {dx});
    return dx;
  }

  void embed_backward(Ref dy) override {
    look_up_backward(dy);
    call(kernel(KernelKind::pos_add_bwd_weight, {z_.sequence, z_.micro_batch, z_.hidden}), {dy},
         {grad("pos_embed.weight")}, {scratch("scratch_pos", {z_.sequence, z_.hidden})});
  }

  std::vector<Saved> saved_;
};

}  // namespace

Visit gpt_visit(Draft& draft, int program, int stage, int first_layer, int num_layers) {
  return Gpt(draft, program, stage, first_layer, num_layers).build();
}

}  // namespace tandem::lower
