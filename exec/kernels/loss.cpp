// Vocabulary-parallel cross-entropy in three steps, with an all-reduce between them
// (models.md 4.2):
//   ce_max   largest logit of each row; logits of columns that only pad the vocabulary become -inf
//   ce_sum   sum of exp(l - max), and the target's logit where this rank holds its column
//   ce_grad  dlogits = (softmax - onehot) / divisor in place; loss = sum(log(sum) + max - target)
//            / divisor, the same on every tp rank
#include <algorithm>
#include <cmath>
#include <limits>

#include "exec/kernels/exp.h"
#include "exec/kernels/loops.h"
#include "exec/kernels/positions.h"

namespace tandem::exec {
namespace {

// Where the target of each row lies.
struct Targets {
  const std::int64_t* labels;  // of position s of sequence b at b * stride + s
  std::int64_t num_sequences, stride, first, classes;
  std::vector<std::int64_t> positions;
  [[nodiscard]] std::int64_t local(std::int64_t row) const {
    const std::int64_t s = positions[static_cast<std::size_t>(row / num_sequences)],
                       b = row % num_sequences;
    const std::int64_t c = labels[b * stride + s] - first;
    return c >= 0 && c < classes ? c : -1;
  }
};

std::int64_t first_class(const KernelCall& call) {
  return cuts_vocabulary(call.kernel) ? call.context->at(Axis::tp) * call.kernel.dims[1] : 0;
}

Targets targets_of(const KernelCall& call, const View& batch) {
  // i64[b, S+1]: the label of position s is token s + 1; with `labels` i64[b, S].
  const std::int64_t skipped = (call.kernel.flags & kLabels) ? 0 : 1;
  return {batch.as<std::int64_t>() + skipped,
          batch.shape[0],
          batch.shape[1],
          first_class(call),
          call.kernel.dims[1],
          positions_of(call, call.kernel.dims[0] / batch.shape[0])};
}

}  // namespace

Prepared bind_ce_max(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], classes = call.kernel.dims[1];
    const std::int64_t valid =
        std::clamp<std::int64_t>(call.kernel.dims[2] - first_class(call), 0, classes);
    T* logits = call.inputs[0].as<T>();  // padding columns are written: they are -inf by definition
    T* max = call.outputs[0].as<T>();
    return [=] {
      constexpr T kNone = -std::numeric_limits<T>::infinity();
      for (std::int64_t r = 0; r < tokens; ++r) {
        T* row = logits + r * classes;
        std::fill(row + valid, row + classes, kNone);
        T best = kNone;
        for (std::int64_t c = 0; c < valid; ++c) best = row[c] > best ? row[c] : best;
        // A NaN must not be skipped: the step stops by its name.
        if (!(lane_sum<T>(valid, [row](std::int64_t c) { return row[c] * T(0); }) == T(0)))
          best = std::numeric_limits<T>::quiet_NaN();
        max[r] = best;
      }
    };
  });
}

Prepared bind_ce_sum(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], classes = call.kernel.dims[1];
    const Targets targets = targets_of(call, call.inputs[2]);
    const T *logits = call.inputs[0].as<T>(), *max = call.inputs[1].as<T>();
    T* sums = call.outputs[0].as<T>();
    return [=] {
      for (std::int64_t r = 0; r < tokens; ++r) {
        const T* row = logits + r * classes;
        const T top = max[r];
        sums[r] = lane_sum<T>(classes,
                              [row, top](std::int64_t c) { return exp_nonpositive(row[c] - top); });
        const std::int64_t target = targets.local(r);
        sums[tokens + r] = target < 0 ? T(0) : row[target];
      }
    };
  });
}

Prepared bind_ce_grad(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], classes = call.kernel.dims[1];
    const double divisor = static_cast<double>(call.kernel.dims[2]);
    const Targets targets = targets_of(call, call.inputs[3]);
    const T *logits = call.inputs[0].as<T>(), *max = call.inputs[1].as<T>(),
            *sums = call.inputs[2].as<T>();
    T* dlogits = call.outputs[0].as<T>();
    double* loss = call.outputs[1].as<double>();
    const bool accumulate = call.accumulate[1];
    return [=] {
      double total = 0;
      for (std::int64_t r = 0; r < tokens; ++r) {
        const T* row = logits + r * classes;
        T* out = dlogits + r * classes;
        const T top = max[r],
                scale = static_cast<T>(1.0 / (static_cast<double>(sums[r]) * divisor));
        for (std::int64_t c = 0; c < classes; ++c) out[c] = exp_nonpositive(row[c] - top) * scale;
        const std::int64_t target = targets.local(r);
        if (target >= 0) out[target] -= static_cast<T>(1.0 / divisor);
        total += std::log(static_cast<double>(sums[r])) + static_cast<double>(max[r]) -
                 static_cast<double>(sums[tokens + r]);
      }
      *loss = (accumulate ? *loss : 0.0) + total / divisor;
    };
  });
}

}  // namespace tandem::exec
