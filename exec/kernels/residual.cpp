// Residual adds, biases after a reduction, positions, and their gradients: one pass each.
#include <algorithm>
#include <cstring>

#include "exec/kernels/loops.h"
#include "exec/kernels/positions.h"

namespace tandem::exec {

Prepared bind_pos_add_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t seq = call.kernel.dims[0], batch = call.kernel.dims[1],
                       width = call.kernel.dims[2];
    const T *x = call.inputs[0].as<T>(), *pos = call.inputs[1].as<T>();
    T* y = call.outputs[0].as<T>();
    return [=, positions = positions_of(call, seq)] {
      for (std::int64_t s = 0; s < seq; ++s) {
        const T* at = pos + positions[static_cast<std::size_t>(s)] * width;
        for (std::int64_t b = 0; b < batch; ++b) {
          const std::int64_t row = (s * batch + b) * width;
          for (std::int64_t c = 0; c < width; ++c) y[row + c] = x[row + c] + at[c];
        }
      }
    };
  });
}

Prepared bind_bias_residual_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], width = call.kernel.dims[1];
    const T *x = call.inputs[0].as<T>(), *bias = call.inputs[1].as<T>(),
            *residual = call.inputs[2].as<T>();
    T* y = call.outputs[0].as<T>();
    return [=] {
      for (std::int64_t r = 0; r < tokens; ++r)
        for (std::int64_t c = 0; c < width; ++c)
          y[r * width + c] = x[r * width + c] + bias[c] + residual[r * width + c];
    };
  });
}

Prepared bind_residual_fwd(const KernelCall& call) { return bind_residual_bwd_input(call); }

Prepared bind_residual_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t n = call.kernel.dims[0] * call.kernel.dims[1];
    const T *a = call.inputs[0].as<T>(), *b = call.inputs[1].as<T>();
    T* out = call.outputs[0].as<T>();
    return [=] {
      for (std::int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
    };
  });
}

Prepared bind_bias_residual_bwd_weight(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], width = call.kernel.dims[1];
    const T* dy = call.inputs[0].as<T>();
    T* dbias = call.outputs[0].as<T>();
    const bool accumulate = call.accumulate[0];
    return [=] {
      column_sums(dbias, tokens, width, accumulate,
                  [=](std::int64_t r, std::int64_t c) { return dy[r * width + c]; });
    };
  });
}

Prepared bind_pos_add_bwd_weight(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t seq = call.kernel.dims[0], batch = call.kernel.dims[1],
                       width = call.kernel.dims[2];
    const T* dy = call.inputs[0].as<T>();
    T* dpos = call.outputs[0].as<T>();
    const std::int64_t table = call.outputs[0].shape.elements();
    const bool accumulate = call.accumulate[0];
    // Rows of one position are adjacent: a small column sum each. The plan's scratch is not needed.
    // Positions that are not here get 0: what a reduction left there is of the step before.
    return [=, positions = positions_of(call, seq)] {
      if (!accumulate) std::fill_n(dpos, table, T(0));
      for (std::int64_t s = 0; s < seq; ++s)
        column_sums(
            dpos + positions[static_cast<std::size_t>(s)] * width, batch, width, true,
            [=](std::int64_t b, std::int64_t c) { return dy[(s * batch + b) * width + c]; });
    };
  });
}

Prepared bind_own_rows_fwd(const KernelCall& call) {
  const std::int64_t elements = call.kernel.dims[0] * call.kernel.dims[1];
  const Bytes bytes = elements * size_of(call.inputs[0].dtype);
  std::int64_t part = 0;  // axes in the order of ids; in practice tp alone
  for (int a = 0; a < kNumAxes; ++a)
    if (const auto axis = static_cast<Axis>(a); call.kernel.coords.has(axis))
      part = part * call.context->size[static_cast<std::size_t>(a)] + call.context->at(axis);
  const std::byte* from = call.inputs[0].data + part * bytes;
  std::byte* to = call.outputs[0].data;
  return [=] { std::memcpy(to, from, static_cast<std::size_t>(bytes)); };
}

Prepared bind_grad_scale(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t n = call.kernel.dims[0];
    const T factor = static_cast<T>(call.kernel.real.value_or(1));
    const T* from = call.inputs[0].as<T>();
    T* to = call.outputs[0].as<T>();
    return [=] {
      for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] * factor;
    };
  });
}

Prepared bind_snapshot(const KernelCall& call) {
  const Bytes bytes = call.kernel.dims[0] * size_of(call.inputs[0].dtype);
  const std::byte* from = call.inputs[0].data;
  std::byte* to = call.outputs[0].data;
  return [=] { std::memcpy(to, from, static_cast<std::size_t>(bytes)); };
}

Prepared bind_grad_add(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t n = call.kernel.dims[0];
    const T *a = call.inputs[0].as<T>(), *b = call.inputs[1].as<T>();
    T* out = call.outputs[0].as<T>();
    return [=] {
      for (std::int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
    };
  });
}

}  // namespace tandem::exec
