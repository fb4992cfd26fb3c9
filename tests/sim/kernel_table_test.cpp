// Times of kernels between measured points. Laws: a measured point comes back as it was; times that
// follow the base exactly are predicted exactly anywhere in range; a bump is felt near it and
// forgotten far from it; nothing is said beyond the range.
#include "sim/compute/kernel_table.h"

#include <doctest/doctest.h>

namespace tandem::sim {
namespace {

constexpr PlanTypes kF32{DType::f32, DType::f32};

Kernel linear(std::int64_t tokens, std::int64_t in, std::int64_t out) {
  return {KernelKind::linear_fwd, {tokens, in, out, 0}, 0, {}, {}, {}};
}
Kernel gelu(std::int64_t elements) {
  return {KernelKind::gelu_fwd, {elements, 0, 0, 0}, kErf, {}, {}, {}};
}

// 2 us + FLOPs at 100 Gflop/s + bytes at 10 GB/s.
double law(const Kernel& k) {
  const KernelCost c = cost(k, kF32, false);
  return 2e-6 + c.flops / 100e9 + c.bytes / 10e9;
}

std::vector<KernelSample> grid() {
  std::vector<KernelSample> out;
  for (std::int64_t tokens : {32, 128, 512})
    for (std::int64_t in : {64, 256, 1024})
      for (std::int64_t width : {64, 256, 1024})
        out.push_back({linear(tokens, in, width), law(linear(tokens, in, width))});
  return out;
}

}  // namespace

TEST_CASE("kernel table: what follows the base is predicted everywhere in range") {
  const KernelTable table(grid(), kF32, false);
  for (const Kernel& k : {linear(100, 100, 100), linear(33, 1024, 70), linear(600, 2048, 64)}) {
    CAPTURE(to_text(k));
    REQUIRE(table.seconds(k).has_value());
    CHECK(*table.seconds(k) == doctest::Approx(law(k)).epsilon(1e-6));
  }
}

TEST_CASE("kernel table: a measured point comes back; its neighbours lean towards it") {
  std::vector<KernelSample> samples = grid();
  samples[13].seconds *= 1.5;  // the middle of the grid: 128 x 256 x 256
  CHECK(samples[13].kernel == linear(128, 256, 256));
  const KernelTable table(samples, kF32, false);
  for (const KernelSample& s : samples)
    CHECK(*table.seconds(s.kernel) == doctest::Approx(s.seconds).epsilon(1e-9));
  const double near = *table.seconds(linear(128, 256, 300)) / law(linear(128, 256, 300));
  const double far = *table.seconds(linear(512, 64, 900)) / law(linear(512, 64, 900));
  CHECK(near > 1.3);
  CHECK(near < 1.55);
  CHECK(far == doctest::Approx(1).epsilon(0.08));
}

// Points of 8 heads with 8 key/value heads and with 2; a kernel of 4 heads with 1 shares them as
// the second does, so that is its neighbour. Where all share alike the dimension counts for
// nothing.
TEST_CASE("kernel table: key/value heads are told apart by how many heads share one") {
  const auto attention = [](std::int64_t heads, std::int64_t kv) {
    return Kernel{KernelKind::attention_fwd, {1, heads, 128, 32, kv}, kCausal | kFlash, {}, {}, {}};
  };
  const std::vector<KernelSample> samples = {{attention(8, 0), 80e-6}, {attention(8, 2), 40e-6}};
  const KernelTable table(samples, kF32, false);
  for (const KernelSample& s : samples)
    CHECK(*table.seconds(s.kernel) == doctest::Approx(s.seconds).epsilon(1e-9));
  const double base = *table.seconds(attention(4, 0)) / *table.seconds(attention(8, 0)),
               shared = *table.seconds(attention(4, 1)) / *table.seconds(attention(8, 2));
  CHECK(base == doctest::Approx(0.5).epsilon(0.25));
  CHECK(shared == doctest::Approx(0.5).epsilon(0.25));
  CHECK(*table.seconds(attention(4, 1)) < 0.75 * *table.seconds(attention(4, 0)));
}

// The same for v: a core of half the width with a v of half its q is the neighbour of the narrow
// one, and a v as wide as q, written or left out, is one and the same point.
TEST_CASE("kernel table: a narrow v is told apart by how much narrower it is than q and k") {
  const auto attention = [](std::int64_t width, std::int64_t v) {
    return Kernel{
        KernelKind::attention_fwd, {1, 8, 128, width, 0, v}, kCausal | kFlash, {}, {}, {}};
  };
  const std::vector<KernelSample> samples = {{attention(64, 0), 80e-6}, {attention(64, 32), 40e-6}};
  const KernelTable table(samples, kF32, false);
  for (const KernelSample& s : samples)
    CHECK(*table.seconds(s.kernel) == doctest::Approx(s.seconds).epsilon(1e-9));
  CHECK(*table.seconds(attention(64, 64)) == *table.seconds(attention(64, 0)));
  CHECK(*table.seconds(attention(32, 16)) < 0.75 * *table.seconds(attention(32, 0)));
}

// Bytes of the kernels of llama by hand, fp32 (models.md 2.7: passes over the tensor): S 16, b 2,
// 4 heads and 2 key/value heads of 8, n = 32 tokens.
TEST_CASE("kernel costs: grouped attention, rope, swiglu, rms norm") {
  const auto of = [](KernelKind kind, KernelDims dims, std::uint32_t flags = 0) {
    return cost(Kernel{kind, dims, flags, {}, {}, {}}, kF32, false);
  };
  const double q = 32 * 4 * 8 * 4, kv = q / 2, lse = 2 * 4 * 16 * 4;
  const KernelDims heads = {2, 4, 16, 8, 2};
  const KernelCost f = of(KernelKind::attention_fwd, heads, kCausal | kFlash);
  CHECK(f.bytes == 2 * q + 2 * kv + lse);                 // q, out, k, v
  CHECK(f.flops == 2 * (2.0 * 2 * 4 * 8) * 16 * 17 / 2);  // as many as with 4 key/value heads
  CHECK(of(KernelKind::attention_bwd_input, heads, kCausal | kFlash).bytes == 4 * q + 4 * kv + lse);
  CHECK(of(KernelKind::rope_fwd, heads).bytes == 2 * (q + kv));
  CHECK(of(KernelKind::rope_bwd_input, heads).bytes == 2 * (q + kv));
  CHECK(of(KernelKind::swiglu_fwd, {32, 24}).bytes == 3 * 32 * 24 * 4);
  CHECK(of(KernelKind::swiglu_bwd_input, {32, 24}).bytes == 5 * 32 * 24 * 4);
  CHECK(of(KernelKind::rmsnorm_fwd, {32, 24}).bytes == 2 * 32 * 24 * 4 + 32 * 4);
  CHECK(of(KernelKind::rmsnorm_bwd_input, {32, 24}).bytes == 3 * 32 * 24 * 4 + 32 * 4);
  CHECK(of(KernelKind::residual_fwd, {32, 24}).bytes == 3 * 32 * 24 * 4);
}

// One point: in proportion to the work. 8,000 B take 10 us, so 16,000 B take 20 us.
TEST_CASE("kernel table: one point is a rate; four times beyond the ends there is no answer") {
  const KernelTable table(std::vector<KernelSample>{{gelu(1000), 10e-6}}, kF32, false);
  CHECK(*table.seconds(gelu(2000)) == doctest::Approx(20e-6));
  CHECK(*table.seconds(gelu(4000)) == doctest::Approx(40e-6));
  CHECK(*table.seconds(gelu(250)) == doctest::Approx(2.5e-6));
  CHECK_FALSE(table.seconds(gelu(4001)).has_value());
  CHECK_FALSE(table.seconds(gelu(249)).has_value());
}

// Two points: a line. Nothing negative: times that fall with size give their mean rate, not a
// slope.
TEST_CASE("kernel table: few points, and points that no line with positive terms explains") {
  const KernelTable line(std::vector<KernelSample>{{gelu(1000), 2e-6}, {gelu(3000), 4e-6}}, kF32,
                         false);
  CHECK(*line.seconds(gelu(2000)) == doctest::Approx(3e-6));
  const KernelTable odd(std::vector<KernelSample>{{gelu(1000), 4e-6}, {gelu(2000), 3e-6}}, kF32,
                        false);
  CHECK(*odd.seconds(gelu(1000)) == doctest::Approx(4e-6));
  CHECK(*odd.seconds(gelu(2000)) == doctest::Approx(3e-6));
  CHECK(*odd.seconds(gelu(1414)) > 3e-6);
  CHECK(*odd.seconds(gelu(1414)) < 4e-6);
}

// The divisor of the loss is a constant of its formula, not a size.
TEST_CASE("kernel table: dimensions that are no extents do not count") {
  const auto ce = [](std::int64_t divisor) {
    return Kernel{KernelKind::ce_grad, {64, 256, divisor, 0}, 0, {}, {}, {}};
  };
  Kernel bigger = ce(7);
  bigger.dims[0] = 640;
  const KernelTable table(std::vector<KernelSample>{{ce(1000), 10e-6}, {bigger, 130e-6}}, kF32,
                          false);
  CHECK(*table.seconds(ce(5)) == doctest::Approx(10e-6));
}

// Samples in the order of work; the 2nd, 5th, ... are held out, never the last. Where all follow
// the base the error is none; a held-out point that is twice the law is predicted at half: error
// 0.5.
TEST_CASE("kernel table: the error on points that were held out") {
  std::vector<KernelSample> samples;
  for (int i = 0; i < 8; ++i) samples.push_back({gelu(1000 << i), law(gelu(1000 << i))});
  CalibrationFit fit = quality_of(samples, kF32, false);
  CHECK(fit.name == "gelu_fwd");
  CHECK(fit.points == 8);
  CHECK(fit.held_out == 2);
  CHECK(fit.max_error < 1e-6);
  samples[4].seconds *= 2;
  fit = quality_of(samples, kF32, false);
  CHECK(fit.max_error == doctest::Approx(0.5).epsilon(1e-3));
  CHECK(fit.mean_error == doctest::Approx(0.25).epsilon(1e-3));
}

}  // namespace tandem::sim
