// SHA-256 (FIPS 180-4) and HMAC (RFC 2104): plan ids, file hashes, rendezvous tokens. Uses the SHA
// instructions of x86-64 where the machine has them: a run's files are hashed when they are
// written. One object is used by one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

using Sha256Digest = std::array<std::uint8_t, 32>;

class Sha256 {
 public:
  // `portable`: only the plain code, the twin that tests compare with.
  explicit Sha256(bool portable = false);
  void update(std::string_view bytes);
  // Ends the message; the object must not be used afterwards.
  [[nodiscard]] Sha256Digest finish();

 private:
  void compress(const std::uint8_t* block);
  bool portable_;
  std::array<std::uint32_t, 8> state_;
  std::array<std::uint8_t, 64> pending_{};
  std::size_t num_pending_ = 0;
  std::uint64_t num_bytes_ = 0;
};

[[nodiscard]] Sha256Digest sha256(std::string_view bytes);
// 64 lower-case hexadecimal digits.
[[nodiscard]] std::string sha256_hex(std::string_view bytes);
[[nodiscard]] std::string to_hex(const Sha256Digest& digest);

[[nodiscard]] Sha256Digest hmac_sha256(std::string_view key, std::string_view message);

// Compares every byte whatever it finds, so that time tells a stranger nothing about a token.
[[nodiscard]] bool equal_in_constant_time(std::string_view a, std::string_view b);

}  // namespace tandem
