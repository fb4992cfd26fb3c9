// The output of one rank: from its pipe to a file, and in whole lines to whoever shows them. Plain
// bytes in, no waiting: the launcher reads the pipe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace tandem::exec {

// Used by one thread.
class RankLog {
 public:
  using Line = std::function<void(std::string_view)>;
  // Makes RUN/ranks/K.out or K.err anew. E-IO-010.
  [[nodiscard]] static Result<RankLog> create(const std::string& path, Line line);
  RankLog(RankLog&& other) noexcept;
  RankLog& operator=(RankLog&&) = delete;
  ~RankLog();

  void add(std::string_view bytes);
  void finish();  // the last line may have no end
  [[nodiscard]] const std::deque<std::string>& last_lines() const { return last_lines_; }
  [[nodiscard]] int write_error() const { return write_error_; }  // errno; 0: none

 private:
  RankLog(int fd, Line line) : fd_(fd), line_(std::move(line)) {}
  void write(std::string_view bytes);
  void end_line();
  int fd_ = -1;
  Line line_;
  std::string pending_;
  bool cut_ = false;  // the rest of this line is not shown
  std::int64_t written_ = 0;
  int write_error_ = 0;
  std::deque<std::string> last_lines_;
};

// What a process said last on its standard error: the head of a message of ours, else the last
// line.
[[nodiscard]] std::string own_words(const std::deque<std::string>& last_lines);

}  // namespace tandem::exec
