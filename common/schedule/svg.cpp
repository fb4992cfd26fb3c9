#include "common/schedule/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "common/base/svg.h"
#include "common/base/text.h"
#include "common/schedule/text.h"

namespace tandem {
namespace {

constexpr int kLeft = 92, kRight = 22, kLane = 24, kStrip = 24, kGap = 14;
constexpr int kTop = 56, kAxis = 40, kLegendRow = 20;
constexpr double kLightest = 0.62;  // share of white in the last stage of a rank
constexpr std::string_view kInk = "#1a1c1f", kMuted = "#5a6068", kHeld = "#c3cad3";

struct Colour {
  int r = 0, g = 0, b = 0;
  [[nodiscard]] std::string text() const { return fmt::format("#{:02x}{:02x}{:02x}", r, g, b); }
};

// The phase's colour with a share of white.
Colour colour_of(ActionKind kind, double white) {
  const std::string_view hex = kPhaseColours[static_cast<std::size_t>(kind)];
  const auto part = [&](std::size_t at) {
    const int value = std::stoi(std::string(hex.substr(at, 2)), nullptr, 16);
    return static_cast<int>(std::lround(value + white * (255 - value)));
  };
  return {part(1), part(3), part(5)};
}

class Picture {
 public:
  Picture(const Order& order, const ScheduleTimes& times, const ScheduleSvgOptions& options)
      : order_(order), times_(times), options_(options) {
    std::int64_t shortest = times.makespan;
    for (std::size_t r = 0; r < order.ranks.size(); ++r)
      for (std::size_t i = 0; i < order.ranks[r].size(); ++i) {
        const ActionTime t = times.actions[r][i];
        if (!is_compute(order.ranks[r][i].kind)) continue;
        used_[static_cast<std::size_t>(order.ranks[r][i].kind)] = true;
        fused_ = fused_ || order.ranks[r][i].fused;
        if (t.end > t.start) shortest = std::min(shortest, t.end - t.start);
      }
    const double slots = static_cast<double>(times.makespan) / static_cast<double>(shortest);
    // Room for the number in the shortest box, within reason.
    plot_ = static_cast<int>(std::clamp(22 * slots, 760.0, 3000.0));
    chunk_.assign(order.stage_rank.size(), 0);
    std::vector<int> count(order.ranks.size(), 0);
    for (std::size_t s = 0; s < chunk_.size(); ++s)
      chunk_[s] = count[static_cast<std::size_t>(order.stage_rank[s])]++;
    chunks_ = *std::max_element(count.begin(), count.end());
    most_held_ = std::max(1, *std::max_element(times.peak_visits.begin(), times.peak_visits.end()));
  }

  std::string run() {
    const int bottom = kTop + static_cast<int>(order_.ranks.size()) * (kLane + kStrip + kGap);
    const int width = kLeft + plot_ + kRight;
    std::string legend_text = legend(bottom + kAxis, width);
    d_.put(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
        "height=\"{1}\" role=\"img\" font-family=\"system-ui, DejaVu Sans, sans-serif\" "
        "font-size=\"12\"><title>{2}</title>\n<rect width=\"{0}\" height=\"{1}\" "
        "fill=\"#ffffff\"/>\n"
        "<defs><pattern id=\"idle\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
        "patternTransform=\"rotate(45)\"><rect width=\"6\" height=\"6\" fill=\"#f5f6f8\"/>"
        "<rect width=\"1.5\" height=\"6\" fill=\"#cdd2d9\"/></pattern></defs>\n",
        width, legend_end_ + 8, escape_xml(options_.title));
    text(12, 22, options_.title, "font-size=\"15\" font-weight=\"bold\"", kInk);
    if (!options_.subtitle.empty()) text(12, 40, options_.subtitle, "", kMuted);
    axis(bottom);
    for (std::size_t r = 0; r < order_.ranks.size(); ++r)
      rank(r, kTop + static_cast<int>(r) * (kLane + kStrip + kGap));
    return d_.text + legend_text + "</svg>\n";
  }

