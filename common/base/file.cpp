// Files behind one seam. POSIX calls directly: streams hide errno, short writes and fsync.
#include "common/base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

namespace tandem {
namespace {

constexpr std::size_t kBufferBytes = 1 << 16;

std::string reason(int error_number) { return std::generic_category().message(error_number); }

Error read_error(const std::string& path, std::string code, std::string title, std::string found,
                 std::string expected, std::string hint) {
  return make_error(Failure::bad_input, std::move(code), std::move(title), std::move(found),
                    std::move(expected), std::move(hint), Location{path});
}

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "not a regular file";
}

struct Fd {
  int value;
  ~Fd() {
    if (value >= 0) ::close(value);
  }
};

#ifdef TANDEM_FAULTS
int fault_at = 0, fault_errno = 0, calls_seen = 0;
bool fault_now() {
  ++calls_seen;
  if (fault_at == 0 || calls_seen != fault_at) return false;
  errno = fault_errno;
  return true;
}
#else
constexpr bool fault_now() { return false; }
#endif

// Names of open temporaries where a signal handler can read them: plain memory, no locks. A slot is
// taken by its state alone; `held` says that the path is whole.
struct OpenTemporary {
  enum State : int { free, taken, held };
  std::atomic<int> state = free;
  char path[4096] = {};
};
constinit std::array<OpenTemporary, 16> open_temporaries;

void remember_temporary(const std::string& path) {
  if (path.size() >= sizeof OpenTemporary::path) return;
  for (OpenTemporary& slot : open_temporaries) {
    int expected = OpenTemporary::free;
    if (!slot.state.compare_exchange_strong(expected, OpenTemporary::taken)) continue;
    path.copy(slot.path, path.size());
    slot.path[path.size()] = '\0';
    slot.state = OpenTemporary::held;
    return;
  }
}

void forget_temporary(const std::string& path) {
  for (OpenTemporary& slot : open_temporaries)
    if (slot.state == OpenTemporary::held && path == slot.path) slot.state = OpenTemporary::free;
}

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

#ifdef TANDEM_FAULTS
int set_file_fault(int n, int error_number) {
  fault_at = n, fault_errno = error_number;
  return std::exchange(calls_seen, 0);
}
#endif

Result<std::string> read_file(const std::string& path, std::int64_t max_bytes) {
  const Fd fd{::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY)};
  if (path.empty() || path.find('\0') != std::string::npos || fd.value < 0)
    return read_error(path, "E-IO-001", "cannot open the file",
                      path.empty() ? "an empty path" : reason(errno), "a readable file",
                      "check the path and its permissions");
  struct stat info {};
  if (::fstat(fd.value, &info) != 0)
    return read_error(path, "E-IO-004", "cannot read the file", reason(errno), "a readable file",
                      "check the disk it is on");
  if (!S_ISREG(info.st_mode))
    return read_error(path, "E-IO-002", "not a regular file", kind_of(info.st_mode),
                      "a regular file", "copy the contents to a file and give its path");
  std::string bytes;
  const auto wanted = static_cast<std::size_t>(max_bytes) + 1;
  while (bytes.size() < wanted) {
    const std::size_t before = bytes.size();
    bytes.resize(std::min(wanted, before + kBufferBytes));
    const ssize_t got = ::read(fd.value, bytes.data() + before, bytes.size() - before);
    bytes.resize(before + (got > 0 ? static_cast<std::size_t>(got) : 0));
    if (got == 0) return bytes;
    if (got < 0 && errno != EINTR)
      return read_error(path, "E-IO-004", "cannot read the file", reason(errno), "a readable file",
                        "check the disk it is on");
  }
  return read_error(
      path, "E-IO-003", "the file is too large", fmt::format("more than {} bytes", max_bytes),
      fmt::format("at most {} bytes", max_bytes), "check that this is the file you meant");
}

