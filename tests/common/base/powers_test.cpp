// Goal    power() is x^y, from arithmetic alone.
// Method  exact cases, and the C library's pow over a grid of both arguments: relative 1e-13.
#include "common/base/powers.h"

#include <doctest/doctest.h>

#include <cmath>

namespace tandem {

TEST_CASE("power: exact where the answer is a power of two, or the exponent 0") {
  CHECK(power(2, 10) == 1024);
  CHECK(power(4, -0.5) == 0.5);
  CHECK(power(1, -37.5) == 1);
  CHECK(power(12345, 0) == 1);
  CHECK(power(2, -2000) == 0);
  CHECK(std::isinf(power(2, 2000)));
}

TEST_CASE("power: the C library's pow, relative 1e-13") {
  double worst = 0;
  for (double base = 1e-6; base < 1e7; base *= 1.37)
    for (double exponent = -40; exponent <= 40; exponent += 0.83) {
      const double expected = std::pow(base, exponent);
      if (!(expected > 1e-300 && expected < 1e300)) continue;
      worst = std::max(worst, std::abs(power(base, exponent) / expected - 1));
    }
  CHECK(worst < 1e-13);
  CHECK(worst > 0);  // it was compared
}

}  // namespace tandem
