// to_text, summary_line and to_json of compare.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "common/base/text.h"
#include "common/report/compare.h"
#include "common/report/numbers.h"

namespace tandem {
namespace {

constexpr int kBarColumns = 40;
constexpr std::size_t kRowsPrinted = 16;

std::string signed_time(double ns) {
  return fmt::format("{}{}", ns > 0 ? "+" : "", text_of_time(ns));
}

// Parts by the size of their difference, largest first.
std::vector<const WaterfallPart*> by_size(const Comparison& c) {
  std::vector<const WaterfallPart*> out;
  for (const WaterfallPart& p : c.waterfall) out.push_back(&p);
  std::stable_sort(out.begin(), out.end(), [](const WaterfallPart* a, const WaterfallPart* b) {
    return std::abs(a->difference_sum_ns()) > std::abs(b->difference_sum_ns());
  });
  return out;
}

// A bar from `a` to `b` on a scale of `low` .. `high`, with the axis of 0 marked.
std::string bar(double a, double b, double low, double high) {
  std::string out(kBarColumns, ' ');
  const auto column = [&](double v) {
    const double part = high > low ? (v - low) / (high - low) : 0;
    return static_cast<std::size_t>(std::lround(part * (kBarColumns - 1)));
  };
  const std::size_t from = column(std::min(a, b)), to = column(std::max(a, b));
  for (std::size_t i = from; i <= to; ++i) out[i] = b >= a ? '+' : '-';
  if (out[column(0)] == ' ') out[column(0)] = '|';
  return out;
}

class Text {
 public:
  explicit Text(const Comparison& c) : c_(c) {}
  std::string run() {
    for (char ch : summary_line(c_)) {  // a line for each of its parts
      if (ch == ';')
        out_ += "\n ";
      else
        out_ += ch;
    }
    put("\n");
    if (c_.predicted_meta.contains("routing"))
      put("  the prediction has the routing that the run recorded (routing.csv)\n");
    waterfall();
    ops();
    order();
    memory();
    for (const Diagnostic& d : c_.warnings) put("\n{}", tandem::to_text(d));
    return std::move(out_);
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  void waterfall() {
    put("\nWhere the time of a step goes (mean over {} ranks, whole step; predicted - measured)\n",
        c_.ranks.size());
    put("  {:<28} {:>10} {:>10} {:>10}  from 0 to the difference of the step\n", "part",
        "predicted", "measured", "difference");
    std::vector<const WaterfallPart*> rows = by_size(c_);
    WaterfallPart rest;
    rest.name = fmt::format("{} smaller parts", rows.size() - std::min(rows.size(), kRowsPrinted));
    for (std::size_t i = kRowsPrinted; i < rows.size(); ++i)
      rest.predicted_sum_ns += rows[i]->predicted_sum_ns,
          rest.measured_sum_ns += rows[i]->measured_sum_ns;
    if (rows.size() > kRowsPrinted) rows.resize(kRowsPrinted), rows.push_back(&rest);
    double low = 0, high = 0, at = 0;
    for (const WaterfallPart* p : rows) {
      at += c_.mean_ns(p->difference_sum_ns());
      low = std::min(low, at), high = std::max(high, at);
    }
    at = 0;
    for (const WaterfallPart* p : rows) {
      const double d = c_.mean_ns(p->difference_sum_ns());
      row(escape_terminal(p->name), c_.mean_ns(p->predicted_sum_ns), c_.mean_ns(p->measured_sum_ns),
          d, d == 0 ? std::string() : bar(at, at + d, low, high));
      at += d;
    }
    const auto predicted = static_cast<double>(c_.predicted_ns);
    const auto measured = static_cast<double>(c_.measured_ns);
    row("step", predicted, measured, predicted - measured, bar(0, predicted - measured, low, high));
    put("  by kind: {}\n", kinds_line(c_));
  }

  void row(const std::string& name, double predicted, double measured, double difference,
           const std::string& picture) {
    std::string line =
        fmt::format("  {:<28} {:>10} {:>10} {:>10}  {}", name, text_of_time(predicted),
                    text_of_time(measured), signed_time(difference), picture);
    put("{}\n", line.substr(0, line.find_last_not_of(' ') + 1));
  }

  void ops() {
    put("\nOps: median |error| {:.1f} % (compute {:.1f} %, communication {:.1f} %) of {} ops",
        c_.median_op_error * 100, c_.median_compute_error * 100,
        c_.median_communication_error * 100, c_.joined_ops);
    if (c_.untimed_ops > 0) put("; {} took no measurable time", c_.untimed_ops);
    put("\n");
    if (c_.worst_ops.empty()) return;
    put("  {:<40} {:>4} {:>10} {:>10} {:>9}\n", "largest differences", "rank", "predicted",
        "measured", "error");
    for (std::size_t i = 0; i < std::min<std::size_t>(5, c_.worst_ops.size()); ++i) {
      const OpError& e = c_.worst_ops[i];
      put("  {:<40} {:>4} {:>10} {:>10} {:>9}\n", escape_terminal(e.name), e.rank,
          text_of_time(static_cast<double>(e.predicted_ns)),
          text_of_time(static_cast<double>(e.measured_ns)), text_of_error(e.error));
    }
  }

  void order() {
    std::int64_t inversions = 0;
    for (const RankOrder& o : c_.order) inversions += o.inversions;
    put("\nOrder of op starts: rank correlation at least {:.3f}, {} pairs the other way round\n",
        c_.order_correlation, inversions);
    for (std::size_t i = 0; i < std::min<std::size_t>(3, c_.inversions.size()); ++i) {
      const Inversion& v = c_.inversions[i];
      put("  rank {}: {} started {} before {}\n", v.rank, escape_terminal(v.second_name),
          text_of_time(static_cast<double>(-v.measured_gap_ns)), escape_terminal(v.first_name));
    }
  }

  void memory() {
    if (c_.memory.empty()) {
      put("\nPeak memory: not in both timelines\n");
      return;
    }
    put("\nPeak memory: error {} at most\n",
        c_.peak_memory_error ? text_of_error(*c_.peak_memory_error) : "unknown");
    for (std::size_t i = 0; i < std::min<std::size_t>(8, c_.memory.size()); ++i) {
      const RankMemory& m = c_.memory[i];
      put("  rank {:<4} predicted {:>10}, measured {:>10}, {}\n", m.rank,
          text_of_bytes(static_cast<double>(m.predicted)),
          text_of_bytes(static_cast<double>(m.measured)), text_of_error(m.error()));
    }
    if (c_.memory.size() > 8) put("  and {} more ranks\n", c_.memory.size() - 8);
  }

  const Comparison& c_;
  std::string out_;
};

double seconds(double ns) { return ns * 1e-9; }

}  // namespace

std::string summary_line(const Comparison& c) {
  std::string out = fmt::format(
      "predicted {}, measured {}, {}", text_of_time(static_cast<double>(c.predicted_ns)),
      text_of_time(static_cast<double>(c.measured_ns)), text_of_error(c.error_rel));
  const std::vector<const WaterfallPart*> rows = by_size(c);
  if (rows.empty() || rows[0]->difference_sum_ns() == 0) return out + "; every part agrees";
  const double d = c.mean_ns(rows[0]->difference_sum_ns());
  out +=
      fmt::format("; the largest part of the difference is {} ({})", rows[0]->name, signed_time(d));
  if (c.replay_error_rel)
    out += fmt::format("; with measured durations {}", text_of_error(*c.replay_error_rel));
  return out;
}

std::string kinds_line(const Comparison& c) {
  std::array<std::int64_t, kNumPartKinds> sums{};
  for (const WaterfallPart& p : c.waterfall)
    sums[static_cast<std::size_t>(p.key.kind)] += p.difference_sum_ns();
  std::vector<std::size_t> order;
  for (std::size_t k = 0; k < sums.size(); ++k)
    if (sums[k] != 0) order.push_back(k);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::abs(sums[a]) > std::abs(sums[b]);
  });
  std::string out;
  for (std::size_t k : order)
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", name_of(static_cast<PartKind>(k)),
                       signed_time(c.mean_ns(sums[k])));
  return out.empty() ? "none" : out;
}

