// The dense feed-forward half of a layer: fc2(gelu(fc1 x)) of gpt, down(silu(gate x) * up x) of the
// others. gate and up are one product: their dX is one partial sum and one reduction.
//
//   forward    norm2 | fc1 or gate and up, activation, fc2 or down |
//   backward   | d_inner, activation, dX | W of both
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

namespace {
// Names of the two forms.
struct Words {
  const char *in, *in_buffer, *out, *out_buffer, *partial, *d_in, *d_out;
};
constexpr Words kGelu = {"mlp.fc1",     "fc1_out",   "mlp.fc2",   "gelu_out",
                         "fc2_partial", "d_fc1_out", "d_gelu_out"};
constexpr Words kSwiglu = {"mlp.gate_up",  "gate_up",   "mlp.down",    "swiglu_out",
                           "down_partial", "d_gate_up", "d_swiglu_out"};
}  // namespace

void VisitBuilder::activation_forward(const SavedMlp& s) {
  if (gpt_) {
    const std::uint32_t form = d_.scenario.model.gelu == Gelu::tanh ? kTanh : kErf;
    return call(kernel(KernelKind::gelu_fwd, {z_.tokens * z_.ffn}, form), {s.inner_in},
                {s.inner_out});
  }
  call(kernel(KernelKind::swiglu_fwd, {z_.tokens, z_.ffn}), {s.inner_in}, {s.inner_out});
}

void VisitBuilder::activation_backward(Ref d_out, const SavedMlp& s, Ref d_in) {
  if (gpt_) {
    const std::uint32_t form = d_.scenario.model.gelu == Gelu::tanh ? kTanh : kErf;
    return call(kernel(KernelKind::gelu_bwd_input, {z_.tokens * z_.ffn}, form), {d_out, s.inner_in},
                {d_in});
  }
  call(kernel(KernelKind::swiglu_bwd_input, {z_.tokens, z_.ffn}), {d_out, s.inner_in}, {d_in});
}

Ref VisitBuilder::mlp_forward(int layer, Ref x, SavedMlp& s) {
  const Words& w = gpt_ ? kGelu : kSwiglu;
  const std::int64_t wide_in = gpt_ ? z_.ffn : 2 * z_.ffn;
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  s.norm_stat = statistic("norm2_stat", BufferClass::saved_input, norm_stat(), layer);
  s.norm_out = kept("norm2_out", BufferClass::saved_weight, own_, layer);
  norm_forward(x, at("norm2"), s.norm_out, s.norm_stat);
  const Ref in = entered("mlp.in", s.norm_out, "norm2_all", BufferClass::activation, layer);
  s.inner_in = kept(w.in_buffer, BufferClass::saved_input, wide(wide_in), layer);
  call(linear(KernelKind::linear_fwd, z_.hidden, wide_in, true), weighted(in, at(w.in)),
       {s.inner_in});
  s.inner_out = kept(w.out_buffer, BufferClass::saved_weight, wide(z_.ffn), layer);
  activation_forward(s);
  const Ref partial = moving(w.partial, all_, layer);
  call(linear(KernelKind::linear_fwd, z_.ffn, z_.hidden),
       {s.inner_out, param(at(w.out) + ".weight")}, {partial});
  return left("mlp.out", partial, "mlp_out", BufferClass::activation, layer);
}

Ref VisitBuilder::mlp_backward(int layer, Ref dy, const SavedMlp& s) {
  const Words& w = gpt_ ? kGelu : kSwiglu;
  const std::int64_t wide_in = gpt_ ? z_.ffn : 2 * z_.ffn;
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const Ref d_all = entered("mlp.out", dy, "d_mlp_all", BufferClass::grad_activation, layer);
  const Ref in = entered("mlp.in", s.norm_out, "norm2_all", BufferClass::activation, layer);
  const Ref d_inner = gradient(w.d_out, wide(z_.ffn), layer);
  call(linear(KernelKind::linear_bwd_input, z_.ffn, z_.hidden),
       {d_all, param(at(w.out) + ".weight")}, {d_inner});
  const Ref d_in = gradient(w.d_in, wide(wide_in), layer);
  activation_backward(d_inner, s, d_in);
  const Ref partial = gradient("d_norm2_out", all_, layer);
  call(linear(KernelKind::linear_bwd_input, z_.hidden, wide_in),
       {d_in, param(at(w.in) + ".weight")}, {partial});
  const Ref dx = left("mlp.in", partial, "d_norm2_own", BufferClass::grad_activation, layer);
  // for weights
  cut(layer);
  const Ref product = scratch("scratch_mlp", {wide_in, z_.hidden}, layer);
  call(linear(KernelKind::linear_bwd_weight, z_.ffn, z_.hidden), {d_all, s.inner_out},
       {grad(at(w.out) + ".weight")}, {product});
  if (gpt_) call(rows(KernelKind::bias_residual_bwd_weight), {dy}, {grad(at("mlp.fc2.bias"))});
  call(linear(KernelKind::linear_bwd_weight, z_.hidden, wide_in, true), {d_in, in},
       weight_gradients(at(w.in)), {product});
  return dx;
}

}  // namespace tandem::lower
