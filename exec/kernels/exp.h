// The exponential of losses and routers: of what is not positive, as after the largest is taken
// off.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace tandem::exec {

// exp(x) for x <= 0. float: Cephes expf's polynomial (error about 1 ulp), because a call of the
// library's exp in each element costs as much as the matmul of a small head. Loops vectorise.
[[nodiscard]] inline double exp_nonpositive(double x) { return std::exp(x); }
[[nodiscard]] inline float exp_nonpositive(float x) {
  constexpr float kLowest = -87.0f;      // exp is below the smallest normal float soon after
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const float y = x < kLowest ? kLowest : x;
  const float shifted = y * 1.44269504f + kMagic;
  const float n = shifted - kMagic;
  const float r = (y - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float value = p * r * r + r + 1.0f;
  const auto exponent = (std::bit_cast<std::int32_t>(shifted) - 0x4B400000 + 127) << 23;
  const float scaled = value * std::bit_cast<float>(exponent);
  return x < kLowest ? 0.0f : scaled;
}

}  // namespace tandem::exec
