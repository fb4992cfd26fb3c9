// Goal: layers, defaults and "auto" as the scenario page says; all errors at once, at their origin.
#include "common/scenario/read.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "common/base/file.h"
#include "common/scenario/explain.h"
#include "common/scenario/fields.h"
#include "common/scenario/resolve.h"
#include "common/scenario/validate.h"

using namespace tandem;

namespace {

const std::string kSmallest = "tandem: 1\nmodel: gpt-tiny\n";

Scenario read(const std::string& text, const std::vector<std::string>& sets = {}) {
  const auto scenario = read_scenario_text("dir/t.yaml", text, sets);
  if (!scenario) FAIL(to_text(scenario.error().diagnostics));
  return *scenario;
}
Error refused(const std::string& text, const std::vector<std::string>& sets = {}) {
  const auto scenario = read_scenario_text("dir/t.yaml", text, sets);
  REQUIRE_FALSE(scenario.ok());
  return scenario.error();
}
Diagnostics warnings(const std::string& text) {
  Diagnostics list;
  const auto scenario = read_scenario_text("dir/t.yaml", text, {}, &list);
  REQUIRE(scenario.ok());
  return list;
}

}  // namespace

TEST_CASE("the smallest scenario has the documented defaults") {
  const Scenario s = read("tandem: 1\nmodel: gpt-tiny\nparallel: {pp: 2}\n");
  CHECK(s.name == "t");
  CHECK(s.seed == 1);
  CHECK(s.schedule.kind == "1f1b");
  CHECK(s.schedule.stages_per_rank == 1);
  CHECK(s.num_microbatches() == 8);
  CHECK(s.cluster.local);
  CHECK(s.training.precision == Precision::fp32);
  CHECK(s.training.steps == 3);
  CHECK(s.training.sequence == 32);
  CHECK(s.training.optimizer.decay_steps == 3);
  CHECK(s.training.optimizer.min_lr == 3e-4 / 10);
  CHECK(s.parallel.layer_split == std::vector<int>{4, 4});
  CHECK(s.parallel.gradient_bucket == 40LL << 20);
  CHECK(s.model.head_dim == 16);
  CHECK(s.output.directory == "runs/t");
  CHECK(s.execute.timeout == 60);
}

TEST_CASE("the default text of the table is what the structs hold") {
  const Scenario s = read(kSmallest);
  for (const Field& field : scenario_fields()) {
    if (field.get == nullptr || field.path.find("[]") != std::string_view::npos) continue;
    const std::string fallback(field.fallback);
    if (fallback.empty() || fallback == "-" || fallback == "auto" ||
        s.origins.contains(std::string(field.path)))
      continue;
    if (field.path == "name" || field.path == "output.directory" ||
        field.path == "cluster.collectives.library")
      continue;  // sentences
    const auto again =
        read_scenario_text("dir/t.yaml", kSmallest, {std::string(field.path) + "=" + fallback});
    if (!again) FAIL(to_text(again.error().diagnostics));
    CHECK_MESSAGE(value_text(field, field.get(*again, 0)) == value_text(field, field.get(s, 0)),
                  field.path);
  }
}

TEST_CASE("--set wins over the file, the file over the preset; origins say so") {
  const Scenario s = read("tandem: 1\nmodel: {preset: gpt-tiny, layers: 6}\ntraining: {steps: 5}\n",
                          {"training.steps=7", "training.steps=9", "parallel.layer_split=[3, 3]",
                           "parallel.pp=2", "schedule=gpipe", "execute.timeout=2 min"});
  CHECK(s.training.steps == 9);
  CHECK(s.model.layers == 6);
  CHECK(s.model.hidden == 64);
  CHECK(s.schedule.kind == "gpipe");
  CHECK(s.execute.timeout == 120);
  CHECK(s.origins.at("training.steps") == Location{"--set training.steps=9"});
  CHECK(s.origins.at("model.layers").line == 2);
  CHECK(s.origins.at("model.hidden").file == "scenarios/models/gpt-tiny.yaml");
  CHECK(s.origin_lines.at("model.layers") == "model: {preset: gpt-tiny, layers: 6}");
  CHECK_FALSE(s.origins.contains("training.micro_batch"));
}

