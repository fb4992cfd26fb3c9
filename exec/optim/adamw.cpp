// AdamW over a flat bucket (Loshchilov and Hutter, arXiv 1711.05101; models.md 5): elementwise, in
// the order of operations of the definition, no fused multiply-add. Padding holds zeros and keeps
// them: 0 * decay - step * 0 / (0 + eps) = 0.
#include <cmath>

#include "exec/kernels/loops.h"

namespace tandem::exec {
namespace {

template <class T>
void update(T* __restrict param, const T* __restrict grad, T* __restrict m, T* __restrict v,
            std::int64_t n, T coef, const AdamWStep& s, bool decays) {
  const T b1 = static_cast<T>(s.beta1), c1 = static_cast<T>(1 - s.beta1);
  const T b2 = static_cast<T>(s.beta2), c2 = static_cast<T>(1 - s.beta2);
  const T keep = decays ? static_cast<T>(s.decay) : T(1);
  const T step = static_cast<T>(s.step_size), root = static_cast<T>(s.root),
          eps = static_cast<T>(s.eps);
  for (std::int64_t i = 0; i < n; ++i) {
    const T g = coef * grad[i];
    m[i] = b1 * m[i] + c1 * g;
    v[i] = b2 * v[i] + c2 * g * g;
    param[i] = param[i] * keep - step * m[i] / (std::sqrt(v[i]) / root + eps);
  }
}

}  // namespace

Prepared bind_adamw(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t n = call.kernel.dims[0];
    // The inputs may be another buffer than the outputs only for `grad` and `coef`: in place.
    const T *grad = call.inputs[1].as<T>(), *coef = call.inputs[4].as<T>();
    T *param = call.outputs[0].as<T>(), *m = call.outputs[1].as<T>(), *v = call.outputs[2].as<T>();
    struct Piece {
      std::int64_t begin, end;
      bool decays;
    };
    std::vector<Piece> pieces;
    if (call.kernel.flags & kDecayAll) {
      pieces.push_back({0, n, true});
    } else {
      std::int64_t at = 0;
      if (call.kernel.flags & kDecay2d)
        for (const auto& [begin, end] : call.decay) {
          if (begin > at) pieces.push_back({at, begin, false});
          pieces.push_back({begin, end, true});
          at = end;
        }
      if (at < n) pieces.push_back({at, n, false});
    }
    const KernelContext* context = call.context;
    return [=, pieces = std::move(pieces)] {
      for (const Piece& p : pieces)
        update(param + p.begin, grad + p.begin, m + p.begin, v + p.begin, p.end - p.begin, *coef,
               context->adamw, p.decays);
    };
  });
}

}  // namespace tandem::exec
