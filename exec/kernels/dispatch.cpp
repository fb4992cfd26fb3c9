// From tokens to the rows that travel to experts and back (models.md 4.5). Rows lie by (expert,
// token, slot), without what was dropped; a token's slots are added in slot order.
//   dispatch  rows = x of their token              dx = sum over slots of drows
//   combine   y = sum over slots of weight row     drows = weight dy;  d weight = <dy, row>
//   weight_k  = scale s_k / (sum of s over all K slots [+ 1e-20: sigmoid]), dropped slots add 0
#include "exec/kernels/assignments.h"
#include "exec/kernels/loops.h"

namespace tandem::exec {
namespace {

struct Sizes {
  std::int64_t tokens, width, experts, top_k;
  Bytes scratch;
  explicit Sizes(const KernelCall& call)
      : tokens(call.kernel.dims[0]),
        width(call.kernel.dims[1]),
        experts(call.kernel.dims[2]),
        top_k(call.kernel.dims[3]),
        scratch(hidden_scratch(call.kernel, call.types)) {}
};

// out[i] = or += f(i): the first slot of a token writes.
template <class T, class F>
void write_or_add(T* out, std::int64_t n, bool write, F&& f) {
  if (write)
    for (std::int64_t i = 0; i < n; ++i) out[i] = f(i);
  else
    for (std::int64_t i = 0; i < n; ++i) out[i] += f(i);
}

}  // namespace

Prepared bind_dispatch_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Sizes z(call);
    const T* x = call.inputs[0].as<T>();
    const std::int64_t* choice = call.inputs[1].as<std::int64_t>();
    T* rows = call.outputs[0].as<T>();
    return [=] {
      Workspace space(z.scratch);
      std::int64_t* next = first_rows(space, choice, z.tokens * z.top_k, z.experts);
      for (std::int64_t t = 0; t < z.tokens; ++t)
        for (std::int64_t k = 0; k < z.top_k; ++k) {
          const std::int64_t chosen = choice[t * z.top_k + k];
          if (!is_dropped(chosen))
            std::copy_n(x + t * z.width, z.width, rows + next[chosen]++ * z.width);
        }
    };
  });
}

Prepared bind_dispatch_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Sizes z(call);
    const T* drows = call.inputs[0].as<T>();
    const std::int64_t* choice = call.inputs[1].as<std::int64_t>();
    T* dx = call.outputs[0].as<T>();
    return [=] {
      Workspace space(z.scratch);
      std::int64_t* next = first_rows(space, choice, z.tokens * z.top_k, z.experts);
      for (std::int64_t t = 0; t < z.tokens; ++t) {
        T* out = dx + t * z.width;
        bool first = true;
        for (std::int64_t k = 0; k < z.top_k; ++k) {
          const std::int64_t chosen = choice[t * z.top_k + k];
          if (is_dropped(chosen)) continue;
          const T* row = drows + next[chosen]++ * z.width;
          write_or_add(out, z.width, first, [row](std::int64_t i) { return row[i]; });
          first = false;
        }
        if (first) std::fill_n(out, z.width, T(0));
      }
    };
  });
}

Prepared bind_combine_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Sizes z(call);
    const T *rows = call.inputs[0].as<T>(), *scores = call.inputs[1].as<T>();
    const std::int64_t* choice = call.inputs[2].as<std::int64_t>();
    T* y = call.outputs[0].as<T>();
    const T scale = static_cast<T>(call.kernel.real.value_or(1));
    const std::uint32_t flags = call.kernel.flags;
    return [=] {
      Workspace space(z.scratch);
      std::int64_t* next = first_rows(space, choice, z.tokens * z.top_k, z.experts);
      for (std::int64_t t = 0; t < z.tokens; ++t) {
        const std::int64_t* slot = choice + t * z.top_k;
        const T* s = scores + t * z.experts;
        const T divisor = weight_divisor(s, slot, z.top_k, flags);
        T* out = y + t * z.width;
        bool first = true;
        for (std::int64_t k = 0; k < z.top_k; ++k) {
          if (is_dropped(slot[k])) continue;
          const T weight = scale * s[slot[k]] / divisor;
          const T* row = rows + next[slot[k]]++ * z.width;
          write_or_add(out, z.width, first, [=](std::int64_t i) { return weight * row[i]; });
          first = false;
        }
        if (first) std::fill_n(out, z.width, T(0));
      }
    };
  });
}

Prepared bind_combine_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Sizes z(call);
    const T *dy = call.inputs[0].as<T>(), *rows = call.inputs[1].as<T>(),
            *scores = call.inputs[2].as<T>();
    const std::int64_t* choice = call.inputs[3].as<std::int64_t>();
    T *drows = call.outputs[0].as<T>(), *dscores = call.outputs[1].as<T>();
    const T scale = static_cast<T>(call.kernel.real.value_or(1));
    const std::uint32_t flags = call.kernel.flags;
    return [=] {
      Workspace space(z.scratch);
      std::int64_t* next = first_rows(space, choice, z.tokens * z.top_k, z.experts);
      std::fill_n(dscores, z.tokens * z.experts, T(0));
      for (std::int64_t t = 0; t < z.tokens; ++t) {
        const std::int64_t* slot = choice + t * z.top_k;
        const T *s = scores + t * z.experts, *g = dy + t * z.width;
        T* ds = dscores + t * z.experts;
        const T divisor = weight_divisor(s, slot, z.top_k, flags);
        T mean = 0;  // sum of d weight_k s_k / divisor
        for (std::int64_t k = 0; k < z.top_k; ++k) {
          if (is_dropped(slot[k])) continue;  // d weight = 0
          const T weight = scale * s[slot[k]] / divisor;
          const std::int64_t at = next[slot[k]]++ * z.width;
          const T* row = rows + at;
          T* drow = drows + at;
          for (std::int64_t i = 0; i < z.width; ++i) drow[i] = weight * g[i];
          const T dot = lane_sum<T>(z.width, [=](std::int64_t i) { return g[i] * row[i]; });
          ds[slot[k]] = dot;
          mean += dot * s[slot[k]] / divisor;
        }
        for (std::int64_t k = 0; k < z.top_k; ++k) {
          T& d = ds[expert_of(slot[k])];
          d = scale * (d - mean) / divisor;
        }
      }
    };
  });
}

}  // namespace tandem::exec
