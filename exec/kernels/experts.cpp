// The local experts of a rank: rows sorted from (source, expert) to (expert, source), and one
// matrix product an expert. How many rows there are is known from `counts` only when the call runs;
// an expert, or all of them, may have none.
//   y = x W_e^T;  dx = dy W_e;  dW_e = dy^T x     over the rows of expert e
#include <ATen/ops/mm.h>

#include "exec/kernels/assignments.h"
#include "exec/kernels/aten.h"
#include "exec/kernels/gemm.h"
#include "exec/kernels/loops.h"

namespace tandem::exec {
namespace {

// Calls copy(first row by (source, expert), first row by (expert, source), rows) for each block.
template <class F>
void for_each_block(const Counts& counts, Bytes scratch, F&& copy) {
  Workspace space(scratch);
  auto* next = space.take<std::int64_t>(counts.sources);  // of each source: the next expert's rows
  std::int64_t begin = 0;
  for (std::int64_t s = 0; s < counts.sources; ++s) {
    next[s] = begin;
    for (std::int64_t e = 0; e < counts.experts; ++e) begin += counts.at(s, e);
  }
  std::int64_t sorted = 0;
  for (std::int64_t e = 0; e < counts.experts; ++e)
    for (std::int64_t s = 0; s < counts.sources; ++s) {
      const std::int64_t rows = counts.at(s, e);
      copy(next[s], sorted, rows);
      next[s] += rows;
      sorted += rows;
    }
}

Prepared bind_sort(const KernelCall& call, bool sort) {
  const auto& d = call.kernel.dims;
  const Counts counts{call.inputs[1].as<std::int32_t>(), d[2], d[3]};
  const std::int64_t row = d[1] * size_of(call.inputs[0].dtype);  // bytes
  const std::byte* from = call.inputs[0].data;
  std::byte* to = call.outputs[0].data;
  const Bytes scratch = hidden_scratch(call.kernel, call.types);
  return [=] {
    for_each_block(counts, scratch,
                   [=](std::int64_t by_source, std::int64_t by_expert, std::int64_t rows) {
                     const std::int64_t first = sort ? by_source : by_expert;
                     const std::int64_t second = sort ? by_expert : by_source;
                     std::copy_n(from + first * row, rows * row, to + second * row);
                   });
  };
}

// Rows [first, first + rows) of a matrix that is `width` wide.
View rows_of(const View& view, std::int64_t first, std::int64_t rows, std::int64_t width) {
  return {view.data + first * width * size_of(view.dtype), view.dtype, {rows, width}};
}
at::Tensor matrix(const View& v) { return tensor(v, {v.shape[0], v.shape[1]}); }

struct Experts {
  std::int64_t in, out;
  Counts counts;
  bool fast;
  Experts(const KernelCall& call, std::size_t counts_operand)
      : in(call.kernel.dims[1]),
        out(call.kernel.dims[2]),
        counts{call.inputs[counts_operand].as<std::int32_t>(), call.kernel.dims[4],
               call.kernel.dims[3]},
        fast(use_fast_gemm(call.types.compute)) {}
  // Calls f(expert, its first row, its rows).
  template <class F>
  void for_each(F&& f) const {
    std::int64_t first = 0;
    for (std::int64_t e = 0; e < counts.experts; ++e) {
      const std::int64_t rows = counts.rows_of(e);
      f(e, first, rows);
      first += rows;
    }
  }
};

}  // namespace

Prepared bind_expert_sort(const KernelCall& call) { return bind_sort(call, true); }
Prepared bind_expert_unsort(const KernelCall& call) { return bind_sort(call, false); }

Prepared bind_experts_linear_fwd(const KernelCall& call) {
  const Experts z(call, 2);
  return [=, x = call.inputs[0], weight = call.inputs[1], y = call.outputs[0]] {
    const c10::InferenceMode inference;
    z.for_each([&](std::int64_t e, std::int64_t first, std::int64_t rows) {
      if (rows == 0) return;
      const View a = rows_of(x, first, rows, z.in), b = rows_of(weight, e * z.out, z.out, z.in),
                 c = rows_of(y, first, rows, z.out);
      if (z.fast) return gemm_nt(rows, z.out, z.in, a.as<float>(), b.as<float>(), c.as<float>());
      at::Tensor product = matrix(c);
      at::mm_out(product, matrix(a), matrix(b).t());
    });
  };
}

Prepared bind_experts_linear_bwd_input(const KernelCall& call) {
  const Experts z(call, 2);
  return [=, dy = call.inputs[0], weight = call.inputs[1], dx = call.outputs[0]] {
    const c10::InferenceMode inference;
    z.for_each([&](std::int64_t e, std::int64_t first, std::int64_t rows) {
      if (rows == 0) return;
      const View a = rows_of(dy, first, rows, z.out), b = rows_of(weight, e * z.out, z.out, z.in),
                 c = rows_of(dx, first, rows, z.in);
      if (z.fast) return gemm_nn(rows, z.in, z.out, a.as<float>(), b.as<float>(), c.as<float>());
      at::Tensor product = matrix(c);
      at::mm_out(product, matrix(a), matrix(b));
    });
  };
}

Prepared bind_experts_linear_bwd_weight(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Experts z(call, 2);
    const bool accumulate = call.accumulate[0];
    const View scratch = accumulate ? call.scratch[0] : View{};
    return [=, dy = call.inputs[0], x = call.inputs[1], dweight = call.outputs[0]] {
      const c10::InferenceMode inference;
      z.for_each([&](std::int64_t e, std::int64_t first, std::int64_t rows) {
        const View mine = rows_of(dweight, e * z.out, z.out, z.in);
        if (rows == 0) {
          if (!accumulate) std::fill_n(mine.as<T>(), z.out * z.in, T(0));
          return;
        }
        const View a = rows_of(dy, first, rows, z.out), b = rows_of(x, first, rows, z.in),
                   c = accumulate ? rows_of(scratch, 0, z.out, z.in) : mine;
        if (z.fast) {
          gemm_tn(z.out, z.in, rows, a.as<float>(), b.as<float>(), c.as<float>());
        } else {
          at::Tensor product = matrix(c);
          at::mm_out(product, matrix(a).t(), matrix(b));
        }
        if (!accumulate) return;
        T* sum = mine.as<T>();
        const T* added = c.as<T>();
        for (std::int64_t i = 0; i < z.out * z.in; ++i) sum[i] += added[i];
      });
    };
  });
}

}  // namespace tandem::exec
