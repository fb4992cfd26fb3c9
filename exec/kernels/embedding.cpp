// Vocabulary-parallel embedding: this rank holds rows [r*rows, (r+1)*rows) of the table, r its tp
// coordinate where the kernel reads it; a token of another rank's rows gives 0.
#include <algorithm>

#include "exec/kernels/loops.h"
#include "exec/kernels/positions.h"

namespace tandem::exec {
namespace {

// Calls f(row of the activation, local row of the table or -1) for every token of a batch
// i64[b, S+1] that the kernel reads; columns 0..S-1 are the inputs.
struct Tokens {
  const std::int64_t* batch;
  std::int64_t num_sequences, length, first, rows;
  std::vector<std::int64_t> positions;
  template <class F>
  void for_each(F&& f) const {
    std::int64_t row = 0;
    for (const std::int64_t s : positions)
      for (std::int64_t b = 0; b < num_sequences; ++b) {
        const std::int64_t local = batch[b * (length + 1) + s] - first;
        f(row++, local >= 0 && local < rows ? local : -1);
      }
  }
};

Tokens tokens_of(const KernelCall& call, const View& batch) {
  const Kernel& k = call.kernel;
  const std::int64_t rows = k.dims[1];
  const std::int64_t first = cuts_vocabulary(k) ? call.context->at(Axis::tp) * rows : 0;
  return {batch.as<std::int64_t>(),
          batch.shape[0],
          batch.shape[1] - 1,
          first,
          rows,
          positions_of(call, k.dims[0] / batch.shape[0])};
}

}  // namespace

Prepared bind_embed_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Tokens tokens = tokens_of(call, call.inputs[0]);
    const std::int64_t width = call.kernel.dims[2];
    const T* weight = call.inputs[1].as<T>();
    T* x = call.outputs[0].as<T>();
    return [=] {
      tokens.for_each([=](std::int64_t row, std::int64_t local) {
        if (local < 0)
          std::fill_n(x + row * width, width, T(0));
        else
          std::copy_n(weight + local * width, width, x + row * width);
      });
    };
  });
}

Prepared bind_embed_bwd_weight(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Tokens tokens = tokens_of(call, call.inputs[1]);
    const std::int64_t width = call.kernel.dims[2];
    const T* dy = call.inputs[0].as<T>();
    T* dweight = call.outputs[0].as<T>();
    const bool accumulate = call.accumulate[0];
    return [=] {
      if (!accumulate) std::fill_n(dweight, tokens.rows * width, T(0));
      tokens.for_each([=](std::int64_t row, std::int64_t local) {
        if (local < 0) return;
        for (std::int64_t c = 0; c < width; ++c) dweight[local * width + c] += dy[row * width + c];
      });
    };
  });
}

}  // namespace tandem::exec
