// The report page as text: whole, escaped, deterministic, nothing from outside. How it behaves in
// a browser: chromium_test.
#include "common/report/html.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "common/report/svg.h"
#include "tests/common/report/synthetic.h"

namespace tandem {
namespace {

struct Run {
  Plan plan = synthetic::make_plan({2, 2, 3, 1});
  Timeline predicted = synthetic::run(plan, {});
  Timeline measured;
  std::optional<Comparison> comparison;
  Run() {
    synthetic::Speed s;
    s.clock = Clock::monotonic_ns, s.jitter = 0.2, s.steps = 3;
    measured = synthetic::run(plan, s);
    Result<Comparison> c = compare(plan, predicted, measured);
    REQUIRE(c.ok());
    comparison = *c;
  }
  [[nodiscard]] ReportInput input() const {
    return {"a run", &plan, &predicted, &measured, &*comparison, {}};
  }
};

// The JSON that the page's script reads.
nlohmann::json data_of(const std::string& page) {
  const std::string begin = "<script id=\"data\" type=\"application/json\">";
  const std::size_t from = page.find(begin) + begin.size();
  REQUIRE(from >= begin.size());
  return nlohmann::json::parse(page.substr(from, page.find("</script>", from) - from));
}

std::size_t count(const std::string& text, const std::string& word) {
  std::size_t n = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
  return n;
}

}  // namespace

TEST_CASE("html: the data hold every span of the compared step, from its start") {
  const Run run;
  const nlohmann::json data = data_of(html_report(run.input()));
  REQUIRE(data["timelines"].size() == 2);
  CHECK(data["timelines"][0]["length"] == run.comparison->predicted_ns);
  CHECK(data["timelines"][1]["length"] == run.comparison->measured_ns);
  for (const auto& side : data["timelines"]) {
    REQUIRE(side["ranks"].size() == 4);
    std::size_t spans = 0;
    for (const auto& rank : side["ranks"]) {
      REQUIRE(rank["spans"].size() % 6 == 0);
      spans += rank["spans"].size() / 6;
      CHECK(rank["memory"].size() % (data["classes"].size() + 1) == 0);
      CHECK(!rank["memory"].empty());
      for (std::size_t i = 0; i < rank["spans"].size(); i += 6) {
        CHECK(rank["spans"][i + 4] >= 0);
        CHECK(rank["spans"][i + 5] <= side["length"]);
        CHECK(data["ops"].contains(std::to_string(rank["spans"][i].get<int>())));
      }
    }
    CHECK(spans == run.predicted.spans.size());
  }
}

TEST_CASE("html: names cannot become markup or end the script") {
  Run run;
  const std::string evil = "</script><script>alert(1)</script><!--\"'&";
  run.measured.meta["machine"] = evil;
  run.plan.streams[0] = evil;
  for (std::string& name : run.plan.names)
    if (name == "act") name = evil;
  ReportInput in = run.input();
  in.title = evil;
  in.settings = {{evil, evil}};
  const std::string page = html_report(in);
  CHECK(page.find("<script>alert") == std::string::npos);
  CHECK(page.find("<!--") == std::string::npos);
  CHECK(count(page, "</script>") == 2);  // the data and the code
  CHECK(data_of(page)["streams"][0] == evil);
}

TEST_CASE("html: one file, the same every time") {
  const Run run;
  const std::string page = html_report(run.input());
  CHECK(page == html_report(run.input()));
  for (const char* outside : {"http://", "https://", "src=", "@import", "url("})
    CHECK(page.find(outside) == std::string::npos);
  CHECK(page.find("default-src 'none'") != std::string::npos);
  CHECK(count(page, "<section") == count(page, "</section>"));
  CHECK(count(page, "<table") == count(page, "</table>"));
  CHECK(count(page, "<svg") == 1);
  // Every heading of a section is its label.
  CHECK(count(page, "aria-labelledby=\"h-") == count(page, "<h2 id=\"h-"));
}

TEST_CASE("html: a prediction alone") {
  const Run run;
  ReportInput in = run.input();
  in.measured = nullptr, in.comparison = nullptr;
  const std::string page = html_report(in);
  CHECK(page.find("Nothing was measured") != std::string::npos);
  CHECK(page.find("id=\"waterfall\"") == std::string::npos);
  CHECK(data_of(page)["timelines"].size() == 1);
}

TEST_CASE("svg: the waterfall ends at the difference of the step; timelines stand alone") {
  const Run run;
  const std::string picture = waterfall_svg(*run.comparison);
  CHECK(picture.find("difference of the step") != std::string::npos);
  CHECK(count(picture, "<svg") == count(picture, "</svg>"));
  TimelineSvgOptions o;
  o.title = "a < b", o.max_ranks = 2;
  const std::string svg = timeline_svg(run.plan, run.predicted, &run.measured, 0, 1, o);
  CHECK(svg.find("a &lt; b") != std::string::npos);
  CHECK(svg.find("2 of 4 ranks are shown") != std::string::npos);
  CHECK(count(svg, ">rank ") == 2);
  CHECK(svg.find(">rank 0<") != std::string::npos);
  CHECK(svg.find(">rank 2<") != std::string::npos);  // one of each stage
  std::size_t compute = 0;
  for (const Span& s : run.predicted.spans)
    compute += (s.rank == 0 || s.rank == 2) && run.plan.op(s.op).kind == OpKind::compute;
  CHECK(count(svg, "</title></rect>") == 2 * compute);
}

}  // namespace tandem
