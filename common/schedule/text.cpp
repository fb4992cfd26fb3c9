#include "common/schedule/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>
#include <string_view>
#include <vector>

namespace tandem {
namespace {
constexpr std::array<std::string_view, 12> kNames = {"F",       "I",       "W",           "B",
                                                     "SEND_F",  "RECV_F",  "SEND_B",      "RECV_B",
                                                     "UNSHARD", "RESHARD", "REDUCE_GRAD", ""};
constexpr int kMaxGridRanks = 16, kGridRowsAround = 10;
}  // namespace

std::string to_text(const Action& a, bool slices) {
  if (a.kind == ActionKind::idle) return {};
  std::string text = std::to_string(a.stage);
  text += kNames[static_cast<std::size_t>(a.kind)];
  if (!is_of_stage(a.kind)) {
    text += std::to_string(a.microbatch);
    if (slices || a.slice > 0) text += ".s" + std::to_string(a.slice);
  }
  if (a.dir > 0) text += "@d" + std::to_string(a.dir);
  return text;
}

std::string cell_text(const RankOrder& list, std::size_t i, bool slices) {
  const std::size_t end = end_of_cell(list, i);
  if (end == i + 1) return to_text(list[i], slices);
  std::string text = "(";
  for (std::size_t k = i; k < end; ++k) text += (k > i ? ";" : "") + to_text(list[k], slices);
  return text + ")OVERLAP_F_B";
}

std::string to_text(const Order& order) {
  std::string out;
  for (const RankOrder& list : order.ranks) {
    for (std::size_t i = 0; i < list.size(); i = end_of_cell(list, i))
      out += (i ? "," : "") + cell_text(list, i, order.num_slices > 1);
    out += '\n';
  }
  return out;
}

std::string to_file(const Order& order, const std::string& gen) {
  bool messages = false;
  for (const RankOrder& list : order.ranks)
    for (const Action& a : list) messages |= is_message(a.kind) || is_of_stage(a.kind);
  std::string head =
      fmt::format("#tandem order v1 p={} stages={} place={} mb={}", order.num_ranks(),
                  order.num_stages(), placement_name(order), order.num_microbatches);
  if (order.num_slices > 1) head += fmt::format(" slices={}", order.num_slices);
  if (order.num_dirs > 1) head += fmt::format(" dirs={}", order.num_dirs);
  head += messages ? " kind=comms" : " kind=compute";
  if (!gen.empty()) head += " gen=" + gen;
  return head + "\n" + to_text(order);
}

Result<std::string> to_torch(const Order& order) {
  const bool slices = order.num_slices > 1;
  if (!slices && order.num_dirs == 1) return to_text(order);
  const std::string found = slices ? fmt::format("{} slices", order.num_slices) : "two directions";
  return make_error(Failure::infeasible, "E-PLAN-005",
                    fmt::format("PyTorch's text has no {}", slices ? "slices" : "directions"),
                    found, "an order of whole microbatches and one copy of the model",
                    "write Tandem's own text: --to tandem");
}

std::string grid(const Order& order, int mark_rank, int mark) {
  const int ranks = std::min(order.num_ranks(), kMaxGridRanks);
  const bool slices = order.num_slices > 1;
  std::size_t rows = 0;
  int mark_row = -1;
  std::vector<std::vector<std::string>> cells;
  std::vector<std::size_t> width;
  for (int r = 0; r < order.num_ranks(); ++r) {
    if (r >= ranks && r != mark_rank) continue;
    const RankOrder& list = order.ranks[static_cast<std::size_t>(r)];
    std::vector<std::string> column;
    for (std::size_t i = 0; i < list.size(); i = end_of_cell(list, i)) {
      if (r == mark_rank && mark >= 0 && static_cast<std::size_t>(mark) >= i)
        mark_row = static_cast<int>(column.size());
      column.push_back(cell_text(list, i, slices));
    }
    if (r >= ranks) break;
    rows = std::max(rows, column.size());
    std::size_t w = fmt::formatted_size("Rank {}", r);
    for (const std::string& c : column) w = std::max(w, c.size());
    width.push_back(w);
    cells.push_back(std::move(column));
  }
  const std::size_t digits = fmt::formatted_size("{}", rows ? rows - 1 : 0);
  const auto trim = [](std::string line) {
    line.erase(line.find_last_not_of(' ') + 1);
    return line + "\n";
  };
  std::string head(digits + 6, ' ');
  for (std::size_t r = 0; r < cells.size(); ++r)
    head += fmt::format(" {:<{}}", fmt::format("Rank {}", r), width[r]);
  std::string out = trim(head);
  for (std::size_t row = 0; row < rows; ++row) {
    const int distance = static_cast<int>(row) - mark_row;
    if (mark_row >= 0 && std::abs(distance) > kGridRowsAround) continue;
    std::string line = fmt::format("Step {:0>{}}:", row, digits);
    for (std::size_t r = 0; r < cells.size(); ++r)
      line += fmt::format(" {:<{}}", row < cells[r].size() ? cells[r][row] : "", width[r]);
    if (distance == 0 && mark_row >= 0) line += " <-- ERROR HERE";
    out += trim(line);
  }
  return out;
}

std::int64_t time_slot(const ScheduleTimes& times) {
  std::int64_t slot = 0;
  for (const auto& list : times.actions)
    for (const ActionTime& t : list) slot = std::gcd(std::gcd(slot, t.start), t.end);
  return slot;
}

std::string time_grid(const Order& order, const ScheduleTimes& times, std::int64_t slot) {
  const auto columns = static_cast<std::size_t>(times.makespan / slot);
  std::vector<std::vector<std::string>> rows(order.ranks.size(),
                                             std::vector<std::string>(columns, "."));
  // Without the stage: the row says where, and on a rank of several the text keeps it.
  const bool one_stage = order.num_stages() == order.num_ranks() && order.num_dirs == 1;
  std::size_t cell = 1;
  for (std::size_t r = 0; r < order.ranks.size(); ++r) {
    const RankOrder& list = order.ranks[r];
    for (std::size_t i = 0; i < list.size();) {
      const std::size_t end = end_of_cell(list, i), parts = end - i;
      const ActionTime t = times.actions[r][i];
      const auto begin = static_cast<std::size_t>(t.start / slot),
                 length = static_cast<std::size_t>((t.end - t.start) / slot);
      for (std::size_t k = begin; k < begin + length; ++k) rows[r][k] = "-";
      for (std::size_t k = 0; k < parts; ++k) {
        // In a cell too short for all its parts the first ones are shown.
        const std::size_t at = begin + (length >= parts ? k * length / parts : k);
        if (!is_compute(list[i + k].kind) || at >= begin + length) continue;
        const std::string whole = to_text(list[i + k], order.num_slices > 1);
        std::string& text = rows[r][at];
        text = one_stage ? whole.substr(whole.find_first_not_of("0123456789")) : whole;
        cell = std::max(cell, text.size());
      }
      i = end;
    }
  }
  std::string out;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    out += fmt::format("rank {:<{}} ", r, fmt::formatted_size("{}", rows.size() - 1));
    for (const std::string& c : rows[r]) out += fmt::format(" {:<{}}", c, cell);
    out.erase(out.find_last_not_of(' ') + 1);
    out += '\n';
  }
  return out;
}

std::string time_grid(const Order& order) {
  ScheduleCosts unit;
  unit.full = 1;
  const Result<ScheduleTimes> times = evaluate(order, unit);
  if (!times) return {};  // verify names the cycle
  return time_grid(order, *times, 1);
}

}  // namespace tandem
