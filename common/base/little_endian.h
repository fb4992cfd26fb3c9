// Whole numbers as bytes, lowest first: what all binary files of Tandem hold (docs/formats).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// The lowest `bytes` (1 to 8) of `value`.
inline void put_little_endian(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}
[[nodiscard]] inline std::string little_endian(std::uint64_t value, int bytes) {
  std::string out;
  put_little_endian(out, value, bytes);
  return out;
}
// Of 1 to 8 bytes.
[[nodiscard]] inline std::uint64_t from_little_endian(std::string_view bytes) {
  std::uint64_t v = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i)
    v |= std::uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  return v;
}

}  // namespace tandem
