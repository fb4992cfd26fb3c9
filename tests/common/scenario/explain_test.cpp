// Goal: the full form reads back to the same scenario, for every scenario we ship.
#include "common/scenario/explain.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "common/base/text.h"
#include "common/scenario/read.h"

using namespace tandem;
namespace fs = std::filesystem;

namespace {

std::string without_comments(const std::string& text) {
  std::string out;
  for (std::string_view line : split(text, '\n')) {
    out += trim(line.substr(0, line.find("  # ")));
    out += '\n';
  }
  return out;
}

// Two scenarios show ZeRO where a part of the parameters has one owner: that warning is meant.
Diagnostics unexpected(Diagnostics warnings, const Scenario& s) {
  if (s.model.moe.experts > 0)
    std::erase_if(warnings, [](const Diagnostic& d) { return d.code == "W-SCEN-003"; });
  return warnings;
}

// `folder`: where the full form would lie; files that it names are seen from there.
void check_round_trip(const Scenario& s, const fs::path& folder = "") {
  const std::string full = explain(s);
  Diagnostics warnings;
  const auto again = read_scenario_text((folder / "full.yaml").string(), full, {}, &warnings);
  if (!again) FAIL(to_text(again.error().diagnostics) << full);
  CHECK_MESSAGE(unexpected(warnings, s).empty(), to_text(warnings));
  CHECK(without_comments(explain(*again)) == without_comments(full));
}

}  // namespace

TEST_CASE("shipped scenarios are valid, without warnings, and their full form reads back") {
  int num = 0;
  for (const char* folder : {"scenarios", "scenarios/learn"}) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() != ".yaml") continue;
      CAPTURE(entry.path().string());
      Diagnostics warnings;
      const auto s = read_scenario(entry.path().string(), {}, &warnings);
      if (!s) FAIL(to_text(s.error().diagnostics));
      CHECK(unexpected(warnings, *s).empty());
      check_round_trip(*s, folder);
      ++num;
    }
  }
  CHECK(num >= 8);
}

TEST_CASE("unusual values read back too") {
  const auto s = read_scenario_text(
      "t.yaml",
      "tandem: 1\nname: A-1\nseed: 9223372036854775807\n"
      "model: {preset: gpt-tiny, norm_eps: 1e-6, gelu: tanh, tied_embeddings: false}\n"
      "training: {optimizer: {clip: none, betas: [0, 0.999], lr: 0.00012345, decay: cosine}}\n"
      "parallel: {tp: 2, pp: 2, layer_split: [5, 3], order: [pp, dp, tp, cp, ep],\n"
      "  gradient_reduce: {bucket: 12345 B, overlap: false}}\n"
      "schedule: {kind: gpipe, backward: lifo, receive: deferred_parity}\n"
      "cluster: {preset: dgx-a100 x 2, slow_devices: [{rank: 3, factor: 1.25}, {rank: 0, factor: "
      "2}]}\n"
      "execute: {timeout: 1.5 s}\nsimulate: {folding: off, fidelity: flow}\n"
      "output: {directory: \"my runs/{name} #1\", ranks: [0, 3], timeline: csv}\n");
  if (!s) FAIL(to_text(s.error().diagnostics));
  CHECK(s->output.directory == "my runs/A-1 #1");
  CHECK(s->schedule.options.at("backward") == "lifo");
  check_round_trip(*s);
}

TEST_CASE("explain names the origin of each value") {
  const auto s = read_scenario_text("t.yaml", "tandem: 1\nmodel: gpt-tiny\n", {"seed=5"});
  REQUIRE(s.ok());
  const std::string text = explain(*s);
  CHECK(text.find("# --set seed=5") != std::string::npos);
  CHECK(text.find("# scenarios/models/gpt-tiny.yaml:6") != std::string::npos);
  CHECK(text.find("# t.yaml:2") != std::string::npos);
  CHECK(text.find("# default") != std::string::npos);
}
