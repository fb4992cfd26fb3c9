// Goal    `tandem model` prints the numbers of the closed forms and of the plan, under stable keys.
// Method  the program itself; figures by hand for gpt-tiny (models.md 2.7, 7.2), and the rule that
//         tables are aligned and exit codes right.
#include <doctest/doctest.h>

#include "tests/tools/program.h"
#include "tools/table.h"

using namespace tandem;
using namespace tandem::tools;

TEST_CASE("model: parameters, FLOPs and memory of one rank") {
  const auto run = test::tandem({"model", "scenarios/learn/01_one_rank.yaml", "--json"});
  REQUIRE(run.code == 0);
  const auto json = run.json();
  CHECK(json["ok"] == true);
  CHECK(json["parameters"] == 418'432);
  CHECK(json["flops_per_step"] == 655'097'856);  // flops_test.cpp, by hand
  CHECK(json["parameter_table"]["tensors"] == 132);
  CHECK(json["parameter_table"]["by_module"]["mlp"] == 8 * (2 * 64 * 256 + 256 + 64));
  CHECK(json["flops"]["six_n"] == 6 * 418'432 * 256);
  // Flash computes the scores of 8 layers, 8 sequences, 528 pairs, 4 heads of 16 once more.
  CHECK(json["flops"]["executed"] == 655'097'856 + 8 * 8 * 528 * 4 * 2 * 16);
  const auto rank = json["memory"]["ranks"][0];
  CHECK(rank["in_flight"] == 1);
  CHECK(rank["param"] == 4 * 418'432);
  CHECK(rank["optim"] == 8 * 418'432);
  CHECK(rank["saved_input"] == rank["plan"]["by_class"]["saved_input"]);
  CHECK(rank["plan"]["peak"] <= rank["bound"]);
  CHECK(json["communication"].empty());
  double share = 0;
  for (const auto& k : json["roofline"]["kernels"]) share += k["share"].get<double>();
  CHECK(share == doctest::Approx(1));
}

TEST_CASE("model: parameters, FLOPs and memory of llama-tiny") {
  const auto run = test::tandem(
      {"model", "scenarios/learn/01_one_rank.yaml", "--json", "--set", "model.preset=llama-tiny"});
  REQUIRE(run.code == 0);
  const auto json = run.json();
  CHECK(json["parameters"] == 328'768);
  CHECK(json["flops_per_step"] == 504'102'912);  // flops_test.cpp, by hand
  CHECK(json["parameter_table"]["tensors"] == 75);
  CHECK(json["parameter_table"]["by_module"]["mlp"] == 8 * 3 * 64 * 128);
  CHECK(json["flops"]["operations"][3]["name"] == "gate_up");
  CHECK(json["flops"]["executed"] == 504'102'912 + 8 * 8 * 528 * 4 * 2 * 16);
  const auto rank = json["memory"]["ranks"][0];
  CHECK(rank["saved_input"] == rank["plan"]["by_class"]["saved_input"]);
  CHECK(rank["saved_weight"] == rank["plan"]["by_class"]["saved_weight"]);
  CHECK(rank["plan"]["peak"] <= rank["bound"]);
  const auto text = test::tandem(
      {"model", "scenarios/learn/01_one_rank.yaml", "--set", "model.preset=llama-tiny"});
  CHECK(text.out.find("llama, 8 layers, hidden 64, 4 heads of 2 key/value heads, ffn 128") !=
        std::string::npos);
}

// llama-tiny d2, ZeRO-3, by hand: a layer has 36,992 elements, the head with the final norm 16,512,
// the embedding 16,384. Gathered at most: two layers and, beside the last one, the head; whole
// gradients: the first layer and the embedding.
TEST_CASE("model: what ZeRO-3 holds whole for a moment, and what has no formula") {
  const auto at = [](std::vector<std::string> sets, bool json) {
    std::vector<std::string> arguments = {"model", "scenarios/learn/01_one_rank.yaml"};
    if (json) arguments.push_back("--json");
    sets.insert(sets.end(), {"model.preset=llama-tiny", "parallel.dp=2", "parallel.zero=3"});
    for (const std::string& s : sets) arguments.insert(arguments.end(), {"--set", s});
    return test::tandem(arguments);
  };
  const auto rank = at({}, true).json()["memory"]["ranks"][0];
  CHECK(rank["param_full"]["most"] == 4 * (2 * 36'992 + 16'512));
  CHECK(rank["param_full"]["exact"] == true);
  CHECK(rank["param_full"]["most"] == rank["plan"]["by_class"]["param_full"]);
  CHECK(rank["grad_full"]["most"] == 4 * (36'992 + 16'384));
  CHECK(rank["grad_full"]["most"] == rank["plan"]["by_class"]["grad_full"]);
  CHECK(rank["plan"]["peak"] <= rank["bound"]);
  CHECK(at({}, false).out.find("No formula") == std::string::npos);
  // A form that is no equality says so.
  CHECK(at({"training.precision=bf16", "parallel.parameter_gather.overlap=false"}, false)
            .out.find("param_full                 <= ") != std::string::npos);
  const auto apart = at({"schedule.kind=zb_h1", "parallel.pp=2"}, false);
  CHECK(apart.out.find("gradients that wait whole from I to W (grad_full)") != std::string::npos);
  CHECK(at({"schedule.kind=zb_h1", "parallel.pp=2"}, true)
            .json()["memory"]["ranks"][0]
            .contains("param_full"));
}

// Every llama preset validates, plans and simulates at its size; W = 8 devices a node.
TEST_CASE("simulate: the llama presets on H100") {
  const test::TempDir dir;
  struct Row {
    const char *model, *cluster, *tp, *pp;
  };
  for (const Row& row :
       {Row{"llama2-7b", "dgx-h100", "4", "2"}, Row{"llama-8b", "dgx-h100", "8", "1"},
        Row{"llama-70b", "dgx-h100 x 8", "8", "8"},
        Row{"llama-405b", "dgx-h100 x 144", "8", "18"}}) {
    CAPTURE(row.model);
    const auto run = test::tandem({"simulate", "scenarios/learn/06_three_axes.yaml", "--json",
                                   "--set", std::string("model.preset=") + row.model, "--set",
                                   std::string("cluster.preset=") + row.cluster, "--set",
                                   std::string("parallel.tp=") + row.tp, "--set",
                                   std::string("parallel.pp=") + row.pp, "--set",
                                   "training.sequence=1024", "--set", "training.global_batch=64",
                                   "--set", "training.micro_batch=1", "-o", dir / row.model});
    REQUIRE_MESSAGE(run.code == 0, run.out << run.err);
    CHECK(run.json()["ok"] == true);
  }
}

TEST_CASE("model: communication of tp 2, pp 2 (models.md 7.2, C3)") {
  const auto run = test::tandem({"model", "scenarios/learn/01_one_rank.yaml", "--json", "--set",
                                 "parallel.tp=2", "--set", "parallel.pp=2", "--set",
                                 "training.micro_batch=2", "--set", "training.global_batch=8"});
  REQUIRE(run.code == 0);
  std::int64_t calls = 0, bytes = 0;
  const auto json = run.json();
  for (const auto& c : json["communication"])
    if (c["pp"] == 0 && c["group"] == "tp") {
      CHECK(c["bytes_in"] == 16'384);
      calls += c["calls"].get<std::int64_t>();
      bytes += c["ring_bytes"].get<std::int64_t>();
    }
  CHECK(calls == 68);
  CHECK(bytes == 68 * 16'384);
}

TEST_CASE("model: text has every table; a scenario that cannot be is refused") {
  const auto run = test::tandem({"model", "scenarios/learn/06_three_axes.yaml"});
  CHECK(run.code == 0);
  CHECK(run.err.empty());
  for (const char* title : {"Parameters: 124,439,808 in 196 tensors", "FLOPs of one microbatch",
                            "FLOPs of a step", "Memory of a rank", "Peak rank: pp 0", "zero 3",
                            "recompute full", "Roofline, bf16", "Communication of one rank"})
    CHECK_MESSAGE(run.out.find(title) != std::string::npos, title);
  CHECK(test::tandem({"model", "scenarios/learn/06_three_axes.yaml", "--set", "parallel.tp=3"})
            .code == 4);
  CHECK(test::tandem({"model", "no_such.yaml"}).code == 3);
}

TEST_CASE("table: columns as wide as their widest cell, numbers right, text left") {
  Table t({"name<", "n"});
  t.row({"a", "12,345"});
  t.row({"longer", ""});
  CHECK(t.text() == "  name         n\n  a       12,345\n  longer\n");
}

TEST_CASE("table: numbers for people") {
  CHECK(grouped(0) == "0");
  CHECK(grouped(999) == "999");
  CHECK(grouped(1'000) == "1,000");
  CHECK(grouped(-1'234'567) == "-1,234,567");
  CHECK(with_prefix(12) == "12");
  CHECK(with_prefix(999) == "999");
  CHECK(with_prefix(1'000) == "1.00 K");
  CHECK(with_prefix(655'097'856) == "655 M");
  CHECK(with_prefix(1.234e13) == "12.3 T");
  CHECK(percent(0.1234) == "12.3 %");
}
