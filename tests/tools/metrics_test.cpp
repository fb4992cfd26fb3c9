// Goal    what is measured between steps, through the command line: it stands in metrics.jsonl of
//         the steps that are due and of no others, agrees with what else is told of the run, and
//         training does not notice it.
// Method  real processes on pipeline, tensor and expert ranks. Equality of training is that of
//         losses, norms and the SHA-256 of every shard of a checkpoint.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "tests/tools/program.h"

using namespace tandem;
using namespace tandem::test;
using Json = nlohmann::json;

namespace {

using Words = std::vector<std::string>;

Run execute(const std::string& run, const Words& values, const Words& more = {}) {
  return test::execute("scenarios/learn/01_one_rank.yaml", run, values, more);
}

constexpr const char* kMeasured[] = {"gradients", "updates", "parameter_norm",
                                     "time",      "memory",  "measure_s"};

double sum_of(const Json& object) {
  double out = 0;
  for (const auto& [key, value] : object.items()) out += value.get<double>();
  return out;
}

}  // namespace

TEST_CASE("metrics.every: measured steps agree with the run; training stays bit by bit the same") {
  const TempDir folder;
  const Words job = {"model=deepseek-tiny",
                     "training.data.kind=random",
                     "training.global_batch=8",
                     "training.steps=5",
                     "model.moe.balance.bias_update=0.001",
                     "parallel.pp=2",
                     "parallel.dp=2",
                     "parallel.ep=2",
                     "parallel.zero=1"};
  const auto run = [&](const std::string& name, const Words& more) {
    Words values = job;
    values.push_back("training.checkpoint.directory=" + (folder / (name + "-ck")));
    values.insert(values.end(), more.begin(), more.end());
    const Run r = execute(folder / name, values, {"--check-replicas", "3"});
    REQUIRE_MESSAGE(r.code == 0, r.err);
    return r.json();
  };
  const Json plain = run("plain", {}), measured = run("measured", {"training.metrics.every=2"});
  CHECK(plain["losses"] == measured["losses"]);
  const auto files = [&](const std::string& name) {
    return Json::parse(
        slurp(folder / (name + "-ck/step-0000000006/manifest.json")))["content"]["files"];
  };
  CHECK(files("plain") == files("measured"));

  const auto a = json_lines(folder / "plain/metrics.jsonl"),
             b = json_lines(folder / "measured/metrics.jsonl");
  REQUIRE(a.size() == 6);  // one of them warm-up
  REQUIRE(b.size() == 6);
  std::vector<double> choices(8, 0);
  for (std::size_t k = 0; k < 6; ++k) {
    CAPTURE(k);
    CHECK(a[k]["grad_norm"] == b[k]["grad_norm"]);
    CHECK(b[k]["clipped_share"].get<double>() >= 0);
    CHECK(b[k]["sequences_per_s"].get<double>() * b[k]["step_s"].get<double>() ==
          doctest::Approx(8));
    CHECK(b[k]["mfu"].get<double>() > 0);
    CHECK(b[k]["non_finite"] == false);
    CHECK(b[k].contains("replicas_equal") == (k % 3 == 2));
    if (k % 3 == 2) CHECK(b[k]["replicas_equal"] == true);
    for (const char* key : kMeasured) {
      CHECK_FALSE(a[k].contains(key));
      CHECK(b[k].contains(key) == (k % 2 == 1));
    }
    if (k % 2 == 0) continue;
    const Json &gradients = b[k]["gradients"], &time = b[k]["time"], &memory = b[k]["memory"];
    double squares = 0;
    for (const Json& norm : gradients["norm_by_layer"])
      squares += norm.get<double>() * norm.get<double>();
    for (const auto& [name, norm] : gradients["norm_outside"].items())
      squares += norm.get<double>() * norm.get<double>();
    // fp32 gradients, both sums in fp64.
    CHECK(std::sqrt(squares) == doctest::Approx(b[k]["grad_norm"].get<double>()).epsilon(1e-12));
    CHECK(gradients["norm_by_layer"].size() == 8);
    CHECK(b[k]["updates"]["ratio"] > 0);
    CHECK(b[k]["updates"]["ratio_p50"] <= b[k]["updates"]["ratio_p95"]);
    CHECK(b[k]["updates"]["ratio_p95"] <= b[k]["updates"]["ratio_max"]);
    // Parts are the mean of four ranks' steps, which all end with the same all-reduce.
    const double parts = time["compute_s"].get<double>() + time["host_s"].get<double>() +
                         time["idle_s"].get<double>() + sum_of(time["exposed_s"]) +
                         sum_of(time["waiting_s"]);
    CHECK(parts > 0);
    CHECK(time["pipeline_idle_s"] <= sum_of(time["waiting_s"]));
    CHECK(memory["peak_bytes"] >= memory["live_by_class"]["param"]);
    CHECK(memory["live_by_class"]["optim"] == memory["predicted_by_class"]["optim"]);
    REQUIRE(b[k]["experts"].size() == 7);  // the first layer is dense
    for (const Json& layer : b[k]["experts"]) {
      double all = 0;
      for (const Json& n : layer["choices"]) all += n.get<double>();
      CHECK(all == 8 * 32 * 2);  // of this step alone
      CHECK(layer["entropy"] <= 1);
      CHECK(layer["bias_spread"].get<double>() > 0);
    }
  }
}

TEST_CASE("metrics.every 1: experts of all steps are those that execute reports") {
  const TempDir folder;
  const Run r =
      execute(folder / "run", {"model=mixtral-tiny", "training.data.kind=random",
                               "training.global_batch=8", "training.metrics.every=1",
                               "model.moe.capacity_factor=0.75", "parallel.dp=2", "parallel.ep=2"});
  REQUIRE_MESSAGE(r.code == 0, r.err);
  const Json json = r.json();
  Json sums = Json::array();
  for (const Json& line : json_lines(folder / "run/metrics.jsonl")) {
    CHECK(line["dropped_share"].get<double>() ==
          doctest::Approx(line["dropped"].get<double>() / (8 * 32 * 2 * 8)));
    for (std::size_t l = 0; l < line["experts"].size(); ++l) {
      if (sums.size() <= l) sums.push_back(Json(std::vector<int>(8, 0)));
      for (std::size_t e = 0; e < 8; ++e)
        sums[l][e] = sums[l][e].get<int>() + line["experts"][l]["choices"][e].get<int>();
    }
  }
  REQUIRE(sums.size() == 8);
  for (std::size_t l = 0; l < 8; ++l) CHECK(json["experts"][l]["choices"] == sums[l]);
}

TEST_CASE("metrics.every is no part of the plan, and is told where it has no effect") {
  const std::string scenario = "scenarios/learn/01_one_rank.yaml";
  // Not by CHECK(a == b), which would print both.
  const bool same = test::tandem({"plan", scenario}).out ==
                    test::tandem({"plan", scenario, "--set", "training.metrics.every=1"}).out;
  CHECK(same);
  const Run idle = test::tandem({"validate", scenario, "--set", "training.metrics.every=1000"});
  CHECK(idle.code == 0);
  CHECK((idle.out + idle.err).find("training.metrics.every") != std::string::npos);
}