TEST_CASE("--set of one entry of a list") {
  const Scenario s = read(kSmallest + "cluster: dgx-h100 x 2\n",
                          {"cluster.network[1].latency=5 us", "cluster.nodes=4"});
  CHECK(s.cluster.network[1].latency == 5e-6);
  CHECK(s.cluster.network[1].bandwidth == 50e9);
  CHECK(s.cluster.nodes == 4);
  CHECK(read(kSmallest + "cluster: {preset: dgx-h100, nodes: 2}\n", {"cluster=dgx-a100 x 4"})
            .cluster.nodes == 4);
  CHECK(refused(kSmallest, {"cluster.network[99].latency=5 us"}).failure == Failure::bad_input);
  CHECK(refused(kSmallest, {"cluster.network[x].latency=5 us"}).failure == Failure::bad_input);
}

TEST_CASE("a network in the file replaces the whole list of the preset") {
  const Scenario s = read(kSmallest +
                          "cluster:\n  preset: dgx-h100\n  network:\n"
                          "    - {name: link, bandwidth: 1 GB/s, latency: 1 us}\n");
  REQUIRE(s.cluster.network.size() == 1);
  CHECK(s.cluster.network[0].name == "link");
}

TEST_CASE("--set faults: usage for the form, bad input for the value, located at the option") {
  CHECK(refused(kSmallest, {"parallel.tp"}).failure == Failure::usage);
  CHECK(refused(kSmallest, {"=2"}).failure == Failure::usage);
  CHECK(refused(kSmallest, std::vector<std::string>(300, "seed=1")).failure == Failure::usage);
  const Error error = refused(kSmallest, {"parallel.tp=x"});
  CHECK(error.failure == Failure::bad_input);
  CHECK(error.diagnostics.at(0).where == Location{"--set parallel.tp=x"});
  CHECK(refused(kSmallest, {"paralel.tp=2"}).diagnostics.at(0).code == "E-SCEN-003");
  CHECK(refused(kSmallest, {"parallel.tp="}).diagnostics.at(0).code == "E-SCEN-011");
  CHECK(refused(kSmallest, {"parallel.tp=[1"}).diagnostics.at(0).code == "E-YAML-007");
}

TEST_CASE("all errors are collected, sorted, and one exit-3 outranks exit-4") {
  const Error error = refused(
      "tandem: 1\nmodel: gpt-tiny\nparallel: {pp: x}\nsimulate: {allocator: caching}\n"
      "seeds: 3\ntraining: {steps: 0}\n"
      "training: {}\n");
  CHECK(error.failure == Failure::bad_input);
  std::vector<std::string> codes;
  for (const Diagnostic& d : error.diagnostics) codes.push_back(d.code);
  CHECK(codes == std::vector<std::string>{"E-SCEN-006", "E-SCEN-020", "E-SCEN-003", "E-SCEN-007",
                                          "E-YAML-017"});
  CHECK(refused(kSmallest + "simulate: {allocator: caching}\n").failure == Failure::infeasible);
}

TEST_CASE("all violated rules of the degrees are reported together") {
  const Error error = refused(kSmallest + "parallel: {tp: 3, pp: 9, dp: 2}\ncluster: dgx-h100\n");
  std::vector<std::string> codes;
  for (const Diagnostic& d : error.diagnostics) codes.push_back(d.code);
  CHECK(codes == std::vector<std::string>{"E-SCEN-030", "E-SCEN-032", "E-SCEN-033", "E-SCEN-035"});
}

