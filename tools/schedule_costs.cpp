#include "tools/schedule_costs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <vector>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"

namespace tandem::tools {
namespace {

constexpr int kDigits = 6;  // before, and behind, the point

struct Decimal {
  std::int64_t value = 0;  // of 10^-decimals
  int decimals = 0;
};

// "12", "0.25"; no sign, no exponent. Zeros at the end do not count as decimals.
std::optional<Decimal> parse_decimal(std::string_view text) {
  const std::size_t dot = text.find('.');
  const std::string_view whole = text.substr(0, dot);
  std::string_view rest = dot == std::string_view::npos ? "" : text.substr(dot + 1);
  if (whole.empty() || whole.size() > kDigits || (dot != std::string_view::npos && rest.empty()))
    return {};
  while (rest.ends_with('0')) rest.remove_suffix(1);
  if (rest.size() > kDigits) return {};
  Decimal out;
  out.decimals = static_cast<int>(rest.size());
  for (std::string_view part : {whole, rest})
    for (char c : part) {
      if (c < '0' || c > '9') return {};
      out.value = 10 * out.value + (c - '0');
    }
  return out;
}

Error usage(std::string code, std::string title, std::string found, std::string expected,
            std::string hint) {
  return make_error(Failure::usage, std::move(code), std::move(title), std::move(found),
                    std::move(expected), std::move(hint), Location{"command line"});
}

constexpr const char* kDecimalWords = "a decimal such as 2 or 0.25, six digits on either side";

// All decimals as integers of one unit.
class Scale {
 public:
  void add(const Decimal& d) { decimals_ = std::max(decimals_, d.decimals); }
  void halve() { factor_ = 2; }
  [[nodiscard]] std::int64_t unit() const { return factor_ * power(decimals_); }
  [[nodiscard]] std::int64_t of(const Decimal& d) const {
    return d.value * power(decimals_ - d.decimals) * factor_;
  }

