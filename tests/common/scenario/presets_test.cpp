// Goal: every preset is read, models have the published number of parameters, clusters the figures
// of their data sheets. Parameters by the closed form of the gpt family, computed here by itself:
// L * (4H^2 + 2HF + 9H + F) + V*H + S*H + 2H.
#include "common/scenario/presets.h"

#include <doctest/doctest.h>

#include <map>

#include "common/scenario/read.h"

using namespace tandem;

namespace {

Scenario read(const std::string& text) {
  const auto scenario = read_scenario_text("t.yaml", "tandem: 1\n" + text);
  if (!scenario) FAIL(to_text(scenario.error().diagnostics));
  return *scenario;
}

std::int64_t gpt_parameters(const ModelSpec& m) {
  const std::int64_t L = m.layers, H = m.hidden, F = m.ffn_hidden, V = m.vocab, S = m.max_sequence;
  return L * (4 * H * H + 2 * H * F + 9 * H + F) + V * H + S * H + 2 * H;
}

}  // namespace

TEST_CASE("gpt presets have the published number of parameters") {
  const std::map<std::string, std::int64_t> published = {{"gpt-tiny", 418'432},
                                                         {"gpt2-small", 124'439'808},
                                                         {"gpt3-6.7b", 6'658'404'352},
                                                         {"gpt3-175b", 174'615'846'912},
                                                         {"megatron-530b", 529'600'819'200},
                                                         {"megatron-1t", 1'008'038'758'400}};
  for (const auto& row : published) {
    const std::string& name = row.first;
    const std::int64_t parameters = row.second;
    const Scenario s = read("model: " + name + "\n");
    CHECK_MESSAGE(gpt_parameters(s.model) == parameters, name);
    CHECK(s.model.preset == name);
    CHECK(s.model.tied_embeddings);
  }
}

TEST_CASE("llama presets: heads, rotary positions, SwiGLU widths of their papers") {
  const ModelSpec big = read("model: llama-8b\n").model;
  CHECK(big.family == ModelFamily::llama);
  CHECK(big.kv_heads == 8);
  CHECK(big.head_dim == 128);
  CHECK(big.rope_base == 500'000);
  CHECK_FALSE(big.tied_embeddings);
  const Scenario tiny = read("model: llama-tiny\n");
  CHECK(tiny.model.kv_heads == 2);
  CHECK(tiny.model.rope_base == 10'000);
  CHECK(tiny.model.norm_eps == 1e-5);
  CHECK(read("model: llama2-7b\n").model.kv_heads == 32);
  // Rotary positions have no end: a sequence may be longer than the preset's.
  CHECK(read("model: llama-tiny\ntraining: {sequence: 64}\n").training.sequence == 64);
}

TEST_CASE("every model preset is accepted") {
  int num_accepted = 0;
  for (const std::string& name : preset_names("models")) {
    const auto scenario = read_scenario_text("t.yaml", "tandem: 1\nmodel: " + name + "\n");
    CHECK_MESSAGE(scenario.ok(), name);
    ++num_accepted;
  }
  CHECK(num_accepted == 17);
}

TEST_CASE("every cluster preset is accepted, alone and with nodes") {
  for (const std::string& name : preset_names("clusters")) {
    if (name == "local") continue;
    const Scenario one = read("model: gpt-tiny\ncluster: " + name + "\n");
    CHECK(one.cluster.nodes == 1);
    CHECK(one.parallel.dp == 8);
    CHECK(one.cluster.network.size() == 2);
    CHECK(one.cluster.library == CollectiveLibrary::nccl);
    const Scenario many = read("model: gpt-tiny\ncluster: " + name + " x 16\n");
    CHECK(many.cluster.nodes == 16);
    CHECK(many.parallel.dp == 128);
  }
}

TEST_CASE("dgx-h100: figures of the data sheet") {
  const ClusterSpec c = read("model: gpt-tiny\ncluster: dgx-h100 x 2\n").cluster;
  CHECK(c.device.preset == "h100-sxm");
  CHECK(c.device.memory == 80'000'000'000);
  CHECK(c.device.memory_bandwidth == 3.35e12);
  CHECK(c.device.peak.at("bf16") == 989e12);
  CHECK(c.device.launch_overhead == 4e-6);
  CHECK(c.network[0].name == "nvlink");
  CHECK(c.network[0].bandwidth == 450e9);
  CHECK(c.network[0].scope == "node");
  CHECK(c.network[1].bandwidth == 50e9);  // 400 Gb/s
  CHECK(c.network[1].nics_per_node == 8);
  CHECK(c.network[1].scope == "cluster");
}

TEST_CASE("local: as many ranks as the degrees ask for, dp auto is 1") {
  const Scenario s = read("model: gpt-tiny\nparallel: {pp: 2, tp: 2}\n");
  CHECK(s.cluster.local);
  CHECK(s.cluster.devices_per_node == 4);
  CHECK(s.parallel.dp == 1);
  CHECK(s.cluster.cores_per_node >= 1);
  CHECK(s.cluster.library == CollectiveLibrary::host);
  CHECK(read("model: gpt-tiny\nparallel: {dp: 3}\n").cluster.devices_per_node == 3);
}