TEST_CASE("warnings: fields without effect, latency 0, few microbatches") {
  const auto effect = warnings(kSmallest + "training: {optimizer: {decay_steps: 9}}\n");
  REQUIRE(effect.size() == 1);
  CHECK(effect[0].code == "W-SCEN-001");
  CHECK(effect[0].where.line == 3);
  const auto every = warnings(kSmallest + "training: {checkpoint: {every: 9}}\n");
  REQUIRE(every.size() == 1);
  CHECK(every[0].title == "training.checkpoint.every has no effect");
  const auto few = warnings(kSmallest + "training: {global_batch: 2}\nparallel: {pp: 4}\n");
  REQUIRE(few.size() == 1);
  CHECK(few[0].code == "W-SCEN-002");
  CHECK(few[0].found == "a bubble of (4-1)/(2+4-1) = 60 % of the step");
  const auto latency = warnings(kSmallest +
                                "cluster:\n  preset: local\n  network:\n"
                                "    - {name: host, bandwidth: 2 GB/s, latency: 0 s}\n");
  REQUIRE(latency.size() == 1);
  CHECK(latency[0].code == "W-CLUS-001");
}

TEST_CASE("ZeRO with nothing to share, and with something") {
  const auto alone = warnings("tandem: 1\nmodel: gpt-tiny\nparallel: {zero: 1}\n");
  REQUIRE(alone.size() == 1);
  CHECK(alone[0].code == "W-SCEN-003");
  CHECK(alone[0].title ==
        "parallel.zero = 1 has no effect: the dp group has one member, no collective will run");
  CHECK(warnings("tandem: 1\nmodel: gpt-tiny\nparallel: {zero: 2, dp: 2}\n").empty());
  // Norms and the router are summed over more ranks than matrices, experts over fewer.
  const auto titles = [](const std::string& text) {
    std::string out;
    for (const Diagnostic& d : warnings("tandem: 1\nmodel: " + text)) out += d.title + "\n";
    return out;
  };
  const std::string rest = " group has one member, no collective will run\n";
  CHECK(titles("gpt-tiny\nparallel: {zero: 3, tp: 2, sequence_parallel: true}\n") ==
        "parallel.zero = 3 has no effect on what tp cuts: the dp" + rest);
  CHECK(titles("mixtral-tiny\nparallel: {zero: 2, pp: 2, dp: 2, ep: 2}\n") ==
        "parallel.zero = 2 has no effect on experts: the edp" + rest);
  CHECK(titles("mixtral-tiny\nparallel: {zero: 2, tp: 2, ep: 2}\n") ==
        "parallel.zero = 2 has no effect on what tp cuts: the dp" + rest +
            "parallel.zero = 2 has no effect on experts: the edp" + rest);
  CHECK(titles("mixtral-tiny\nparallel: {zero: 2, dp: 4, ep: 2}\n").empty());
}

