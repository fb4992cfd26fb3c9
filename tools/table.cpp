#include "tools/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "common/base/check.h"

namespace tandem::tools {

Table::Table(std::vector<std::string> columns) {
  for (std::string& c : columns) {
    left_.push_back(!c.empty() && c.back() == '<');
    if (left_.back()) c.pop_back();
  }
  rows_.push_back(std::move(columns));
}

void Table::row(std::vector<std::string> cells) {
  TANDEM_CHECK(cells.size() == left_.size(), "{} cells in {} columns", cells.size(), left_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<std::size_t> width(left_.size(), 0);
  for (const auto& row : rows_)
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c)
      line += left_[c] ? fmt::format("  {:<{}}", row[c], width[c])
                       : fmt::format("  {:>{}}", row[c], width[c]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string grouped(std::int64_t value) {
  std::string digits = std::to_string(value);
  const std::size_t first = value < 0 ? 1 : 0;
  for (std::size_t at = digits.size(); at > first + 3;) digits.insert(at -= 3, ",");
  return digits;
}

std::string with_prefix(double value) {
  static constexpr std::array<std::string_view, 8> kPrefixes = {"",   " K", " M", " G",
                                                                " T", " P", " E", " Z"};
  std::size_t i = 0;
  for (; i + 1 < kPrefixes.size() && std::abs(value) >= 999.5; ++i) value /= 1000;
  const double v = std::abs(value);
  const bool whole = i == 0 && value == std::floor(value);
  return fmt::format("{:.{}f}{}", value,
                     whole || v >= 99.95 ? 0
                     : v >= 9.995        ? 1
                                         : 2,
                     kPrefixes[i]);
}

std::string percent(double part) { return fmt::format("{:.1f} %", 100 * part); }

}  // namespace tandem::tools
