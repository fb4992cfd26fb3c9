// Decimal units move the exponent of the text before it is converted, binary ones and bits multiply
// by a power of two: both are exact, so "3.35 TB/s" is the double nearest to 3.35e12.
#include "common/scenario/units_text.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "common/base/text.h"

namespace tandem {
namespace {

struct Unit {
  Dimension dimension;
  std::string_view name;
  int exponent10;
  double factor;  // a power of two, or 60 and 3600
};

constexpr double kKi = 1024, kMi = kKi * kKi, kGi = kMi * kKi, kTi = kGi * kKi;
constexpr auto B = Dimension::bytes;
constexpr auto R = Dimension::rate;
constexpr auto T = Dimension::seconds;
constexpr auto F = Dimension::flops;
constexpr std::array kUnits = {
    Unit{B, "B", 0, 1},        Unit{B, "kB", 3, 1},        Unit{B, "MB", 6, 1},
    Unit{B, "GB", 9, 1},       Unit{B, "TB", 12, 1},       Unit{B, "KiB", 0, kKi},
    Unit{B, "MiB", 0, kMi},    Unit{B, "GiB", 0, kGi},     Unit{B, "TiB", 0, kTi},
    Unit{R, "B/s", 0, 1},      Unit{R, "kB/s", 3, 1},      Unit{R, "MB/s", 6, 1},
    Unit{R, "GB/s", 9, 1},     Unit{R, "TB/s", 12, 1},     Unit{R, "KiB/s", 0, kKi},
    Unit{R, "MiB/s", 0, kMi},  Unit{R, "GiB/s", 0, kGi},   Unit{R, "TiB/s", 0, kTi},
    Unit{R, "b/s", 0, 0.125},  Unit{R, "kb/s", 3, 0.125},  Unit{R, "Mb/s", 6, 0.125},
    Unit{R, "Gb/s", 9, 0.125}, Unit{R, "Tb/s", 12, 0.125}, Unit{T, "s", 0, 1},
    Unit{T, "ms", -3, 1},      Unit{T, "us", -6, 1},       Unit{T, "ns", -9, 1},
    Unit{T, "ps", -12, 1},     Unit{T, "min", 0, 60},      Unit{T, "h", 0, 3600},
    Unit{F, "flop/s", 0, 1},   Unit{F, "kflop/s", 3, 1},   Unit{F, "Mflop/s", 6, 1},
    Unit{F, "Gflop/s", 9, 1},  Unit{F, "Tflop/s", 12, 1},  Unit{F, "Pflop/s", 15, 1}};

std::string_view what(Dimension d) {
  switch (d) {
    case Dimension::bytes:
      return "a size such as 40 MiB";
    case Dimension::rate:
      return "a rate such as 50 GB/s";
    case Dimension::seconds:
      return "a time such as 2 us";
    case Dimension::flops:
      return "a rate such as 989 Tflop/s";
  }
  return "";
}

std::string two_readings(Dimension d, std::string_view number, bool large) {
  switch (d) {
    case Dimension::bytes:
      if (large)
        return fmt::format("write \"{0} GB\" (10^9 bytes) or \"{0} GiB\" (2^30 bytes)", number);
      return fmt::format("write \"{0} MB\" (10^6 bytes) or \"{0} MiB\" (2^20 bytes)", number);
    case Dimension::rate:
      return fmt::format("write \"{0} GB/s\" (bytes) or \"{0} Gb/s\" (bits, an eighth)", number);
    case Dimension::seconds:
      return fmt::format("write \"{0} us\" (microseconds) or \"{0} s\" (seconds)", number);
    case Dimension::flops:
      return fmt::format("write \"{0} Tflop/s\" (10^12) or \"{0} Gflop/s\" (10^9)", number);
  }
  return "";
}

Quantity fail(std::string code, std::string title, Dimension d, std::string hint) {
  return {0, {std::move(code), std::move(title), std::string(what(d)), std::move(hint)}};
}

// The number's text with its exponent moved, so that one rounding happens in all.
std::optional<double> shifted(std::string_view number, int exponent10) {
  const auto at = number.find_first_of("eE");
  if (!parse_double(number)) return {};
  int exponent = exponent10;
  if (at != std::string_view::npos) {
    std::string_view written = number.substr(at + 1);
    if (written.starts_with('+')) written.remove_prefix(1);
    const bool negative = written.starts_with('-');
    if (negative) written.remove_prefix(1);
    while (written.size() > 1 && written[0] == '0') written.remove_prefix(1);
    const auto digits = parse_int(written);
    if (!digits || *digits > 1000) return {};
    exponent += static_cast<int>(negative ? -*digits : *digits);
  }
  return parse_double(fmt::format("{}e{}", number.substr(0, at), exponent));
}

std::optional<double> value_in(const Unit& unit, std::string_view number) {
  const auto value = shifted(number, unit.exponent10);
  if (!value || !std::isfinite(*value * unit.factor)) return {};
  return *value * unit.factor;
}

Quantity unknown_unit(Dimension dimension, std::string_view number, std::string_view unit,
                      bool large) {
  if (unit == "KB" || unit == "KB/s")
    return fail(
        "E-UNIT-005", "the unit KB has two meanings", dimension,
        fmt::format("write \"{0} kB{1}\" (1000) or \"{0} KiB{1}\" (1024)", number, unit.substr(2)));
  for (const Unit& other : kUnits)
    if (other.name == unit)
      return fail("E-UNIT-003", fmt::format("the unit {} does not fit here", unit), dimension,
                  two_readings(dimension, number, large));
  std::vector<std::string> names;
  for (const Unit& other : kUnits)
    if (other.dimension == dimension) names.emplace_back(other.name);
  const auto nearest = nearest_name(unit, names);
  return fail("E-UNIT-002", fmt::format("unknown unit \"{}\"", unit), dimension,
              nearest ? fmt::format("did you mean \"{} {}\"?", number, *nearest)
                      : "units here: " + join(names, ", "));
}

}  // namespace

Quantity parse_quantity(Dimension dimension, std::string_view text, bool large) {
  const auto end = text.find_first_not_of("0123456789.eE+-,_");
  std::string_view number = text.substr(0, end);
  std::string_view unit = end == std::string_view::npos ? "" : trim(text.substr(end));
  const auto value = parse_double(number);
  if (!value) {
    const std::string hint = number.find(',') != std::string_view::npos
                                 ? "write a decimal point, not a comma"
                                 : fmt::format("write a number and a unit: {}", what(dimension));
    return fail("E-UNIT-004", "the number of the quantity is not a decimal number", dimension,
                hint);
  }
  if (unit.empty())
    return fail("E-UNIT-001", "the quantity needs a unit", dimension,
                two_readings(dimension, number, large));
  for (const Unit& known : kUnits) {
    if (known.dimension != dimension || known.name != unit) continue;
    const auto converted = value_in(known, number);
    if (!converted)
      return fail("E-UNIT-004", "the quantity is too large or too small", dimension,
                  fmt::format("give {}", what(dimension)));
    return {*converted, {}};
  }
  return unknown_unit(dimension, number, unit, large);
}

std::string quantity_text(Dimension dimension, double value) {
  std::string best;
  for (const Unit& unit : kUnits) {
    if (unit.dimension != dimension || unit.factor == 0.125 || unit.factor == 60 ||
        unit.factor == 3600)
      continue;
    const auto scaled = shifted(format_double(value / unit.factor), -unit.exponent10);
    if (!scaled) continue;
    const std::string number = format_double(*scaled);
    if (value_in(unit, number) != value) continue;
    std::string text = fmt::format("{} {}", number, unit.name);
    if (best.empty() || text.size() < best.size()) best = std::move(text);
  }
  return best;
}

}  // namespace tandem