// models.md 3.2, and rows 12 and 20 of 3.4. 3.4's row 11: scenarios/invalid/nano_*.
TEST_CASE("mapping nano_train: ep is a factor of the ranks and, split, of the batch") {
  const auto nano = [](const std::string& parallel) {
    auto s = read_scenario_text(
        "a.yaml",
        "tandem: 1\nmodel: mixtral-tiny\nparallel: {mapping: nano_train, " + parallel + "}\n");
    REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : to_text(s.error().diagnostics)));
    return *s;
  };
  Scenario s = nano("tp: 2, pp: 2, ep: 2, dp: 2");
  CHECK(s.parallel.world() == 16);
  CHECK(s.cluster.devices_per_node == 16);
  CHECK(s.parallel.data_ranks() == 4);
  CHECK(s.training.global_batch == 8 * 4);
  CHECK(s.num_microbatches() == 8);
  CHECK_FALSE(s.parallel.sequence_parallel);
  s = nano("ep: 2, dp: 2, ep_data: replicate");
  CHECK(s.parallel.world() == 4);
  CHECK(s.parallel.data_ranks() == 2);
  CHECK(s.num_microbatches() == 8);
  const auto on = read_scenario_text("a.yaml",
                                     "tandem: 1\nmodel: mixtral-tiny\ncluster: dgx-h100\n"
                                     "parallel: {mapping: nano_train, tp: 2, ep: 2}\n");
  REQUIRE(on.ok());
  CHECK(on->parallel.dp == 2);

  const auto of = [](const std::string& parallel) {
    std::string codes;
    for (const Diagnostic& d :
         warnings("tandem: 1\nmodel: mixtral-tiny\nparallel: {" + parallel + "}\n"))
      codes += d.code + " ";
    return codes;
  };
  CHECK(of("mapping: nano_train, tp: 2, ep: 2") == "W-SCEN-006 ");
  CHECK(of("mapping: nano_train, ep: 2") == "");
  CHECK(of("mapping: nano_train, ep: 2, order: [cp, ep, tp, pp, dp]") == "W-SCEN-001 ");
  CHECK(of("ep: 2, dp: 2, ep_data: replicate") == "W-SCEN-001 ");
  // What is summed over what (4.8): dense ones over dp and ep, experts over dp and tp.
  CHECK(of("mapping: nano_train, ep: 2, dp: 2, zero: 1") == "");
  CHECK(of("mapping: nano_train, ep: 2, zero: 1") == "W-SCEN-003 ");                      // experts
  CHECK(of("mapping: nano_train, ep: 2, zero: 1, ep_data: replicate") == "W-SCEN-003 ");  // all
}

TEST_CASE("experts with tensor parallelism: sequence parallelism is on unless it is refused") {
  const auto scenario = [](const char* parallel) {
    return read_scenario_text(
        "t.yaml", std::string("tandem: 1\nmodel: mixtral-tiny\nparallel: ") + parallel + "\n");
  };
  REQUIRE(scenario("{tp: 2}").ok());
  CHECK(scenario("{tp: 2}")->parallel.sequence_parallel);
  CHECK_FALSE(scenario("{tp: 1}")->parallel.sequence_parallel);
  CHECK(scenario("{tp: 2, sequence_parallel: false}").error().diagnostics[0].code == "E-SCEN-051");
}

TEST_CASE("family llama: gpt's fields have no effect, experts are refused as they are with gpt") {
  const auto gelu = warnings("tandem: 1\nmodel: {preset: llama-tiny, gelu: tanh}\n");
  REQUIRE(gelu.size() == 1);
  CHECK(gelu[0].code == "W-SCEN-001");
  CHECK(gelu[0].title == "model.gelu has no effect");
  for (const char* model : {"gpt-tiny", "llama-tiny"}) {
    const auto moe = read_scenario_text(
        "t.yaml", std::string("tandem: 1\nmodel: {preset: ") + model + ", moe: {experts: 8}}\n");
    REQUIRE_FALSE(moe.ok());
    CHECK(moe.error().diagnostics[0].code == "E-MODEL-008");
  }
  const auto odd = read_scenario_text(
      "t.yaml",
      "tandem: 1\nmodel: {family: llama, layers: 2, hidden: 60, heads: 4, vocab: 256,"
      " max_sequence: 32}\n");
  REQUIRE_FALSE(odd.ok());
  CHECK(odd.error().diagnostics[0].code == "E-MODEL-007");
}

