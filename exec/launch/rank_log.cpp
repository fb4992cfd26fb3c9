#include "exec/launch/rank_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/limits.h"

namespace tandem::exec {
namespace {
constexpr std::size_t kLastLines = 5;
}

Result<RankLog> RankLog::create(const std::string& path, Line line) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd < 0)
    return make_error(Failure::output, "E-IO-010", "cannot write the file", std::strerror(errno),
                      "room and permission for the run directory", "choose another -o",
                      Location{path});
  return RankLog(fd, std::move(line));
}

RankLog::RankLog(RankLog&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), line_(std::move(other.line_)) {}

RankLog::~RankLog() {
  if (fd_ >= 0) ::close(fd_);
}

void RankLog::add(std::string_view bytes) {
  write(bytes);
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', at), bytes.size());
    const std::size_t room = static_cast<std::size_t>(limits::kLogLineBytes) - pending_.size();
    pending_ += bytes.substr(at, std::min(room, end - at));
    if (end - at > room) cut_ = true;
    if (end == bytes.size()) return;
    end_line();
    at = end + 1;
  }
}

void RankLog::finish() {
  if (!pending_.empty()) end_line();
}

void RankLog::end_line() {
  if (cut_) pending_ += "...";
  if (line_) line_(pending_);
  last_lines_.push_back(std::exchange(pending_, {}));
  if (last_lines_.size() > kLastLines) last_lines_.pop_front();
  cut_ = false;
}

void RankLog::write(std::string_view bytes) {
  const auto room = static_cast<std::size_t>(limits::kRankLogBytes - written_);
  bytes = bytes.substr(0, std::min(room, bytes.size()));
  while (!bytes.empty() && write_error_ == 0) {
    const ssize_t count = ::write(fd_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      write_error_ = count < 0 ? errno : EIO;
      return;
    }
    written_ += count;
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
}

std::string own_words(const std::deque<std::string>& last_lines) {
  for (auto line = last_lines.rbegin(); line != last_lines.rend(); ++line)
    if (const auto at = line->find("error E-"); at != std::string::npos)
      return line->substr(at + 6);
  return last_lines.empty() ? std::string() : last_lines.back();
}

}  // namespace tandem::exec
