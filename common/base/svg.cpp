#include "common/base/svg.h"

#include <charconv>

namespace tandem {

std::string_view ink_on(std::string_view colour) {
  const auto part = [&](std::size_t at) {
    int value = 0;
    std::from_chars(colour.data() + at, colour.data() + at + 2, value, 16);
    return value;
  };
  return 299 * part(1) + 587 * part(3) + 114 * part(5) > 150'000 ? "#1a1c1f" : "#ffffff";
}

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
