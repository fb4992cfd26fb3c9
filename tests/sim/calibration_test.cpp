// The .cal.json file: there and back, and every fault with its place.
#include "common/model/calibration.h"

#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>

namespace tandem {
namespace {

Calibration sample() {
  Calibration c;
  c.machine = {"A CPU", "2.11.0", 2, 4};
  c.issue_s = 3e-6;
  c.wakes = {{2, 5e-5}, {6, 9e-5}};
  c.copy_bytes_per_s = 4e9;
  c.kernels = {{"gelu_fwd elements=8192 erf", false, 1, 1.25e-5, 40},
               {"linear_bwd_weight tokens=64 in=64 out=128 bias", false, 1, 3e-5, 40},
               {"linear_bwd_weight tokens=64 in=64 out=128 bias", true, 2, 4e-5, 40}};
  c.transports = {{"all_reduce", 2, 0.75, {{0, 4e-5, 1e9}, {65536, 6e-5, 2e9}}},
                  {"send", 2, 0.5, {{0, 2e-5, 3e9}}}};
  c.fits = {{"all_reduce x2", 20, 6, 0.02, 0.05}};
  return c;
}

TEST_CASE("calibration: json there and back") {
  const std::string text = to_json(sample());
  const auto back = calibration_from_json(text, "a.cal.json");
  REQUIRE(back.ok());
  CHECK(*back == sample());
  CHECK(to_json(*back) == text);
}

TEST_CASE("calibration: curves by size and members") {
  const Calibration c = sample();
  const TransportCurve* curve = c.transport("all_reduce", 7);
  REQUIRE(curve);
  CHECK(seconds_of(*curve, 1000) == doctest::Approx(4e-5 + 1e-6));
  CHECK(seconds_of(*curve, 65536) == doctest::Approx(6e-5 + 32768e-9));
  CHECK(c.transport("broadcast", 2) == nullptr);
}

TEST_CASE("calibration: wake-ups are linear between points and flat beyond them") {
  const Calibration c = sample();
  CHECK(wake_seconds(c, 1) == doctest::Approx(5e-5));
  CHECK(wake_seconds(c, 2) == doctest::Approx(5e-5));
  CHECK(wake_seconds(c, 3) == doctest::Approx(6e-5));
  CHECK(wake_seconds(c, 6) == doctest::Approx(9e-5));
  CHECK(wake_seconds(c, 100) == doctest::Approx(9e-5));
  CHECK(wake_seconds(Calibration{}, 2) == 0);
}

TEST_CASE("calibration: a kernel's key leaves out what does not change its cost") {
  Kernel k{KernelKind::embed_fwd, {64, 128, 64, 0}, 0, {}, {}, {}};
  k.coords.add(Axis::tp);
  CHECK(calibration_key(k) == "embed_fwd tokens=64 rows=128 width=64");
}

TEST_CASE("calibration: faults are refused with code and place") {
  using Json = nlohmann::ordered_json;
  const auto code = [](const std::string& text, const std::string& place) {
    const auto r = calibration_from_json(text, "bad.cal.json");
    REQUIRE_FALSE(r.ok());
    CHECK(r.error().failure == Failure::bad_input);
    const Diagnostic& d = r.error().diagnostics[0];
    CAPTURE(d.found);
    CHECK(d.where.file == "bad.cal.json");
    CHECK(d.found.find(place) != std::string::npos);
    return d.code;
  };
  const auto changed = [](const std::function<void(Json&)>& change) {
    Json j = Json::parse(to_json(sample()));
    change(j);
    return j.dump();
  };
  CHECK(code("{", "") == "E-CAL-001");
  CHECK(code("[1]", "") == "E-CAL-001");
  CHECK(code(std::string(100'000, '['), "") == "E-CAL-004");
  CHECK(code(changed([](Json& j) { j.erase("machine"); }), "machine") == "E-CAL-002");
  CHECK(code(changed([](Json& j) { j["kernels"] = 3; }), "kernels") == "E-CAL-002");
  CHECK(code(changed([](Json& j) { j["kernels"][1]["seconds"] = -1; }), "kernels[1].seconds") ==
        "E-CAL-003");
  CHECK(code(changed([](Json& j) { j["kernels"][0]["seconds"] = "fast"; }), "kernels[0].seconds") ==
        "E-CAL-003");
  CHECK(code(changed([](Json& j) { j["kernels"][0]["kernel"] = "gelu_fwd elements=x"; }),
             "kernels[0].kernel") == "E-CAL-003");
  CHECK(code(changed([](Json& j) { j["kernels"][0]["busy"] = 0; }), "busy") == "E-CAL-003");
  CHECK(code(changed([](Json& j) { j["tandem_calibration"] = 2; }), "tandem_calibration") ==
        "E-CAL-003");
  CHECK(code(changed([](Json& j) { j["transports"][0]["segments"][1]["from_bytes"] = 0; }),
             "transports[0].segments[1].from_bytes") == "E-CAL-003");
  CHECK(code(changed([](Json& j) { j["transports"][1]["segments"] = Json::array(); }),
             "transports[1].segments") == "E-CAL-002");
  CHECK(code(changed([](Json& j) { j["transports"][0]["segments"][0]["bytes_per_s"] = 0; }),
             "bytes_per_s") == "E-CAL-003");
  CHECK(code(changed([](Json& j) { j["kernels"].push_back(j["kernels"][0]); }), "gelu_fwd") ==
        "E-CAL-005");
  CHECK(code(changed([](Json& j) { j["overheads"]["wakes"][1]["ranks"] = 2; }), "2 ranks") ==
        "E-CAL-005");
  CHECK(code(changed([](Json& j) { j["overheads"]["wakes"][1]["seconds"] = -1; }),
             "overheads.wakes[1].seconds") == "E-CAL-003");
  CHECK(code(changed([](Json& j) { j["kernels"] = Json(std::vector<int>(200'001, 1)); }),
             "200001 entries") == "E-CAL-004");
}

}  // namespace
}  // namespace tandem
