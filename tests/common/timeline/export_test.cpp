// CSV (reads back, errors at line and column) and Chrome JSON (sound JSON, nested slices).
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "common/base/text.h"
#include "common/timeline/chrome_json.h"
#include "common/timeline/csv.h"
#include "common/timeline/read_timeline.h"
#include "tests/common/report/synthetic.h"
#include "tests/common/timeline/equal.h"

namespace tandem {
namespace {

Timeline sample(const Plan& plan) {
  synthetic::Speed s;
  s.steps = 2, s.jitter = 0.3;
  return synthetic::run(plan, s);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("csv: a timeline reads back exactly") {
  const Plan plan = synthetic::make_plan({2, 2, 2, 1});
  Timeline t = sample(plan);
  t.meta["formula"] = "=cmd()";
  t.meta["lines"] = "a,\"b\"\nc";
  const std::string bytes = encode_csv_timeline(t, plan);
  CHECK(bytes.find("issued_ps") != std::string::npos);
  CHECK(bytes.find("\n=") == std::string::npos);
  CHECK(bytes.find(",=") == std::string::npos);
  const Result<Timeline> r = decode_timeline(bytes, "t.csv");
  REQUIRE(r.ok());
  check_equal(*r, t);
}

TEST_CASE("csv: damage has a line and a column") {
  const Plan plan = synthetic::make_plan({2, 1, 1, 1});
  const std::string good = encode_csv_timeline(synthetic::run(plan, {}), plan);
  const auto first = [](const std::string& bytes) {
    const Result<Timeline> r = decode_timeline(bytes, "t.csv");
    REQUIRE(!r.ok());
    CHECK(r.error().failure == Failure::bad_input);
    return r.error().diagnostics[0];
  };
  for (std::size_t n = 0; n < good.size(); n += 7)
    CHECK(!decode_timeline(good.substr(0, n), "t.csv").ok());
  Diagnostic d = first(replaced(good, "span,0,0,0", "span,x1,0,0"));
  CHECK(d.code == "E-TIME-002");
  CHECK(d.found == "\"x1\"");
  CHECK(d.where.column == 6);
  int line = 1;
  for (std::size_t i = 0; i < good.find("span,0,0,0"); ++i) line += good[i] == '\n';
  CHECK(d.where.line == line);
  d = first(replaced(good, "span,0,0,0", "span,0,-7,0"));
  CHECK(d.code == "E-TIME-003");
  CHECK(first(replaced(good, "span,0,0,0", "spam,0,0,0")).found == "\"spam\"");
  CHECK(first(replaced(good, "span,0,0,0,", "span,0,0,0")).found == "46 cells");
  CHECK(first(good.substr(0, good.size() - 4)).found.find("no \"end\" row") == 0);
  CHECK(first(good + "end\n").found == "a row after the end");
  CHECK(first(replaced(good, "record,step", "record,stop")).found == "another header line");
}

TEST_CASE("chrome json: sound, nested, complete") {
  const Plan plan = synthetic::make_plan({2, 2, 2, 1});
  Timeline t = sample(plan);
  t.meta["name"] = "</script>\"\\\n";
  const std::string bytes = encode_chrome_json(t, plan);
  CHECK(bytes.substr(0, 2) == "{\"");  // how viewers recognise it
  const nlohmann::json j = nlohmann::json::parse(bytes);
  CHECK(j["metadata"]["name"] == "</script>\"\\\n");
  std::size_t ops = 0, calls = 0, starts = 0, ends = 0;
  std::map<std::pair<int, int>, std::vector<std::pair<long long, long long>>> tracks;
  for (const auto& e : j["traceEvents"]) {
    const std::string ph = e["ph"];
    starts += ph == "s";
    ends += ph == "f";
    if (ph != "X") continue;
    ops += e["cat"] == "op";
    calls += e["cat"] == "call";
    const auto begin = static_cast<long long>(std::llround(e["ts"].get<double>() * 1000));
    const auto length = static_cast<long long>(std::llround(e["dur"].get<double>() * 1000));
    tracks[{e["pid"], e["tid"]}].push_back({begin, -(begin + length)});
  }
  CHECK(ops == t.spans.size());
  CHECK(calls == t.calls.size());
  CHECK(starts == ends);
  CHECK(starts > 0);
  for (auto& [track, slices] : tracks) {  // by begin, longest first: each fits into the open one
    std::sort(slices.begin(), slices.end());
    std::vector<long long> open;
    for (const auto& [begin, minus_end] : slices) {
      while (!open.empty() && open.back() <= begin) open.pop_back();
      if (!open.empty()) CHECK(-minus_end <= open.back());
      open.push_back(-minus_end);
    }
  }
}

}  // namespace tandem
