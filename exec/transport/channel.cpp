#include "exec/transport/channel.h"

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/base/check.h"

namespace tandem::exec {
namespace {

bool is_gone(int error) { return error == EPIPE || error == ECONNRESET || error == ENOTCONN; }

Moved failed(int error, bool& can) {
  if (error == EAGAIN || error == EWOULDBLOCK) {
    can = false;
    return {};
  }
  if (is_gone(error)) return {.closed = true};
  return {.error = error};
}

}  // namespace

Channel::~Channel() { ::close(fd_); }

Moved Channel::write(std::span<const std::byte> first, std::span<const std::byte> second) {
  iovec parts[2];
  std::size_t n = 0;
  // The kernel does not write through these pointers.
  if (!first.empty()) parts[n++] = {const_cast<std::byte*>(first.data()), first.size()};
  if (!second.empty()) parts[n++] = {const_cast<std::byte*>(second.data()), second.size()};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = n;
  ssize_t sent = 0;
  do sent = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) return failed(errno, can_write);
  const auto bytes = static_cast<std::size_t>(sent);
  if (bytes < first.size() + second.size()) can_write = false;  // full: spare the failing call
  return {.bytes = bytes};
}

Moved Channel::read(std::span<std::byte> to) {
  TANDEM_CHECK(!to.empty(), "a read of no bytes");
  const bool through_buffer = to.size() < buffer_.size() / 2;
  if (begin_ == end_) {
    const std::span<std::byte> target = through_buffer ? std::span<std::byte>(buffer_) : to;
    ssize_t got = 0;
    do got = ::recv(fd_, target.data(), target.size(), MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got < 0) return failed(errno, can_read);
    if (got == 0) return {.closed = true};
    const auto bytes = static_cast<std::size_t>(got);
    if (bytes < target.size()) can_read = false;  // drained
    if (!through_buffer) return {.bytes = bytes};
    begin_ = 0, end_ = bytes;
  }
  const std::size_t bytes = std::min(to.size(), end_ - begin_);
  std::memcpy(to.data(), buffer_.data() + begin_, bytes);
  begin_ += bytes;
  return {.bytes = bytes};
}

}  // namespace tandem::exec
