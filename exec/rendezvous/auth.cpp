#include "exec/rendezvous/auth.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "common/base/sha256.h"
#include "common/base/text.h"

namespace tandem::exec {
namespace {

Error bad_token(std::string found, Location where = {}) {
  return make_error(Failure::usage, "E-RDZV-006", "the token of the run cannot be used",
                    std::move(found), "32 random bytes that only the run's owner can read",
                    "let the launcher make it; a token file needs mode 0600", std::move(where));
}

bool fill_random(std::uint8_t* out, std::size_t count) {
  for (std::size_t done = 0; done < count;) {
    const ssize_t got = ::getrandom(out + done, count - done, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<std::size_t>(got);
  }
  return true;
}

std::string_view view(const std::array<std::uint8_t, 32>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

Token::~Token() { ::explicit_bzero(bytes_.data(), bytes_.size()); }

Result<Token> random_token() {
  std::array<std::uint8_t, Token::kBytes> bytes{};
  if (!fill_random(bytes.data(), bytes.size())) return bad_token(std::strerror(errno));
  return Token(bytes);
}

Nonce random_nonce() {
  Nonce out{};
  const bool filled = fill_random(out.data(), out.size());
  TANDEM_CHECK(filled, "getrandom: {}", std::strerror(errno));
  return out;
}

Result<Token> read_token(int fd, double timeout_s) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(timeout_s);
  std::array<std::uint8_t, Token::kBytes> bytes{};
  std::size_t have = 0;
  std::string fault;
  while (have < bytes.size() && fault.empty()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    pollfd p{fd, POLLIN, 0};
    const int ready = left.count() > 0 ? ::poll(&p, 1, static_cast<int>(left.count())) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      fault = ready == 0 ? fmt::format("none within {} s", timeout_s) : std::strerror(errno);
      break;
    }
    const ssize_t got = ::read(fd, bytes.data() + have, bytes.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      fault = got == 0 ? fmt::format("{} bytes", have) : std::strerror(errno);
    else
      have += static_cast<std::size_t>(got);
  }
  ::close(fd);
  if (!fault.empty()) return bad_token(fault);
  Token token(bytes);
  ::explicit_bzero(bytes.data(), bytes.size());
  return token;
}

Result<Token> read_token_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return bad_token(std::strerror(errno), {path});
  struct stat info {};
  std::array<char, 2 * Token::kBytes + 2> text{};
  const bool known = ::fstat(fd, &info) == 0;
  const ssize_t got = known && S_ISREG(info.st_mode) ? ::read(fd, text.data(), text.size()) : -1;
  ::close(fd);
  if (!known || !S_ISREG(info.st_mode)) return bad_token("not a regular file", {path});
  if ((info.st_mode & 077) != 0)
    return bad_token(fmt::format("mode {:04o}: others can read it", info.st_mode & 07777), {path});
  if (info.st_uid != ::geteuid()) return bad_token("it belongs to another user", {path});
  std::string_view digits =
      trim(std::string_view(text.data(), got < 0 ? 0 : static_cast<std::size_t>(got)));
  std::array<std::uint8_t, Token::kBytes> bytes{};
  bool good = digits.size() == 2 * Token::kBytes;
  for (std::size_t i = 0; good && i < bytes.size(); ++i) {
    const int high = hex_digit(digits[2 * i]), low = hex_digit(digits[2 * i + 1]);
    good = high >= 0 && low >= 0;
    bytes[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  Token token(bytes);
  ::explicit_bzero(bytes.data(), bytes.size());
  ::explicit_bzero(text.data(), text.size());
  if (!good) return bad_token("not 64 hexadecimal digits", {path});
  return token;
}

Status write_token_file(const std::string& path, const Token& token) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return bad_token(std::strerror(errno), {path});
  std::string text;
  for (char c : token.bytes()) text += fmt::format("{:02x}", static_cast<std::uint8_t>(c));
  text += '\n';
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const bool closed = ::close(fd) == 0;
  ::explicit_bzero(text.data(), text.size());
  if (written && closed) return Ok{};
  ::unlink(path.c_str());
  return bad_token("it cannot be written", {path});
}

Proof prove(const Token& token, Role role, const Nonce& client, const Nonce& server) {
  std::string message = role == Role::client ? "tandem control client" : "tandem control server";
  message += '\0';
  message += view(client);
  message += view(server);
  return hmac_sha256(token.bytes(), message);
}

bool check_proof(const Proof& given, const Token& token, Role role, const Nonce& client,
                 const Nonce& server) {
  const Proof expected = prove(token, role, client, server);
  return equal_in_constant_time(view(given), view(expected));
}

}  // namespace tandem::exec
