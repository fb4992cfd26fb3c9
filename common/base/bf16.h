// bfloat16 as a 16-bit word: the upper half of an fp32. Pure and thread-safe.
#pragma once

#include <bit>
#include <cstdint>

namespace tandem {

[[nodiscard]] constexpr float from_bf16(std::uint16_t word) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(word) << 16);
}

// To nearest, ties to even, as LibTorch casts; every NaN becomes the quiet one.
[[nodiscard]] constexpr std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

}  // namespace tandem
