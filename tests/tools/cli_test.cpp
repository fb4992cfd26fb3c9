// Goal: arguments that are wrong are named, exit codes are those of robustness.md section 5, and
// results and messages go where they belong.
#include "tools/cli.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <sstream>
#include <stdexcept>

#include "tests/tools/program.h"
#include "tools/executor.h"
#include "tools/version.h"

using namespace tandem;
using namespace tandem::test;

namespace {
const std::string kQuick = "scenarios/quickstart.yaml";
}

TEST_CASE("validate: a right scenario is 0, its result on stdout and nothing on stderr") {
  const Run run = test::tandem({"validate", kQuick});
  CHECK(run.code == 0);
  CHECK(run.err.empty());
  CHECK(run.out.starts_with(kQuick + ": ok\n"));
  CHECK(run.out.find("tp 1, pp 2, dp 1: 2 ranks") != std::string::npos);
}

TEST_CASE("validate --json: one object with ok, errors and warnings") {
  const Run good = test::tandem({"validate", kQuick, "--json"});
  CHECK(good.code == 0);
  CHECK(good.json()["ok"] == true);
  CHECK(good.json()["command"] == "validate");
  CHECK(good.json()["ranks"] == 2);
  CHECK(good.json()["errors"].empty());

  const Run bad = test::tandem({"validate", kQuick, "--json", "--set", "paralel.tp=2"});
  CHECK(bad.code == 3);
  CHECK(bad.err.empty());
  CHECK(bad.json()["ok"] == false);
  REQUIRE(bad.json()["errors"].size() == 1);
  const auto error = bad.json()["errors"][0];
  CHECK(error["code"] == "E-SCEN-003");
  CHECK(error["file"] == "--set paralel.tp=2");
  CHECK(error["hint"] == "did you mean \"parallel\"?");
  for (const char* key : {"severity", "line", "column", "title", "found", "expected", "notes"})
    CHECK(error.contains(key));
}

TEST_CASE("--set is named as the origin of a value, and the file as the place of the other") {
  const Run run = test::tandem({"validate", kQuick, "--set", "parallel.tp=3"});
  CHECK(run.code == 4);
  CHECK(run.out.empty());
  CHECK(run.err.find("--set parallel.tp=3: error E-SCEN-032") != std::string::npos);
  CHECK(run.err.find("scenarios/quickstart.yaml:4:") != std::string::npos);
}

TEST_CASE("--set may stand before the file and be repeated; the last one wins") {
  const Run run = test::tandem({"validate", "--set", "parallel.pp=4", "--set", "parallel.pp=8",
                                "--seed", "7", kQuick, "--explain"});
  CHECK(run.code == 0);
  CHECK(run.out.find("  pp: 8") != std::string::npos);
  CHECK(run.out.find("# --set parallel.pp=8") != std::string::npos);
  CHECK(run.out.find("seed: 7") != std::string::npos);
}

TEST_CASE("what --explain prints is a scenario that means the same") {
  const Run first = test::tandem({"validate", kQuick, "--explain"});
  const TempDir dir;
  spill(dir / "full.yaml", first.out);
  const Run second = test::tandem({"validate", dir / "full.yaml", "--explain"});
  CHECK(second.code == 0);
  const auto without_origins = [](const std::string& text) {
    std::string out;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
      out += line.substr(0, line.find(" #")) + "\n";
    return out;
  };
  CHECK(without_origins(first.out) == without_origins(second.out));
}

