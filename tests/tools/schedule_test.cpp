// Goal    tandem schedule gives the numbers of schedules.md 6 for every kind, reads and writes
//         orders, and says where something is wrong.
// Method  the program itself: every vector of section 6 by --json, in the units of the table (with
//         decimals where it has them); texts and pictures by hand; each refusal by code and words.
#include <doctest/doctest.h>

#include <algorithm>

#include "common/base/file.h"
#include "tests/tools/program.h"

using namespace tandem;
using namespace tandem::test;

namespace {

using Strings = std::vector<std::string>;

Strings arguments(const std::string& line) {
  Strings out = {"schedule"};
  for (std::size_t at = 0; at < line.size();) {
    const std::size_t end = std::min(line.find(' ', at), line.size());
    if (end > at) out.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

Run schedule(const std::string& line) { return test::tandem(arguments(line)); }

nlohmann::json json_of(const std::string& line) {
  const Run run = schedule(line + " --json");
  CAPTURE(line);
  CAPTURE(run.out);
  REQUIRE(run.code == 0);
  return run.json();
}

// Exit code, and code and title of the first error.
std::string refused(const std::string& line) {
  const Run run = schedule(line + " --json");
  if (run.code == 0) return "accepted";
  const auto error = run.json()["errors"][0];
  return std::to_string(run.code) + " " + error["code"].get<std::string>() + " " +
         error["title"].get<std::string>() + ": " + error["found"].get<std::string>();
}

}  // namespace

TEST_CASE("schedule: the vectors of schedules.md 6") {
  struct Row {
    const char* line;
    double makespan, span;  // span 0: not in the table
    std::vector<int> peak;  // one value: the largest; empty: not in the table
    double idle = -1;       // of each rank
  };
  const std::vector<Row> rows = {
      {"gpipe --ranks 4 --microbatches 8 --cost F=1,B=2", 33, 0, {8, 8, 8, 8}, 9},
      {"1f1b --ranks 4 --microbatches 8 --cost F=1,B=2", 33, 0, {4, 3, 2, 1}, 9},
      {"gpipe --ranks 4 --microbatches 8 --cost F=1,B=1", 22, 0, {8, 8, 8, 8}, 6},
      {"1f1b --ranks 4 --microbatches 8 --cost F=1,B=1", 22, 0, {4, 3, 2, 1}, 6},
      {"gpipe --ranks 2 --microbatches 4 --cost F=1,B=2", 15, 0, {}},
      {"1f1b --ranks 2 --microbatches 4 --cost F=1,B=2", 15, 0, {}},
      {"gpipe --ranks 4 --microbatches 4 --cost F=1,B=2", 21, 0, {}},
      {"1f1b --ranks 4 --microbatches 4 --cost F=1,B=2", 21, 0, {}},
      {"interleaved_1f1b --ranks 4 --microbatches 8 --stages-per-rank 2", 57, 0, {11, 9, 7, 5}},
      {"interleaved_1f1b --ranks 4 --microbatches 8 --opt overlap=true", 57, 0, {12, 10, 8, 6}},
      {"interleaved_1f1b --ranks 4 --microbatches 8 --stages-per-rank 4", 105, 0, {19, 17, 15, 13}},
      {"interleaved_1f1b --ranks 2 --microbatches 4 --stages-per-rank 2", 27, 0, {5, 3}},
      {"zb_h1 --ranks 4 --microbatches 8 --cost F=1,I=1,W=1", 27, 0, {4, 4, 4, 4}, 3},
      {"zb_h1 --ranks 4 --microbatches 12", 39, 0, {4, 4, 4, 4}},
      {"zb_h1 --ranks 4 --microbatches 8 --cost F=2,I=2,W=1", 49, 0, {4, 4, 4, 4}},
      {"interleaved_zb --ranks 4 --microbatches 8 --stages-per-rank 2", 51, 0, {8, 8, 8, 8}},
      {"zb_h2 --ranks 4 --microbatches 8", 27, 24, {7, 7, 7, 7}},
      {"zb_h2 --ranks 4 --microbatches 8 --cost F=2,I=2,W=1", 46, 46, {7, 7, 7, 7}},
      {"zbv --ranks 4 --microbatches 8", 51, 48, {8, 8, 8, 8}},
      {"zbv --ranks 4 --microbatches 8 --cost F=2,I=2,W=1", 86, 86, {8, 8, 8, 8}},
      {"v_half --ranks 4 --microbatches 8", 53, 53, {6}},
      {"v_half --ranks 4 --microbatches 12", 77, 77, {6}},
      {"v_min --ranks 4 --microbatches 8", 59, 59, {4}},
      {"v_min --ranks 4 --microbatches 12", 83, 83, {4}},
      {"zb_greedy --ranks 4 --microbatches 8 --memory-limit 4", 27, 27, {4, 4, 4, 4}},
      {"zb_greedy --ranks 4 --microbatches 8 --memory-limit 8 --opt objective=span",
       27,
       24,
       {8, 8, 8, 8}},
      {"seq1f1b --ranks 4 --microbatches 8 --cost F=1,B=2", 33, 0, {4, 3, 2, 1}},
      {"seq1f1b --ranks 4 --microbatches 8 --slices 2 --cost F=1,B=2", 57, 0, {5, 4, 3, 2}},
      {"dualpipe --ranks 4 --microbatches 8 --cost FB=3", 26, 0, {5, 5, 5, 5}},
      {"dualpipe --ranks 4 --microbatches 8 --cost F=1,I=1,W=1,FB=2.5", 24, 0, {5, 5, 5, 5}},
      {"dualpipe --ranks 4 --microbatches 8 --cost FB=2", 22, 0, {5, 5, 5, 5}},
      {"dualpipev --ranks 2 --microbatches 8 --cost FB=3", 50, 0, {5, 5}},
      {"dualpipev --ranks 2 --microbatches 8 --cost FB=2.5", 44, 0, {5, 5}},
      {"dualpipev --ranks 2 --microbatches 8 --cost FB=2", 38, 0, {5, 5}},
      {"chimera --ranks 4 --microbatches 4 --cost F=1,B=1", 10, 0, {3, 4, 4, 3}},
      {"chimera --ranks 4 --microbatches 4 --cost F=1,B=2", 16, 0, {3, 4, 4, 3}},
      {"hanayo --ranks 3 --microbatches 3 --opt waves=1 --cost F=0.5,B=1", 13, 0, {}},
      {"hanayo --ranks 3 --microbatches 3 --opt waves=2 --cost F=0.25,B=0.5", 11, 0, {}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.line);
    const auto r = json_of(row.line);
    CHECK(r["valid"] == true);
    CHECK(r["makespan"] == row.makespan);
    if (row.span > 0) CHECK(r["span"] == row.span);
    const std::vector<int> peak = r["peak_visits"];
    if (row.peak.size() == 1)
      CHECK(*std::max_element(peak.begin(), peak.end()) == row.peak[0]);
    else if (!row.peak.empty())
      CHECK(peak == row.peak);
    if (row.idle >= 0)
      for (const auto& idle : r["idle"]) CHECK(idle == row.idle);
  }
}

// p 2, m 4, F 1, I 1, W 1: 12 units of work; the bubble of zb_h1 is (p - 1) max(F, I, F+I-W) = 1.
TEST_CASE("schedule --json: every key, by hand") {
  const auto r = json_of("zb_h1 --ranks 2 --microbatches 4");
  CHECK(r["kind"] == "zb_h1");
  CHECK(r["makespan"] == 13);
  CHECK(r["ideal"] == 12);
  CHECK(r["bubble_makespan"] == 1);
  CHECK(r["bubble_makespan_ratio"].get<double>() == doctest::Approx(1.0 / 13));
  CHECK(r["bubble_span"] == r["span"].get<int>() - 12);
  CHECK(r["busy"] == nlohmann::json({12, 12}));
  CHECK(r["idle"] == nlohmann::json({1, 1}));
  CHECK(r["peak_visits"] == nlohmann::json({2, 2}));
  CHECK(r["peak_visits_input"] == nlohmann::json({2, 1}));
  CHECK(r["actions"] == 24);
  CHECK(r["transfers"] == 8);  // 2 (p - 1) a microbatch
  CHECK(r["placement"] == "linear");
  CHECK(r["valid"] == true);
  // The whole path waits for hops: forth and back over one edge.
  const auto hop = json_of("gpipe --ranks 2 --microbatches 1 --cost F=1,B=2 --hop 0.25");
  CHECK(hop["makespan"] == 6.5);
  CHECK(hop["idle"] == nlohmann::json({3.5, 3.5}));
  // In a unit of a thousandth nothing is lost.
  CHECK(json_of("1f1b --ranks 4 --microbatches 8 --cost F=0.001,B=0.002")["makespan"] == 0.033);
}

TEST_CASE("schedule --cost: B, what is left of it, and costs by stage") {
  const auto makespan = [](const std::string& cost) {
    return json_of("zb_h1 --ranks 1 --microbatches 1 --cost " + cost)["makespan"].get<double>();
  };
  CHECK(makespan("F=1,B=3") == 4);
  CHECK(makespan("F=1,B=3,I=1") == 4);
  CHECK(makespan("F=1,B=3,W=2.5") == 4);
  CHECK(makespan("W=5") == 7);
  TempDir dir;
  spill(dir / "c.csv", "stage,F,I,W\n0,1,1,1\n1,0.5,2,1\n");
  const auto r = json_of("gpipe --ranks 2 --microbatches 1 --costs " + dir / "c.csv");
  CHECK(r["makespan"] == 1 + 0.5 + 3 + 2);
  CHECK(r["busy"] == nlohmann::json({3, 3.5}));
  CHECK(refused("gpipe --ranks 3 --microbatches 1 --costs " + dir / "c.csv") ==
        "3 E-SCHED-001 a table of costs of another number of stages: 2 stages");
  CHECK(refused("zb_greedy --ranks 3 --microbatches 1 --costs " + dir / "c.csv")
            .starts_with("4 E-PLAN-001 sched/zb_greedy: 2 costs for 3 stages"));
  spill(dir / "d.csv", "stage,F,I,W\n0,1,1,1\n1,1,x,1\n");
  const Run bad = schedule("gpipe --ranks 2 --microbatches 1 --costs " + dir / "d.csv");
  CHECK(bad.code == 3);
  CHECK(bad.err.find("d.csv:3:1: error E-SCHED-001") != std::string::npos);
}

TEST_CASE("schedule: pictures and texts, by hand") {
  CHECK(schedule("1f1b --ranks 2 --microbatches 3 --cost F=1,B=1 --grid").out ==
        "rank 0  F0 F1 .  B0 F2 B1 .  B2\n"
        "rank 1  .  F0 B0 F1 B1 F2 B2 .\n");
  CHECK(schedule("gpipe --ranks 2 --microbatches 1 --cost F=1,B=2 --grid").out ==
        "rank 0  F0 .  .  .  B0 -\n"
        "rank 1  .  F0 B0 -  .  .\n");
  CHECK(schedule("1f1b --ranks 3 --microbatches 4 --csv").out ==
        "0F0,0F1,0F2,0B0,0F3,0B1,0B2,0B3\n"
        "1F0,1F1,1B0,1F2,1B1,1F3,1B2,1B3\n"
        "2F0,2B0,2F1,2B1,2F2,2B2,2F3,2B3\n");
  CHECK(schedule("zbv --ranks 1 --microbatches 1 --to tandem").out ==
        "#tandem order v1 p=1 stages=2 place=loop mb=1 kind=compute gen=zbv:p=1,m=1\n" +
            schedule("zbv --ranks 1 --microbatches 1 --to torch").out);
  // Sends and receives by policy: rank 0 posts both receives at once, or each when it needs it.
  const std::string p2p = "gpipe --ranks 2 --microbatches 2 --dump-after p2p";
  CHECK(schedule(p2p).out ==
        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD\n"
        "1RECV_F0,1F0,1RECV_F1,1F1,1B0,1SEND_B0,1B1,1SEND_B1,1REDUCE_GRAD\n");
  CHECK(schedule("zb_h1 --ranks 1 --microbatches 1 --dump-after backward").out == "0F0,0B0\n");
  CHECK(schedule("zb_h1 --ranks 1 --microbatches 1 --dump-after backward --opt first_stage=keep")
            .out == "0F0,0I0,0W0\n");
  // L3 and L6 of schedules.md 4.8: whole stages stay gathered while they are among the next three.
  TempDir dir;
  spill(dir / "l3.csv", "0F0,0F1,1F0,1F1,1B0,1B1,0B0,0B1\n");
  const std::string l3 = "--file " + dir / "l3.csv" + " --dump-after unshard --opt residency=";
  CHECK(schedule(l3 + "window(3)").out ==
        "0UNSHARD,1UNSHARD,0F0,0F1,1F0,1F1,1B0,1B1,1RESHARD,0B0,0B1,0RESHARD\n");
  CHECK(schedule(l3 + "window(1)").out ==
        "0UNSHARD,0F0,0F1,0RESHARD,1UNSHARD,1F0,1F1,1B0,1B1,1RESHARD,0UNSHARD,0B0,0B1,0RESHARD\n");
  CHECK(schedule(l3 + "visit").out == "0F0,0F1,1F0,1F1,1B0,1B1,0B0,0B1\n");
  const std::string l6 =
      schedule(
          "interleaved_1f1b --ranks 2 --microbatches 4 --stages-per-rank 2 --dump-after p2p --opt "
          "residency=window(3)")
          .out;
  CHECK(l6.substr(0, l6.find('\n')) ==
        "0UNSHARD,2UNSHARD,0F0,0SEND_F0,2RECV_F0,0F1,0SEND_F1,2RECV_F1,2F0,2SEND_F0,2F1,2SEND_F1,"
        "2RECV_B0,0F2,0SEND_F2,2B0,2SEND_B0,2RECV_B1,0F3,0SEND_F3,2RECV_F2,2B1,2SEND_B1,0RECV_B0,"
        "2F2,2SEND_F2,2RECV_F3,0B0,0RECV_B1,2F3,2SEND_F3,0B1,2RECV_B2,2B2,2SEND_B2,2RECV_B3,2B3,"
        "2SEND_B3,2REDUCE_GRAD,2RESHARD,0RECV_B2,0B2,0RECV_B3,0B3,0REDUCE_GRAD,0RESHARD");
  // Parts of a cell count together: with one stage to stay, a cell of two keeps both.
  CHECK(schedule("dualpipev --ranks 1 --microbatches 2 --dump-after unshard --opt "
                 "residency=window(1)")
            .out ==
        "0UNSHARD,0F0,0RESHARD,1UNSHARD,1F0,1RESHARD,0UNSHARD,0F1,0RESHARD,1UNSHARD,1B0,0UNSHARD,"
        "(1F1;0B0)OVERLAP_F_B,0RESHARD,1B1,1RESHARD,0UNSHARD,0B1,0RESHARD\n");
  const Run text = schedule("zb_h2 --ranks 4 --microbatches 8 --cost F=2,I=2,W=1");
  CHECK(text.out.find("makespan    46     40       6        13.0 %        15.0 %") !=
        std::string::npos);
  CHECK(text.out.find("note: no zero bubble with these costs: 6 of the span") != std::string::npos);
  CHECK(schedule("zbv --ranks 4 --microbatches 3").out.find("note: m=3 is smaller than 2p-1=7") !=
        std::string::npos);
}

TEST_CASE("schedule --file: what was written is read; errors are in the file") {
  TempDir dir;
  for (const char* kind : {"dualpipe", "zbv", "seq1f1b --slices 3", "chimera"}) {
    const std::string shape = std::string(kind) + " --ranks 4 --microbatches 8";
    spill(dir / "x.csv", schedule(shape + " --to tandem").out);
    const auto made = json_of(shape), read = json_of("--file " + dir / "x.csv");
    CAPTURE(kind);
    for (const char* key : {"makespan", "span", "idle", "peak_visits", "peak_visits_input",
                            "actions", "transfers", "placement", "microbatches"})
      CHECK(read[key] == made[key]);
    CHECK(read["kind"] == "file");
  }
  const auto torch =
      json_of("--file tests/common/schedule/torch/zbv_p4_m8_comms.csv --dialect torch");
  CHECK(torch["makespan"] == 51);
  CHECK(torch["span"] == 48);
  CHECK(schedule("--file tests/common/schedule/torch/zbv_p2_m4_comms.csv --dialect torch "
                 "--dump-after compute")
            .out == schedule("zbv --ranks 2 --microbatches 4 --csv").out);
  // N0 of schedules.md 5.2.
  spill(dir / "n0.csv", "0F0,0B0,0F1,0B1\n1F1,1F0,1B0,1B1\n");
  const Run n0 = schedule("--file " + dir / "n0.csv");
  CHECK(n0.code == 4);
  CHECK(n0.err.find("V4 cycle of 4: rank 0 0B0 needs rank 1 1B0") != std::string::npos);
  CHECK(n0.err.find("<-- ERROR HERE") != std::string::npos);
  CHECK(schedule("--file " + dir / "n0.csv --json").json()["valid"] == false);
  spill(dir / "bad.csv", "0F0,0B0\n1F0, 1B0x\n");
  const Run bad = schedule("--file " + dir / "bad.csv");
  CHECK(bad.code == 3);
  CHECK(bad.err.find("bad.csv:2:9: error E-PLAN-003: l1:2:9: trailing text \"x\" after action "
                     "\"1B0\" in cell \"1B0x\"\n    2 | 1F0, 1B0x\n") != std::string::npos);
  const Run first = schedule("--file tests/common/schedule/torch/1f1b_p4_m4.csv --dialect torch");
  CHECK(first.code == 3);
  CHECK(first.err.find("1f1b_p4_m4.csv:4: error E-PLAN-022: V2.1 rank 3: no F of stage 3 mb 0") !=
        std::string::npos);
}

// The folder of a run holds all that its plan came from.
TEST_CASE("plan of schedule kind file: its folder makes the same plan") {
  TempDir dir;
  spill(dir / "zbv.csv", schedule("zbv --ranks 2 --microbatches 4 --csv").out);
  spill(dir / "s.yaml",
        "tandem: 1\nmodel: {preset: gpt-tiny, layers: 4}\ntraining: {global_batch: 4, micro_batch: "
        "1}\n"
        "parallel: {pp: 2}\nschedule: {kind: file, file: zbv.csv}\n");
  const Run made = test::tandem({"plan", dir / "s.yaml", "-o", dir / "run", "--json"});
  CAPTURE(made.out);
  REQUIRE(made.code == 0);
  CHECK(slurp(dir / "run/order.csv") == slurp(dir / "zbv.csv"));
  const auto inputs = nlohmann::json::parse(slurp(dir / "run/manifest.json"))["inputs"];
  CHECK(inputs.dump().find("zbv.csv") != std::string::npos);
  const Run again = test::tandem({"plan", dir / "run/scenario.yaml", "--json"});
  REQUIRE(again.code == 0);
  CHECK(again.json()["plan_id"] == made.json()["plan_id"]);
}

TEST_CASE("schedule --svg: a file of XML") {
  TempDir dir;
  const Run run =
      schedule("dualpipev --ranks 4 --microbatches 8 --cost FB=2.5 --svg " + dir / "x.svg");
  CHECK(run.code == 0);
  const std::string svg = slurp(dir / "x.svg");
  CHECK(svg.starts_with("<svg xmlns="));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(svg.find("dualpipev: makespan ") != std::string::npos);
  CHECK(run.err.find("wrote ") != std::string::npos);
}

TEST_CASE("schedule all: one table, in microbatches on a whole rank") {
  const auto r = json_of("all --ranks 4 --microbatches 8");
  CHECK(r["rows"].size() == 17);
  const auto row = [&](const char* kind) {
    for (const auto& entry : r["rows"])
      if (entry["kind"] == kind) return entry;
    return nlohmann::json();
  };
  // Bubbles of schedules.md 2.0, visits of a half: (p-1) T / 2 and the like.
  CHECK(row("1f1b")["bubble_makespan"] == 9);
  CHECK(row("interleaved_1f1b")["bubble_makespan"] == 4.5);
  CHECK(row("zbv")["bubble_makespan"] == 1.5);
  CHECK(row("zbv")["bubble_span"] == 0);
  CHECK(row("v_min")["peak_microbatches"] == 2);
  CHECK(row("dualpipe")["copies"] == 2);
  CHECK(row("1f1b")["transfers"] == 48);
  CHECK(row("zbv")["transfers"] == 96);
  for (const auto& entry : r["rows"]) CHECK(entry["ideal"] == 24);
  // A step of kinds that cannot: which and why.
  const Run odd = schedule("all --ranks 3 --microbatches 7");
  CHECK(odd.code == 0);
  CHECK(odd.out.find("sched/dualpipe: p=3 is odd") != std::string::npos);
  CHECK(odd.out.find("sched/chimera: p=3 is odd") != std::string::npos);
}

TEST_CASE("schedule: what is refused") {
  const std::string shape = " --ranks 2 --microbatches 2";
  CHECK(refused("") == "2 E-CLI-003 an argument is missing: neither KIND nor --file");
  CHECK(refused("1f1b --ranks 2") == "2 E-CLI-003 an argument is missing: no --microbatches");
  CHECK(refused("1f1c" + shape) == "2 E-CLI-004 an option has a wrong value: kind 1f1c");
  CHECK(refused("1f1b --ranks 0 --microbatches 2").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b" + shape + " --cost G=1").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b" + shape + " --cost F=-1").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b" + shape + " --cost F=1e3").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b" + shape + " --cost F=1,F=2").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b" + shape + " --cost F=0,B=0").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b" + shape + " --cost B=1,I=2") ==
        "2 E-CLI-004 an option has a wrong value: B=1 below its part 2");
  CHECK(refused("dualpipe --ranks 2 --microbatches 4 --cost FB=1.5") ==
        "2 E-CLI-004 an option has a wrong value: FB=1.5 with F=1, B=2");
  CHECK(refused("1f1b" + shape + " --hop x").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b" + shape + " --opt backward") ==
        "2 E-CLI-004 an option has a wrong value: --opt backward");
  CHECK(refused("1f1b" + shape + " --opt slices=2") ==
        "4 E-PLAN-001 sched/1f1b: slices is not an option of this kind; only seq1f1b takes it; "
        "drop it: slices=2");
  CHECK(refused("1f1b" + shape + " --memory-limit 2").starts_with("4 E-PLAN-001 sched/1f1b: memo"));
  CHECK(refused("seq1f1b" + shape + " --slices 2 --opt slices=2").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b" + shape + " --opt receive=early").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b" + shape + " --dump-after p2p --opt receive=late") ==
        "2 E-CLI-004 an option has a wrong value: --opt receive=late");
  CHECK(refused("1f1b" + shape + " --opt grouping=runs").starts_with("2 E-CLI-008 "));
  CHECK(refused("1f1b" + shape + " --dialect torch").starts_with("2 E-CLI-005 "));
  CHECK(refused("1f1b" + shape + " --file x.csv").starts_with("2 E-CLI-005 "));
  CHECK(refused("--file x.csv --ranks 2").starts_with("2 E-CLI-005 "));
  CHECK(refused("--file nothing.csv").starts_with("3 E-IO-001 "));
  CHECK(refused("--file x.csv --dialect Torch") ==
        "2 E-CLI-004 an option has a wrong value: --dialect Torch");
  CHECK(refused("seq1f1b" + shape + " --slices 2 --to torch")
            .starts_with("4 E-PLAN-005 PyTorch's text has no slices"));
  CHECK(refused("chimera" + shape + " --to torch")
            .starts_with("4 E-PLAN-005 PyTorch's text has no directions"));
  CHECK(refused("all" + shape + " --grid").starts_with("2 E-CLI-005 "));
  CHECK(refused("all" + shape + " --opt colour=red").starts_with("2 E-CLI-004 "));
  CHECK(refused("1f1b --ranks 4000000 --microbatches 4000000")
            .starts_with("4 E-PLAN-004 sched/1f1b: the order is too large"));
  CHECK(refused("zb_greedy --ranks 100 --microbatches 1000")
            .starts_with("4 E-PLAN-004 sched/zb_greedy: the order is too large"));
  CHECK(
      refused("1f1b --ranks 100 --microbatches 1000 --svg /tmp/x.svg").starts_with("2 E-CLI-012 "));
}