TEST_CASE("what only execute refuses") {
  CHECK(check_executable(read(kSmallest)).empty());
  CHECK(check_executable(read(kSmallest + "training: {precision: bf16}\n")).empty());
  const auto fp16 =
      check_executable(read(kSmallest + "training: {precision: fp16}\ncluster: dgx-h100\n"));
  REQUIRE(fp16.size() == 1);
  CHECK(fp16[0].code == "E-SCEN-060");
  CHECK(fp16[0].where.line == 3);
  const auto many = check_executable(read(kSmallest + "cluster: dgx-h100 x 1024\n"));
  REQUIRE(many.size() == 1);
  CHECK(many[0].code == "E-SCEN-061");
  const std::string piped = kSmallest + "parallel: {pp: 2}\nschedule: {kind: 1f1b, grouping: runs";
  CHECK(check_executable(read(piped + "}\n")).empty());
  const auto grouped = check_executable(read(piped + ", communicators: pair}\n"));
  REQUIRE(grouped.size() == 1);
  CHECK(grouped[0].code == "E-SCEN-062");
}

TEST_CASE("a preset file of the user, beside the scenario") {
  const auto folder = std::filesystem::temp_directory_path() / "tandem_preset_test";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "s.yaml").string();
  REQUIRE(write_file_atomic((folder / "mine.yaml").string(),
                            "tandem: 1\nmodel: {layers: 2, hidden: 8, heads: 2, vocab: 9, "
                            "max_sequence: 4}\n")
              .ok());
  REQUIRE(write_file_atomic(path, "tandem: 1\nmodel: mine.yaml\n").ok());
  const auto scenario = read_scenario(path);
  std::filesystem::remove_all(folder);
  REQUIRE(scenario.ok());
  CHECK(scenario->model.layers == 2);
  CHECK(scenario->model.ffn_hidden == 32);
}

TEST_CASE("a missing scenario file is exit 3") {
  const auto scenario = read_scenario("no/such/file.yaml");
  REQUIRE_FALSE(scenario.ok());
  CHECK(scenario.error().failure == Failure::bad_input);
  CHECK(scenario.error().diagnostics.at(0).code == "E-IO-001");
}

TEST_CASE("split_layers: equal, the first ones take the rest") {
  CHECK(split_layers(5, 2) == std::vector<int>{3, 2});
  CHECK(split_layers(8, 3) == std::vector<int>{3, 3, 2});
}

