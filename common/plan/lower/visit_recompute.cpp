// Recomputation: what a layer's backward reads is not kept since the forward but made again right
// before it, by ops of phase R (models.md 6 and 8a; arXiv 1604.06174, 2205.05198).
//
//   full        a layer keeps its input, and where it has experts their choice and its counts. R
//   runs
//               its forward up to the last value that the backward reads: reductions and exchanges
//               inside are issued again, the counts, the balance losses and the layer's last
//               product with its reduction are not
//   layers: k   the same for the first k layers of each stage
//   selective   the core of attention: materialised probabilities are made again, and all else is
//               kept; flash attention keeps none
//   The gradients do not change: R runs the same kernels on the same values. R needs nothing of the
//   stage behind it, so it can run while the gradient of the output is on its way.
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

bool VisitBuilder::recomputes(int layer) const {
  const TrainingSpec& t = d_.scenario.training;
  return recomputed_layer(t, layer - v_.first_layer);
}

bool VisitBuilder::recomputes_core() const {
  return d_.scenario.training.recompute == Recompute::selective && !flash();
}

void VisitBuilder::layer_again(int layer) {
  again_ = true;
  cut(layer);
  SavedLayer& s = saved_[static_cast<std::size_t>(layer - v_.first_layer)];
  halves_forward(layer, s.input, s);
  again_ = false;
  cut(layer);
}

Ref VisitBuilder::core_again(int layer, Kernel core, const SavedAttention& s) {
  if (!recomputes_core()) return s.core;
  again_ = true;
  cut(layer);
  const Ref probabilities = attention_core(layer);
  call(core, {s.qkv}, {moving("attn_out_again", wide(z_.attention), layer), probabilities});
  again_ = false;
  cut(layer);
  return probabilities;
}

}  // namespace tandem::lower
