// Goal    the picture of a schedule holds each visit once, at its time, for every kind.
// Method  boxes are counted and read back against evaluate(); tags are matched as XML demands.
#include "common/schedule/svg.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "common/schedule/registry.h"
#include "common/schedule/text.h"

using namespace tandem;

namespace {

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// Every tag is closed by its own name, in the right order.
bool is_nested(const std::string& text) {
  std::vector<std::string> open;
  for (std::size_t at = text.find('<'); at != std::string::npos; at = text.find('<', at + 1)) {
    const std::size_t end = text.find('>', at);
    if (end == std::string::npos || text.find('<', at + 1) < end) return false;
    const std::string tag = text.substr(at + 1, end - at - 1);
    const std::string name = tag.substr(0, tag.find(' '));
    if (name[0] == '/') {
      if (open.empty() || open.back() != name.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
  }
  return open.empty();
}

}  // namespace

TEST_CASE("svg: the checker of tags finds what it is for") {
  CHECK(is_nested("<a x=\"1\"><b/>text</a>"));
  CHECK_FALSE(is_nested("<a><b></a></b>"));
  CHECK_FALSE(is_nested("<a><b</a>"));
  CHECK_FALSE(is_nested("<a>"));
}

TEST_CASE("svg: every kind, with each visit once and at its time") {
  for (const std::string& kind : schedule_kinds()) {
    CAPTURE(kind);
    const ScheduleOptions options =
        kind == "seq1f1b" ? ScheduleOptions{{"slices", "2"}} : ScheduleOptions{};
    const Result<Order> order = make_order(kind, {4, 8, 0, {}, 0}, options);
    REQUIRE(order.ok());
    ScheduleCosts costs;
    costs.stages = {{2, 2, 2}};
    const Result<ScheduleTimes> times = evaluate(*order, costs);
    REQUIRE(times.ok());
    const std::string svg = schedule_svg(*order, *times, {"a < b", "c & d", 2});
    CHECK(is_nested(svg));
    CHECK(count(svg, "a &lt; b") == 2);
    CHECK(count(svg, "c &amp; d") == 1);
    CHECK(count(svg, "nan") == 0);
    std::size_t visits = 0;
    for (std::size_t r = 0; r < order->ranks.size(); ++r)
      for (std::size_t i = 0; i < order->ranks[r].size(); ++i, ++visits) {
        const ActionTime t = times->actions[r][i];
        const std::string title =
            fmt::format("<title>{} from {:.6g} to {:.6g}</title>",
                        to_text(order->ranks[r][i], order->num_slices > 1),
                        static_cast<double>(t.start) / 2, static_cast<double>(t.end) / 2);
        CAPTURE(title);
        REQUIRE(count(svg, title) == 1);
      }
    CHECK(count(svg, "<g><title>") == visits);
    CHECK(count(svg, ">rank ") == 4);
    CHECK((count(svg, "second copy") == 1) == (order->num_dirs == 2));
    CHECK((count(svg, "fused cell") == 1) == (kind == "dualpipe" || kind == "dualpipev"));
  }
}