 private:
  [[nodiscard]] double x(std::int64_t t) const {
    return kLeft + static_cast<double>(t) / static_cast<double>(times_.makespan) * plot_;
  }
  void text(double at, int y, std::string_view words, std::string_view more,
            std::string_view fill) {
    d_.put("<text x=\"{:.6g}\" y=\"{}\" {} fill=\"{}\">{}</text>\n", at, y, more, fill,
           escape_xml(words));
  }

  void axis(int bottom) {
    const double length = static_cast<double>(times_.makespan) / options_.unit;
    const double step = tick_step(length, std::max(4, plot_ / 90));
    for (int i = 0; i * step <= length * (1 + 1e-9); ++i) {
      const double at = kLeft + i * step / length * plot_;
      d_.put("<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\" stroke=\"#e2e5e9\"/>\n", at,
             kTop - 4, bottom);
      text(at, bottom + 15, fmt::format("{:.6g}", i * step), "text-anchor=\"middle\"", kMuted);
    }
    text(kLeft - 14, bottom + 15, "time", "text-anchor=\"end\"", kMuted);
  }

  void rank(std::size_t r, int y) {
    const RankOrder& list = order_.ranks[r];
    text(12, y + 16, fmt::format("rank {}", r), "font-weight=\"bold\"", kInk);
    d_.put("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"url(#idle)\"/>\n", kLeft, y,
           plot_, kLane);
    for (std::size_t i = 0; i < list.size();) {
      const std::size_t end = end_of_cell(list, i);
      const int parts = static_cast<int>(end - i);
      for (int k = 0; k < parts; ++k) {
        const std::size_t at = i + static_cast<std::size_t>(k);
        if (is_compute(list[at].kind))
          box(list[at], times_.actions[r][at], y + kLane * k / parts,
              kLane * (k + 1) / parts - kLane * k / parts);
      }
      i = end;
    }
    held(r, y + kLane + 2);
  }

  // One visit. Parts of a fused cell lie above each other.
  void box(const Action& a, ActionTime t, int y, int height) {
    const int chunk = chunk_[static_cast<std::size_t>(a.stage)];
    const double white =
        order_.num_dirs == 1 && chunks_ > 1 ? kLightest * chunk / (chunks_ - 1) : 0;
    const Colour fill = colour_of(a.kind, white);
    const double from = x(t.start), width = x(t.end) - from;
    d_.put(
        "<g><title>{} from {:.6g} to {:.6g}</title><rect x=\"{:.2f}\" y=\"{}\" width=\"{:.2f}\" "
        "height=\"{}\" fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"0.8\"/>",
        to_text(a, order_.num_slices > 1), static_cast<double>(t.start) / options_.unit,
        static_cast<double>(t.end) / options_.unit, from, y, std::max(width, 0.4), height,
        fill.text());
    if (a.dir == 1)
      d_.put("<rect x=\"{:.2f}\" y=\"{}\" width=\"{:.2f}\" height=\"3\" fill=\"{}\"/>", from, y,
             std::max(width, 0.4), kInk);
    std::string label = std::to_string(a.microbatch);
    if (order_.num_slices > 1) label += fmt::format(".{}", a.slice);
    const int size = height < kLane ? 9 : 11;
    if (width > 0.66 * size * static_cast<double>(label.size()) && height >= 10)
      d_.put(
          "<text x=\"{:.2f}\" y=\"{}\" text-anchor=\"middle\" font-size=\"{}\" "
          "fill=\"{}\">{}</text>",
          from + width / 2, y + (height + size) / 2 - (a.dir == 1 ? 0 : 1), size,
          ink_on(fill.text()), label);
    d_.put("</g>\n");
  }

  // Visits that rank r holds: F until W as an area, F until I as a line.
  void held(std::size_t r, int y) {
    const RankOrder& list = order_.ranks[r];
    const auto level = [&](int visits) {
      return y + kStrip - static_cast<double>(visits) / most_held_ * (kStrip - 3);
    };
    std::string area = fmt::format("M{} {:.1f}", kLeft, level(0)), line = area;
    int until_w = 0, until_i = 0;
    const auto step = [&](std::string& path, std::int64_t t, int& visits, int change) {
      if (change == 0) return;
      visits += change;
      path += fmt::format("H{:.2f}V{:.1f}", x(t), level(visits));
    };
    for (std::size_t i = 0; i < list.size();) {
      const std::size_t end = end_of_cell(list, i);
      int taken = 0, by_w = 0, by_i = 0;
      for (std::size_t k = i; k < end; ++k) {
        taken += list[k].kind == ActionKind::F ? 1 : 0;
        by_w += is_weight(list[k].kind) ? 1 : 0;
        by_i += is_backward(list[k].kind) ? 1 : 0;
      }
      const ActionTime t = times_.actions[r][i];
      step(area, t.start, until_w, taken);
      step(line, t.start, until_i, taken);
      step(area, t.end, until_w, -by_w);
      step(line, t.end, until_i, -by_i);
      i = end;
    }
    d_.put("<path d=\"{}H{}V{:.1f}Z\" fill=\"{}\"/>\n", area, kLeft + plot_, level(0), kHeld);
    d_.put("<path d=\"{}H{}\" fill=\"none\" stroke=\"{}\"/>\n", line, kLeft + plot_, kInk);
    text(kLeft - 8, y + 14, fmt::format("{} / {}", times_.peak_visits[r], times_.peak_input[r]),
         "text-anchor=\"end\" font-size=\"11\"", kMuted);
  }

  std::string legend(int y, int width) {
    SvgText out;
    int left = 12;
    const auto entry = [&](const std::string& mark, std::string_view words) {
      const int length = 38 + static_cast<int>(words.size()) * 7;
      if (left > 12 && left + length > width) left = 12, y += kLegendRow;
      out.put(
          "<g transform=\"translate({} {})\">{}<text x=\"22\" y=\"10\" fill=\"{}\">{}</text>"
          "</g>\n",
          left, y, mark, kInk, escape_xml(words));
      left += length;
    };
    const auto filled = [](std::string_view fill) {
      return fmt::format("<rect width=\"16\" height=\"12\" fill=\"{}\"/>", fill);
    };
    for (std::size_t k = 0; k < used_.size(); ++k)
      if (used_[k]) entry(filled(kPhaseColours[k]), kPhaseWords[k]);
    if (chunks_ > 1 && order_.num_dirs == 1)
      entry(filled(colour_of(ActionKind::F, 0).text()) +
                fmt::format("<rect x=\"8\" width=\"8\" height=\"12\" fill=\"{}\"/>",
                            colour_of(ActionKind::F, kLightest).text()),
            "lighter: a later stage of the rank");
    if (order_.num_dirs == 2)
      entry(filled(kHeld) + fmt::format("<rect width=\"16\" height=\"3\" fill=\"{}\"/>", kInk),
            "dark edge: second copy of the model (d1)");
    if (fused_)
      entry(fmt::format("<rect width=\"16\" height=\"6\" fill=\"{}\"/>"
                        "<rect y=\"6\" width=\"16\" height=\"6\" fill=\"{}\"/>",
                        kPhaseColours[0], kPhaseColours[3]),
            "one above the other: a fused cell");
    entry(filled("url(#idle)"), "idle");
    entry(filled(kHeld), "visits held, F until W");
    entry(fmt::format("<path d=\"M0 6H16\" stroke=\"{}\"/>", kInk), "F until I");
    entry("", order_.num_slices > 1 ? "numbers: microbatch.slice; left: peaks of both"
                                    : "numbers: microbatch; left: peaks of both");
    legend_end_ = y + kLegendRow;
    return out.text;
  }

  const Order& order_;
  const ScheduleTimes& times_;
  const ScheduleSvgOptions& options_;
  SvgText d_;
  int plot_ = 0, most_held_ = 1, chunks_ = 1, legend_end_ = 0;
  std::vector<int> chunk_;  // by stage: which one of its rank
  std::array<bool, 4> used_ = {};
  bool fused_ = false;
};

}  // namespace

std::string schedule_svg(const Order& order, const ScheduleTimes& times,
                         const ScheduleSvgOptions& options) {
  return Picture(order, times, options).run();
}

}  // namespace tandem
