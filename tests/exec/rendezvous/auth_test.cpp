// Goal: only who knows the token proves it, for its role and these nonces alone; token files.
#include "exec/rendezvous/auth.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

using namespace tandem;
using namespace tandem::exec;
namespace fs = std::filesystem;

namespace {
Token token_of(std::uint8_t fill) {
  std::array<std::uint8_t, 32> bytes{};
  bytes.fill(fill);
  return Token(bytes);
}
Nonce nonce_of(std::uint8_t fill) {
  Nonce out{};
  out.fill(fill);
  return out;
}
}  // namespace

TEST_CASE("auth: a proof holds for its token, role and nonces only") {
  const Proof good = prove(token_of(1), Role::client, nonce_of(2), nonce_of(3));
  CHECK(check_proof(good, token_of(1), Role::client, nonce_of(2), nonce_of(3)));
  CHECK(!check_proof(good, token_of(9), Role::client, nonce_of(2), nonce_of(3)));
  CHECK(!check_proof(good, token_of(1), Role::server, nonce_of(2), nonce_of(3)));  // reflected
  CHECK(!check_proof(good, token_of(1), Role::client, nonce_of(2), nonce_of(4)));  // replayed
  CHECK(!check_proof(good, token_of(1), Role::client, nonce_of(3), nonce_of(2)));  // swapped
  for (std::size_t byte = 0; byte < good.size(); ++byte) {
    Proof other = good;
    other[byte] ^= 0x40;
    CHECK(!check_proof(other, token_of(1), Role::client, nonce_of(2), nonce_of(3)));
  }
}

TEST_CASE("auth: the worked proof of docs/formats/rendezvous.md") {
  // Python: hmac.new(bytes([1])*32, b"tandem control client\0" + bytes([2])*32 + bytes([3])*32,
  // "sha256").hexdigest()
  const Proof proof = prove(token_of(1), Role::client, nonce_of(2), nonce_of(3));
  std::string hex;
  for (std::uint8_t b : proof) {
    const char* digits = "0123456789abcdef";
    hex += digits[b >> 4];
    hex += digits[b & 15];
  }
  CHECK(hex == "c81d0260b483c9612d4c07ceed066ecc240fba6755cf95a007749eaf75f773b4");
}

TEST_CASE("auth: tokens and nonces are random") {
  CHECK(random_token()->bytes() != random_token()->bytes());
  CHECK(random_nonce() != random_nonce());
}

TEST_CASE("auth: a token from a pipe, whole, short, late") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  REQUIRE(::write(ends[1], token_of(5).bytes().data(), 32) == 32);
  CHECK(read_token(ends[0], 1)->bytes() == token_of(5).bytes());
  CHECK(::fcntl(ends[0], F_GETFD) == -1);  // closed
  ::close(ends[1]);

  REQUIRE(::pipe(ends) == 0);
  REQUIRE(::write(ends[1], "short", 5) == 5);
  ::close(ends[1]);
  CHECK(read_token(ends[0], 1).error().diagnostics[0].found == "5 bytes");

  REQUIRE(::pipe(ends) == 0);
  const Result<Token> late = read_token(ends[0], 0.05);
  CHECK(late.error().diagnostics[0].code == "E-RDZV-006");
  CHECK(late.error().diagnostics[0].found == "none within 0.05 s");
  ::close(ends[1]);
}

TEST_CASE("auth: a token file is its owner's alone") {
  const std::string folder = fs::temp_directory_path() / "tandem_auth_test";
  fs::remove_all(folder);
  fs::create_directory(folder);
  const std::string path = folder + "/token";
  REQUIRE(write_token_file(path, token_of(7)).ok());
  CHECK(read_token_file(path)->bytes() == token_of(7).bytes());
  CHECK(!write_token_file(path, token_of(7)).ok());  // never over another file
  const auto refused = [&](const char* why) {
    const Result<Token> token = read_token_file(path);
    REQUIRE(!token.ok());
    CHECK(token.error().diagnostics[0].code == "E-RDZV-006");
    CHECK(token.error().diagnostics[0].found.find(why) != std::string::npos);
  };
  ::chmod(path.c_str(), 0640);
  refused("mode 0640");
  ::chmod(path.c_str(), 0600);
  std::ofstream(path) << "00ff";
  refused("64 hexadecimal digits");
  fs::remove(path);
  refused("No such file");
  fs::create_symlink("/etc/hostname", path);
  refused("");
  fs::remove(path);
  fs::create_directory(path);
  refused("not a regular file");
  fs::remove_all(folder);
}
