// The layers of a llama model: RMSNorm, rotary positions, attention with grouped key/value heads,
// SwiGLU, no biases.
//
//   forward    [norm1, qkv, rope, attention, o] | [+residual, norm2, gate and up, swiglu, down] |
//              [+residual]
//   backward   the same cuts from the end (visit_builder.h)
//   q, k and v are rotated where they lie, so rope saves nothing: attention's backward needs the
//   rotated ones. dq and dk are rotated back before the product with the fused weight. q, k, v (and
//   gate, up) are one product, so their dX is one partial sum and one reduction.
//   Sources models.md 2.2 (llama), 2.4 (rope), 2.7 (what is saved), 4.2.
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {
namespace {

class Llama final : public VisitBuilder {
 public:
  using VisitBuilder::VisitBuilder;

 private:
  struct Saved {  // slots of one layer
    Ref input, norm1_stat, norm1_out, qkv, core, attention, middle, norm2_stat, norm2_out, gate_up,
        inner;
  };

  [[nodiscard]] Kernel rope(KernelKind kind) const {
    Kernel k = heads(kind);
    k.real = d_.scenario.model.rope_base;
    return k;
  }
  [[nodiscard]] Kernel swiglu(KernelKind kind) const { return kernel(kind, {z_.tokens, z_.ffn}); }

  // --- forward -----------------------------------------------------------------------------------
  Ref embed() override {
    const Ref tokens = batch();
    const Ref x = saved_layer_input(v_.first_layer);
    look_up(tokens, x);
    cut(v_.first_layer);
    return x;
  }

  [[nodiscard]] Shape norm_stat() const override { return {z_.tokens}; }  // rstd

  void norm_forward(Ref x, const std::string& name, Ref out, Ref stat) override {
    Kernel k = rows(KernelKind::rmsnorm_fwd);
    k.real = d_.scenario.model.norm_eps;
    call(k, {x, param(name + ".weight")}, {out, stat});
  }

  Ref layer_forward(int layer, Ref x) override {
    const auto at = [&](const char* rest) { return layer_name(layer, rest); };
    Saved& s = saved_.emplace_back();
    s.input = x;
    s.norm1_stat = statistic("norm1_stat", BufferClass::saved_input, norm_stat(), layer);
    s.norm1_out = kept("norm1_out", BufferClass::saved_weight, act_, layer);
    norm_forward(x, at("norm1"), s.norm1_out, s.norm1_stat);
    s.qkv = kept("qkv", BufferClass::saved_input, wide(z_.qkv), layer);
    call(linear(KernelKind::linear_fwd, z_.hidden, z_.qkv),
         {s.norm1_out, param(at("attn.qkv.weight"))}, {s.qkv});
    call(rope(KernelKind::rope_fwd), {s.qkv}, {s.qkv});
    s.core = attention_core(layer);
    s.attention = kept("attn_out", BufferClass::saved_weight, wide(z_.attention), layer);
    call(attention(KernelKind::attention_fwd), {s.qkv}, {s.attention, s.core});
    const Ref o_partial = moving("o_partial", act_, layer);
    call(linear(KernelKind::linear_fwd, z_.attention, z_.hidden),
         {s.attention, param(at("attn.o.weight"))}, {o_partial});
    if (z_.tp > 1) reduced("attn.out", o_partial, layer);

    cut(layer);
    s.middle = kept("h_mid", BufferClass::saved_input, act_, layer);
    call(rows(KernelKind::residual_fwd), {o_partial, x}, {s.middle});
    s.norm2_stat = statistic("norm2_stat", BufferClass::saved_input, norm_stat(), layer);
    s.norm2_out = kept("norm2_out", BufferClass::saved_weight, act_, layer);
    norm_forward(s.middle, at("norm2"), s.norm2_out, s.norm2_stat);
    s.gate_up = kept("gate_up", BufferClass::saved_input, wide(2 * z_.ffn), layer);
    call(linear(KernelKind::linear_fwd, z_.hidden, 2 * z_.ffn),
         {s.norm2_out, param(at("mlp.gate_up.weight"))}, {s.gate_up});
    s.inner = kept("swiglu_out", BufferClass::saved_weight, wide(z_.ffn), layer);
    call(swiglu(KernelKind::swiglu_fwd), {s.gate_up}, {s.inner});
    const Ref down_partial = moving("down_partial", act_, layer);
    call(linear(KernelKind::linear_fwd, z_.ffn, z_.hidden), {s.inner, param(at("mlp.down.weight"))},
         {down_partial});
    if (z_.tp > 1) reduced("mlp.out", down_partial, layer);

    // The last residual of the model runs with the head.
    const bool before_head = v_.last && layer == v_.last_layer;
    cut(before_head ? -1 : layer);
    const Ref out = layer_output(layer);
    call(rows(KernelKind::residual_fwd), {down_partial, s.middle}, {out});
    return out;
  }

  // --- backward ----------------------------------------------------------------------------------
  void norm_backward(Ref dy, Ref x, Ref stat, const std::string& name, Ref dx) override {
    call(rows(KernelKind::rmsnorm_bwd_input), {dy, x, stat, param(name + ".weight")},
         {dx, grad(name + ".weight")});
  }

  Ref layer_backward(int layer, Ref dy) override {
    const auto at = [&](const char* rest) { return layer_name(layer, rest); };
    const Saved& s = saved_[static_cast<std::size_t>(layer - v_.first_layer)];
    // mlp, for inputs
    const Ref d_inner = gradient("d_swiglu_out", wide(z_.ffn), layer);
    call(linear(KernelKind::linear_bwd_input, z_.ffn, z_.hidden),
         {dy, param(at("mlp.down.weight"))}, {d_inner});
    const Ref d_gate_up = gradient("d_gate_up", wide(2 * z_.ffn), layer);
    call(swiglu(KernelKind::swiglu_bwd_input), {d_inner, s.gate_up}, {d_gate_up});
    const Ref d_norm2 = gradient("d_norm2_out", act_, layer);
    call(linear(KernelKind::linear_bwd_input, z_.hidden, 2 * z_.ffn),
         {d_gate_up, param(at("mlp.gate_up.weight"))}, {d_norm2});
    if (z_.tp > 1) reduced("mlp.in", d_norm2, layer);
    // mlp, for weights
    cut(layer);
    const Ref mlp = scratch("scratch_mlp", {2 * z_.ffn, z_.hidden}, layer);
    call(linear(KernelKind::linear_bwd_weight, z_.ffn, z_.hidden), {dy, s.inner},
         {grad(at("mlp.down.weight"))}, {mlp});
    call(linear(KernelKind::linear_bwd_weight, z_.hidden, 2 * z_.ffn), {d_gate_up, s.norm2_out},
         {grad(at("mlp.gate_up.weight"))}, {mlp});
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
    call(rope(KernelKind::rope_bwd_input), {d_qkv}, {d_qkv});
    const Ref d_norm1 = gradient("d_norm1_out", act_, layer);
    call(linear(KernelKind::linear_bwd_input, z_.hidden, z_.qkv),
         {d_qkv, param(at("attn.qkv.weight"))}, {d_norm1});
    if (z_.tp > 1) reduced("attn.in", d_norm1, layer);
    // attention, for weights
    cut(layer);
    const Ref core = scratch("scratch_attn", {z_.qkv, z_.hidden}, layer);
    call(linear(KernelKind::linear_bwd_weight, z_.attention, z_.hidden), {d_middle, s.attention},
         {grad(at("attn.o.weight"))}, {core});
    call(linear(KernelKind::linear_bwd_weight, z_.hidden, z_.qkv), {d_qkv, s.norm1_out},
         {grad(at("attn.qkv.weight"))}, {core});
    // through norm1 to the layer below
    cut(layer);
    const Ref dx = layer_gradient(layer);
    norm_backward(d_norm1, s.input, s.norm1_stat, at("norm1"), dx);
    call(rows(KernelKind::residual_bwd_input), {dx, d_middle}, {dx});
    return dx;
  }

  void embed_backward(Ref dy) override { look_up_backward(dy); }

  std::vector<Saved> saved_;
};

}  // namespace

Visit llama_visit(Draft& draft, int program, int stage, int first_layer, int num_layers) {
  return Llama(draft, program, stage, first_layer, num_layers).build();
}

}  // namespace tandem::lower
