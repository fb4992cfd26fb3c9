// Goal: quantities are read exactly, printed so that they read back, and refused with two readings.
#include "common/scenario/units_text.h"

#include <doctest/doctest.h>

using namespace tandem;

namespace {

double value(Dimension d, const char* text) {
  const Quantity q = parse_quantity(d, text);
  CHECK_MESSAGE(q.problem.code.empty(), text);
  return q.value;
}
std::string code(Dimension d, const char* text) { return parse_quantity(d, text).problem.code; }

}  // namespace

TEST_CASE("bits and bytes, 1000 and 1024") {
  CHECK(value(Dimension::rate, "50 GB/s") == 50e9);
  CHECK(value(Dimension::rate, "50 GiB/s") == 53687091200.0);
  CHECK(value(Dimension::rate, "400 Gb/s") == 50e9);
  CHECK(value(Dimension::rate, "3.35 TB/s") == 3.35e12);
  CHECK(value(Dimension::bytes, "40 MiB") == 41943040.0);
  CHECK(value(Dimension::bytes, "80 GB") == 80e9);
  CHECK(value(Dimension::bytes, "0.5 KiB") == 512.0);
  CHECK(value(Dimension::seconds, "2 us") == 2e-6);
  CHECK(value(Dimension::seconds, "0.1 ms") == 1e-4);
  CHECK(value(Dimension::seconds, "1.5e3 ms") == 1.5);
  CHECK(value(Dimension::seconds, "2 min") == 120.0);
  CHECK(value(Dimension::flops, "989 Tflop/s") == 989e12);
  CHECK(value(Dimension::flops, "989Tflop/s") == 989e12);
}

TEST_CASE("a bare number shows the two likely readings") {
  const Quantity q = parse_quantity(Dimension::rate, "50");
  CHECK(q.problem.code == "E-UNIT-001");
  CHECK(q.problem.hint == "write \"50 GB/s\" (bytes) or \"50 Gb/s\" (bits, an eighth)");
}

TEST_CASE("refusals") {
  CHECK(code(Dimension::bytes, "2 furlong") == "E-UNIT-002");
  CHECK(code(Dimension::bytes, "2 us") == "E-UNIT-003");
  CHECK(code(Dimension::bytes, "80 Gb/s") == "E-UNIT-003");
  CHECK(code(Dimension::bytes, "1,5 GB") == "E-UNIT-004");
  CHECK(code(Dimension::bytes, "GB") == "E-UNIT-004");
  CHECK(code(Dimension::bytes, "") == "E-UNIT-004");
  CHECK(code(Dimension::bytes, "1e400 GB") == "E-UNIT-004");
  CHECK(code(Dimension::bytes, "1e300 TB") == "E-UNIT-004");
  CHECK(code(Dimension::seconds, "1e-320 ps") == "E-UNIT-004");
  CHECK(code(Dimension::bytes, "64 KB") == "E-UNIT-005");
  CHECK(code(Dimension::rate, "64 KB/s") == "E-UNIT-005");
}

TEST_CASE("quantity_text reads back exactly and is the short form") {
  CHECK(quantity_text(Dimension::bytes, 41943040) == "40 MiB");
  CHECK(quantity_text(Dimension::bytes, 80e9) == "80 GB");
  CHECK(quantity_text(Dimension::seconds, 2e-5) == "20 us");
  CHECK(quantity_text(Dimension::seconds, 60) == "60 s");
  CHECK(quantity_text(Dimension::rate, 50e9) == "50 GB/s");
  CHECK(quantity_text(Dimension::flops, 989e12) == "989 Tflop/s");
  for (double x : {0.1, 1.0 / 3, 123456789.0, 3e-7, 5e12, 1.25e-9, 0.0})
    for (Dimension d : {Dimension::bytes, Dimension::rate, Dimension::seconds, Dimension::flops})
      CHECK(value(d, quantity_text(d, x).c_str()) == x);
}
