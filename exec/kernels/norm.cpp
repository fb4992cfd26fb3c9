// Layer norm with biased variance; statistics are saved as mean and 1/sqrt(var + eps).
//   y = xh * weight + bias,  xh = (x - mean) * rstd
//   g = dy * weight;  dx = rstd * (g - mean(g) - xh * mean(g * xh))
//   dweight = sum dy * xh;  dbias = sum dy                              [over rows, ascending]
// RMS norm: rms.h.
#include <cmath>

#include "exec/kernels/loops.h"
#include "exec/kernels/rms.h"

namespace tandem::exec {
namespace {

template <class T>
void forward(const T* x, const T* weight, const T* bias, T* y, T* stat, std::int64_t tokens,
             std::int64_t width, T eps) {
  for (std::int64_t r = 0; r < tokens; ++r) {
    const T* row = x + r * width;
    T* out = y + r * width;
    const T mean = lane_sum<T>(width, [row](std::int64_t i) { return row[i]; }) / T(width);
    const T square = lane_sum<T>(width, [row, mean](std::int64_t i) {
      const T d = row[i] - mean;
      return d * d;
    });
    const T rstd = T(1) / std::sqrt(square / T(width) + eps);
    for (std::int64_t c = 0; c < width; ++c) out[c] = (row[c] - mean) * rstd * weight[c] + bias[c];
    stat[r] = mean;
    stat[tokens + r] = rstd;
  }
}

// `dx` may be `dy`.
template <class T>
void backward_rows(const T* dy, const T* x, const T* stat, const T* weight, T* dx,
                   std::int64_t tokens, std::int64_t width) {
  for (std::int64_t r = 0; r < tokens; ++r) {
    const T *g = dy + r * width, *row = x + r * width;
    T* out = dx + r * width;
    const T mean = stat[r], rstd = stat[tokens + r];
    const T sum = lane_sum<T>(width, [=](std::int64_t i) { return g[i] * weight[i]; });
    const T dot = lane_sum<T>(
        width, [=](std::int64_t i) { return g[i] * weight[i] * ((row[i] - mean) * rstd); });
    const T mean_g = sum / T(width), mean_gx = dot / T(width);
    for (std::int64_t c = 0; c < width; ++c)
      out[c] = rstd * (g[c] * weight[c] - mean_g - (row[c] - mean) * rstd * mean_gx);
  }
}

}  // namespace

Prepared bind_layernorm_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], width = call.kernel.dims[1];
    const T eps = static_cast<T>(call.kernel.real.value_or(1e-5));
    const T *x = call.inputs[0].as<T>(), *weight = call.inputs[1].as<T>(),
            *bias = call.inputs[2].as<T>();
    T *y = call.outputs[0].as<T>(), *stat = call.outputs[1].as<T>();
    return [=] { forward(x, weight, bias, y, stat, tokens, width, eps); };
  });
}

Prepared bind_layernorm_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], width = call.kernel.dims[1];
    const T *dy = call.inputs[0].as<T>(), *x = call.inputs[1].as<T>(),
            *stat = call.inputs[2].as<T>(), *weight = call.inputs[3].as<T>();
    T *dx = call.outputs[0].as<T>(), *dweight = call.outputs[1].as<T>(),
      *dbias = call.outputs[2].as<T>();
    const bool add_weight = call.accumulate[1], add_bias = call.accumulate[2];
    return [=] {
      // First the sums over rows: dx may overwrite dy.
      column_sums(dweight, tokens, width, add_weight, [=](std::int64_t r, std::int64_t c) {
        return dy[r * width + c] * ((x[r * width + c] - stat[r]) * stat[tokens + r]);
      });
      column_sums(dbias, tokens, width, add_bias,
                  [=](std::int64_t r, std::int64_t c) { return dy[r * width + c]; });
      backward_rows(dy, x, stat, weight, dx, tokens, width);
    };
  });
}

Prepared bind_rmsnorm_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], width = call.kernel.dims[1];
    const T eps = static_cast<T>(call.kernel.real.value_or(1e-5));
    const T *x = call.inputs[0].as<T>(), *weight = call.inputs[1].as<T>();
    T *y = call.outputs[0].as<T>(), *stat = call.outputs[1].as<T>();
    return [=] { rms_forward<T>({x, width}, weight, {y, width}, stat, tokens, width, eps); };
  });
}

Prepared bind_rmsnorm_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], width = call.kernel.dims[1];
    const T *dy = call.inputs[0].as<T>(), *x = call.inputs[1].as<T>(),
            *stat = call.inputs[2].as<T>(), *weight = call.inputs[3].as<T>();
    T *dx = call.outputs[0].as<T>(), *dweight = call.outputs[1].as<T>();
    const bool add_weight = call.accumulate[1];
    return [=] {
      rms_backward<T>({dy, width}, {x, width}, stat, weight, {dx, width}, dweight, add_weight,
                      tokens, width);
    };
  });
}

}  // namespace tandem::exec