 private:
  static std::int64_t power(int n) {
    std::int64_t out = 1;
    while (n-- > 0) out *= 10;
    return out;
  }
  int decimals_ = 0;
  std::int64_t factor_ = 1;
};

Error not_decimal(const std::string& flag, const std::string& name, std::string_view text) {
  return usage("E-CLI-004", "an option has a wrong value", fmt::format("{} {}{}", flag, name, text),
               kDecimalWords, "costs have no unit: choose one in which they are short numbers");
}

Result<std::map<std::string, Decimal>> named_costs(const std::string& cost) {
  std::map<std::string, Decimal> out;
  if (cost.empty()) return out;
  for (std::string_view part : split(cost, ',')) {
    const std::size_t equals = part.find('=');
    const std::string name(part.substr(0, std::min(equals, part.size())));
    const bool known = name == "F" || name == "I" || name == "W" || name == "B" || name == "FB";
    if (equals == std::string_view::npos || !known)
      return usage("E-CLI-004", "an option has a wrong value", "--cost " + std::string(part),
                   "F=, I=, W=, B= or FB= and a number, separated by commas",
                   "write --cost F=1,I=1,W=1, or --cost F=1,B=2");
    const auto value = parse_decimal(part.substr(equals + 1));
    if (!value) return not_decimal("--cost", name + "=", part.substr(equals + 1));
    if (!out.emplace(name, *value).second)
      return usage("E-CLI-004", "an option has a wrong value", "--cost " + cost, "each cost once",
                   fmt::format("delete one {}=", name));
  }
  return out;
}

Result<UserCosts> costs_of(const std::map<std::string, Decimal>& given, const Decimal& hop) {
  const auto has = [&](const char* name) { return given.contains(name); };
  const auto at = [&](const char* name) { return has(name) ? given.at(name) : Decimal{1, 0}; };
  Scale scale;
  for (const auto& [name, value] : given) scale.add(value);
  scale.add(hop);
  const bool halves = has("B") && !has("I") && !has("W");
  if (halves) scale.halve();
  UserCosts out;
  out.unit = scale.unit();
  out.costs.hop = scale.of(hop);
  VisitCost& c = out.costs.stages[0];
  c = {scale.of(at("F")), scale.of(at("I")), scale.of(at("W"))};
  std::int64_t whole = c.I + c.W;
  if (has("B")) {
    whole = scale.of(at("B"));
    if (halves) c.I = c.W = whole / 2;
    if (has("I") && !has("W")) c.W = whole - c.I;
    if (has("W") && !has("I")) c.I = whole - c.W;
    if (c.I < 0 || c.W < 0)
      return usage("E-CLI-004", "an option has a wrong value",
                   fmt::format("B={} below its part {}", in_unit(whole, out.unit),
                               in_unit(has("I") ? c.I : c.W, out.unit)),
                   "B = I + W", "give I and W, or B alone");
    out.costs.full = whole;
  }
  if (c.F + whole == 0)
    return usage("E-CLI-004", "an option has a wrong value", "costs that are all 0",
                 "a cost above 0", "write --cost F=1,I=1,W=1");
  if (has("FB")) {
    const std::int64_t cell = scale.of(at("FB"));
    if (cell < std::max(c.F, whole) || cell > c.F + whole)
      return usage(
          "E-CLI-004", "an option has a wrong value",
          fmt::format("FB={} with F={}, B={}", in_unit(cell, out.unit), in_unit(c.F, out.unit),
                      in_unit(whole, out.unit)),
          fmt::format("max(F, B) <= FB <= F + B: {} to {}", in_unit(std::max(c.F, whole), out.unit),
                      in_unit(c.F + whole, out.unit)),
          "a cell takes as long as its longer part at least, and as both in turn at most");
    out.costs.cell = cell;
    out.gives_cell = true;
  }
  return out;
}

}  // namespace

Result<UserCosts> parse_cost_table(std::string_view text, const std::string& file,
                                   const std::string& hop_text) {
  const auto bad = [&](int line, std::string_view found, const std::string& expected) {
    return make_error(Failure::bad_input, "E-SCHED-001", "a table of costs has the wrong form",
                      std::string(found.substr(0, 60)), expected,
                      "first line stage,F,I,W; then a line for each stage: 0,1,1.5,0.5",
                      {file, line, line ? 1 : 0});
  };
  const auto hop = parse_decimal(hop_text);
  if (!hop) return not_decimal("--hop", "", hop_text);
  std::vector<std::array<Decimal, 3>> rows;
  Scale scale;
  scale.add(*hop);
  int number = 0;
  for (std::string_view line : split(text, '\n')) {
    ++number;
    line = trim(line);
    if (number == 1) {
      if (line != "stage,F,I,W") return bad(1, line, "the line stage,F,I,W");
      continue;
    }
    if (line.empty()) continue;
    const auto cells = split(line, ',');
    const auto stage = parse_int(trim(cells[0]));
    if (cells.size() != 4 || !stage || *stage != static_cast<std::int64_t>(rows.size()) ||
        *stage >= limits::kLayers)
      return bad(number, line, fmt::format("{},F,I,W with their numbers", rows.size()));
    std::array<Decimal, 3> row;
    for (std::size_t i = 0; i < 3; ++i) {
      const auto value = parse_decimal(trim(cells[i + 1]));
      if (!value) return bad(number, trim(cells[i + 1]), kDecimalWords);
      scale.add(*value);
      row[i] = *value;
    }
    if (row[0].value + row[1].value + row[2].value == 0) return bad(number, line, "a cost above 0");
    rows.push_back(row);
  }
  if (rows.empty()) return bad(0, "no stage", "a line for each stage");
  UserCosts out;
  out.unit = scale.unit();
  out.costs.hop = scale.of(*hop);
  out.costs.stages.clear();
  for (const auto& [f, i, w] : rows)
    out.costs.stages.push_back({scale.of(f), scale.of(i), scale.of(w)});
  return out;
}

Result<UserCosts> read_costs(const std::string& cost, const std::string& file,
                             const std::string& hop_text) {
  if (!file.empty()) {
    if (!cost.empty())
      return usage("E-CLI-005", "these options do not go together", "--cost with --costs",
                   "one of them", "put all costs into the table");
    const auto text = read_file(file, limits::kTableBytes);
    if (!text) return text.error();
    return parse_cost_table(*text, file, hop_text);
  }
  const auto hop = parse_decimal(hop_text);
  if (!hop) return not_decimal("--hop", "", hop_text);
  const auto given = named_costs(cost);
  if (!given) return given.error();
  return costs_of(*given, *hop);
}

std::string in_unit(std::int64_t time, std::int64_t unit) {
  if (time % unit == 0) return fmt::format("{}", time / unit);
  std::string text = fmt::format("{:.6f}", static_cast<double>(time) / static_cast<double>(unit));
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text;
}

}  // namespace tandem::tools
