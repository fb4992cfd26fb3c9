// CSV (reads back, errors at line and column), Chrome JSON (sound JSON, nested slices), and what
// all three formats say of the slices of sequences.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "common/base/protobuf_writer.h"
#include "common/base/text.h"
#include "common/timeline/chrome_json.h"
#include "common/timeline/csv.h"
#include "common/timeline/perfetto.h"
#include "common/timeline/perfetto_fields.h"
#include "common/timeline/read_timeline.h"
#include "tests/common/plan/plan_of.h"
#include "tests/common/report/synthetic.h"
#include "tests/common/timeline/equal.h"

namespace tandem {
namespace {

Timeline sample(const Plan& plan) {
  synthetic::Speed s;
  s.steps = 2, s.jitter = 0.3;
  return synthetic::run(plan, s);
}

// Two stages, two slices of every sequence: ops of slices, and ops of none (the update).
Plan sliced_plan() {
  return plan_of(
      scenario("model: gpt-tiny\ntraining: {micro_batch: 1, global_batch: 4}\n"
               "parallel: {pp: 2}\nschedule: {kind: seq1f1b, slices: 2}\n"));
}

// "OP:SLICE ", -1 for an op of a whole sequence: what the plan says of every span of a timeline.
std::string slices_of(const Timeline& t, const Plan& plan) {
  std::string out;
  for (const Span& s : t.spans) out += fmt::format("{}:{} ", s.op.value, plan.op(s.op).seq_slice);
  return out;
}

// A CSV of ours (no quotes needed, no breaks in cells) without one column.
std::string without_column(const std::string& csv, std::string_view name) {
  std::string out;
  std::size_t column = 0;
  for (std::string_view line : split(csv, '\n')) {
    std::vector<std::string_view> cells = split(line, ',');
    if (out.empty())
      column =
          static_cast<std::size_t>(std::find(cells.begin(), cells.end(), name) - cells.begin());
    if (cells.size() > 1) cells.erase(cells.begin() + static_cast<std::ptrdiff_t>(column));
    for (std::size_t i = 0; i < cells.size(); ++i) (out += i == 0 ? "" : ",") += cells[i];
    out += '\n';
  }
  if (csv.ends_with('\n')) out.pop_back();  // split sees an empty line behind the last break
  return out;
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
  CHECK(first(replaced(good, "span,0,0,0,", "span,0,0,0")).found == "47 cells");
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

// Goal    a reader of the table can group by slice; a table from before the column is still read.
// Method  the cells of every span against the plan; the same table with the column cut out.
TEST_CASE("csv: the slice of each span, and tables without that column") {
  const Plan plan = sliced_plan();
  const Timeline t = synthetic::run(plan, {});
  const std::string bytes = encode_csv_timeline(t, plan);
  std::string found;
  std::size_t op = 0, slice = 0, name = 0;
  for (std::string_view line : split(bytes, '\n')) {
    const std::vector<std::string_view> cells = split(line, ',');
    const auto at = [&](std::string_view word) {
      return static_cast<std::size_t>(std::find(cells.begin(), cells.end(), word) - cells.begin());
    };
    if (cells.empty()) continue;  // behind the last break
    if (cells[0] == "record") op = at("op"), slice = at("slice"), name = at("name");
    if (cells[0] != "span") continue;
    found += fmt::format("{}:{} ", cells[op], cells[slice].empty() ? "-1" : cells[slice]);
    const std::string suffix = ".s" + std::string(cells[slice]);
    CHECK((cells[name].find(suffix) != std::string_view::npos) == !cells[slice].empty());
  }
  CHECK(found == slices_of(t, plan));
  for (const char* expected : {":0 ", ":1 ", ":-1 "})
    CHECK(found.find(expected) != std::string::npos);
  CHECK(found.find(":2 ") == std::string::npos);

  const std::string old = without_column(bytes, "slice");
  CHECK(old.find("microbatch,communicator") != std::string::npos);
  const Result<Timeline> r = decode_timeline(old, "old.csv");
  REQUIRE(r.ok());
  check_equal(*r, t);
  const Result<Timeline> now = decode_timeline(bytes, "t.csv");
  REQUIRE(now.ok());
  check_equal(*now, t);
  const Result<Timeline> bad = decode_timeline(replaced(old, "span,0,0,0", "span,0,0,0,0"), "old");
  REQUIRE(!bad.ok());
  CHECK(bad.error().diagnostics[0].found == "48 cells");
  CHECK(bad.error().diagnostics[0].expected == "47 cells in every row");
  // A bad cell behind the missing column is found where it stands.
  const Result<Timeline> cell = decode_timeline(replaced(old, ",F mb0.s0", ",F mb0.s0,x"), "old");
  CHECK(!cell.ok());
}

TEST_CASE("chrome json: the slice of each op, as argument and in the name") {
  const Plan plan = sliced_plan();
  const Timeline t = synthetic::run(plan, {});
  std::string found;
  const nlohmann::json file = nlohmann::json::parse(encode_chrome_json(t, plan));
  for (const auto& e : file["traceEvents"]) {
    if (e["ph"] != "X" || e["cat"] != "op") continue;
    const nlohmann::json& args = e["args"];
    const int slice = args.value("slice", -1);
    found += fmt::format("{}:{} ", args["op"].get<int>(), slice);
    const std::string name = e["name"];
    CHECK((name.find(fmt::format(".s{}", slice)) != std::string::npos) == (slice >= 0));
  }
  CHECK(found == slices_of(t, plan));
}

// Method  our own protobuf reader on the bytes of the op slices; the annotation's name is read from
//         the file. A plan without slices does not even define the key.
TEST_CASE("perfetto: the slice of each op, as annotation and in the name") {
  using namespace perfetto;
  const auto read = [](const std::string& bytes) {
    std::map<std::uint64_t, std::string> keys, names;
    std::map<std::string, std::string> by_op;  // op -> slice; each op runs once here
    ProtoReader trace(bytes);
    for (ProtoField p; trace.next(p);) {
      std::map<std::string, std::int64_t> values;
      std::string name;
      ProtoReader packet(p.bytes);
      for (ProtoField f; packet.next(f);) {
        ProtoReader inner(f.bytes);
        if (f.number == kInternedData)
          for (ProtoField e; inner.next(e);) {
            std::uint64_t iid = 0;
            ProtoReader entry(e.bytes);
            for (ProtoField x; entry.next(x);) {
              if (x.number == 1) iid = x.value;
              if (x.number == 2 && e.number == kInternedKeys) keys[iid] = x.bytes;
              if (x.number == 2 && e.number == kInternedNames) names[iid] = x.bytes;
            }
          }
        if (f.number == kTrackEvent)
          for (ProtoField e; inner.next(e);) {
            if (e.number == kNameIid) name = names[e.value];
            if (e.number != kAnnotations) continue;
            std::string key;
            ProtoReader entry(e.bytes);
            for (ProtoField x; entry.next(x);) {
              if (x.number == kAnnotationNameIid) key = keys[x.value];
              if (x.number == kAnnotationInt) values[key] = x.as_int();
            }
          }
      }
      if (!values.contains("issued")) continue;  // spans alone have it
      const std::int64_t slice = values.contains("slice") ? values["slice"] : -1;
      by_op[std::to_string(values["op"])] = std::to_string(slice);
      CHECK((name.find(fmt::format(".s{}", slice)) != std::string::npos) == (slice >= 0));
    }
    const bool defined = std::any_of(keys.begin(), keys.end(),
                                     [](const auto& key) { return key.second == "slice"; });
    return std::pair(by_op, defined);
  };
  const Plan plan = sliced_plan();
  const Timeline t = synthetic::run(plan, {});
  const std::string bytes = encode_perfetto(t, plan);
  const auto sliced = read(bytes);
  CHECK(sliced.second);
  CHECK(sliced.first.size() == plan.ops.size());
  for (const auto& entry : sliced.first) {
    const OpId op{std::stoi(entry.first)};
    CHECK(entry.second == std::to_string(plan.op(op).seq_slice));
  }
  const Result<Timeline> back = decode_timeline(bytes, "t.pftrace");
  REQUIRE(back.ok());
  check_equal(*back, t);
  const Plan whole = synthetic::make_plan({2, 1, 2, 1});
  CHECK(!read(encode_perfetto(synthetic::run(whole, {}), whole)).second);
}

}  // namespace tandem
