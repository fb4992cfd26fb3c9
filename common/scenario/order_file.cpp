#include "common/scenario/order_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "common/base/check.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/schedule/check.h"
#include "common/schedule/parse.h"
#include "common/schedule/text.h"

namespace tandem {
namespace {

constexpr const char* kOrderText = "order";  // no field has this name

// What this version cannot lower, by name.
std::optional<Diagnostic> not_lowered(const OrderText& text, const std::string& file) {
  const Order& order = text.order;
  const auto refuse = [&](const std::string& what, std::string found, std::string expected,
                          std::string hint, int line = 0, int column = 0) {
    return make_diagnostic("E-SCEN-020", what + " is not available in this version",
                           std::move(found), std::move(expected), std::move(hint),
                           {file, line, column});
  };
  for (std::size_t r = 0; r < order.ranks.size(); ++r)
    for (std::size_t i = 0; i < order.ranks[r].size(); ++i) {
      const Action& a = order.ranks[r][i];
      if (is_compute(a.kind) || a.kind == ActionKind::idle) continue;
      return refuse("schedule.kind = file with communications", to_text(a),
                    "F, I, W and B alone: the scenario says where messages and reductions go",
                    "`tandem schedule --file X.csv --dump-after compute` leaves them out",
                    static_cast<int>(r) + 1 + (text.has_header ? 1 : 0), text.columns[r][i]);
    }
  std::vector<int> stages(order.ranks.size(), 0);
  for (int rank : order.stage_rank) ++stages[static_cast<std::size_t>(rank)];
  const auto [least, most] = std::minmax_element(stages.begin(), stages.end());
  if (*least != *most)
    return refuse("schedule.kind = file with unequal numbers of stages on ranks",
                  fmt::format("{} and {} stages on a rank", *least, *most),
                  "the same number of stages on every rank",
                  "use parallel.layer_split for stages of unequal size");
  return {};
}

}  // namespace

std::optional<Order> read_order_file(const std::string& path, Diagnostics& problems) {
  const auto add = [&](const Diagnostics& list) {
    problems.insert(problems.end(), list.begin(), list.end());
    return std::nullopt;
  };
  const auto bytes = read_file(path, limits::kTableBytes);
  if (!bytes) return add(bytes.error().diagnostics);
  auto text = parse_order(*bytes, path);
  if (!text) return add(text.error().diagnostics);
  const OrderCheck check = check_order(text->order, path);
  if (!check.ok()) return add(errors_at(check, *text, *bytes, path));
  if (const auto refused = not_lowered(*text, path)) return add({*refused});
  return std::move(text->order);
}

void keep_order(ScheduleSpec& schedule, const Order& order) {
  schedule.options[kOrderText] = to_file(order);
}

std::optional<Order> kept_order(const ScheduleSpec& schedule) {
  const auto it = schedule.options.find(kOrderText);
  if (schedule.kind != "file" || it == schedule.options.end()) return {};
  auto text = parse_order(it->second, "order");
  TANDEM_CHECK(text.ok(), "a text of to_file does not parse");
  return std::move(text->order);
}

}  // namespace tandem
