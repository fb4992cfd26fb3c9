// Suite 1: each file of scenarios/invalid has one fault; the text beside it is the whole message.
// First line of an .expect: "exit: 3" or "exit: 4". To write them anew: TANDEM_UPDATE=1.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <map>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/scenario/read.h"

using namespace tandem;
namespace fs = std::filesystem;

namespace {

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

std::vector<std::string> invalid_scenarios() {
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator("scenarios/invalid"))
    if (entry.path().extension() == ".yaml") paths.push_back(entry.path().string());
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

TEST_CASE("every invalid scenario gives exactly the expected text") {
  const auto paths = invalid_scenarios();
  CHECK(paths.size() >= 150);
  for (const std::string& path : paths) {
    CAPTURE(path);
    const auto scenario = read_scenario(path);
    REQUIRE_MESSAGE(!scenario.ok(), path);
    const Error& error = scenario.error();
    const std::string text =
        fmt::format("exit: {}\n", static_cast<int>(error.failure)) + to_text(error.diagnostics);
    const std::string expect_path = path.substr(0, path.size() - 5) + ".expect";
    if (std::getenv("TANDEM_UPDATE") != nullptr) REQUIRE(write_file_atomic(expect_path, text).ok());
    const auto expected = read_file(expect_path, limits::kScenarioBytes);
    REQUIRE(expected.ok());
    CHECK(text == *expected);
    CHECK_MESSAGE(error.diagnostics.size() == 1, "one file, one fault");
    for (const Diagnostic& d : error.diagnostics) {
      CHECK_FALSE(d.found.empty());
      CHECK_FALSE(d.expected.empty());
      CHECK_FALSE(d.hint.empty());
    }
  }
}

TEST_CASE("each is refused within 100 ms of CPU time, median of 5") {
  for (const std::string& path : invalid_scenarios()) {
    std::array<double, 5> used{};
    for (double& seconds : used) {
      const double start = cpu_seconds();
      (void)read_scenario(path);
      seconds = cpu_seconds() - start;
    }
    std::sort(used.begin(), used.end());
    CHECK_MESSAGE(used[2] < 0.1, path);
  }
}
