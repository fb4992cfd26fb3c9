#include "common/schedule/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/schedule/kinds/kinds.h"

namespace tandem {
namespace {

struct Row {
  ScheduleKind kind;
  Result<Order> (*make)(const PipelineShape&, const ScheduleOptions&);
};
constexpr std::array<Row, 17> kKinds = {{
    {{"gpipe", "linear", 1, 1, "backward", false, 1, "all forwards, then all backwards"}, gpipe},
    {{"1f1b", "linear", 1, 1, "strict", false, 1, "a backward as soon as it can run"}, one_f_one_b},
    {{"eager_1f1b", "linear", 1, 1, "", false, 1, "1f1b with room to hide messages"}, eager_1f1b},
    {{"interleaved_1f1b", "loop", 0, 2, "group, overlap, fuse", false, 1,
      "1f1b over v stages a rank: a v-th of its bubble"},
     interleaved_1f1b},
    {{"bfs", "loop", 0, 1, "backward", false, 1, "stage by stage: for ZeRO-3 by windows"}, bfs},
    {{"zb_h1", "linear", 1, 1, "", true, 1, "split backward at 1f1b's memory"}, zb_h1},
    {{"interleaved_zb", "loop", 0, 2, "group", true, 1, "zb_h1 over v stages a rank"},
     interleaved_zb},
    {{"zb_h2", "linear", 1, 1, "", true, 1, "split backward at twice 1f1b's memory"}, zb_h2},
    {{"zbv", "v", 2, 2, "", true, 1, "split backward on a V: no bubble for F = I = W"}, zbv},
    {{"v_half", "v", 2, 2, "", true, 1, "split backward on a V at half of 1f1b's memory"}, v_half},
    {{"v_min", "v", 2, 2, "", true, 1, "split backward on a V at a third of 1f1b's memory"}, v_min},
    {{"dualpipe", "bidir", 1, 1, "fuse", true, 2, "two copies, forwards beside backwards"},
     dualpipe},
    {{"dualpipev", "v", 2, 2, "fuse", true, 1, "dualpipe on a V with one copy"}, dualpipev},
    {{"chimera", "bidir", 1, 1, "", false, 2, "two copies fill each other's bubble"}, chimera},
    {{"hanayo", "v", 0, 2, "waves", false, 1, "waves over 2W stages a rank (approximate)"}, hanayo},
    {{"seq1f1b", "linear", 1, 1, "slices", false, 1, "1f1b over slices of sequences"}, seq1f1b},
    {{"zb_greedy", "linear, loop or v", 0, 1, "placement, memory_limit, mu, objective", true, 1,
      "searches for given costs and memory"},
     zb_greedy},
}};

const Row* find_row(std::string_view name) {
  for (const Row& row : kKinds)
    if (row.kind.name == name) return &row;
  return nullptr;
}

}  // namespace

std::vector<std::string> schedule_kinds() {
  std::vector<std::string> names;
  for (const Row& row : kKinds) names.emplace_back(row.kind.name);
  return names;
}

const ScheduleKind* find_schedule(std::string_view name) {
  const Row* row = find_row(name);
  return row ? &row->kind : nullptr;
}

bool takes_option(const ScheduleKind& kind, std::string_view option) {
  for (std::string_view own : split(kind.options, ','))
    if (trim(own) == option) return true;
  return false;
}

std::string option_takers(std::string_view option) {
  std::vector<std::string> names;
  for (const Row& row : kKinds)
    if (takes_option(row.kind, option)) names.emplace_back(row.kind.name);
  if (names.empty()) return "no kind takes it";
  return fmt::format("only {} take{} it", join(names, ", "), names.size() == 1 ? "s" : "");
}

int default_stages_per_rank(std::string_view kind, const ScheduleOptions& options) {
  if (kind == "hanayo") {
    const Result<int> waves = int_option("hanayo", options, "waves", 1);
    return 2 * (waves ? std::min(*waves, 1 << 20) : 1);
  }
  const ScheduleKind* row = find_schedule(kind);
  return row ? std::max(row->stages_per_rank, row->least) : 1;
}

namespace {

// Of kind file: `key` ("place=") in the header of the text that the scenario keeps
// (scenario/order_file.h).
std::string_view value_of_file(const ScheduleOptions& options, std::string_view key,
                               std::string_view otherwise) {
  const auto text = options.find("order");
  if (text == options.end()) return otherwise;
  const std::string_view header = std::string_view(text->second).substr(0, text->second.find('\n'));
  for (std::string_view word : split(header, ' '))
    if (word.starts_with(key)) return word.substr(key.size());
  return otherwise;
}

}  // namespace

int num_slices(std::string_view kind, const ScheduleOptions& options) {
  const auto given = options.find("slices");
  std::string_view text = given == options.end() ? "1" : std::string_view(given->second);
  if (kind == "file") text = value_of_file(options, "slices=", "1");
  const std::int64_t k = parse_int(text).value_or(1);
  return static_cast<int>(std::clamp<std::int64_t>(k, 1, std::numeric_limits<int>::max()));
}

bool lies_on(std::string_view kind, const ScheduleOptions& options, int num_ranks, int stage,
             int rank) {
  const ScheduleKind* row = find_schedule(kind);
  std::string_view placement = row ? row->placement : "loop";
  const auto given = options.find("placement");
  if (kind == "zb_greedy")
    placement = given == options.end() ? "v" : std::string_view(given->second);
  if (kind == "file") placement = value_of_file(options, "place=", "loop");
  if (placement.starts_with('[')) {
    const auto ranks = split(placement.substr(1, placement.size() - 2), ',');
    const auto at = static_cast<std::size_t>(stage);
    return at < ranks.size() && parse_int(ranks[at]) == rank;
  }
  const int turn = stage / num_ranks, place = stage % num_ranks;
  if (placement == "bidir") return place == rank || num_ranks - 1 - place == rank;
  const bool back = placement == "v" && turn % 2 == 1;
  return (back ? num_ranks - 1 - place : place) == rank;
}

Error schedule_error(const std::string& kind, const std::string& fact, const std::string& found,
                     const std::string& expected, const std::string& hint) {
  return make_error(Failure::infeasible, "E-PLAN-001", "sched/" + kind + ": " + fact, found,
                    expected, hint);
}

Result<Order> make_order(const std::string& kind, PipelineShape shape,
                         const ScheduleOptions& options) {
  const Row* row = find_row(kind);
  if (!row) {
    const std::string names = join(schedule_kinds(), ", ");
    return schedule_error(kind, "no such schedule; the kinds are " + names, kind, "one of " + names,
                          "write schedule: 1f1b");
  }
  const int p = shape.num_ranks, m = shape.num_microbatches;
  if (p < 1 || m < 1 || shape.stages_per_rank < 0) {
    const std::string got = fmt::format("p={} m={} v={}", p, m, shape.stages_per_rank);
    return schedule_error(kind, "p, m and v must be >= 1 (got " + got + ")", got, ">= 1",
                          "use at least one rank, one microbatch and one stage a rank");
  }
  for (const auto& [name, value] : options)
    if (!takes_option(row->kind, name))
      return schedule_error(
          kind,
          fmt::format("{} is not an option of this kind; {}; drop it", name, option_takers(name)),
          fmt::format("{}={}", name, value), fmt::format("an option of {}", kind),
          fmt::format("drop schedule.{}", name));
  const int needed = default_stages_per_rank(kind, options);
  if (shape.stages_per_rank == 0) shape.stages_per_rank = needed;
  const int v = shape.stages_per_rank;
  const bool fixed = row->kind.stages_per_rank > 0 || kind == "hanayo";
  if (fixed && v != needed)
    return schedule_error(kind, fmt::format("this schedule fixes v={} (got v={})", needed, v),
                          fmt::format("v={}", v), fmt::format("v={}", needed),
                          "drop schedule.stages_per_rank");
  const std::int64_t actions = std::int64_t{3} * p * v * m;
  if (kind == "zb_greedy" && actions > limits::kSearchedActions)
    return schedule_error(kind,
                          fmt::format("{} actions are more than the {} it searches; use fewer "
                                      "microbatches, or zb_h1",
                                      actions, limits::kSearchedActions),
                          fmt::format("3 * {} stages * {} microbatches", p * v, m),
                          fmt::format("at most {}", limits::kSearchedActions),
                          "write schedule: zb_h1");
  if (!shape.costs.empty() && shape.costs.size() != static_cast<std::size_t>(p * v))
    return schedule_error(
        kind, fmt::format("{} costs for {} stages; give one a stage", shape.costs.size(), p * v),
        fmt::format("{} costs", shape.costs.size()), fmt::format("{}", p * v),
        "give a cost for each stage");
  return row->make(shape, options);
}

std::string schedule_note(const std::string& kind, const PipelineShape& shape) {
  const int p = shape.num_ranks, m = shape.num_microbatches;
  const auto note = [&](const char* text, int least) {
    return m >= least ? std::string()
                      : fmt::format(
                            "m={} is smaller than {}={}: this order is legal, but its closed "
                            "forms do not hold",
                            m, text, least);
  };
  if (kind == "zb_h2" || kind == "zbv") return note("2p-1", 2 * p - 1);
  if (kind == "v_half" || kind == "v_min") return note("2p", 2 * p);
  if (kind == "interleaved_1f1b") return note("p", p);
  return {};
}

}  // namespace tandem
