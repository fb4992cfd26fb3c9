// Goal: tandem plan and tandem simulate: views, JSON keys, plan files, what is refused and how.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "tests/common/plan/chakra_decoder.h"
#include "tests/tools/program.h"

using namespace tandem;
using namespace tandem::test;

namespace {
const std::string kPipeline = "scenarios/learn/05_1f1b.yaml";
const std::string kAxes = "scenarios/learn/06_three_axes.yaml";
}  // namespace

TEST_CASE("plan: the canonical text, which reads back to itself") {
  const Run run = test::tandem({"plan", kPipeline});
  CHECK(run.code == 0);
  CHECK(run.err.empty());
  const auto plan = parse_plan(run.out, "plan.txt");
  REQUIRE(plan.ok());
  CHECK(print(*plan) == run.out);
  CHECK(test::tandem({"plan", kPipeline, "--format", "text"}).out == run.out);

  const auto json = test::tandem({"plan", kPipeline, "--json"}).json();
  CHECK(json["plan_id"] == plan_id_of_text(run.out));
  CHECK(json["ops"] == plan->ops.size());
  CHECK(json["programs"] == plan->programs.size());
  CHECK(json["communicators"].size() == plan->communicators.size());
  CHECK(json["deadlock_free"] == true);
  CHECK(json["errors"].empty());
}

// 1F1B keeps min(p - r, m) microbatches in flight on pipeline rank r; one message is b*S*H
// elements.
TEST_CASE("plan --json: in-flight counts of 1f1b and bytes of its edges, by hand") {
  const auto json =
      test::tandem({"plan", "scenarios/quickstart.yaml", "--json", "--set", "parallel.pp=4"})
          .json();
  CHECK(json["peak_in_flight"] == nlohmann::json({4, 3, 2, 1}));
  // 8 microbatches of 2 sequences of 128 tokens of width 256 in fp32, over each edge and direction.
  for (const char* edge : {"edge:0->1", "edge:1->2", "edge:2->3", "edge:3->2"})
    CHECK(json["bytes_by_communicator"][edge] == 8 * 2 * 128 * 256 * 4);
}

TEST_CASE("plan --grid: the picture of gpipe and of 1f1b, by hand") {
  const auto grid = [](const char* kind) {
    return test::tandem({"plan", "scenarios/quickstart.yaml", "--grid", "--set",
                         std::string("schedule=") + kind, "--set", "training.global_batch=6"})
        .out;
  };
  CHECK(grid("gpipe") ==
        "rank 0  F0 F1 F2 .  .  B0 B1 B2\n"
        "rank 1  .  F0 F1 F2 B0 B1 B2 .\n");
  CHECK(grid("1f1b") ==
        "rank 0  F0 F1 .  B0 F2 B1 .  B2\n"
        "rank 1  .  F0 B0 F1 B1 F2 B2 .\n");
}

