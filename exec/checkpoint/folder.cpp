#include "exec/checkpoint/folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"

namespace tandem::exec {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-", kPartial = ".partial";
constexpr std::size_t kDigits = 10;  // of limits::kSteps

// The step of "step-0000000010"; -1: another name.
int step_of(std::string_view name) {
  if (!name.starts_with(kPrefix) || name.size() != kPrefix.size() + kDigits) return -1;
  int step = 0;
  for (char c : name.substr(kPrefix.size())) {
    if (c < '0' || c > '9' || step > limits::kSteps / 10) return -1;
    step = 10 * step + (c - '0');
  }
  return step;
}

bool is_partial(std::string_view name) {
  return name.ends_with(kPartial) && step_of(name.substr(0, name.size() - kPartial.size())) >= 0;
}

std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> out;
  std::error_code failed;
  for (fs::directory_iterator it(dir, failed), end; !failed && it != end; it.increment(failed))
    out.push_back(it->path().filename().string());
  std::sort(out.begin(), out.end());
  return out;
}

Error cannot(const std::string& path, const char* call) {
  return make_error(Failure::output, "E-IO-010", "cannot write the file",
                    fmt::format("{}: {}", call, std::strerror(errno)),
                    "a folder with space that may be written to",
                    "choose another training.checkpoint.directory", Location{path});
}

Status sync_folder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return cannot(path, "open");
  const bool bad = ::fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP;
  const int error = errno;
  ::close(fd);
  errno = error;
  if (bad) return cannot(path, "fsync of the folder");
  return Ok{};
}

}  // namespace

std::string checkpoint_path(const std::string& dir, int step) {
  return fmt::format("{}/{}{:0{}}", dir, kPrefix, step, kDigits);
}
std::string partial_path(const std::string& dir, int step) {
  return checkpoint_path(dir, step) + std::string(kPartial);
}
std::string manifest_path(const std::string& checkpoint) { return checkpoint + "/manifest.json"; }

std::vector<int> list_checkpoints(const std::string& dir) {
  std::vector<int> out;
  std::error_code failed;
  for (const std::string& name : names_in(dir))
    if (const int step = step_of(name);
        step >= 0 && fs::exists(manifest_path(checkpoint_path(dir, step)), failed))
      out.push_back(step);
  return out;
}

Status publish_checkpoint(const std::string& dir, int step) {
  const std::string from = partial_path(dir, step), to = checkpoint_path(dir, step);
  std::error_code failed;
  if (fs::exists(to, failed))
    return make_error(Failure::usage, "E-CKPT-001", "there are checkpoints already", to,
                      "no checkpoint of this step", "choose another training.checkpoint.directory",
                      Location{to});
  if (Status s = sync_folder(from); !s) return s;
  if (::rename(from.c_str(), to.c_str()) != 0) return cannot(to, "rename");
  return sync_folder(dir);
}

void remove_old_checkpoints(const std::string& dir, int kept) {
  std::vector<int> steps = list_checkpoints(dir);
  for (std::size_t i = 0; i + static_cast<std::size_t>(kept) < steps.size(); ++i) {
    const std::string goes = partial_path(dir, steps[i]);
    if (::rename(checkpoint_path(dir, steps[i]).c_str(), goes.c_str()) != 0) continue;
    std::error_code failed;
    fs::remove_all(goes, failed);
  }
}

void remove_partial_checkpoints(const std::string& dir) {
  std::error_code failed;
  for (const std::string& name : names_in(dir))
    if (is_partial(name)) fs::remove_all(dir + "/" + name, failed);
}

Result<FolderLock> FolderLock::take(const std::string& dir) {
  if (Status s = make_directories(dir); !s) return s.error();
  const int fd = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return cannot(dir, "open");
  FolderLock lock(fd);
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return lock;
  return make_error(Failure::usage, "E-CKPT-010", "another run saves into this folder", dir,
                    "a folder of its own for each run",
                    "wait for the other run, or choose another training.checkpoint.directory",
                    Location{dir});
}

FolderLock::FolderLock(FolderLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}
FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace tandem::exec