AtomicFile::AtomicFile(std::string path, std::string temporary, int fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept { *this = std::move(other); }

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  if (this == &other) return *this;
  discard();
  path_ = std::move(other.path_);
  temporary_ = std::exchange(other.temporary_, {});
  pending_ = std::move(other.pending_);
  fd_ = std::exchange(other.fd_, -1);
  bytes_written_ = other.bytes_written_;
  bytes_on_disk_ = other.bytes_on_disk_;
  return *this;
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) {
    ::unlink(temporary_.c_str());
    forget_temporary(temporary_);
  }
  fd_ = -1;
  temporary_.clear();
}

Error AtomicFile::fail(const char* call, int error_number) {
  discard();
  const bool space = error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG;
  return make_error(
      Failure::output, "E-IO-010", "cannot write the file",
      fmt::format("{}: {}, after {} of {} bytes", call, reason(error_number), bytes_on_disk_,
                  bytes_written_),
      "a folder with space that may be written to",
      space ? "free space there, or give another folder with -o" : "give another folder with -o",
      Location{path_});
}

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  static int sequence = 0;  // only makes names differ; a clash is tried again
  int error_number = ENOENT;
  for (int attempt = 0; attempt < 100; ++attempt) {
    std::string temporary =
        fmt::format("{}.{}-{}.tmp", path, static_cast<long>(::getpid()), ++sequence);
    remember_temporary(temporary);  // before it is there: a signal may come in between
    const int fd = fault_now() ? -1
                               : ::open(temporary.c_str(),
                                        O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    error_number = errno;
    if (fd >= 0) return AtomicFile(path, std::move(temporary), fd);
    forget_temporary(temporary);
    if (error_number != EEXIST && error_number != EINTR) break;
  }
  return AtomicFile(path, {}, -1).fail("open", error_number);
}

Status AtomicFile::flush() {
  std::size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t n =
        fault_now() ? -1 : ::write(fd_, pending_.data() + done, pending_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("write", errno);
    if (n == 0) return fail("write", ENOSPC);
    done += static_cast<std::size_t>(n);
    bytes_on_disk_ += n;
  }
  pending_.clear();
  return Ok{};
}

Status AtomicFile::write(std::string_view bytes) {
  if (fd_ < 0) return fail("write", EBADF);
  bytes_written_ += static_cast<std::int64_t>(bytes.size());
  while (!bytes.empty()) {
    const auto part = bytes.substr(0, kBufferBytes);
    pending_ += part;
    bytes.remove_prefix(part.size());
    if (pending_.size() < kBufferBytes) continue;
    if (Status flushed = flush(); !flushed) return flushed;
  }
  return Ok{};
}

Status AtomicFile::commit() {
  if (fd_ < 0) return fail("commit", EBADF);
  if (Status flushed = flush(); !flushed) return flushed;
  if (fault_now() || ::fsync(fd_) != 0) return fail("fsync", errno);
  if (fault_now()) return fail("close", errno);
  if (::close(std::exchange(fd_, -1)) != 0) return fail("close", errno);
  if (fault_now() || ::rename(temporary_.c_str(), path_.c_str()) != 0) return fail("rename", errno);
  forget_temporary(temporary_);
  temporary_.clear();
  const Fd folder{::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  // Some file systems cannot sync a folder; the file itself is whole, so EINVAL is no failure.
  if (folder.value >= 0 && ::fsync(folder.value) != 0 && errno != EINVAL && errno != ENOTSUP)
    return fail("fsync of the folder", errno);
  return Ok{};
}

void remove_open_temporaries() noexcept {
  for (OpenTemporary& slot : open_temporaries)
    if (slot.state == OpenTemporary::held) ::unlink(slot.path);
}

Status write_file_atomic(const std::string& path, std::string_view bytes) {
  Result<AtomicFile> file = AtomicFile::create(path);
  if (!file) return file.error();
  if (Status written = file->write(bytes); !written) return written;
  return file->commit();
}

Status make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && std::filesystem::is_directory(path, error)) return Ok{};
  return make_error(Failure::output, "E-IO-011", "cannot make the folder",
                    error ? error.message() : "a file of that name", "a folder, or nothing there",
                    "give another folder with -o", Location{path});
}

}  // namespace tandem
