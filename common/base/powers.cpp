#include "common/base/powers.h"

#include <cmath>
#include <limits>

#include "common/base/check.h"

namespace tandem {
namespace {

// ln 2 in two parts: a multiple of the first, up to 2^11 of them, is exact.
constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;

// x = m 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh((m - 1) / (m + 1)) as a series.
struct Logarithm {
  int exponent = 0;
  double rest = 0;  // ln m
};
Logarithm logarithm(double x) {
  Logarithm out;
  double m = std::frexp(x, &out.exponent);
  if (m < 0x1.6a09e667f3bcdp-1) m *= 2, --out.exponent;
  const double t = (m - 1) / (m + 1), t2 = t * t;
  double sum = 0;
  for (int k = 33; k >= 1; k -= 2) sum = sum * t2 + 1.0 / k;
  out.rest = 2 * t * sum;
  return out;
}

// e^x = 2^k e^r with |r| <= ln 2 / 2.
double exponential(double x) {
  if (x > 710) return std::numeric_limits<double>::infinity();
  if (x < -745) return 0;
  const double k = std::floor(x / (kLn2High + kLn2Low) + 0.5);
  const double r = (x - k * kLn2High) - k * kLn2Low;
  double sum = 1;
  for (int n = 18; n >= 1; --n) sum = 1 + sum * r / n;
  return std::ldexp(sum, static_cast<int>(k));
}

}  // namespace

double power(double base, double exponent) {
  TANDEM_CHECK(base > 0 && std::isfinite(base) && std::isfinite(exponent), "{} to the power of {}",
               base, exponent);
  if (exponent == 0 || base == 1) return 1;
  const Logarithm l = logarithm(base);
  return exponential(exponent * (l.exponent * kLn2High + (l.exponent * kLn2Low + l.rest)));
}

}  // namespace tandem
