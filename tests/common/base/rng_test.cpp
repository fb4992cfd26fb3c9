// Goal    randomness is a function of (seed, name, index) and of nothing else, on every machine.
// Method  the published vectors of Philox4x32-10 (SC 2011, kat_vectors of Random123), and the
//         goldens of models.md 2.1 for names and normals.
#include "common/base/rng.h"

#include <doctest/doctest.h>

#include <cmath>

namespace tandem {

TEST_CASE("philox: known answers of the generator") {
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) ==
        PhiloxWords{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint32_t ones = 0xffffffff;
  CHECK(philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
        PhiloxWords{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
}

TEST_CASE("fnv1a64: names of streams") {
  CHECK(fnv1a64("") == 0xcbf29ce484222325ULL);  // the offset basis
  CHECK(fnv1a64("embed.weight") == 0x9ac37bcac2dc8a00ULL);
}

TEST_CASE("philox normals: initial values of two tensors, seed 1234") {
  const double embed[] = {-0.89407961, 0.27223381, 0.58833304, -1.94909264};
  const double q[] = {-0.72241185, 0.28628408, -1.64987219, -0.38878089};
  const auto a = philox_normals(1234, fnv1a64("embed.weight"), 0);
  const auto b = philox_normals(1234, fnv1a64("layers.0.attn.q.weight"), 0);
  for (std::size_t i = 0; i < 4; ++i) {
    CAPTURE(i);
    CHECK(std::abs(a[i] - embed[i]) < 1e-8);
    CHECK(std::abs(b[i] - q[i]) < 1e-8);
  }
}

// 40,000 draws: mean 0 +- 5/200, variance 1 +- 5*sqrt(2)/200; high words of seed and index matter.
TEST_CASE("philox normals: mean, variance, and every part of seed and index counts") {
  double sum = 0, squares = 0;
  for (std::uint64_t q = 0; q < 10'000; ++q)
    for (double x : philox_normals(7, fnv1a64("x"), q)) sum += x, squares += x * x;
  CHECK(std::abs(sum / 40'000) < 0.025);
  CHECK(std::abs(squares / 40'000 - 1) < 0.036);
  const auto base = philox_normals(1, 2, 3);
  CHECK(philox_normals(1, 2, 3) == base);
  CHECK(philox_normals(1 + (1ULL << 32), 2, 3) != base);
  CHECK(philox_normals(1, 2 + (1ULL << 32), 3) != base);
  CHECK(philox_normals(1, 2, 3 + (1ULL << 32)) != base);
}

}  // namespace tandem
