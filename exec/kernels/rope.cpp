// Rotary positions (rotation.h) of the q and k parts of qkv[S, b, (heads + 2 kv_heads)*dh], in
// place; v stays.
#include <cstring>

#include "exec/kernels/loops.h"
#include "exec/kernels/positions.h"
#include "exec/kernels/rotation.h"

namespace tandem::exec {
namespace {

Prepared bind(const KernelCall& call, double direction) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Kernel& k = call.kernel;
    const std::int64_t batch = k.dims[0], seq = k.dims[2], width = k.dims[3];
    const std::int64_t rotated = k.dims[1] + kv_heads_of(k);  // heads of q and k
    const std::int64_t row = (rotated + kv_heads_of(k)) * width;
    Rotation<T> rotation(width, k.real.value_or(10000), direction);
    const T* from = call.inputs[0].as<T>();
    T* x = call.outputs[0].as<T>();
    const auto bytes = static_cast<std::size_t>(seq * batch * row) * sizeof(T);
    return [=, positions = positions_of(call, seq)]() mutable {
      if (x != from) std::memcpy(x, from, bytes);
      for (std::int64_t s = 0; s < seq; ++s) {
        rotation.move_to(positions[static_cast<std::size_t>(s)]);
        for (std::int64_t b = 0; b < batch; ++b)
          for (std::int64_t h = 0; h < rotated; ++h)
            rotation.turn(x + (s * batch + b) * row + h * width);
      }
    };
  });
}

}  // namespace

Prepared bind_rope_fwd(const KernelCall& call) { return bind(call, 1); }
Prepared bind_rope_bwd_input(const KernelCall& call) { return bind(call, -1); }

}  // namespace tandem::exec
