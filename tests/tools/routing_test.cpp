// Goal    what a run records of its routing, and what becomes of it: simulate with it gives the
//         run's peak memory on every rank and its bytes over `ep`, exactly; compare uses it by
//         itself; and what the command line says of a bad one.
// Method  real processes of small models with experts: over ep, over etp, in a pipeline, with a
//         capacity that drops. Measured peaks and bytes come from the executor's own counters.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <sstream>

#include "common/plan/routing_trace.h"
#include "tests/tools/program.h"

using namespace tandem;
using namespace tandem::test;
using Json = nlohmann::json;

namespace {

using Words = std::vector<std::string>;

const std::string kScenario = "scenarios/learn/13_experts.yaml";

Run command(const std::string& name, const std::string& run, const Words& sets, const Words& more) {
  Words words = {name, kScenario, "-o", run, "--json", "--force"};
  for (const std::string& set : sets) words.insert(words.end(), {"--set", set});
  words.insert(words.end(), more.begin(), more.end());
  return test::tandem(words, -1, 100);
}

}  // namespace

TEST_CASE("a run's routing.csv predicts its peaks and its bytes exactly") {
  const std::vector<Words> layouts = {
      {"parallel.dp=2", "parallel.ep=2"},
      {"parallel.dp=4", "parallel.ep=2", "parallel.etp=2"},
      {"parallel.pp=2", "parallel.dp=2", "parallel.ep=2", "training.recompute=full"},
      {"parallel.dp=4", "parallel.ep=4", "model.moe.capacity_factor=1.0"},
      {"parallel.pp=2", "parallel.dp=2", "parallel.ep=2", "schedule={kind: seq1f1b, slices: 2}"},
      {"model.preset=deepseek-tiny", "parallel.tp=2", "parallel.dp=2", "parallel.ep=4",
       "parallel.sequence_parallel=true"}};
  for (Words sets : layouts) {
    CAPTURE(sets[0]);
    CAPTURE(sets[1]);
    sets.insert(sets.end(), {"training.global_batch=16", "training.steps=2", "output.ranks=all"});
    const TempDir folder;
    const std::string run = folder / "run", again = folder / "again";
    const Run balanced = command("simulate", run, sets, {});
    REQUIRE_MESSAGE(balanced.code == 0, balanced.out << balanced.err);
    const Run executed = command("execute", run, sets, {});
    REQUIRE_MESSAGE(executed.code == 0, executed.out << executed.err);
    const Json measured = executed.json();
    CHECK(measured["routing_steps"] == 3);  // one of warm-up
    sets.push_back("simulate.routing.trace=" + run + "/routing.csv");
    const Run traced = command("simulate", again, sets, {});
    REQUIRE_MESSAGE(traced.code == 0, traced.out << traced.err);
    const Json predicted = traced.json();
    CHECK(predicted["peak_bytes"] == measured["peak_bytes"]);
    CHECK(predicted["plan_id"] == balanced.json()["plan_id"]);
    CHECK(predicted["routing"]["steps"] == 3);
    CHECK(predicted["routing"]["rank_max_over_mean"] > 1);
    CHECK(slurp(again + "/routing_trace.csv") == slurp(run + "/routing.csv"));
    // The folder is complete: its own scenario gives the same prediction.
    const Run third = test::tandem(
        {"simulate", again + "/scenario.yaml", "-o", folder / "third", "--json"}, -1, 100);
    REQUIRE_MESSAGE(third.code == 0, third.out << third.err);
    CHECK(third.json()["iteration_s"] == predicted["iteration_s"]);

    // Rows of the record are those that the transports counted.
    const auto trace = read_routing_trace(run + "/routing.csv");
    REQUIRE(trace.ok());
    std::int64_t rows = 0;
    for (const RoutingRecord& r : trace->records)
      for (std::int32_t n : r.kept) rows += n;
    // There (F) and their gradients back (I): the first hands over what was kept, the second what
    // came; over all ranks both are all rows, of 64 floats. Twice where F runs again.
    const std::int64_t times = sets[3] == "training.recompute=full" ? 3 : 2;
    CHECK(measured["communication"]["ep disp"]["bytes_in"] == times * rows * 64 * 4);

    const Run compared = test::tandem({"compare", run, "--json"}, -1, 100);
    REQUIRE_MESSAGE(compared.code == 0, compared.out << compared.err);
    CHECK(compared.json()["peak_memory_error"] == 0);
    CHECK(compared.json()["routing"] == "recorded");
    CHECK(compared.json()["predicted_s"].get<double>() ==
          doctest::Approx(predicted["iteration_s"].get<double>()).epsilon(1e-5));
  }
}

TEST_CASE("a bad trace is refused where it is wrong; a field without use is named") {
  const TempDir folder;
  const std::string bad = folder / "bad.csv";
  spill(bad, "step,layer,microbatch,slice,rank,e0\n0,0,0,0,zero,3\n");
  Run r = command("simulate", folder / "a", {"simulate.routing.trace=" + bad}, {});
  CHECK(r.code == 3);
  CHECK(r.out.find("E-CAL-009") != std::string::npos);
  CHECK(r.json()["errors"][0]["line"] == 2);
  spill(bad, "step,layer,microbatch,slice,rank,e0\n0,0,0,0,0,3\n");
  r = command("simulate", folder / "b", {"simulate.routing.trace=" + bad}, {});
  CHECK(r.code == 3);
  CHECK(r.out.find("E-CAL-010") != std::string::npos);
  r = command("simulate", folder / "c", {"simulate.routing.trace=" + (folder / "none.csv")}, {});
  CHECK(r.code == 3);
  CHECK(r.out.find("E-IO-001") != std::string::npos);
  r = command("simulate", folder / "d",
              {"simulate.routing.trace=" + bad, "simulate.routing.zipf=1"}, {});
  CHECK(r.code == 3);
  CHECK(r.out.find("E-SCEN-066") != std::string::npos);
  r = test::tandem({"simulate", "scenarios/quickstart.yaml", "-o", folder / "e", "--json", "--set",
                    "simulate.routing.zipf=1"});
  CHECK(r.code == 0);
  CHECK(r.out.find("W-SCEN-001") != std::string::npos);
}
