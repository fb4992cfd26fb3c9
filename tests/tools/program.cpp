// See program.h. The child gets its output files before it starts, so that no pipe can fill up.
#include "tests/tools/program.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace tandem::test {

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "tandem-test-XXXXXX").string();
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void spill(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

Run tandem(const std::vector<std::string>& arguments, int out_fd, unsigned limit_s) {
  const TempDir files;
  const std::string out = files / "out", err = files / "err";
  std::vector<char*> argv = {const_cast<char*>(TANDEM_PROGRAM)};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(limit_s);  // survives exec: a program that hangs dies by SIGALRM
    const int in_fd = ::open("/dev/null", O_RDONLY);
    if (out_fd < 0) out_fd = ::open(out.c_str(), O_WRONLY | O_CREAT, 0666);
    const int err_fd = ::open(err.c_str(), O_WRONLY | O_CREAT, 0666);
    if (::chdir(TANDEM_SOURCE_DIR) == 0 && ::dup2(in_fd, 0) >= 0 && ::dup2(out_fd, 1) >= 0 &&
        ::dup2(err_fd, 2) >= 0)
      ::execv(argv[0], argv.data());
    ::_exit(126);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  Run run;
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (out_fd < 0) run.out = slurp(out);
  run.err = slurp(err);
  return run;
}

std::vector<std::string> set_words(const std::vector<std::string>& values) {
  std::vector<std::string> out;
  for (const std::string& v : values) out.insert(out.end(), {"--set", v});
  return out;
}

Run execute(const std::string& scenario, const std::string& run,
            const std::vector<std::string>& values, const std::vector<std::string>& more,
            unsigned limit_s) {
  std::vector<std::string> words = {"execute", scenario, "-o", run, "--json", "--force"};
  for (const auto& list : {set_words(values), more})
    words.insert(words.end(), list.begin(), list.end());
  return tandem(words, -1, limit_s);
}

std::vector<nlohmann::json> json_lines(const std::string& path) {
  std::vector<nlohmann::json> out;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) out.push_back(nlohmann::json::parse(line));
  return out;
}

}  // namespace tandem::test
