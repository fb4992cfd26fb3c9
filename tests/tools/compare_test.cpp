// Goal: tandem compare and report of a run with a measurement, without an executor.
// Method: the prediction itself, a tenth slower and in the executor's clock, stands for a
// measurement. By hand: error = 1 / 1.1 - 1; with the measured durations the simulator must come
// out at the measured step, so the replay error is 0 but for rounding and the host's share.
#include <doctest/doctest.h>

#include "common/plan/parse.h"
#include "common/timeline/perfetto.h"
#include "tests/tools/program.h"
#include "tools/run_dir.h"
#include "tools/stored_run.h"

using namespace tandem;
using namespace tandem::test;

namespace {

const std::string kScenario = "scenarios/learn/05_1f1b.yaml";

std::int64_t slower(std::int64_t ps) { return ps / 1000 * 11 / 10; }

// Puts measured.pftrace into the run's folder, as an execution would.
void measure(const std::string& folder) {
  auto run = tools::read_stored_run(folder);
  REQUIRE(run.ok());
  Timeline t = *run->predicted;
  t.clock = Clock::monotonic_ns;
  t.meta["kind"] = "measured";
  for (Span& s : t.spans)
    for (auto* time : {&s.issued, &s.ready, &s.started, &s.ended}) *time = slower(*time);
  for (CallSpan& c : t.calls) c.started = slower(c.started), c.ended = slower(c.ended);
  for (MemorySample& m : t.memory) m.time = slower(m.time);
  for (StepMark& m : t.steps) m.started = slower(m.started), m.ended = slower(m.ended);
  auto dir = tools::RunDir::open(folder, run->manifest.plan_id, false);
  REQUIRE(dir.ok());
  REQUIRE(dir->write("measured.pftrace", encode_perfetto(t, run->plan)).ok());
  REQUIRE(dir->finish(run->manifest).ok());
}

}  // namespace

TEST_CASE("compare RUN: error, waterfall, replay, memory; tolerance; summary.json") {
  const TempDir dir;
  const std::string run = dir / "run";
  REQUIRE(test::tandem({"simulate", kScenario, "-o", run}).code == 0);
  measure(run);
  const Run compared = test::tandem({"compare", run, "--json"});
  REQUIRE(compared.code == 0);
  const auto json = compared.json();
  CHECK(json["error_rel"].get<double>() == doctest::Approx(1 / 1.1 - 1).epsilon(0.001));
  CHECK(std::abs(json["replay_error_rel"].get<double>()) < 0.01);
  CHECK(json["peak_memory_error"] == 0);
  CHECK(json["median_op_error"].get<double>() == doctest::Approx(1 - 1 / 1.1).epsilon(0.001));
  double sum = 0;
  for (const auto& [name, seconds] : json["waterfall"].items()) sum += seconds.get<double>();
  CHECK(sum == doctest::Approx(json["predicted_s"].get<double>() - json["measured_s"].get<double>())
                   .epsilon(1e-6));

  CHECK(test::tandem({"compare", run, "--tolerance", "0.1"}).code == 0);
  const Run beyond = test::tandem({"compare", run, "--tolerance", "0.05"});
  CHECK(beyond.code == 1);
  CHECK(beyond.out.find("predicted") != std::string::npos);
  const auto summary = nlohmann::json::parse(slurp(run + "/summary.json"));
  CHECK(summary["comparison"]["error_rel"] == json["error_rel"]);
  CHECK(summary.contains("predicted"));
}

TEST_CASE("report and trace of a measured run show both; simulating again keeps the measurement") {
  const TempDir dir;
  const std::string run = dir / "run";
  REQUIRE(test::tandem({"simulate", kScenario, "-o", run}).code == 0);
  const std::string alone = slurp(run + "/report.html");
  measure(run);
  REQUIRE(test::tandem({"report", run}).code == 0);
  const std::string both = slurp(run + "/report.html");
  CHECK(alone.find("id=\"waterfall\"") == std::string::npos);
  CHECK(both.find("id=\"waterfall\"") != std::string::npos);
  CHECK(both.find(dir.path()) == std::string::npos);
  CHECK(test::tandem({"trace", run, "--format", "csv"}).code == 0);
  CHECK(slurp(run + "/measured.csv").starts_with("record,"));

  REQUIRE(test::tandem({"simulate", kScenario, "-o", run}).code == 0);
  CHECK(slurp(run + "/report.html") == both);
  CHECK(test::tandem({"compare", run}).code == 0);
}
