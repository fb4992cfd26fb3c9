// CRC-32C (Castagnoli, RFC 3720 appendix B.4): the check sum of our binary files.
// Golden: crc32c("123456789") = e3069283. Pure and thread-safe.
#pragma once

#include <cstdint>
#include <string_view>

namespace tandem {

// `seed` is the sum of what came before: crc32c(b, crc32c(a)) == crc32c(a + b).
[[nodiscard]] std::uint32_t crc32c(std::string_view bytes, std::uint32_t seed = 0);

}  // namespace tandem
