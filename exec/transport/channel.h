// One end of a socket pair, read and written without blocking. Small reads go through a buffer of
// the channel, so a header and a small payload cost one system call; large ones go to their place.
// Owned by one communicator; used by one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <span>

namespace tandem::exec {

// What a read or write came to. bytes > 0: progress. Else one of the flags, or none: it would
// block, and can_read / can_write are false until poll() has said otherwise.
struct Moved {
  std::size_t bytes = 0;
  bool closed = false;  // the peer has gone
  int error = 0;        // errno of any other failure
};

class Channel {
 public:
  explicit Channel(int fd) : fd_(fd) {}  // takes the descriptor
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Writes as much as fits of `first`, then of `second`; either may be empty, not both.
  [[nodiscard]] Moved write(std::span<const std::byte> first, std::span<const std::byte> second);
  // Reads at least one byte, at most to.size().
  [[nodiscard]] Moved read(std::span<std::byte> to);

  [[nodiscard]] int fd() const { return fd_; }
  // Bytes were read ahead: poll() does not know of them.
  [[nodiscard]] bool has_buffered() const { return begin_ < end_; }

  bool can_read = true, can_write = true;  // false: the last call would have blocked

 private:
  int fd_;
  std::size_t begin_ = 0, end_ = 0;
  std::array<std::byte, 16 * 1024> buffer_;
};

}  // namespace tandem::exec
