// Goal: the command line is frozen: a new, renamed or removed flag shows in flags.txt and in
// docs/cli.md of the same commit. To write both anew: TANDEM_UPDATE=1.
#include <doctest/doctest.h>

#include <cstdlib>

#include "common/base/file.h"
#include "tests/tools/program.h"
#include "tools/cli.h"

using namespace tandem;

namespace {
void check_file(const std::string& name, const std::string& generated) {
  const std::string path = std::string(TANDEM_SOURCE_DIR) + "/" + name;
  if (std::getenv("TANDEM_UPDATE") != nullptr) REQUIRE(write_file_atomic(path, generated).ok());
  CAPTURE(name);
  CHECK(test::slurp(path) == generated);
}
}  // namespace

TEST_CASE("tests/tools/flags.txt is the list of flags") {
  check_file("tests/tools/flags.txt", tools::flag_list());
}

TEST_CASE("docs/cli.md is the page of the commands") {
  check_file("docs/cli.md", tools::cli_page());
}