// models.md 3.1: W8, t2, p2, d2.
TEST_CASE("plan --groups: the groups of tp 2, dp 2, pp 2") {
  const auto groups = test::tandem({"plan", kAxes, "--groups", "--json"}).json()["groups"];
  using List = std::vector<std::vector<int>>;
  CHECK(groups["tp"] == List{{0, 1}, {2, 3}, {4, 5}, {6, 7}});
  CHECK(groups["dp"] == List{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
  CHECK(groups["pp"] == List{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  const Run text = test::tandem({"plan", kAxes, "--groups"});
  CHECK(text.out.find("dp           0,2 1,3 4,6 5,7\n") != std::string::npos);
}

// models.md 3.2, every row. An axis that the table marks "-" has groups of one.
TEST_CASE("plan --groups: the groups of mapping nano_train") {
  using List = std::vector<std::vector<int>>;
  const auto groups = [](int tp, int pp, int ep, int dp) {
    const auto set = [](const char* field, int size) {
      return std::string("parallel.") + field + "=" + std::to_string(size);
    };
    return test::tandem({"plan", "scenarios/learn/13_experts.yaml", "--groups", "--json", "--set",
                         "parallel.mapping=nano_train", "--set", set("tp", tp), "--set",
                         set("pp", pp), "--set", set("ep", ep), "--set", set("dp", dp), "--set",
                         "training.micro_batch=1", "--set", "training.global_batch=16"})
        .json()["groups"];
  };
  auto g = groups(2, 2, 2, 1);  // W8 t2 p2 e2
  CHECK(g["tp"] == List{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
  CHECK(g["ep"] == List{{0, 1}, {2, 3}, {4, 5}, {6, 7}});
  CHECK(g["pp"] == List{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  CHECK(g["dp"] == List{{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}});
  CHECK(g["edp"] == List{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
  g = groups(1, 2, 2, 1);  // W4 p2 e2
  CHECK(g["ep"] == List{{0, 1}, {2, 3}});
  CHECK(g["pp"] == List{{0, 2}, {1, 3}});
  CHECK_FALSE(g.contains("edp"));
  g = groups(2, 1, 1, 2);  // W4 t2
  CHECK(g["tp"] == List{{0, 1}, {2, 3}});
  CHECK(g["dp"] == List{{0, 2}, {1, 3}});
  CHECK(g["edp"] == List{{0, 1, 2, 3}});
  CHECK_FALSE(g.contains("ep"));
  g = groups(2, 1, 2, 2);  // W8 t2 e2
  CHECK(g["tp"] == List{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
  CHECK(g["ep"] == List{{0, 1}, {2, 3}, {4, 5}, {6, 7}});
  CHECK(g["dp"] == List{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  CHECK(g["edp"] == List{{0, 2, 4, 6}, {1, 3, 5, 7}});
  CHECK(g["dp_ep"] == List{{0, 1, 4, 5}, {2, 3, 6, 7}});
  g = groups(1, 2, 2, 2);  // W8 p2 e2
  CHECK(g["ep"] == List{{0, 1}, {2, 3}, {4, 5}, {6, 7}});
  CHECK(g["pp"] == List{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
  CHECK(g["dp"] == List{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  CHECK(g["edp"] == List{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
  g = groups(2, 2, 2, 2);  // W16
  CHECK(g["tp"] == List{{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}});
  CHECK(g["ep"] == List{{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}, {12, 13}, {14, 15}});
  CHECK(g["pp"] == List{{0, 4}, {1, 5}, {2, 6}, {3, 7}, {8, 12}, {9, 13}, {10, 14}, {11, 15}});
  CHECK(g["dp"] == List{{0, 8}, {1, 9}, {2, 10}, {3, 11}, {4, 12}, {5, 13}, {6, 14}, {7, 15}});
  CHECK(g["edp"] == List{{0, 2, 8, 10}, {1, 3, 9, 11}, {4, 6, 12, 14}, {5, 7, 13, 15}});
}

TEST_CASE("plan --format csv has a row an op, dot a node an op; large pictures are refused") {
  const auto json = test::tandem({"plan", kPipeline, "--json"}).json();
  const Run csv = test::tandem({"plan", kPipeline, "--format", "csv"});
  CHECK(std::count(csv.out.begin(), csv.out.end(), '\n') == json["ops"].get<int>() + 1);
  CHECK(csv.out.starts_with("op,program,stream,kind,"));
  const Run slices = test::tandem({"plan", "scenarios/learn/21_slices.yaml", "--format", "csv"});
  CHECK(slices.out.find(",microbatch,slice,") != std::string::npos);
  CHECK(slices.out.find(",compute,F,warm_up,0,0,1,2,") !=
        std::string::npos);  // layer 0, mb 1, slice 2
  const Run dot = test::tandem({"plan", kPipeline, "--format", "dot"});
  CHECK(dot.out.starts_with("digraph plan {"));
  std::size_t nodes = 0;
  for (auto at = dot.out.find(" [label="); at != std::string::npos;
       at = dot.out.find(" [label=", at + 1))
    ++nodes;
  CHECK(nodes == json["ops"].get<std::size_t>());

  const Run large = test::tandem({"plan", "scenarios/quickstart.yaml", "--format", "dot", "--set",
                                  "training.global_batch=256"});
  CHECK(large.code == 2);
  CHECK(large.err.find("E-CLI-012") != std::string::npos);
  CHECK(large.err.find("training.global_batch") != std::string::npos);
}

// The files of all ranks; what a rank of each program hands over sums to what --stats prints.
TEST_CASE("plan --format chakra: a trace a rank, bytes as --stats, and nothing replaced unasked") {
  const TempDir dir;
  const std::string prefix = dir / "deep/axes";
  const std::vector<std::string> command = {"plan", kAxes,  "--format", "chakra",
                                            "-o",   prefix, "--json"};
  const Run run = test::tandem(command);
  REQUIRE(run.code == 0);
  const auto json = run.json();
  CHECK(json["paths"].size() == 8);
  CHECK(json["launch_order"] == true);
  const auto groups = nlohmann::json::parse(slurp(json["groups_path"].get<std::string>()));

  const auto plan = parse_plan(test::tandem({"plan", kAxes}).out, "plan.txt");
  REQUIRE(plan.ok());
  std::map<std::string, std::int64_t> bytes;
  std::int64_t size = 0, computing_us = 0;
  for (int r = 0; r < 8; ++r) {
    const std::string path = prefix + "." + std::to_string(r) + ".et";
    CHECK(json["paths"][static_cast<std::size_t>(r)] == path);
    const std::string file = slurp(path);
    size += static_cast<std::int64_t>(file.size());
    const chakra::Trace trace = chakra::decode(file);
    CHECK(trace.plan_id == json["plan_id"]);
    if (r != 0 && r != 4) continue;  // one of each program
    for (const chakra::Node& n : trace.nodes) {
      computing_us += static_cast<std::int64_t>(n.duration_micros);
      if (n.type == chakra::kSend)
        bytes[r == 0 ? "edge:0->1" : "edge:1->0"] += n.number("comm_size");
      if (n.type != chakra::kColl) continue;
      // The group is one of this rank, and of the communicator of the op with the node's id.
      const Op& op = plan->op(OpId{static_cast<std::int64_t>(n.id)});
      std::vector<int> members;
      for (Rank m : plan->members(op.comm, Rank{r})) members.push_back(m.value);
      CHECK(groups[n.attr.at("pg_name").text] == members);
      bytes[plan->name(plan->communicators[op.comm.index()].name)] += n.number("comm_size");
    }
  }
  CHECK(json["bytes"] == size);
  CHECK(computing_us > 0);
  const auto stats = test::tandem({"plan", kAxes, "--stats", "--json"}).json();
  for (const auto& [name, count] : stats["bytes_by_communicator"].items())
    CHECK(bytes[name] == count.get<std::int64_t>());

  // A second time only with --force, and then the same bytes; a plan file has no durations.
  const std::string first = slurp(prefix + ".7.et");
  const Run again = test::tandem(command);
  CHECK(again.code == 2);
  CHECK(again.json()["errors"][0]["code"] == "E-CLI-006");
  std::vector<std::string> forced = command;
  forced.push_back("--force");
  CHECK(test::tandem(forced).code == 0);
  CHECK(slurp(prefix + ".7.et") == first);
  spill(dir / "plan.txt", test::tandem({"plan", kAxes}).out);
  const auto of_file =
      test::tandem({"plan", dir / "plan.txt", "--format", "chakra", "-o", dir / "file", "--json"})
          .json();
  CHECK(of_file["durations"] == false);
  for (const chakra::Node& n : chakra::decode(slurp(dir / "file.0.et")).nodes)
    CHECK(n.duration_micros == 0);
}

TEST_CASE("plan --stats and --dump-after") {
  const auto json = test::tandem({"plan", kPipeline, "--stats", "--json"}).json();
  int ops = 0;
  for (const auto& program : json["stats"]["programs"]) ops += program["ops"].get<int>();
  CHECK(ops == json["ops"]);
  const Run order = test::tandem({"plan", kPipeline, "--dump-after", "order"});
  CHECK(order.code == 0);
  CHECK(order.out.starts_with("0F0,"));
  CHECK(test::tandem({"plan", kPipeline, "--dump-after", "buffers"}).out ==
        test::tandem({"plan", kPipeline}).out);
}

TEST_CASE("plan: what is refused on the command line") {
  const auto code_of = [](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"plan", kPipeline, "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Run run = test::tandem(arguments);
    CHECK(run.code == 2);
    return run.json()["errors"][0]["code"].get<std::string>();
  };
  const TempDir dir;
  CHECK(code_of({"--format", "chakra"}) == "E-CLI-003");
  CHECK(code_of({"--format", "chakra", "-o", dir / ""}) == "E-CLI-004");
  CHECK(code_of({"--format", "chakra", "-o", dir / "emptyish"}) == "E-CLI-004");
  CHECK(code_of({"--format", "chakra", "-o", dir / "x", "--dump-after", "order"}) == "E-CLI-005");
  CHECK(test::tandem({"plan", kPipeline, "--format", "png"}).code == 2);
  const Run step = test::tandem({"plan", kPipeline, "--dump-after", "ordr"});
  CHECK(step.code == 2);
  CHECK(step.err.find("did you mean \"order\"?") != std::string::npos);
}

TEST_CASE("a plan file: shown, verified, simulated on a cluster; --set of its contents refused") {
  const TempDir dir;
  spill(dir / "plan.txt", test::tandem({"plan", kPipeline}).out);
  CHECK(test::tandem({"plan", dir / "plan.txt"}).out == slurp(dir / "plan.txt"));
  const Run none = test::tandem({"simulate", dir / "plan.txt"});
  CHECK(none.code == 2);
  CHECK(none.err.find("--cluster local") != std::string::npos);
  const Run set =
      test::tandem({"simulate", dir / "plan.txt", "--cluster", "local", "--set", "parallel.tp=2"});
  CHECK(set.code == 2);
  CHECK(set.err.find("E-CLI-005") != std::string::npos);
  CHECK(test::tandem({"plan", dir / "plan.txt", "--dump-after", "order"}).code == 2);

  const Run file = test::tandem(
      {"simulate", dir / "plan.txt", "--cluster", "local", "-o", dir / "file", "--json"});
  REQUIRE(file.code == 0);
  const Run scenario = test::tandem({"simulate", kPipeline, "-o", dir / "scenario", "--json"});
  CHECK(file.json()["iteration_s"] == scenario.json()["iteration_s"]);
  CHECK(file.json()["plan_id"] == scenario.json()["plan_id"]);

  // A dependency on itself.
  std::string broken = slurp(dir / "plan.txt");
  const auto at = broken.find(" waits=");
  REQUIRE(at != std::string::npos);
  broken.replace(at, 7, " waits=999999,");
  spill(dir / "broken.txt", broken);
  const Run bad = test::tandem({"plan", dir / "broken.txt", "--json"});
  CHECK(bad.code == 3);
  CHECK(bad.json()["errors"][0]["code"].get<std::string>().starts_with("E-PLAN-"));
  CHECK(bad.json()["errors"][0]["line"].get<int>() > 0);
}

TEST_CASE("simulate --json: every key, and numbers that hang together") {
  const TempDir dir;
  const auto json =
      test::tandem({"simulate", "scenarios/quickstart.yaml", "-o", dir / "r", "--json"}).json();
  for (const char* key : {"iteration_s", "tokens_per_s", "mfu", "bubble", "exposed_comm_s",
                          "peak_bytes", "by_class", "simulated_events", "wall_s"})
    CHECK(json.contains(key));
  const double step = json["iteration_s"];
  CHECK(json["tokens_per_s"].get<double>() == doctest::Approx(16 * 128 / step));
  double sum = 0;
  for (const auto& [name, seconds] : json["time_s"].items()) sum += seconds.get<double>();
  CHECK(sum <= step * 1.0001);
  CHECK(sum > step * 0.9);
  REQUIRE(json["peak_bytes"].size() == 2);
  std::int64_t bytes = 0;
  for (const auto& [name, n] : json["by_class"].items()) bytes += n.get<std::int64_t>();
  CHECK(bytes == std::max(json["peak_bytes"][0].get<std::int64_t>(),
                          json["peak_bytes"][1].get<std::int64_t>()));
  auto predicted = nlohmann::json::parse(slurp(dir / "r/summary.json"))["predicted"];
  CHECK(!predicted.contains("wall_s"));
  for (const auto& [key, value] : predicted.items()) CHECK(json[key] == value);
}

// The quickstart's plan needs 84 MiB on rank 0 (mains, gradients and two AdamW states of 3.3 M
// parameters take 50 MiB alone).
TEST_CASE("simulate: memory that is not there is 4, with the classes at the peak") {
  const TempDir dir;
  const Run run = test::tandem({"simulate", "scenarios/quickstart.yaml", "-o", dir / "r", "--set",
                                "cluster.preset=local", "--set", "cluster.device.memory=32 MiB"});
  CHECK(run.code == 4);
  CHECK(run.out.empty());
  CHECK(run.err.find("E-PLAN-080") != std::string::npos);
  for (const char* word : {"optim", "param", "grad"})
    CHECK(run.err.find(word) != std::string::npos);
  CHECK(slurp(dir / "r/manifest.json").empty());
}

TEST_CASE("a calibration that is not there is 3; faults of the scenario keep their class") {
  const TempDir dir;
  const Run none = test::tandem(
      {"simulate", kPipeline, "-o", dir / "r", "--set", "cluster.calibration=nothing.cal.json"});
  CHECK(none.code == 3);
  CHECK(none.err.find("nothing.cal.json") != std::string::npos);
  CHECK(test::tandem({"simulate", kPipeline, "--set", "parallel.pp=16"}).code == 4);
  CHECK(test::tandem({"plan", kPipeline, "--set", "schedule=zzz"}).code == 3);
  CHECK(test::tandem({"simulate", kPipeline, "--cluster", "dgx-a1000"}).err.find("dgx-a100") !=
        std::string::npos);
}
