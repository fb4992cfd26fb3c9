// Words that the rules of several kinds share; kinds.h says what each means.
#include <fmt/format.h>

#include <algorithm>

#include "common/base/text.h"
#include "common/schedule/kinds/kinds.h"

namespace tandem {

Order empty_order(const PipelineShape& shape, std::vector<int> stage_rank) {
  Order order;
  order.num_microbatches = shape.num_microbatches;
  order.stage_rank = std::move(stage_rank);
  order.ranks.resize(static_cast<std::size_t>(shape.num_ranks));
  return order;
}

Order linear_order(const PipelineShape& shape) {
  return empty_order(shape, loop_placement(shape.num_ranks, 1));
}

void alternate(RankOrder& list, const std::vector<Action>& f, const std::vector<Action>& b, int w) {
  const auto warm_up = static_cast<std::size_t>(w);
  list.insert(list.end(), f.begin(), f.begin() + w);
  for (std::size_t x = 0; warm_up + x < f.size(); ++x) {
    list.push_back(f[warm_up + x]);
    list.push_back(b[x]);
  }
  list.insert(list.end(), b.end() - w, b.end());
}

std::vector<Turn> turns(int num_microbatches, int num_chunks, int group) {
  std::vector<Turn> out;
  for (int first = 0; first < num_microbatches; first += group)
    for (int chunk = 0; chunk < num_chunks; ++chunk)
      for (int i = first; i < std::min(first + group, num_microbatches); ++i)
        out.push_back({i, chunk});
  return out;
}

Result<int> group_size(const std::string& kind, const PipelineShape& shape,
                       const ScheduleOptions& options) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  if (option(options, "group", "auto") == "auto") {
    if (m < p) return m;
    const int rounds = m / p;
    if (m % rounds == 0) return m / rounds;
    return schedule_error(
        kind,
        fmt::format("m={} is not a multiple of {} rounds (p={}); give g, or use m={} or m={}", m,
                    rounds, p, m / rounds * rounds, (m / rounds + 1) * rounds),
        fmt::format("m={}", m), fmt::format("a multiple of {}", rounds),
        fmt::format("use {} microbatches, or write schedule.group", (m / rounds + 1) * rounds));
  }
  const Result<int> given = int_option(kind, options, "group", m);
  if (!given) return given;
  const int g = *given;
  if (m < p) {
    if (g == m) return g;
    return schedule_error(kind,
                          fmt::format("group size g={} with m={} below p={}; the one group holds "
                                      "all microbatches; use g={}",
                                      g, m, p, m),
                          fmt::format("g={}", g), fmt::format("g={}", m), "drop schedule.group");
  }
  if (g < p)
    return schedule_error(kind,
                          fmt::format("group size g={} is smaller than p={}; ranks would wait for "
                                      "each other; use {} <= g <= m",
                                      g, p, p),
                          fmt::format("g={}", g), fmt::format("{} <= g <= {}", p, m),
                          fmt::format("write schedule.group: {}", p));
  if (g > m)
    return schedule_error(
        kind, fmt::format("group size g={} is larger than m={}; use {} <= g <= m", g, m, p),
        fmt::format("g={}", g), fmt::format("{} <= g <= {}", p, m),
        fmt::format("write schedule.group: {}", p));
  if (m % g != 0 && m % g < p)
    return schedule_error(
        kind,
        fmt::format("last group has {} microbatch{}, fewer than p={}; change m or g so that m mod "
                    "g is 0 or >= p",
                    m % g, m % g == 1 ? "" : "es", p),
        fmt::format("m={} g={}", m, g), fmt::format("m mod g = 0 or >= {}", p),
        "change schedule.group or the number of microbatches");
  return g;
}

Action Writer::next(ActionKind kind, int stage, int dir) {
  auto at = std::find_if(counters_.begin(), counters_.end(),
                         [&](const Counters& c) { return c.stage == stage && c.dir == dir; });
  if (at == counters_.end()) at = counters_.insert(at, {stage, dir});
  const int counter = kind == ActionKind::F ? 0 : kind == ActionKind::W ? 2 : 1;
  Action a{kind, stage, at->next[counter]++};
  a.dir = static_cast<std::int8_t>(dir);
  return a;
}

std::string option(const ScheduleOptions& options, const char* name, const char* otherwise) {
  const auto it = options.find(name);
  return it == options.end() ? otherwise : it->second;
}

Result<int> int_option(const std::string& kind, const ScheduleOptions& options, const char* name,
                       int otherwise) {
  const auto it = options.find(name);
  if (it == options.end()) return otherwise;
  const auto value = parse_int(it->second);
  if (value && *value >= 1 && *value <= INT32_MAX) return static_cast<int>(*value);
  return schedule_error(kind,
                        fmt::format("{}={} is no count; write a number from 1", name, it->second),
                        it->second, "a number from 1", fmt::format("write {}: 2", name));
}

Result<bool> bool_option(const std::string& kind, const ScheduleOptions& options, const char* name,
                         bool otherwise) {
  const std::string text = option(options, name, otherwise ? "true" : "false");
  if (text == "true" || text == "false") return text == "true";
  return schedule_error(kind, fmt::format("{}={} is neither true nor false", name, text), text,
                        "true or false", fmt::format("write {}: true", name));
}

Error too_few_microbatches(const std::string& kind, int m, const std::string& least,
                           int least_value, const std::string& why) {
  return schedule_error(kind,
                        fmt::format("m={} is smaller than {}={}; {}; use m >= {}", m, least,
                                    least_value, why, least_value),
                        fmt::format("m={}", m), fmt::format("m >= {}", least_value),
                        fmt::format("use {} microbatches or more", least_value));
}

Result<bool> backward_lifo(const std::string& kind, const ScheduleOptions& options,
                           bool otherwise) {
  const char* usual = otherwise ? "lifo" : "fifo";
  const std::string direction = option(options, "backward", usual);
  if (direction == "fifo" || direction == "lifo") return direction == "lifo";
  return schedule_error(kind, "backward=" + direction + " is no order of the backwards", direction,
                        "fifo or lifo", fmt::format("write schedule.backward: {}", usual));
}

Result<Order> two_way_order(const std::string& kind, const PipelineShape& shape,
                            const std::string& instead) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  if (p % 2 != 0)
    return schedule_error(
        kind,
        fmt::format("p={} is odd; two directions need an even number of ranks; use p={}{}", p,
                    p + 1, instead.empty() ? "" : " or " + instead),
        fmt::format("p={}", p), "an even number of ranks",
        instead.empty() ? "change parallel.pp"
                        : "change parallel.pp, or write schedule: " + instead);
  if (m % 2 != 0)
    return schedule_error(kind,
                          fmt::format("m={} is odd; each direction takes half of the microbatches; "
                                      "use m={}",
                                      m, m + 1),
                          fmt::format("m={}", m), "an even number of microbatches",
                          fmt::format("use {} microbatches", m + 1));
  Order order = linear_order(shape);
  order.num_dirs = 2;
  order.num_microbatches = m / 2;
  return order;
}

}  // namespace tandem
