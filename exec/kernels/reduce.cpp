// Sums of squares, the clip coefficient and the metrics of a step. Each element counts once: only
// the owner of a value (coordinate 0 on the axes over which it is replicated) adds it.
#include <cmath>

#include "exec/kernels/loops.h"

namespace tandem::exec {

Prepared bind_sum_squares(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const bool owner = call.context->owns(call.kernel.owner), accumulate = call.accumulate[0];
    std::vector<View> gradients;
    if (owner) gradients = call.inputs;
    double* out = call.outputs[0].as<double>();
    return [=, gradients = std::move(gradients)] {
      double sum = 0;
      for (const View& v : gradients) {
        const T* g = v.as<T>();
        sum += lane_sum<double>(v.shape.elements(), [g](std::int64_t i) {
          return static_cast<double>(g[i]) * static_cast<double>(g[i]);
        });
      }
      *out = (accumulate ? *out : 0.0) + sum;
    };
  });
}

Prepared bind_clip_coef(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const double* norm_sq = call.inputs[0].as<double>();
    T* coef = call.outputs[0].as<T>();
    const std::optional<double> max_norm = call.kernel.real;
    return [=] {
      double c = 1;
      if (max_norm) c = std::min(1.0, *max_norm / (std::sqrt(*norm_sq) + 1e-6));
      *coef = static_cast<T>(c);
    };
  });
}

Prepared bind_metrics_pack(const KernelCall& call) {
  const Kernel& k = call.kernel;
  const std::int64_t values = k.dims[0];
  double* out = call.outputs[0].as<double>();
  const bool accumulate = call.accumulate[0], owner = call.context->owns(k.owner);
  // Inputs come in the order of these flags; null where the kernel does not have one.
  std::size_t input = 0;
  const auto taken = [&](KernelFlag flag) -> const double* {
    return (k.flags & flag) ? call.inputs[input++].as<double>() : nullptr;
  };
  const double* norm_sq = taken(kHasNorm);
  const double* loss = taken(kHasLoss);
  const double* balance = taken(kHasBalance);
  const double* dropped = taken(kHasDropped);
  // Ranks that have the loss of their own positions count those.
  double tokens = static_cast<double>(call.context->tokens_per_step);
  for (const Axis axis : {Axis::tp, Axis::cp})
    if ((k.flags & kPositions) != 0 && k.coords.has(axis))
      tokens /= call.context->size[static_cast<std::size_t>(axis)];
  return [=] {
    if (!accumulate)
      for (std::int64_t i = 0; i < values; ++i) out[i] = 0;
    if (!owner) return;
    if (norm_sq) {
      out[kMetricNormSquared] += *norm_sq;
      out[kMetricNonFinite] += std::isfinite(*norm_sq) ? 0 : 1;
    }
    if (loss) {
      out[kMetricLoss] += *loss;
      out[kMetricTokens] += tokens;
    }
    if (balance) out[kMetricBalance] += *balance;
    if (dropped) out[kMetricDropped] += *dropped;
  };
}

}  // namespace tandem::exec
