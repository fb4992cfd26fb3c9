// Runs the built program as a user does: a process with arguments, its output and its exit code.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tandem::test {

struct Run {
  int code = -1;         // exit code; 128 + signal where it was killed
  std::string out, err;  // what it wrote
  [[nodiscard]] nlohmann::json json() const { return nlohmann::json::parse(out); }
};

// `arguments` after the program's name. Runs in the folder of the source tree, without a terminal,
// for at most `limit_s` seconds. `out_fd`: where stdout goes, instead of into Run::out.
[[nodiscard]] Run tandem(const std::vector<std::string>& arguments, int out_fd = -1,
                         unsigned limit_s = 20);

// Each value behind a --set.
[[nodiscard]] std::vector<std::string> set_words(const std::vector<std::string>& values);
// `execute SCENARIO -o RUN --json --force`, with `values` set, then `more`.
[[nodiscard]] Run execute(const std::string& scenario, const std::string& run,
                          const std::vector<std::string>& values,
                          const std::vector<std::string>& more = {}, unsigned limit_s = 100);

// A folder of its own, removed with everything in it at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

[[nodiscard]] std::string slurp(const std::string& path);  // "" where there is no such file
// One object a line: metrics.jsonl.
[[nodiscard]] std::vector<nlohmann::json> json_lines(const std::string& path);
void spill(const std::string& path, const std::string& bytes);

}  // namespace tandem::test
