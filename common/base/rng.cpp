#include "common/base/rng.h"

#include <cmath>
#include <numbers>

namespace tandem {

PhiloxWords philox4x32(PhiloxWords c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c;
}

std::array<double, 4> philox_normals(std::uint64_t seed, std::uint64_t name_hash, std::uint64_t q) {
  const auto lo = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  const auto hi = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  const PhiloxWords x =
      philox4x32({lo(q), hi(q), lo(name_hash), hi(name_hash)}, {lo(seed), hi(seed)});
  const auto uniform = [](std::uint32_t w) { return (w + 0.5) * 0x1p-32; };
  std::array<double, 4> out{};
  for (int half = 0; half < 2; ++half) {
    const double radius = std::sqrt(-2.0 * std::log(uniform(x[half * 2])));
    const double angle = 2.0 * std::numbers::pi * uniform(x[half * 2 + 1]);
    out[half * 2] = radius * std::cos(angle);
    out[half * 2 + 1] = radius * std::sin(angle);
  }
  return out;
}

}  // namespace tandem
