// Roofline by hand; measured points win, neighbours interpolate, and each says which it was.
#include "sim/compute/compute_cost.h"

#include <doctest/doctest.h>

#include "tests/sim/plan_maker.h"

namespace tandem::sim {
namespace {

Kernel linear(std::int64_t tokens, std::int64_t in, std::int64_t out) {
  return {KernelKind::linear_fwd, {tokens, in, out, 0}, 0, {}, {}, {}};
}
KernelPoint point(const Kernel& k, double seconds, int busy = 1, bool accumulate = false) {
  return {calibration_key(k), accumulate, busy, seconds, 10};
}

// 1000 x 1000 x 1000: 2 GFLOP at 1 Tflop/s * 0.5 = 4 ms; 12 MB at 1 GB/s * 0.8 = 15 ms.
// At 100 GB/s the bytes take 0.15 ms and the FLOPs decide.
TEST_CASE("compute: the roofline takes the slower of work and bytes") {
  DeviceSpec d = device_spec(1, 1).device;
  d.efficiency = {{"matmul", 0.5}, {"memory", 0.8}};
  const Kernel k = linear(1000, 1000, 1000);
  CHECK(roofline_seconds(k, {}, false, d) == doctest::Approx(15e-3));
  d.memory_bandwidth = 100e9;
  CHECK(roofline_seconds(k, {}, false, d) == doctest::Approx(4e-3));
  const Kernel g = {KernelKind::gelu_fwd, {1000, 0, 0, 0}, kErf, {}, {}, {}};
  d.memory_bandwidth = 1e9;
  CHECK(roofline_seconds(g, {}, false, d) == doctest::Approx(10e-6));  // 8 kB at 0.8 GB/s
  d.efficiency["elementwise"] = 0.4;
  CHECK(roofline_seconds(g, {}, false, d) == doctest::Approx(20e-6));
}

TEST_CASE("compute: exact hit, interpolation, and the roofline for the rest") {
  PlanMaker make(1, 1, 1);
  const KernelId exact = make.kernel(linear(10, 10, 10));    // 2,000 FLOP
  const KernelId between = make.kernel(linear(20, 10, 10));  // 4,000
  const KernelId above = make.kernel(linear(60, 10, 10));    // 12,000
  const KernelId far = make.kernel(linear(10000, 10, 10));
  const KernelId other = make.gelu(1000);
  Calibration c;
  c.kernels = {point(linear(10, 10, 10), 1e-6), point(linear(30, 10, 10), 2e-6)};
  const auto cost = ComputeCost::create(make.plan, device_spec(1, 1).device, &c);
  REQUIRE(cost.ok());
  CHECK(cost->source(exact, false) == CostSource::measured);
  CHECK(cost->work(exact, false)[0] == 1'000'000);
  CHECK(cost->source(between, false) == CostSource::interpolated);
  CHECK(cost->work(between, false)[0] == 1'500'000);
  CHECK(cost->source(above, false) == CostSource::interpolated);  // 0.5 us + 0.25 us a 1,000 FLOP
  CHECK(cost->work(above, false)[0] == 3'500'000);
  CHECK(cost->source(far, false) == CostSource::roofline);
  CHECK(cost->source(other, false) == CostSource::roofline);
  CHECK(cost->source(exact, true) == CostSource::roofline);  // measured without accumulation
}

TEST_CASE("compute: a table by busy cores; a missing level has the nearest lower one's figure") {
  PlanMaker make(1, 1, 1);
  const KernelId a = make.kernel(linear(10, 10, 10));
  const KernelId b = make.kernel(linear(20, 10, 10));
  Calibration c;
  c.kernels = {point(linear(10, 10, 10), 1e-6), point(linear(10, 10, 10), 3e-6, 3),
               point(linear(20, 10, 10), 7e-6, 2)};
  const auto cost = ComputeCost::create(make.plan, device_spec(1, 1).device, &c);
  REQUIRE(cost.ok());
  CHECK(cost->num_levels() == 3);
  CHECK(cost->work(a, false)[0] == 1'000'000);
  CHECK(cost->work(a, false)[2] == 3'000'000);
  CHECK(cost->work(b, false)[1] == 7'000'000);
}

TEST_CASE("compute: another precision, and a device without a peak, are refused") {
  PlanMaker make(1, 1, 1);
  make.gelu(8);
  Calibration c;
  c.precision = "bf16";
  const auto other = ComputeCost::create(make.plan, device_spec(1, 1).device, &c);
  REQUIRE_FALSE(other.ok());
  CHECK(other.error().diagnostics[0].code == "E-CAL-006");
  make.plan.header.types.compute = DType::f64;
  const auto none = ComputeCost::create(make.plan, device_spec(1, 1).device, nullptr);
  REQUIRE_FALSE(none.ok());
  CHECK(none.error().diagnostics[0].code == "E-CLUS-006");
}

}  // namespace
}  // namespace tandem::sim
