// The core of attention, between q, k, v and the output projection. One call where a rank holds
// whole sequences; with context parallelism a ring over cp (models.md 4.7; arXiv 2310.01889):
// queries stay, blocks of keys and values go from member to member, and every member attends to
// each as it comes.
//
//   forward    pack | k,v shift 1 beside the own block | shift 2 beside block 1 | ... | block c-1
//   backward   pack | of each of c blocks: k,v shift beside it, the block, dk,dv shift behind it |
//              unpack: after c shifts the gradient of the own block is home
//   Memory: of each ring two blocks, one in use and one that arrives, in turn.
//   Slices     the queries of slice j attend to the own keys, then to those of slices 0 .. j-1,
//   which
//              lie where their visits left them: in qkv, or, where that is made again, packed.
//              Backward the other way: slice j adds to the gradients of k and v of slices 0 .. j-1,
//              in the main type, and takes what slices behind it have added to its own. The last
//              slice comes first and writes them.
//   Sent by a member for each attention: n * kv_block * w in each of c - 1 steps forward; backward
//   the same again, and n * kv_block in the main type in each of c steps.
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

namespace {

Kernel block_kernel(const Kernel& core, KernelKind kind, std::int64_t step = 0) {
  Kernel k = core;
  k.kind = kind;
  k.flags = 0;
  k.dims[kRingStep] = step;
  if (step > 0) k.coords.add(Axis::cp);
  return k;
}

// `step` 0: the own slice; `fused`: the block is the qkv of its slice.
Kernel slice_kernel(const Kernel& core, KernelKind kind, std::int64_t step, bool fused) {
  Kernel k = block_kernel(core, kind);
  k.dims[kRingStep] = step;
  k.flags = kSlices | (fused ? std::uint32_t{kFused} : 0);
  return k;
}

}  // namespace

void VisitBuilder::core_forward(int layer, const Kernel& core, SavedAttention& s) {
  if (z_.cp > 1) return ring_forward(layer, core, s);
  if (z_.slices > 1) return slices_forward(layer, core, s);
  s.core = attention_core(layer);
  s.out = kept("attn_out", BufferClass::saved_weight, wide(z_.attention), layer);
  call(core, {s.qkv}, {s.out, s.core});
}

Ref VisitBuilder::core_backward(int layer, const Kernel& core, Ref d_out, const SavedAttention& s,
                                Ref kept) {
  const Ref d_qkv = gradient("d_qkv", wide(z_.qkv), layer);
  if (z_.cp > 1)
    ring_backward(layer, core, d_out, s, d_qkv);
  else if (z_.slices > 1)
    slices_backward(layer, core, d_out, s, d_qkv);
  else
    call(core, {d_out, s.qkv, kept, s.out}, {d_qkv});
  return d_qkv;
}

void VisitBuilder::slices_forward(int layer, const Kernel& core, SavedAttention& s) {
  if (recomputes(layer) && !d_.evaluation && !again_) {
    s.kv = slot("kv", BufferClass::saved_input, t_.compute, wide(z_.kv_block), layer);
    v_.slots.back().for_later_slices = true;
    if (slice_ + 1 < z_.slices) call(block_kernel(core, KernelKind::kv_pack), {s.qkv}, {s.kv});
  }
  s.core = attention_core(layer);
  s.out = kept("attn_out", BufferClass::saved_weight, wide(z_.attention), layer);
  call(core, {s.qkv}, {s.out, s.core});
  const Kernel k = slice_kernel(core, KernelKind::attention_block_fwd, 1, s.kv.none());
  for (int i = 0; i < slice_; ++i)
    call(k, {s.qkv, of_slice(s.kv.none() ? s.qkv : s.kv, i), s.out, s.core}, {s.out, s.core});
}

void VisitBuilder::slices_backward(int layer, const Kernel& core, Ref d_out,
                                   const SavedAttention& s, Ref d_qkv) {
  const Ref carried = slot("d_kv", BufferClass::grad_activation, t_.main, wide(z_.kv_block), layer);
  for (int i = slice_; i >= 0; --i) {
    const bool own = i == slice_, fused = own || s.kv.none();
    Ref dq = d_qkv, d_kv = of_slice(carried, i);
    dq.adds = !own;
    d_kv.adds = slice_ + 1 < z_.slices;
    call(slice_kernel(core, KernelKind::attention_block_bwd_input, own ? 0 : 1, fused),
         {d_out, s.qkv, of_slice(fused ? s.qkv : s.kv, i), s.core, s.out}, {dq, d_kv});
  }
  call(block_kernel(core, KernelKind::kv_unpack), {carried, d_qkv}, {d_qkv});
}

std::array<Ref, 2> VisitBuilder::ring_blocks(const std::array<const char*, 2>& names, DType dtype,
                                             int layer) {
  const Ref first = slot(names[0], BufferClass::comm, dtype, wide(z_.kv_block), layer);
  return {first, slot(names[1], BufferClass::comm, dtype, wide(z_.kv_block), layer)};
}

void VisitBuilder::shift(Ref to, Ref from, int layer) {
  communicate(OpKind::shift, "cp.kv", to, from, layer);
  ops_->back().comm = "cp";
  cut(layer);
}

// Block i lies in blocks[i % 2].
void VisitBuilder::ring_forward(int layer, const Kernel& core, SavedAttention& s) {
  const std::array<Ref, 2> blocks = ring_blocks({"kv_even", "kv_odd"}, t_.compute, layer);
  call(block_kernel(core, KernelKind::kv_pack), {s.qkv}, {blocks[0]});
  shift(blocks[1], blocks[0], layer);
  s.core = attention_core(layer);
  s.out = kept("attn_out", BufferClass::saved_weight, wide(z_.attention), layer);
  call(core, {s.qkv}, {s.out, s.core});
  for (std::size_t i = 1; i < static_cast<std::size_t>(z_.cp); ++i) {
    const Ref block = blocks[i % 2];
    const bool is_last = static_cast<std::int64_t>(i) + 1 == z_.cp;
    if (is_last)
      cut(layer);
    else
      shift(blocks[(i + 1) % 2], block, layer);
    call(block_kernel(core, KernelKind::attention_block_fwd, static_cast<std::int64_t>(i)),
         {s.qkv, block, s.out, s.core}, {s.out, s.core});
  }
}

void VisitBuilder::ring_backward(int layer, const Kernel& core, Ref d_out, const SavedAttention& s,
                                 Ref d_qkv) {
  const std::array<Ref, 2> blocks = ring_blocks({"kv_even", "kv_odd"}, t_.compute, layer);
  const std::array<Ref, 2> gradients = ring_blocks({"d_kv_even", "d_kv_odd"}, t_.main, layer);
  call(block_kernel(core, KernelKind::kv_pack), {s.qkv}, {blocks[0]});
  const auto members = static_cast<std::size_t>(z_.cp);
  for (std::size_t i = 0; i < members; ++i) {
    const Ref block = blocks[i % 2];
    if (i + 1 < members) shift(blocks[(i + 1) % 2], block, layer);
    Ref dq = d_qkv, d_kv = gradients[i % 2];
    dq.adds = d_kv.adds = i > 0;
    call(block_kernel(core, KernelKind::attention_block_bwd_input, static_cast<std::int64_t>(i)),
         {d_out, s.qkv, block, s.core, s.out}, {dq, d_kv});
    shift(gradients[(i + 1) % 2], gradients[i % 2], layer);
  }
  call(block_kernel(core, KernelKind::kv_unpack), {gradients[members % 2], d_qkv}, {d_qkv});
}

}  // namespace tandem::lower
