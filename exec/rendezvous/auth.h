// Who may join a run: the one who holds its token, 32 random bytes. Challenge and response in both
// directions, so that the token is never sent, a replay fails, and a rank does not trust a stranger
// on a reused port. HMAC-SHA256 (RFC 2104). What this does not give: encryption.
//
//   proof(role) = HMAC-SHA256(token, role | 0 | client nonce | server nonce)
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "exec/rendezvous/protocol.h"

namespace tandem::exec {

// Overwritten when it goes, so that no copy waits for a core file.
class Token {
 public:
  static constexpr std::size_t kBytes = 32;
  Token() = default;
  explicit Token(const std::array<std::uint8_t, kBytes>& bytes) : bytes_(bytes) {}
  Token(const Token&) = default;
  Token& operator=(const Token&) = default;
  ~Token();
  [[nodiscard]] std::string_view bytes() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }

 private:
  std::array<std::uint8_t, kBytes> bytes_{};
};

// From the system's random numbers. E-RDZV-006 where it has none.
[[nodiscard]] Result<Token> random_token();
[[nodiscard]] Nonce random_nonce();

// Reads a token that somebody writes to `fd` (the launcher's pipe) and closes it. Waits at most
// `timeout_s`. E-RDZV-006.
[[nodiscard]] Result<Token> read_token(int fd, double timeout_s);

// Across hosts: a file of 64 hexadecimal digits. Refused (E-RDZV-006) unless it is a regular file
// that only its owner can read.
[[nodiscard]] Result<Token> read_token_file(const std::string& path);
[[nodiscard]] Status write_token_file(const std::string& path, const Token& token);

enum class Role { client, server };
[[nodiscard]] Proof prove(const Token& token, Role role, const Nonce& client, const Nonce& server);
// In constant time.
[[nodiscard]] bool check_proof(const Proof& given, const Token& token, Role role,
                               const Nonce& client, const Nonce& server);

}  // namespace tandem::exec
