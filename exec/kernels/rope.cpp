// Rotary positions of the q and k parts of qkv[S, b, (heads + 2 kv_heads)*dh], in place; v stays.
//   angle(pos, i) = pos * base^(-2i/dh),  i < dh/2
//   y[i] = x[i] cos - x[i + dh/2] sin;  y[i + dh/2] = x[i + dh/2] cos + x[i] sin
// A rotation, so its backward is the rotation by the negative angle (arXiv 2104.09864). Angles in
// double, once for a position and all its heads; products in the plan's type. No table is kept: a
// position's angles cost little beside the attention over all positions before it.
#include <cmath>
#include <cstring>

#include "exec/kernels/loops.h"

namespace tandem::exec {
namespace {

struct Rotation {
  std::int64_t batch, seq, width;  // width: head_dim
  std::int64_t rotated, row;       // heads of q and k; elements of a token
  std::vector<double> rate;        // of each pair
  double sign;
  Rotation(const Kernel& k, double direction)
      : batch(k.dims[0]),
        seq(k.dims[2]),
        width(k.dims[3]),
        rotated(k.dims[1] + kv_heads_of(k)),
        row((k.dims[1] + 2 * kv_heads_of(k)) * k.dims[3]),
        sign(direction) {
    const double base = k.real.value_or(10000);
    for (std::int64_t i = 0; i < width / 2; ++i)
      rate.push_back(std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(width)));
  }
};

template <class T>
void rotate(T* x, const Rotation& r, std::vector<T>& cosines, std::vector<T>& sines) {
  const std::int64_t half = r.width / 2;
  for (std::int64_t s = 0; s < r.seq; ++s) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(s) * r.rate[static_cast<std::size_t>(i)];
      cosines[static_cast<std::size_t>(i)] = static_cast<T>(std::cos(angle));
      sines[static_cast<std::size_t>(i)] = static_cast<T>(r.sign * std::sin(angle));
    }
    const T *c = cosines.data(), *d = sines.data();
    for (std::int64_t b = 0; b < r.batch; ++b)
      for (std::int64_t h = 0; h < r.rotated; ++h) {
        T *first = x + (s * r.batch + b) * r.row + h * r.width, *second = first + half;
        for (std::int64_t i = 0; i < half; ++i) {
          const T u = first[i], v = second[i];
          first[i] = u * c[i] - v * d[i];
          second[i] = v * c[i] + u * d[i];
        }
      }
  }
}

Prepared bind(const KernelCall& call, double direction) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Rotation r(call.kernel, direction);
    const T* from = call.inputs[0].as<T>();
    T* x = call.outputs[0].as<T>();
    const auto bytes = static_cast<std::size_t>(r.seq * r.batch * r.row) * sizeof(T);
    std::vector<T> cosines(r.rate.size()), sines(r.rate.size());
    return [=]() mutable {
      if (x != from) std::memcpy(x, from, bytes);
      rotate(x, r, cosines, sines);
    };
  });
}

}  // namespace

Prepared bind_rope_fwd(const KernelCall& call) { return bind(call, 1); }
Prepared bind_rope_bwd_input(const KernelCall& call) { return bind(call, -1); }

}  // namespace tandem::exec
