// Dense feed-forward parts: the half of a layer that has no experts, and the shared experts of one
// that has. fc2(gelu(fc1 x)) of gpt, down(silu(gate x) * up x) of the others; gate and up are one
// product: their dX is one partial sum and one reduction.
//
//   forward    | in, activation, out |
//   backward   | d_inner, activation, dX | W of both
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

namespace {

// What a dense part is called: parameters, buffers, tags.
struct Words {
  const char *in, *in_buffer, *out, *out_buffer, *partial, *d_in, *d_out, *dx;
  const char *tag_in, *tag_out, *all, *d_all, *own, *d_own, *product;
};
constexpr Words kGelu = {"mlp.fc1",   "fc1_out",    "mlp.fc2",     "gelu_out",    "fc2_partial",
                         "d_fc1_out", "d_gelu_out", "d_norm2_out", "mlp.in",      "mlp.out",
                         "norm2_all", "d_mlp_all",  "mlp_out",     "d_norm2_own", "scratch_mlp"};
constexpr Words kSwiglu = {"mlp.gate_up",  "gate_up",     "mlp.down",     "swiglu_out",
                           "down_partial", "d_gate_up",   "d_swiglu_out", "d_norm2_out",
                           "mlp.in",       "mlp.out",     "norm2_all",    "d_mlp_all",
                           "mlp_out",      "d_norm2_own", "scratch_mlp"};
constexpr Words kShared = {
    "moe.shared.gate_up", "shared_gate_up",  "moe.shared.down", "shared_swiglu", "shared_partial",
    "d_shared_gate_up",   "d_shared_swiglu", "d_shared_in",     "shared.in",     "shared.out",
    "norm2_all",          "d_shared_all",    "shared_out",      "d_shared_own",  "scratch_shared"};

const Words& words_of(DensePart part) {
  return part == DensePart::gelu ? kGelu : part == DensePart::swiglu ? kSwiglu : kShared;
}

}  // namespace

VisitBuilder::DenseRows VisitBuilder::dense_rows(DensePart part) const {
  if (part == DensePart::shared && z_.nano) return {z_.moe_sequence, z_.moe_tokens, false};
  return {z_.sequence, z_.tokens, z_.tp > 1};
}
std::int64_t VisitBuilder::dense_width(DensePart part) const {
  return part == DensePart::shared ? z_.shared_ffn : z_.ffn;
}
std::int64_t VisitBuilder::dense_in_width(DensePart part) const {
  return part == DensePart::gelu ? z_.ffn : 2 * dense_width(part);
}

Kernel VisitBuilder::activation(DensePart part, bool forward) const {
  if (part == DensePart::gelu)
    return kernel(forward ? KernelKind::gelu_fwd : KernelKind::gelu_bwd_input, {z_.tokens * z_.ffn},
                  d_.scenario.model.gelu == Gelu::tanh ? kTanh : kErf);
  return kernel(forward ? KernelKind::swiglu_fwd : KernelKind::swiglu_bwd_input,
                {dense_rows(part).tokens, dense_width(part)});
}

Ref VisitBuilder::mlp_forward(int layer, Ref x, SavedMlp& s) {
  s.norm_stat = statistic("norm2_stat", BufferClass::saved_input, norm_stat(), layer);
  s.norm_out = kept("norm2_out", BufferClass::saved_weight, own_, layer);
  norm_forward(x, layer_name(layer, "norm2"), s.norm_out, s.norm_stat);
  return dense_forward(layer, gpt_ ? DensePart::gelu : DensePart::swiglu, s.norm_out, s.inner);
}

Ref VisitBuilder::mlp_backward(int layer, Ref dy, const SavedMlp& s) {
  return dense_backward(layer, gpt_ ? DensePart::gelu : DensePart::swiglu, dy, s.norm_out, s.inner);
}

Ref VisitBuilder::dense_forward(int layer, DensePart part, Ref x, SavedDense& s) {
  const Words& w = words_of(part);
  const std::int64_t width = dense_width(part), wide_in = dense_in_width(part);
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const DenseRows r = dense_rows(part);
  const auto rows = [&](std::int64_t n) { return Shape{r.sequence, z_.micro_batch, n}; };
  const Ref in = r.cut ? entered(w.tag_in, x, w.all, BufferClass::activation, layer) : x;
  s.in = kept(w.in_buffer, BufferClass::saved_input, rows(wide_in), layer);
  call(linear(KernelKind::linear_fwd, z_.hidden, wide_in, true, r.tokens), weighted(in, at(w.in)),
       {s.in});
  s.out = kept(w.out_buffer, BufferClass::saved_weight, rows(width), layer);
  call(activation(part, true), {s.in}, {s.out});
  if (again_) return {};  // nothing of the backward reads the output
  const Ref partial = moving(w.partial, rows(z_.hidden), layer);
  call(linear(KernelKind::linear_fwd, width, z_.hidden, false, r.tokens),
       {s.out, param(at(w.out) + ".weight")}, {partial});
  if (!r.cut) return partial;
  return left(w.tag_out, partial, w.own, BufferClass::activation, layer);
}

Ref VisitBuilder::dense_backward(int layer, DensePart part, Ref dy, Ref x, const SavedDense& s) {
  const Words& w = words_of(part);
  const std::int64_t width = dense_width(part), wide_in = dense_in_width(part);
  const auto at = [&](const char* rest) { return layer_name(layer, rest); };
  const DenseRows r = dense_rows(part);
  const auto wide_rows = [&](std::int64_t n) { return Shape{r.sequence, z_.micro_batch, n}; };
  const Ref d_all =
      r.cut ? entered(w.tag_out, dy, w.d_all, BufferClass::grad_activation, layer) : dy;
  const Ref in = r.cut ? entered(w.tag_in, x, w.all, BufferClass::activation, layer) : x;
  const Ref d_inner = gradient(w.d_out, wide_rows(width), layer);
  call(linear(KernelKind::linear_bwd_input, width, z_.hidden, false, r.tokens),
       {d_all, param(at(w.out) + ".weight")}, {d_inner});
  const Ref d_in = gradient(w.d_in, wide_rows(wide_in), layer);
  call(activation(part, false), {d_inner, s.in}, {d_in});
  Ref dx;
  if (r.cut && reduces_by_tensor()) {
    dx = gate_and_up_dx(layer, d_in, at(w.in) + ".weight");
  } else {
    const Ref partial = gradient(w.dx, wide_rows(z_.hidden), layer);
    call(linear(KernelKind::linear_bwd_input, z_.hidden, wide_in, false, r.tokens),
         {d_in, param(at(w.in) + ".weight")}, {partial});
    dx = r.cut ? left(w.tag_in, partial, w.d_own, BufferClass::grad_activation, layer) : partial;
  }
  // for weights
  cut(layer);
  const auto product = scratch(w.product, {wide_in, z_.hidden}, layer);
  call(linear(KernelKind::linear_bwd_weight, width, z_.hidden, false, r.tokens), {d_all, s.out},
       {grad(at(w.out) + ".weight")}, product);
  if (gpt_) call(rows(KernelKind::bias_residual_bwd_weight), {dy}, {grad(at("mlp.fc2.bias"))});
  call(linear(KernelKind::linear_bwd_weight, z_.hidden, wide_in, true, r.tokens), {d_in, in},
       weight_gradients(at(w.in)), product);
  return dx;
}

}  // namespace tandem::lower
