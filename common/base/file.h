// The one seam to the file system. Reading: regular files only, never more than the limit.
// Writing: a file is complete or absent. A failed write is Failure::output (exit 7), a failed
// read Failure::bad_input (exit 3); both name path, cause and what to do.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace tandem {

// The whole file. Refuses folders, FIFOs, sockets and devices without blocking on them, and
// files above `max_bytes` (limits.h) whatever size they claim to have.
[[nodiscard]] Result<std::string> read_file(const std::string& path, std::int64_t max_bytes);

// A file that appears under its name only when it is complete: temporary beside the target,
// checked writes, fsync, rename, fsync of the folder. Without commit() the temporary is removed.
// Links at the target are replaced, not followed. Movable; used by one thread at a time.
class AtomicFile {
 public:
  [[nodiscard]] static Result<AtomicFile> create(const std::string& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();

  // Buffered. After the first failure the temporary is gone and every later call fails.
  [[nodiscard]] Status write(std::string_view bytes);
  [[nodiscard]] Status commit();
  [[nodiscard]] std::int64_t bytes_written() const { return bytes_written_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  AtomicFile(std::string path, std::string temporary, int fd);
  Status flush();
  Error fail(const char* call, int error_number);
  void discard();

  std::string path_, temporary_, pending_;
  int fd_ = -1;
  std::int64_t bytes_written_ = 0;  // accepted by write()
  std::int64_t bytes_on_disk_ = 0;
};

// Unlinks the temporaries of AtomicFiles that are open, for a process that is about to end by a
// signal. Safe to call in a signal handler. Knows the first 16 open ones with paths below 4 KiB.
void remove_open_temporaries() noexcept;

[[nodiscard]] Status write_file_atomic(const std::string& path, std::string_view bytes);

// Makes the folder and its parents. Fine if it exists; an error if a file is in the way.
[[nodiscard]] Status make_directories(const std::string& path);

#ifdef TANDEM_FAULTS
// Tests: the n-th call (from 1) of open, write, fsync, rename or close in AtomicFile fails with
// this errno. n = 0 switches it off. Returns how many calls the previous setting has seen.
int set_file_fault(int n, int error_number);
#endif

}  // namespace tandem
