// Randomness is a pure function of (seed, name, index): counter-based Philox4x32-10.
//   Source  Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3 (SC 2011).
// Goldens: models.md 2.1 and tests/common/rng_test.cpp. Everything here is pure and thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace tandem {

using PhiloxWords = std::array<std::uint32_t, 4>;

[[nodiscard]] PhiloxWords philox4x32(PhiloxWords counter, std::array<std::uint32_t, 2> key);

// FNV-1a, 64 bits: the name part of a stream's counter.
[[nodiscard]] constexpr std::uint64_t fnv1a64(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (char c : text) {
    h ^= static_cast<unsigned char>(c);
    h *= 0x100000001b3ULL;
  }
  return h;
}

// Four standard normals (Box-Muller in fp64) for elements 4q..4q+3 of the tensor `name_hash`:
// counter (q low, q high, name low, name high), key (seed low, seed high). models.md 2.1.
[[nodiscard]] std::array<double, 4> philox_normals(std::uint64_t seed, std::uint64_t name_hash,
                                                   std::uint64_t q);

}  // namespace tandem
