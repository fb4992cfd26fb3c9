#include "tools/schedule_views.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/schedule/registry.h"
#include "tools/schedule_costs.h"
#include "tools/table.h"

namespace tandem::tools {
namespace {

double ratio(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

// A time as a number of the user's unit: whole where it is.
Json number(std::int64_t time, std::int64_t unit) {
  if (time % unit == 0) return time / unit;
  return static_cast<double>(time) / static_cast<double>(unit);
}

// Visits that are one microbatch on a whole rank.
double visits_of_microbatch(const Order& o) {
  const double stages = o.num_dirs == 2 ? 1.0 : double(o.num_stages()) / o.num_ranks();
  return stages * o.num_slices;
}

int largest(const std::vector<int>& list) { return *std::max_element(list.begin(), list.end()); }

std::string plural(std::int64_t n, const std::string& what, const std::string& many = "") {
  return fmt::format("{} {}", grouped(n), n == 1 ? what : many.empty() ? what + "s" : many);
}

std::string shape_text(const Order& o) {
  std::string out = fmt::format("{}, {}", plural(o.num_ranks(), "rank"),
                                plural(o.total_microbatches(), "microbatch", "microbatches"));
  if (o.num_dirs == 2)
    out +=
        fmt::format(" (half of them each way), {} in two copies", plural(o.num_stages(), "stage"));
  else
    out += ", " + plural(o.num_stages(), "stage");
  if (o.num_slices > 1) out += fmt::format(", {} slices", o.num_slices);
  return out + fmt::format(" (placement {})", placement_name(o));
}

std::string costs_text(const EvaluatedSchedule& s) {
  const auto show = [&](std::int64_t x) { return in_unit(x, s.unit); };
  if (s.costs.stages.size() > 1)
    return fmt::format("costs of {} stages; hop {}", s.costs.stages.size(), show(s.costs.hop));
  const VisitCost& c = s.costs.stages[0];
  std::string out = fmt::format("F={} I={} W={} B={}", show(c.F), show(c.I), show(c.W),
                                show(s.costs.full.value_or(c.I + c.W)));
  if (s.costs.cell) out += fmt::format(" FB={}", show(*s.costs.cell));
  return out + fmt::format(", hop {}", show(s.costs.hop));
}

}  // namespace

std::int64_t num_transfers(const Order& o) {
  std::int64_t boundaries = 0;
  for (int s = 0; s + 1 < o.num_stages(); ++s) boundaries += o.rank_of(0, s) != o.rank_of(0, s + 1);
  return 2 * boundaries * o.num_dirs * o.num_microbatches * o.num_slices;
}

std::int64_t num_computing(const Order& o) {
  std::int64_t n = 0;
  for (const RankOrder& list : o.ranks)
    n +=
        std::count_if(list.begin(), list.end(), [](const Action& a) { return is_compute(a.kind); });
  return n;
}

void add_json(const EvaluatedSchedule& s, Json& out) {
  const ScheduleTimes& t = s.times;
  const auto list = [&](const std::vector<std::int64_t>& times) {
    Json array = Json::array();
    for (std::int64_t x : times) array.push_back(number(x, s.unit));
    return array;
  };
  out["kind"] = s.kind;
  out["ranks"] = s.order.num_ranks();
  out["microbatches"] = s.order.total_microbatches();
  out["stages"] = s.order.num_stages();
  out["slices"] = s.order.num_slices;
  out["copies"] = s.order.num_dirs;
  out["placement"] = placement_name(s.order);
  out["makespan"] = number(t.makespan, s.unit);
  out["span"] = number(t.span, s.unit);
  out["ideal"] = number(t.ideal, s.unit);
  out["bubble_makespan"] = number(t.makespan - t.ideal, s.unit);
  out["bubble_span"] = number(t.span - t.ideal, s.unit);
  out["bubble_makespan_ratio"] = ratio(t.makespan - t.ideal, t.makespan);
  out["bubble_span_ratio"] = ratio(t.span - t.ideal, t.span);
  out["busy"] = list(t.busy);
  out["idle"] = list(t.idle);
  out["peak_visits"] = t.peak_visits;
  out["peak_visits_input"] = t.peak_input;
  out["actions"] = num_computing(s.order);
  out["transfers"] = num_transfers(s.order);
  out["notes"] = s.notes;
}

std::string summary_text(const EvaluatedSchedule& s) {
  const ScheduleTimes& t = s.times;
  const ScheduleKind* kind = find_schedule(s.kind);
  const auto show = [&](std::int64_t x) { return in_unit(x, s.unit); };
  std::string out =
      fmt::format("{}{}\n  {}; {}\n", s.kind,
                  kind ? fmt::format(": {}", kind->about) : std::string(": the order of the file"),
                  shape_text(s.order), costs_text(s));
  Table clocks({"clock<", "time", "ideal", "bubble", "of the clock", "of the ideal"});
  for (const auto& [name, clock] : {std::pair{"makespan", t.makespan}, std::pair{"span", t.span}})
    clocks.row({name, show(clock), show(t.ideal), show(clock - t.ideal),
                percent(ratio(clock - t.ideal, clock)), percent(ratio(clock - t.ideal, t.ideal))});
  Table ranks({"rank<", "busy", "idle", "of makespan", "held F until W", "F until I"});
  for (std::size_t r = 0; r < t.busy.size(); ++r)
    ranks.row({fmt::format("{}", r), show(t.busy[r]), show(t.idle[r]),
               percent(ratio(t.idle[r], t.makespan)), fmt::format("{}", t.peak_visits[r]),
               fmt::format("{}", t.peak_input[r])});
  out += "\n" + clocks.text() + "\n" + ranks.text() + "\n";
  const double whole = visits_of_microbatch(s.order);
  out +=
      fmt::format("  held counts visits, {}; weights {}x\n",
                  whole > 1 ? fmt::format("{:.3g} of which are a microbatch on a whole rank", whole)
                            : std::string("each a microbatch on a whole rank"),
                  s.order.num_dirs);
  const std::int64_t m = s.order.total_microbatches();
  out += fmt::format(
      "  {} and {} between ranks, {} a microbatch\n", plural(num_computing(s.order), "action"),
      plural(num_transfers(s.order), "message"), grouped(num_transfers(s.order) / m));
  for (const std::string& note : s.notes) out += "  note: " + note + "\n";
  return out;
}

std::string svg_title(const EvaluatedSchedule& s) {
  const ScheduleTimes& t = s.times;
  return fmt::format("{}: makespan {}, bubble {} ({} of the makespan)", s.kind,
                     in_unit(t.makespan, s.unit), in_unit(t.makespan - t.ideal, s.unit),
                     percent(ratio(t.makespan - t.ideal, t.makespan)));
}

std::string svg_subtitle(const EvaluatedSchedule& s) {
  return fmt::format("{}; {}; span {}", shape_text(s.order), costs_text(s),
                     in_unit(s.times.span, s.unit));
}

std::string table_text(const std::vector<KindRow>& rows) {
  Table table({"kind<", "v", "makespan", "bubble", "of it", "span", "bubble", "of it", "held F-W",
               "F-I", "weights", "messages"});
  std::string refused, notes;
  for (const KindRow& row : rows) {
    if (!row.refusal.empty()) {
      refused += fmt::format("  {}\n", row.refusal);
      continue;
    }
    const EvaluatedSchedule& s = row.schedule;
    const ScheduleTimes& t = s.times;
    const double whole = visits_of_microbatch(s.order);
    const auto show = [&](std::int64_t x) { return in_unit(x, s.unit); };
    const int v = s.order.num_dirs == 2 ? 1 : s.order.num_stages() / s.order.num_ranks();
    table.row({row.kind, fmt::format("{}", v), show(t.makespan), show(t.makespan - t.ideal),
               percent(ratio(t.makespan - t.ideal, t.makespan)), show(t.span),
               show(t.span - t.ideal), percent(ratio(t.span - t.ideal, t.span)),
               fmt::format("{:.4g}", largest(t.peak_visits) / whole),
               fmt::format("{:.4g}", largest(t.peak_input) / whole),
               fmt::format("{}x", s.order.num_dirs), grouped(num_transfers(s.order))});
    for (const std::string& note : s.notes) notes += fmt::format("  {}: {}\n", row.kind, note);
  }
  std::string out = table.text();
  if (!notes.empty()) out += "\nNotes\n" + notes;
  if (!refused.empty()) out += "\nNot possible here\n" + refused;
  return out;
}

Json table_json(const std::vector<KindRow>& rows) {
  Json out = Json::array();
  for (const KindRow& row : rows) {
    Json entry = Json::object();
    if (row.refusal.empty()) {
      add_json(row.schedule, entry);
      const double whole = visits_of_microbatch(row.schedule.order);
      entry["peak_microbatches"] = largest(row.schedule.times.peak_visits) / whole;
      entry["peak_microbatches_input"] = largest(row.schedule.times.peak_input) / whole;
    } else {
      entry["kind"] = row.kind;
      entry["refused"] = row.refusal;
    }
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace tandem::tools
