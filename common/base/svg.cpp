#include "common/base/svg.h"

namespace tandem {

double tick_step(double range, int count) {
  const double raw = range / count;
  double power = 1;
  while (power * 10 <= raw) power *= 10;
  while (power > raw) power /= 10;
  for (double m : {1.0, 2.0, 5.0})
    if (m * power >= raw) return m * power;
  return 10 * power;
}

}  // namespace tandem
