#include "common/report/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "common/base/svg.h"
#include "common/base/text.h"
#include "common/plan/labels.h"
#include "common/report/numbers.h"

namespace tandem {
namespace {

constexpr std::size_t kWaterfallRows = 14;

struct Unit {
  double ns = 1;
  std::string_view name = "ns";
};
Unit unit_for(double ns) {
  if (ns >= 2e9) return {1e9, "s"};
  if (ns >= 2e6) return {1e6, "ms"};
  if (ns >= 2e3) return {1e3, "us"};
  return {};
}

}  // namespace

std::string waterfall_svg(const Comparison& c) {
  std::vector<const WaterfallPart*> rows;
  for (const WaterfallPart& p : c.waterfall)
    if (p.difference_sum_ns() != 0) rows.push_back(&p);
  std::stable_sort(rows.begin(), rows.end(), [](const auto* a, const auto* b) {
    return std::abs(a->difference_sum_ns()) > std::abs(b->difference_sum_ns());
  });
  WaterfallPart rest;
  rest.name = fmt::format("{} smaller parts", rows.size() - std::min(rows.size(), kWaterfallRows));
  for (std::size_t i = kWaterfallRows; i < rows.size(); ++i)
    rest.predicted_sum_ns += rows[i]->predicted_sum_ns,
        rest.measured_sum_ns += rows[i]->measured_sum_ns;
  if (rows.size() > kWaterfallRows) rows.resize(kWaterfallRows), rows.push_back(&rest);

  double low = 0, high = 0, at = 0;
  for (const WaterfallPart* p : rows) {
    at += c.mean_ns(p->difference_sum_ns());
    low = std::min(low, at), high = std::max(high, at);
  }
  if (high - low <= 0) high = low + 1;
  constexpr int kLeft = 230, kRight = 110, kWidth = 980, kRow = 26, kTop = 14;
  const double step = tick_step(high - low, 6);
  low = std::floor(low / step) * step, high = std::ceil(high / step) * step;
  const Unit unit = unit_for(std::max(std::abs(low), std::abs(high)));
  const auto x = [&](double ns) {
    return kLeft + (ns - low) / (high - low) * (kWidth - kLeft - kRight);
  };
  const int bottom = kTop + kRow * (static_cast<int>(rows.size()) + 1) + 6;
  SvgText d;
  d.put(
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"wf-title\" width=\"100%\" "
      "style=\"max-width:{}px\"><title id=\"wf-title\">Waterfall: {}</title>\n",
      kWidth, bottom + 44, kWidth, escape_xml(summary_line(c)));
  const int marks = static_cast<int>(std::lround((high - low) / step));
  for (int i = 0; i <= marks; ++i) {
    const double ns = low + i * step;
    const bool zero = std::abs(ns) < step / 2;
    d.put(
        "<line class=\"{}\" x1=\"{:.1f}\" y1=\"{}\" x2=\"{:.1f}\" y2=\"{}\"/>"
        "<text class=\"muted\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:.6g}</text>\n",
        zero ? "axis" : "grid", x(ns), kTop, x(ns), bottom, x(ns), bottom + 16,
        zero ? 0.0 : ns / unit.ns);
  }
  d.put(
      "<text class=\"muted\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">predicted - measured, mean "
      "over "
      "ranks [{}]</text>\n",
      kLeft + (kWidth - kLeft - kRight) / 2, bottom + 36, unit.name);
  at = 0;
  int y = kTop;
  const auto row = [&](const std::string& name, double from, double to, std::string_view cls) {
    const double a = std::min(x(from), x(to)), b = std::max(x(from), x(to));
    d.put(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>"
        "<rect class=\"{}\" x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" rx=\"2\"/>"
        "<text x=\"{:.1f}\" y=\"{}\">{}{}</text>\n",
        kLeft - 10, y + 17, escape_xml(name), cls, a, y + 4, std::max(1.0, b - a), kRow - 8, b + 6,
        y + 17, to > from ? "+" : "", text_of_time(to - from));
    y += kRow;
  };
  for (const WaterfallPart* p : rows) {
    const double difference = c.mean_ns(p->difference_sum_ns());
    row(p->name, at, at + difference, difference > 0 ? "more" : "less");
    at += difference;
    d.put("<line class=\"link\" x1=\"{:.1f}\" y1=\"{}\" x2=\"{:.1f}\" y2=\"{}\"/>\n", x(at), y - 4,
          x(at), y + 4);
  }
  row("difference of the step", 0, static_cast<double>(c.predicted_ns - c.measured_ns), "total");
  return d.text + "</svg>\n";
}

namespace {

std::string_view phase_colour(Phase p) { return kPhaseColours[static_cast<std::size_t>(p)]; }

}  // namespace

std::string timeline_svg(const Plan& plan, const Timeline& predicted, const Timeline* measured,
                         int predicted_step, int measured_step, const TimelineSvgOptions& options) {
  constexpr int kLeft = 130, kRight = 16, kBar = 16, kStrip = 6, kLegend = 30;
  struct Side {
    const Timeline* t;
    int step;
    std::string_view label;
    std::int64_t origin = 0;
  };
  std::vector<Side> sides = {{&predicted, predicted_step, "predicted"}};
  if (measured != nullptr) sides.push_back({measured, measured_step, "measured"});
  std::set<int> ranks;
  for (const Span& s : predicted.spans)
    if (s.step == predicted_step) ranks.insert(s.rank);
  const std::size_t num_all = ranks.size();
  if (static_cast<int>(num_all) > options.max_ranks) {  // evenly spread, so that stages differ
    const std::vector<int> all(ranks.begin(), ranks.end());
    const auto n = static_cast<std::size_t>(std::max(1, options.max_ranks));
    ranks.clear();
    for (std::size_t i = 0; i < n; ++i) ranks.insert(all[i * num_all / n]);
  }
  double length = 1;
  for (Side& side : sides) {
    side.origin = INT64_MAX;
    std::int64_t end = INT64_MIN;
    for (int r : ranks) {
      const RankStep step = rank_step(*side.t, r, side.step);
      side.origin = std::min(side.origin, step.started_ns), end = std::max(end, step.ended_ns);
    }
    if (end > side.origin) length = std::max(length, static_cast<double>(end - side.origin));
  }
  const int top = options.title.empty() ? 12 : 34;
  const int per_rank = static_cast<int>(sides.size()) * (kBar + kStrip + 4) + 10;
  const int bottom = top + per_rank * static_cast<int>(ranks.size());
  const auto x = [&](double ns) { return kLeft + ns / length * (options.width - kLeft - kRight); };
  SvgText d;
  d.put(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" role=\"img\" font-family=\"system-ui, DejaVu Sans, sans-serif\" "
      "font-size=\"12\"><title>{2}</title>\n<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n"
      "<defs><pattern id=\"wait\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" "
      "patternTransform=\"rotate(45)\"><rect width=\"2\" height=\"5\" fill=\"#b9bec5\"/></pattern>"
      "</defs>\n",
      options.width, bottom + (ranks.size() < num_all ? 44 : 26) + kLegend,
      escape_xml(options.title.empty() ? "Timeline of a step" : options.title));
  if (!options.title.empty())
    d.put(
        "<text x=\"12\" y=\"20\" font-size=\"14\" font-weight=\"bold\" "
        "fill=\"#1a1c1f\">{}</text>\n",
        escape_xml(options.title));
  const Unit unit = unit_for(length);
  const double step = tick_step(length, 8);
  for (double t = 0; t <= length; t += step)
    d.put(
        "<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\" stroke=\"#e2e5e9\"/>"
        "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\" fill=\"#5a6068\">{4:.6g}</text>\n",
        x(t), top, bottom, bottom + 15, t / unit.ns);
  d.put("<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#5a6068\">time [{}]</text>\n",
        kLeft - 14, bottom + 15, unit.name);
  std::set<Phase> used;
  int y = top + 4;
  for (int r : ranks) {
    d.put("<text x=\"12\" y=\"{}\" font-weight=\"bold\" fill=\"#1a1c1f\">rank {}</text>\n", y + 13,
          r);
    for (const Side& side : sides) {
      d.put(
          "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#5a6068\">{}</text>"
          "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"#f5f6f8\"/>\n",
          kLeft - 8, y + 13, side.label, kLeft, y, options.width - kLeft - kRight, kBar);
      for (const Span& s : rank_step(*side.t, r, side.step).spans) {
        const Op& op = plan.op(s.op);
        const auto at = [&](std::int64_t ticks) {
          return x(static_cast<double>(to_ns(*side.t, ticks) - side.origin));
        };
        const double a = at(s.started), b = at(s.ended);
        if (is_communication(op.kind)) {
          if (at(s.ready) + 0.5 < a)
            d.put(
                "<rect x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" "
                "fill=\"url(#wait)\"/>\n",
                at(s.ready), y + kBar, a - at(s.ready), kStrip);
          d.put("<rect x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" fill=\"#6b7280\"/>\n",
                a, y + kBar, std::max(0.5, b - a), kStrip);
        } else if (op.kind == OpKind::compute) {
          used.insert(op.phase);
          d.put(
              "<rect x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\" "
              "stroke=\"#ffffff\" stroke-width=\"0.7\"><title>{}: {}</title></rect>\n",
              a, y, std::max(0.7, b - a), kBar, phase_colour(op.phase),
              escape_xml(op_label_with_id(plan, s.op)),
              text_of_time(
                  static_cast<double>(to_ns(*side.t, s.ended) - to_ns(*side.t, s.started))));
          if (b - a > 18 && op.microbatch >= 0)
            d.put(
                "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\" "
                "fill=\"{}\">{}{}</text>\n",
                (a + b) / 2, y + 12, op.phase == Phase::I ? "#000000" : "#ffffff",
                phase_name(op.phase), op.microbatch);
        }
      }
      y += kBar + kStrip + 4;
    }
    y += 10;
  }
  int left = kLeft;
  const auto legend = [&](std::string_view fill, std::string_view words) {
    d.put(
        "<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"11\" fill=\"{}\"/>"
        "<text x=\"{}\" y=\"{}\" fill=\"#1a1c1f\">{}</text>\n",
        left, bottom + 36, fill, left + 19, bottom + 46, words);
    left += 36 + static_cast<int>(words.size()) * 7;
  };
  for (Phase p : used) legend(phase_colour(p), kPhaseWords[static_cast<std::size_t>(p)]);
  legend("#6b7280", "transfer");
  legend("url(#wait)", "waiting for members");
  if (ranks.size() < num_all)
    d.put("<text x=\"12\" y=\"{}\" fill=\"#5a6068\">{} of {} ranks are shown</text>\n", bottom + 64,
          ranks.size(), num_all);
  return d.text + "</svg>\n";
}

}  // namespace tandem
