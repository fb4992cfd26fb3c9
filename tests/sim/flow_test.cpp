// Flows in time: by hand, and against finish times that SimGrid 3.32 computed.
#include "sim/network/flow.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

namespace tandem::sim {
namespace {

constexpr Picoseconds kSecond = kPsPerSecond;

// A link of 1000 B/s and 0.5 s: flow 0 starts at 0 with 2000 B, flow 1 at 1 s with 1000 B.
// Flow 0 sends alone from 0.5 to 1.5 s (1000 B), then both send at 500 B/s and end at 3.5 s.
TEST_CASE("flow: a second flow starts in the middle") {
  const std::vector<double> capacity = {1000};
  const std::vector<TimedFlow> flows = {{0, kSecond / 2, 2000, {{LinkId{0}}}},
                                        {kSecond, kSecond / 2, 1000, {{LinkId{0}}}}};
  const auto finish = finish_times(capacity, flows);
  CHECK(finish[0] == 7 * kSecond / 2);
  CHECK(finish[1] == 7 * kSecond / 2);
}

TEST_CASE("flow: an undisturbed flow ends at latency + bytes / rate, rounded up once") {
  const std::vector<double> capacity = {3e9, 7e9};
  const std::vector<TimedFlow> flows = {{5, 1000, 1e6, {{LinkId{0}}}},
                                        {6, 2000, 1e6, {{LinkId{1}}}}};
  const auto finish = finish_times(capacity, flows);
  CHECK(finish[0] == 1005 + transfer_ps(1e6, 3e9));
  CHECK(finish[1] == 2006 + transfer_ps(1e6, 7e9));
  CHECK(transfer_ps(1e6, 3e9) == 333'333'334);  // 333,333,333.3 ps
  CHECK(transfer_ps(0, 3e9) == 0);
}

// Only the component that a start touches is solved again.
TEST_CASE("flow: a flow elsewhere is left alone") {
  FlowNetwork net({10, 10});
  const std::vector<PathEntry> a = {{LinkId{0}}}, b = {{LinkId{1}}};
  const int first = net.start(0, a, 100);
  net.settle(0);
  CHECK(net.finish(first) == 10 * kSecond);
  const int second = net.start(kSecond, b, 100);
  net.settle(kSecond);
  REQUIRE(net.changed().size() == 1);
  CHECK(net.changed()[0] == second);
  const int third = net.start(2 * kSecond, a, 100);
  net.settle(2 * kSecond);
  CHECK(net.changed().size() == 2);          // first and third share link 0
  CHECK(net.finish(first) == 18 * kSecond);  // 80 B left at 5 B/s
  net.end(third);
  net.settle(3 * kSecond);
  CHECK(net.finish(first) == 3 * kSecond + kSecond * 75 / 10);
}

// Each case lists flows with start, bytes, route; tolerance: 50 ps + 1e-9 of the duration.
TEST_CASE("flow: SimGrid's finish times") {
  const std::string path =
      std::string(TANDEM_SOURCE_DIR) + "/../shared/ground_truth/simgrid_flows/cases.jsonl";
  std::ifstream in(path);
  if (!in) {
    MESSAGE("skipped: ../shared/ground_truth/simgrid_flows/cases.jsonl is not here");
    return;
  }
  int cases = 0, flows_checked = 0;
  double worst = 0;
  for (std::string line; std::getline(in, line);) {
    const auto j = nlohmann::json::parse(line);
    std::vector<double> capacity;
    std::vector<Picoseconds> latency;
    for (const auto& l : j["links"]) {
      capacity.push_back(l["bandwidth_bytes_per_s"]);
      latency.push_back(std::llround(l["latency_s"].get<double>() * 1e12));
    }
    std::vector<TimedFlow> flows;
    for (const auto& f : j["flows"]) {
      TimedFlow flow{std::llround(f["start_s"].get<double>() * 1e12), 0, f["bytes"], {}};
      for (int l : f["route_link_ids"]) {
        flow.path.push_back({LinkId{l}});
        flow.latency += latency[static_cast<std::size_t>(l)];
      }
      flows.push_back(std::move(flow));
    }
    const auto finish = finish_times(capacity, flows);
    CAPTURE(j["name"].get<std::string>());
    for (std::size_t i = 0; i < flows.size(); ++i) {
      const double expected = j["flows"][i]["finish_s"].get<double>() * 1e12;
      const double duration = expected - static_cast<double>(flows[i].start);
      const double error = std::abs(static_cast<double>(finish[i]) - expected);
      CAPTURE(i);
      REQUIRE(error <= 50 + 1e-9 * duration);
      worst = std::max(worst, error);
      ++flows_checked;
    }
    ++cases;
  }
  MESSAGE(cases << " cases, " << flows_checked << " flows, largest difference " << worst << " ps");
  CHECK(cases == 30);
  CHECK(flows_checked == 13269);
}

}  // namespace
}  // namespace tandem::sim
