// Files of a measurement: what is written is read back, and damage is refused by name.
#include "common/model/measurement.h"

#include <doctest/doctest.h>

namespace tandem {
namespace {

MeasureRequest request() {
  MeasureRequest r;
  r.types = {DType::f64, DType::f64};
  r.busy = {1, 2, 4};
  r.budget_s = 2.5;
  r.footprint = 12345;
  r.kernels = {{"gelu_fwd elements=64 erf", false},
               {"linear_bwd_weight tokens=8 in=16 out=4 bias", true}};
  return r;
}

MeasureResult result() {
  MeasureResult r;
  r.libtorch = "2.11.0";
  r.call_overhead_s = 3e-7;
  r.points = {{{"gelu_fwd elements=64 erf", false}, 2, 1.5e-6, 2e-6, 0.125, 12}};
  return r;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("measurement: files read back as they were") {
  const auto back = measure_request_from_json(to_json(request()), "r.json");
  REQUIRE_MESSAGE(back.ok(), to_text(back.error().diagnostics));
  CHECK(*back == request());
  const auto answer = measure_result_from_json(to_json(result()), "a.json");
  REQUIRE_MESSAGE(answer.ok(), to_text(answer.error().diagnostics));
  CHECK(*answer == result());
}

TEST_CASE("measurement: damage is E-CAL-007 with the place") {
  const std::string asked = to_json(request()), got = to_json(result());
  const struct {
    std::string text;
    const char* place;
    bool is_request;
  } rows[] = {
      {"[]", "JSON object", true},
      {got, "format", true},
      {replaced(asked, "\"version\": 1", "\"version\": 2"), "version", true},
      {replaced(asked, "\"f64\"", "\"f65\""), "compute", true},
      {replaced(asked, "gelu_fwd elements=64", "gelu_fwd elephants=64"), "kernel", true},
      {replaced(asked, "\"budget_s\": 2.5", "\"budget_s\": -1"), "budget_s", true},
      {replaced(asked, "12345", "1.5"), "footprint", true},
      {replaced(asked, "true", "1"), "accumulate", true},
      {replaced(asked, "4", "0"), "", true},
      {replaced(got, "\"points\"", "\"pints\""), "points", false},
      {replaced(got, "1.5e-06", "null"), "cpu_s", false},
      {replaced(got, "\"samples\": 12", "\"samples\": 0"), "samples", false},
  };
  for (const auto& row : rows) {
    CAPTURE(row.text);
    std::optional<Error> error;
    if (row.is_request) {
      const auto r = measure_request_from_json(row.text, "file.json");
      if (!r) error = r.error();
    } else {
      const auto r = measure_result_from_json(row.text, "file.json");
      if (!r) error = r.error();
    }
    REQUIRE(error.has_value());
    CHECK(error->diagnostics[0].code == "E-CAL-007");
    CHECK(error->diagnostics[0].where.file == "file.json");
    CHECK(error->diagnostics[0].found.find(row.place) != std::string::npos);
  }
}

}  // namespace tandem
