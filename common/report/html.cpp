#include "common/report/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "common/base/text.h"
#include "common/plan/labels.h"
#include "common/report/numbers.h"
#include "common/report/page.h"
#include "common/report/svg.h"

namespace tandem {
namespace {

using nlohmann::json;

std::string time(std::int64_t ns) { return text_of_time(static_cast<double>(ns)); }
std::string bytes(std::int64_t b) { return text_of_bytes(static_cast<double>(b)); }

struct Side {
  std::string label;
  const Timeline* t = nullptr;
  int step = 0;
  std::int64_t origin = 0, length = 0;  // ns
};

class Page {
 public:
  explicit Page(const ReportInput& in) : in_(in), plan_(*in.plan), c_(in.comparison) {
    choose_ranks();
    sides_.push_back(
        side("predicted", *in.predicted, c_ ? c_->predicted_step : first_step(*in.predicted)));
    if (in.measured != nullptr)
      sides_.push_back(
          side("measured", *in.measured, c_ ? c_->measured_step : first_step(*in.measured)));
  }

  std::string run() {
    head();
    if (c_ != nullptr) waterfall();
    timelines();
    memory_curves();
    if (c_ != nullptr) op_table(), order_table(), communicator_table(), memory_table();
    settings();
    put("</main>\n<script id=\"data\" type=\"application/json\">");
    put_data();
    put("</script>\n<script>\n");
    out_ += kReportJs;
    put("</script>\n</body>\n</html>\n");
    return std::move(out_);
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  // --- what is drawn -----------------------------------------------------------------------------
  static int first_step(const Timeline& t) { return t.spans.empty() ? 0 : t.spans.front().step; }

  void choose_ranks() {
    std::set<int> all;
    if (c_ != nullptr) {
      all.insert(c_->ranks.begin(), c_->ranks.end());
    } else {
      for (const Span& s : in_.predicted->spans) all.insert(s.rank);
    }
    num_all_ranks_ = all.size();
    std::size_t spans = 0;
    for (int r : all) {
      spans += plan_.ops_of(plan_.program_of(Rank{r})).size();
      if (spans > kReportSpans && !ranks_.empty()) break;
      ranks_.push_back(r);
    }
  }

  Side side(std::string label, const Timeline& t, int step) const {
    Side s{std::move(label), &t, step};
    std::int64_t begin = INT64_MAX, end = INT64_MIN;
    for (int r : ranks_) {
      const RankStep rank = rank_step(t, r, step);
      begin = std::min(begin, rank.started_ns), end = std::max(end, rank.ended_ns);
    }
    if (begin <= end) s.origin = begin, s.length = end - begin;
    return s;
  }

  // --- sections ----------------------------------------------------------------------------------
  void head() {
    const std::string title = escape_html(in_.title);
    put("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
        "'unsafe-inline'; script-src 'unsafe-inline'\">\n<title>{} - Tandem "
        "report</title>\n<style>\n",
        title);
    out_ += kReportCss;
    put("</style>\n</head>\n<body>\n<main>\n<header><h1>{}</h1>\n", title);
    if (c_ != nullptr) {
      put("<p class=\"lead\" id=\"summary\">{}</p>\n", escape_html(sentence()));
    } else {
      put("<p class=\"lead\" id=\"summary\">A step is predicted to take {}. Nothing was "
          "measured.</p>\n",
          time(sides_[0].length));
    }
    put("<p class=\"muted\">Schedule {}, {} ranks, {} microbatches, scenario digest "
        "{}.</p></header>\n",
        escape_html(plan_.header.schedule), plan_.header.mesh.world(), plan_.header.microbatches,
        escape_html(plan_.header.digest));
    put("<noscript><p class=\"warn\">The timelines and memory curves need scripts, which are "
        "switched "
        "off; the numbers, the waterfall and the tables do not.</p></noscript>\n");
    if (c_ != nullptr)
      for (const Diagnostic& d : c_->warnings)
        put("<p class=\"warn\">{}: {}. {}.</p>\n", escape_html(d.title), escape_html(d.found),
            escape_html(d.hint));
    cards();
  }

  // "predicted 123 ms, measured 131 ms, -6.1 %; ..." with a capital and a full stop.
  std::string sentence() const {
    std::string s = summary_line(*c_);
    s[0] = 'P';
    return s + ".";
  }

  void card(const std::string& value, std::string_view words) {
    put("<div class=\"card\"><b>{}</b><span>{}</span></div>\n", value, words);
  }
  void cards() {
    put("<div class=\"cards\">\n");
    if (c_ == nullptr) {
      card(time(sides_[0].length), "predicted step");
      put("</div>\n");
      return;
    }
    card(time(c_->predicted_ns), "predicted step");
    card(time(c_->measured_ns),
         fmt::format("measured step (median of {})", c_->measured_steps_ns.size()));
    card(text_of_error(c_->error_rel), "error of the step: predicted / measured - 1");
    if (c_->replay_error_rel)
      card(text_of_error(*c_->replay_error_rel),
           "error with measured durations (scheduling model)");
    card(fmt::format("{:.1f} %", c_->median_op_error * 100), "median |error| of an op's duration");
    card(c_->peak_memory_error ? text_of_error(*c_->peak_memory_error) : "unknown",
         "error of peak memory, worst rank");
    card(fmt::format("{:.3f}", c_->order_correlation),
         "order of op starts: rank correlation, worst rank");
    put("</div>\n");
  }

  void waterfall() {
    put("<section aria-labelledby=\"h-waterfall\"><h2 id=\"h-waterfall\">Where the difference "
        "comes "
        "from</h2>\n<p>Every rank's step is cut along its compute stream; the parts sum to the "
        "step. "
        "A bar to the right: predicted longer than measured. To the left: predicted shorter.</p>\n"
        "<p>By kind: {}.</p>\n<div id=\"waterfall\" class=\"scroll\">",
        kinds_line(*c_));
    out_ += waterfall_svg(*c_);
    put("</div>\n<details><summary>All parts as a table</summary><div class=\"scroll\"><table>"
        "<caption>Mean over {} ranks</caption><tr><th>part</th><th class=\"n\">predicted</th>"
        "<th class=\"n\">measured</th><th class=\"n\">predicted - measured</th></tr>\n",
        c_->ranks.size());
    for (const WaterfallPart& p : c_->waterfall)
      put("<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td "
          "class=\"n\">{}</td></tr>\n",
          escape_html(p.name), text_of_time(c_->mean_ns(p.predicted_sum_ns)),
          text_of_time(c_->mean_ns(p.measured_sum_ns)),
          text_of_time(c_->mean_ns(p.difference_sum_ns())));
    put("<tr><th>step</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td "
        "class=\"n\">{}</td></tr>\n"
        "</table></div></details></section>\n",
        time(c_->predicted_ns), time(c_->measured_ns), time(c_->predicted_ns - c_->measured_ns));
  }

  void timelines() {
    put("<section aria-labelledby=\"h-time\"><h2 id=\"h-time\">Timelines of the step</h2>\n");
    if (ranks_.size() < num_all_ranks_)
      put("<p class=\"warn\">Ranks {} to {} of {} are drawn; the others would make the page too "
          "large. "
          "Tables cover all ranks.</p>\n",
          ranks_.front(), ranks_.back(), num_all_ranks_);
    put("<p class=\"muted\">Drag or arrow keys pan; Ctrl and wheel, or + and - zoom; 0 shows all. "
        "Click selects; n and p go along a row, j and k to the next row, Escape drops. Upper bar: "
        "compute; thin strip: communication.</p>\n<div class=\"tools\" role=\"toolbar\" "
        "aria-label=\"timeline\">"
        "<button id=\"zoom-in\" type=\"button\">Zoom in</button>"
        "<button id=\"zoom-out\" type=\"button\">Zoom out</button>"
        "<button id=\"fit\" type=\"button\">Whole step</button>"
        "<label>Colours <select id=\"colours\"><option value=\"phase\">phase</option>"
        "<option value=\"class\">kernel class</option></select></label>"
        "<label>Streams <select id=\"streams\"><option value=\"compact\">compact</option>"
        "<option value=\"all\">one row each</option></select></label>"
        "<label>Show <select id=\"shown\"><option value=\"both\">{}</option>",
        sides_.size() > 1 ? "predicted above measured" : "predicted");
    if (sides_.size() > 1)
      put("<option value=\"predicted\">predicted only</option>"
          "<option value=\"measured\">measured only</option>");
    put("</select></label><button id=\"theme\" type=\"button\">Light / dark</button></div>\n"
        "<div class=\"legend\" id=\"legend\"></div>\n"
        "<div id=\"view\" tabindex=\"0\" role=\"application\" aria-label=\"Timelines: predicted "
        "and "
        "measured ops of each rank over time. Keys: arrows pan, plus and minus zoom, n and p "
        "select "
        "ops, j and k change the row.\" aria-describedby=\"detail\"><canvas id=\"timeline\" "
        "aria-hidden=\"true\"></canvas><div id=\"spacer\"></div></div>\n"
        "<div id=\"detail\" role=\"status\" aria-live=\"polite\">Nothing is selected.</div>\n"
        "<div id=\"tip\" role=\"tooltip\" hidden></div></section>\n");
  }

  void memory_curves() {
    put("<section aria-labelledby=\"h-mem\"><h2 id=\"h-mem\">Live memory over the step</h2>\n"
        "<div class=\"tools\"><label>Rank <select id=\"memory-rank\"></select></label></div>\n"
        "<div class=\"legend\" id=\"memory-legend\"></div>\n<div id=\"memory\"><canvas "
        "id=\"memory-canvas\" role=\"img\" aria-label=\"Live bytes by class over the step; the "
        "peaks "
        "are in the table of memory by class.\"></canvas></div></section>\n");
  }

  void op_table() {
    put("<section aria-labelledby=\"h-ops\"><h2 id=\"h-ops\">Ops with the largest "
        "differences</h2>\n"
        "<p>Median |error| {:.1f} % over {} ops: compute {:.1f} %, communication {:.1f} %. "
        "Communication counts from the moment all members are there.{}</p>\n",
        c_->median_op_error * 100, c_->joined_ops, c_->median_compute_error * 100,
        c_->median_communication_error * 100,
        c_->untimed_ops > 0 ? fmt::format(" {} ops took no measurable time.", c_->untimed_ops)
                            : "");
    put("<div class=\"scroll\"><table id=\"worst-ops\"><tr><th>op</th><th class=\"n\">rank</th>"
        "<th class=\"n\">predicted</th><th class=\"n\">measured (median)</th>"
        "<th class=\"n\">predicted / measured - 1</th></tr>\n");
    for (const OpError& e : c_->worst_ops)
      put("<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>"
          "<td class=\"n\">{}</td></tr>\n",
          escape_html(e.name), e.rank, time(e.predicted_ns), time(e.measured_ns),
          text_of_error(e.error));
    put("</table></div></section>\n");
  }

  void order_table() {
    std::int64_t pairs = 0;
    for (const RankOrder& o : c_->order) pairs += o.inversions;
    put("<section aria-labelledby=\"h-order\"><h2 id=\"h-order\">Order of op starts</h2>\n<p>{} "
        "pairs "
        "of ops start the other way round, over all ranks; rank correlation at least {:.4f}.</p>\n",
        pairs, c_->order_correlation);
    if (!c_->inversions.empty()) {
      put("<div class=\"scroll\"><table id=\"inversions\"><caption>Neighbours in the prediction "
          "that "
          "changed places, largest measured gap first</caption><tr><th class=\"n\">rank</th>"
          "<th>predicted first</th><th>measured first</th><th class=\"n\">predicted gap</th>"
          "<th class=\"n\">measured gap</th></tr>\n");
      for (const Inversion& v : c_->inversions)
        put("<tr><td class=\"n\">{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td>"
            "<td class=\"n\">{}</td></tr>\n",
            v.rank, escape_html(v.first_name), escape_html(v.second_name), time(v.predicted_gap_ns),
            time(v.measured_gap_ns));
      put("</table></div>\n");
    }
    put("</section>\n");
  }

  void communicator_table() {
    put("<section aria-labelledby=\"h-comm\"><h2 id=\"h-comm\">Communicators</h2>\n<div "
        "class=\"scroll\"><table id=\"communicators\"><caption>Sums over {} ranks in the compared "
        "step; "
        "bytes are those handed over by each member</caption><tr><th>name</th><th "
        "class=\"n\">ops</th>"
        "<th class=\"n\">bytes</th><th class=\"n\">transfer predicted</th><th "
        "class=\"n\">measured</th>"
        "<th class=\"n\">waiting predicted</th><th class=\"n\">measured</th></tr>\n",
        c_->ranks.size());
    for (const CommTotals& t : c_->communicators)
      put("<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>"
          "<td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
          escape_html(t.name), t.ops, bytes(t.bytes), time(t.predicted_transfer_ns),
          time(t.measured_transfer_ns), time(t.predicted_waiting_ns), time(t.measured_waiting_ns));
    put("</table></div></section>\n");
  }

  void memory_table() {
    if (c_->memory.empty()) return;
    put("<section aria-labelledby=\"h-peak\"><h2 id=\"h-peak\">Peak memory by class</h2>\n<div "
        "class=\"scroll\"><table id=\"peaks\"><caption>Predicted / measured. The total is the peak "
        "of "
        "the sum; classes peak at different times, so they do not add up to it.</caption><tr>"
        "<th class=\"n\">rank</th><th class=\"n\">total</th><th class=\"n\">error</th>");
    std::vector<std::size_t> used;
    for (std::size_t k = 0; k < kNumBufferClasses; ++k)
      if (std::any_of(c_->memory.begin(), c_->memory.end(), [&](const RankMemory& m) {
            return m.predicted_by_class[k] != 0 || m.measured_by_class[k] != 0;
          }))
        used.push_back(k);
    for (std::size_t k : used) put("<th class=\"n\">{}</th>", name_of(static_cast<BufferClass>(k)));
    put("</tr>\n");
    const auto cell = [&](Bytes p, Bytes m) {
      if (p == m)
        put("<td class=\"n\">{}</td>", bytes(p));
      else
        put("<td class=\"n\">{} / {}</td>", bytes(p), bytes(m));
    };
    constexpr std::size_t kRows = 256;
    for (std::size_t i = 0; i < std::min(kRows, c_->memory.size()); ++i) {
      const RankMemory& m = c_->memory[i];
      put("<tr><td class=\"n\">{}</td>", m.rank);
      cell(m.predicted, m.measured);
      put("<td class=\"n\">{}</td>", text_of_error(m.error()));
      for (std::size_t k : used) cell(m.predicted_by_class[k], m.measured_by_class[k]);
      put("</tr>\n");
    }
    put("</table></div>");
    if (c_->memory.size() > kRows) put("<p>And {} more ranks.</p>", c_->memory.size() - kRows);
    put("</section>\n");
  }

  void settings() {
    put("<section aria-labelledby=\"h-set\"><h2 id=\"h-set\">Settings and versions</h2>\n");
    if (!in_.settings.empty()) {
      put("<div class=\"scroll\"><table id=\"settings\"><tr><th>setting</th><th>value</th></tr>\n");
      for (const auto& [key, value] : in_.settings)
        put("<tr><td>{}</td><td>{}</td></tr>\n", escape_html(key), escape_html(value));
      put("</table></div>\n");
    }
    std::set<std::string> keys;
    for (const Side& s : sides_)
      for (const auto& [key, value] : s.t->meta) keys.insert(key);
    put("<div class=\"scroll\"><table id=\"versions\"><tr><th>of the timeline</th>");
    for (const Side& s : sides_) put("<th>{}</th>", s.label);
    put("</tr>\n<tr><td>clock</td>");
    for (const Side& s : sides_)
      put("<td>{}</td>", s.t->clock == Clock::simulated_ps ? "simulated, ps" : "monotonic, ns");
    put("</tr>\n");
    for (const std::string& key : keys) {
      put("<tr><td>{}</td>", escape_html(key));
      for (const Side& s : sides_) {
        const auto found = s.t->meta.find(key);
        put("<td>{}</td>", found == s.t->meta.end() ? "" : escape_html(found->second));
      }
      put("</tr>\n");
    }
    put("</table></div></section>\n");
  }

  // --- data of the script ------------------------------------------------------------------------
  // A JSON text may not end the script element: "<" is written as an escape.
  void put_json(const json& j) {
    for (char c : j.dump(-1, ' ', true, json::error_handler_t::replace)) {
      if (c == '<')
        out_ += "\\u003c";
      else
        out_ += c;
    }
  }

  void put_data() {
    put("{{\"streams\":");
    put_json(plan_.streams);
    json names = json::array();
    for (const Communicator& c : plan_.communicators) names.push_back(plan_.name(c.name));
    put(",\"communicators\":");
    put_json(names);
    put(",\"ops\":{{");
    std::set<OpId> ops;
    for (int r : ranks_) {
      const Program& p = plan_.programs[plan_.program_of(Rank{r}).index()];
      for (std::uint32_t i = 0; i < p.num_ops; ++i) ops.insert(OpId{p.first_op + i});
    }
    bool first = true;
    for (OpId id : ops) {
      put("{}\"{}\":", first ? "" : ",\n", id.value);
      put_json(op_data(id));
      first = false;
    }
    put("}},\"timelines\":[");
    used_classes();
    for (std::size_t i = 0; i < sides_.size(); ++i) {
      put("{}{{\"label\":\"{}\",\"length\":{},\"ranks\":[", i == 0 ? "" : ",", sides_[i].label,
          sides_[i].length);
      for (std::size_t k = 0; k < ranks_.size(); ++k) {
        put("{}\n", k == 0 ? "" : ",");
        rank_data(sides_[i], ranks_[k]);
      }
      put("]}}");
    }
    json classes = json::array();
    for (std::size_t k : classes_)
      classes.push_back(std::string(name_of(static_cast<BufferClass>(k))));
    put("],\"class_index\":");
    put_json(json(classes_));
    put(",\"classes\":");
    put_json(classes);
    put("}}");
  }

  json op_data(OpId id) const {
    const Op& op = plan_.op(id);
    json j = {{"name", op_label(plan_, id)},
              {"phase", std::string(phase_name(op.phase))},
              {"mb", op.microbatch},
              {"stage", op.stage},
              {"layer", op.layer}};
    if (is_communication(op.kind)) j["comm"] = op.comm.value;
    if (op_bytes(op) > 0) j["bytes"] = op_bytes(op);
    json classes = json::array(), kernels = json::array();
    for (const Call& call : plan_.calls_of(op)) {
      const CatalogueEntry& entry = catalogue(plan_.kernel(call.kernel).kind);
      classes.push_back(std::string(name_of(entry.cost_class)));
      kernels.push_back(std::string(entry.name));
    }
    j["classes"] = classes, j["kernels"] = kernels;
    return j;
  }

  void used_classes() {
    std::array<bool, kNumBufferClasses> used{};
    for (const Side& s : sides_)
      for (const MemorySample& m : s.t->memory)
        for (std::size_t k = 0; k < m.live.size(); ++k) used[k] |= m.live[k] != 0;
    for (std::size_t k = 0; k < used.size(); ++k)
      if (used[k]) classes_.push_back(k);
  }

  void rank_data(const Side& s, int rank) {
    const RankStep step = rank_step(*s.t, rank, s.step);
    const auto at = [&](std::int64_t ticks) { return to_ns(*s.t, ticks) - s.origin; };
    put("{{\"rank\":{},\"spans\":[", rank);
    const char* comma = "";
    for (const Span& x : step.spans) {
      put("{}{},{},{},{},{},{}", comma, x.op.value, plan_.op(x.op).stream.value, at(x.issued),
          at(x.ready), at(x.started), at(x.ended));
      comma = ",";
    }
    put("],\"calls\":[");
    comma = "";
    for (const CallSpan& x : step.calls) {
      put("{}{},{},{},{}", comma, x.op.value, x.call, at(x.started), at(x.ended));
      comma = ",";
    }
    put("],\"memory\":[");
    comma = "";
    const auto sample = [&](std::int64_t time, const MemorySample& m) {
      put("{}{}", comma, time);
      for (std::size_t k : classes_) put(",{}", m.live[k]);
      comma = ",";
    };
    const MemorySample* before = nullptr;  // what holds when the step begins
    for (const MemorySample& m : s.t->memory) {
      if (m.rank != rank || m.step > s.step) continue;
      if (m.step < s.step) {
        before = &m;
        continue;
      }
      if (before != nullptr && at(m.time) > 0) sample(0, *before);
      before = nullptr;
      sample(std::max<std::int64_t>(0, at(m.time)), m);
    }
    put("]}}");
  }

  const ReportInput& in_;
  const Plan& plan_;
  const Comparison* c_;
  std::vector<Side> sides_;
  std::vector<int> ranks_;
  std::vector<std::size_t> classes_;
  std::size_t num_all_ranks_ = 0;
  std::string out_;
};

}  // namespace

std::string html_report(const ReportInput& in) { return Page(in).run(); }

}  // namespace tandem
