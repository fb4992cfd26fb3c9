#include "common/report/numbers.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <string_view>

namespace tandem {
namespace {

// Three significant digits of 0 <= value < 1000 or so.
std::string three_digits(double value) {
  const double v = std::abs(value);
  const int decimals = v < 9.995 ? 2 : v < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}", value, decimals);
}

template <std::size_t N>
std::string with_unit(double value, double step, const std::array<std::string_view, N>& units) {
  std::size_t unit = 0;
  for (; unit + 1 < N && std::abs(value) >= 0.9995 * step; ++unit) value /= step;
  if (unit == 0 && value == std::floor(value)) return fmt::format("{:.0f} {}", value, units[0]);
  return three_digits(value) + " " + std::string(units[unit]);
}

}  // namespace

std::string text_of_time(double ns) {
  constexpr std::array<std::string_view, 4> kUnits = {"ns", "us", "ms", "s"};
  return with_unit(ns, 1000, kUnits);
}

std::string text_of_bytes(double bytes) {
  constexpr std::array<std::string_view, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  return with_unit(bytes, 1024, kUnits);
}

std::string text_of_error(double error) {
  const double percent = error * 100;
  return fmt::format("{}{} %", percent < 0 ? "" : "+", three_digits(percent));
}

}  // namespace tandem
