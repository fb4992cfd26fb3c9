#include "common/schedule/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <tuple>

namespace tandem {
namespace {
constexpr std::array<std::string_view, 9> kNames = {
    "F", "I", "W", "B", "SEND_F", "RECV_F", "SEND_B", "RECV_B", "REDUCE_GRAD"};
constexpr int kMaxGridRanks = 16, kGridRowsAround = 10;
}  // namespace

std::string to_text(const Action& a) {
  std::string text = std::to_string(a.stage);
  text += kNames[static_cast<std::size_t>(a.kind)];
  if (a.kind != ActionKind::reduce_grad) text += std::to_string(a.microbatch);
  return text;
}

std::string to_text(const Order& order) {
  std::string out;
  for (const RankOrder& list : order.ranks) {
    for (std::size_t i = 0; i < list.size(); ++i) out += (i ? "," : "") + to_text(list[i]);
    out += '\n';
  }
  return out;
}

std::string grid(const Order& order, int mark_row) {
  const int ranks = std::min(order.num_ranks(), kMaxGridRanks);
  std::size_t rows = 0;
  std::vector<std::size_t> width;
  for (int r = 0; r < ranks; ++r) {
    const RankOrder& list = order.ranks[static_cast<std::size_t>(r)];
    rows = std::max(rows, list.size());
    std::size_t w = fmt::formatted_size("Rank {}", r);
    for (const Action& a : list) w = std::max(w, to_text(a).size());
    width.push_back(w);
  }
  const std::size_t digits = fmt::formatted_size("{}", rows ? rows - 1 : 0);
  const auto trim = [](std::string line) {
    line.erase(line.find_last_not_of(' ') + 1);
    return line + "\n";
  };
  std::string head(digits + 6, ' ');
  for (int r = 0; r < ranks; ++r)
    head += fmt::format(" {:<{}}", fmt::format("Rank {}", r), width[static_cast<std::size_t>(r)]);
  std::string out = trim(head);
  for (std::size_t row = 0; row < rows; ++row) {
    const int distance = static_cast<int>(row) - mark_row;
    if (mark_row >= 0 && std::abs(distance) > kGridRowsAround) continue;
    std::string line = fmt::format("Step {:0>{}}:", row, digits);
    for (int r = 0; r < ranks; ++r) {
      const RankOrder& list = order.ranks[static_cast<std::size_t>(r)];
      const std::string cell = row < list.size() ? to_text(list[row]) : "";
      line += fmt::format(" {:<{}}", cell, width[static_cast<std::size_t>(r)]);
    }
    if (distance == 0 && mark_row >= 0) line += " <-- ERROR HERE";
    out += trim(line);
  }
  return out;
}

std::string time_grid(const Order& order) {
  // Unit costs: repeat slots; a rank runs its head action when what it needs ended before.
  std::map<std::tuple<ActionKind, int, int>, int> end;  // F and the backward of (stage, mb)
  std::vector<std::size_t> next(order.ranks.size(), 0);
  std::vector<std::vector<std::string>> rows(order.ranks.size());
  const int last = order.num_stages() - 1;
  const auto ended = [&](ActionKind k, int s, int i, int slot) {
    const auto it = end.find({k, s, i});
    return it != end.end() && it->second <= slot;
  };
  const auto back_done = [&](int s, int i, int slot) {
    return ended(ActionKind::B, s, i, slot) || ended(ActionKind::I, s, i, slot);
  };
  bool left = true;
  for (int slot = 0; left; ++slot) {
    left = false;
    bool moved = false;
    for (std::size_t r = 0; r < order.ranks.size(); ++r) {
      while (next[r] < order.ranks[r].size() && !is_compute(order.ranks[r][next[r]].kind))
        ++next[r];
      if (next[r] >= order.ranks[r].size()) continue;
      left = true;
      const Action& a = order.ranks[r][next[r]];
      bool ready = true;
      if (a.kind == ActionKind::F)
        ready = a.stage == 0 || ended(ActionKind::F, a.stage - 1, a.microbatch, slot);
      else if (is_backward(a.kind))
        ready = ended(ActionKind::F, a.stage, a.microbatch, slot) &&
                (a.stage == last || back_done(a.stage + 1, a.microbatch, slot));
      rows[r].resize(static_cast<std::size_t>(slot), ".");
      if (!ready) continue;
      rows[r].push_back(
          fmt::format("{}{}", kNames[static_cast<std::size_t>(a.kind)], a.microbatch));
      end[{a.kind, a.stage, a.microbatch}] = slot + 1;
      ++next[r];
      moved = true;
    }
    if (left && !moved && slot > 0) {
      bool waiting_for_this_slot = false;
      for (const auto& [key, at] : end) waiting_for_this_slot |= at == slot + 1;
      if (!waiting_for_this_slot) break;  // stuck: verify names the cycle
    }
  }
  std::size_t cell = 1, columns = 0;
  for (const auto& row : rows) {
    columns = std::max(columns, row.size());
    for (const std::string& c : row) cell = std::max(cell, c.size());
  }
  std::string out;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    rows[r].resize(columns, ".");
    out += fmt::format("rank {:<{}} ", r, fmt::formatted_size("{}", rows.size() - 1));
    for (const std::string& c : rows[r]) out += fmt::format(" {:<{}}", c, cell);
    out.erase(out.find_last_not_of(' ') + 1);
    out += '\n';
  }
  return out;
}

}  // namespace tandem