// Every field is refused by its own rule. A field without a place takes its default only.
TEST_CASE("each field refuses what its row excludes, at the option and with a hint") {
  const std::string base =
      "tandem: 1\nmodel: gpt-tiny\ncluster: {preset: dgx-h100 x 2, "
      "slow_devices: [{rank: 0, factor: 2}]}\n";
  int num_cases = 0;
  for (const Field& field : scenario_fields()) {
    if (field.path == "tandem") continue;
    std::string path(field.path);
    if (const auto at = path.find("[]"); at != std::string::npos) path.replace(at, 2, "[0]");
    std::vector<std::pair<std::string, std::string>> cases = {{"{a: 1}", ""}, {"", "E-SCEN-011"}};
    if (field.works == "-") {
      cases = {{"1", "E-SCEN-020"}, {"", "E-SCEN-020"}};
    } else {
      switch (field.type) {
        case FieldType::count:
          cases.insert(cases.end(), {{"-1", "E-SCEN-007"},
                                     {"010", "E-SCEN-006"},
                                     {"1.5", "E-SCEN-006"},
                                     {"\"2\"", "E-SCEN-004"},
                                     {"[2]", "E-SCEN-004"},
                                     {"99999999999999999999", "E-SCEN-006"}});
          if (field.max < 9e18) cases.emplace_back("9000000000000000000", "E-SCEN-007");
          break;
        case FieldType::real:
          cases.insert(cases.end(), {{".nan", "E-SCEN-008"},
                                     {"1e400", "E-SCEN-008"},
                                     {"x", "E-SCEN-008"},
                                     {"-1e31", "E-SCEN-009"},
                                     {"1e31", "E-SCEN-009"},
                                     {"[1]", "E-SCEN-004"}});
          break;
        case FieldType::boolean:
          cases.insert(cases.end(),
                       {{"yes", "E-SCEN-010"}, {"1", "E-SCEN-010"}, {"\"true\"", "E-SCEN-004"}});
          break;
        case FieldType::choice:
          cases.insert(cases.end(), {{"nonsense", "E-SCEN-005"}, {"[none]", "E-SCEN-004"}});
          break;
        case FieldType::text:
          cases.insert(cases.end(), {{"[a]", "E-SCEN-004"}, {"\"\"", ""}});
          break;
        case FieldType::counts:
          cases.insert(cases.end(),
                       {{"[]", "E-SCEN-015"}, {"[x]", "E-SCEN-006"}, {"7", "E-SCEN-004"}});
          break;
        case FieldType::reals:
          cases.insert(cases.end(), {{"[1]", "E-SCEN-015"}, {"7", "E-SCEN-004"}});
          break;
        case FieldType::words:
          cases.insert(cases.end(), {{"[tp]", "E-SCEN-022"}, {"7", "E-SCEN-004"}});
          break;
        default:
          cases.insert(cases.end(), {{"50", "E-UNIT-001"},
                                     {"5 furlong", "E-UNIT-002"},
                                     {"1,5 s", "E-UNIT-004"},
                                     {"[1]", "E-SCEN-004"}});
          cases.emplace_back(field.type == FieldType::seconds ? "5 GB" : "5 s", "E-UNIT-003");
          const char* huge = field.type == FieldType::bytes     ? "1e9 TB"
                             : field.type == FieldType::rate    ? "1e9 TB/s"
                             : field.type == FieldType::seconds ? "99 h"
                                                                : "1e9 Pflop/s";
          cases.emplace_back(huge, "E-SCEN-009");
      }
    }
    for (const auto& [value, code] : cases) {
      const std::string set = path + "=" + value;
      CAPTURE(set);
      const Error error = refused(base, {set});
      ++num_cases;
      const auto at_option = [&](const Diagnostic& d) { return d.where.file == "--set " + set; };
      const auto it = std::find_if(error.diagnostics.begin(), error.diagnostics.end(), at_option);
      REQUIRE(it != error.diagnostics.end());
      if (!code.empty()) CHECK(it->code == code);
      CHECK_FALSE(it->hint.empty());
      CHECK_FALSE(it->expected.empty());
    }
  }
  CHECK(num_cases > 500);
}

// Any bytes end in a scenario or in located messages with a hint; the seed is printed on failure.
TEST_CASE("random edits of a scenario never crash, and every message has its parts") {
  const std::string base =
      "tandem: 1\nmodel: {preset: gpt-tiny, layers: 4}\ntraining:\n  global_batch: 16\n"
      "  optimizer: {lr: 1e-3, betas: [0.9, 0.95], clip: none}\nparallel: {tp: 2, pp: 2}\n"
      "cluster: {preset: dgx-h100, nodes: 2, slow_devices: [{rank: 3, factor: 1.2}]}\n";
  const std::string alphabet = "0123456789-+.eE:,[]{}'\"#&*!|>%@ \n\tabcxyz_/\\";
  for (unsigned seed = 1; seed <= 1500; ++seed) {
    std::mt19937 random(seed);
    std::string text = base;
    const int edits = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < edits; ++i) {
      const std::size_t at = random() % text.size();
      const char c = alphabet[random() % alphabet.size()];
      switch (random() % 3) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.insert(at, 1, c);
          break;
        default:
          text.erase(at, 1 + random() % 5);
      }
    }
    const auto scenario = read_scenario_text("t.yaml", text);
    if (scenario) continue;
    REQUIRE_FALSE(scenario.error().diagnostics.empty());
    for (const Diagnostic& d : scenario.error().diagnostics) {
      CAPTURE(seed);
      CHECK_FALSE(d.where.file.empty());
      CHECK_FALSE(d.title.empty());
      CHECK_FALSE(d.found.empty());
      CHECK_FALSE(d.expected.empty());
      CHECK_FALSE(d.hint.empty());
    }
  }
}