std::string to_text(const Comparison& c) { return Text(c).run(); }

nlohmann::json to_json(const Comparison& c) {
  using nlohmann::json;
  json out;
  out["error_rel"] = c.error_rel;
  out["predicted_s"] = seconds(static_cast<double>(c.predicted_ns));
  out["measured_s"] = seconds(static_cast<double>(c.measured_ns));
  if (const auto it = c.predicted_meta.find("routing"); it != c.predicted_meta.end())
    out["routing"] = it->second;
  out["predicted_step"] = c.predicted_step, out["measured_step"] = c.measured_step;
  out["ranks"] = c.ranks;
  out["measured_steps_ns"] = c.measured_steps_ns;
  out["waterfall"] = json::object();
  out["parts"] = json::array();
  for (const WaterfallPart& p : c.waterfall) {
    out["waterfall"][p.name] = seconds(c.mean_ns(p.difference_sum_ns()));
    out["parts"].push_back({{"name", p.name},
                            {"kind", std::string(name_of(p.key.kind))},
                            {"predicted_sum_ns", p.predicted_sum_ns},
                            {"measured_sum_ns", p.measured_sum_ns}});
  }
  out["replay_error_rel"] = c.replay_error_rel ? json(*c.replay_error_rel) : json();
  out["median_op_error"] = c.median_op_error;
  out["median_compute_error"] = c.median_compute_error;
  out["median_communication_error"] = c.median_communication_error;
  out["joined_ops"] = c.joined_ops, out["untimed_ops"] = c.untimed_ops;
  out["median_start_error_s"] = seconds(static_cast<double>(c.median_start_error_ns));
  out["median_start_error_visits"] = c.median_start_error_visits;
  out["peak_memory_error"] = c.peak_memory_error ? json(*c.peak_memory_error) : json();
  out["worst_ops"] = json::array();
  for (const OpError& e : c.worst_ops)
    out["worst_ops"].push_back({{"op", e.op.value},
                                {"rank", e.rank},
                                {"name", e.name},
                                {"predicted_ns", e.predicted_ns},
                                {"measured_ns", e.measured_ns},
                                {"error", e.error}});
  out["order_correlation"] = c.order_correlation;
  out["order"] = json::array();
  for (const RankOrder& o : c.order)
    out["order"].push_back(
        {{"rank", o.rank}, {"correlation", o.correlation}, {"inversions", o.inversions}});
  out["inversions"] = json::array();
  for (const Inversion& v : c.inversions)
    out["inversions"].push_back({{"rank", v.rank},
                                 {"first", v.first.value},
                                 {"second", v.second.value},
                                 {"predicted_gap_ns", v.predicted_gap_ns},
                                 {"measured_gap_ns", v.measured_gap_ns}});
  out["memory"] = json::array();
  for (const RankMemory& m : c.memory) {
    json predicted = json::object(), measured = json::object();
    for (std::size_t k = 0; k < m.predicted_by_class.size(); ++k) {
      const std::string name(name_of(static_cast<BufferClass>(k)));
      if (m.predicted_by_class[k] == 0 && m.measured_by_class[k] == 0) continue;
      predicted[name] = m.predicted_by_class[k], measured[name] = m.measured_by_class[k];
    }
    out["memory"].push_back({{"rank", m.rank},
                             {"predicted", m.predicted},
                             {"measured", m.measured},
                             {"error", m.error()},
                             {"predicted_by_class", predicted},
                             {"measured_by_class", measured}});
  }
  out["communicators"] = json::array();
  for (const CommTotals& t : c.communicators)
    out["communicators"].push_back({{"name", t.name},
                                    {"ops", t.ops},
                                    {"bytes", t.bytes},
                                    {"predicted_transfer_ns", t.predicted_transfer_ns},
                                    {"measured_transfer_ns", t.measured_transfer_ns},
                                    {"predicted_waiting_ns", t.predicted_waiting_ns},
                                    {"measured_waiting_ns", t.measured_waiting_ns}});
  out["clock_skew_ns"] = c.clock_skew_ns;
  return out;
}

}  // namespace tandem
