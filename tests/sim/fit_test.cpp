// Curves are found again from points made of them; the held-out error is that of other points.
#include "sim/calibrate/fit.h"

#include <doctest/doctest.h>

#include <array>

namespace tandem::sim {
namespace {

TEST_CASE("fit: a straight line is found again") {
  std::vector<TransportSample> samples;
  for (Bytes b = 64; b <= 1 << 24; b *= 4)
    samples.push_back({b, 20e-6 + static_cast<double>(b) / 2e9});
  const TransportFit fit = fit_transport("all_reduce x2", samples);
  REQUIRE(fit.segments.size() == 1);
  CHECK(fit.segments[0].from_bytes == 0);
  CHECK(fit.segments[0].alpha_s == doctest::Approx(20e-6));
  CHECK(fit.segments[0].bytes_per_s == doctest::Approx(2e9));
  CHECK(fit.quality.points == static_cast<int>(samples.size()));
  CHECK(fit.quality.held_out == 3);
  CHECK(fit.quality.max_error < 1e-9);
}

// 1 GB/s up to 64 KiB, then 4 GB/s with a latency of 100 us.
TEST_CASE("fit: a bend makes a second segment") {
  std::vector<TransportSample> samples;
  for (Bytes b = 1024; b <= 1 << 23; b *= 2)
    samples.push_back({b, b <= 65536 ? 5e-6 + static_cast<double>(b) / 1e9
                                     : 100e-6 + static_cast<double>(b) / 4e9});
  const TransportFit fit = fit_transport("send", samples);
  REQUIRE(fit.segments.size() == 2);
  CHECK(fit.segments[1].from_bytes == 131072);
  CHECK(fit.segments[1].bytes_per_s == doctest::Approx(4e9).epsilon(1e-6));
  CHECK(fit.segments[0].alpha_s == doctest::Approx(5e-6).epsilon(1e-6));
}

TEST_CASE("fit: noise shows in the held-out error") {
  std::vector<TransportSample> samples;
  for (int i = 0; i < 30; ++i) {
    const Bytes b = 1000 * (i + 1);
    samples.push_back({b, (10e-6 + static_cast<double>(b) / 1e9) * (i % 2 ? 1.1 : 0.9)});
  }
  const TransportFit fit = fit_transport("send", samples, 1);
  CHECK(fit.quality.held_out == 10);
  CHECK(fit.quality.mean_error > 0.05);
  CHECK(fit.quality.max_error < 0.25);
}

TEST_CASE("fit: error figures and medians by hand") {
  const auto q = quality_of("x", 5, std::array{1.1, 1.8}, std::array{1.0, 2.0});
  CHECK(q.mean_error == doctest::Approx(0.1));
  CHECK(q.max_error == doctest::Approx(0.1));
  CHECK(median({3, 1, 2}) == 2);
  CHECK(median({4, 1, 2, 3}) == 2);
  CHECK_THROWS_AS((void)median({}), InternalError);
}

}  // namespace
}  // namespace tandem::sim