TEST_CASE("usage: every wrong command line is 2, with the code and the nearest name") {
  struct Row {
    std::vector<std::string> arguments;
    const char* code;
    const char* text;
  };
  const Row rows[] = {
      {{}, "E-CLI-003", "a command is missing"},
      {{"validat", kQuick}, "E-CLI-001", "did you mean \"validate\"?"},
      {{"frobnicate"}, "E-CLI-001", "one of validate, "},
      {{"validate"}, "E-CLI-003", "is required"},
      {{"validate", kQuick, "--jsn"}, "E-CLI-002", "did you mean \"--json\"?"},
      {{"validate", kQuick, "--sett=a"}, "E-CLI-002", "did you mean \"--set\"?"},
      {{"validate", kQuick, "another"}, "E-CLI-003", "one argument too many: \"another\""},
      {{"validate", kQuick, "--set"}, "E-CLI-003", "--set"},
      {{"validate", kQuick, "--seed", "x"}, "E-CLI-004", "--seed"},
      {{"validate", kQuick, "--set", "parallel.tp"}, "E-SCEN-016", "write --set parallel.tp=2"},
      {{"--frob"}, "E-CLI-002", "--frob"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const Run run = test::tandem(row.arguments);
    CHECK(run.code == 2);
    CHECK(run.out.empty());
    CHECK(run.err.find(row.code) != std::string::npos);
    CHECK(run.err.find(row.text) != std::string::npos);
    CHECK(run.err.find("  hint: ") != std::string::npos);
  }
}

TEST_CASE("usage faults are JSON too where JSON was asked for") {
  const Run run = test::tandem({"validate", "--json", kQuick, "--frob"});
  CHECK(run.code == 2);
  CHECK(run.err.empty());
  CHECK(run.json()["command"] == "validate");
  CHECK(run.json()["errors"][0]["code"] == "E-CLI-002");
}

TEST_CASE("an option without effect warns, and -q silences the warning and the result") {
  const Run loud = test::tandem({"version", "--seed", "3"});
  CHECK(loud.code == 0);
  CHECK(loud.err.find("W-CLI-001") != std::string::npos);
  CHECK(loud.out.starts_with("tandem "));
  const Run quiet = test::tandem({"version", "--seed", "3", "-q"});
  CHECK(quiet.code == 0);
  CHECK(quiet.err.empty());
  CHECK(quiet.out.empty());
  CHECK(test::tandem({"version", "--seed", "3", "--json"}).json()["warnings"].size() == 1);
}

TEST_CASE("version, schema, --version and --help") {
  const auto version = test::tandem({"version", "--json"}).json();
  CHECK(version["version"] == TANDEM_VERSION);
  CHECK(version["build"].contains("executor"));
  CHECK(test::tandem({"--version"}).out == std::string("tandem ") + TANDEM_VERSION + "\n");

  const Run schema = test::tandem({"schema"});
  CHECK(schema.code == 0);
  CHECK(schema.out == slurp(std::string(TANDEM_SOURCE_DIR) + "/docs/scenario.schema.json"));
  CHECK(test::tandem({"schema", "--json"}).json()["schema"] == schema.json());

  const Run help = test::tandem({"--help"});
  CHECK(help.code == 0);
  const Run validate = test::tandem({"validate", "--help"});
  CHECK(validate.code == 0);
  CHECK(validate.out.find("Usage: tandem validate [options] S.yaml") != std::string::npos);
  CHECK(validate.out.find("Examples\n  tandem validate ") != std::string::npos);
}

TEST_CASE("every command teaches: it is in --help, and its own help has an example") {
  const std::string help = test::tandem({"--help"}).out;
  std::istringstream lines(tools::flag_list());
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    const std::string name = line.substr(0, line.find(' '));
    if (name == std::exchange(last, name)) continue;
    CAPTURE(name);
    CHECK(help.find("\n  " + name + " ") != std::string::npos);
    const Run run = test::tandem({name, "--help"});
    CHECK(run.code == 0);
    CHECK(run.out.find("Examples\n  tandem " + name) != std::string::npos);
  }
}

TEST_CASE("files that are no scenario: 3") {
  CHECK(test::tandem({"validate", "nothing.yaml"}).err.find("E-IO-001") != std::string::npos);
  CHECK(test::tandem({"validate", "nothing.yaml"}).code == 3);
  CHECK(test::tandem({"validate", "/dev/null"}).code == 3);
}

TEST_CASE("stdout that takes nothing: 7; a closed pipe says nothing, a full disk does") {
  const int full_disk = ::open("/dev/full", O_WRONLY);
  const Run full = test::tandem({"schema"}, full_disk);
  CHECK(full.code == 7);
  CHECK(full.err.find("cannot write the result") != std::string::npos);

  int ends[2] = {-1, -1};
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  REQUIRE(::close(ends[0]) == 0);  // nobody reads
  const Run closed = test::tandem({"schema"}, ends[1]);
  CHECK(closed.code == 7);
  CHECK(closed.err.empty());
  ::close(full_disk);
  ::close(ends[1]);
}

TEST_CASE("no colour and no control codes without a terminal") {
  const Run run = test::tandem({"validate", kQuick, "--set", "parallel.tp=3"});
  CHECK(run.err.find('\x1b') == std::string::npos);
}

TEST_CASE("an exception that escapes a command is 70") {
  CHECK(tools::run_guarded([]() -> int { throw std::logic_error("E-INT-001 on purpose"); }) == 70);
  CHECK(tools::run_guarded([]() -> int { throw std::bad_alloc(); }) == 70);
  CHECK(tools::run_guarded([]() -> int { throw 1; }) == 70);
  CHECK(tools::run_guarded([] { return 4; }) == 4);
}

TEST_CASE("a build without executor says so, once, and it is 5") {
  if (tools::kHasExecutor) {
    MESSAGE("skipped: this build has an executor");
    return;
  }
  const auto none = tools::executor_function("tandem_rank_main");
  REQUIRE(!none.ok());
  CHECK(none.error().failure == Failure::execution);
  CHECK(none.error().diagnostics[0].code == "E-EXEC-060");
}
